/* Linked into builds with a sanitizer or with counters of coverage (VARIANT=asan, tsan, coverage), and into no other:
 * the options of the sanitizers, and calls that the linker leads through here (-Wl,--wrap), because
 *
 * - workers get a bare environment from the supervisor, and a sanitizer reads its options from there;
 * - workers with a Kafka client end by _Exit, which skips the leak checker and the writing of counters;
 * - abort and _exit skip the writing of counters. A process that is killed by SIGKILL writes none at all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int __real_execve(const char *path, char *const *arguments, char *const *environment);
int __wrap_execve(const char *path, char *const *arguments, char *const *environment);
_Noreturn void __real__Exit(int status);
_Noreturn void __wrap__Exit(int status);
_Noreturn void __real__exit(int status);
_Noreturn void __wrap__exit(int status);
_Noreturn void __real_abort(void);
_Noreturn void __wrap_abort(void);

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1";
}
const char *__lsan_default_suppressions(void);
/* Of the test programs: what Criterion and its transport keep until the process ends. */
const char *__lsan_default_suppressions(void) { return "leak:libcriterion\nleak:libnanomsg\n"; }
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void) { return "print_stacktrace=1"; }
static void before_exit(void) { __lsan_do_leak_check(); }
#elif defined(__SANITIZE_THREAD__)
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "die_after_fork=0:second_deadlock_stack=1"; }
static void before_exit(void) {}
#else
void __gcov_dump(void);
static void before_exit(void) { __gcov_dump(); }
#endif

enum { ENVIRONMENT_MAX = 64 };

int __wrap_execve(const char *path, char *const *arguments, char *const *environment) {
    static const char *const passed[] = {"ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS=", "TSAN_OPTIONS="};
    char *all[ENVIRONMENT_MAX];
    int n = 0;
    if (environment == environ) return __real_execve(path, arguments, environment);
    for (; environment[n] != NULL; n++) {
        if (n >= ENVIRONMENT_MAX - 5) return __real_execve(path, arguments, environment);
        all[n] = environment[n];
    }
    for (char **e = environ; *e != NULL; e++)
        for (size_t i = 0; i < sizeof passed / sizeof passed[0]; i++)
            if (strncmp(*e, passed[i], strlen(passed[i])) == 0 && n < ENVIRONMENT_MAX - 1) all[n++] = *e;
    all[n] = NULL;
    return __real_execve(path, arguments, all);
}

void __wrap__Exit(int status) {
    before_exit();
    __real__Exit(status);
}

/* In the child of a fork, too, where nothing is the child's to leak. */
void __wrap__exit(int status) {
#ifdef MILLRACE_COVERAGE
    before_exit();
#endif
    __real__exit(status);
}

void __wrap_abort(void) {
#ifdef MILLRACE_COVERAGE
    before_exit();
#endif
    __real_abort();
}

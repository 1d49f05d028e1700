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
__attribute__((weak)) const char *__asan_default_options(void); /* a test may have its own */
const char *__asan_default_options(void) {
    return "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1";
}
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void) { return "print_stacktrace=1"; }
static void before_exit(void) { __lsan_do_leak_check(); }
#elif defined(__SANITIZE_THREAD__)
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "die_after_fork=0:second_deadlock_stack=1"; }
const char *__tsan_default_suppressions(void);
/* librdkafka is not built with the sanitizer: it counts who uses a buffer by atomics that are invisible here, and the
 * last one frees it, in whatever thread. So nothing that has the library on its stack is believed; what its callbacks
 * do in this project's threads is not seen, either. */
const char *__tsan_default_suppressions(void) { return "race:librdkafka.so\n"; }
static void before_exit(void) {}

/* librdkafka uses the threads of C11, which this sanitizer does not know and dies of; in glibc they are POSIX threads
 * by another name, so here they get that name back. */
#include <errno.h>
#include <pthread.h>
#include <threads.h>

_Static_assert(sizeof(mtx_t) == sizeof(pthread_mutex_t) && sizeof(cnd_t) == sizeof(pthread_cond_t) &&
                   sizeof(thrd_t) == sizeof(pthread_t),
               "the threads of C11 are those of POSIX");

static int c11_result(int code) {
    return code == 0           ? thrd_success
           : code == EBUSY     ? thrd_busy
           : code == ETIMEDOUT ? thrd_timedout
           : code == ENOMEM    ? thrd_nomem
                               : thrd_error;
}

struct c11_start {
    thrd_start_t body;
    void *argument;
};

static void *c11_run(void *start) {
    struct c11_start s = *(struct c11_start *)start;
    free(start);
    return (void *)(intptr_t)s.body(s.argument);
}

int thrd_create(thrd_t *thread, thrd_start_t body, void *argument) {
    struct c11_start *s = malloc(sizeof *s);
    if (s == NULL) return thrd_nomem;
    *s = (struct c11_start){body, argument};
    int code = pthread_create(thread, NULL, c11_run, s);
    if (code != 0) free(s);
    return c11_result(code);
}

int thrd_join(thrd_t thread, int *result) {
    void *value;
    int code = pthread_join(thread, &value);
    if (code == 0 && result != NULL) *result = (int)(intptr_t)value;
    return c11_result(code);
}

int mtx_init(mtx_t *m, int type) {
    pthread_mutexattr_t how;
    pthread_mutexattr_init(&how);
    pthread_mutexattr_settype(&how, (type & mtx_recursive) != 0 ? PTHREAD_MUTEX_RECURSIVE : PTHREAD_MUTEX_NORMAL);
    return c11_result(pthread_mutex_init((pthread_mutex_t *)m, &how));
}

int thrd_detach(thrd_t thread) { return c11_result(pthread_detach(thread)); }
void mtx_destroy(mtx_t *m) { pthread_mutex_destroy((pthread_mutex_t *)m); }
int mtx_lock(mtx_t *m) { return c11_result(pthread_mutex_lock((pthread_mutex_t *)m)); }
int mtx_trylock(mtx_t *m) { return c11_result(pthread_mutex_trylock((pthread_mutex_t *)m)); }
int mtx_unlock(mtx_t *m) { return c11_result(pthread_mutex_unlock((pthread_mutex_t *)m)); }
int cnd_init(cnd_t *c) { return c11_result(pthread_cond_init((pthread_cond_t *)c, NULL)); }
void cnd_destroy(cnd_t *c) { pthread_cond_destroy((pthread_cond_t *)c); }
int cnd_signal(cnd_t *c) { return c11_result(pthread_cond_signal((pthread_cond_t *)c)); }
int cnd_broadcast(cnd_t *c) { return c11_result(pthread_cond_broadcast((pthread_cond_t *)c)); }
int cnd_wait(cnd_t *c, mtx_t *m) { return c11_result(pthread_cond_wait((pthread_cond_t *)c, (pthread_mutex_t *)m)); }
int cnd_timedwait(cnd_t *c, mtx_t *m, const struct timespec *until) {
    return c11_result(pthread_cond_timedwait((pthread_cond_t *)c, (pthread_mutex_t *)m, until));
}
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

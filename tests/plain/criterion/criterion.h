/* Stands in for Criterion under ThreadSanitizer (VARIANT=tsan): Criterion shares memory between its processes at
 * addresses that the sanitizer has taken. It knows what the tests with threads use, runs each test in a child, one
 * after the other, and ends with Criterion's line of counts. */
#ifndef MILLRACE_TESTS_PLAIN_CRITERION_H
#define MILLRACE_TESTS_PLAIN_CRITERION_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PLAIN_TESTS_MAX = 256 };

struct plain_options {
    int given; /* so that a list of options is never empty */
    void (*init)(void);
    void (*fini)(void);
    double timeout; /* seconds; 0: none */
    int signal, exit_code;
};

struct plain_test {
    const char *suite, *name;
    void (*run)(void); /* NULL: the options of the suite */
    struct plain_options options;
};

static struct plain_test plain_tests[PLAIN_TESTS_MAX];
static int plain_test_count;

static inline void plain_register(const char *suite, const char *name, void (*run)(void),
                                  struct plain_options options) {
    if (plain_test_count == PLAIN_TESTS_MAX) abort();
    plain_tests[plain_test_count++] = (struct plain_test){suite, name, run, options};
}

#define Test(suite, test, ...)                                                                                         \
    static void suite##_##test##_impl(void);                                                                           \
    __attribute__((constructor)) static void suite##_##test##_register(void) {                                         \
        plain_register(#suite, #test, suite##_##test##_impl, (struct plain_options){.given = 1, ##__VA_ARGS__});       \
    }                                                                                                                  \
    static void suite##_##test##_impl(void)

#define TestSuite(suite, ...)                                                                                          \
    __attribute__((constructor)) static void suite##_register(void) {                                                  \
        plain_register(#suite, "", NULL, (struct plain_options){.given = 1, ##__VA_ARGS__});                           \
    }                                                                                                                  \
    struct plain_options

__attribute__((format(printf, 4, 5), noreturn)) static inline void
plain_fail(const char *file, int line, const char *what, const char *format, ...) {
    va_list args;
    fprintf(stderr, "%s:%d: %s:", file, line, what);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    _exit(1);
}

#define cr_assert(x, ...) ((x) ? (void)0 : plain_fail(__FILE__, __LINE__, #x, " " __VA_ARGS__))
#define cr_assert_not(x, ...) cr_assert(!(x), ##__VA_ARGS__)
#define cr_assert_eq(a, b, ...) cr_assert((a) == (b), ##__VA_ARGS__)
#define cr_assert_neq(a, b, ...) cr_assert((a) != (b), ##__VA_ARGS__)
#define cr_assert_lt(a, b, ...) cr_assert((a) < (b), ##__VA_ARGS__)
#define cr_assert_gt(a, b, ...) cr_assert((a) > (b), ##__VA_ARGS__)
#define cr_assert_geq(a, b, ...) cr_assert((a) >= (b), ##__VA_ARGS__)
#define cr_assert_leq(a, b, ...) cr_assert((a) <= (b), ##__VA_ARGS__)
#define cr_assert_null(a, ...) cr_assert((a) == NULL, ##__VA_ARGS__)
#define cr_assert_not_null(a, ...) cr_assert((a) != NULL, ##__VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) cr_assert(strcmp(a, b) == 0, ##__VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) cr_assert(memcmp(a, b, n) == 0, ##__VA_ARGS__)

static inline const struct plain_options *plain_suite(const char *suite) {
    static const struct plain_options none;
    for (int i = 0; i < plain_test_count; i++)
        if (plain_tests[i].run == NULL && strcmp(plain_tests[i].suite, suite) == 0) return &plain_tests[i].options;
    return &none;
}

_Noreturn static inline void plain_child(const struct plain_test *t) {
    const struct plain_options *suite = plain_suite(t->suite);
    void (*init)(void) = t->options.init != NULL ? t->options.init : suite->init;
    void (*fini)(void) = t->options.fini != NULL ? t->options.fini : suite->fini;
    double timeout = t->options.timeout > 0 ? t->options.timeout : suite->timeout;
    alarm((unsigned)timeout);
    if (init != NULL) init();
    t->run();
    if (fini != NULL) fini();
    exit(0); /* through the sanitizer's own exit, which knows what it has reported */
}

static inline bool plain_passes(const struct plain_test *t) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) plain_child(t);
    if (pid < 0 || waitpid(pid, &status, 0) != pid) return false;
    if (t->options.signal != 0) return WIFSIGNALED(status) && WTERMSIG(status) == t->options.signal;
    return WIFEXITED(status) && WEXITSTATUS(status) == t->options.exit_code;
}

int main(void) {
    int passed = 0, failed = 0;
    for (int i = 0; i < plain_test_count; i++) {
        const struct plain_test *t = &plain_tests[i];
        time_t start = time(NULL);
        if (t->run == NULL) continue;
        bool passes = plain_passes(t);
        passed += passes;
        failed += !passes;
        if (!passes) fprintf(stderr, "[FAIL] %s::%s\n", t->suite, t->name);
        if (time(NULL) - start > 5) fprintf(stderr, "%s took %ld s\n", t->name, (long)(time(NULL) - start));
    }
    fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: 0\n", passed + failed, passed,
            failed);
    return failed == 0 ? 0 : 1;
}

#endif

/* Criterion, or what stands in for it under ThreadSanitizer: Criterion shares memory between its processes at addresses
 * that the sanitizer has taken. The stand-in knows Test and the few assertions that the racing tests use, runs each
 * test in a child, and ends with Criterion's line of counts. */
#ifndef MILLRACE_TESTS_UNIT_SHM_PLAIN_H
#define MILLRACE_TESTS_UNIT_SHM_PLAIN_H

#ifndef __SANITIZE_THREAD__
#include <criterion/criterion.h>
#else

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PLAIN_TESTS_MAX = 64 };
static struct plain_test {
    const char *name;
    void (*run)(void);
} plain_tests[PLAIN_TESTS_MAX];
static int plain_test_count;

#define Test(suite, test, ...)                                                                                         \
    static void suite##_##test(void);                                                                                  \
    __attribute__((constructor)) static void suite##_##test##_register(void) {                                         \
        plain_tests[plain_test_count++] = (struct plain_test){#suite "::" #test, suite##_##test};                      \
    }                                                                                                                  \
    static void suite##_##test(void)

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
#define cr_assert_gt(a, b, ...) cr_assert((a) > (b), ##__VA_ARGS__)
#define cr_assert_geq(a, b, ...) cr_assert((a) >= (b), ##__VA_ARGS__)
#define cr_assert_leq(a, b, ...) cr_assert((a) <= (b), ##__VA_ARGS__)
#define cr_assert_null(a, ...) cr_assert((a) == NULL, ##__VA_ARGS__)
#define cr_assert_not_null(a, ...) cr_assert((a) != NULL, ##__VA_ARGS__)

int main(void) {
    int passed = 0;
    for (int i = 0; i < plain_test_count; i++) {
        int status = 0;
        time_t start = time(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            plain_tests[i].run();
            exit(0); /* through the sanitizer's own exit, which knows what it has reported */
        }
        if (pid > 0 && waitpid(pid, &status, 0) == pid && status == 0)
            passed++;
        else
            fprintf(stderr, "[FAIL] %s: status %x\n", plain_tests[i].name, (unsigned)status);
        if (time(NULL) - start > 5) fprintf(stderr, "%s took %ld s\n", plain_tests[i].name, (long)(time(NULL) - start));
    }
    int failed = plain_test_count - passed;
    fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: 0\n", passed + failed, passed,
            failed);
    return failed == 0 ? 0 : 1;
}

#endif
#endif

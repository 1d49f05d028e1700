/* Errors: an operational failure is a code and a sentence for the operator; an impossible state is CHECK.
 *
 * Three kinds of "not OK", never mixed: expected states are small enums of the module that has them; operational
 * failures fill a struct err; broken promises of our own code abort through CHECK, in every build. */
#ifndef MILLRACE_BASE_ERR_H
#define MILLRACE_BASE_ERR_H

#include <stdarg.h>

struct err {
    int code; /* 0 none, else one of sysexits.h or an errno of the failed call, as the function says */
    char text[512];
};

/* err_set fills e (which may be NULL) and returns -1, so that a function can `return err_set(...)`. Truncates. */
int err_set(struct err *e, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* err_prefix puts "<prefix>: " before the text that is there. Returns -1. */
int err_prefix(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Exit statuses of workers beside those of sysexits.h (which every command uses). */
enum {
    EXIT_ASKED = 0,          /* left because it was asked to */
    EXIT_RING_BROKEN = 124,  /* a ring fails its checks: the supervisor makes the rings anew */
    EXIT_DONT_RESTART = 125, /* a restart cannot help: the message and the stats block say why (s6's convention) */
};

/* err_exit is the exit status of a worker that cannot start: EX_TEMPFAIL where a new start may find what was missing
 * (memory, descriptors, threads, a disk), so that the supervisor makes one, in its patience; else `otherwise`. e->code:
 * of sysexits.h, or an errno. */
int err_exit(const struct err *e, int otherwise);

/* CHECK(x) holds in every build. When x is false the panic hook (if one is set) gets the text, then abort(). */
#define CHECK(x) (__builtin_expect(!!(x), 1) ? (void)0 : check_failed(__FILE__, __LINE__, __func__, #x))
_Noreturn void check_failed(const char *file, int line, const char *function, const char *expression);

/* check_hook_set names what saves the panic text before abort(). hook: async-signal-safe, called once, may be NULL. */
void check_hook_set(void (*hook)(const char *text));

#endif

#include "base/err.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

int err_set(struct err *e, int code, const char *format, ...) {
    if (e == NULL) return -1;
    char text[sizeof e->text]; /* the arguments may point into e->text */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(e->text, text, sizeof text);
    e->code = code;
    return -1;
}

int err_prefix(struct err *e, const char *format, ...) {
    if (e == NULL) return -1;
    char prefix[sizeof e->text], text[2 * sizeof e->text + 2];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    snprintf(text, sizeof text, "%s: %s", prefix, e->text);
    memcpy(e->text, text, sizeof e->text - 1);
    e->text[sizeof e->text - 1] = 0;
    return -1;
}

int err_exit(const struct err *e, int otherwise) {
    switch (e->code) {
    case EX_OSERR:
    case EX_IOERR:
    case EX_TEMPFAIL:
    case EINTR:
    case EIO:
    case EAGAIN:
    case ENOMEM:
    case ENFILE:
    case EMFILE:
    case ENOSPC:
    case ENOBUFS:
    case EDQUOT: return EX_TEMPFAIL;
    default: return otherwise;
    }
}

/* Two threads may fail at once: the hook belongs to the first. */
static void (*_Atomic panic_hook)(const char *text);

void check_hook_set(void (*hook)(const char *text)) { atomic_store(&panic_hook, hook); }

_Noreturn void check_failed(const char *file, int line, const char *function, const char *expression) {
    char text[512];
    int n = snprintf(text, sizeof text, "%s:%d: %s: check failed: %s", file, line, function, expression);
    void (*hook)(const char *text) = atomic_exchange(&panic_hook, NULL);
    if (hook != NULL) hook(text);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    text[len++] = '\n'; /* in place of the final NUL */
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&out, 1, 0) == 1 && write(STDERR_FILENO, text, len) < 0) {
        /* Nowhere to say it: the hook has it. */
    }
    abort();
}

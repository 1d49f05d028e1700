/* Fault points: where a test build can be told to fail. In every other build they are nothing at all.
 *
 * A build with -DMILLRACE_FAULT (make VARIANT=fault) reads MILLRACE_FAULT from the environment, POINT=MARKER, and dies
 * of SIGSEGV at that point when the bytes at hand contain MARKER: a record that crashes its worker, on demand.
 * Names of points are never changed: tests refer to them. */
#ifndef MILLRACE_BASE_FAULT_H
#define MILLRACE_BASE_FAULT_H

#ifdef MILLRACE_FAULT

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static inline void fault_on_content(const char *point, const void *bytes, size_t len) {
    const char *wanted = getenv("MILLRACE_FAULT");
    size_t n = strlen(point);
    if (wanted == NULL || strncmp(wanted, point, n) != 0 || wanted[n] != '=') return;
    const char *marker = wanted + n + 1;
    if (marker[0] == '\0' || memmem(bytes, len, marker, strlen(marker)) == NULL) return;
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}
#define FAULT_ON_CONTENT(point, bytes, len) fault_on_content(point, bytes, len)

#else
#define FAULT_ON_CONTENT(point, bytes, len) ((void)0)
#endif

#endif

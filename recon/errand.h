/* Runs one program at a time, with a message on its standard input, without ever waiting: the caller steps it. */
#ifndef MILLRACE_RECON_ERRAND_H
#define MILLRACE_RECON_ERRAND_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "recon/webhook.h"

enum { ERRAND_BODY_BYTES_MAX = 16384, ERRAND_LIMIT_MS = 30000 };

struct errand {
    pid_t pid; /* 0: none is running */
    int pidfd; /* -1 with it */
    uint64_t deadline_ns;
};

/* errand_start runs the program at path: in a process group of its own, in /, with body[0, len) (at most
 * ERRAND_BODY_BYTES_MAX) on standard input, standard output thrown away, standard error as ours, no other descriptor,
 * and an environment of PATH, LANG and MILLRACE_EXCEPTION (id). It dies with us. Only when none is running. Returns 0,
 * or -1 with err. */
int errand_start(struct errand *e, const char *path, const char *id, const void *body, size_t len, uint64_t now_ns,
                 struct err *err);

/* errand_step: SENT when it has ended with 0; SEND_FAILED with err: with another status, by a signal, or it was killed
 * with its whole group because it took longer than ERRAND_LIMIT_MS. */
enum sending errand_step(struct errand *e, uint64_t now_ns, struct err *err);

int errand_wants(const struct errand *e, uint64_t now_ns, struct pollfd *fds, int max, int *timeout_ms);

/* errand_stop kills what is running, with its group. */
void errand_stop(struct errand *e);

#endif

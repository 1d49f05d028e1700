/* Sends exceptions (recon/exception.h) over their channels: a log line, the webhook, the command.
 *
 * At least once: a delivery is done when the receiver has taken it (webhook: a 2xx; command: exit status 0) and that is
 * in recon.db; until then it is tried again, after 1 s, 2 s, 4 s … up to 5 minutes, however often recon is restarted.
 * Each attempt carries the exception's id, by which a receiver recognises repeats. One exception that cannot be
 * delivered does not hold up others, nor one channel the other.
 *
 * Never waits: recon's body calls notify_step in each of its steps, outside a transaction. */
#ifndef MILLRACE_RECON_NOTIFY_H
#define MILLRACE_RECON_NOTIFY_H

#include <poll.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/err.h"
#include "shm/worker.h"

enum { NOTIFY_BACKOFF_MS_MIN = 1000, NOTIFY_BACKOFF_MS_MAX = 300000, NOTIFY_AUDIT_PATIENCE_MS = 2000 };

struct notify;

struct notify_counts { /* since notify_open */
    uint64_t sent, failed;
};

/* notify_open: db, c and clock have to outlive it; db has the tables of exception_schema. NULL with err. */
struct notify *notify_open(sqlite3 *db, const struct config *c, const struct clock_port *clock, struct err *err);

/* notify_close breaks off what is being sent; it is sent again after the next start. */
void notify_close(struct notify *n);

/* notify_step sends what is due. Returns true when it has got on with something: call again soon. */
bool notify_step(struct notify *n);

/* notify_wants is worker_body.wants for what is being sent. */
int notify_wants(struct notify *n, struct pollfd *fds, int max, int *timeout_ms);

/* notify_audit tells how the audit worker is: cannot_write, with the reason it gives, and the sequence number of the
 * next entry it would log. Raises and clears `audit_cannot_write`, after NOTIFY_AUDIT_PATIENCE_MS; call it in each
 * step. A disk that is full for the audit log may be full for recon.db as well, so this exception is sent even when it
 * cannot be stored. */
void notify_audit(struct notify *n, bool cannot_write, uint64_t sequence, const char *reason);

/* notify_attend is all of it for a worker's step: watches the audit worker's block, sends what is due, keeps the
 * metrics recon_exception_*. Returns what notify_step returns. */
bool notify_attend(struct notify *n, struct worker *w);

struct notify_counts notify_counts(const struct notify *n);

#endif

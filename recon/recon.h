/* recon's body: follows the audit log, counts windows, asks Kafka what was published, and judges the two against each
 * other (docs/reconciliation.md). Outside the chain: no lane waits for it.
 *
 * What a step does: read a batch of the log, count it (recon/count.h), hand each entry to the table of live keys, take
 * what the Kafka thread has brought (recon/evidence.h), judge the windows that changed (recon/judge.h), and store it
 * all in one transaction together with the place in the log. A transaction that fails leaves nothing behind: what is in
 * memory is dropped and made again from the database. */
#ifndef MILLRACE_RECON_RECON_H
#define MILLRACE_RECON_RECON_H

#include "base/err.h"
#include "recon/evidence.h"
#include "shm/worker.h"

struct recon;

/* recon_open makes the body of worker w: opens log and database (made when not there). evidence: where Kafka is asked;
 * NULL: nowhere (no evidence, windows stay pending). Both are kept. NULL with err: EX_IOERR, EX_DATAERR. */
struct recon *recon_open(struct worker *w, const struct evidence_port *evidence, struct err *err);
void recon_close(struct recon *r);

/* For struct worker_body. On CONTROL_DRAIN the body reads the log to its end, judges every window once more, and is
 * done; on CONTROL_LEAVE it is done after the transaction at hand. */
enum step recon_step(void *self);
bool recon_arm(void *self);
void recon_disarm(void *self);
int recon_wants(void *self, struct pollfd *fds, int max, int *timeout_ms);

#endif

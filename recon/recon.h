/* recon's body: follows the audit log, counts windows, asks Kafka what was published, and judges the two against each
 * other (docs/reconciliation.md). Outside the chain: no lane waits for it.
 *
 * What a step does: read a batch of the log, count it (recon/count.h), hand each entry to the table of live keys, take
 * what the Kafka thread has brought (recon/evidence.h), judge the windows that have changed (recon/judge.h), and store
 * it all in one transaction together with the place in the log. A transaction that fails leaves nothing behind: what is
 * in memory is made again from the database, and the same is done once more.
 *
 * A person's question (`millrace recon --check`) is the file data_dir/recon/check: recon takes it away, asks Kafka,
 * reads the log to its end, waits (RECON_ANSWER_MS at most) until all that was published before is settled, judges
 * every window, and notes in meta `answered_ms` when the question was taken. */
#ifndef MILLRACE_RECON_RECON_H
#define MILLRACE_RECON_RECON_H

#include "base/err.h"
#include "recon/accounts.h"
#include "recon/evidence.h"
#include "shm/worker.h"

struct recon;

/* recon_open makes the body of worker w: opens log folder and database (made when not there). evidence: where Kafka is
 * asked; NULL: nowhere (no evidence, windows stay pending); it has to be there before the first step. Both are kept.
 * NULL with err: EX_IOERR, EX_TEMPFAIL try again; EX_DATAERR, what is on the disk cannot be used. */
struct recon *recon_open(struct worker *w, const struct evidence_port *evidence, struct err *err);
void recon_close(struct recon *r);

/* recon_manifests lists up to max places to go on with in the manifest topic (evidence_open). Returns how many. */
size_t recon_manifests(struct recon *r, struct evidence_from *out, size_t max);

/* recon_share has it tell the group's other instances what it counts and take what they tell (recon/accounts.h). key:
 * AUDIT_KEY_ACCOUNT, copied; port is kept. Once, before the first step. 0, or -1 with err as of recon_open. */
int recon_share(struct recon *r, const struct account_port *port, const uint8_t key[DIGEST_KEY_BYTES], struct err *err);

/* For struct worker_body. On CONTROL_DRAIN the body reads the log to its end, asks Kafka once more (for at most
 * RECON_DRAIN_MS), judges every window, and is done; on CONTROL_LEAVE it is done after the transaction at hand. */
enum { RECON_DRAIN_MS = 3000, RECON_ANSWER_MS = 5000 };
enum step recon_step(void *self);
bool recon_arm(void *self);
void recon_disarm(void *self);
int recon_wants(void *self, struct pollfd *fds, int max, int *timeout_ms);

#endif

/* recon without its store: what it keeps cannot be opened, for the disk is full, most likely, or cannot be read. Then
 * it counts nothing; but the audit log is on the same disk, and that it cannot be written has to be told all the same.
 * So it keeps watch with a database in memory, of which nothing stays, and tries to open its store each second. */
#ifndef MILLRACE_RECON_VIGIL_H
#define MILLRACE_RECON_VIGIL_H

#include <sqlite3.h>

#include "recon/notify.h"
#include "recon/recon.h"

struct vigil {
    struct worker *worker;
    const struct evidence_port *evidence;
    sqlite3 *db;
    struct notify *notify;
    struct recon *recon; /* once its store could be opened */
    struct err err;      /* why it could not, at last */
    uint64_t retry_ns;
};

/* vigil_open begins one. why: of recon_open (EX_IOERR). evidence: for recon_open. 0, or -1 with err. */
int vigil_open(struct vigil *v, struct worker *w, const struct evidence_port *evidence, const struct err *why,
               struct err *err);

/* vigil_close ends it; v->recon stays with the caller. */
void vigil_close(struct vigil *v);

/* For struct worker_body. Done when the store is open, when it never will be (v->err says why) or when asked to leave.
 */
enum step vigil_step(void *self);
int vigil_wants(void *self, struct pollfd *fds, int max, int *timeout_ms);

#endif

#include "recon/vigil.h"

#include <string.h>
#include <sysexits.h>

#include "base/log.h"
#include "recon/db.h"

enum { RETRY_MS = 1000 };

static void waits(struct vigil *v, const struct err *why) {
    struct worker *w = v->worker;
    if (strcmp(v->err.text, why->text) != 0) log_error("recon.cannot_go_on", "%s", why->text);
    v->err = *why;
    v->retry_ns = clock_ns(w->clock) + RETRY_MS * NS_PER_MS;
    stats_add(&w->local, M_recon_store_fail, 1);
    worker_state(w, STATE_BLOCKED, "%s", why->text);
}

int vigil_open(struct vigil *v, struct worker *w, const struct evidence_port *evidence, const struct err *why,
               struct err *err) {
    *v = (struct vigil){.worker = w, .evidence = evidence};
    if ((v->db = db_open(":memory:", err)) == NULL) return -1;
    if ((v->notify = notify_open(v->db, w->config, w->clock, err)) == NULL) {
        vigil_close(v);
        return -1;
    }
    waits(v, why);
    return 0;
}

void vigil_close(struct vigil *v) {
    notify_close(v->notify);
    sqlite3_close(v->db);
    v->notify = NULL;
    v->db = NULL;
}

enum step vigil_step(void *self) {
    struct vigil *v = self;
    struct err err = {0};
    if (worker_mode(v->worker) != CONTROL_RUN) return STEP_DONE;
    bool told = notify_attend(v->notify, v->worker);
    if (clock_ns(v->worker->clock) < v->retry_ns) return told ? STEP_BUSY : STEP_BLOCKED;
    v->recon = recon_open(v->worker, v->evidence, &err);
    if (v->recon != NULL) return STEP_DONE;
    waits(v, &err);
    return err.code == EX_IOERR ? STEP_BLOCKED : STEP_DONE;
}

int vigil_wants(void *self, struct pollfd *fds, int max, int *timeout_ms) {
    struct vigil *v = self;
    return notify_wants(v->notify, fds, max, timeout_ms);
}

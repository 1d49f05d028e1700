#include "recon/recon.h"

#include <stdlib.h>
#include <sysexits.h>

struct recon {
    struct worker *worker;
};

struct recon *recon_open(struct worker *w, const struct evidence_port *evidence, struct err *err) {
    struct recon *r = malloc(sizeof *r);
    (void)evidence;
    if (r == NULL)
        err_set(err, EX_IOERR, "out of memory");
    else
        *r = (struct recon){.worker = w};
    return r;
}

void recon_close(struct recon *r) { free(r); }

enum step recon_step(void *self) {
    struct recon *r = self;
    if (worker_mode(r->worker) != CONTROL_RUN) return STEP_DONE;
    worker_state(r->worker, STATE_RUNNING, "%s", "");
    return STEP_IDLE;
}

bool recon_arm(void *self) {
    (void)self;
    return false;
}

void recon_disarm(void *self) { (void)self; }

int recon_wants(void *self, struct pollfd *fds, int max, int *timeout_ms) {
    (void)self;
    (void)fds;
    (void)max;
    (void)timeout_ms;
    return 0;
}

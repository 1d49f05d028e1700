/* millrace-transform: one lane's records from ingest to the sink. This file is the table of contents. */
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "transform/transform.h"

static struct worker worker;
static struct ring_consumer in;
static struct ring_producer out, rejects;
static struct transform transform;

static int ring_refused(const char *which, enum ring_grade grade, const struct err *err) {
    worker_fail(&worker, "transform.cannot_attach", "%s: %s: %s", which, ring_grade_name(grade), err->text);
    return err_exit(err, ring_grade_exit(grade));
}

/* Descriptors of a lane, in the order of shm/worker.h. Returns 0 or an exit status. */
static int rings_attach(void) {
    enum { IN = WORKER_FD_LANES, OUT = IN + 3, REJECTS = OUT + 3, INGEST_DOORBELL = REJECTS + 3, SINK_DOORBELL };
    struct ring_fds in_fds = worker_ring_fds(IN), out_fds = worker_ring_fds(OUT);
    struct ring_fds rejects_fds = worker_ring_fds(REJECTS);
    struct err err = {0};
    enum ring_grade grade = ring_consumer_attach(&in, &in_fds, INGEST_DOORBELL, &err);
    if (grade != RING_ATTACHED) return ring_refused("ring from ingest", grade, &err);
    grade = ring_producer_attach(&out, &out_fds, SINK_DOORBELL, &err);
    if (grade != RING_ATTACHED) return ring_refused("ring to the sink", grade, &err);
    grade = ring_producer_attach(&rejects, &rejects_fds, INGEST_DOORBELL, &err);
    if (grade != RING_ATTACHED) return ring_refused("rejects ring", grade, &err);
    return 0;
}

static int keys_refused(const struct err *err) {
    worker_fail(&worker, "transform.keys_refused", "%s", err->text);
    return err_exit(err, EXIT_DONT_RESTART);
}

/* Loads the keys, prepares the body, and forgets the keys, for it has derived the ones it uses. 0 or an exit status. */
static int body_init(const struct ledger_ingest *ledger) {
    struct err err = {0};
    struct keys *keys = NULL;
    struct audit_keys audit = {0};
    const char *path = worker.config->crypto.keys;
    if (path[0] != '\0' || worker.config->audit) worker_hide();
    if (worker.config->audit && audit_keys_load(worker.config->recon.keys, AUDIT_KEY_DIGEST, &audit, &err) != 0)
        return keys_refused(&err);
    if (path[0] != '\0' && (keys = keys_load(path, &err)) == NULL) {
        explicit_bzero(&audit, sizeof audit);
        return keys_refused(&err);
    }
    struct transform_ports ports = {&worker, &in, &out, &rejects, ledger};
    int status = transform_init(&transform, &ports, keys, worker.config->audit ? &audit : NULL, &err);
    keys_free(keys);
    explicit_bzero(&audit, sizeof audit);
    if (status == 0) return 0;
    worker_fail(&worker, "transform.refused", "%s", err.text);
    return err_exit(&err, EXIT_DONT_RESTART);
}

int main(int argc, char **argv) {
    struct err err = {0};
    worker_init(&worker, ROLE_TRANSFORM, argc, argv);
    FAULT("transform:start");
    int status = rings_attach();
    if (status != 0) return status;
    const struct ledger_ingest *ledger = ledger_ingest_map(WORKER_FD_LEDGER, false, &err);
    if (ledger == NULL) {
        worker_fail(&worker, "transform.cannot_attach", "ledger: %s", err.text);
        return err_exit(&err, EXIT_DONT_RESTART);
    }
    status = body_init(ledger);
    if (status != 0) return status;
    FAULT("transform:ready");
    worker_ready(&worker);
    struct worker_body body = {
        .self = &transform, .step = transform_step, .arm = transform_arm, .disarm = transform_disarm};
    status = worker_run(&worker, &body);
    transform_fini(&transform);
    return status;
}

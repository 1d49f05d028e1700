/* millrace-audit: what became of every record, from all lanes' sinks into the audit log. The last stage of the chain.
 */
#include <stdlib.h>
#include <string.h>

#include "audit/audit.h"
#include "audit/log.h"
#include "base/fault.h"
#include "base/log.h"

static struct worker worker;
static struct ring_consumer ring[LANES_MAX];
static struct audit audit;

static _Noreturn void refuse(const char *what, const struct err *err, int status) {
    worker_fail(&worker, "audit.cannot_attach", "%s: %s", what, err->text);
    exit(err_exit(err, status));
}

/* Descriptors of the lanes, in the order of shm/worker.h. */
static void rings_attach(void) {
    struct err err = {0};
    for (uint32_t i = 0; i < worker.config->lanes; i++) {
        int first = WORKER_FD_LANES + (int)i * AUDIT_LANE_FDS;
        struct ring_fds fds = worker_ring_fds(first);
        enum ring_grade grade = ring_consumer_attach(&ring[i], &fds, first + 3, &err);
        if (grade != RING_ATTACHED) refuse("ring from the sink", &err, ring_grade_exit(grade));
    }
}

/* Loads the keys, prepares the body, and forgets the keys, for it has made its own states of them. */
static void body_init(struct audit_ports *ports) {
    struct err err = {0};
    static struct audit_keys keys;
    worker_hide();
    if (audit_keys_load(worker.config->recon.keys, AUDIT_KEY_CHAIN | AUDIT_KEY_ANCHOR, &keys, &err) != 0) {
        worker_fail(&worker, "audit.keys_refused", "%s", err.text);
        exit(err_exit(&err, EXIT_DONT_RESTART));
    }
    ports->keys = &keys;
    int status = audit_init(&audit, ports, &err);
    explicit_bzero(&keys, sizeof keys);
    if (status == 0) return;
    worker_fail(&worker, "audit.cannot_start", "%s", err.text);
    exit(err_exit(&err, EXIT_DONT_RESTART));
}

int main(int argc, char **argv) {
    char dir[PATH_BYTES + 16];
    struct err err = {0};
    worker_init(&worker, ROLE_AUDIT, argc, argv);
    FAULT("audit:start");
    rings_attach();
    struct audit_ports ports = {.worker = &worker,
                                .ring = ring,
                                .lanes = worker.config->lanes,
                                .dir = dir,
                                .files = &log_files_real,
                                .threaded = true};
    ports.plan = ledger_ingest_map(WORKER_FD_LEDGER, false, &err);
    if (ports.plan == NULL) refuse("ledger of ingest", &err, EXIT_DONT_RESTART);
    ports.ledger = ledger_audit_map(WORKER_FD_AUDITED, true, &err);
    if (ports.ledger == NULL) refuse("ledger", &err, EXIT_DONT_RESTART);
    log_dir(worker.config, dir);
    body_init(&ports);
    FAULT("audit:ready");
    worker_ready(&worker);
    const struct worker_body body = {
        .self = &audit, .step = audit_step, .arm = audit_arm, .disarm = audit_disarm, .wants = audit_wants};
    int status = worker_run(&worker, &body);
    audit_fini(&audit);
    return status;
}

/* millrace-sink: the last worker of a lane. Takes records from transform's ring to Redis, and says what Redis has. */
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "base/fault.h"
#include "base/log.h"
#include "shm/worker.h"
#include "sink/sink.h"
#include "sink/stream_tls.h"

/* Descriptors of the lane, in the order of shm/worker.h. */
enum {
    FD_RING = WORKER_FD_LANES,
    FD_TRANSFORM_DOORBELL = FD_RING + 3,
    FD_LEDGER,
    FD_AUDIT_RING,
    FD_AUDIT_DOORBELL = FD_AUDIT_RING + 3
};

static struct worker worker;
static struct ring_consumer ring;
static struct ring_producer audit;
static struct stream redis;
static struct sink sink;

static _Noreturn void refuse(const char *what, const struct err *err, int status) {
    worker_fail(&worker, "sink.cannot_attach", "%s: %s", what, err->text);
    exit(err_exit(err, status));
}

int main(int argc, char **argv) {
    struct err err = {0};
    worker_init(&worker, ROLE_SINK, argc, argv);
    FAULT("sink:start");
    struct ring_fds fds = worker_ring_fds(FD_RING);
    enum ring_grade grade = ring_consumer_attach(&ring, &fds, FD_TRANSFORM_DOORBELL, &err);
    if (grade != RING_ATTACHED) refuse("ring", &err, ring_grade_exit(grade));
    if (worker.config->audit) {
        struct ring_fds audit_fds = worker_ring_fds(FD_AUDIT_RING);
        grade = ring_producer_attach(&audit, &audit_fds, FD_AUDIT_DOORBELL, &err);
        if (grade != RING_ATTACHED) refuse("audit ring", &err, ring_grade_exit(grade));
    }
    const struct ledger_ingest *plan = ledger_ingest_map(WORKER_FD_LEDGER, false, &err);
    if (plan == NULL) refuse("ledger of ingest", &err, EXIT_DONT_RESTART);
    struct ledger_sink *ledger = ledger_sink_map(FD_LEDGER, true, &err);
    if (ledger == NULL) refuse("ledger", &err, EXIT_DONT_RESTART);
    struct stream_port stream = stream_open(&redis, worker.config);
    if (sink_init(&sink, &worker, &ring, worker.config->audit ? &audit : NULL, plan, ledger, &stream, &err) != 0)
        refuse("body", &err, err.code == EX_DATAERR ? EXIT_RING_BROKEN : EXIT_DONT_RESTART);
    FAULT("sink:ready");
    worker_ready(&worker);
    const struct worker_body body = {
        .self = &sink, .step = sink_step, .arm = sink_arm, .disarm = sink_disarm, .wants = sink_wants};
    int status = worker_run(&worker, &body);
    sink_free(&sink);
    stream_free(&redis);
    return status;
}

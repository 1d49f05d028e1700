/* millrace-ingest: Kafka to the rings. Started by the supervisor. */
#include "base/fault.h"
#include "ingest/ingest.h"

#include "base/log.h"

_Noreturn static void refuse(struct worker *w, const char *what, const struct err *err) {
    worker_fail(w, "ingest.cannot_start", "%s: %s", what, err->text);
    _Exit(err_exit(err, EXIT_DONT_RESTART));
}

static void ring_check(struct worker *w, const char *which, enum ring_grade grade, const struct err *err) {
    if (grade == RING_ATTACHED) return;
    worker_fail(w, "ingest.cannot_attach", "%s: %s: %s", which, ring_grade_name(grade), err->text);
    _Exit(err_exit(err, ring_grade_exit(grade)));
}

static void lane_attach(struct ingest *g, struct worker *w, uint32_t i, struct err *err) {
    int first = WORKER_FD_LANES + (int)i * INGEST_LANE_FDS;
    struct ring_fds out = worker_ring_fds(first), rejects = worker_ring_fds(first + 3);
    int doorbell = first + 7; /* transform's: at the other end of both rings */
    ring_check(w, "ring to transform", ring_producer_attach(&g->lane[i].out, &out, doorbell, err), err);
    ring_check(w, "rejects ring", ring_consumer_attach(&g->lane[i].rejects, &rejects, doorbell, err), err);
    g->lane[i].sink = ledger_sink_map(first + 6, false, err);
    if (g->lane[i].sink == NULL) refuse(w, "the sink's ledger", err);
}

static void store_open(struct ingest *g, struct worker *w, struct err *err) {
    uint64_t incarnation[LANES_MAX];
    for (uint32_t i = 0; i < w->config->lanes; i++) incarnation[i] = g->lane[i].rejects.incarnation;
    if (rejects_store_open(&g->store, w->config->data_dir, w->config->rejects.max_bytes, incarnation, w->config->lanes,
                           w->clock, err) != 0)
        refuse(w, "rejects folder", err);
}

int main(int argc, char **argv) {
    static struct worker w;
    static struct ingest g; /* zeroed, and too large for a stack */
    struct kafka_port kafka;
    struct err err = {0};
    worker_init(&w, ROLE_INGEST, argc, argv);
    FAULT("ingest:start");
    g.ledger = ledger_ingest_map(WORKER_FD_LEDGER, true, &err);
    if (g.ledger == NULL) refuse(&w, "ledger", &err);
    g.audited = w.config->audit ? ledger_audit_map(WORKER_FD_AUDITED, false, &err) : NULL;
    if (w.config->audit && g.audited == NULL) refuse(&w, "ledger of audit", &err);
    for (uint32_t i = 0; i < w.config->lanes; i++) lane_attach(&g, &w, i, &err);
    store_open(&g, &w, &err);
    if (kafka_client_open(&kafka, w.config, WORKER_FD_DOORBELL, &err) != 0) refuse(&w, "Kafka", &err);
    ingest_init(&g, &w, &kafka);
    FAULT("ingest:ready");
    worker_ready(&w);
    struct worker_body body = {&g, ingest_step, ingest_arm, ingest_disarm, ingest_wants};
    int status = worker_run(&w, &body);
    _Exit(status); /* the client's threads end with the process; closing it can hang on librdkafka 2.0.2 */
}

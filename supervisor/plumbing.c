#include "supervisor/plumbing.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "shm/workspace.h"

/* Huge pages are reserved by the operator and may not suffice: what then depends on how much was asked for. */
static int ring_memory_make(struct ring_fds *rw, const char *name, const struct config *c, uint32_t aux_count,
                            uint64_t incarnation, struct err *err) {
    unsigned how = c->memory.prefault ? WORKSPACE_PREFAULT : 0;
    if (c->memory.huge_pages != HUGE_PAGES_OFF) {
        if (ring_create_held(rw, name, c->ring_bytes, aux_count, incarnation, how | WORKSPACE_HUGE, err) == 0) return 0;
        if (c->memory.huge_pages == HUGE_PAGES_REQUIRE) {
            struct err why = *err;
            return err_set(err, EX_OSERR,
                           "ring %s: no huge pages (%s); `millrace tune check` says how many to reserve, and "
                           "memory.huge_pages: try does without",
                           name, why.text);
        }
        log_warn("supervisor.huge_pages_short", "ring %s is in ordinary pages: %s", name, err->text);
    }
    return ring_create_held(rw, name, c->ring_bytes, aux_count, incarnation, how, err);
}

static int ring_make(struct plumbing_ring *r, const char *name, const struct config *c, uint32_t aux_count,
                     uint64_t incarnation, struct err *err) {
    if (ring_memory_make(&r->rw, name, c, aux_count, incarnation, err) != 0) return -1;
    r->ro.constants = workspace_reopen_readonly(r->rw.constants, err);
    r->ro.producer = workspace_reopen_readonly(r->rw.producer, err);
    r->ro.consumer = workspace_reopen_readonly(r->rw.consumer, err);
    return r->ro.constants < 0 || r->ro.producer < 0 || r->ro.consumer < 0 ? -1 : 0;
}

static int lane_make(struct plumbing_lane *l, uint32_t lane, const struct config *c, struct err *err) {
    char name[24];
    uint64_t incarnation;
    clock_real.random(clock_real.context, &incarnation, sizeof incarnation);
    snprintf(name, sizeof name, "ingest[%u]", lane);
    if (ring_make(&l->to_transform, name, c, 2 * PARTITIONS_MAX, incarnation, err) != 0) return -1;
    snprintf(name, sizeof name, "transform[%u]", lane);
    if (ring_make(&l->to_sink, name, c, 0, incarnation, err) != 0) return -1;
    snprintf(name, sizeof name, "rejects[%u]", lane);
    if (ring_make(&l->rejects, name, c, 1, incarnation, err) != 0) return -1;
    snprintf(name, sizeof name, "sink[%u]", lane);
    if (c->audit && ring_make(&l->to_audit, name, c, 0, incarnation, err) != 0) return -1;
    l->sink_ledger_rw = ledger_sink_create(lane, err);
    if (l->sink_ledger_rw < 0) return -1;
    l->sink_ledger_ro = workspace_reopen_readonly(l->sink_ledger_rw, err);
    return l->sink_ledger_ro < 0 ? -1 : 0;
}

/* The copy of the configuration a role gets: without the secrets of others, and sealed for good. */
static int config_copy(const struct config *config, enum role role, struct err *err) {
    static struct config copy; /* too large for a stack */
    copy = *config;
    copy.abi = CONFIG_ABI;
    config_redact(&copy, role);
    int fd = memfd_create("config", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return err_set(err, errno, "memfd_create: %s", strerror(errno));
    ssize_t n = write(fd, &copy, sizeof copy);
    explicit_bzero(&copy, sizeof copy);
    if (n != (ssize_t)sizeof copy ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        err_set(err, errno, "copy of the configuration: %s", strerror(errno));
        close(fd);
        return -1;
    }
    int ro = workspace_reopen_readonly(fd, err);
    close(fd);
    return ro;
}

/* Another Redis is another run: what is not in it was not lost there. */
static uint64_t run_of(const struct plumbing *p) {
    char text[TOPIC_BYTES + 192];
    const struct config *c = p->config;
    uint64_t hash = 0xcbf29ce484222325ULL; /* FNV-1a */
    int n = snprintf(text, sizeof text, "%d %s %u %u %s", (int)c->redis.scheme, c->redis.host, c->redis.port,
                     c->redis.db, c->redis.path);
    for (int i = 0; i < n && i < (int)sizeof text - 1; i++) hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3ULL;
    uint64_t run = hash ^ p->run;
    return run != 0 ? run : 1;
}

static int control_make(struct plumbing *p, struct err *err) {
    int fd = workspace_create("control", sizeof *p->control, err);
    if (fd < 0) return -1;
    p->control = workspace_map(fd, sizeof *p->control, true, NULL, err);
    if (p->control == NULL) return -1;
    p->control->version = CONTROL_VERSION;
    p->control->lives = p->lives;
    p->control->run = run_of(p);
    atomic_store_explicit(&p->control->magic, CONTROL_MAGIC, memory_order_release);
    p->control_ro = workspace_reopen_readonly(fd, err);
    close(fd); /* the supervisor writes through its mapping */
    return p->control_ro < 0 ? -1 : 0;
}

static void ring_unset(struct plumbing_ring *r) { r->rw = r->ro = (struct ring_fds){-1, -1, -1}; }

/* Nothing is open yet; the statistics are left alone. */
static void unset(struct plumbing *p, const struct config *config) {
    p->config = config;
    p->control = NULL;
    p->ledger = NULL;
    p->lanes = config->lanes;
    p->control_ro = p->ledger_rw = p->ledger_ro = p->audited_rw = p->audited_ro = p->attention = -1;
    for (int role = 0; role < ROLE_COUNT; role++) p->config_fd[role] = -1;
    for (uint32_t i = 0; i <= WORKERS_MAX; i++) p->doorbell[i] = -1;
    for (uint32_t i = 0; i < LANES_MAX; i++) {
        struct plumbing_lane *l = &p->lane[i];
        ring_unset(&l->to_transform);
        ring_unset(&l->to_sink);
        ring_unset(&l->rejects);
        ring_unset(&l->to_audit);
        l->sink_ledger_rw = l->sink_ledger_ro = -1;
    }
}

/* All but the statistics, which are made last: once they are seen under their name, everything else is there. */
static int make(struct plumbing *p, const struct config *config, struct err *err) {
    unset(p, config);
    if (control_make(p, err) != 0) return -1;
    for (int role = ROLE_INGEST; role < ROLE_COUNT; role++)
        if ((p->config_fd[role] = config_copy(config, (enum role)role, err)) < 0) return -1;
    if ((p->ledger_rw = ledger_ingest_create(err)) < 0) return -1;
    if ((p->ledger_ro = workspace_reopen_readonly(p->ledger_rw, err)) < 0) return -1;
    if ((p->ledger = ledger_ingest_map(p->ledger_ro, false, err)) == NULL) return -1;
    if ((p->audited_rw = ledger_audit_create(err)) < 0) return -1;
    if ((p->audited_ro = workspace_reopen_readonly(p->audited_rw, err)) < 0) return -1;
    p->attention = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (uint32_t i = 1; i < stats_block_count(config->lanes, config->audit); i++) {
        p->doorbell[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (p->doorbell[i] < 0 || p->attention < 0) return err_set(err, errno, "eventfd: %s", strerror(errno));
    }
    for (uint32_t lane = 0; lane < config->lanes; lane++)
        if (lane_make(&p->lane[lane], lane, config, err) != 0) return -1;
    return 0;
}

uint64_t plumbing_ring_bytes(const struct plumbing *p, uint64_t *huge) {
    uint64_t total = 0;
    *huge = 0;
    for (uint32_t lane = 0; lane < p->config->lanes; lane++) {
        const struct plumbing_lane *l = &p->lane[lane];
        const int data[] = {l->to_transform.rw.producer, l->to_sink.rw.producer, l->rejects.rw.producer,
                            l->to_audit.rw.producer};
        for (size_t i = 0; i < sizeof data / sizeof data[0]; i++) {
            size_t in_huge;
            if (data[i] < 0) continue;
            total += workspace_bytes(data[i], &in_huge);
            *huge += in_huge;
        }
    }
    return total;
}

int plumbing_create(struct plumbing *p, const struct config *config, struct err *err) {
    memset(p, 0, sizeof *p);
    p->stats_fd = -1;
    clock_real.random(clock_real.context, &p->run, sizeof p->run);
    return make(p, config, err) != 0 ? -1 : stats_create(&p->stats, config, &p->stats_fd, err);
}

/* -- making anew ------------------------------------------------------------------------------- */

static void close_one(int fd) {
    if (fd >= 0) close(fd);
}

static void ring_close(const struct plumbing_ring *r) {
    const int fds[] = {r->rw.constants, r->rw.producer, r->rw.consumer,
                       r->ro.constants, r->ro.producer, r->ro.consumer};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) close_one(fds[i]);
}

/* The rings' memory goes with the last descriptor: no worker is attached. */
static void unmake(struct plumbing *p) {
    if (p->control != NULL) munmap(p->control, sizeof *p->control);
    if (p->ledger != NULL) munmap((void *)(uintptr_t)p->ledger, sizeof *p->ledger);
    close_one(p->control_ro);
    close_one(p->ledger_rw);
    close_one(p->ledger_ro);
    close_one(p->audited_rw);
    close_one(p->audited_ro);
    close_one(p->attention);
    for (int role = 0; role < ROLE_COUNT; role++) close_one(p->config_fd[role]);
    for (uint32_t i = 0; i <= WORKERS_MAX; i++) close_one(p->doorbell[i]);
    for (uint32_t i = 0; i < p->lanes; i++) {
        ring_close(&p->lane[i].to_transform);
        ring_close(&p->lane[i].to_sink);
        ring_close(&p->lane[i].rejects);
        ring_close(&p->lane[i].to_audit);
        close_one(p->lane[i].sink_ledger_rw);
        close_one(p->lane[i].sink_ledger_ro);
    }
}

int plumbing_remake(struct plumbing *p, const struct config *config, struct err *err) {
    struct stats stats;
    int stats_fd;
    unmake(p);
    p->lives++;
    if (make(p, config, err) == 0 && stats_replace(&stats, &p->stats, config, &stats_fd, err) == 0) {
        stats_close(&p->stats);
        close_one(p->stats_fd);
        p->stats = stats;
        p->stats_fd = stats_fd;
        return 0;
    }
    unmake(p);
    unset(p, config);
    return -1;
}

/* -- inheritance: the same order as the numbers in shm/worker.h -------------------------------- */

static int put_producer(int *at, const struct plumbing_ring *r) {
    at[0] = r->ro.constants;
    at[1] = r->rw.producer;
    at[2] = r->ro.consumer;
    return 3;
}

static int put_consumer(int *at, const struct plumbing_ring *r) {
    at[0] = r->ro.constants;
    at[1] = r->ro.producer;
    at[2] = r->rw.consumer;
    return 3;
}

static int put_lane(const struct plumbing *p, enum role role, uint32_t lane, int *at) {
    const struct plumbing_lane *l = &p->lane[lane];
    int n = 0;
    switch (role) {
    case ROLE_INGEST:
        n += put_producer(at + n, &l->to_transform);
        n += put_consumer(at + n, &l->rejects);
        at[n++] = l->sink_ledger_ro;
        at[n++] = p->doorbell[stats_block_index(ROLE_TRANSFORM, lane)];
        CHECK(n == INGEST_LANE_FDS);
        break;
    case ROLE_TRANSFORM:
        n += put_consumer(at + n, &l->to_transform);
        n += put_producer(at + n, &l->to_sink);
        n += put_producer(at + n, &l->rejects);
        at[n++] = p->doorbell[stats_block_index(ROLE_INGEST, 0)];
        at[n++] = p->doorbell[stats_block_index(ROLE_SINK, lane)];
        CHECK(n == TRANSFORM_LANE_FDS);
        break;
    case ROLE_SINK:
        n += put_consumer(at + n, &l->to_sink);
        at[n++] = p->doorbell[stats_block_index(ROLE_TRANSFORM, lane)];
        at[n++] = l->sink_ledger_rw;
        CHECK(n == SINK_LANE_FDS);
        if (!p->config->audit) break;
        n += put_producer(at + n, &l->to_audit);
        at[n++] = p->doorbell[stats_block_index(ROLE_AUDIT, p->config->lanes)];
        CHECK(n == SINK_LANE_FDS + SINK_AUDIT_FDS);
        break;
    case ROLE_AUDIT:
        n += put_consumer(at + n, &l->to_audit);
        at[n++] = p->doorbell[stats_block_index(ROLE_SINK, lane)];
        CHECK(n == AUDIT_LANE_FDS);
        break;
    default: CHECK(role == ROLE_RECON);
    }
    return n;
}

int plumbing_descriptors(const struct plumbing *p, enum role role, uint32_t lane, int fds[WORKER_FDS_MAX]) {
    int n = 0;
    fds[n++] = p->config_fd[role];
    fds[n++] = p->stats_fd;
    fds[n++] = p->control_ro;
    fds[n++] = p->doorbell[stats_block_index(role, lane)];
    fds[n++] = p->attention;
    fds[n++] = role == ROLE_INGEST ? p->ledger_rw : p->ledger_ro;
    fds[n++] = role == ROLE_AUDIT ? p->audited_rw : p->audited_ro;
    CHECK(n == WORKER_FD_LANES - WORKER_FD_CONFIG);
    if (role_in_lanes(role)) return n + put_lane(p, role, lane, fds + n);
    for (uint32_t i = 0; i < p->config->lanes; i++) n += put_lane(p, role, i, fds + n);
    return n;
}

void plumbing_wake(const struct plumbing *p, uint32_t block_index) {
    uint64_t one = 1;
    if (write(p->doorbell[block_index], &one, sizeof one) < 0) {
        /* EAGAIN: a wake-up is pending already. */
    }
}

const struct plumbing_ring *plumbing_input(const struct plumbing *p, enum role role, uint32_t lane) {
    if (role == ROLE_TRANSFORM) return &p->lane[lane].to_transform;
    if (role == ROLE_SINK) return &p->lane[lane].to_sink;
    if (role == ROLE_AUDIT) return &p->lane[lane].to_audit;
    return NULL;
}

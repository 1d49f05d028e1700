/* Workers as the simulator runs them: what each main.c does with the descriptors it inherits, on a fiber, and what the
 * supervisor and the loop of shm/worker.c ask of the kernel. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "audit/audit.h"
#include "shm/workspace.h"
#include "sink/sink.h"
#include "supervisor/spawn.h"
#define SIM_QUIET /* what is looked at here is looked at in one moment */
#include "tests/sim/hooks.h"
#include "tests/sim/redis.h"
#include "transform/transform.h"

enum { AT_CONFIG, AT_STATS, AT_CONTROL, AT_DOORBELL, AT_ATTENTION, AT_LEDGER, AT_AUDITED, AT_LANES };
static_assert((int)AT_LANES == (int)WORKER_FD_LANES - (int)WORKER_FD_CONFIG, "the order of shm/worker.h");

static struct process *self(void) {
    struct fiber *f = fiber_current();
    for (uint32_t i = 0; f != NULL && i < SIM_BLOCKS; i++)
        if (f == &sim.process[i].fiber) return &sim.process[i];
    return NULL;
}

const char *process_name(const struct process *p) {
    static char text[24];
    snprintf(text, sizeof text, role_in_lanes(p->role) ? "%s[%u]" : "%s", role_name(p->role), p->lane);
    return text;
}

/* -- the end of a process ---------------------------------------------------------------------- */

static void ended(struct process *p, int code, int signal) {
    p->exit_code = code;
    p->exit_signal = signal;
    p->reaped = false;
    p->fiber.state = FIBER_DEAD;
    sim.ended_ns = sim.now_ns;
    sim_note(0xdead0000ULL + (uint64_t)(code * 256 + signal));
    sim_trace("%s ends: status %d, signal %d", process_name(p), code, signal);
    if (p->gone != NULL) p->gone(p);
    p->gone = NULL;
}

void process_exit(int code) {
    ended(self(), code, 0);
    fiber_die();
}

void process_killed(struct process *p, int signal) {
    if (p->pid == 0 || p->fiber.state == FIBER_DEAD) return;
    ended(p, -1, signal);
    if (fiber_current() == &p->fiber) fiber_die();
}

/* A load or a store of shared memory, or a call: somebody else may go on here, or this process may end. */
void sim_place(void) {
    struct fiber *f = fiber_current();
    if (f == NULL) return;
    sim.places++;
    if (f->die_in > 0 && --f->die_in == 0) process_killed(self(), f->die_signal);
    if (f->quantum-- > 0) return;
    f->quantum = dice(2 * sim.preempt);
    fiber_give_way();
}

void sim_block(uint64_t ms) {
    if (fiber_current() != NULL && ms > 0) fiber_sleep(sim.now_ns + ms * NS_PER_MS, true);
}

/* A record that crashes whoever parses it. */
void sim_poison(const char *point, const void *bytes, size_t len) {
    if (strcmp(point, "transform:parse") != 0 || memmem(bytes, len, "poison", 6) == NULL) return;
    sim.count.poisons++;
    process_killed(self(), SIGSEGV);
}

/* -- the kernel, as far as the product asks it ------------------------------------------------- */

static struct process *of_doorbell(int fd) {
    for (uint32_t i = 1; i < SIM_BLOCKS; i++)
        if (fd == sim.supervisor->plumbing.doorbell[i]) return &sim.process[i];
    return NULL;
}

ssize_t kernel_write(int fd, const void *bytes, size_t len) {
    struct process *p = of_doorbell(fd);
    if (p == NULL) return fd == sim.supervisor->plumbing.attention ? (ssize_t)len : (write)(fd, bytes, len);
    sim_place();
    p->bell = true;
    return (ssize_t)len;
}

ssize_t kernel_read(int fd, void *out, size_t len) {
    (void)fd;
    memset(out, 0, len);
    self()->bell = false;
    return (ssize_t)len;
}

int kernel_poll(struct pollfd *fds, nfds_t n, int timeout_ms) {
    struct process *p = self();
    bool writes = n > 1 && (fds[1].events & POLLOUT) != 0;
    bool ready = p->bell || writes || (n > 1 && redis_client_readable(p->stream.connection));
    fds[0].revents = 0;
    p->watches = n > 1;
    if (!ready) {
        fiber_sleep(sim.now_ns + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * NS_PER_MS, false);
        bool stopped = sim.now_ns > p->fiber.wake_ns + 5 * NS_PER_MS;
        if (timeout_ms == WAIT_MS_MAX && !p->bell && !stopped && p->overslept != NULL) p->overslept(p);
    }
    if (p->bell) fds[0].revents = POLLIN;
    return 1;
}

static struct process *of_pid(pid_t pid) {
    for (uint32_t i = 1; i < SIM_BLOCKS; i++)
        if (sim.process[i].pid == pid && pid != 0) return &sim.process[i];
    return NULL;
}

int kernel_kill(pid_t pid, int signal) {
    struct process *p = of_pid(pid);
    if (p != NULL) process_killed(p, signal);
    return 0;
}

int kernel_waitid(idtype_t type, id_t id, siginfo_t *info, int options) {
    (void)type, (void)options;
    for (uint32_t i = 1; i < SIM_BLOCKS; i++) {
        struct process *p = &sim.process[i];
        if (p->pid == 0 || p->pidfd != (int)id || p->fiber.state != FIBER_DEAD || p->reaped) continue;
        info->si_pid = p->pid;
        info->si_code = p->exit_signal != 0 ? CLD_KILLED : CLD_EXITED;
        info->si_status = p->exit_signal != 0 ? p->exit_signal : p->exit_code;
        p->reaped = true;
        p->pid = 0;
        free(p->memory);
        p->memory = NULL;
        p->fiber.state = FIBER_NONE;
        return 0;
    }
    return 0;
}

/* A process that is stopped burns nothing, and no other is ever silent here. */
int kernel_cpuclock(pid_t pid, clockid_t *id) {
    (void)pid, (void)id;
    return ESRCH;
}

/* Whether the other end is done with what it was doing: it sleeps, and neither it nor one before it has died of late,
 * for a death between a store and the bell costs a sleep. */
static bool at_rest(enum role role, uint32_t lane) {
    const struct process *p = &sim.process[stats_block_index(role, lane)];
    return p->fiber.state == FIBER_ASLEEP && !p->fiber.blocks && sim.now_ns - sim.ended_ns > NS_PER_S;
}

static void input_overslept(const struct process *p, const struct ring_consumer *c, enum role from, uint32_t lane) {
    bool armed = atomic_load(&c->page->waiting) != 0, work = atomic_load(&c->peer->tail) != c->cursor;
    SIM_REQUIRE(!armed || !work || !at_rest(from, lane), "%s sleeps and was not woken for what has come",
                process_name(p));
}

static void room_overslept(const struct process *p, const struct ring_producer *r, enum role to, uint32_t lane) {
    bool armed = atomic_load(&r->page->waiting) != 0;
    bool room = (int64_t)(atomic_load(&r->peer->head) - atomic_load(&r->page->wake_at)) >= 0;
    SIM_REQUIRE(!armed || !room || !at_rest(to, lane), "%s sleeps and was not woken for room", process_name(p));
}

/* -- beginnings -------------------------------------------------------------------------------- */

_Noreturn static void refuse(const char *what, const struct err *err) {
    sim_fail("%s cannot attach: %s: %s", process_name(self()), what, err->text);
}

static struct ring_fds ring_of(const struct process *p, int at) {
    return (struct ring_fds){p->fds[at], p->fds[at + 1], p->fds[at + 2]};
}

static void producer(const struct process *p, struct ring_producer *ring, int at, int bell, struct err *err) {
    struct ring_fds fds = ring_of(p, at);
    enum ring_grade grade = ring_producer_attach(ring, &fds, p->fds[bell], err);
    if (grade != RING_ATTACHED) refuse(ring_grade_name(grade), err);
}

static void consumer(const struct process *p, struct ring_consumer *ring, int at, int bell, struct err *err) {
    struct ring_fds fds = ring_of(p, at);
    enum ring_grade grade = ring_consumer_attach(ring, &fds, p->fds[bell], err);
    if (grade != RING_ATTACHED) refuse(ring_grade_name(grade), err);
}

static void worker_begin(struct process *p) {
    struct worker *w = &p->worker;
    struct err err = {0};
    *w = (struct worker){.role = p->role,
                         .lane = p->lane,
                         .block_index = stats_block_index(p->role, p->lane),
                         .clock = &clock_real,
                         .attention = p->fds[AT_ATTENTION]};
    w->config = workspace_map(p->fds[AT_CONFIG], sizeof *w->config, false, NULL, &err);
    w->control = workspace_map(p->fds[AT_CONTROL], sizeof *w->control, false, NULL, &err);
    if (w->config == NULL || w->control == NULL || stats_map(&w->stats, p->fds[AT_STATS], &err) != 0)
        refuse("memory", &err);
    w->block = stats_block(&w->stats, w->block_index);
    w->starts = atomic_load(&w->block->starts);
    stats_local_init(&w->local, w->block);
    w->regime_since_ns = clock_ns(w->clock);
}

static void keys_make(struct audit_keys *keys) {
    *keys = (struct audit_keys){.id = 7};
    memset(keys->digest, 0x41, sizeof keys->digest);
    memset(keys->chain, 0x42, sizeof keys->chain);
    memset(keys->anchor_seed, 0x43, sizeof keys->anchor_seed);
}

/* -- ingest -- */

static void ingest_gone(struct process *p) {
    struct ingest *g = p->memory;
    if (g->store.fd >= 0) close(g->store.fd);
    if (g->store.folder_fd >= 0) close(g->store.folder_fd);
    sim_member_gone(&sim.kafka);
    sim.member_here = sim.later = false;
    sim.kafka.later->tag = 0; /* the brokers take nothing more from a member whose successor has come */
}

static void ingest_main(void *context) {
    struct process *p = context;
    struct ingest *g = p->memory;
    struct err err = {0};
    uint64_t incarnation[LANES_MAX];
    worker_begin(p);
    g->ledger = ledger_ingest_map(p->fds[AT_LEDGER], true, &err);
    g->audited = p->worker.config->audit ? ledger_audit_map(p->fds[AT_AUDITED], false, &err) : NULL;
    if (g->ledger == NULL || (p->worker.config->audit && g->audited == NULL)) refuse("ledger", &err);
    for (uint32_t i = 0; i < p->worker.config->lanes; i++) {
        int at = AT_LANES + (int)i * INGEST_LANE_FDS;
        producer(p, &g->lane[i].out, at, at + 7, &err);
        consumer(p, &g->lane[i].rejects, at + 3, at + 7, &err);
        g->lane[i].sink = ledger_sink_map(p->fds[at + 6], false, &err);
        if (g->lane[i].sink == NULL) refuse("ledger of the sink", &err);
        incarnation[i] = g->lane[i].rejects.incarnation;
    }
    if (rejects_store_open(&g->store, p->worker.config->data_dir, p->worker.config->rejects.max_bytes, incarnation,
                           p->worker.config->lanes, p->worker.clock, &err) != 0)
        refuse("rejects", &err);
    struct kafka_port port = sim_port(&sim.kafka);
    sim_joins();
    ingest_init(g, &p->worker, &port);
    worker_ready(&p->worker);
    struct worker_body body = {g, ingest_step, ingest_arm, ingest_disarm, ingest_wants};
    process_exit(worker_run(&p->worker, &body));
}

/* -- transform -- */

struct transform_life {
    struct ring_consumer in;
    struct ring_producer out, rejects;
    struct transform body;
};

static void transform_main(void *context) {
    struct process *p = context;
    struct transform_life *t = p->memory;
    struct audit_keys keys;
    struct err err = {0};
    enum { INGEST_BELL = AT_LANES + 9, SINK_BELL };
    worker_begin(p);
    consumer(p, &t->in, AT_LANES, INGEST_BELL, &err);
    producer(p, &t->out, AT_LANES + 3, SINK_BELL, &err);
    producer(p, &t->rejects, AT_LANES + 6, INGEST_BELL, &err);
    keys_make(&keys);
    struct transform_ports ports = {&p->worker, &t->in, &t->out, &t->rejects,
                                    ledger_ingest_map(p->fds[AT_LEDGER], false, &err)};
    if (ports.ledger == NULL ||
        transform_init(&t->body, &ports, NULL, p->worker.config->audit ? &keys : NULL, &err) != 0)
        refuse("body", &err);
    worker_ready(&p->worker);
    struct worker_body body = {
        .self = &t->body, .step = transform_step, .arm = transform_arm, .disarm = transform_disarm};
    process_exit(worker_run(&p->worker, &body));
}

static void transform_overslept(struct process *p) {
    const struct transform_life *t = p->memory;
    input_overslept(p, &t->in, ROLE_INGEST, 0);
    room_overslept(p, &t->out, ROLE_SINK, p->lane);
}

/* -- sink -- */

struct sink_life {
    struct ring_consumer in;
    struct ring_producer audit;
    struct sink body;
};

static int stream_start(void *context, struct err *err) {
    struct process *p = context;
    sim_place();
    p->stream.connection = redis_connect(p->lane);
    return p->stream.connection >= 0 ? 0 : err_set(err, ECONNREFUSED, "connection refused");
}

static int stream_finish(void *context, struct err *err) {
    (void)context, (void)err;
    sim_place();
    return 1;
}

static ssize_t stream_read(void *context, void *out, size_t len, struct err *err) {
    struct process *p = context;
    sim_place();
    ssize_t n = redis_client_read(p->stream.connection, out, len);
    return n >= 0 ? n : err_set(err, ECONNRESET, "Redis closed the connection");
}

static ssize_t stream_write(void *context, const void *bytes, size_t len, struct err *err) {
    struct process *p = context;
    sim_place();
    ssize_t n = redis_client_write(p->stream.connection, bytes, len);
    sim_place();
    return n >= 0 ? n : err_set(err, ECONNRESET, "Redis closed the connection");
}

static void stream_close(void *context) {
    struct process *p = context;
    sim_place();
    redis_client_close(p->stream.connection);
    p->stream.connection = -1;
}

static int stream_fd(void *context) { return 1000 + ((struct process *)context)->stream.connection; }
static short stream_events(void *context, bool writing) {
    (void)context;
    return writing ? POLLIN | POLLOUT : POLLIN;
}

static void sink_gone(struct process *p) {
    redis_client_close(p->stream.connection);
    p->stream.connection = -1;
}

static void sink_overslept(struct process *p) {
    input_overslept(p, &((struct sink_life *)p->memory)->in, ROLE_TRANSFORM, p->lane);
}

static void sink_main(void *context) {
    struct process *p = context;
    struct sink_life *s = p->memory;
    struct err err = {0};
    bool audited;
    worker_begin(p);
    audited = p->worker.config->audit;
    consumer(p, &s->in, AT_LANES, AT_LANES + 3, &err);
    if (audited) producer(p, &s->audit, AT_LANES + 5, AT_LANES + 8, &err);
    const struct ledger_ingest *plan = ledger_ingest_map(p->fds[AT_LEDGER], false, &err);
    struct ledger_sink *ledger = ledger_sink_map(p->fds[AT_LANES + 4], true, &err);
    if (plan == NULL || ledger == NULL) refuse("ledger", &err);
    struct stream_port stream = {stream_start, stream_finish, stream_read,   stream_write,
                                 stream_close, stream_fd,     stream_events, p};
    if (sink_init(&s->body, &p->worker, &s->in, audited ? &s->audit : NULL, plan, ledger, &stream, &err) != 0)
        refuse("body", &err);
    worker_ready(&p->worker);
    struct worker_body body = {
        .self = &s->body, .step = sink_step, .arm = sink_arm, .disarm = sink_disarm, .wants = sink_wants};
    process_exit(worker_run(&p->worker, &body));
}

/* -- audit -- */

struct audit_life {
    struct ring_consumer ring[LANES_MAX];
    struct audit body;
    char dir[PATH_BYTES + 16];
};

/* Its lock on the folder goes with it. */
static void audit_gone(struct process *p) {
    struct audit_life *a = p->memory;
    const struct log_writer *log = &a->body.scribe.log;
    if (log->folder_fd > 0) close(log->folder_fd);
    if (log->fd > 0) close(log->fd);
    if (log->mark != NULL) munmap(log->mark, sizeof *log->mark);
    free(log->area);
}

static void audit_overslept(struct process *p) {
    struct audit_life *a = p->memory;
    for (uint32_t i = 0; i < p->worker.config->lanes; i++) input_overslept(p, &a->ring[i], ROLE_SINK, i);
}

static void audit_main(void *context) {
    struct process *p = context;
    struct audit_life *a = p->memory;
    struct audit_keys keys;
    struct err err = {0};
    worker_begin(p);
    for (uint32_t i = 0; i < p->worker.config->lanes; i++) {
        int at = AT_LANES + (int)i * AUDIT_LANE_FDS;
        consumer(p, &a->ring[i], at, at + 3, &err);
    }
    log_dir(p->worker.config, a->dir);
    keys_make(&keys);
    struct audit_ports ports = {.worker = &p->worker,
                                .ring = a->ring,
                                .lanes = p->worker.config->lanes,
                                .plan = ledger_ingest_map(p->fds[AT_LEDGER], false, &err),
                                .ledger = ledger_audit_map(p->fds[AT_AUDITED], true, &err),
                                .dir = a->dir,
                                .files = &sim_files,
                                .keys = &keys};
    if (ports.plan == NULL || ports.ledger == NULL || audit_init(&a->body, &ports, &err) != 0) refuse("body", &err);
    worker_ready(&p->worker);
    struct worker_body body = {
        .self = &a->body, .step = audit_step, .arm = audit_arm, .disarm = audit_disarm, .wants = audit_wants};
    process_exit(worker_run(&p->worker, &body));
}

/* -- recon: outside the chain of records; here it only comes and goes -- */

static void recon_main(void *context) {
    struct process *p = context;
    worker_begin(p);
    worker_ready(&p->worker);
    while (worker_mode(&p->worker) == CONTROL_RUN) {
        atomic_store_explicit(&p->worker.block->heartbeat_ns, sim.now_ns, memory_order_relaxed);
        fiber_sleep(sim.now_ns + WAIT_MS_MAX * NS_PER_MS, false);
    }
    process_exit(0);
}

/* -- fork and exec ----------------------------------------------------------------------------- */

pid_t spawn_worker(const char *folder, const struct config *config, enum role role, uint32_t lane, uint64_t starts,
                   const int *fds, int n, int *pidfd, struct err *err) {
    static const struct {
        void (*main)(void *context);
        void (*gone)(struct process *p);
        void (*overslept)(struct process *p);
        size_t bytes;
    } of[ROLE_COUNT] = {[ROLE_INGEST] = {ingest_main, ingest_gone, NULL, sizeof(struct ingest)},
                        [ROLE_TRANSFORM] = {transform_main, NULL, transform_overslept, sizeof(struct transform_life)},
                        [ROLE_SINK] = {sink_main, sink_gone, sink_overslept, sizeof(struct sink_life)},
                        [ROLE_AUDIT] = {audit_main, audit_gone, audit_overslept, sizeof(struct audit_life)},
                        [ROLE_RECON] = {recon_main, NULL, NULL, 1}};
    (void)folder, (void)config, (void)starts, (void)err;
    struct process *p = &sim.process[stats_block_index(role, lane)];
    SIM_REQUIRE(p->pid == 0, "%s is started while one runs", process_name(p));
    p->role = role;
    p->lane = lane;
    p->pid = ++sim.pids;
    p->pidfd = *pidfd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    p->bell = p->watches = false;
    p->stopped_until_ns = 0;
    p->exit_signal = p->exit_code = 0;
    p->stream = (struct sim_stream){.connection = -1};
    p->memory = calloc(1, of[role].bytes);
    p->gone = of[role].gone;
    p->overslept = of[role].overslept;
    if (role == ROLE_INGEST)
        ((struct ingest *)p->memory)->store.fd = ((struct ingest *)p->memory)->store.folder_fd = -1;
    memcpy(p->fds, fds, (size_t)n * sizeof *fds);
    sim_trace("%s starts", process_name(p));
    fiber_begin(&p->fiber, of[role].main, p);
    return p->pid;
}

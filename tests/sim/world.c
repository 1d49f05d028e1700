/* The world: who has the next turn, what breaks, and the supervisor's loop around its own code. */
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "supervisor/phase.h"
#include "supervisor/reload.h"
#include "tests/sim/redis.h"

struct sim_world sim;

enum { TICK_MS = 50, CALM_S = 240, QUIET_S = 3, STORM_MS = 6000 };

/* -- chance and time --------------------------------------------------------------------------- */

uint32_t dice(uint32_t n) { return n > 1 ? random_below(&sim.random, n) : 0; }

static uint64_t world_ns(void *context) {
    (void)context;
    return sim.now_ns;
}

static int64_t world_wall_ms(void *context) {
    (void)context;
    return 1700000000000 + (int64_t)(sim.now_ns / NS_PER_MS);
}

static void world_random(void *context, void *out, size_t len) {
    (void)context;
    for (size_t i = 0; i < len; i++) ((uint8_t *)out)[i] = (uint8_t)random_next(&sim.clock_random);
}

const struct clock_port clock_real = {world_ns, world_wall_ms, world_ns, world_random, NULL};

/* -- what happened ----------------------------------------------------------------------------- */

void sim_note(uint64_t what) { sim.hash = (sim.hash ^ what) * 0x100000001b3ULL; }

static void trace_head(void) {
    printf("%10.3f %8" PRIu64 "  ", (double)(sim.now_ns - 1000 * NS_PER_S) / (double)NS_PER_MS, sim.turns);
}

void sim_trace(const char *format, ...) {
    va_list args;
    if (!sim.trace) return;
    trace_head();
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

void sim_fail(const char *format, ...) {
    va_list args;
    printf("seed %" PRIu64 " fails at turn %" PRIu64 ", %.3f ms: ", sim.seed, sim.turns,
           (double)(sim.now_ns - 1000 * NS_PER_S) / (double)NS_PER_MS);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    _exit(1);
}

void log_init(const char *instance, const char *role, int lane, int json, enum log_level level) {
    (void)instance, (void)role, (void)lane, (void)json, (void)level;
}

uint64_t log_dropped(void) { return 0; }

void log_event(struct log_site *site, enum log_level level, const char *event, const struct log_at *at,
               const char *format, ...) {
    va_list args;
    (void)site;
    if (!sim.trace || level == LOG_DEBUG) return;
    trace_head();
    printf("%s ", event);
    if (at != NULL) printf("%s[%d]@%" PRId64 " ", at->topic, at->partition, at->offset);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

const char *sim_base(void) { return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"; }

/* -- an instance ------------------------------------------------------------------------------- */

static struct config config;

static void topic_make(uint32_t i, uint32_t mode, uint32_t format, uint32_t type, const char *key, const char *old) {
    struct config_topic *t = &config.topic[i];
    snprintf(t->name, sizeof t->name, "topic%u", i);
    snprintf(t->key, sizeof t->key, "%s", key);
    snprintf(t->old_key, sizeof t->old_key, "%s", old);
    if (mode == MODE_CHANGE) snprintf(t->operation_header, sizeof t->operation_header, "op");
    t->mode = mode;
    t->format = format;
    t->value_type = type;
    t->reconcile = RECONCILE_DIGEST;
}

static void config_make(void) {
    struct config *c = &config;
    c->abi = CONFIG_ABI;
    snprintf(c->name, sizeof c->name, "sim");
    snprintf(c->instance, sizeof c->instance, "node");
    snprintf(c->run_dir, sizeof c->run_dir, "%s", sim.folder);
    snprintf(c->data_dir, sizeof c->data_dir, "%s", sim.folder);
    snprintf(c->kafka.group_id, sizeof c->kafka.group_id, "g");
    snprintf(c->recon.keys, sizeof c->recon.keys, "none");
    c->lanes = 1 + dice(SIM_LANES);
    c->audit = dice(2);
    c->start = START_EARLIEST;
    c->ring_bytes = 16384;
    c->drain_timeout_ms = 30000;
    c->heartbeat_timeout_ms = 2000;
    c->restart.limit = 1000;
    c->restart.window_ms = 60000;
    c->restart.backoff_ms_max = 500;
    c->poison.attempts = 2 + dice(2);
    c->poison.limit = 100;
    c->rejects.max_bytes = 1 << 24;
    c->kafka.session_timeout_ms = 6000;
    c->redis.scheme = REDIS_UNIX;
    c->redis.batch = 1 + dice(12);
    c->redis.in_flight = c->redis.batch * (1 + dice(4));
    c->redis.linger_ms = dice(3) == 0 ? 5 : 0;
    c->redis.connect_timeout_ms = c->redis.response_timeout_ms = 500;
    c->redis.when_marks_missing = MARKS_MISSING_REBUILD;
    c->recon.commit_interval_ms = 5 + dice(100);
    c->recon.commit_records = 1 + dice(60);
    c->recon.segment_bytes = 20000;
    c->recon.retention_ms = 3600000;
    c->recon.retention_bytes = 1ULL << 40;
    c->topic_count = 3;
    topic_make(0, MODE_BULK, FORMAT_RAW, VALUE_TYPE_STRING, "{$key}", "");
    topic_make(1, MODE_CHANGE, FORMAT_JSON, VALUE_TYPE_STRING, "c:{k}", "c:{o}");
    topic_make(2, MODE_CHANGE, FORMAT_JSON, VALUE_TYPE_HASH, "h:{k}", "h:{o}");
}

static void instance_begin(void) {
    static struct supervisor life[64];
    struct err err = {0};
    SIM_REQUIRE(sim.count.instances < 64, "too many instances");
    struct supervisor *s = sim.supervisor = &life[sim.count.instances++];
    s->config = config;
    notify_init(&s->notify);
    s->files = reload_files(&config);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    SIM_REQUIRE(plumbing_create(&s->plumbing, &s->config, &err) == 0, "plumbing: %s", err.text);
    SIM_REQUIRE(supervisor_populate(s, &err) == 0, "children: %s", err.text);
    sim_trace("an instance begins: %u lanes, audit %s", config.lanes, config.audit ? "on" : "off");
    oracle_attach();
    sim.lives = s->plumbing.lives;
    phase_start(s);
}

static void instance_gone(void) {
    sim.again = true;
    for (uint32_t i = 1; i < SIM_BLOCKS; i++) {
        process_killed(&sim.process[i], SIGKILL);
        free(sim.process[i].memory);
        sim.process[i].memory = NULL;
        sim.process[i].pid = 0;
        sim.process[i].fiber.state = FIBER_NONE;
    }
    oracle_committed();
    sim.supervisor = NULL;
    sim.begin_ns = sim.now_ns + dice(1000) * NS_PER_MS;
}

/* One round of the supervisor's loop. */
static void supervisor_turn(void) {
    struct supervisor *s = sim.supervisor;
    if (s == NULL) {
        if (sim.now_ns >= sim.begin_ns) instance_begin();
        return;
    }
    for (uint32_t i = 0; i < s->child_count; i++) child_reap(&s->child[i], &s->context);
    for (uint32_t i = 0; i < s->child_count; i++) child_look(&s->child[i], &s->context, false);
    stats_flush(&s->local);
    phase_look(s);
    if (s->plumbing.lives != sim.lives) {
        sim.lives = s->plumbing.lives;
        sim.again = true;
        sim.count.resets++;
        oracle_attach();
    }
    if (s->phase != PHASE_DONE || sim.stopping) return;
    SIM_REQUIRE(sim.storm, "the instance gives up with status %d", s->exit_status);
    sim.count.gave_up++;
    instance_gone();
}

/* -- Kafka ------------------------------------------------------------------------------------- */

void sim_joins(void) {
    sim.member_here = true;
    sim.given = false;
    sim.give_ns = sim.now_ns + (20 + dice(200)) * NS_PER_MS;
}

static void kafka_call(void *context, const char *call) {
    struct sim *k = context;
    sim_place();
    if (!sim.storm || fiber_current() == NULL) return;
    bool asks = strcmp(call, "committed") == 0 || strcmp(call, "watermarks") == 0 || strcmp(call, "ends") == 0;
    if (asks && sim.broker != 0 && dice(sim.broker) == 0) sim_block(dice(1000));
    if (asks && sim.broker != 0 && dice(sim.broker) == 0) k->committed_fails = k->watermarks_fail = 1;
    if (strcmp(call, "commit") == 0) {
        static const enum answer answers[] = {ANSWER_FAILS,   ANSWER_NEVER_DONE, ANSWER_NEVER_LOST,
                                              ANSWER_REFUSED, ANSWER_LATER,      ANSWER_OK};
        k->answer = sim.broker != 0 && dice(3) == 0 && !sim.later ? answers[dice(6)] : ANSWER_OK;
        if (k->answer == ANSWER_LATER) {
            sim.later = true;
            sim.later_ns = sim.now_ns + dice(3000) * NS_PER_MS;
        }
        sim.count.commits_lost += k->answer != ANSWER_OK;
    }
}

static void kafka_turn(void) {
    struct sim *k = &sim.kafka;
    if (sim.later && sim.now_ns >= sim.later_ns) {
        sim.later = false;
        if (sim.member_here && k->later->tag != 0) sim_answer_now(k);
        k->later->tag = 0;
    }
    if (!sim.member_here || sim.given || sim.now_ns < sim.give_ns) return;
    uint64_t mask = 0;
    for (uint32_t i = 0; i < sim.parts; i++) mask |= (uint64_t)sim.part[i].mine << i;
    sim.given = true;
    sim_give(k, mask);
}

static void kafka_make(void) {
    struct sim *k = &sim.kafka;
    k->event = calloc(SIM_EVENTS_MAX, sizeof *k->event);
    k->later = calloc(1, sizeof *k->later);
    k->before = kafka_call;
    k->on_commit = oracle_commit;
    k->context = k;
    snprintf(k->cluster, sizeof k->cluster, "SIM");
    for (uint32_t t = 0; t < 3; t++)
        for (int32_t i = 0, n = 1 + (int32_t)dice(2); i < n; i++) {
            sim.part[sim.parts].kafka = sim_partition_add(k, t, i);
            sim.part[sim.parts].mine = true;
            sim.parts++;
        }
}

static void publish_some(uint32_t at_most) {
    for (uint32_t i = 0; i < sim.parts; i++)
        for (uint32_t n = dice(at_most); n > 0; n--) oracle_publish(i);
}

/* -- what breaks ------------------------------------------------------------------------------- */

enum fault {
    FAULT_KILL,
    FAULT_STOP,
    FAULT_INSTANCE,
    FAULT_CRASH,
    FAULT_FLUSH,
    FAULT_STALL,
    FAULT_REFUSE,
    FAULT_CUT,
    FAULT_FETCH,
    FAULTS
};

static struct process *somebody(void) {
    for (int tries = 0; tries < 8; tries++) {
        struct process *p = &sim.process[1 + dice(SIM_BLOCKS - 1)];
        if (p->pid != 0 && p->fiber.state != FIBER_DEAD && p->role != ROLE_RECON) return p;
    }
    return NULL;
}

static void fault_process(enum fault what) {
    struct process *p = somebody();
    if (p == NULL) return;
    if (what == FAULT_STOP) {
        sim.count.stops++;
        p->stopped_until_ns = sim.now_ns + (10 + dice(dice(4) == 0 ? 4000 : 600)) * NS_PER_MS;
        sim_trace("fault: %s is stopped", process_name(p));
    } else if (p->fiber.die_in == 0) {
        sim.count.deaths++;
        p->fiber.die_in = 1 + dice(dice(2) == 0 ? 60 : 2500);
        p->fiber.die_signal = SIGKILL;
        sim_trace("fault: %s will be killed in %d places", process_name(p), (int)p->fiber.die_in);
    }
}

static void fault_redis(enum fault what) {
    static const enum redis_refusal refusals[] = {REFUSE_OOM, REFUSE_LOADING, REFUSE_READONLY, REFUSE_MISCONF};
    switch (what) {
    case FAULT_CRASH: {
        uint32_t lose = dice(2) == 0 ? dice(80) : 0;
        sim_trace("fault: Redis crashes and loses %u writes", lose);
        if (lose > 0) sim.again = true;
        redis_crash(lose, dice(1500));
        break;
    }
    case FAULT_FLUSH:
        sim_trace("fault: Redis is flushed");
        sim.again = true;
        redis_flush();
        break;
    case FAULT_STALL: redis_weather.stalled_until_ns = sim.now_ns + dice(2000) * NS_PER_MS; break;
    case FAULT_REFUSE:
        redis_weather.refuse = refusals[dice(4)];
        redis_weather.refuse_until_ns = sim.now_ns + dice(1500) * NS_PER_MS;
        sim_trace("fault: Redis refuses, %u", redis_weather.refuse);
        break;
    default: redis_cut(1 + dice(dice(2) == 0 ? 400 : 4000)); break;
    }
}

static void fault_now(void) {
    enum fault what = (enum fault)dice(FAULTS);
    if ((sim.faults & 1U << what) == 0) return;
    sim_note((uint64_t)what + 77);
    switch (what) {
    case FAULT_KILL:
    case FAULT_STOP: fault_process(what); break;
    case FAULT_INSTANCE:
        if (sim.supervisor == NULL || dice(4) != 0) return;
        sim_trace("fault: the instance is killed");
        instance_gone();
        break;
    case FAULT_FETCH: {
        struct sim_partition *p = sim.part[dice(sim.parts)].kafka;
        p->fail_code = 2;
        p->fail_skips = (int)dice(4);
        sim.count.fetch_errors++;
        break;
    }
    default: fault_redis(what); break;
    }
}

static void storm_ends(void) {
    sim_trace("the storm is over");
    sim.storm = false;
    redis_calm();
    for (uint32_t i = 0; i < SIM_BLOCKS; i++) {
        sim.process[i].fiber.die_in = 0;
        sim.process[i].stopped_until_ns = 0;
    }
    for (uint32_t i = 0; i < sim.parts; i++) sim.part[i].kafka->fail_code = 0;
    sim.kafka.answer = ANSWER_OK;
    sim.kafka.committed_fails = sim.kafka.watermarks_fail = 0;
}

static void weather_turn(void) {
    if (redis_weather.refuse != REFUSE_NONE && sim.now_ns >= redis_weather.refuse_until_ns)
        redis_weather.refuse = REFUSE_NONE;
    if (!sim.storm) return;
    if (sim.now_ns >= sim.publish_ns) {
        publish_some(5);
        sim.publish_ns = sim.now_ns + dice(400) * NS_PER_MS;
    }
    if (sim.now_ns >= sim.fault_ns) {
        fault_now();
        sim.fault_ns = sim.now_ns + dice(2 * sim.pause_ms) * NS_PER_MS;
    }
    if (sim.now_ns >= sim.storm_until_ns) storm_ends();
}

/* -- turns ------------------------------------------------------------------------------------- */

static bool runnable(const struct process *p) {
    const struct fiber *f = &p->fiber;
    if (p->pid == 0 || sim.now_ns < p->stopped_until_ns) return false;
    if (f->state == FIBER_READY) return true;
    if (f->state != FIBER_ASLEEP) return false;
    if (sim.now_ns >= f->wake_ns) return true;
    return !f->blocks && (p->bell || (p->watches && redis_client_readable(p->stream.connection)));
}

static void earliest(uint64_t *at, uint64_t ns) {
    if (ns > sim.now_ns && ns < *at) *at = ns;
}

/* Nobody can go on: the next moment at which somebody can. */
static void time_passes(void) {
    uint64_t at = sim.tick_ns;
    for (uint32_t i = 1; i < SIM_BLOCKS; i++) {
        const struct process *p = &sim.process[i];
        if (p->pid == 0) continue;
        if (p->stopped_until_ns > sim.now_ns)
            earliest(&at, p->stopped_until_ns);
        else if (p->fiber.state == FIBER_ASLEEP)
            earliest(&at, p->fiber.wake_ns);
    }
    if (redis_weather.stalled_until_ns > sim.now_ns) earliest(&at, redis_weather.stalled_until_ns);
    if (redis_weather.down_until_ns > sim.now_ns) earliest(&at, redis_weather.down_until_ns);
    if (sim.storm) earliest(&at, sim.fault_ns);
    sim.now_ns = at > sim.now_ns ? at : sim.now_ns + NS_PER_MS;
}

static void turn(void) {
    uint32_t ready[SIM_BLOCKS + 1], n = 0;
    sim.turns++;
    weather_turn();
    kafka_turn();
    bool dead = false;
    for (uint32_t i = 1; i < SIM_BLOCKS; i++) {
        if (runnable(&sim.process[i])) ready[n++] = i;
        dead |= sim.process[i].pid != 0 && sim.process[i].fiber.state == FIBER_DEAD;
    }
    if (sim.now_ns >= sim.tick_ns || (dead && dice(8) == 0)) {
        sim.tick_ns = sim.now_ns + TICK_MS * NS_PER_MS;
        supervisor_turn();
        return;
    }
    if (redis_runnable()) ready[n++] = 0;
    if (n == 0) {
        time_passes();
        return;
    }
    uint32_t who = ready[dice(n)];
    sim_note(who);
    sim.now_ns += dice(20000);
    if (who == 0)
        redis_turn();
    else
        fiber_run(&sim.process[who].fiber);
}

static void world_make(uint64_t seed, bool trace) {
    sim.seed = seed;
    sim.random = seed * 0x9e3779b97f4a7c15ULL + 0x2545f4914f6cdd1dULL;
    if (sim.random == 0) sim.random = 1;
    for (int i = 0; i < 8; i++) random_next(&sim.random);
    sim.clock_random = sim.random ^ 0x5555;
    sim.trace = trace;
    sim.now_ns = 1000 * NS_PER_S;
    sim.hash = 0xcbf29ce484222325ULL;
    snprintf(sim.folder, sizeof sim.folder, "%s/millrace-sim-%d", sim_base(), (int)getpid());
    SIM_REQUIRE(mkdir(sim.folder, 0700) == 0, "no folder %s", sim.folder);
    config_make();
    kafka_make();
    redis_init();
    sim.preempt = 1U << (2 + dice(7));
    sim.faults = random_next(&sim.random) & random_next(&sim.random) & ((1U << FAULTS) - 1);
    if (dice(6) == 0) sim.faults = (1U << FAULTS) - 1;
    sim.disk = dice(3) == 0 ? 20 : 0;
    sim.broker = dice(3) == 0 ? 4 : 0;
    sim.poisons_left = dice(3) == 0 ? 2 : 0;
    sim.pause_ms = 5 + dice(dice(2) == 0 ? 40 : 300);
    sim.storm = true;
    sim.storm_until_ns = sim.now_ns + (1000 + dice(STORM_MS)) * NS_PER_MS;
    sim.fault_ns = sim.now_ns + dice(1000) * NS_PER_MS;
    publish_some(12);
}

static void stop_in_order(void) {
    uint64_t limit = sim.now_ns + 60 * NS_PER_S;
    sim.stopping = true;
    phase_stop(sim.supervisor);
    while (sim.supervisor->phase != PHASE_DONE) {
        SIM_REQUIRE(sim.now_ns < limit, "the instance does not stop: %s", phase_name(sim.supervisor));
        turn();
        oracle_look();
    }
    SIM_REQUIRE(sim.supervisor->exit_status == EX_OK, "the instance stops with status %d", sim.supervisor->exit_status);
}

void sim_run(uint64_t seed, bool trace) {
    world_make(seed, trace);
    instance_begin();
    while (sim.storm) {
        turn();
        oracle_look();
    }
    uint64_t limit = sim.now_ns + CALM_S * NS_PER_S, quiet_ns = sim.now_ns;
    while (sim.now_ns - quiet_ns <
           QUIET_S * NS_PER_S) { /* a sink that has nothing to do looks at its marks meanwhile */
        if (!oracle_quiet() || sim.supervisor == NULL) quiet_ns = sim.now_ns;
        SIM_REQUIRE(sim.now_ns < limit, "it stands still: %s", oracle_waits());
        turn();
        oracle_look();
    }
    oracle_end();
    stop_in_order();
    oracle_end();
}

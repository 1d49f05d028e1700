/* Rig: a sink in this process between a real ring and a real redis-server, for the tests of this folder.
 *
 * The server is started by the test on a unix socket in a folder of its own, and dies with the test. Every test is a
 * process of its own, so the rig is static. */
#ifndef MILLRACE_TESTS_SINK_RIG_H
#define MILLRACE_TESTS_SINK_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "shm/ledger.h"
#include "shm/record.h"
#include "shm/ring.h"
#include "shm/worker.h"
#include "sink/sink.h"
#include "sink/stream_tls.h"

#define RIG_TOPIC "cards"
#define RIG_MARK(partition) "millrace:mark:g:" RIG_TOPIC ":" #partition

/* -- a redis-server ---------------------------------------------------------------------------- */

struct rig_redis {
    char dir[64], path[96];
    pid_t pid;
    redisContext *c;           /* the test's own connection */
    const char *arguments[16]; /* beyond the usual ones; kept for a restart */
};

__attribute__((unused)) static void redis_connect(struct rig_redis *r) {
    if (r->c != NULL) redisFree(r->c);
    r->c = NULL;
    for (int i = 0; i < 500; i++) {
        r->c = redisConnectUnix(r->path);
        redisReply *reply = r->c != NULL && r->c->err == 0 ? redisCommand(r->c, "PING") : NULL;
        bool up = reply != NULL && (reply->type == REDIS_REPLY_STATUS || strncmp(reply->str, "NOAUTH", 6) == 0);
        if (reply != NULL) freeReplyObject(reply);
        if (up) return;
        if (r->c != NULL) redisFree(r->c);
        r->c = NULL;
        usleep(10000);
    }
    cr_assert_fail("redis-server did not come up");
}

__attribute__((unused)) static void redis_spawn(struct rig_redis *r) {
    const char *argv[32] = {"redis-server", "--port", "0",          "--unixsocket", r->path,     "--dir",    r->dir,
                            "--save",       "",       "--loglevel", "warning",      "--logfile", "redis.log"};
    int n = 13;
    for (int i = 0; r->arguments[i] != NULL; i++) argv[n++] = r->arguments[i];
    pid_t parent = getpid();
    r->pid = fork();
    if (r->pid != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

/* Further arguments of redis-server, NULL at the end. */
__attribute__((unused)) static void redis_start(struct rig_redis *r, ...) {
    va_list args;
    va_start(args, r);
    *r = (struct rig_redis){.pid = -1};
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 15 && (r->arguments[i] = va_arg(args, const char *)) != NULL; i++) {
    }
    va_end(args);
    snprintf(r->dir, sizeof r->dir, "/tmp/millrace-sink-XXXXXX");
    cr_assert(mkdtemp(r->dir) != NULL);
    snprintf(r->path, sizeof r->path, "%s/redis.sock", r->dir);
    redis_spawn(r);
    redis_connect(r);
}

__attribute__((unused)) static void redis_kill(struct rig_redis *r) {
    if (r->pid <= 0) return;
    kill(r->pid, SIGKILL);
    waitpid(r->pid, NULL, 0);
    r->pid = -1;
    unlink(r->path);
}

static int redis_remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

__attribute__((unused)) static void redis_stop(struct rig_redis *r) {
    if (r->c != NULL) redisFree(r->c);
    r->c = NULL;
    redis_kill(r);
    nftw(r->dir, redis_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* The answer as text: strings as they are, integers in decimal, "(nil)". Two answers stay valid at a time. */
__attribute__((unused, format(printf, 2, 3))) static const char *redis_say(struct rig_redis *r, const char *format,
                                                                           ...) {
    static char text[2][4096];
    static int turn;
    char *out = text[turn = !turn];
    va_list args;
    va_start(args, format);
    redisReply *reply = redisvCommand(r->c, format, args);
    va_end(args);
    cr_assert(reply != NULL, "the test's connection is gone: %s", r->c->errstr);
    if (reply->type == REDIS_REPLY_NIL)
        snprintf(out, sizeof text[0], "(nil)");
    else if (reply->type == REDIS_REPLY_INTEGER)
        snprintf(out, sizeof text[0], "%lld", reply->integer);
    else
        snprintf(out, sizeof text[0], "%s", reply->str != NULL ? reply->str : "");
    freeReplyObject(reply);
    return out;
}

/* A command of many words, separated by single spaces, that has to be answered with OK. */
__attribute__((unused)) static void redis_words(struct rig_redis *r, const char *words) {
    char copy[1024], *save = NULL;
    const char *argv[64];
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *w = strtok_r(copy, " ", &save); w != NULL && argc < 64; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
    redisReply *reply = redisCommandArgv(r->c, argc, argv, NULL);
    cr_assert(reply != NULL && reply->type == REDIS_REPLY_STATUS, "%s: %s", words,
              reply != NULL ? reply->str : "no answer");
    freeReplyObject(reply);
}

#define redis_is(r, expected, ...)                                                                                     \
    do {                                                                                                               \
        const char *redis_is_got = redis_say(r, __VA_ARGS__);                                                          \
        cr_assert_str_eq(redis_is_got, expected, "%s: got %.200s, expected %.200s", #__VA_ARGS__, redis_is_got,        \
                         expected);                                                                                    \
    } while (0)

/* The mark without its last word, which says by which record the topic is known. */
#define mark_is(r, expected, key)                                                                                      \
    do {                                                                                                               \
        char mark_is_got[256];                                                                                         \
        snprintf(mark_is_got, sizeof mark_is_got, "%s", redis_say(r, "GET %s", key));                                  \
        char *mark_is_last = strrchr(mark_is_got, ' ');                                                                \
        cr_assert(mark_is_last != NULL && (strchr(mark_is_last, ':') != NULL || strcmp(mark_is_last, " -") == 0),      \
                  "%s", mark_is_got);                                                                                  \
        *mark_is_last = 0;                                                                                             \
        cr_assert_str_eq(mark_is_got, expected, "got %s, expected %s", mark_is_got, expected);                         \
    } while (0)

/* Makes the server listen on a free port of 127.0.0.1, too. Returns the port. */
__attribute__((unused)) static uint16_t redis_listen_tcp(struct rig_redis *r) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(bind(fd, (struct sockaddr *)&a, len) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0);
    close(fd);
    redis_is(r, "OK", "CONFIG SET bind 127.0.0.1");
    redis_is(r, "OK", "CONFIG SET port %u", ntohs(a.sin_port));
    return ntohs(a.sin_port);
}

/* -- a sink between a ring and that server ----------------------------------------------------- */

struct rig {
    struct config config;
    struct control control;
    struct stats_block block;
    struct worker worker;
    struct ring_fds fds;
    struct ring_producer producer;
    struct ring_consumer ring;
    struct ring_fds audit_fds;
    struct ring_producer audit; /* attached when `audited` */
    bool audited;               /* rig_audit: records have traces, and what became of them goes to a ring */
    struct ledger_ingest *plan;
    struct ledger_sink *ledger;
    struct stream_socket socket;
    struct stream_tls tls; /* over it, when the scheme says so */
    struct sink sink;
    enum step last;
    int64_t next[PARTITIONS_MAX]; /* offset of the next record */
    struct clock_port fast;       /* rig_hurry */
    uint32_t speed;               /* how much faster the sink's clock goes; 0: it is the real one */
};

static uint64_t rig_fast_ns(void *rig) { return clock_ns(&clock_real) * ((struct rig *)rig)->speed; }
static int64_t rig_fast_wall_ms(void *rig) { return (void)rig, clock_wall_ms(&clock_real); }
static uint64_t rig_fast_boot_ns(void *rig) { return (void)rig, clock_boot_ns(&clock_real); }
static void rig_fast_random(void *rig, void *out, size_t len) { memset(out, 0, ((void)rig, len)); }

/* From the next rig_attach on the sink's waits are `speed` times as short, and without jitter. */
__attribute__((unused)) static void rig_hurry(struct rig *r, uint32_t speed) {
    r->fast = (struct clock_port){rig_fast_ns, rig_fast_wall_ms, rig_fast_boot_ns, rig_fast_random, r};
    r->speed = speed;
    r->config.redis.connect_timeout_ms *= speed;
    r->config.redis.response_timeout_ms *= speed;
}

__attribute__((unused)) static void rig_attach(struct rig *r) {
    struct err err = {0};
    r->worker = (struct worker){.role = ROLE_SINK,
                                .config = &r->config,
                                .control = &r->control,
                                .block = &r->block,
                                .clock = r->speed != 0 ? &r->fast : &clock_real,
                                .attention = -1,
                                .starts = 1};
    stats_local_init(&r->worker.local, &r->block);
    cr_assert_eq(ring_consumer_attach(&r->ring, &r->fds, -1, &err), RING_ATTACHED, "%s", err.text);
    stream_socket_init(&r->socket, &r->config);
    struct stream_port stream = stream_socket_port(&r->socket);
    if (r->config.redis.scheme == REDIS_TLS) {
        stream_tls_init(&r->tls, &r->config, &stream);
        stream = stream_tls_port(&r->tls);
    }
    if (r->audited)
        cr_assert_eq(ring_producer_attach(&r->audit, &r->audit_fds, -1, &err), RING_ATTACHED, "%s", err.text);
    struct ring_producer *audit = r->audited ? &r->audit : NULL;
    cr_assert_eq(sink_init(&r->sink, &r->worker, &r->ring, audit, r->plan, r->ledger, &stream, &err), 0, "%s",
                 err.text);
}

/* Partitions 0 … n-1 of one topic, in slots of the same number, at their first start. */
__attribute__((unused)) static void rig_init(struct rig *r, const struct rig_redis *redis, uint32_t partitions) {
    struct err err = {0};
    log_init("", "sink", 0, 0, LOG_ERROR);
    memset(r, 0, sizeof *r);
    snprintf(r->config.name, sizeof r->config.name, "t");
    snprintf(r->config.instance, sizeof r->config.instance, "i1");
    snprintf(r->config.kafka.group_id, sizeof r->config.kafka.group_id, "g");
    snprintf(r->config.topic[0].name, sizeof r->config.topic[0].name, RIG_TOPIC);
    if (redis != NULL) snprintf(r->config.redis.path, sizeof r->config.redis.path, "%s", redis->path);
    r->config.topic_count = 1;
    r->config.lanes = 1;
    r->config.redis.scheme = REDIS_UNIX;
    r->config.redis.batch = 10;
    r->config.redis.in_flight = 50;
    r->config.redis.connect_timeout_ms = 2000;
    r->config.redis.response_timeout_ms = 2000;
    cr_assert_eq(ring_create(&r->fds, "t", 1 << 20, 0, 7, &err), 0, "%s", err.text);
    cr_assert_eq(ring_producer_attach(&r->producer, &r->fds, -1, &err), RING_ATTACHED, "%s", err.text);
    r->plan = ledger_ingest_map(ledger_ingest_create(&err), true, &err);
    r->ledger = ledger_sink_map(ledger_sink_create(0, &err), true, &err);
    cr_assert(r->plan != NULL && r->ledger != NULL, "%s", err.text);
    for (uint32_t i = 0; i < partitions; i++) {
        r->plan->slot[i].partition = (int32_t)i;
        atomic_store(&r->plan->slot[i].epoch, 1);
        atomic_store(&r->plan->slot[i].flags, LEDGER_ASSIGNED | LEDGER_FIRST_START);
    }
    atomic_store(&r->plan->count, partitions);
    atomic_store(&r->plan->lease_until_ns, UINT64_MAX);
    rig_attach(r);
}

/* Another ring in place of the first, before anything was put into it. */
__attribute__((unused)) static void rig_ring(struct rig *r, uint64_t capacity) {
    struct err err = {0};
    sink_free(&r->sink);
    ring_consumer_detach(&r->ring);
    ring_producer_detach(&r->producer);
    cr_assert_eq(ring_create(&r->fds, "t", capacity, 0, 8, &err), 0, "%s", err.text);
    cr_assert_eq(ring_producer_attach(&r->producer, &r->fds, -1, &err), RING_ATTACHED, "%s", err.text);
    rig_attach(r);
}

/* A ring to audit, too, before anything was put into the other one. */
__attribute__((unused)) static void rig_audit(struct rig *r, uint64_t capacity) {
    struct err err = {0};
    sink_free(&r->sink);
    ring_consumer_detach(&r->ring);
    cr_assert_eq(ring_create(&r->audit_fds, "a", capacity, 0, 7, &err), 0, "%s", err.text);
    r->audited = true;
    rig_attach(r);
}

/* What is left when the process dies: nothing is released, the connection just ends. */
__attribute__((unused)) static void rig_crash(struct rig *r) {
    sink_free(&r->sink);
    if (r->tls.method != NULL) stream_tls_free(&r->tls);
    ring_consumer_detach(&r->ring);
    if (r->audited) ring_producer_detach(&r->audit);
}

struct rig_record {
    enum record_op op;
    uint32_t partition;
    const char *key, *old_key, *value; /* NULL: none */
    size_t value_bytes;                /* 0: strlen */
    int64_t expire_at_ms;
    uint32_t epoch; /* 0: 1 */
    uint16_t flags;
    int64_t timestamp_ms; /* 0: now */
    const char *content;  /* with audit: the sealed original; NULL none */
    bool untraced;        /* with audit: of a topic that is not reconciled */
};

/* The trace of a record with this head, as transform makes it but for the digests, which are made of the lengths. */
__attribute__((unused)) static struct record_trace rig_trace(const struct record *head, const struct rig_record *p) {
    struct record_trace t = {.producer = 77,
                             .sequence = (uint64_t)head->offset + 1,
                             .created_ms = 1234,
                             .transform_ns = head->ingest_ns + 5000,
                             .published_bytes = head->value_bytes + 1,
                             .stored_bytes = head->value_bytes,
                             .flags = TRACE_DECLARED | TRACE_CREATED,
                             .content_bytes = p->content != NULL ? (uint32_t)strlen(p->content) : 0};
    memset(t.digest_key, (int)head->redis_key_bytes, sizeof t.digest_key);
    memset(t.digest_old_key, (int)head->old_key_bytes, sizeof t.digest_old_key);
    memset(t.load, 0x10, sizeof t.load);
    return t;
}

__attribute__((unused)) static bool rig_try(struct rig *r, struct rig_record p) {
    struct record head = {.op = (uint8_t)p.op,
                          .reason = p.op == RECORD_REJECT ? REASON_JSON_INVALID : REASON_NONE,
                          .slot = (uint16_t)p.partition,
                          .flags = p.flags,
                          .partition = (int32_t)p.partition,
                          .epoch = p.epoch != 0 ? p.epoch : 1,
                          .offset = r->next[p.partition],
                          .timestamp_ms = p.timestamp_ms != 0 ? p.timestamp_ms : clock_wall_ms(&clock_real),
                          .ingest_ns = (int64_t)clock_ns(&clock_real),
                          .expire_at_ms = p.expire_at_ms,
                          .redis_key_bytes = p.key != NULL ? (uint32_t)strlen(p.key) : 0,
                          .old_key_bytes = p.old_key != NULL ? (uint32_t)strlen(p.old_key) : 0};
    if (p.value != NULL) head.value_bytes = (uint32_t)(p.value_bytes != 0 ? p.value_bytes : strlen(p.value));
    struct record_trace trace = {0};
    if (r->audited && !p.untraced && p.op != RECORD_SKIP) {
        head.flags |= RECORD_TRACED;
        head.digest_algorithm = 1;
        memset(head.digest_published, 0x20, sizeof head.digest_published);
        memset(head.digest_stored, 0x30, sizeof head.digest_stored);
        memset(head.id, (int)head.offset, sizeof head.id);
        trace = rig_trace(&head, &p);
    }
    size_t len = record_bytes(&head) + trace.content_bytes;
    uint8_t *at = ring_reserve(&r->producer, (uint32_t)len);
    if (at == NULL) return false;
    memcpy(at, &head, sizeof head);
    at += sizeof head;
    if ((head.flags & RECORD_TRACED) != 0) memcpy(at, &trace, sizeof trace);
    at += head.flags & RECORD_TRACED ? sizeof trace : 0;
    if (p.key != NULL) memcpy(at, p.key, head.redis_key_bytes);
    at += head.redis_key_bytes;
    if (p.old_key != NULL) memcpy(at, p.old_key, head.old_key_bytes);
    at += head.old_key_bytes;
    if (p.value != NULL) memcpy(at, p.value, head.value_bytes);
    if (p.content != NULL) memcpy(at + head.value_bytes, p.content, trace.content_bytes);
    ring_stage(&r->producer, (uint32_t)len, RECORD_DATA);
    r->next[p.partition]++;
    return true;
}

#define rig_put(r, ...) cr_assert(rig_try(r, (struct rig_record){__VA_ARGS__}), "the ring is full")
#define rig_add(r, p, k, v) rig_put(r, .op = RECORD_ADD, .partition = (p), .key = (k), .value = (v))

/* An add or update of a hash: fields as "name=value name=value". More of the record after it. */
__attribute__((unused)) static const char *rig_list(const char *fields, size_t *len) {
    static char list[4096];
    char copy[2048], *save = NULL;
    uint32_t count = 0;
    *len = RECORD_FIELDS_HEAD;
    snprintf(copy, sizeof copy, "%s", fields);
    for (char *word = strtok_r(copy, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save), count++) {
        char *value = strchr(word, '=');
        uint32_t lens[2] = {(uint32_t)(value - word), (uint32_t)strlen(value + 1)};
        memcpy(list + *len, lens, 8);
        memcpy(list + *len + 8, word, lens[0]);
        memcpy(list + *len + 8 + lens[0], value + 1, lens[1]);
        *len += 8 + lens[0] + lens[1];
    }
    memcpy(list, &count, 4);
    return list;
}

#define rig_hash(r, p, k, fields, ...)                                                                                 \
    do {                                                                                                               \
        size_t rig_hash_bytes;                                                                                         \
        const char *rig_hash_list = rig_list(fields, &rig_hash_bytes);                                                 \
        rig_put(r, .op = RECORD_UPDATE, .flags = RECORD_VALUE_FIELDS, .partition = (p), .key = (k),                    \
                .value = rig_hash_list, .value_bytes = rig_hash_bytes, __VA_ARGS__);                                   \
    } while (0)

/* One step, and a nap when it found nothing to do. */
__attribute__((unused)) static enum step rig_step(struct rig *r) {
    r->last = sink_step(&r->sink);
    if (r->last != STEP_IDLE && r->last != STEP_BLOCKED) return r->last;
    struct pollfd fds[2];
    int timeout_ms = 10;
    if (!sink_arm(&r->sink)) {
        int n = sink_wants(&r->sink, fds, 2, &timeout_ms);
        struct timespec nap = {.tv_nsec = timeout_ms * (long)NS_PER_MS / (r->speed != 0 ? r->speed : 1)};
        ppoll(fds, (nfds_t)n, &nap, NULL);
    }
    sink_disarm(&r->sink);
    return r->last;
}

#define RIG_UNTIL(r, limit_ms, condition)                                                                              \
    do {                                                                                                               \
        uint64_t rig_until_end = clock_ns(&clock_real) + (uint64_t)(limit_ms)*NS_PER_MS;                               \
        while (!(condition)) {                                                                                         \
            cr_assert(clock_ns(&clock_real) < rig_until_end, "not within %d ms: %s (state %u: %s)", limit_ms,          \
                      #condition, atomic_load(&(r)->block.state), rig_reason(r));                                      \
            rig_step(r);                                                                                               \
        }                                                                                                              \
    } while (0)

__attribute__((unused)) static const char *rig_reason(struct rig *r) {
    static char text[STATS_TEXT_BYTES];
    stats_text_get(&r->block.reason, text);
    return text;
}

__attribute__((unused)) static bool rig_done(const struct rig *r) {
    return r->ring.number_released == r->producer.number_published;
}

__attribute__((unused)) static void rig_run(struct rig *r) {
    ring_publish(&r->producer);
    RIG_UNTIL(r, 10000, rig_done(r));
}

__attribute__((unused)) static void rig_for(struct rig *r, uint64_t ms) {
    uint64_t end = clock_ns(&clock_real) + ms * NS_PER_MS;
    while (clock_ns(&clock_real) < end) rig_step(r);
}

__attribute__((unused)) static int64_t rig_released(const struct rig *r, uint32_t slot) {
    uint64_t epoch, next;
    twin_load(&r->ledger->slot[slot].released, &epoch, &next);
    return epoch == 0 ? -1 : (int64_t)next;
}

__attribute__((unused)) static enum worker_state rig_state(const struct rig *r) {
    return (enum worker_state)atomic_load(&r->block.state);
}

__attribute__((unused)) static bool rig_blocked_on(struct rig *r, const char *text) {
    return rig_state(r) == STATE_BLOCKED && strstr(rig_reason(r), text) != NULL;
}

#define rig_count(r, metric) ((r)->worker.local.value[metric])

#endif

/* Redis at the level of the bytes of its protocol. A connection that its client has closed is still executed to the
 * end of what it had sent, as a server does that stood still meanwhile; every write can be undone, for a server that
 * comes back without its last ones. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tests/sim/redis.h"

enum { CONNECTIONS = 256, KEYS_MAX = 512, ARGS_MAX = 1024, QUEUE_MAX = 8 };

struct bytes {
    uint8_t *at;
    size_t from, to, room;
};

struct command { /* a copy, for MULTI */
    uint32_t argc;
    char *arg[ARGS_MAX];
    size_t len[ARGS_MAX];
};

struct connection {
    bool used, client, server; /* open at either end */
    bool broken;               /* nothing passes any more; what has arrived is executed */
    uint32_t lane;
    uint64_t id;
    char name[320];
    struct bytes in, out;
    bool multi, aborted;
    uint64_t came, waits_at; /* bytes; how many had come when no command was whole */
    struct command *queue[QUEUE_MAX];
    uint32_t queued;
};

struct value {
    char *key;
    char *bytes; /* NULL: it does not exist */
    size_t len;
};

struct undo {
    uint32_t key;
    char *bytes;
    size_t len;
    int part; /* whose position in the log it moved; -1 none */
    int64_t at;
};

static struct {
    struct connection connection[CONNECTIONS];
    uint64_t ids;
    uint64_t newest[SIM_LANES]; /* connection that has written records last */
    struct value value[KEYS_MAX];
    uint32_t keys;
    struct undo *undo;
    uint32_t undone, room;
    uint64_t cut; /* bytes until a connection breaks; 0: none does */
} r;

struct redis_weather redis_weather;

void redis_init(void) { memset(&r, 0, sizeof r); }

/* -- bytes ------------------------------------------------------------------------------------- */

static void put(struct bytes *b, const void *bytes, size_t len) {
    if (b->to + len > b->room) {
        memmove(b->at, b->at + b->from, b->to - b->from);
        b->to -= b->from;
        b->from = 0;
        while (b->to + len > b->room) b->room = b->room > 0 ? 2 * b->room : 4096;
        b->at = realloc(b->at, b->room);
    }
    memcpy(b->at + b->to, bytes, len);
    b->to += len;
}

static struct connection *of(int connection) { return connection < 0 ? NULL : &r.connection[connection]; }

int redis_connect(uint32_t lane) {
    if (sim.now_ns < redis_weather.down_until_ns) return -1;
    for (int i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &r.connection[i];
        if (c->used) continue;
        struct bytes in = c->in, out = c->out;
        *c = (struct connection){.used = true, .client = true, .server = true, .lane = lane, .id = ++r.ids};
        c->in = (struct bytes){.at = in.at, .room = in.room};
        c->out = (struct bytes){.at = out.at, .room = out.room};
        sim.count.connections++;
        sim_trace("redis: connection %d begins, lane %u", (int)c->id, lane);
        return i;
    }
    sim_fail("no more connections");
}

static bool over(const struct connection *c) { return !c->client || c->broken; }

static void collect(struct connection *c) {
    if (!c->client && !c->server) c->used = false;
}

static void server_ends(struct connection *c) {
    c->server = false;
    c->in.from = c->in.to = 0;
    collect(c);
}

/* How many of len bytes pass before the connection breaks; it breaks when that is less. */
static size_t until_cut(size_t len) {
    if (r.cut == 0) return len;
    if (r.cut > len) {
        r.cut -= len;
        return len;
    }
    len = r.cut - 1;
    r.cut = 0;
    sim.count.cuts++;
    return len;
}

ssize_t redis_client_read(int connection, void *out, size_t len) {
    struct connection *c = of(connection);
    size_t n = c->out.to - c->out.from;
    if (c->broken) return -1;
    if (n == 0) return c->server ? 0 : -1;
    if (n > len) n = len;
    if (dice(8) == 0) n = 1 + dice((uint32_t)n);
    memcpy(out, c->out.at + c->out.from, n);
    c->out.from += n;
    return (ssize_t)n;
}

bool redis_client_readable(int connection) {
    const struct connection *c = of(connection);
    return c != NULL && (c->out.to > c->out.from || !c->server || c->broken);
}

ssize_t redis_client_write(int connection, const void *bytes, size_t len) {
    struct connection *c = of(connection);
    if (!c->server || c->broken) return -1;
    if (dice(6) == 0) len = 1 + dice((uint32_t)len);
    size_t n = until_cut(len);
    put(&c->in, bytes, n);
    c->came += n;
    if (n == len) return (ssize_t)n;
    sim_trace("redis: connection %d is cut, %zu bytes have come through", (int)c->id, n);
    c->broken = true;
    return -1;
}

void redis_client_close(int connection) {
    struct connection *c = of(connection);
    if (c == NULL) return;
    c->client = false;
    collect(c);
}

/* -- the data ---------------------------------------------------------------------------------- */

static struct value *value_of(const char *key) {
    for (uint32_t i = 0; i < r.keys; i++)
        if (strcmp(r.value[i].key, key) == 0) return &r.value[i];
    SIM_REQUIRE(r.keys < KEYS_MAX, "too many keys");
    r.value[r.keys] = (struct value){.key = strdup(key)};
    return &r.value[r.keys++];
}

static void store(const char *key, const char *bytes, size_t len, int part, int64_t at) {
    struct value *v = value_of(key);
    if (r.undone == r.room) {
        r.room = r.room > 0 ? 2 * r.room : 1024;
        r.undo = realloc(r.undo, r.room * sizeof *r.undo);
    }
    r.undo[r.undone++] = (struct undo){(uint32_t)(v - r.value), v->bytes, v->len, part, at};
    v->bytes = NULL;
    v->len = len;
    if (bytes == NULL) return;
    v->bytes = malloc(len + 1);
    memcpy(v->bytes, bytes, len);
    v->bytes[len] = 0;
}

const char *redis_value(const char *key, size_t *len) {
    const struct value *v = value_of(key);
    *len = v->len;
    return v->bytes;
}

uint32_t redis_keys(void) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < r.keys; i++) n += r.value[i].bytes != NULL;
    return n;
}

static int64_t position(int part) { return part >= 0 ? sim.part[part].at : 0; }

/* One write of a record or its deletion, with what the oracle says of it. */
static void write_key(const struct connection *c, const char *key, const char *bytes, size_t len, bool judged) {
    int part = oracle_part(key);
    int64_t before = position(part);
    uint32_t of_value;
    int64_t offset;
    SIM_REQUIRE(c->id >= r.newest[c->lane], "connection %d writes %s after connection %d has", (int)c->id, key,
                (int)r.newest[c->lane]);
    r.newest[c->lane] = c->id;
    if (judged && bytes == NULL) oracle_deleted(key);
    if (judged && bytes != NULL) {
        SIM_REQUIRE(oracle_id(bytes, len, &of_value, &offset) && (int)of_value == part,
                    "%s gets a value that is not its own: %.60s", key, bytes);
        oracle_wrote(of_value, offset, key);
    }
    store(key, bytes, len, part, before);
}

void redis_other_set(const char *key, const char *value, size_t len, int part, int64_t at) {
    store(key, value, len, part, at);
}

/* -- answers ----------------------------------------------------------------------------------- */

static void answer(struct connection *c, const char *text) {
    size_t len = strlen(text);
    if (over(c)) return;
    size_t n = until_cut(len);
    put(&c->out, text, n);
    if (n == len) return;
    sim_trace("redis: connection %d is cut in an answer", (int)c->id);
    c->in.from = c->in.to = 0;
    c->server = false;
}

static void answer_bulk(struct connection *c, const char *bytes, size_t len) {
    static char text[16384];
    if (bytes == NULL) {
        answer(c, "$-1\r\n");
        return;
    }
    snprintf(text, sizeof text, "$%zu\r\n%.*s\r\n", len, (int)len, bytes);
    answer(c, text);
}

static void answer_number(struct connection *c, long n) {
    char text[32];
    snprintf(text, sizeof text, ":%ld\r\n", n);
    answer(c, text);
}

/* -- commands ---------------------------------------------------------------------------------- */

static bool is(const struct command *a, uint32_t i, const char *word) {
    return i < a->argc && strcasecmp(a->arg[i], word) == 0;
}

static void client_command(struct connection *c, const struct command *a) {
    static char list[16384];
    if (is(a, 1, "SETNAME")) {
        snprintf(c->name, sizeof c->name, "%s", a->arg[2]);
        answer(c, "+OK\r\n");
    } else if (is(a, 1, "ID")) {
        answer_number(c, (long)c->id);
    } else if (is(a, 1, "LIST")) {
        size_t n = 0;
        for (uint32_t i = 0; i < CONNECTIONS; i++) {
            const struct connection *o = &r.connection[i];
            if (o->used && o->server)
                n += (size_t)snprintf(list + n, sizeof list - n, "id=%d addr=unix:0 name=%s age=1 cmd=set\n",
                                      (int)o->id, o->name);
        }
        answer_bulk(c, list, n);
    } else {
        long n = 0;
        for (uint32_t i = 0; i < CONNECTIONS; i++) {
            struct connection *o = &r.connection[i];
            if (!o->used || !o->server || o->id != strtoull(a->arg[3], NULL, 10)) continue;
            server_ends(o);
            n++;
        }
        answer_number(c, n);
    }
}

static void mark_set(struct connection *c, const struct command *a) {
    const struct value *v = value_of(a->arg[1]);
    bool only_there = false, only_gone = false, old = false;
    for (uint32_t i = 3; i < a->argc; i++) {
        only_there |= is(a, i, "XX");
        only_gone |= is(a, i, "NX");
        old |= is(a, i, "GET");
    }
    const char *had = v->bytes;
    size_t len = v->len;
    bool sets = !(only_there && had == NULL) && !(only_gone && had != NULL);
    if (sets) {
        oracle_mark(a->arg[1], strtoll(a->arg[2] + 2, NULL, 10));
        store(a->arg[1], a->arg[2], a->len[2], -1, 0);
    }
    if (old)
        answer_bulk(c, had, len);
    else
        answer(c, sets ? "+OK\r\n" : "$-1\r\n");
}

static void hash_set(const struct connection *c, const struct command *a) {
    char text[8192];
    size_t n = 0;
    for (uint32_t i = 2; i + 1 < a->argc; i += 2)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s=%s\n", a->arg[i], a->arg[i + 1]);
    write_key(c, a->arg[1], text, n, true);
}

static void run(struct connection *c, const struct command *a, bool in_multi) {
    if (is(a, 0, "SET") && strncmp(a->arg[1], "millrace:mark:", 14) == 0) {
        mark_set(c, a);
    } else if (is(a, 0, "SET")) {
        write_key(c, a->arg[1], a->arg[2], a->len[2], true);
        answer(c, "+OK\r\n");
    } else if (is(a, 0, "MSET")) {
        for (uint32_t i = 1; i + 1 < a->argc; i += 2) write_key(c, a->arg[i], a->arg[i + 1], a->len[i + 1], true);
        answer(c, "+OK\r\n");
    } else if (is(a, 0, "DEL")) {
        long n = 0;
        for (uint32_t i = 1; i < a->argc; i++) {
            n += value_of(a->arg[i])->bytes != NULL;
            write_key(c, a->arg[i], NULL, 0, !in_multi && i == 1);
        }
        answer_number(c, n);
    } else if (is(a, 0, "HSET")) {
        hash_set(c, a);
        answer_number(c, (long)(a->argc - 2) / 2);
    } else if (is(a, 0, "GET")) {
        size_t len;
        const char *bytes = redis_value(a->arg[1], &len);
        answer_bulk(c, bytes, len);
    } else if (is(a, 0, "INFO")) {
        static const char *const roles[] = {"master", "slave"};
        char text[256];
        int n = snprintf(text, sizeof text,
                         "# Server\r\nredis_version:7.0.15\r\nrole:%s\r\nmaxmemory_policy:noeviction\r\n"
                         "cluster_enabled:0\r\naof_enabled:1\r\n",
                         roles[redis_weather.refuse == REFUSE_READONLY]);
        answer_bulk(c, text, (size_t)n);
    } else if (is(a, 0, "CLIENT")) {
        client_command(c, a);
    } else {
        sim_fail("Redis gets a command that it does not know: %s", a->arg[0]);
    }
}

/* -- what is refused --------------------------------------------------------------------------- */

static const char *refusal(const struct command *a) {
    bool writes = is(a, 0, "SET") || is(a, 0, "MSET") || is(a, 0, "HSET"), removes = is(a, 0, "DEL");
    bool data = writes || removes || is(a, 0, "GET") || is(a, 0, "MULTI") || is(a, 0, "EXEC");
    switch (redis_weather.refuse) {
    case REFUSE_OOM: return writes ? "-OOM command not allowed when used memory > 'maxmemory'.\r\n" : NULL;
    case REFUSE_LOADING: return data ? "-LOADING Redis is loading the dataset in memory\r\n" : NULL;
    case REFUSE_READONLY:
        return writes || removes ? "-READONLY You can't write against a read only replica.\r\n" : NULL;
    case REFUSE_MISCONF: return writes || removes ? "-MISCONF Errors writing to the AOF file\r\n" : NULL;
    case REFUSE_NOPERM: return writes ? "-NOPERM this user has no permissions to run the 'set' command\r\n" : NULL;
    default: return NULL;
    }
}

/* Whose records are refused may follow later than what comes behind them. */
static void refused(const struct command *a) {
    sim.count.refusals++;
    for (uint32_t i = 1; i < a->argc; i++) {
        int part = oracle_part(a->arg[i]);
        if (part >= 0) sim.part[part].refused = true;
    }
}

static struct command *kept(const struct command *a) {
    struct command *k = calloc(1, sizeof *k);
    k->argc = a->argc;
    for (uint32_t i = 0; i < a->argc; i++) {
        k->arg[i] = malloc(a->len[i] + 1);
        memcpy(k->arg[i], a->arg[i], a->len[i] + 1);
        k->len[i] = a->len[i];
    }
    return k;
}

static void dropped(struct command *k) {
    for (uint32_t i = 0; i < k->argc; i++) free(k->arg[i]);
    free(k);
}

static void multi_end(struct connection *c) {
    char head[16];
    if (c->aborted) {
        answer(c, "-EXECABORT Transaction discarded because of previous errors.\r\n");
    } else {
        snprintf(head, sizeof head, "*%u\r\n", c->queued);
        answer(c, head);
        for (uint32_t i = 0; i < c->queued; i++) run(c, c->queue[i], true);
    }
    for (uint32_t i = 0; i < c->queued; i++) dropped(c->queue[i]);
    c->queued = 0;
    c->multi = false;
}

static void execute(struct connection *c, const struct command *a) {
    const char *no = refusal(a);
    sim_note(c->id * 1000 + a->argc);
    sim_trace("redis: %d: %s %s %.40s%s", (int)c->id, a->arg[0], a->argc > 1 ? a->arg[1] : "",
              a->argc > 2 ? a->arg[2] : "", no != NULL ? " (refused)" : "");
    if (no != NULL && !is(a, 0, "EXEC")) {
        refused(a);
        c->aborted |= c->multi;
        answer(c, no);
    } else if (is(a, 0, "MULTI")) {
        c->multi = true;
        c->aborted = false;
        answer(c, "+OK\r\n");
    } else if (is(a, 0, "EXEC")) {
        for (uint32_t i = 0; c->aborted && i < c->queued; i++) refused(c->queue[i]);
        if (c->multi)
            multi_end(c);
        else
            answer(c, "-ERR EXEC without MULTI\r\n");
    } else if (c->multi) {
        SIM_REQUIRE(c->queued < QUEUE_MAX, "too long a transaction");
        c->queue[c->queued++] = kept(a);
        answer(c, "+QUEUED\r\n");
    } else {
        run(c, a, false);
    }
}

/* The number behind a sign and its end of line; -1: it is not all there. */
static long number_at(const struct bytes *b, size_t *at, char sign) {
    const uint8_t *end = *at < b->to ? memchr(b->at + *at, '\n', b->to - *at) : NULL;
    if (end == NULL) return -1;
    SIM_REQUIRE(b->at[*at] == (uint8_t)sign, "Redis reads %c where %c belongs", b->at[*at], sign);
    long n = strtol((const char *)b->at + *at + 1, NULL, 10);
    *at = (size_t)(end - b->at) + 1;
    return n;
}

/* Executes the next command that is whole. False: there is none. */
static bool command_next(struct connection *c) {
    static struct command a;
    static uint8_t text[1 << 16];
    struct bytes *b = &c->in;
    size_t at = b->from, used = 0;
    long argc = number_at(b, &at, '*');
    if (argc < 0) return false;
    SIM_REQUIRE(argc > 0 && argc <= ARGS_MAX, "a command of %ld words", argc);
    a.argc = (uint32_t)argc;
    for (uint32_t i = 0; i < a.argc; i++) {
        long len = number_at(b, &at, '$');
        if (len < 0 || at + (size_t)len + 2 > b->to) return false;
        SIM_REQUIRE(used + (size_t)len + 1 <= sizeof text, "too long a command");
        a.arg[i] = (char *)text + used;
        a.len[i] = (size_t)len;
        memcpy(text + used, b->at + at, (size_t)len);
        text[used + (size_t)len] = 0;
        used += (size_t)len + 1;
        at += (size_t)len + 2;
    }
    b->from = at;
    execute(c, &a);
    return true;
}

static bool has_work(const struct connection *c) { return c->used && c->server && (c->in.to > c->in.from || over(c)); }

bool redis_runnable(void) {
    if (sim.now_ns < redis_weather.stalled_until_ns || sim.now_ns < redis_weather.down_until_ns) return false;
    for (uint32_t i = 0; i < CONNECTIONS; i++)
        if (has_work(&r.connection[i]) && r.connection[i].waits_at != r.connection[i].came + 1 + over(&r.connection[i]))
            return true;
    return false;
}

void redis_turn(void) {
    uint32_t n = 0, first = dice(CONNECTIONS);
    for (uint32_t i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &r.connection[(first + i) % CONNECTIONS];
        if (!has_work(c)) continue;
        n = 1 + dice(12);
        bool more = true;
        while (n > 0 && c->server && (more = command_next(c))) n--;
        if (more) continue;
        c->waits_at = c->came + 1 + over(c);
        if (over(c)) server_ends(c); /* it has seen the end of the stream */
    }
}

/* -- disasters --------------------------------------------------------------------------------- */

void redis_crash(uint32_t lose, uint64_t down_ms) {
    sim.count.crashes++;
    for (uint32_t i = 0; i < CONNECTIONS; i++)
        if (r.connection[i].used && r.connection[i].server) server_ends(&r.connection[i]);
    bool loses = lose > 0; /* never to the middle of what is sent again: docs/reliability.md */
    for (; r.undone > 0 && (lose > 0 || (loses && !oracle_marks_fit())); lose -= lose > 0) {
        const struct undo *u = &r.undo[--r.undone];
        r.value[u->key].bytes = u->bytes;
        r.value[u->key].len = u->len;
        if (u->part >= 0) sim.part[u->part].at = u->at;
        sim.count.lost_writes++;
    }
    for (uint32_t i = 0; i < sim.parts; i++) oracle_forgot(i);
    redis_weather.down_until_ns = sim.now_ns + down_ms * NS_PER_MS;
}

void redis_flush(void) {
    sim.count.flushes++;
    for (uint32_t i = 0; i < r.keys; i++) r.value[i].bytes = NULL;
    r.undone = 0;
    for (uint32_t i = 0; i < sim.parts; i++) {
        sim.part[i].at = 0;
        sim.part[i].flushed = true;
        oracle_forgot(i);
    }
}

void redis_cut(uint32_t bytes) { r.cut = bytes; }

void redis_calm(void) {
    r.cut = 0;
    redis_weather = (struct redis_weather){0};
}

#include "sink/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"

int session_init(struct session *s, const struct config *config, uint32_t lane, const struct clock_port *clock,
                 const struct stream_port *stream, size_t out_bytes, struct err *err) {
    *s = (struct session){.config = config, .clock = clock, .stream = *stream, .ahead_ms = INT64_MIN};
    int n = snprintf(s->name, sizeof s->name, "millrace:%s:%s:", config->kafka.group_id, config->instance);
    for (char *c = s->name; *c != 0; c++) /* what CLIENT SETNAME refuses */
        if (*c <= ' ' || *c > '~') *c = '_';
    s->name_stem = (size_t)n;
    s->lane = lane;
    snprintf(s->name + n, sizeof s->name - (size_t)n, "%u/%u", lane, config->lanes);
    s->chunk = malloc(RESP_FEED_BYTES);
    if (s->chunk == NULL) return err_set(err, ENOMEM, "no memory for the read buffer");
    if (resp_init(&s->resp, err) != 0) return -1;
    return encode_init(&s->out, out_bytes, err);
}

int64_t session_wall_ms(const struct session *s) {
    int64_t ours = clock_wall_ms(s->clock), its = s->ahead_ms + (int64_t)(clock_ns(s->clock) / NS_PER_MS);
    return s->ahead_ms == INT64_MIN || ours < its ? ours : its;
}

void session_free(struct session *s) {
    s->stream.close(s->stream.context);
    resp_free(&s->resp);
    encode_free(&s->out);
    free(s->chunk);
    s->chunk = NULL;
}

/* A failure of the stream: what a new connection alone will not mend is of the configuration. */
static int stream_failed(struct failure *f, const struct err *err) {
    return failure_set(f, err->code == STREAM_MISCONFIGURED ? REPLY_CONFIG : REPLY_RECONNECT, "%s", err->text);
}

/* -- bytes ------------------------------------------------------------------------------------- */

int session_read(struct session *s, struct failure *f) {
    struct err err = {0};
    ssize_t n = s->stream.read(s->stream.context, s->chunk, RESP_FEED_BYTES, &err);
    if (n == 0) return 0;
    if (n < 0) s->peer_gone = true;
    FAULT_CORRUPT("sink:reply", s->chunk, n > 0 ? 1 : 0);
    if (n < 0 || resp_feed(&s->resp, s->chunk, (size_t)n, &err) != 0) return stream_failed(f, &err);
    s->progress_ns = clock_ns(s->clock);
    return 1;
}

int session_write(struct session *s, struct failure *f) {
    struct err err = {0};
    if (encode_unsent(&s->out) == 0) return 0;
    /* Once: a write that was cut short found the socket full, and the next would only be told so. */
    ssize_t n = s->stream.write(s->stream.context, encode_at(&s->out), encode_unsent(&s->out), &err);
    if (n == 0) return 0;
    if (n < 0) {
        s->peer_gone = true;
        return stream_failed(f, &err);
    }
    encode_sent(&s->out, (size_t)n);
    s->count.bytes_sent += (uint64_t)n;
    /* A socket takes much for a server that has stopped: only going on with what was cut short is a sign of life. */
    if (s->cut_short) s->progress_ns = clock_ns(s->clock);
    s->cut_short = encode_unsent(&s->out) > 0;
    return 1;
}

int session_reply(struct session *s, struct failure *f) {
    struct err err = {0};
    int r = resp_next(&s->resp, &err);
    return r < 0 ? failure_set(f, REPLY_RECONNECT, "%s", err.text) : r;
}

bool session_overdue(const struct session *s, uint64_t now_ns) {
    return now_ns > s->progress_ns && now_ns - s->progress_ns >= s->config->redis.response_timeout_ms * NS_PER_MS;
}

void session_drop(struct session *s) {
    if (s->phase == SESSION_OPEN) {
        s->id_before = s->id;
        s->ended_by_peer = s->peer_gone;
    }
    s->stream.close(s->stream.context);
    encode_clear(&s->out);
    s->phase = SESSION_DOWN;
}

/* -- the greeting: one row a step -------------------------------------------------------------- */

enum { STEP_AUTH, STEP_SELECT, STEP_NAME, STEP_ID, STEP_LIST, STEP_KILL, STEP_INFO, STEP_POLICY, STEP_COUNT };

/* What an answer leads to. */
enum greeting { GREETING_FAILED = -1, GREETING_NEXT, GREETING_AGAIN, GREETING_BACK };

struct greeting_step {
    bool (*ask)(struct session *); /* puts the command into out; false: this step is not needed */
    enum greeting (*answer)(struct session *, struct failure *);
};

static void command(struct session *s, uint32_t argc, const char *const *argv) {
    encode_array(&s->out, argc);
    for (uint32_t i = 0; i < argc; i++) encode_bulk(&s->out, argv[i], strlen(argv[i]));
}
#define COMMAND(s, ...)                                                                                                \
    do {                                                                                                               \
        const char *const argv[] = {__VA_ARGS__};                                                                      \
        command(s, (uint32_t)(sizeof argv / sizeof argv[0]), argv);                                                    \
    } while (0)

static enum greeting refused(struct session *s, struct failure *f) {
    if (s->resp.reply.error)
        reply_failure(f, s->resp.reply.error_text);
    else
        failure_set(f, REPLY_RECONNECT, "Redis answered the greeting with something that is no answer to it");
    return GREETING_FAILED;
}

static enum greeting answer_ok(struct session *s, struct failure *f) {
    return s->resp.reply.kind == RESP_STATUS ? GREETING_NEXT : refused(s, f);
}

static bool ask_auth(struct session *s) {
    const char *user = s->config->redis.user, *password = s->config->redis.password;
    if (user[0] == 0 && password[0] == 0) return false;
    if (user[0] != 0)
        COMMAND(s, "AUTH", user, password);
    else
        COMMAND(s, "AUTH", password);
    return true;
}

static bool ask_select(struct session *s) {
    char db[12];
    if (s->config->redis.db == 0) return false;
    snprintf(db, sizeof db, "%u", s->config->redis.db);
    COMMAND(s, "SELECT", db);
    return true;
}

/* -- connection names -- */

/* Without names the server cannot be told to end our older connections: the operator has to know, and to accept it.
 * A Redis that wants a password refuses every command, these are only the first of them. */
static enum greeting refused_name(struct session *s, struct failure *f) {
    struct failure said;
    refused(s, &said);
    if (said.class != REPLY_CONFIG || strncmp(s->resp.reply.error_text, "NOAUTH ", 7) == 0) {
        *f = said;
        return GREETING_FAILED;
    }
    if (!s->config->redis.unsafe_reconnect) {
        failure_set(f, REPLY_CONFIG, "stale connections cannot be ended, see redis.unsafe_reconnect: %s", said.text);
        return GREETING_FAILED;
    }
    if (!s->warned_unnamed)
        log_warn("sink.unsafe_reconnect", "a stale connection may overwrite newer data after a reconnect: %s",
                 said.text);
    s->warned_unnamed = true;
    s->step = STEP_KILL;
    return GREETING_NEXT;
}

static bool ask_name(struct session *s) {
    COMMAND(s, "CLIENT", "SETNAME", s->name);
    return true;
}

static enum greeting answer_name(struct session *s, struct failure *f) {
    return s->resp.reply.kind == RESP_STATUS ? GREETING_NEXT : refused_name(s, f);
}

static bool ask_id(struct session *s) {
    COMMAND(s, "CLIENT", "ID");
    return true;
}

static enum greeting answer_id(struct session *s, struct failure *f) {
    if (s->resp.reply.kind != RESP_INTEGER) return refused_name(s, f);
    s->id = (uint64_t)s->resp.reply.integer;
    return GREETING_NEXT;
}

/* A number before the end of a text that is not NUL-terminated; UINT32_MAX: there is none. */
static uint32_t number_read(const char **at, const char *end) {
    uint64_t n = 0;
    const char *from = *at;
    for (; *at < end && **at >= '0' && **at <= '9' && n < UINT32_MAX; (*at)++) n = 10 * n + (uint64_t)(**at - '0');
    return *at == from || n >= UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

/* Whether a connection is one that this one has to end: of the same lane, or of a time when the instance had another
 * number of lanes, for then its partitions may be ours. Other lanes beside us stay. */
static bool list_namesake(const struct session *s, const char *line, size_t len) {
    char stem[SESSION_NAME_BYTES + 8];
    size_t n = (size_t)snprintf(stem, sizeof stem, " name=%.*s", (int)s->name_stem, s->name);
    const char *at = memmem(line, len, stem, n), *end = line + len;
    if (at == NULL) return false;
    at += n;
    uint32_t lane = number_read(&at, end), lanes = 0;
    if (at < end && *at == '/') {
        at++;
        lanes = number_read(&at, end);
    }
    if (lane == UINT32_MAX || lanes == UINT32_MAX || at == end || *at != ' ') return false;
    return lane == s->lane || lanes != s->config->lanes;
}

/* One line of CLIENT LIST: `id=7 addr=… name=… …`. */
static void list_line(struct session *s, const char *line, size_t len) {
    char copy[24];
    if (len < 4 || memcmp(line, "id=", 3) != 0 || !list_namesake(s, line, len)) return;
    size_t digits = len - 3 < sizeof copy - 1 ? len - 3 : sizeof copy - 1;
    memcpy(copy, line + 3, digits);
    copy[digits] = 0;
    uint64_t id = strtoull(copy, NULL, 10);
    if (id == 0 || id == s->id) return;
    if (id > s->id_before) s->namesake_newer = true;
    if (s->kill_count < SESSION_KILLS_MAX) s->kill[s->kill_count++] = id;
}

static void list_read(struct session *s, const char *bytes, size_t len) {
    while (len > 0) {
        const char *end = memchr(bytes, '\n', len);
        size_t n = end != NULL ? (size_t)(end - bytes) : len;
        list_line(s, bytes, n);
        if (end == NULL) return;
        len -= n + 1;
        bytes = end + 1;
    }
}

static bool ask_list(struct session *s) {
    s->kill_count = s->kill_at = 0;
    s->namesake_newer = false;
    COMMAND(s, "CLIENT", "LIST");
    return true;
}

/* Our last connection was ended from the other side, and there is a younger one of our name: somebody else ended it, as
 * we are about to do with his. Twice in a minute is a fight that neither can win. */
static bool fight_noticed(struct session *s) {
    if (!s->ended_by_peer || !s->namesake_newer || s->id_before == 0) return false;
    s->ended_by_peer = false;
    uint64_t now = clock_ns(s->clock), before = s->strike_ns;
    s->strike_ns = now;
    return before != 0 && now - before < SESSION_STRIKE_WINDOW_NS;
}

static enum greeting answer_list(struct session *s, struct failure *f) {
    if (s->resp.reply.kind != RESP_STRING) return refused_name(s, f);
    if (fight_noticed(s)) {
        failure_set(f, REPLY_FATAL,
                    "another process uses the connection name %s and has ended ours twice within a minute: "
                    "give every instance of the group its own `instance`",
                    s->name);
        return GREETING_FAILED;
    }
    s->ended_by_peer = false;
    return GREETING_NEXT;
}

static bool ask_kill(struct session *s) {
    char id[24];
    if (s->kill_at == s->kill_count) return false;
    snprintf(id, sizeof id, "%llu", (unsigned long long)s->kill[s->kill_at]);
    COMMAND(s, "CLIENT", "KILL", "ID", id);
    return true;
}

/* 0: it was gone by itself. */
static enum greeting answer_kill(struct session *s, struct failure *f) {
    if (s->resp.reply.kind != RESP_INTEGER) return refused_name(s, f);
    s->count.killed += s->resp.reply.integer > 0;
    if (++s->kill_at < s->kill_count) return GREETING_AGAIN;
    return s->kill_count == SESSION_KILLS_MAX ? GREETING_BACK : GREETING_NEXT;
}

/* -- is this Redis fit for the job? -- */

static void info_field(char *out, size_t size, const char *bytes, size_t len, const char *field) {
    const char *at = memmem(bytes, len, field, strlen(field));
    if (at == NULL) return;
    at += strlen(field);
    const char *end = memchr(at, '\r', (size_t)(bytes + len - at));
    size_t n = end != NULL ? (size_t)(end - at) : 0;
    if (n > size - 1) n = size - 1;
    memcpy(out, at, n);
    out[n] = 0;
}

static bool ask_info(struct session *s) {
    s->version[0] = s->role[0] = s->policy[0] = s->cluster[0] = s->aof[0] = 0;
    s->ahead_ms = INT64_MIN;
    COMMAND(s, "INFO");
    return true;
}

static void info_read(struct session *s, const char *bytes, size_t len) {
    char now_us[24] = "";
    info_field(now_us, sizeof now_us, bytes, len, "\nserver_time_usec:");
    if (now_us[0] != 0) s->ahead_ms = strtoll(now_us, NULL, 10) / 1000 - (int64_t)(clock_ns(s->clock) / NS_PER_MS);
    info_field(s->version, sizeof s->version, bytes, len, "\nredis_version:");
    info_field(s->role, sizeof s->role, bytes, len, "\nrole:");
    info_field(s->policy, sizeof s->policy, bytes, len, "\nmaxmemory_policy:");
    info_field(s->cluster, sizeof s->cluster, bytes, len, "\ncluster_enabled:");
    info_field(s->aof, sizeof s->aof, bytes, len, "\naof_enabled:");
}

static enum greeting misfit(struct failure *f, enum reply_class class, const char *text) {
    failure_set(f, class, "%s", text);
    return GREETING_FAILED;
}

static enum greeting answer_info(struct session *s, struct failure *f) {
    if (s->resp.reply.kind != RESP_STRING) {
        struct failure said;
        refused(s, &said);
        if (said.class != REPLY_CONFIG) return refused(s, f);
        if (!s->warned_info)
            log_warn("sink.redis_unknown", "role, version and persistence of Redis are unknown: %s", said.text);
        s->warned_info = true;
        return GREETING_NEXT;
    }
    unsigned major, minor;
    if (sscanf(s->version, "%u.%u", &major, &minor) == 2 && (major < 6 || (major == 6 && minor < 2)))
        return misfit(f, REPLY_CONFIG, "this Redis is too old: 6.2 or newer is needed (SET with PXAT, and with GET)");
    if (s->cluster[0] == '1') return misfit(f, REPLY_CONFIG, reply_rule_of("MOVED ")->meaning);
    if (strcmp(s->role, "slave") == 0) return misfit(f, REPLY_RECONNECT, reply_rule_of("READONLY ")->meaning);
    if (s->aof[0] == '0' && !s->warned_aof) {
        log_warn("sink.redis_appendonly_off",
                 "appendonly is off: what Redis acknowledged since its last snapshot is lost "
                 "when it crashes; the marks will tell, and it is written again");
        s->warned_aof = true;
    }
    return GREETING_NEXT;
}

static bool ask_policy(struct session *s) {
    if (s->policy[0] != 0) return false;
    COMMAND(s, "CONFIG", "GET", "maxmemory-policy");
    return true;
}

static enum greeting answer_policy(struct session *s, struct failure *f) {
    const struct resp_reply *r = &s->resp.reply;
    if (r->error && reply_rule_of(r->error_text)->class != REPLY_CONFIG) return refused(s, f);
    if (r->kind == RESP_ARRAY && r->elements == 2) snprintf(s->policy, sizeof s->policy, "%.31s", r->text);
    return GREETING_NEXT;
}

static void on_string(void *context, const char *bytes, size_t len) {
    struct session *s = context;
    if (s->phase != SESSION_GREETING) return;
    if (s->step == STEP_LIST) list_read(s, bytes, len);
    if (s->step == STEP_INFO) info_read(s, bytes, len);
}

static const struct greeting_step greeting_steps[] = {
    [STEP_AUTH] = {ask_auth, answer_ok},   [STEP_SELECT] = {ask_select, answer_ok},
    [STEP_NAME] = {ask_name, answer_name}, [STEP_ID] = {ask_id, answer_id},
    [STEP_LIST] = {ask_list, answer_list}, [STEP_KILL] = {ask_kill, answer_kill},
    [STEP_INFO] = {ask_info, answer_info}, [STEP_POLICY] = {ask_policy, answer_policy},
};
static_assert(sizeof greeting_steps / sizeof greeting_steps[0] == STEP_COUNT, "a row per step");

/* An evicting Redis throws away marks and records alike, and calls it normal. */
static int eviction_check(struct session *s, struct failure *f) {
    if (s->policy[0] == 0) {
        if (!s->warned_policy)
            log_warn("sink.redis_policy_unknown",
                     "maxmemory-policy is unknown: neither INFO nor CONFIG GET may be read");
        s->warned_policy = true;
        return 0;
    }
    if (strcmp(s->policy, "noeviction") == 0) return 0;
    if (!s->config->redis.allow_eviction)
        return failure_set(f, REPLY_CONFIG,
                           "maxmemory-policy is %s, so Redis may throw records away by itself: set it to "
                           "noeviction, or redis.allow_eviction: true",
                           s->policy);
    if (!s->warned_eviction)
        log_warn("sink.redis_evicts", "maxmemory-policy is %s: Redis may throw records away by itself", s->policy);
    s->warned_eviction = true;
    return 0;
}

static int greeting_done(struct session *s, struct failure *f) {
    if (eviction_check(s, f) != 0) return -1;
    s->phase = SESSION_OPEN;
    return 1;
}

/* Puts the next command that is needed into out. 1: sent, or the greeting is through. */
static int greeting_ask(struct session *s, struct failure *f) {
    while (s->step < STEP_COUNT && !greeting_steps[s->step].ask(s)) s->step++;
    if (s->step == STEP_COUNT) return greeting_done(s, f);
    FAULT("sink:greeting");
    s->asked = true;
    return session_write(s, f) < 0 ? -1 : 1;
}

static int greeting_answer(struct session *s, struct failure *f) {
    int r = session_read(s, f);
    if (r >= 0 && encode_unsent(&s->out) > 0) r = session_write(s, f) < 0 ? -1 : r;
    if (r <= 0) return r;
    r = session_reply(s, f);
    if (r <= 0) return r < 0 ? -1 : 1;
    s->asked = false;
    s->answered = true;
    switch (greeting_steps[s->step].answer(s, f)) {
    case GREETING_FAILED: return -1;
    case GREETING_NEXT: s->step++; break;
    case GREETING_AGAIN: break;
    case GREETING_BACK: s->step = STEP_LIST; break;
    }
    return 1;
}

/* -- connecting -------------------------------------------------------------------------------- */

int session_connect(struct session *s, struct failure *f) {
    struct err err = {0};
    CHECK(s->phase == SESSION_DOWN);
    encode_clear(&s->out);
    s->resp.on_string = on_string;
    s->resp.context = s;
    s->step = 0;
    s->asked = false;
    s->cut_short = false;
    s->peer_gone = s->answered = false;
    s->id = 0;
    s->kill_count = s->kill_at = 0;
    s->started_ns = s->progress_ns = clock_ns(s->clock);
    if (resp_reset(&s->resp, &err) != 0 || s->stream.connect_start(s->stream.context, &err) != 0) {
        s->stream.close(s->stream.context);
        return stream_failed(f, &err);
    }
    s->phase = SESSION_CONNECTING;
    return 0;
}

/* The first word of the other side was none of Redis: a port for TLS hangs up, or answers in its own tongue. */
static void hint_at_tls(struct failure *f) {
    size_t n = strlen(f->text);
    snprintf(f->text + n, sizeof f->text - n, "; is it a port for TLS (rediss://)?");
}

int session_greet(struct session *s, struct failure *f) {
    struct err err = {0};
    if (s->phase == SESSION_CONNECTING) {
        int r = s->stream.connect_finish(s->stream.context, &err);
        if (r < 0) return stream_failed(f, &err);
        if (r > 0) {
            s->phase = SESSION_GREETING;
            return 1;
        }
    } else {
        int r = s->asked ? greeting_answer(s, f) : greeting_ask(s, f);
        if (r < 0 && !s->answered && s->config->redis.scheme == REDIS_TCP) hint_at_tls(f);
        if (r != 0) return r;
    }
    if (clock_ns(s->clock) - s->started_ns < s->config->redis.connect_timeout_ms * NS_PER_MS) return 0;
    bool tls = s->config->redis.scheme == REDIS_TLS, connecting = s->phase == SESSION_CONNECTING;
    return failure_set(f, REPLY_RECONNECT, "%s within %u ms%s",
                       connecting ? "no connection" : "Redis did not answer the greeting",
                       s->config->redis.connect_timeout_ms, connecting && tls ? "; does the port speak TLS?" : "");
}

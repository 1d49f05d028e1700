/* Looking at keys one by one: what Redis has under each, and what the table says. */
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "tools/verify.h"
#include "transform/value.h"

enum { LOOK_KEYS = 32, LOOK_BLOCK = 65536, EXPIRY_SLACK_MS = 2000 };

int verify_reply_check(const struct redisReply *reply, const char *command, struct err *err) {
    if (reply == NULL) return -1;
    if (reply->type != REDIS_REPLY_ERROR) return 0;
    bool denied = strncmp(reply->str, "NOPERM", 6) == 0 || strncmp(reply->str, "NOAUTH", 6) == 0;
    return err_set(err, denied ? EX_NOPERM : EX_UNAVAILABLE, "%s: %s", command, reply->str);
}

/* -- values ------------------------------------------------------------------------------------ */

static int fields_digest(struct verify *v, enum digest_algorithm algorithm, const struct redisReply *value,
                         uint8_t out[DIGEST_BYTES]) {
    size_t n = value->elements / 2;
    struct digest_field *field = malloc((n + 1) * sizeof *field);
    CHECK(field != NULL);
    for (size_t i = 0; i < n; i++) {
        const redisReply *a = value->element[2 * i], *b = value->element[2 * i + 1];
        if (a->type != REDIS_REPLY_STRING || b->type != REDIS_REPLY_STRING) {
            free(field);
            return -1;
        }
        field[i] = (struct digest_field){.name = (const uint8_t *)a->str,
                                         .value = (const uint8_t *)b->str,
                                         .name_bytes = (uint32_t)a->len,
                                         .value_bytes = (uint32_t)b->len};
    }
    digest_of_fields(&v->digest, algorithm, field, n, out);
    free(field);
    return 0;
}

/* Whether the topic stores its values encoded, as the configuration is now. */
static bool encodes(const struct verify *v, const struct live_row *row) {
    const char *name = live_topic(v->known.live, row->topic);
    for (uint32_t i = 0; i < v->config->topic_count; i++)
        if (strcmp(v->config->topic[i].name, name) == 0)
            return v->config->topic[i].encrypt != 0 || v->config->topic[i].compress != COMPRESS_NONE;
    return false;
}

/* A value that begins as encoded ones do may be one, or be stored as it was published: the topic's configuration says
 * which to try first, and the row which it is. */
static int string_digest(struct verify *v, const char *name, size_t len, const struct live_row *row,
                         const struct redisReply *value, uint8_t out[DIGEST_BYTES], bool *decodes) {
    uint8_t raw[DIGEST_BYTES], *plain;
    size_t plain_bytes;
    struct err err;
    bool maybe = value_is_encoded(value->str, value->len), first = maybe && encodes(v, row);
    if (!first) {
        digest_of(&v->digest, row->algorithm, value->str, value->len, out);
        if (!maybe || memcmp(out, row->value, DIGEST_BYTES) == 0) return 0;
    }
    if (value_decode(v->keys, name, len, (const uint8_t *)value->str, value->len, &plain, &plain_bytes, &err) != 0) {
        *decodes = !first;
        return first ? -1 : 0;
    }
    digest_of(&v->digest, row->algorithm, plain, plain_bytes, raw);
    explicit_bzero(plain, plain_bytes);
    free(plain);
    if (first || memcmp(raw, row->value, DIGEST_BYTES) == 0) memcpy(out, raw, DIGEST_BYTES);
    return 0;
}

int verify_value(struct verify *v, const char *name, size_t len, const struct live_row *row,
                 const struct redisReply *value, uint8_t out[DIGEST_BYTES], bool *decodes) {
    memset(out, 0, DIGEST_BYTES);
    *decodes = true;
    if ((row->flags & LIVE_HASH) != 0) {
        if (value->type != REDIS_REPLY_ARRAY || value->elements == 0 || value->elements % 2 != 0) return -1;
        return fields_digest(v, row->algorithm, value, out);
    }
    if (value->type != REDIS_REPLY_STRING) return -1;
    if (row->algorithm == DIGEST_NONE) return 0;
    return string_digest(v, name, len, row, value, out, decodes);
}

/* -- expiry ------------------------------------------------------------------------------------ */

void verify_ask_expiry(struct verify *v, const char *name, size_t len) {
    const char *word[] = {v->counts_expiry ? "PEXPIRETIME" : "PTTL", name};
    const size_t bytes[] = {strlen(word[0]), len};
    redis_queue(v->redis, 2, word, bytes);
}

int64_t verify_expiry(const struct verify *v, const struct redisReply *reply) {
    if (reply->type != REDIS_REPLY_INTEGER) return -2;
    if (reply->integer == -2) return -1;
    if (reply->integer < 0) return 0;
    return v->counts_expiry ? reply->integer : reply->integer + clock_wall_ms(&clock_real);
}

bool verify_same_expiry(const struct verify *v, int64_t a, int64_t b) {
    if (a == 0 || b == 0 || v->counts_expiry) return a == b;
    return a - b <= EXPIRY_SLACK_MS && b - a <= EXPIRY_SLACK_MS;
}

/* -- candidates -------------------------------------------------------------------------------- */

static enum verify_type type_of(const redisReply *reply) {
    if (strcmp(reply->str, "none") == 0) return TYPE_NONE;
    if (strcmp(reply->str, "string") == 0) return TYPE_STRING;
    return strcmp(reply->str, "hash") == 0 ? TYPE_HASH : TYPE_OTHER;
}

static enum verify_class verdict(const struct verify *v, const struct candidate *c) {
    enum { GRACE_MS = 2000 };
    int64_t now = clock_wall_ms(&clock_real);
    if (!c->has_row && c->type == TYPE_NONE) return v->options.key_count > 0 ? VERIFY_UNKNOWN : VERIFY_RIGHT;
    if (!c->has_row) return VERIFY_ORPHAN;
    bool timed = c->row.expire_at_ms != 0;
    if (c->type == TYPE_NONE) {
        if (timed && c->row.expire_at_ms <= now + GRACE_MS) return VERIFY_RIGHT;
        return timed ? VERIFY_EXPIRED_EARLY : VERIFY_MISSING;
    }
    if (timed && c->row.expire_at_ms < now - GRACE_MS) return VERIFY_EXPIRY;
    if (c->type != ((c->row.flags & LIVE_HASH) != 0 ? TYPE_HASH : TYPE_STRING)) return VERIFY_WRONG_TYPE;
    if (!c->decodes || memcmp(c->found, c->row.value, DIGEST_BYTES) != 0)
        if (c->row.algorithm != DIGEST_NONE) return VERIFY_ALTERED;
    return verify_same_expiry(v, c->expire_at_ms, c->row.expire_at_ms) ? VERIFY_RIGHT : VERIFY_EXPIRY;
}

static void ask(struct verify *v, const struct candidate *c) {
    const char *type[] = {"TYPE", c->name}, *get[] = {"GET", c->name}, *all[] = {"HGETALL", c->name};
    const size_t type_bytes[] = {4, c->name_bytes}, get_bytes[] = {3, c->name_bytes}, all_bytes[] = {7, c->name_bytes};
    redis_queue(v->redis, 2, type, type_bytes);
    verify_ask_expiry(v, c->name, c->name_bytes);
    if (!c->has_row) return;
    if ((c->row.flags & LIVE_HASH) != 0)
        redis_queue(v->redis, 2, all, all_bytes);
    else
        redis_queue(v->redis, 2, get, get_bytes);
}

static bool wrong_type(const redisReply *reply) {
    return reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "WRONGTYPE", 9) == 0;
}

static int answer(struct verify *v, struct candidate *c, struct err *err) {
    redisReply *type = redis_next(v->redis, err), *expiry = NULL, *value = NULL;
    int r = verify_reply_check(type, "TYPE", err);
    if (r == 0) r = verify_reply_check(expiry = redis_next(v->redis, err), "PEXPIRETIME", err);
    if (r == 0 && c->has_row && (value = redis_next(v->redis, err)) == NULL) r = -1;
    if (r == 0 && value != NULL && !wrong_type(value)) r = verify_reply_check(value, "GET", err);
    if (r == 0) {
        c->type = (uint8_t)type_of(type);
        c->expire_at_ms = verify_expiry(v, expiry);
        c->decodes = false;
        if (value != NULL && !wrong_type(value))
            verify_value(v, c->name, c->name_bytes, &c->row, value, c->found, &c->decodes);
        c->class = (uint8_t)verdict(v, c);
    }
    freeReplyObject(type);
    freeReplyObject(expiry);
    freeReplyObject(value);
    return r;
}

static int row_now(struct verify *v, const struct candidate *c, struct live_row *row, bool *has, struct err *err) {
    uint64_t index;
    int r = known_find(&v->known, c->key, row, &index, err);
    *has = r == 1;
    return r < 0 ? -1 : 0;
}

static int look_at_some(struct verify *v, struct candidate **some, uint32_t count, struct err *err) {
    for (uint32_t i = 0; i < count; i++) {
        if (row_now(v, some[i], &some[i]->row, &some[i]->has_row, err) != 0) return -1;
        ask(v, some[i]);
    }
    if (redis_send(v->redis, err) != 0) return -1;
    for (uint32_t i = 0; i < count; i++)
        if (answer(v, some[i], err) != 0) return -1;
    verify_pace(v, count);
    return 0;
}

/* What the log has told of a key since it was looked at makes the look void. */
static int void_changed(struct verify *v, struct candidate *c, struct err *err) {
    struct live_row row;
    bool has;
    if (row_now(v, c, &row, &has, err) != 0) return -1;
    if (has != c->has_row || (has && memcmp(&row, &c->row, sizeof row) != 0)) c->class = VERIFY_MOVING;
    return 0;
}

static int look_at_block(struct verify *v, uint64_t from, uint64_t to, struct err *err) {
    struct candidate *some[LOOK_KEYS];
    uint32_t n = 0;
    for (uint64_t i = from; i <= to; i++) {
        if (n == LOOK_KEYS || (i == to && n > 0)) {
            if (look_at_some(v, some, n, err) != 0) return -1;
            n = 0;
        }
        if (i < to && v->candidate[i].class != VERIFY_RIGHT) some[n++] = &v->candidate[i];
    }
    if (known_settle(&v->known, err) != 0) return -1;
    for (uint64_t i = from; i < to; i++)
        if (v->candidate[i].class != VERIFY_RIGHT && void_changed(v, &v->candidate[i], err) != 0) return -1;
    return 0;
}

int verify_look(struct verify *v, struct err *err) {
    if (known_settle(&v->known, err) != 0) return -1;
    for (uint64_t from = 0; from < v->count; from += LOOK_BLOCK)
        if (look_at_block(v, from, from + LOOK_BLOCK < v->count ? from + LOOK_BLOCK : v->count, err) != 0) return -1;
    return 0;
}

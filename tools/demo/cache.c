#include "tools/demo/cache.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/limits.h"
#include "transform/value.h"

static const char card_prefix[] = "card:";
static const char mark_prefix[] = "millrace:mark:"; /* the pipeline's own keys, one a partition (docs/formats.md) */

static redisContext *connect_to(const char *folder, struct err *err) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/redis.sock", folder);
    redisContext *redis = redisConnectUnixWithTimeout(path, (struct timeval){.tv_sec = 5});
    if (redis != NULL && redis->err == 0) {
        redisSetTimeout(redis, (struct timeval){.tv_sec = 5});
        return redis;
    }
    err_set(err, EX_UNAVAILABLE, "Redis at %s: %s", path, redis != NULL ? redis->errstr : "no memory");
    if (redis != NULL) redisFree(redis);
    return NULL;
}

int cache_start(struct process *p, const char *folder, const char *log, struct err *err) {
    char socket[PATH_BYTES];
    snprintf(socket, sizeof socket, "%s/redis.sock", folder);
    const char *const argv[] = {"redis-server", "--port", "0",    "--unixsocket", socket, "--unixsocketperm",
                                "600",          "--dir",  folder, "--save",       "",     "--appendonly",
                                "no",           NULL};
    if (process_start(p, (char *const *)(uintptr_t)argv, log, NULL, err) != 0) return -1;
    for (int tries = 0; tries < 200 && !interrupted(); tries++) {
        if (process_ended(p, 25)) return err_set(err, EX_UNAVAILABLE, "redis-server ends at once; %s says why", log);
        redisContext *redis = connect_to(folder, err);
        redisReply *reply = redis != NULL ? redisCommand(redis, "PING") : NULL;
        bool ready = reply != NULL && reply->type == REDIS_REPLY_STATUS;
        freeReplyObject(reply);
        if (redis != NULL) redisFree(redis);
        if (ready) return 0;
    }
    return err_set(err, EX_UNAVAILABLE, "redis-server does not answer");
}

/* Whether the stored bytes are the published ones, in the encrypted form that was asked for. */
static bool same(const struct keys *keys, const redisReply *key, const redisReply *stored, const struct fold_entry *e) {
    struct err err = {0};
    uint8_t *value = NULL;
    size_t len = 0;
    const uint8_t *bytes = (const uint8_t *)stored->str;
    if (stored->type != REDIS_REPLY_STRING || !value_is_encoded(bytes, stored->len)) return false;
    if (value_decode(keys, key->str, key->len, bytes, stored->len, &value, &len, &err) != 0) return false;
    bool equal = len == e->value_bytes && memcmp(value, e->value, len) == 0;
    free(value);
    return equal;
}

static int key_compare(redisContext *redis, const struct keys *keys, struct fold *fold, const redisReply *key,
                       struct difference *out, struct err *err) {
    if (key->len >= sizeof mark_prefix && memcmp(key->str, mark_prefix, sizeof mark_prefix - 1) == 0) return 0;
    bool card = key->len >= sizeof card_prefix && memcmp(key->str, card_prefix, sizeof card_prefix - 1) == 0;
    struct fold_entry *e = card ? fold_find(fold, key->str, key->len) : NULL;
    if (e == NULL || e->value == NULL) {
        out->unexpected++; /* a key that SCAN returns twice is counted twice: it is wrong either way */
        return 0;
    }
    if (e->seen) return 0;
    e->seen = true;
    redisReply *stored = redisCommand(redis, "GET %b", key->str, key->len);
    if (stored == NULL) return err_set(err, EX_UNAVAILABLE, "Redis: %s", redis->errstr);
    if (!same(keys, key, stored, e)) out->altered++;
    freeReplyObject(stored);
    return 0;
}

int cache_compare(const char *folder, const struct keys *keys, struct fold *fold, struct difference *out,
                  struct err *err) {
    *out = (struct difference){0};
    redisContext *redis = connect_to(folder, err);
    if (redis == NULL) return -1;
    char cursor[32] = "0";
    int r = 0;
    do {
        redisReply *page = redisCommand(redis, "SCAN %s COUNT 1000", cursor);
        if (page == NULL || page->type != REDIS_REPLY_ARRAY || page->elements != 2) {
            const char *why = page != NULL && page->str != NULL ? page->str : redis->errstr;
            r = err_set(err, EX_UNAVAILABLE, "Redis: SCAN: %s", why);
        } else {
            snprintf(cursor, sizeof cursor, "%s", page->element[0]->str);
            for (size_t i = 0; i < page->element[1]->elements && r == 0; i++)
                r = key_compare(redis, keys, fold, page->element[1]->element[i], out, err);
        }
        freeReplyObject(page);
    } while (r == 0 && strcmp(cursor, "0") != 0);
    redisFree(redis);
    for (uint32_t i = 0; i < FOLD_SLOTS && r == 0; i++)
        if (fold->entry[i].value != NULL && !fold->entry[i].seen) out->missing++;
    return r;
}

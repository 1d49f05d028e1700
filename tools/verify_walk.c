#include "tools/verify_walk.h"

#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/grouped.h"

#define MARK_PREFIX "millrace:mark:"

enum { PAGE_BYTES = 64 << 10, PAGE_KEYS_MIN = 4, FOLLOW_MS = 200, SAY_MS = 2000 };

struct item {
    const char *name; /* in the page's scan reply */
    size_t len;
    uint8_t key[DIGEST_BYTES];
    struct live_row row;
    uint32_t string; /* its number among the strings of the page */
    redisReply *fields, *expiry;
};

struct page {
    redisReply *scan;
    struct item *item; /* of the keys that are compared */
    uint32_t count, strings;
    redisReply *values; /* of MGET */
};

struct walk {
    struct verify *v;
    enum verify_walk kind;
    uint32_t page_keys;
    double value_bytes; /* of a key, about */
    uint64_t total, walked, followed_ns, said_ns, hooked_ns;
};

static void page_free(struct page *p) {
    for (uint32_t i = 0; i < p->count; i++) {
        freeReplyObject(p->item[i].fields);
        freeReplyObject(p->item[i].expiry);
    }
    free(p->item);
    freeReplyObject(p->values);
    freeReplyObject(p->scan);
    memset(p, 0, sizeof *p);
}

/* -- asking ------------------------------------------------------------------------------------ */

static void queue_scan(struct walk *w, const char *cursor) {
    char count[16];
    snprintf(count, sizeof count, "%u", w->page_keys);
    redis_queue(w->v->redis, 4, (const char *[]){"SCAN", cursor, "COUNT", count}, NULL);
}

static void queue_values(struct walk *w, struct page *p) {
    const char **word = malloc((p->count + 1) * sizeof *word);
    size_t *len = malloc((p->count + 1) * sizeof *len);
    CHECK(word != NULL && len != NULL);
    word[0] = "MGET";
    len[0] = 4;
    for (uint32_t i = 0; i < p->count; i++) {
        struct item *it = &p->item[i];
        if ((it->row.flags & LIVE_HASH) != 0) continue;
        it->string = p->strings++;
        word[1 + it->string] = it->name;
        len[1 + it->string] = it->len;
    }
    if (p->strings > 0) redis_queue(w->v->redis, (int)p->strings + 1, word, len);
    for (uint32_t i = 0; i < p->count; i++) {
        const struct item *it = &p->item[i];
        const size_t all[] = {7, it->len};
        if ((it->row.flags & LIVE_HASH) != 0) redis_queue(w->v->redis, 2, (const char *[]){"HGETALL", it->name}, all);
        verify_ask_expiry(w->v, it->name, it->len);
    }
    free(word);
    free(len);
}

static redisReply *taken(struct walk *w, const char *command, struct err *err) {
    redisReply *reply = redis_next(w->v->redis, err);
    bool typed = reply != NULL && reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "WRONGTYPE", 9) == 0;
    if (typed || verify_reply_check(reply, command, err) == 0) return reply;
    freeReplyObject(reply);
    return NULL;
}

static int take_values(struct walk *w, struct page *p, struct err *err) {
    if (p->strings > 0) {
        p->values = taken(w, "MGET", err);
        if (p->values == NULL) return -1;
        if (p->values->type != REDIS_REPLY_ARRAY || p->values->elements != p->strings)
            return err_set(err, EX_UNAVAILABLE, "MGET: a reply that is no list of as many values as there are keys");
    }
    for (uint32_t i = 0; i < p->count; i++) {
        struct item *it = &p->item[i];
        if ((it->row.flags & LIVE_HASH) != 0 && (it->fields = taken(w, "HGETALL", err)) == NULL) return -1;
        if ((it->expiry = taken(w, "PEXPIRETIME", err)) == NULL) return -1;
    }
    return 0;
}

static redisReply *take_scan(struct walk *w, struct err *err) {
    redisReply *scan = taken(w, "SCAN", err);
    if (scan == NULL) return NULL;
    bool well = scan->type == REDIS_REPLY_ARRAY && scan->elements == 2 &&
                scan->element[0]->type == REDIS_REPLY_STRING && scan->element[0]->len < CURSOR_BYTES &&
                scan->element[1]->type == REDIS_REPLY_ARRAY;
    if (well) return scan;
    freeReplyObject(scan);
    err_set(err, EX_UNAVAILABLE, "SCAN: a reply that is no cursor and keys");
    return NULL;
}

/* -- what is met ------------------------------------------------------------------------------- */

/* A key of the page. Returns whether it is to be compared; *it is filled then. 0 and 1, or -1 with err. */
static int meet(struct walk *w, const redisReply *key, struct item *it, struct err *err) {
    struct verify *v = w->v;
    uint64_t index;
    size_t prefix = sizeof MARK_PREFIX - 1;
    *it = (struct item){.name = key->str, .len = key->len};
    if (key->len >= prefix && memcmp(key->str, MARK_PREFIX, prefix) == 0) {
        v->marks++;
        return 0;
    }
    digest_of(&v->digest, DIGEST_HMAC, key->str, key->len, it->key);
    if (!verify_sampled(v, it->key)) return 0;
    int found = known_find(&v->known, it->key, &it->row, &index, err);
    if (found < 0) return -1;
    bool met = index != UINT64_MAX && known_seen(&v->known, index);
    if (index != UINT64_MAX) known_see(&v->known, index);
    if (met) return 0; /* SCAN may bring a key twice */
    bool named = verify_named(v, key->str, key->len);
    if (w->kind == WALK_SEARCH) {
        if (index != UINT64_MAX && found == 1 && named && verify_in_scope(v, &it->row))
            verify_candidate(v, key->str, key->len, it->key);
        return 0;
    }
    if (!named || (found == 1 && !verify_in_scope(v, &it->row))) return 0;
    if (found == 1) return 1;
    if (verify_maybe_orphan(v, key->str, key->len)) {
        v->looked_at++;
        verify_candidate(v, key->str, key->len, it->key);
    }
    return 0;
}

static int page_make(struct walk *w, struct page *p, redisReply *scan, struct err *err) {
    const redisReply *keys = scan->element[1];
    memset(p, 0, sizeof *p);
    p->scan = scan;
    p->item = malloc((keys->elements + 1) * sizeof *p->item);
    CHECK(p->item != NULL);
    for (size_t i = 0; i < keys->elements; i++) {
        int r = meet(w, keys->element[i], &p->item[p->count], err);
        if (r < 0) return -1;
        p->count += (uint32_t)r;
    }
    w->walked += keys->elements;
    return 0;
}

static size_t reply_bytes(const redisReply *r) {
    size_t bytes = r->type == REDIS_REPLY_STRING ? r->len : 0;
    for (size_t i = 0; r->type == REDIS_REPLY_ARRAY && i < r->elements; i++) bytes += reply_bytes(r->element[i]);
    return bytes;
}

static bool item_right(struct verify *v, const struct item *it, const redisReply *value) {
    uint8_t digest[DIGEST_BYTES];
    bool decodes;
    int64_t expire_at_ms = verify_expiry(v, it->expiry);
    if (expire_at_ms < 0 || !verify_same_expiry(v, expire_at_ms, it->row.expire_at_ms)) return false;
    if (verify_value(v, it->name, it->len, &it->row, value, digest, &decodes) != 0) return false;
    return it->row.algorithm == DIGEST_NONE || memcmp(digest, it->row.value, DIGEST_BYTES) == 0;
}

static void page_compare(struct walk *w, const struct page *p) {
    struct verify *v = w->v;
    size_t bytes = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        const struct item *it = &p->item[i];
        const redisReply *value = it->fields != NULL ? it->fields : p->values->element[it->string];
        bytes += reply_bytes(value);
        v->looked_at++;
        if (item_right(v, it, value))
            v->right++;
        else
            verify_candidate(v, it->name, it->len, it->key);
    }
    if (p->count == 0) return;
    w->value_bytes = 0.8 * w->value_bytes + 0.2 * (double)bytes / p->count;
    double fit = PAGE_BYTES / (w->value_bytes + 1);
    w->page_keys = fit > VERIFY_PAGE_KEYS ? VERIFY_PAGE_KEYS : fit < PAGE_KEYS_MIN ? PAGE_KEYS_MIN : (uint32_t)fit;
}

/* -- the walk ---------------------------------------------------------------------------------- */

static int tend(struct walk *w, struct err *err) {
    struct verify *v = w->v;
    uint64_t now = clock_ns(&clock_real);
    char walked[GROUPED_BYTES], total[GROUPED_BYTES], found[GROUPED_BYTES];
    if (now - w->followed_ns > FOLLOW_MS * NS_PER_MS) {
        if (known_follow(&v->known, err) < 0) return -1;
        w->followed_ns = clock_ns(&clock_real);
    }
    if (now - w->said_ns > SAY_MS * NS_PER_MS) {
        fprintf(stderr, "millrace verify: %s of %s keys, %s to be looked at again\n", grouped(w->walked, walked),
                grouped(w->total, total), grouped(v->count, found));
        w->said_ns = now;
    }
    return 0;
}

static uint64_t key_count(struct verify *v) {
    struct err err;
    redisReply *reply = redis_ask(v->redis, 1, (const char *[]){"DBSIZE"}, NULL, &err);
    uint64_t n = reply != NULL && reply->type == REDIS_REPLY_INTEGER ? (uint64_t)reply->integer : 0;
    freeReplyObject(reply);
    return n;
}

/* One page: asks for the values of the keys in *scan and for the keys after them, compares the page before meanwhile,
 * and leaves the next answer in *scan, NULL at the end. */
static int turn(struct walk *w, struct page *before, redisReply **scan, struct err *err) {
    struct page page = {0};
    char cursor[CURSOR_BYTES];
    snprintf(cursor, sizeof cursor, "%s", (*scan)->element[0]->str);
    bool more = strcmp(cursor, "0") != 0;
    redisReply *this = *scan;
    *scan = NULL;
    int r = page_make(w, &page, this, err);
    if (r == 0) {
        queue_values(w, &page);
        if (more) queue_scan(w, cursor);
        r = redis_send(w->v->redis, err);
    }
    page_compare(w, before);
    page_free(before);
    if (r == 0) r = take_values(w, &page, err);
    if (r == 0 && more && (*scan = take_scan(w, err)) == NULL) r = -1;
    *before = page;
    verify_pace(w->v, page.scan->element[1]->elements);
    return r;
}

/* For the hook nothing may be left half done: the page at hand is compared first. */
static int come_to_rest(struct walk *w, struct page *page, const struct walk_hook *hook, struct err *err) {
    char next[CURSOR_BYTES];
    uint64_t now = clock_ns(&clock_real);
    if (!*w->v->leave && now - w->hooked_ns < hook->every_ms * NS_PER_MS) return 0;
    w->hooked_ns = now;
    page_compare(w, page);
    snprintf(next, sizeof next, "%s", page->scan->element[0]->str);
    page_free(page);
    return hook->between(w->v, next, hook->context, err);
}

int verify_walk_all(struct verify *v, enum verify_walk kind, const char *cursor, const struct walk_hook *hook,
                    struct err *err) {
    struct walk w = {.v = v, .kind = kind, .page_keys = VERIFY_PAGE_KEYS / 2, .total = key_count(v)};
    if (kind == WALK_COMPARE) w.walked = v->looked_at; /* before it was asked to leave */
    struct page page = {0};
    w.said_ns = w.followed_ns = w.hooked_ns = clock_ns(&clock_real);
    queue_scan(&w, cursor);
    redisReply *scan = redis_send(v->redis, err) == 0 ? take_scan(&w, err) : NULL;
    int r = scan == NULL ? -1 : 0;
    while (r == 0 && scan != NULL && !*v->leave) {
        r = turn(&w, &page, &scan, err);
        if (r == 0) r = tend(&w, err);
        if (r == 0 && scan != NULL && hook != NULL) r = come_to_rest(&w, &page, hook, err);
    }
    if (r == 0) page_compare(&w, &page);
    page_free(&page);
    freeReplyObject(scan);
    return r != 0 ? r : *v->leave;
}

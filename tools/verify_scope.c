/* Which keys a run of verify is about, and its list of candidates. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "tools/verify.h"

static const char *const class_names[VERIFY_CLASS_COUNT] = {
    [VERIFY_RIGHT] = "right",           [VERIFY_MOVING] = "moving",   [VERIFY_UNKNOWN] = "unknown",
    [VERIFY_ELSEWHERE] = "elsewhere",   [VERIFY_MISSING] = "missing", [VERIFY_EXPIRED_EARLY] = "expired_early",
    [VERIFY_EVICTED] = "evicted",       [VERIFY_ALTERED] = "altered", [VERIFY_STALE] = "stale",
    [VERIFY_WRONG_TYPE] = "wrong_type", [VERIFY_EXPIRY] = "expiry",   [VERIFY_ORPHAN] = "orphan",
};

const char *verify_class_name(enum verify_class c) { return c < VERIFY_CLASS_COUNT ? class_names[c] : "?"; }

/* Digests are as good as random: their first bytes choose the sample, the same keys in both directions and each time.
 */
bool verify_sampled(const struct verify *v, const uint8_t key[DIGEST_BYTES]) {
    uint32_t at = (uint32_t)key[0] << 24 | (uint32_t)key[1] << 16 | (uint32_t)key[2] << 8 | key[3];
    return v->options.sample >= 100 || (double)at < v->options.sample / 100 * 4294967296.0;
}

bool verify_in_scope(const struct verify *v, const struct live_row *row) {
    const struct verify_options *o = &v->options;
    if (!verify_sampled(v, row->key)) return false;
    if (o->topic != NULL && strcmp(live_topic(v->known.live, row->topic), o->topic) != 0) return false;
    return o->to_ms == 0 || (row->event_ms >= o->from_ms && row->event_ms < o->to_ms);
}

bool verify_named(const struct verify *v, const char *name, size_t len) {
    const char *pattern = v->options.pattern;
    return pattern == NULL || glob_match(pattern, strlen(pattern), name, len);
}

bool verify_maybe_orphan(struct verify *v, const char *name, size_t len) {
    bool wanted = v->options.topic == NULL;
    if (v->options.to_ms != 0) return false; /* a key without a row has no time */
    for (uint32_t i = 0; i < v->config->topic_count; i++) {
        const char *unlogged = v->topic[i].unlogged, *pattern = v->topic[i].wanted;
        if (unlogged[0] != '\0' && glob_match(unlogged, strlen(unlogged), name, len)) {
            v->unlogged++;
            return false;
        }
        wanted = wanted || (pattern[0] != '\0' && glob_match(pattern, strlen(pattern), name, len));
    }
    return wanted;
}

void verify_candidate(struct verify *v, const char *name, size_t len, const uint8_t key[DIGEST_BYTES]) {
    if (v->count == VERIFY_CANDIDATES_MAX) {
        v->dropped++;
        return;
    }
    if (v->count == v->room) {
        v->room = v->room == 0 ? 1024 : 2 * v->room;
        v->candidate = realloc(v->candidate, v->room * sizeof *v->candidate);
        CHECK(v->candidate != NULL);
    }
    struct candidate *c = &v->candidate[v->count++];
    *c = (struct candidate){.name = malloc(len + 1), .name_bytes = (uint32_t)len, .class = VERIFY_MOVING};
    CHECK(c->name != NULL);
    memcpy(c->name, name, len);
    c->name[len] = '\0';
    memcpy(c->key, key, DIGEST_BYTES);
}

void verify_pace(struct verify *v, uint64_t keys) {
    if (v->options.rate == 0) return;
    uint64_t now = clock_ns(&clock_real);
    if (v->pace_ns == 0) v->pace_ns = now;
    v->paced += keys;
    uint64_t due = v->pace_ns + (uint64_t)((double)v->paced / v->options.rate * 1e9);
    if (due <= now) return;
    uint64_t wait = due - now;
    nanosleep(&(struct timespec){.tv_sec = (time_t)(wait / NS_PER_S), .tv_nsec = (long)(wait % NS_PER_S)}, NULL);
}

int verify_unseen(struct verify *v,
                  int (*what)(struct verify *v, const struct live_row *row, bool moving, void *context), void *context,
                  struct err *err) {
    enum { EXPIRING_MS = 2000 };
    const struct run *base = live_base(v->known.live);
    struct live_row now;
    uint64_t place;
    int r = 0;
    if (base == NULL) return 0;
    struct run_cursor *c = malloc(sizeof *c);
    CHECK(c != NULL);
    struct err own = {0};
    const struct live_row *row;
    run_cursor_init(c, base, 0);
    for (uint64_t i = 0; r == 0 && (row = run_cursor_next(c, &own)) != NULL; i++) {
        if (known_seen(&v->known, i)) continue;
        int found = known_find(&v->known, row->key, &now, &place, &own);
        if (found < 0) break;
        if (found == 0 || !verify_in_scope(v, &now)) continue;
        if (now.expire_at_ms != 0 && now.expire_at_ms < clock_wall_ms(&clock_real) + EXPIRING_MS) continue;
        r = what(v, &now, memcmp(&now, row, sizeof now) != 0, context);
    }
    free(c);
    if (own.code != 0) *err = own;
    return own.code != 0 ? -1 : r;
}

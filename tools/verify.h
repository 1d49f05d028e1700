/* millrace verify, inside: one comparison of Redis with the table of live keys (tools/verify_known.h).
 *
 * The first round walks over all keys of Redis (tools/verify_walk.h) and keeps those that are not as the table says:
 * candidates. Nothing is called wrong because of it. Later rounds look at each candidate by itself (verify_look), and
 * read the log to its end before and after: only what is wrong while the log says nothing new of the key is a finding.
 * Rows that no key was met for are looked for in another walk, or, when their records can be read in Kafka and are few,
 * by their names. */
#ifndef MILLRACE_TOOLS_VERIFY_H
#define MILLRACE_TOOLS_VERIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/config.h"
#include "base/keys.h"
#include "recon/live.h"
#include "tools/glob.h"
#include "tools/redis_client.h"
#include "tools/verify_known.h"

enum { VERIFY_CANDIDATES_MAX = 1000000, VERIFY_PAGE_KEYS = 64, VERIFY_DETAIL_BYTES = 160 };

enum verify_class {
    VERIFY_RIGHT,
    VERIFY_MOVING,    /* changed each time it was looked at: nothing is claimed */
    VERIFY_UNKNOWN,   /* of --key: Redis does not have it, and no record that the log tells of has written it */
    VERIFY_ELSEWHERE, /* a key without a row, and this instance's log does not tell of all records: nothing is claimed
                       */
    VERIFY_MISSING,   /* should be there and is not */
    VERIFY_EXPIRED_EARLY, /* the same, of a key that would expire later */
    VERIFY_EVICTED,       /* the same, and Redis says that it has evicted as many keys at least */
    VERIFY_ALTERED,       /* another value than was written last, or one that does not decode */
    VERIFY_STALE,         /* an older value of the same key */
    VERIFY_WRONG_TYPE,    /* no string or no hash, where the record was stored as one */
    VERIFY_EXPIRY,        /* expires at another time, or never, or should not */
    VERIFY_ORPHAN,        /* a key that no record has written, or whose record was deleted */
    VERIFY_CLASS_COUNT
};
static inline bool verify_is_finding(enum verify_class c) { return c > VERIFY_ELSEWHERE; }
const char *verify_class_name(enum verify_class c); /* "right" "moving" "missing" "expired_early" … */

struct verify_options {
    const char *topic;   /* NULL: all */
    const char *pattern; /* of keys; NULL: all */
    char **keys;         /* looked at by name, instead of a walk */
    int key_count;
    int64_t from_ms, to_ms; /* event time [from, to) of the records; both 0: all */
    double sample;          /* percent of the keys, [0, 100] */
    uint32_t rounds;        /* [1, 100] */
    uint32_t rate;          /* keys a second; 0 no limit */
    const char *resume;     /* file; NULL: none */
    bool repair, repair_orphans, json;
    const char *report; /* file for every finding, a line of JSON each; NULL: none */
};

enum verify_type { TYPE_NONE, TYPE_STRING, TYPE_HASH, TYPE_OTHER };

struct candidate {
    char *name; /* of the key, terminated; `name_bytes` without that */
    uint32_t name_bytes;
    uint8_t class; /* enum verify_class, by the last look */
    uint8_t type;  /* enum verify_type that was found */
    bool has_row, decodes, has_id, was_deleted;
    uint8_t id[16]; /* of the record that `row` comes from, when has_id */
    uint8_t key[DIGEST_BYTES];
    uint8_t found[DIGEST_BYTES]; /* digest of the value that was found */
    int64_t expire_at_ms;        /* that was found; 0 never */
    int64_t stale_offset;        /* of the older record that the value is of */
    struct live_row row;         /* what should be there; without has_row: nothing */
};

struct verify_reach { /* a partition that has records in the logs of other instances only */
    char topic[TOPIC_BYTES];
    int32_t partition;
    int64_t last; /* the highest offset of them */
};

struct verify {
    const struct config *config;
    struct verify_options options;
    struct redis_client *redis;
    struct keys *keys; /* NULL: none are configured */
    struct digest_key digest;
    struct known known;
    bool counts_expiry; /* Redis knows PEXPIRETIME */
    char run_id[48];    /* of the Redis server */
    char cursor[24];    /* where the first walk begins; CURSOR_BYTES of verify_walk.h */
    struct {            /* of the configuration's topics: patterns of their keys; "" not of this kind */
        char wanted[GLOB_BYTES], unlogged[GLOB_BYTES];
    } * topic;
    struct candidate *candidate;
    uint64_t count, room;
    struct verify_reach *reach;
    uint32_t reach_count;
    bool untold; /* the group has had other members, and nobody tells what they have logged */
    uint64_t dropped;   /* candidates beyond VERIFY_CANDIDATES_MAX */
    uint64_t looked_at; /* keys of Redis in scope */
    uint64_t right;     /* of them, as they should be when the walk came by */
    uint64_t unlogged;  /* keys of topics that are not in the log */
    uint64_t marks;     /* millrace's own keys */
    uint64_t tally[VERIFY_CLASS_COUNT];
    uint64_t rounds_done;
    uint64_t pace_ns, paced; /* when the pace began, and keys since */
    _Atomic bool *leave;     /* set by a signal */
    enum verify_evicting {
        EVICTING_NONE,
        EVICTING_TIMED, /* Redis has evicted keys, and only such as expire some time */
        EVICTING_ANY
    } evicting;
};

/* -- scope ------------------------------------------------------------------------------------- */

/* Whether this run is about the key with this digest, and about the row. */
bool verify_sampled(const struct verify *v, const uint8_t key[DIGEST_BYTES]);
bool verify_in_scope(const struct verify *v, const struct live_row *row);
/* A key of the pattern asked for. */
bool verify_named(const struct verify *v, const char *name, size_t len);
/* A key without a row: whether it is to be looked at as an orphan. Counts what is not. */
bool verify_maybe_orphan(struct verify *v, const char *name, size_t len);

/* Whether a key that is missing may have been evicted. */
static inline bool verify_evicted(const struct verify *v, const struct live_row *row) {
    return v->evicting == EVICTING_ANY || (v->evicting == EVICTING_TIMED && row->expire_at_ms != 0);
}

/* -- looking ----------------------------------------------------------------------------------- */

/* What Redis has under a key, as it was answered. */
struct redisReply;
struct verify_seen {
    const struct redisReply *value; /* of GET, MGET or HGETALL */
    int64_t expire_at_ms;           /* 0 never, -1 no such key */
};

/* verify_value: digest of the value under the row's algorithm into out. 0; -1: it is not of the row's type, is not
 * there, or does not decode (*decodes says). */
int verify_value(struct verify *v, const char *name, size_t len, const struct live_row *row,
                 const struct redisReply *value, uint8_t out[DIGEST_BYTES], bool *decodes);

/* Whether two times of expiry are the same, as far as Redis tells. */
bool verify_same_expiry(const struct verify *v, int64_t a, int64_t b);

/* verify_ask_expiry queues the question; verify_expiry reads its answer: 0 never, -1 no key, -2 an error in it. */
void verify_ask_expiry(struct verify *v, const char *name, size_t len);
int64_t verify_expiry(const struct verify *v, const struct redisReply *reply);

/* verify_candidate keeps a key to be looked at; more than VERIFY_CANDIDATES_MAX are counted only. */
void verify_candidate(struct verify *v, const char *name, size_t len, const uint8_t key[DIGEST_BYTES]);

/* verify_look looks at the candidates that are not right yet, once: the log is read to its end before and after. 0, or
 * -1 with err. */
int verify_look(struct verify *v, struct err *err);

/* verify_unseen calls what for each row in scope that no key was met for and that should still be there, until it does
 * not return 0; returns what it returned. moving: the row is younger than the last walk. */
int verify_unseen(struct verify *v,
                  int (*what)(struct verify *v, const struct live_row *row, bool moving, void *context), void *context,
                  struct err *err);

/* verify_pace waits until so many more keys may be asked for. */
void verify_pace(struct verify *v, uint64_t keys);

/* verify_reply_check: 0, or -1 with err when the reply is missing or an error of the server that ends everything. */
int verify_reply_check(const struct redisReply *reply, const char *command, struct err *err);

#endif

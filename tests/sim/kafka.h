/* A Kafka in memory behind the port of ingest/kafka.h: partitions whose messages, gaps and ends a test decides, the
 * events of the group, and every answer that a broker may give late, wrongly or never. For the tests of ingest/ and for
 * the simulator; whoever includes this defines KAFKA_REQUIRE(condition, format, ...) before. */
#ifndef MILLRACE_TESTS_SIM_KAFKA_H
#define MILLRACE_TESTS_SIM_KAFKA_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/kafka.h"
#include "shm/record.h"

static inline uint64_t random_next(uint64_t *state) { /* xorshift64*, Marsaglia and Vigna */
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dULL;
}
static inline uint32_t random_below(uint64_t *state, uint32_t n) { return (uint32_t)(random_next(state) >> 33) % n; }

enum { SIM_PARTITIONS_MAX = 40, SIM_EVENTS_MAX = 64, SIM_TOPICS = 2 };

enum answer { ANSWER_OK, ANSWER_FAILS, ANSWER_NEVER_DONE, ANSWER_NEVER_LOST, ANSWER_REFUSED, ANSWER_LATER };

struct sim_message {
    int64_t offset, timestamp_ms;
    uint8_t *key, *value; /* NULL: null */
    uint32_t key_bytes, value_bytes, header_bytes;
    uint8_t headers[160];     /* encoded */
    uint32_t headers_claimed; /* when not 0: what headers() says they take */
};

struct sim_partition {
    uint32_t topic;
    int32_t partition;
    struct sim_message **log; /* pointers: a client may hold a message while the log grows */
    uint32_t count, room;
    int64_t low, end;  /* watermarks; end may lie beyond the last message */
    int64_t committed; /* of the group; -1 none */
    struct note note;  /* of that commit */
    bool assigned;     /* to the member under test, by assign() */
    int64_t position;  /* of its fetcher */
    bool end_told;
    bool stopped;   /* the fetcher, at an offset that is not there: only assign() starts it again */
    int fail_code;  /* the next fetch fails once with this code; 0 none */
    int fail_skips; /* and the client goes on so many offsets behind it, as it does behind a batch with a wrong checksum
                     */
    uint32_t fetched, seeks;
    int32_t broker; /* who gives its messages */
};

struct sim {
    struct sim_partition partition[SIM_PARTITIONS_MAX];
    uint32_t count;
    struct kafka_event *event; /* queue of SIM_EVENTS_MAX */
    uint32_t event_first, event_count;
    enum answer answer;        /* to commits from now on */
    struct kafka_event *later; /* ANSWER_LATER: what to answer when the test says so */
    bool fenced;               /* somebody else has the partitions: commits of this member fail */
    int committed_fails, watermarks_fail, assign_fails, seek_fails; /* so many calls fail from now on */
    uint32_t commits, assigns, unassigns, held;                     /* held: messages taken and not done */
    uint32_t commit_calls;
    int cluster_fails;               /* so many calls fail from now on */
    int witness_fails, witness_late; /* so many calls fail, or have no answer in time */
    uint32_t witness_calls;
    char cluster[CLUSTER_BYTES];
    void (*before)(void *context, const char *call);                           /* at every call of the port */
    void (*on_commit)(void *context, struct sim_partition *p, int64_t offset); /* the broker takes an offset */
    void *context;
};

static inline struct sim_partition *sim_find(struct sim *s, uint32_t topic, int32_t partition) {
    for (uint32_t i = 0; i < s->count; i++)
        if (s->partition[i].topic == topic && s->partition[i].partition == partition) return &s->partition[i];
    return NULL;
}

static inline struct sim_partition *sim_at(struct sim *s, uint32_t topic, int32_t partition) {
    struct sim_partition *p = sim_find(s, topic, partition);
    KAFKA_REQUIRE(p != NULL, "no partition %u[%d]", topic, partition);
    return p;
}

static inline struct sim_partition *sim_partition_add(struct sim *s, uint32_t topic, int32_t partition) {
    KAFKA_REQUIRE(s->count < SIM_PARTITIONS_MAX, "too many partitions");
    struct sim_partition *p = &s->partition[s->count++];
    *p = (struct sim_partition){.topic = topic, .partition = partition, .committed = -1};
    return p;
}

/* The message at an offset of a partition has always the same content: keys and values of all kinds. */
static inline struct sim_message *sim_put(struct sim_partition *p, int64_t offset, int32_t value_bytes,
                                          int32_t key_bytes) {
    KAFKA_REQUIRE(offset >= p->end, "a message before the end");
    if (p->count == p->room) {
        p->room = p->room ? 2 * p->room : 64;
        p->log = realloc(p->log, p->room * sizeof *p->log);
    }
    struct sim_message *m = p->log[p->count++] = calloc(1, sizeof *m);
    *m = (struct sim_message){.offset = offset, .timestamp_ms = 1700000000000 + offset};
    uint64_t seed = (uint64_t)offset * 1000003 + (uint64_t)p->partition * 7919 + p->topic + 1;
    if (key_bytes >= 0) {
        m->key = malloc((size_t)key_bytes + 1);
        m->key_bytes = (uint32_t)key_bytes;
        for (uint32_t i = 0; i < m->key_bytes; i++) m->key[i] = (uint8_t)random_next(&seed);
    }
    if (value_bytes >= 0) {
        m->value = malloc((size_t)value_bytes + 1);
        m->value_bytes = (uint32_t)value_bytes;
        for (uint32_t i = 0; i < m->value_bytes; i++) m->value[i] = (uint8_t)random_next(&seed);
    }
    p->end = offset + 1;
    p->end_told = false;
    return m;
}

/* Appends n messages of mixed sizes; gaps > 0: offsets jump by up to so many. */
static inline void sim_fill(struct sim_partition *p, int n, uint32_t gaps, uint64_t *seed) {
    for (; n > 0; n--) {
        int64_t offset = p->end + (gaps > 0 ? random_below(seed, gaps) : 0);
        int32_t value = random_below(seed, 10) == 0 ? -1 : (int32_t)random_below(seed, 120);
        int32_t key = random_below(seed, 10) == 0 ? -1 : (int32_t)random_below(seed, 20);
        struct sim_message *m = sim_put(p, offset, value, key);
        if (random_below(seed, 3) == 0) m->header_bytes = (uint32_t)record_header_put(m->headers, "op", 2, "add", 3);
    }
}

/* Offsets at the end that hold no message: control records, or compacted away. */
static inline void sim_gap(struct sim_partition *p, int64_t n) {
    p->end += n;
    p->end_told = false;
}

static inline const struct sim_message *sim_first_from(const struct sim_partition *p, int64_t offset) {
    uint32_t low = 0, high = p->count;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (p->log[mid]->offset < offset)
            low = mid + 1;
        else
            high = mid;
    }
    return low < p->count ? p->log[low] : NULL;
}

static inline struct kafka_event *sim_event(struct sim *s, enum kafka_event_type type) {
    KAFKA_REQUIRE(s->event_count < SIM_EVENTS_MAX, "too many events");
    struct kafka_event *e = &s->event[(s->event_first + s->event_count++) % SIM_EVENTS_MAX];
    e->type = type;
    e->lost = e->denied = false;
    e->ok = true;
    e->count = 0;
    snprintf(e->text, sizeof e->text, "%s", type == KAFKA_TROUBLE || type == KAFKA_FATAL ? "trouble" : "");
    return e;
}

static inline void sim_list_add(struct kafka_event *e, const struct sim_partition *p) {
    e->list[e->count++] = (struct kafka_partition){p->topic, p->partition, -1, {0}};
}

/* The group gives all partitions whose bit is set in mask (by index). */
static inline void sim_give(struct sim *s, uint64_t mask) {
    struct kafka_event *e = sim_event(s, KAFKA_ASSIGN);
    for (uint32_t i = 0; i < s->count; i++)
        if (mask >> i & 1) sim_list_add(e, &s->partition[i]);
}

static inline void sim_take_away(struct sim *s, bool lost) {
    struct kafka_event *e = sim_event(s, KAFKA_REVOKE);
    e->lost = lost;
    for (uint32_t i = 0; i < s->count; i++)
        if (s->partition[i].assigned) sim_list_add(e, &s->partition[i]);
}

static inline void sim_call(struct sim *s, const char *call) {
    if (s->before != NULL) s->before(s->context, call);
}

static inline bool sim_poll(void *self, struct kafka_event *out) {
    struct sim *s = self;
    sim_call(s, "poll");
    if (s->event_count == 0) return false;
    const struct kafka_event *e = &s->event[s->event_first % SIM_EVENTS_MAX];
    out->type = e->type;
    out->lost = e->lost;
    out->ok = e->ok;
    out->denied = e->denied;
    out->expelled = e->expelled;
    out->tag = e->tag;
    out->count = e->count;
    memcpy(out->list, e->list, e->count * sizeof e->list[0]);
    memcpy(out->text, e->text, sizeof out->text);
    s->event_first++;
    s->event_count--;
    return true;
}

static inline int sim_committed(void *self, struct kafka_partition *list, uint32_t n, struct err *err) {
    struct sim *s = self;
    sim_call(s, "committed");
    if (s->committed_fails > 0 && s->committed_fails--) return err_set(err, 2, "no answer");
    for (uint32_t i = 0; i < n; i++) {
        const struct sim_partition *p = sim_find(s, list[i].topic, list[i].partition);
        list[i].offset = p != NULL ? p->committed : -1;
        list[i].note = p != NULL ? p->note : (struct note){0};
    }
    return 0;
}

static inline int sim_watermarks(void *self, const struct kafka_partition *at, int64_t *low, int64_t *high,
                                 struct err *err) {
    struct sim *s = self;
    sim_call(s, "watermarks");
    if (s->watermarks_fail > 0 && s->watermarks_fail--) return err_set(err, 2, "no answer");
    *low = sim_at(s, at->topic, at->partition)->low;
    *high = sim_at(s, at->topic, at->partition)->end;
    return 0;
}

static inline void sim_watermarks_seen(void *self, const struct kafka_partition *at, int64_t *low, int64_t *high) {
    *low = sim_at(self, at->topic, at->partition)->low;
    *high = sim_at(self, at->topic, at->partition)->end;
}

static inline int sim_ends(void *self, struct kafka_partition *list, uint32_t n, struct err *err) {
    struct sim *s = self;
    sim_call(s, "ends");
    if (s->watermarks_fail > 0 && s->watermarks_fail--) return err_set(err, 2, "no answer");
    for (uint32_t i = 0; i < n; i++) list[i].offset = sim_at(s, list[i].topic, list[i].partition)->end;
    return 0;
}

static inline int sim_seek(void *self, void *handle, int64_t offset, struct err *err) {
    struct sim *s = self;
    struct sim_partition *p = handle;
    sim_call(s, "seek");
    if (s->seek_fails > 0 && s->seek_fails--) return err_set(err, 2, "no answer");
    if (p->stopped) return err_set(err, 1, "stopped");
    p->position = offset;
    p->end_told = false;
    p->seeks++;
    return 0;
}

static inline int sim_cluster(void *self, char out[CLUSTER_BYTES], struct err *err) {
    struct sim *s = self;
    sim_call(s, "cluster");
    if (s->cluster_fails > 0 && s->cluster_fails--) return err_set(err, 2, "no answer");
    snprintf(out, CLUSTER_BYTES, "%s", s->cluster);
    return 0;
}

static inline int sim_witness(void *self, const struct kafka_partition *list, uint32_t n, int64_t *timestamp_ms,
                              struct err *err) {
    struct sim *s = self;
    sim_call(s, "witness");
    s->witness_calls++;
    KAFKA_REQUIRE(n > 0 && n <= KAFKA_WITNESS_MAX, "%u witnesses", n);
    if (s->witness_fails > 0 && s->witness_fails--) return err_set(err, 2, "no answer");
    bool late = s->witness_late > 0 && s->witness_late--;
    for (uint32_t i = 0; i < n; i++) {
        const struct sim_partition *p = sim_at(s, list[i].topic, list[i].partition);
        const struct sim_message *m = list[i].offset >= p->low ? sim_first_from(p, list[i].offset) : NULL;
        timestamp_ms[i] = late                                       ? KAFKA_WITNESS_LATE
                          : m != NULL && m->offset == list[i].offset ? m->timestamp_ms
                                                                     : KAFKA_WITNESS_NONE;
    }
    return 0;
}

static inline bool sim_lost(void *self) { return ((struct sim *)self)->fenced; }

static inline void sim_member_gone(struct sim *s) {
    for (uint32_t i = 0; i < s->count; i++) s->partition[i].assigned = false;
    s->event_count = 0;
    s->held = 0;
    s->fenced = false;
}

static inline int sim_assign(void *self, const struct kafka_partition *list, uint32_t n, void **handle,
                             struct err *err) {
    struct sim *s = self;
    sim_call(s, "assign");
    if (s->assign_fails > 0 && s->assign_fails--) return err_set(err, 2, "not now");
    for (uint32_t i = 0; i < s->count; i++) s->partition[i].assigned = false;
    for (uint32_t i = 0; i < n; i++) {
        struct sim_partition *p = sim_at(s, list[i].topic, list[i].partition);
        KAFKA_REQUIRE(list[i].offset >= 0, "a partition is read from offset %lld", (long long)list[i].offset);
        p->assigned = true;
        p->position = list[i].offset;
        p->end_told = p->stopped = false;
        handle[i] = p;
    }
    s->assigns++;
    s->fenced = false;
    sim_call(s, "assign done");
    return 0;
}

static inline int sim_unassign(void *self, struct err *err) {
    struct sim *s = self;
    (void)err;
    sim_call(s, "unassign");
    for (uint32_t i = 0; i < s->count; i++) s->partition[i].assigned = false;
    s->unassigns++;
    sim_call(s, "unassign done");
    return 0;
}

static inline enum kafka_fetch sim_fetch(void *self, void *handle, struct kafka_message *out, struct err *err) {
    struct sim *s = self;
    struct sim_partition *p = handle;
    sim_call(s, "fetch");
    KAFKA_REQUIRE(p->assigned, "a partition that is not assigned is read");
    out->offset = p->position;
    if (p->fail_code != 0) {
        err_set(err, p->fail_code, "fetch failed");
        p->fail_code = 0;
        p->position += p->fail_skips;
        p->fail_skips = 0;
        return KAFKA_FAILED;
    }
    if (p->stopped) return KAFKA_NOTHING;
    if (p->position < p->low || p->position > p->end) {
        p->stopped = true;
        err_set(err, 1, "offset out of range");
        return KAFKA_FAILED;
    }
    const struct sim_message *m = sim_first_from(p, p->position);
    if (m == NULL) {
        if (p->end_told) return KAFKA_NOTHING;
        p->end_told = true;
        p->position = p->end;
        out->offset = p->end;
        return KAFKA_END;
    }
    *out = (struct kafka_message){.key = m->key,
                                  .value = m->value,
                                  .key_bytes = m->key_bytes,
                                  .value_bytes = m->value_bytes,
                                  .offset = m->offset,
                                  .timestamp_ms = m->timestamp_ms,
                                  .broker = p->broker,
                                  .handle = (void *)(uintptr_t)m};
    p->position = m->offset + 1;
    p->fetched++;
    s->held++;
    sim_call(s, "fetched");
    return KAFKA_MESSAGE;
}

static inline uint32_t sim_headers(void *self, const struct kafka_message *m, uint8_t *out, uint32_t room) {
    const struct sim_message *of = m->handle;
    sim_call(self, "headers");
    if (of->headers_claimed != 0) {
        KAFKA_REQUIRE(of->headers_claimed > room, "that much fits");
        return of->headers_claimed;
    }
    memcpy(out, of->headers, of->header_bytes);
    return of->header_bytes;
}

static inline void sim_done(void *self, struct kafka_message *m) {
    struct sim *s = self;
    sim_call(s, "done");
    KAFKA_REQUIRE(s->held > 0, "nothing is held");
    KAFKA_REQUIRE(m->handle != NULL, "a message is given back twice");
    s->held--;
}

static inline void sim_commit_take(struct sim *s, const struct kafka_partition *list, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        struct sim_partition *p = sim_at(s, list[i].topic, list[i].partition);
        if (s->on_commit != NULL) s->on_commit(s->context, p, list[i].offset);
        p->committed = list[i].offset;
        p->note = list[i].note;
    }
    s->commits++;
}

static inline int sim_commit(void *self, const struct kafka_partition *list, uint32_t n, uint64_t tag,
                             struct err *err) {
    struct sim *s = self;
    enum answer answer = s->fenced ? ANSWER_FAILS : s->answer;
    sim_call(s, "commit");
    s->commit_calls++;
    KAFKA_REQUIRE(n > 0, "an empty commit");
    if (answer == ANSWER_REFUSED) return err_set(err, 2, "refused");
    if (answer == ANSWER_OK || answer == ANSWER_NEVER_DONE) sim_commit_take(s, list, n);
    sim_call(s, "commit done");
    if (answer == ANSWER_NEVER_DONE || answer == ANSWER_NEVER_LOST) return 0;
    struct kafka_event *e = answer == ANSWER_LATER ? s->later : sim_event(s, KAFKA_COMMITTED);
    e->type = KAFKA_COMMITTED;
    e->ok = answer != ANSWER_FAILS;
    e->expelled = !e->ok && s->fenced;
    e->tag = tag;
    e->count = e->ok ? n : 0; /* of those that failed only the text tells */
    memcpy(e->list, list, e->count * sizeof *list);
    if (!e->ok) snprintf(e->text, sizeof e->text, "failed");
    return 0;
}

/* The answer that was held back arrives; the broker took it at the time of the call or takes it now. */
static inline void sim_answer_now(struct sim *s) {
    struct kafka_event *e = sim_event(s, KAFKA_COMMITTED);
    *e = *s->later;
    sim_commit_take(s, e->list, e->count);
}

static inline struct kafka_port sim_port(struct sim *s) {
    return (struct kafka_port){s,          sim_poll,     sim_committed, sim_watermarks, sim_watermarks_seen,
                               sim_assign, sim_unassign, sim_fetch,     sim_headers,    sim_done,
                               sim_commit, sim_ends,     sim_seek,      sim_lost,       sim_cluster,
                               sim_witness};
}

static inline void sim_drop(struct sim *s) {
    for (uint32_t i = 0; i < s->count; i++) {
        for (uint32_t k = 0; k < s->partition[i].count; k++) {
            free(s->partition[i].log[k]->key);
            free(s->partition[i].log[k]->value);
            free(s->partition[i].log[k]);
        }
        free(s->partition[i].log);
    }
    free(s->event);
    free(s->later);
}

#endif

#include "tools/replay_feed.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "base/clock.h"
#include "base/json_text.h"
#include "shm/stats.h"

enum { TRIES = 5, AGAIN_MS = 1000, WAIT_MS = 100 };

static void wait_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

static bool stopped(const struct replay_feed *f) { return atomic_load_explicit(f->stop, memory_order_relaxed) != 0; }

/* -- a request --------------------------------------------------------------------------------- */

struct position { /* of a partition that this instance reads, before the log is read on */
    char topic[TOPIC_BYTES];
    int32_t partition;
    int64_t committed;
};

/* Everything that is committed is in the log. Partitions of topics that are not logged are not known. */
static int positions_read(const struct replay_feed *f, struct position out[PARTITIONS_MAX], struct err *err) {
    struct stats s = {0};
    int n = 0;
    if (stats_open(&s, f->at.run_dir, f->at.name, err) != 0) return -1;
    uint32_t count = atomic_load_explicit(&s.header->partition_count, memory_order_acquire);
    for (uint32_t i = 0; i < count && i < PARTITIONS_MAX; i++) {
        const struct stats_partition *p = stats_partition(&s, i);
        struct position *at = &out[n];
        at->committed = atomic_load_explicit(&p->committed, memory_order_acquire);
        at->partition = p->partition;
        if (p->topic >= s.header->topic_count || at->committed < 0 ||
            atomic_load_explicit(&p->assigned, memory_order_acquire) == 0)
            continue;
        const char *name = (const char *)s.header + s.header->topic_at + (size_t)p->topic * TOPIC_BYTES;
        memcpy(at->topic, name, TOPIC_BYTES - 1);
        at->topic[TOPIC_BYTES - 1] = 0;
        int topic = config_topic_index(f->config, at->topic);
        if (topic >= 0 && f->config->topic[topic].reconcile != RECONCILE_OFF) n++;
    }
    stats_close(&s);
    return n;
}

static struct refeed_request *request_new(const struct replay_set *s, const struct position *at, int n,
                                          const struct replay_record *r, size_t count, struct err *err) {
    struct refeed_request *request = refeed_request_new();
    CHECK(request != NULL);
    int bad = 0;
    for (int i = 0; bad == 0 && i < n; i++) {
        int64_t until = replay_set_until(s, at[i].topic, at[i].partition, at[i].committed);
        bad = refeed_request_until(request, at[i].topic, at[i].partition, until, err);
    }
    for (size_t i = 0; bad == 0 && i < count; i++) {
        const char *topic = replay_set_topic(s, r[i].topic);
        bool known = false;
        int64_t until = r[i].offset + 1; /* of another instance: the answer will say so */
        for (int k = 0; k < n && !known; k++) {
            known = at[k].partition == r[i].partition && strcmp(at[k].topic, topic) == 0;
            if (known) until = replay_set_until(s, topic, r[i].partition, at[k].committed);
        }
        if (known && r[i].offset >= until) continue; /* it follows with everything else */
        if (!known) bad = refeed_request_until(request, topic, r[i].partition, until, err);
        if (bad == 0) bad = refeed_request_add(request, topic, r[i].partition, r[i].offset, err);
    }
    if (bad == 0) return request;
    refeed_request_free(request);
    return NULL;
}

/* -- results ----------------------------------------------------------------------------------- */

static void result_add(struct replay_feed *f, const struct refeed_result *r) {
    for (uint32_t i = 0; i < r->partitions; i++) {
        const struct refeed_outcome *o = &r->partition[i];
        f->fed += o->fed;
        f->covered += o->covered;
        if (o->state == REFEED_ELSEWHERE || o->state == REFEED_UNKNOWN) f->elsewhere += o->asked;
    }
    f->missing = reallocarray(f->missing, f->gone + r->missing + 1, sizeof *f->missing);
    CHECK(f->missing != NULL);
    memcpy(f->missing + f->gone, r->miss, r->missing * sizeof *f->missing);
    f->gone += r->missing;
}

static bool given_up(const struct refeed_result *r) {
    bool ended = r->partitions == 0;
    for (uint32_t i = 0; i < r->partitions; i++) ended |= r->partition[i].state == REFEED_ENDED;
    return ended;
}

/* -- the run ----------------------------------------------------------------------------------- */

/* One piece, once. 0 done, 1 given up by the instance, -1 with err. */
static int piece_send(struct replay_feed *f, struct replay_set *s, const struct replay_record *r, size_t count,
                      const struct position *at, int n, struct err *err) {
    struct refeed_result result;
    struct refeed_request *request = request_new(s, at, n, r, count, err);
    if (request == NULL) return -1;
    int bad = refeed_send(&f->at, f->config->data_dir, request, f->timeout_s, &result, err);
    refeed_request_free(request);
    if (bad != 0) return -1;
    f->requests++;
    int again = given_up(&result);
    if (again)
        snprintf(f->reason, sizeof f->reason, "%s", result.reason);
    else
        result_add(f, &result);
    refeed_result_free(&result);
    return again;
}

/* All waves of a piece, one after the other, whoever wants it stopped: a key must not be left at an older value. As
 * piece_send. */
static int waves_send(struct replay_feed *f, struct replay_set *s, const struct replay_record *r, size_t count,
                      const struct position *at, int n, struct err *err) {
    int outcome = 0;
    for (size_t from = 0, to; outcome == 0 && from < count; from = to) {
        for (to = from; to < count && r[to].wave == r[from].wave;) to++;
        outcome = piece_send(f, s, r + from, to - from, at, n, err);
    }
    return outcome;
}

/* What was committed is looked at first, then the log is read to its end: so it has all of that. What it finds may
 * belong to the piece, which is taken only then. Returns the number of records sent, 0: there is nothing more. */
static int64_t piece(struct replay_feed *f, struct replay_set *s, size_t max, struct err *err) {
    static struct position at[PARTITIONS_MAX];
    struct replay_record *r = NULL;
    size_t count = 0;
    int outcome = 1;
    for (int tries = 0; outcome == 1 && tries < TRIES && !stopped(f); tries++) {
        if (tries > 0) {
            wait_ms(AGAIN_MS);
            replay_set_again(s); /* what came since belongs to it */
            free(r);
            r = NULL;
        }
        int n = positions_read(f, at, err);
        if (n < 0 || replay_set_follow(s, f->dir, err) != 0) outcome = -1;
        if (outcome == 1 && (count = replay_set_group(s, max, &r)) == 0) return 0;
        if (outcome == 1) outcome = waves_send(f, s, r, count, at, n, err);
    }
    free(r);
    if (outcome < 0) return -1;
    if (outcome == 1) f->ended += count;
    return (int64_t)count;
}

static size_t piece_max(const struct replay_feed *f) {
    return f->rate > 0 && f->rate < REFEED_OFFSETS_MAX ? (size_t)f->rate : REFEED_OFFSETS_MAX;
}

int replay_feed_run(struct replay_feed *f, struct replay_set *s, struct err *err) {
    uint64_t begin_ns = clock_ns(&clock_real), sent = 0;
    int64_t n = 0;
    while (!stopped(f) && (n = piece(f, s, piece_max(f), err)) > 0) {
        sent += (uint64_t)n;
        if (f->progress != NULL) f->progress(f->context, sent);
        uint64_t due = f->rate > 0 ? begin_ns + sent * NS_PER_S / f->rate : 0;
        while (!stopped(f) && clock_ns(&clock_real) < due) wait_ms(WAIT_MS);
    }
    struct replay_record *rest = NULL;
    f->left = replay_set_group(s, SIZE_MAX, &rest);
    free(rest);
    return n < 0 ? -1 : 0;
}

int replay_feed_status(const struct replay_feed *f) {
    if (f->ended > 0 || f->left > 0) return EX_TEMPFAIL;
    return f->elsewhere > 0 || f->gone > 0 ? 1 : EX_OK;
}

void replay_feed_free(struct replay_feed *f) {
    free(f->missing);
    f->missing = NULL;
}

/* -- telling ----------------------------------------------------------------------------------- */

static void print_json(FILE *out, const struct replay_feed *f, size_t chosen, size_t all) {
    fprintf(out,
            "{\"chosen\":%zu,\"following\":%zu,\"requests\":%" PRIu64 ",\"fed\":%" PRIu64 ",\"covered\":%" PRIu64
            ",\"elsewhere\":%" PRIu64 ",\"ended\":%" PRIu64 ",\"left\":%" PRIu64 ",\"missing\":[",
            chosen, all - chosen, f->requests, f->fed, f->covered, f->elsewhere, f->ended, f->left);
    refeed_missing_print(out, f->missing, f->gone);
    fputs("],\"reason\":", out);
    json_text_put(f->reason, strlen(f->reason), out);
    fputs("}\n", out);
}

void replay_feed_print(FILE *out, const struct replay_feed *f, const struct replay_set *s, bool json) {
    size_t all, chosen = replay_set_chosen(s);
    replay_set_records((struct replay_set *)(uintptr_t)s, &all);
    if (json) {
        print_json(out, f, chosen, all);
        return;
    }
    fprintf(out, "%zu records chosen, %zu that follow them; %" PRIu64 " fed again", chosen, all - chosen, f->fed);
    if (f->covered > 0) fprintf(out, ", %" PRIu64 " more with what was read again anyway", f->covered);
    fputc('\n', out);
    for (uint64_t i = 0; i < f->gone; i++)
        fprintf(out, "%s/%" PRId32 "/%" PRId64 " %s\n", f->missing[i].topic, f->missing[i].partition,
                f->missing[i].offset,
                f->missing[i].gone ? "is no longer in Kafka (retention)" : "is no longer in Kafka (compaction)");
    if (f->elsewhere > 0)
        fprintf(out, "%" PRIu64 " records are of partitions that another instance reads: replay them there\n",
                f->elsewhere);
    if (f->ended > 0) fprintf(out, "%" PRIu64 " records were given up (%s): replay them again\n", f->ended, f->reason);
    if (f->left > 0) fprintf(out, "%" PRIu64 " records were not come to\n", f->left);
}

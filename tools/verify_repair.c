#include "tools/verify_repair.h"

#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/grouped.h"
#include "shm/stats_view.h"
#include "tools/origin.h"
#include "tools/refeed.h"
#include "tools/verify_kafka.h"
#include "tools/verify_others.h"

enum { ROUNDS = 3, FEED_TIMEOUT_S = 600 };

struct feed {
    struct refeed_request *request;
    struct origin *origin;
    bool full;
    uint64_t not_here; /* rows whose topic is not in the configuration */
};

static bool configured(const struct verify *v, const char *topic) {
    for (uint32_t i = 0; i < v->config->topic_count; i++)
        if (strcmp(v->config->topic[i].name, topic) == 0) return true;
    return false;
}

/* All partitions of this instance, so that a key that several of them write keeps its order. */
static int add_places(struct verify *v, struct feed *f, struct err *err) {
    struct stats stats = {0};
    if (stats_open(&stats, v->config->run_dir, v->config->name, err) != 0) return -1;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < view_partition_count(&stats); i++) {
        const struct stats_partition *p = stats_partition(&stats, i);
        const char *topic = view_topic(&stats, p->topic);
        int64_t next = live_next(v->known.live, topic, p->partition);
        if (view_partition(p).assigned && next >= 0 && configured(v, topic))
            r = refeed_request_until(f->request, topic, p->partition, next, err);
    }
    stats_close(&stats);
    return r;
}

static int add_row(struct verify *v, struct feed *f, const struct live_row *row, struct err *err);

/* The record deletes another key when it is written again: if that key has a record of its own by now, it follows. */
static int add_moved(struct verify *v, struct feed *f, const struct live_row *row, struct err *err) {
    struct origin_record *record = malloc(sizeof *record);
    struct live_row other;
    uint8_t key[DIGEST_BYTES];
    uint64_t index;
    CHECK(record != NULL);
    if (f->origin == NULL && (f->origin = origin_open(v->config, err)) == NULL) {
        free(record);
        return -1;
    }
    int r = origin_read(f->origin, live_topic(v->known.live, row->topic), row->partition, row->offset, record, err);
    if (r == 1 && record->old_key_bytes > 0) {
        digest_of(&v->digest, DIGEST_HMAC, record->old_key, record->old_key_bytes, key);
        int found = known_find(&v->known, key, &other, &index, err);
        r = found == 1 ? add_row(v, f, &other, err) : found;
    }
    free(record);
    return r < 0 ? -1 : 0;
}

/* Chooses the record that a row comes from. */
static int add_row(struct verify *v, struct feed *f, const struct live_row *row, struct err *err) {
    const char *topic = live_topic(v->known.live, row->topic);
    uint32_t before = refeed_request_count(f->request);
    if (!configured(v, topic)) {
        f->not_here++;
        return 0;
    }
    if (before == REFEED_OFFSETS_MAX) {
        f->full = true;
        return 0;
    }
    int64_t next = live_next(v->known.live, topic, row->partition);
    if (refeed_request_until(f->request, topic, row->partition, next, err) != 0 ||
        refeed_request_add(f->request, topic, row->partition, row->offset, err) != 0)
        return -1;
    return (row->flags & LIVE_MOVED) != 0 ? add_moved(v, f, row, err) : 0;
}

struct adding {
    struct feed *feed;
    struct err *err;
};

static int add_finding(struct verify *v, const struct finding *f, void *context) {
    struct adding *a = context;
    if (!verify_is_finding(f->class) || f->row == NULL) return 0;
    if (a->feed->full) return 1;
    return add_row(v, a->feed, f->row, a->err) != 0 ? -1 : 0;
}

/* -- feeding ----------------------------------------------------------------------------------- */

static void tell(const struct refeed_result *result, struct verify_notes *notes) {
    for (uint32_t i = 0; i < result->partitions; i++) {
        const struct refeed_outcome *p = &result->partition[i];
        if (p->state != REFEED_DONE && p->asked > 0)
            verify_note(notes, "%s/%d: %" PRIu64 " records could not be written again: %s", p->topic, p->partition,
                        p->asked, p->state == REFEED_ELSEWHERE ? "another instance reads it" : result->reason);
    }
    if (result->missing > 0)
        verify_note(notes, "%u records cannot be written again: Kafka no longer has them, the first is %s/%d/%" PRId64,
                    result->missing, result->miss[0].topic, result->miss[0].partition, result->miss[0].offset);
}

/* One request with what is wrong, as much as one takes. Returns how many records were chosen, or -1 with err. */
static int64_t feed_once(struct verify *v, struct verify_notes *notes, bool *more, struct err *err) {
    struct feed f = {.request = refeed_request_new()};
    struct adding a = {&f, err};
    struct refeed_result result = {0};
    char number[GROUPED_BYTES];
    CHECK(f.request != NULL);
    int r = add_places(v, &f, err) != 0 ? -1 : verify_findings(v, add_finding, &a, err) < 0 ? -1 : 0;
    int64_t chosen = refeed_request_count(f.request);
    if (r == 0 && chosen > 0) {
        const struct command_place at = {v->config->run_dir, v->config->name};
        fprintf(stderr, "millrace verify: has %s records written again\n", grouped((uint64_t)chosen, number));
        r = refeed_send(&at, v->config->data_dir, f.request, FEED_TIMEOUT_S, &result, err);
        if (r == 0) tell(&result, notes);
        refeed_result_free(&result);
    }
    if (f.not_here > 0)
        verify_note(notes, "%" PRIu64 " keys come from topics that the configuration no longer has", f.not_here);
    *more = f.full;
    origin_close(f.origin);
    refeed_request_free(f.request);
    return r == 0 ? chosen : -1;
}

/* -- orphans ----------------------------------------------------------------------------------- */

static int delete_one(struct verify *v, const struct candidate *c, struct err *err) {
    const size_t len[] = {3, c->name_bytes};
    redisReply *reply = redis_ask(v->redis, 2, (const char *[]){"DEL", c->name}, len, err);
    int r = verify_reply_check(reply, "DEL", err);
    freeReplyObject(reply);
    return r;
}

/* The log is read to its end before each few of them. A record that comes for such a key in the very moment is found
 * missing when everything is looked at again, and is written again. */
static int delete_orphans(struct verify *v, struct verify_notes *notes, struct err *err) {
    enum { AT_ONCE = 100 };
    struct live_row row;
    uint64_t index, n = 0;
    int late = verify_begins_late(v, notes, err);
    if (late != 0) return late < 0 ? -1 : 0;
    for (uint64_t i = 0; i < v->count; i++) {
        const struct candidate *c = &v->candidate[i];
        if (c->class != VERIFY_ORPHAN) continue;
        if (n++ % AT_ONCE == 0 && known_settle(&v->known, err) != 0) return -1;
        int found = known_find(&v->known, c->key, &row, &index, err);
        if (found < 0 || (found == 0 && delete_one(v, c, err) != 0)) return -1;
    }
    return 0;
}

/* -- the whole --------------------------------------------------------------------------------- */

/* Rows that no key was met for are looked for again. */
static int look_again(struct verify *v, struct verify_notes *notes, struct err *err) {
    if (known_settle(&v->known, err) != 0 || verify_search(v, notes, err) != 0 || verify_look(v, err) != 0) return -1;
    if (verify_others(v, NULL, err) != 0) return -1;
    verify_elsewhere(v, NULL);
    return 0;
}

int64_t verify_repair(struct verify *v, struct verify_notes *notes, uint64_t *repaired, struct err *err) {
    int64_t before = verify_count(v, err), left = before;
    bool more = true;
    if (v->untold)
        return err_set(
            err, EX_CONFIG,
            "the group has had other members, and recon.anchor_topic is not set: what they have written since "
            "is not known, and might be overwritten");
    for (int round = 0; left > 0 && (round < ROUNDS || more); round++) {
        int64_t was = left;
        if (v->options.repair_orphans && delete_orphans(v, round == 0 ? notes : NULL, err) != 0) return -1;
        int64_t fed = feed_once(v, notes, &more, err);
        if (fed < 0 || look_again(v, notes, err) != 0 || (left = verify_count(v, err)) < 0) return -1;
        if (left == was) break;
    }
    *repaired = (uint64_t)(before - left);
    return left;
}

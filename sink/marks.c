#include "sink/marks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sink/encode.h"
#include "sink/lost.h"

static size_t append(char *out, const char *text) {
    size_t n = strlen(text);
    memcpy(out, text, n);
    return n;
}

/* Once per partition and batch, so without printf. */
size_t mark_key(char out[MARK_KEY_BYTES], const char *group, const char *topic, int32_t partition) {
    size_t n = append(out, "millrace:mark:");
    n += append(out + n, group);
    out[n++] = ':';
    n += append(out + n, topic);
    out[n++] = ':';
    n += encode_digits(out + n, (uint64_t)(uint32_t)partition);
    out[n] = 0;
    return n;
}

size_t mark_text(char out[MARK_TEXT_BYTES], struct mark mark, const char *instance, const char *cluster) {
    size_t n = append(out, "2 ");
    n += encode_digits(out + n, (uint64_t)mark.next);
    out[n++] = ' ';
    n += encode_digits(out + n, mark.epoch);
    out[n++] = ' ';
    n += append(out + n, instance);
    out[n++] = ' ';
    n += append(out + n, cluster[0] != 0 ? cluster : "-");
    out[n++] = ' ';
    if (mark.seen > 0) {
        n += encode_digits(out + n, (uint64_t)mark.seen - 1);
        out[n++] = ':';
        n += encode_digits(out + n, (uint64_t)mark.seen_ms);
    } else {
        out[n++] = '-';
    }
    out[n] = 0;
    return n;
}

/* A decimal number followed by `behind`, which is passed over unless it is the end. Returns the place, or NULL. */
static const char *number_read(const char *at, uint64_t max, char behind, uint64_t *out) {
    char *end;
    if (*at < '0' || *at > '9') return NULL;
    errno = 0;
    *out = strtoull(at, &end, 10);
    return errno == 0 && *out <= max && *end == behind ? end + (behind != 0) : NULL;
}

/* Takes the last word off `CLUSTER SEEN:MS` or `CLUSTER -`. A cluster alone is the text of an older build. */
static void seen_take(char *cluster, struct mark *out) {
    char *last = strrchr(cluster, ' ');
    uint64_t offset = 0, ms = 0;
    if (last == NULL) return;
    const char *at = number_read(last + 1, LEDGER_LOST_OFFSET - 1, ':', &offset);
    bool pair = at != NULL && number_read(at, LEDGER_LOST_OFFSET, 0, &ms) != NULL;
    if (!pair && strcmp(last + 1, "-") != 0) return;
    *last = 0;
    if (!pair) return;
    out->seen = (int64_t)offset + 1;
    out->seen_ms = (int64_t)ms;
}

/* `INSTANCE CLUSTER`, where an instance has no space. NULL: there is no cluster, and there should be one. */
static char *cluster_read(char *at) {
    char *space = strchr(at, ' ');
    return space != NULL && space != at && space[1] != 0 ? space + 1 : NULL;
}

int mark_parse(const char *text, size_t len, const char *cluster, struct mark *out) {
    char copy[MARK_TEXT_BYTES];
    uint64_t version, next, epoch;
    if (len >= sizeof copy || memchr(text, 0, len) != NULL) return -1;
    memcpy(copy, text, len);
    copy[len] = 0;
    const char *at = number_read(copy, 2, ' ', &version);
    if (at == NULL || version == 0 || (at = number_read(at, LEDGER_LOST_OFFSET, ' ', &next)) == NULL ||
        (at = number_read(at, UINT32_MAX, ' ', &epoch)) == NULL || *at == 0)
        return -1;
    *out = (struct mark){.next = (int64_t)next, .epoch = (uint32_t)epoch};
    if (version == 1) return 0;
    char *from = cluster_read(copy + (at - copy));
    if (from == NULL) return -1;
    seen_take(from, out);
    out->foreign = cluster[0] != 0 && strcmp(from, "-") != 0 && strcmp(from, cluster) != 0;
    return 0;
}

void marks_init(struct marks *m, const struct config *config, const struct ledger_ingest *plan,
                struct ledger_sink *ledger) {
    memset(m, 0, sizeof *m);
    m->config = config;
    m->plan = plan;
    m->ledger = ledger;
}

const char *marks_cluster(const struct marks *m) {
    return atomic_load_explicit(&m->plan->cluster_known, memory_order_acquire) != 0 ? m->plan->cluster : "";
}

void marks_forget(struct marks *m) {
    for (uint32_t i = 0; i < PARTITIONS_MAX; i++) m->slot[i].checked_epoch = 0;
}

static uint32_t epoch_now(const struct marks *m, uint32_t slot) {
    return atomic_load_explicit(&m->plan->slot[slot].epoch, memory_order_acquire);
}

static bool assigned(const struct marks *m, uint32_t slot, uint32_t flag) {
    return (atomic_load_explicit(&m->plan->slot[slot].flags, memory_order_acquire) & flag) != 0;
}

bool marks_mine(const struct marks *m, uint32_t slot, uint32_t lane) {
    return assigned(m, slot, LEDGER_ASSIGNED) && ledger_lane(m->plan->slot[slot].partition, m->config->lanes) == lane;
}

int64_t marks_floor(const struct marks *m, uint32_t slot) {
    uint64_t epoch, next;
    twin_load(&m->ledger->slot[slot].released, &epoch, &next);
    if (epoch == epoch_now(m, slot)) return (int64_t)next;
    return atomic_load_explicit(&m->plan->slot[slot].start, memory_order_acquire);
}

struct mark marks_of(struct marks *m, uint32_t slot, int64_t next, uint32_t epoch, int64_t timestamp_ms) {
    struct marks_slot *s = &m->slot[slot];
    if (timestamp_ms >= 0 && (uint64_t)timestamp_ms <= LEDGER_LOST_OFFSET) {
        s->seen_next = next;
        s->seen_ms = timestamp_ms;
    }
    return (struct mark){.next = next, .epoch = epoch, .seen = s->seen_next, .seen_ms = s->seen_ms};
}

/* No mark. Where this instance has had anything acknowledged, or has seen the mark, Redis has lost it. */
static enum mark_verdict judge_nil(const struct marks *m, uint32_t slot) {
    uint64_t epoch, next;
    twin_load(&m->ledger->slot[slot].released, &epoch, &next);
    if (epoch != 0 || m->slot[slot].seen || assigned(m, slot, LEDGER_MARKED)) return MARK_LOST;
    if (assigned(m, slot, LEDGER_FIRST_START)) return MARK_CREATE;
    switch (m->config->redis.when_marks_missing) {
    case MARKS_MISSING_TRUST_KAFKA: return MARK_TRUST;
    case MARKS_MISSING_REBUILD: return MARK_LOST;
    default: return MARK_MISSING;
    }
}

static enum mark_verdict judge_against(struct mark found, struct mark expected) {
    if (found.next < expected.next || found.foreign) return MARK_LOST; /* nil is -1 */
    return found.next == expected.next && found.epoch == expected.epoch ? MARK_GOOD : MARK_OTHER;
}

/* An epoch that began by a rewind. Redis has to be no worse than it was when the loss was noted: it may have lost more
 * since, and that would be covered up. */
static enum mark_verdict judge_rewound(const struct marks *m, uint32_t slot, struct mark *found) {
    uint64_t noted, what;
    int64_t start = marks_floor(m, slot);
    bool other = found->seen > 0 && (found->foreign || assigned(m, slot, LEDGER_ACCEPTED));
    if (other) found->seen = found->seen_ms = 0;
    if (found->next == start && !found->foreign && !other) return MARK_GOOD; /* written by us already, or as good */
    twin_load(&m->ledger->slot[slot].lost, &noted, &what);
    if (noted == 0 && found->next < 0) { /* noted by an instance before this one: its ingest says so in the commit */
        int64_t origin = atomic_load_explicit(&m->plan->slot[slot].origin, memory_order_acquire);
        return start <= origin ? MARK_SET : judge_nil(m, slot);
    }
    if (noted == 0) { /* it went back to the mark, or before it: one that is lower by now has lost more since */
        bool worse = found->foreign || found->next < start;
        return worse && !assigned(m, slot, LEDGER_ACCEPTED) ? MARK_LOST : MARK_SET;
    }
    if ((what & LEDGER_LOST_ALL) != 0) return MARK_SET;
    if (found->next < 0) return MARK_LOST;
    if ((what & LEDGER_LOST_OTHER) != 0) return MARK_SET;
    return found->foreign || (found->next < (int64_t)what && found->next < start) ? MARK_LOST : MARK_SET;
}

/* An epoch that is not established yet. A loss noted in an earlier one and never answered by a rewind (the partition
 * went elsewhere and came back) still holds: the mark that showed it may have been overwritten. */
static enum mark_verdict judge_new(const struct marks *m, uint32_t slot, struct mark *found) {
    uint64_t noted, what;
    if (assigned(m, slot, LEDGER_REWOUND)) return judge_rewound(m, slot, found);
    if (found->next < 0) return judge_nil(m, slot);
    int64_t start = marks_floor(m, slot);
    twin_load(&m->ledger->slot[slot].lost, &noted, &what);
    if (noted != 0 && what < (uint64_t)start && (int64_t)what < found->next) found->next = (int64_t)what;
    return found->foreign || found->next < start ? MARK_LOST : MARK_GOOD;
}

/* -1: not a mark; 0: a mark, or nil: found->next is -1. */
static int reply_mark(const struct marks *m, const struct resp_reply *reply, struct mark *found) {
    *found = (struct mark){.next = -1};
    if (reply->kind == RESP_NIL) return 0;
    return mark_parse(reply->text, reply->text_bytes, marks_cluster(m), found);
}

/* Redis is known to have everything before the start of the epoch: that much is released, so that ingest may commit it
 * (a first start), and an idle partition does not look as if nothing were known of it. */
static void establish(struct marks *m, uint32_t slot, uint32_t epoch, const struct mark *found) {
    twin_store(&m->ledger->slot[slot].seen, (uint64_t)found->seen, (uint64_t)found->seen_ms);
    int64_t start = atomic_load_explicit(&m->plan->slot[slot].start, memory_order_acquire);
    twin_store(&m->ledger->slot[slot].released, epoch, (uint64_t)start);
}

enum mark_verdict marks_judge_read(struct marks *m, uint32_t slot, const struct resp_reply *reply, struct mark *found) {
    struct marks_slot *s = &m->slot[slot];
    uint32_t epoch = epoch_now(m, slot);
    uint64_t released, next;
    enum mark_verdict verdict;
    if (reply_mark(m, reply, found) != 0) return MARK_FOREIGN;
    if (lost_stands(&m->ledger->slot[slot], epoch)) return MARK_LOST;
    twin_load(&m->ledger->slot[slot].released, &released, &next);
    if (released != epoch)
        verdict = judge_new(m, slot, found);
    else if (s->checked_epoch == epoch)
        verdict = judge_against(*found, s->known);
    else
        verdict = found->foreign || found->next < (int64_t)next ? MARK_LOST : MARK_GOOD;
    if (verdict != MARK_GOOD && verdict != MARK_OTHER) return verdict;
    s->known = *found;
    s->checked_epoch = epoch;
    s->seen = true;
    s->seen_next = found->seen;
    s->seen_ms = found->seen_ms;
    if (released != epoch) establish(m, slot, epoch, found);
    lost_answered(&m->ledger->slot[slot]);
    return verdict;
}

enum mark_verdict marks_judge_old(struct marks *m, uint32_t slot, struct mark wrote, const struct resp_reply *reply,
                                  struct mark *found) {
    int r = reply_mark(m, reply, found);
    if (epoch_now(m, slot) != wrote.epoch || !assigned(m, slot, LEDGER_ASSIGNED)) return MARK_GOOD;
    if (r != 0) return MARK_FOREIGN;
    enum mark_verdict verdict = judge_against(*found, m->slot[slot].known);
    if (found->next >= 0) m->slot[slot].known = wrote; /* XX: one that is gone stays gone */
    return verdict;
}

uint64_t marks_lost_word(struct mark found) {
    if (found.next < 0) return LEDGER_LOST_ALL;
    return (uint64_t)found.next | (found.foreign ? LEDGER_LOST_OTHER : 0);
}

#include "sink/marks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sink/encode.h"

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

size_t mark_text(char out[MARK_TEXT_BYTES], struct mark mark, const char *instance) {
    size_t n = append(out, "1 ");
    n += encode_digits(out + n, (uint64_t)mark.next);
    out[n++] = ' ';
    n += encode_digits(out + n, mark.epoch);
    out[n++] = ' ';
    n += append(out + n, instance);
    out[n] = 0;
    return n;
}

/* A decimal number followed by a space. Returns what is behind it, or NULL. */
static const char *number_read(const char *at, uint64_t max, uint64_t *out) {
    char *end;
    if (*at < '0' || *at > '9') return NULL;
    errno = 0;
    *out = strtoull(at, &end, 10);
    return errno == 0 && *out <= max && *end == ' ' ? end + 1 : NULL;
}

int mark_parse(const char *text, size_t len, struct mark *out) {
    char copy[MARK_TEXT_BYTES];
    uint64_t version, next, epoch;
    if (len >= sizeof copy || memchr(text, 0, len) != NULL) return -1;
    memcpy(copy, text, len);
    copy[len] = 0;
    const char *at = number_read(copy, 1, &version);
    if (at == NULL || version != 1 || (at = number_read(at, INT64_MAX, &next)) == NULL ||
        (at = number_read(at, UINT32_MAX, &epoch)) == NULL || *at == 0)
        return -1;
    *out = (struct mark){.next = (int64_t)next, .epoch = (uint32_t)epoch};
    return 0;
}

void marks_init(struct marks *m, const struct config *config, const struct ledger_ingest *plan,
                struct ledger_sink *ledger) {
    memset(m, 0, sizeof *m);
    m->config = config;
    m->plan = plan;
    m->ledger = ledger;
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

/* No mark. Where this instance has had anything acknowledged, or has seen the mark, Redis has lost it. */
static enum mark_verdict judge_nil(const struct marks *m, uint32_t slot) {
    uint64_t epoch, next;
    twin_load(&m->ledger->slot[slot].released, &epoch, &next);
    if (epoch != 0 || m->slot[slot].seen) return MARK_LOST;
    if (assigned(m, slot, LEDGER_FIRST_START)) return MARK_CREATE;
    return m->config->redis.when_marks_missing == MARKS_MISSING_TRUST_KAFKA ? MARK_TRUST : MARK_MISSING;
}

static enum mark_verdict judge_against(struct mark found, struct mark expected) {
    if (found.next < expected.next) return MARK_LOST;
    return found.next == expected.next && found.epoch == expected.epoch ? MARK_GOOD : MARK_OTHER;
}

/* -1: not a mark; 0: nil, found->next is -1; 1: a mark. */
static int reply_mark(const struct resp_reply *reply, struct mark *found) {
    *found = (struct mark){.next = -1};
    if (reply->kind == RESP_NIL) return 0;
    return mark_parse(reply->text, reply->text_bytes, found) == 0 ? 1 : -1;
}

/* Redis is known to have everything before the start of the epoch: that much is released, so that ingest may commit it
 * (a first start), and an idle partition does not look as if nothing were known of it. */
static void floor_note(struct marks *m, uint32_t slot, uint32_t epoch) {
    uint64_t noted, next;
    twin_load(&m->ledger->slot[slot].released, &noted, &next);
    if (noted == epoch) return;
    int64_t start = atomic_load_explicit(&m->plan->slot[slot].start, memory_order_acquire);
    twin_store(&m->ledger->slot[slot].released, epoch, (uint64_t)start);
}

static void loss_forget(struct marks *m, uint32_t slot) {
    uint64_t epoch, what;
    twin_load(&m->ledger->slot[slot].lost, &epoch, &what);
    if (epoch != 0) twin_store(&m->ledger->slot[slot].lost, 0, 0);
}

enum mark_verdict marks_judge_read(struct marks *m, uint32_t slot, const struct resp_reply *reply, struct mark *found) {
    struct marks_slot *s = &m->slot[slot];
    uint32_t epoch = epoch_now(m, slot);
    int r = reply_mark(reply, found);
    if (r < 0) return MARK_FOREIGN;
    if (r == 0) return judge_nil(m, slot);
    enum mark_verdict verdict;
    if (s->checked_epoch == epoch)
        verdict = judge_against(*found, s->known);
    else
        verdict = found->next < marks_floor(m, slot) ? MARK_LOST : MARK_GOOD;
    if (verdict == MARK_LOST) return verdict;
    s->known = *found;
    s->checked_epoch = epoch;
    s->seen = true;
    floor_note(m, slot, epoch);
    loss_forget(m, slot);
    return verdict;
}

enum mark_verdict marks_judge_old(struct marks *m, uint32_t slot, uint32_t epoch, struct mark expected,
                                  const struct resp_reply *reply, struct mark *found) {
    int r = reply_mark(reply, found);
    if (epoch_now(m, slot) != epoch || !assigned(m, slot, LEDGER_ASSIGNED)) return MARK_GOOD;
    if (r < 0) return MARK_FOREIGN;
    return r == 0 ? MARK_LOST : judge_against(*found, expected);
}

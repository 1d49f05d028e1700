#include "audit/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "audit/anchor_list.h"
#include "audit/segment.h"

struct verifying {
    const struct verify_plan *plan;
    struct verify_result *result;
    int folder_fd;
    struct segment segment;
    struct anchor_list anchors;
    uint64_t next;               /* sequence number that has to come; 0: not known, the first segment says it */
    uint64_t batch;              /* in the segment, from 1 */
    uint8_t mac[LOG_MAC_BYTES];  /* of what came before */
    uint8_t made[LOG_MAC_BYTES]; /* what it should have been: differs where it was changed */
    bool mac_known;
    uint64_t mark_segment, mark_end; /* what `durable` says; 0, 0: nothing */
};

const char *verify_kind_name(enum verify_kind kind) {
    static const char *const names[VERIFY_KIND_COUNT] = {"changed", "missing", "cut off", "moved", "anchor"};
    return (unsigned)kind < VERIFY_KIND_COUNT ? names[kind] : "unknown";
}

struct range {
    uint64_t first, last;
};

__attribute__((format(printf, 5, 6))) static void found(struct verifying *v, enum verify_kind kind, uint64_t at,
                                                        struct range entries, const char *format, ...) {
    struct verify_finding f = {.kind = kind,
                               .segment = v->segment.first,
                               .at = at,
                               .batch = v->batch,
                               .first = entries.first,
                               .last = entries.last};
    va_list ap;
    va_start(ap, format);
    vsnprintf(f.text, sizeof f.text, format, ap);
    va_end(ap);
    v->result->findings++;
    v->plan->found(v->plan->context, &f);
}

/* -- macs -------------------------------------------------------------------------------------- */

static void mac_make(const struct verifying *v, const uint8_t previous[LOG_MAC_BYTES], const void *bytes, size_t len,
                     uint8_t out[LOG_MAC_BYTES]) {
    log_mac_make(v->plan->key, previous, bytes, len, out);
}

/* Without the key, of two macs only the hashes can be compared. */
static bool mac_same(const struct verifying *v, const uint8_t a[LOG_MAC_BYTES], const uint8_t b[LOG_MAC_BYTES]) {
    return memcmp(a, b, v->plan->key != NULL ? LOG_MAC_BYTES : LOG_HASH_BYTES) == 0;
}

/* Whether the mac of bytes[0, len) is right. Where the mac before it was changed, what it should have been counts as
 * well, so that only the batch is named in which something was changed. Goes on from the mac as it stands. */
static bool mac_right(struct verifying *v, const void *bytes, size_t len, const uint8_t mac[LOG_MAC_BYTES]) {
    uint8_t made[LOG_MAC_BYTES];
    bool right = true;
    memcpy(made, mac, sizeof made);
    if (v->mac_known) {
        mac_make(v, v->mac, bytes, len, made);
        right = mac_same(v, made, mac);
        if (!right && !mac_same(v, v->mac, v->made)) {
            mac_make(v, v->made, bytes, len, made);
            right = mac_same(v, made, mac);
        }
    }
    memcpy(v->mac, mac, sizeof v->mac);
    memcpy(v->made, made, sizeof v->made);
    v->mac_known = true;
    return right;
}

static void mac_forget(struct verifying *v) { v->mac_known = false; }

/* -- batches ----------------------------------------------------------------------------------- */

/* The next place behind `at` at which a whole batch stands; 0: there is none. */
static uint64_t batch_after(struct verifying *v, uint64_t at) {
    enum { CHUNK = 1 << 16 };
    static const uint64_t magic = LOG_BATCH_MAGIC;
    uint8_t *chunk = malloc(CHUNK);
    struct segment_batch b;
    struct err ignored;
    uint64_t hit = 0;
    ssize_t n;
    CHECK(chunk != NULL);
    for (uint64_t from = at + 1; hit == 0 && (n = pread(v->segment.fd, chunk, CHUNK, (off_t)from)) > 0;) {
        const uint8_t *p = chunk;
        size_t left = (size_t)n;
        while (hit == 0 && (p = memmem(p, left, &magic, sizeof magic)) != NULL) {
            uint64_t place = from + (uint64_t)(p - chunk);
            if (segment_batch_at(&v->segment, place, &b, &ignored) == SEGMENT_BATCH) hit = place;
            p++;
            left = (size_t)(chunk + n - p);
        }
        if ((size_t)n < sizeof magic) break;
        from += (uint64_t)n - (sizeof magic - 1);
    }
    free(chunk);
    return hit;
}

/* Whether what follows the batch is what has to follow the one that belongs here: then it is this one, with other
 * numbers or another in its place, and nothing else has moved. */
static bool replaced(struct verifying *v, const struct log_batch *b, uint64_t at, uint64_t after) {
    struct log_batch behind;
    struct err ignored;
    enum segment_read r = segment_head_at(&v->segment, at + b->bytes, &behind, &ignored);
    if (r == SEGMENT_END) return after == v->next + b->count;
    return r == SEGMENT_BATCH && behind.first == v->next + b->count;
}

static void batch_verify(struct verifying *v, const struct segment_batch *b, uint64_t after) {
    uint64_t first = b->head.first, last = first + b->head.count - 1;
    v->result->batches++;
    v->result->entries += b->head.count;
    if (first != v->next && replaced(v, &b->head, b->at, after)) {
        last = v->next + b->head.count - 1;
        found(v, VERIFY_CHANGED, b->at, (struct range){v->next, last},
              "this batch says it is of entry %" PRIu64 " on: entries %" PRIu64 " to %" PRIu64 " belong here", first,
              v->next, last);
        v->result->last = last;
        v->next = last + 1;
        mac_forget(v);
        return;
    }
    if (first < v->next) {
        found(v, VERIFY_MOVED, b->at, (struct range){first, last},
              "a batch of entries %" PRIu64 " to %" PRIu64 " stands where entry %" PRIu64 " belongs", first, last,
              v->next);
        return; /* what comes behind it follows what stands before it */
    }
    if (first > v->next) {
        found(v, VERIFY_MISSING, b->at, (struct range){v->next, first - 1},
              "entries %" PRIu64 " to %" PRIu64 " are missing before this batch", v->next, first - 1);
        mac_forget(v);
    }
    if (!mac_right(v, b->bytes, b->head.bytes - LOG_MAC_BYTES, b->mac))
        found(v, VERIFY_CHANGED, b->at, (struct range){first, last},
              "this batch, of entries %" PRIu64 " to %" PRIu64 ", is not what was written", first, last);
    v->next = last + 1;
    v->result->last = last;
    anchor_list_meet(&v->anchors, v->segment.first, last, b->mac);
}

/* -- what is being written --------------------------------------------------------------------- */

static void mark_read(struct verifying *v) {
    struct log_mark mark;
    int fd = openat(v->folder_fd, LOG_MARK_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;
    if (pread(fd, &mark, sizeof mark, 0) == (ssize_t)sizeof mark && mark.magic == LOG_MARK_MAGIC &&
        mark.version == LOG_VERSION)
        twin_load(&mark.end, &v->mark_segment, &v->mark_end);
    close(fd);
}

/* Behind what is durable of a log that is alive: it was about to be written, or is whole by now. *at: where to go on;
 * 0: nowhere. */
static bool unfinished(struct verifying *v, uint64_t *at) {
    struct segment_batch b;
    struct err ignored;
    mark_read(v);
    if (v->mark_segment != v->segment.first || v->mark_end > *at) {
        if (segment_batch_at(&v->segment, *at, &b, &ignored) != SEGMENT_BATCH) return false;
        return true;
    }
    v->result->unfinished_bytes = segment_bytes(&v->segment) - *at;
    *at = 0;
    return true;
}

/* Bytes that are no whole batch. Returns where to go on; 0: the segment ends here. after: first sequence number of the
 * segment behind this one, 0: there is none. */
static uint64_t damage_verify(struct verifying *v, uint64_t at, bool torn, uint64_t after) {
    struct segment_batch b;
    struct err ignored;
    uint64_t size = segment_bytes(&v->segment), place = batch_after(v, at);
    if (place != 0 && segment_batch_at(&v->segment, place, &b, &ignored) == SEGMENT_BATCH) {
        struct range lost = {v->next, b.head.first > v->next ? b.head.first - 1 : v->next};
        found(v, VERIFY_CHANGED, at, lost, "%" PRIu64 " bytes are no batch: of entries %" PRIu64 " to %" PRIu64,
              place - at, lost.first, lost.last);
        v->next = b.head.first;
        mac_forget(v);
        return place;
    }
    if (torn && after == 0 && unfinished(v, &at)) return at;
    if (after != 0)
        found(v, torn ? VERIFY_CUT : VERIFY_CHANGED, at, (struct range){v->next, after - 1},
              "the last %" PRIu64 " bytes are no whole batch: of entries %" PRIu64 " to %" PRIu64, size - at, v->next,
              after - 1);
    else
        found(v, torn ? VERIFY_CUT : VERIFY_CHANGED, at, (struct range){v->next, 0},
              "the last %" PRIu64 " bytes are no whole batch: entries from %" PRIu64 " on", size - at, v->next);
    if (after != 0) v->next = after;
    mac_forget(v);
    return 0;
}

static int batches_verify(struct verifying *v, uint64_t after, struct err *err) {
    struct segment_batch b;
    uint64_t at = v->segment.body;
    for (;;) {
        v->batch++;
        enum segment_read r = segment_batch_at(&v->segment, at, &b, err);
        if (r == SEGMENT_BAD && err->code != EX_DATAERR) return err_set(err, EX_IOERR, "%s", err->text);
        if (r == SEGMENT_END) return 0;
        if (r == SEGMENT_BATCH) {
            batch_verify(v, &b, after);
            at += b.head.bytes;
        } else if ((at = damage_verify(v, at, r == SEGMENT_TORN, after)) == 0) {
            return 0;
        }
    }
}

/* -- segments ---------------------------------------------------------------------------------- */

static bool head_right(struct verifying *v) {
    uint8_t *bytes = malloc(v->segment.body);
    CHECK(bytes != NULL);
    bool right = pread(v->segment.fd, bytes, v->segment.body, 0) == (ssize_t)v->segment.body;
    memcpy(v->mac, v->segment.head.previous, sizeof v->mac);
    memcpy(v->made, v->mac, sizeof v->made);
    v->mac_known = true;
    right = right && mac_right(v, bytes, v->segment.body - LOG_MAC_BYTES, v->segment.mac);
    free(bytes);
    return right;
}

/* What the first segment there is says of those that were before it. */
static void beginning_verify(struct verifying *v) {
    static const uint8_t zeros[LOG_MAC_BYTES];
    const struct log_head *h = &v->segment.head;
    uint64_t gone = h->first - 1;
    v->result->first = h->first;
    if (gone == 0) {
        if (memcmp(h->previous, zeros, sizeof zeros) != 0)
            found(v, VERIFY_CHANGED, 0, (struct range){0, 0}, "the first segment says that one was before it");
        return;
    }
    const struct anchor *a = anchor_list_removed(&v->anchors, gone);
    if (a == NULL)
        found(v, VERIFY_MISSING, 0, (struct range){1, gone},
              "entries 1 to %" PRIu64 " are missing, and no anchor says that retention has removed them", gone);
    else if (memcmp(a->mac, h->previous, sizeof a->mac) != 0)
        found(v, VERIFY_CHANGED, 0, (struct range){1, gone},
              "what retention has removed before this segment is not what this segment follows");
}

static void head_verify(struct verifying *v) {
    const struct log_head *h = &v->segment.head;
    v->batch = 0;
    if (v->next == 0) {
        beginning_verify(v);
    } else if (h->first > v->next) {
        found(v, VERIFY_MISSING, 0, (struct range){v->next, h->first - 1},
              "entries %" PRIu64 " to %" PRIu64 " are missing before this segment", v->next, h->first - 1);
    } else if (h->first < v->next) {
        found(v, VERIFY_MOVED, 0, (struct range){h->first, v->next - 1},
              "this segment begins with entry %" PRIu64 ", where entry %" PRIu64 " belongs", h->first, v->next);
    } else if (v->mac_known && memcmp(h->previous, v->mac, sizeof v->mac) != 0 && !mac_same(v, h->previous, v->made)) {
        found(v, VERIFY_CHANGED, 0, (struct range){0, 0}, "this segment does not follow what stands before it");
    }
    v->next = h->first;
    if (v->plan->key != NULL && h->key_id != v->plan->key_id)
        found(v, VERIFY_CHANGED, 0, (struct range){0, 0}, "it says it was written under key %u, not key %u", h->key_id,
              v->plan->key_id);
    else if (!head_right(v))
        found(v, VERIFY_CHANGED, 0, (struct range){0, 0}, "the head of this segment is not what was written");
}

/* after: first sequence number of the next file; 0: this is the last one. 0, 1: the file is gone, or -1 with
 * err. */
static int segment_verify(struct verifying *v, uint64_t first, uint64_t after, struct err *err) {
    v->batch = 0;
    if (segment_open(&v->segment, v->folder_fd, first, err) != 0) {
        if (err->code == ENOENT) return 1;
        if (err->code != EX_DATAERR) return err_set(err, EX_IOERR, "%s", err->text);
        found(v, VERIFY_CHANGED, 0, (struct range){first, after != 0 ? after - 1 : 0}, "%s", err->text);
        v->result->segments++;
        if (v->result->first == 0) v->result->first = first;
        v->next = after != 0 ? after : first;
        mac_forget(v);
        return 0;
    }
    v->result->segments++;
    v->result->bytes += segment_bytes(&v->segment);
    head_verify(v);
    if (batches_verify(v, after, err) != 0) return -1;
    uint64_t size = segment_bytes(&v->segment);
    v->batch = 0;
    if (v->mark_segment == first && v->mark_end > size)
        found(v, VERIFY_CUT, size, (struct range){v->next, 0}, "this file once had %" PRIu64 " bytes", v->mark_end);
    return 0;
}

/* -- anchors ----------------------------------------------------------------------------------- */

static void anchor_fault(void *context, uint64_t line, enum anchor_fault fault) {
    static const char *const text[] = {[ANCHOR_NONE] = "this line of the anchors is no anchor",
                                       [ANCHOR_UNSIGNED] = "this line of the anchors is not signed with the key",
                                       [ANCHOR_GAP] = "an anchor is missing before this line"};
    struct verifying *v = context;
    v->segment.first = v->batch = 0;
    found(v, VERIFY_ANCHOR, line, (struct range){0, 0}, "%s", text[fault]);
}

static int anchors_read(struct verifying *v, uint64_t first, struct err *err) {
    struct err e;
    char path[PATH_BYTES + 32];
    const char *file = v->plan->anchors;
    struct log_head head;
    bool named = segment_open(&v->segment, v->folder_fd, first, &e) == 0;
    head = v->segment.head;
    snprintf(path, sizeof path, "%s/" ANCHORS_NAME, v->plan->dir);
    int bad = anchor_list_load(&v->anchors, file != NULL ? file : path, named ? &head : NULL, v->plan->anchor_key,
                               file == NULL, anchor_fault, v, &e);
    if (bad != 0 && (file != NULL || e.code != ENOENT))
        return err_set(err, e.code == ENOENT ? EX_NOINPUT : e.code == EACCES ? EX_NOPERM : EX_IOERR, "%s", e.text);
    v->result->anchors = v->anchors.count;
    return 0;
}

static void anchor_verify(struct verifying *v, const struct anchor_row *r) {
    const struct anchor *a = &r->anchor;
    v->segment.first = a->segment;
    if (r->met) {
        v->result->anchors_confirmed++;
        if (a->sequence > v->result->anchored) v->result->anchored = a->sequence;
    } else if (a->sequence > v->result->last) {
        found(v, VERIFY_CUT, 0, (struct range){v->result->last + 1, a->sequence},
              "entries %" PRIu64 " to %" PRIu64 " are gone: the anchor of line %" PRIu64
              " was made when they were there",
              v->result->last + 1, a->sequence, r->line);
    } else if (a->sequence >= v->result->first) {
        found(v, VERIFY_CHANGED, 0, (struct range){1, a->sequence},
              "the log up to entry %" PRIu64 " is not the one that the anchor of line %" PRIu64 " was made for",
              a->sequence, r->line);
    }
}

static void anchors_verify(struct verifying *v) {
    v->batch = 0;
    for (size_t i = 0; i < v->anchors.count; i++) anchor_verify(v, &v->anchors.row[i]);
    if (v->anchors.count > 0 || v->result->entries == 0) return;
    v->segment.first = 0;
    found(v, VERIFY_ANCHOR, 0, (struct range){0, 0},
          "there is no anchor of this log: that its end is there cannot be shown");
}

/* -- all of it --------------------------------------------------------------------------------- */

static int segments_verify(struct verifying *v, struct err *err) {
    size_t count;
    uint64_t *list = segment_list(v->folder_fd, &count, err);
    if (list == NULL) return err_set(err, EX_IOERR, "%s", err->text);
    int bad = anchors_read(v, count > 0 ? list[0] : 0, err);
    for (size_t i = 0; bad == 0 && i < count; i++) {
        uint64_t after = i + 1 < count ? list[i + 1] : 0;
        bad = segment_verify(v, list[i], after, err);
        if (bad != 1) continue;
        bad = 0;
        if (v->next != 0) continue;
        anchor_list_free(&v->anchors); /* retention was quicker, and has signed for it before */
        bad = anchors_read(v, after, err);
    }
    v->segment.first = v->mark_segment;
    v->batch = 0;
    if (bad == 0 && v->mark_end > 0 && (count == 0 || list[count - 1] < v->mark_segment))
        found(v, VERIFY_CUT, 0, (struct range){v->mark_segment, 0}, "this file is gone");
    if (bad == 0) anchors_verify(v);
    free(list);
    return bad;
}

int log_verify(const struct verify_plan *plan, struct verify_result *result, struct err *err) {
    struct verifying v = {.plan = plan, .result = result};
    *result = (struct verify_result){0};
    segment_init(&v.segment);
    v.folder_fd = open(plan->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (v.folder_fd < 0) {
        int code = errno;
        return err_set(err,
                       code == EACCES                      ? EX_NOPERM
                       : code == ENOENT || code == ENOTDIR ? EX_NOINPUT
                                                           : EX_IOERR,
                       "%s: %s", plan->dir, strerror(code));
    }
    mark_read(&v);
    int bad = segments_verify(&v, err);
    close(v.folder_fd);
    segment_free(&v.segment);
    anchor_list_free(&v.anchors);
    return bad;
}

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "audit/log.h"
#include "audit/read_at.h"
#include "audit/segment.h"

struct log_reader {
    int folder_fd;
    const struct log_mark *mark; /* NULL: there is none */
    struct segment segment;
    bool open;
    uint64_t at, at_sequence; /* of the next batch in the open segment */
    uint64_t finished;        /* first sequence number of the segment that was read to its end; 0: none */
    uint64_t sequence;        /* of the next entry; 0: of the oldest */
    struct segment_batch batch;
    const uint8_t *entry; /* next of the batch that is loaded */
    uint32_t left;        /* entries of it from there on */
    char **name;          /* of topics, for as long as the reader lives */
    size_t names;
    const char *topic[TOPICS_MAX]; /* of the open segment, in name[] */
};

struct log_reader *log_reader_open(const char *dir, uint64_t from, struct err *err) {
    struct log_reader *r = calloc(1, sizeof *r);
    CHECK(r != NULL);
    segment_init(&r->segment);
    r->sequence = from;
    r->folder_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r->folder_fd >= 0) return r;
    int code = errno;
    err_set(err,
            code == ENOENT || code == ENOTDIR ? EX_NOINPUT
            : code == EACCES                  ? EX_NOPERM
                                              : EX_IOERR,
            "%s: %s", dir, strerror(code));
    free(r);
    return NULL;
}

void log_reader_close(struct log_reader *r) {
    if (r == NULL) return;
    if (r->mark != NULL) munmap((void *)(uintptr_t)r->mark, sizeof *r->mark);
    segment_free(&r->segment);
    for (size_t i = 0; i < r->names; i++) free(r->name[i]);
    free(r->name);
    close(r->folder_fd);
    free(r);
}

uint64_t log_reader_sequence(const struct log_reader *r) { return r->sequence; }

void log_reader_direct(struct log_reader *r) { r->segment.direct = true; }

void log_reader_seek(struct log_reader *r, uint64_t from) {
    r->sequence = from;
    r->left = 0;
    r->finished = 0;
    if (!r->open || from >= r->at_sequence) return;
    if (from < r->segment.first) {
        r->open = false;
        return;
    }
    r->at = r->segment.body;
    r->at_sequence = r->segment.first;
}

/* -- how far the log is durable ---------------------------------------------------------------- */

static void mark_find(struct log_reader *r) {
    struct stat st;
    int fd = openat(r->folder_fd, LOG_MARK_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;
    void *map = MAP_FAILED;
    if (fstat(fd, &st) == 0 && st.st_size >= (off_t)sizeof *r->mark)
        map = mmap(NULL, sizeof *r->mark, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return;
    const struct log_mark *mark = map;
    if (mark->magic == LOG_MARK_MAGIC && mark->version == LOG_VERSION)
        r->mark = mark;
    else
        munmap(map, sizeof *mark);
}

/* Whether the log is durable up to byte `end` of the open segment. */
static bool durable(struct log_reader *r, uint64_t end) {
    uint64_t segment, bytes;
    if (r->mark == NULL) mark_find(r);
    if (r->mark == NULL) return true;
    twin_load(&r->mark->end, &segment, &bytes);
    return segment > r->segment.first || (segment == r->segment.first && bytes >= end);
}

/* -- from segment to segment ------------------------------------------------------------------- */

static const char *name_keep(struct log_reader *r, const char *name) {
    for (size_t i = 0; i < r->names; i++)
        if (strcmp(r->name[i], name) == 0) return r->name[i];
    char **more = reallocarray(r->name, r->names + 1, sizeof *more);
    char *copy = strdup(name);
    CHECK(more != NULL && copy != NULL);
    r->name = more;
    return r->name[r->names++] = copy;
}

static int segment_enter(struct log_reader *r, uint64_t first, struct err *err) {
    r->open = false;
    if (segment_open(&r->segment, r->folder_fd, first, err) != 0) return -1;
    r->open = true;
    r->at = r->segment.body;
    r->at_sequence = first;
    for (uint32_t t = 0; t < r->segment.head.topic_count; t++) r->topic[t] = name_keep(r, r->segment.topic[t]);
    return 0;
}

/* LOG_ITEM: the segment that has, or will have, the next entry is open. */
static enum log_read segment_find(struct log_reader *r, struct err *err) {
    size_t count, i;
    uint64_t *list = segment_list(r->folder_fd, &count, err);
    if (list == NULL) return LOG_BAD;
    if (r->sequence == 0 && count > 0) r->sequence = list[0];
    for (i = count; i > 0 && list[i - 1] > r->sequence;) i--;
    uint64_t first = i > 0 ? list[i - 1] : 0, later = i < count ? list[i] : 0;
    free(list);
    if (count == 0 && r->sequence <= 1) return LOG_END;
    if (count == 0) {
        err_set(err, EX_DATAERR, "the audit log is empty; sequence number %" PRIu64 " was expected", r->sequence);
        return LOG_BAD;
    }
    if (first == 0 || first == r->finished) {
        if (later == 0) return LOG_END;
        r->sequence = later;
        return LOG_GONE;
    }
    return segment_enter(r, first, err) == 0 ? LOG_ITEM : err->code == ENOENT ? LOG_END : LOG_BAD;
}

void log_reader_place(struct log_reader *r, uint64_t segment, uint64_t at, uint64_t at_sequence, uint64_t sequence) {
    struct err err;
    r->sequence = sequence;
    r->left = 0;
    r->finished = 0;
    if ((!r->open || r->segment.first != segment) && segment_enter(r, segment, &err) != 0) {
        r->open = false; /* it is gone, or what is wrong with it will be told by log_reader_next */
        return;
    }
    r->at = at != 0 ? at : r->segment.body;
    r->at_sequence = at != 0 ? at_sequence : segment;
}

/* Whether the log goes on in another file than the open one. */
static bool segment_done(struct log_reader *r) {
    char name[LOG_NAME_BYTES];
    uint64_t segment, bytes;
    if (r->mark != NULL) {
        twin_load(&r->mark->end, &segment, &bytes);
        if (segment > r->segment.first) return true;
    }
    segment_name(name, r->at_sequence);
    return r->at_sequence > r->segment.first && faccessat(r->folder_fd, name, F_OK, 0) == 0;
}

/* Nothing more in the open segment. */
static enum log_read segment_ended(struct log_reader *r, enum segment_read how, struct err *err) {
    if (segment_done(r)) {
        if (how == SEGMENT_TORN) {
            err_set(err, EX_DATAERR, "%016" PRIx64 ".log, byte %" PRIu64 ": cut off within a batch", r->segment.first,
                    r->at);
            return LOG_BAD;
        }
        r->open = false;
        r->finished = r->segment.first;
        return LOG_ITEM;
    }
    if (how == SEGMENT_TORN || r->at_sequence >= r->sequence) return LOG_END;
    err_set(err, EX_DATAERR,
            "the audit log ends before sequence number %" PRIu64 "; sequence number %" PRIu64 " was expected",
            r->at_sequence, r->sequence);
    return LOG_BAD;
}

/* -- from batch to batch ----------------------------------------------------------------------- */

static enum log_read batch_load(struct log_reader *r, struct err *err) {
    enum segment_read read = segment_batch_at(&r->segment, r->at, &r->batch, err);
    if (read == SEGMENT_BAD) return LOG_BAD;
    if (read != SEGMENT_BATCH) return LOG_END;
    r->entry = r->batch.entries;
    r->left = r->batch.head.count;
    for (uint64_t s = r->at_sequence; s < r->sequence; s++, r->left--)
        r->entry += ((const struct entry *)(const void *)r->entry)->bytes;
    r->at += r->batch.head.bytes;
    r->at_sequence += r->batch.head.count;
    return LOG_ITEM;
}

/* LOG_ITEM: something was moved on; look again. */
static enum log_read advance(struct log_reader *r, struct err *err) {
    struct log_batch head;
    if (!r->open) return segment_find(r, err);
    enum segment_read read = segment_head_at(&r->segment, r->at, &head, err);
    if (read == SEGMENT_BAD && durable(r, r->at + 1)) return LOG_BAD;
    if (read == SEGMENT_BAD) return LOG_END; /* left by a write that failed; it is written again */
    if (read != SEGMENT_BATCH) return segment_ended(r, read, err);
    if (head.first != r->at_sequence) {
        err_set(err, EX_DATAERR,
                "%016" PRIx64 ".log, byte %" PRIu64 ": a batch of sequence number %" PRIu64 ", %" PRIu64
                " was expected",
                r->segment.first, r->at, head.first, r->at_sequence);
        return LOG_BAD;
    }
    if (head.first + head.count <= r->sequence) {
        r->at += head.bytes;
        r->at_sequence += head.count;
        return LOG_ITEM;
    }
    return durable(r, r->at + head.bytes) ? batch_load(r, err) : LOG_END;
}

static uint64_t incarnation_of(const struct segment_batch *b, uint16_t lane) {
    for (uint32_t i = 0; i < b->head.lane_count; i++)
        if (b->lane[i].lane == lane) return b->lane[i].incarnation;
    return 0;
}

enum log_read log_reader_next(struct log_reader *r, struct log_item *item, struct err *err) {
    struct err ignored;
    if (err == NULL) err = &ignored;
    while (r->left == 0) {
        enum log_read what = advance(r, err);
        if (what != LOG_ITEM) return what;
    }
    const struct entry *e = (const struct entry *)(const void *)r->entry;
    *item = (struct log_item){.entry = e,
                              .topic = r->topic[e->topic],
                              .sequence = r->sequence,
                              .written_us = r->batch.head.written_us,
                              .segment = r->segment.first,
                              .at = r->batch.at + (uint64_t)(r->entry - r->batch.bytes),
                              .incarnation = incarnation_of(&r->batch, e->slot)};
    r->entry += e->bytes;
    r->left--;
    r->sequence++;
    return LOG_ITEM;
}

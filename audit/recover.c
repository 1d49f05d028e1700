/* Opening the log for writing: where it ends, and what it has got to. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "audit/segment.h"
#include "audit/writer.h"
#include "base/log.h"

enum { PAGE = LOG_BLOCK_BYTES };

static int failed(struct err *err, const char *what) { return err_set(err, errno, "%s: %s", what, strerror(errno)); }

/* -- the folder -------------------------------------------------------------------------------- */

static int folder_take(struct log_writer *w, const char *dir, struct err *err) {
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) return failed(err, dir);
    w->folder_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->folder_fd < 0) return failed(err, dir);
    if (flock(w->folder_fd, LOCK_EX | LOCK_NB) == 0) return 0;
    return errno == EWOULDBLOCK ? err_set(err, EWOULDBLOCK, "%s: another process writes this audit log", dir)
                                : failed(err, dir);
}

/* Readers have the file mapped: it is filled where it stands, never replaced. */
static int mark_map(struct log_writer *w, struct err *err) {
    static const char zeros[PAGE];
    const struct log_files *f = w->files;
    struct stat st;
    int fd = f->open(f->context, w->folder_fd, LOG_MARK_NAME, O_RDWR | O_CREAT);
    if (fd < 0) return failed(err, LOG_MARK_NAME);
    const struct iovec part = {(void *)(uintptr_t)zeros, sizeof zeros};
    int code = fstat(fd, &st) == 0 ? 0 : errno;
    if (code == 0 && st.st_size < PAGE) { /* now, so that a full disk is told now */
        ssize_t n = f->write(f->context, fd, &part, 1, 0);
        if (n != PAGE) code = n < 0 ? errno : ENOSPC;
    }
    void *map = MAP_FAILED;
    if (code == 0 && (map = mmap(NULL, sizeof *w->mark, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED)
        code = errno;
    close(fd);
    if (code != 0) return err_set(err, code, LOG_MARK_NAME ": %s", strerror(code));
    w->mark = map;
    return 0;
}

static void mark_set(struct log_writer *w) {
    twin_store(&w->mark->end, w->segment != 0 ? w->segment : w->sequence, w->segment != 0 ? w->end : 0);
    w->mark->version = LOG_VERSION;
    w->mark->magic = LOG_MARK_MAGIC;
}

/* How much of a segment was durable, as far as `durable` knows. */
static uint64_t mark_end(const struct log_writer *w, uint64_t segment) {
    uint64_t first, end;
    if (w->mark->magic != LOG_MARK_MAGIC || w->mark->version != LOG_VERSION) return 0;
    twin_load(&w->mark->end, &first, &end);
    return first == segment ? end : 0;
}

/* -- what the last segment tells --------------------------------------------------------------- */

static void head_take(struct log_writer *w, const struct segment *s) {
    w->topic_count = s->head.topic_count;
    memcpy(w->topic, s->topic, (size_t)w->topic_count * LOG_TOPIC_BYTES);
    w->place_count = s->head.place_count;
    for (uint32_t i = 0; i < w->place_count; i++)
        w->place[i] = (struct writer_place){.durable = s->place[i], .next = s->place[i].next};
    for (uint32_t i = 0; i < s->head.lane_count; i++) w->lane[s->lane[i].lane] = s->lane[i];
}

static void place_pass(struct log_writer *w, const struct entry *e, uint32_t *hint) {
    struct writer_place *p = &w->place[*hint];
    if (*hint >= w->place_count || p->durable.topic != e->topic || p->durable.partition != e->partition) {
        uint32_t i = 0;
        while (i < w->place_count &&
               (w->place[i].durable.topic != e->topic || w->place[i].durable.partition != e->partition))
            i++;
        if (i == PARTITIONS_MAX) return;
        if (i == w->place_count)
            w->place[w->place_count++] =
                (struct writer_place){.durable = {.topic = e->topic, .partition = e->partition}};
        *hint = i;
        p = &w->place[i];
    }
    if (e->offset >= p->next) p->next = p->durable.next = e->offset + 1;
}

static void batch_pass(struct log_writer *w, const struct segment_batch *b) {
    uint32_t hint = 0;
    const uint8_t *p = b->entries;
    for (uint32_t i = 0; i < b->head.count; i++) {
        const struct entry *e = (const struct entry *)(const void *)p;
        place_pass(w, e, &hint);
        p += e->bytes;
    }
    for (uint32_t i = 0; i < b->head.lane_count; i++) w->lane[b->lane[i].lane] = b->lane[i];
    memcpy(w->mac, b->mac, sizeof w->mac);
    w->sequence += b->head.count;
    w->end = b->at + b->head.bytes;
}

/* -- where it ends ----------------------------------------------------------------------------- */

/* Whether there is a page of zeros behind what is known to be durable: it was never written, the file grew before its
 * content came. -1 with err: it cannot be told. */
static int page_missing(const struct log_writer *w, const struct segment *s, uint64_t at, struct err *err) {
    static const uint8_t zeros[PAGE];
    uint8_t page[PAGE];
    uint64_t size;
    if (at < mark_end(w, s->first)) return 0;
    if (segment_size(s, &size, err) != 0) return -1;
    while (at < size) {
        uint64_t next = (at / PAGE + 1) * PAGE, end = next < size ? next : size;
        ssize_t n = pread(s->fd, page, end - at, (off_t)at);
        if (n < 0) return failed(err, "reading the audit log");
        if (n != (ssize_t)(end - at)) return 0;
        if (memcmp(page, zeros, (size_t)n) == 0) return 1;
        at = end;
    }
    return 0;
}

static bool mac_is(const struct log_writer *w, const uint8_t previous[LOG_MAC_BYTES], const void *bytes, size_t len,
                   const uint8_t mac[LOG_MAC_BYTES]) {
    uint8_t made[LOG_MAC_BYTES];
    log_mac_make(&w->key, previous, bytes, len, made);
    return memcmp(made, mac, sizeof made) == 0;
}

static int changed(const struct segment *s, uint64_t at, struct err *err) {
    return err_set(err, EX_DATAERR,
                   "%016" PRIx64 ".log, byte %" PRIu64 ": this is not what was written there; `millrace audit verify` "
                   "tells more",
                   s->first, at);
}

static int head_check(const struct log_writer *w, const struct segment *s, struct err *err) {
    if (s->head.key_id != w->key_id)
        return err_set(
            err, EX_CONFIG,
            "the audit log was begun with key %u, and recon.keys has key %u: move the log away, or bring the "
            "key back",
            s->head.key_id, w->key_id);
    uint8_t *bytes = malloc(s->body);
    CHECK(bytes != NULL);
    ssize_t n = pread(s->fd, bytes, s->body, 0);
    int code = n < 0 ? errno : 0;
    bool good = n == (ssize_t)s->body && mac_is(w, s->head.previous, bytes, s->body - LOG_MAC_BYTES, s->mac);
    free(bytes);
    if (code != 0) return err_set(err, code, "reading the audit log: %s", strerror(code));
    return good ? 0 : changed(s, 0, err);
}

/* What a closed segment takes, for retention by size: its batches up to the next segment, not what somebody may have
 * put behind them to have others removed. A file of a usual size is taken as it is. */
static uint64_t closed_bytes(const struct log_writer *w, struct segment *s, uint64_t next) {
    uint64_t size = segment_bytes(s), at = s->body, sequence = s->first;
    struct log_batch head;
    if (size <= w->config->recon.segment_bytes + 2 * WRITER_BATCH_BYTES) return size;
    while (sequence < next && segment_head_at(s, at, &head, NULL) == SEGMENT_BATCH && head.first == sequence) {
        at += head.bytes;
        sequence += head.count;
    }
    if (at < size)
        log_warn("audit.segment_padded", "%016" PRIx64 ".log: %" PRIu64 " bytes stand behind its last batch", s->first,
                 size - at);
    return at;
}

/* When a segment was closed is when the next one was begun. The head of that is believed only when it is the one that
 * was written, for retention goes by it, and signs for what it removes. */
static int closed_find(struct log_writer *w, const uint64_t *list, size_t count, struct err *err) {
    struct segment s;
    struct err ignored;
    segment_init(&s);
    int bad = 0;
    w->closed = calloc(count, sizeof *w->closed);
    CHECK(w->closed != NULL);
    w->closed_room = count;
    for (size_t i = 0; bad == 0 && i < count; i++) {
        bool open = segment_open(&s, w->folder_fd, list[i], err) == 0;
        if (!open && err->code != EX_DATAERR) bad = -1;
        bool sound = open && head_check(w, &s, &ignored) == 0;
        if (i > 0) w->closed[i - 1].closed_us = sound ? s.head.created_us : clock_wall_ms(w->clock) * 1000;
        if (i + 1 == count) break;
        w->closed[i] = (struct writer_segment){.first = list[i], .bytes = open ? closed_bytes(w, &s, list[i + 1]) : 0};
        w->closed_bytes += w->closed[i].bytes;
    }
    w->closed_count = count - 1;
    segment_free(&s);
    return bad;
}

/* The next commit begins another segment. */
static void segment_drop(struct log_writer *w) {
    close(w->fd);
    w->fd = -1;
    w->segment = 0;
}

/* What stands at `at` is no batch: 0 when it has never reached the disk as a whole, else -1 with err. */
static int never_whole(const struct log_writer *w, const struct segment *s, uint64_t at, struct err *err) {
    int missing = page_missing(w, s, at, err);
    if (missing < 0) return -1;
    return missing > 0 ? 0 : changed(s, at, err);
}

/* Passes over the whole batches. Of these only the last one's mac is checked: it is the one that goes on. Leaves w as
 * it was before the last batch when that has never reached the disk as a whole. */
static int batches_pass(struct log_writer *w, struct segment *s, uint64_t *last, struct err *err) {
    uint64_t at = s->body;
    struct log_batch next;
    struct segment_batch b;
    for (;;) {
        enum segment_read r = segment_batch_at(s, at, &b, err);
        if (r == SEGMENT_END || r == SEGMENT_TORN) return 0;
        if (r == SEGMENT_BAD && err->code != EX_DATAERR) return -1;
        if (r == SEGMENT_BAD || b.head.first != w->sequence) return never_whole(w, s, at, err);
        bool is_last = segment_head_at(s, at + b.head.bytes, &next, err) != SEGMENT_BATCH;
        if (is_last && !mac_is(w, w->mac, b.bytes, b.head.bytes - LOG_MAC_BYTES, b.mac))
            return never_whole(w, s, at, err);
        batch_pass(w, &b);
        *last = at;
        at += b.head.bytes;
    }
}

/* The last batch may stand in the system's memory alone, after a sync that failed: it is written again. */
static int last_batch_settle(struct log_writer *w, struct segment *s, uint64_t last, struct err *err) {
    struct segment_batch b;
    const struct log_files *f = w->files;
    if (last != 0 && mark_end(w, s->first) < w->end) {
        enum segment_read r = segment_batch_at(s, last, &b, err);
        if (r == SEGMENT_BAD && err->code != EX_DATAERR) return -1;
        if (r != SEGMENT_BATCH) return changed(s, last, err);
        const struct iovec part = {(void *)(uintptr_t)b.bytes, b.head.bytes};
        ssize_t n = f->write(f->context, w->fd, &part, 1, (off_t)last);
        if (n >= 0 && n < (ssize_t)b.head.bytes) errno = ENOSPC;
        if (n != (ssize_t)b.head.bytes) return failed(err, "writing the audit log");
    }
    return f->sync(f->context, w->fd) == 0 ? 0 : failed(err, "fdatasync of the audit log");
}

/* What the next write begins with. */
static int tail_take(struct log_writer *w, const struct segment *s, struct err *err) {
    uint8_t tail[LOG_BLOCK_BYTES];
    size_t len = w->end % LOG_BLOCK_BYTES;
    ssize_t n = pread(s->fd, tail, len, (off_t)(w->end - len));
    if (n < 0) return failed(err, "reading the end of the audit log");
    if (n != (ssize_t)len) return changed(s, w->end - len, err);
    log_writer_goes_on(w, w->fd, s->first, w->end, tail);
    return 0;
}

static int last_segment_take(struct log_writer *w, uint64_t first, struct err *err) {
    struct segment s;
    char name[LOG_NAME_BYTES];
    uint64_t last = 0;
    const struct log_files *f = w->files;
    segment_init(&s);
    segment_name(name, first);
    int bad = segment_open(&s, w->folder_fd, first, err);
    if (bad == 0) bad = head_check(w, &s, err);
    if (bad == 0) {
        head_take(w, &s);
        w->segment = w->sequence = first;
        w->end = s.body;
        memcpy(w->mac, s.mac, sizeof w->mac);
        bad = batches_pass(w, &s, &last, err);
    }
    if (bad == 0 && mark_end(w, first) > w->end) bad = changed(&s, w->end, err); /* no torn tail: it was durable */
    if (bad == 0 && (w->fd = f->open(f->context, w->folder_fd, name, O_RDWR)) < 0) bad = failed(err, name);
    uint64_t size = 0;
    int padding = bad == 0 ? segment_padding(&s, w->end, err) : -1;
    if (bad == 0) bad = padding < 0 ? -1 : segment_size(&s, &size, err);
    if (bad == 0 && padding == 0) {
        w->cut_bytes = size - w->end;
        if (f->truncate(f->context, w->fd, (off_t)w->end) != 0) bad = failed(err, name);
    }
    if (bad == 0) bad = last_batch_settle(w, &s, last, err);
    if (bad == 0 && w->sequence == first) { /* without an entry: the next one is to take its place */
        memcpy(w->mac, s.head.previous, sizeof w->mac);
        segment_drop(w);
    }
    if (bad == 0 && w->fd >= 0) bad = tail_take(w, &s, err);
    segment_free(&s);
    return bad;
}

/* Whether the last segment names all topics of the configuration, so that it can be gone on with. */
static bool topics_fit(struct log_writer *w) {
    for (uint32_t i = 0; i < w->config->topic_count; i++) {
        uint32_t t = 0;
        while (t < w->topic_count && strcmp(w->topic[t], w->config->topic[i].name) != 0) t++;
        if (t == w->topic_count) return false;
        w->topic_of[i] = (uint16_t)t;
    }
    return true;
}

/* The configuration's topics, then those of partitions that were logged under a configuration of old. */
static void topics_lay_out(struct log_writer *w) {
    char old[TOPICS_MAX][LOG_TOPIC_BYTES];
    uint32_t kept = 0;
    memcpy(old, w->topic, sizeof old);
    memset(w->topic, 0, sizeof w->topic);
    w->topic_count = w->config->topic_count;
    for (uint32_t i = 0; i < w->topic_count; i++) {
        snprintf(w->topic[i], sizeof w->topic[i], "%s", w->config->topic[i].name);
        w->topic_of[i] = (uint16_t)i;
    }
    for (uint32_t i = 0; i < w->place_count; i++) {
        struct writer_place p = w->place[i];
        const char *name = old[p.durable.topic];
        uint32_t t = 0;
        while (t < w->topic_count && strcmp(w->topic[t], name) != 0) t++;
        if (t == TOPICS_MAX) continue; /* more topics than a segment can name: this one is forgotten */
        if (t == w->topic_count) snprintf(w->topic[w->topic_count++], LOG_TOPIC_BYTES, "%s", name);
        p.durable.topic = t;
        w->place[kept++] = p;
    }
    w->place_count = kept;
}

/* Retention never removes the last segment: where `durable` names a later one than there is, somebody else has. */
static int last_segment_there(const struct log_writer *w, uint64_t last, struct err *err) {
    uint64_t first, end;
    if (w->mark->magic != LOG_MARK_MAGIC || w->mark->version != LOG_VERSION) return 0;
    twin_load(&w->mark->end, &first, &end);
    if (end == 0 || first <= last) return 0;
    return err_set(err, EX_DATAERR, "%016" PRIx64 ".log is gone; `millrace audit verify` tells more", first);
}

static int log_take(struct log_writer *w, struct err *err) {
    size_t count;
    uint64_t *list = segment_list(w->folder_fd, &count, err);
    if (list == NULL) return -1;
    int bad = last_segment_there(w, count > 0 ? list[count - 1] : 0, err);
    if (count > 0 && bad == 0) bad = closed_find(w, list, count, err);
    if (count > 0 && bad == 0) bad = last_segment_take(w, list[count - 1], err);
    free(list);
    if (bad == 0 && w->sequence > 1) {
        w->last = (struct writer_last){.segment = w->segment, .sequence = w->sequence - 1};
        if (w->segment == 0) w->last.segment = w->closed_count > 0 ? w->closed[w->closed_count - 1].first : 0;
        memcpy(w->last.mac, w->mac, sizeof w->last.mac);
    }
    if (bad == 0 && !topics_fit(w) && w->fd >= 0) {
        struct stat st;
        w->closed[w->closed_count++] = (struct writer_segment){
            w->segment, w->end, fstat(w->fd, &st) == 0 ? st.st_mtim.tv_sec * (int64_t)1000000 : 0};
        w->closed_bytes += w->end;
        segment_drop(w);
    }
    if (bad == 0 && w->fd < 0) topics_lay_out(w);
    return bad;
}

int log_writer_open(struct log_writer *w, const struct log_writer_plan *plan, struct err *err) {
    *w = (struct log_writer){.config = plan->config,
                             .clock = plan->clock,
                             .files = plan->files,
                             .folder_fd = -1,
                             .fd = -1,
                             .key = *plan->key,
                             .key_id = plan->key_id,
                             .sequence = 1};
    w->ahead_us = clock_wall_ms(w->clock) * 1000 - (int64_t)(clock_boot_ns(w->clock) / 1000);
    w->entry_bytes_max = plan->entry_bytes_max;
    w->area = aligned_alloc(LOG_BLOCK_BYTES, log_writer_area(plan->entry_bytes_max));
    CHECK(w->area != NULL);
    if (folder_take(w, plan->dir, err) != 0 || mark_map(w, err) != 0 || log_take(w, err) != 0) {
        log_writer_close(w);
        return -1;
    }
    mark_set(w);
    return 0;
}

void log_writer_close(struct log_writer *w) {
    log_writer_leave(w);
    if (w->folder_fd >= 0) close(w->folder_fd);
    if (w->mark != NULL) munmap(w->mark, sizeof *w->mark);
    free(w->area);
    free(w->closed);
    explicit_bzero(&w->key, sizeof w->key);
    *w = (struct log_writer){.fd = -1, .folder_fd = -1};
}

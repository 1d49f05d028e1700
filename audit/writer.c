#include "audit/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "audit/segment.h"
#include "base/fault.h"

#define SEGMENT_NEW "segment.new" /* becomes the next segment once its head is durable */
enum { US_PER_MS = 1000 };
#define CLOCK_SET_US (3600LL * 1000000) /* more than any slow correction comes to while a process lives */

static int64_t wall_us(const struct log_writer *w) { return clock_wall_ms(w->clock) * US_PER_MS; }

/* -- the batch --------------------------------------------------------------------------------- */

/* Where the entries of a batch of so many lanes stand in the area, when the batch follows what is durable now. */
static size_t entries_place(const struct log_writer *w, uint32_t lanes) {
    return w->end % LOG_BLOCK_BYTES + sizeof(struct log_batch) + lanes * sizeof(struct log_lane);
}

uint64_t log_writer_number(const struct log_writer *w, uint32_t lane, uint64_t incarnation) {
    return w->lane[lane].incarnation == incarnation ? w->lane[lane].number : 0;
}

/* One that nobody has written to since the writer was opened: there are never more live ones than the ledger's slots.
 */
static struct writer_place *place_spare(struct log_writer *w) {
    if (w->place_count < PARTITIONS_MAX) return &w->place[w->place_count++];
    uint32_t i = 0;
    while (i < PARTITIONS_MAX && w->place[i].live) i++;
    CHECK(i < PARTITIONS_MAX);
    return &w->place[i];
}

static struct writer_place *place_find(struct log_writer *w, uint32_t topic, int32_t partition) {
    for (uint32_t i = 0; i < w->place_count; i++)
        if (w->place[i].durable.topic == topic && w->place[i].durable.partition == partition) return &w->place[i];
    struct writer_place *p = place_spare(w);
    *p = (struct writer_place){.durable = {.topic = topic, .partition = partition}};
    return p;
}

static struct writer_place *place_of(struct log_writer *w, uint16_t slot, uint32_t topic, int32_t partition) {
    uint16_t known = slot < PARTITIONS_MAX ? w->place_of[slot] : 0;
    if (known != 0 && w->place[known - 1].durable.topic == topic && w->place[known - 1].durable.partition == partition)
        return &w->place[known - 1];
    struct writer_place *p = place_find(w, topic, partition);
    p->live = true;
    if (slot < PARTITIONS_MAX) w->place_of[slot] = (uint16_t)(p - w->place + 1);
    return p;
}

size_t log_writer_area(uint32_t entry_bytes_max) {
    size_t most = (LOG_BLOCK_BYTES - 1) + sizeof(struct log_batch) + LANES_MAX * sizeof(struct log_lane) +
                  WRITER_BATCH_BYTES + entry_bytes_max + LOG_ALIGN + LOG_MAC_BYTES;
    return log_block_up(most);
}

bool log_writer_add(struct log_writer *w, uint32_t lane, uint64_t incarnation, uint64_t number, const void *body) {
    if (w->count == 0) w->entries_at = entries_place(w, w->config->lanes);
    struct entry *e = (struct entry *)(void *)(w->area + w->entries_at + w->used);
    const struct entry *from = body;
    uint32_t len = from->bytes, padded = (len + LOG_ALIGN - 1) / LOG_ALIGN * LOG_ALIGN;
    CHECK(len <= w->entry_bytes_max && !log_writer_full(w) && from->topic < w->config->topic_count && lane < LANES_MAX);
    memcpy(e, body, len);
    memset((char *)e + len, 0, padded - len);
    e->bytes = padded;
    e->topic = w->topic_of[from->topic];
    e->slot = (uint16_t)lane;
    struct writer_place *p = place_of(w, from->slot, e->topic, e->partition);
    bool repeat = e->offset < p->next;
    e->flags = repeat ? e->flags | ENTRY_REPEAT : e->flags & ~(uint32_t)ENTRY_REPEAT;
    if (!repeat) p->next = e->offset + 1;
    w->pending[lane] = (struct log_lane){.lane = lane, .incarnation = incarnation, .number = number};
    w->lanes_in_batch |= 1U << lane;
    w->used += padded;
    w->count++;
    w->repeats += repeat;
    return repeat;
}

/* -- segments ---------------------------------------------------------------------------------- */

static int failed(struct err *err, int code, const char *doing) {
    return err_set(err, code, "%s: %s", doing, strerror(code));
}

static struct log_head head_make(const struct log_writer *w) {
    struct log_head h = {.magic = LOG_MAGIC,
                         .version = LOG_VERSION,
                         .entry_version = ENTRY_VERSION,
                         .first = w->sequence,
                         .created_us = wall_us(w),
                         .key_id = w->key_id,
                         .topic_count = w->topic_count};
    memcpy(h.previous, w->mac, sizeof h.previous);
    snprintf(h.name, sizeof h.name, "%s", w->config->name);
    snprintf(h.instance, sizeof h.instance, "%s", w->config->instance);
    snprintf(h.group, sizeof h.group, "%s", w->config->kafka.group_id);
    return h;
}

/* The head with its tables and its mac, in memory to be freed; *len bytes. Partitions of which nothing is durable yet
 * are left out: they begin in this segment. */
static uint8_t *head_build(const struct log_writer *w, size_t *len, uint8_t mac[LOG_MAC_BYTES]) {
    struct log_head h = head_make(w);
    uint8_t *out = calloc(1, sizeof h + sizeof w->topic + sizeof w->place + sizeof w->lane + LOG_MAC_BYTES);
    CHECK(out != NULL);
    uint8_t *p = out + sizeof h;
    memcpy(p, w->topic, (size_t)w->topic_count * LOG_TOPIC_BYTES);
    p += (size_t)w->topic_count * LOG_TOPIC_BYTES;
    for (uint32_t i = 0; i < w->place_count; i++) {
        if (w->place[i].durable.next == 0) continue;
        memcpy(p, &w->place[i].durable, sizeof w->place[i].durable);
        p += sizeof w->place[i].durable;
        h.place_count++;
    }
    for (uint32_t i = 0; i < LANES_MAX; i++) {
        if (w->lane[i].number == 0) continue;
        memcpy(p, &w->lane[i], sizeof w->lane[i]);
        p += sizeof w->lane[i];
        h.lane_count++;
    }
    memcpy(out, &h, sizeof h);
    log_mac_make(&w->key, h.previous, out, (size_t)(p - out), mac);
    memcpy(p, mac, LOG_MAC_BYTES);
    *len = (size_t)(p - out) + LOG_MAC_BYTES;
    return out;
}

static int write_whole(const struct log_writer *w, int fd, const void *bytes, size_t len, uint64_t at,
                       struct err *err) {
    const struct iovec part = {(void *)(uintptr_t)bytes, len};
    ssize_t n = w->files->write(w->files->context, fd, &part, 1, (off_t)at);
    return n == (ssize_t)len ? 0 : failed(err, n < 0 ? errno : ENOSPC, "writing the audit log");
}

/* A new segment under another name, durable, then renamed: no file of the log is ever without its whole head. */
static int segment_write(struct log_writer *w, const char *name, const uint8_t *head, size_t len, struct err *err) {
    const struct log_files *f = w->files;
    int fd = f->open(f->context, w->folder_fd, SEGMENT_NEW, O_RDWR | O_CREAT | O_TRUNC);
    if (fd < 0) return failed(err, errno, "beginning a segment of the audit log");
    int bad = write_whole(w, fd, head, len, 0, err);
    if (bad == 0 && f->sync(f->context, fd) != 0) bad = failed(err, errno, "fdatasync of the audit log");
    if (bad == 0 && f->rename(f->context, w->folder_fd, SEGMENT_NEW, name) != 0)
        bad = failed(err, errno, "naming a segment of the audit log");
    if (bad == 0 && f->sync(f->context, w->folder_fd) != 0) bad = failed(err, errno, "fsync of the audit log's folder");
    if (bad == 0) return fd;
    close(fd);
    return -1;
}

static void closed_note(struct log_writer *w, struct writer_segment s) {
    if (w->closed_count == w->closed_room) {
        w->closed_room = w->closed_room * 2 + 64;
        w->closed = reallocarray(w->closed, w->closed_room, sizeof *w->closed);
        CHECK(w->closed != NULL);
    }
    w->closed[w->closed_count++] = s;
    w->closed_bytes += s.bytes;
}

/* What a write or a sync that failed may have left behind the last durable batch. When it cannot be taken back either,
 * the next write covers it: the batch is the same, or longer. */
static void take_back(const struct log_writer *w) { (void)w->files->truncate(w->files->context, w->fd, (off_t)w->end); }

void log_writer_leave(struct log_writer *w) {
    if (w->fd < 0) return;
    take_back(w); /* the zeros; where they stay they mean no harm */
    close(w->fd);
    w->fd = -1;
}

static void segment_leave(struct log_writer *w) {
    log_writer_leave(w);
    if (w->segment != 0) closed_note(w, (struct writer_segment){w->segment, w->end, wall_us(w)});
    w->segment = 0;
}

void log_writer_goes_on(struct log_writer *w, int fd, uint64_t segment, uint64_t end, const void *tail) {
    w->fd = fd;
    w->segment = segment;
    w->end = end;
    memcpy(w->tail, tail, end % LOG_BLOCK_BYTES);
    (void)w->files->direct(w->files->context, fd, true); /* a file system that cannot goes on as it does */
}

static int segment_begin(struct log_writer *w, struct err *err) {
    char name[LOG_NAME_BYTES];
    uint8_t mac[LOG_MAC_BYTES];
    size_t len;
    uint8_t *head = head_build(w, &len, mac);
    segment_name(name, w->sequence);
    int fd = segment_write(w, name, head, len, err);
    if (fd >= 0) {
        segment_leave(w);
        log_writer_goes_on(w, fd, w->sequence, len, head + log_block_down(len));
    }
    free(head);
    if (fd < 0) return -1;
    memcpy(w->mac, mac, sizeof w->mac);
    return 0;
}

/* -- making it durable ------------------------------------------------------------------------- */

static void committed(struct log_writer *w, uint64_t bytes, const uint8_t mac[LOG_MAC_BYTES]) {
    w->end += bytes;
    w->sequence += w->count;
    memcpy(w->mac, mac, LOG_MAC_BYTES);
    w->last = (struct writer_last){.segment = w->segment, .sequence = w->sequence - 1};
    memcpy(w->last.mac, mac, LOG_MAC_BYTES);
    twin_store(&w->mark->end, w->segment, w->end);
    for (uint32_t i = 0; i < w->place_count; i++) w->place[i].durable.next = w->place[i].next;
    for (uint32_t i = 0; i < LANES_MAX; i++)
        if ((w->lanes_in_batch & 1U << i) != 0) w->lane[i] = w->pending[i];
    w->used = 0;
    w->count = w->repeats = w->lanes_in_batch = 0;
    w->written_us = 0;
}

/* Writing goes on in a file that somebody has removed, and nobody would ever find it there. The next commit begins
 * another one; that entries are missing before it stays to be seen. */
static int removed_check(struct log_writer *w, struct err *err) {
    struct stat st;
    if (fstat(w->fd, &st) != 0 || st.st_nlink > 0) return 0;
    close(w->fd);
    w->fd = -1;
    w->segment = 0;
    return err_set(err, ENOENT, "the file of the audit log that was being written to has been removed");
}

/* The batch, in the area behind the tail: its head, lanes and mac around the entries. Returns its bytes. */
static size_t batch_build(struct log_writer *w, uint8_t mac[LOG_MAC_BYTES]) {
    struct log_lane lane[LANES_MAX];
    uint32_t lanes = 0;
    for (uint32_t i = 0; i < LANES_MAX; i++)
        if ((w->lanes_in_batch & 1U << i) != 0) lane[lanes++] = w->pending[i];
    const struct log_batch head = {.magic = LOG_BATCH_MAGIC,
                                   .bytes = (uint32_t)(sizeof head + lanes * sizeof *lane + w->used + LOG_MAC_BYTES),
                                   .count = w->count,
                                   .first = w->sequence,
                                   .written_us = w->written_us,
                                   .lane_count = lanes};
    size_t place = entries_place(w, lanes); /* another one when a segment was begun, or some lane had nothing */
    if (place != w->entries_at) memmove(w->area + place, w->area + w->entries_at, w->used);
    w->entries_at = place;
    uint8_t *batch = w->area + w->end % LOG_BLOCK_BYTES, *behind = w->area + place + w->used;
    memcpy(w->area, w->tail, w->end % LOG_BLOCK_BYTES);
    memcpy(batch, &head, sizeof head);
    memcpy(batch + sizeof head, lane, lanes * sizeof *lane);
    log_mac_make(&w->key, w->mac, batch, (size_t)(behind - batch), mac);
    memcpy(behind, mac, LOG_MAC_BYTES);
    return head.bytes;
}

/* Writes the area, of which the first `len` bytes count, from the beginning of the block that holds the end. */
static int area_write(struct log_writer *w, size_t len, struct err *err) {
    size_t whole = log_block_up(len);
    uint64_t at = log_block_down(w->end);
    memset(w->area + len, 0, whole - len);
    int bad = write_whole(w, w->fd, w->area, whole, at, err);
    if (bad != 0 && err->code == EINVAL && w->files->direct(w->files->context, w->fd, false) == 0)
        bad = write_whole(w, w->fd, w->area, whole, at, err); /* its blocks are larger */
    return bad;
}

int log_writer_commit(struct log_writer *w, struct err *err) {
    uint8_t mac[LOG_MAC_BYTES];
    if (w->count == 0) return 0;
    if (w->written_us == 0) w->written_us = wall_us(w);
    if ((w->fd < 0 || w->end >= w->config->recon.segment_bytes) && segment_begin(w, err) != 0) return -1;
    size_t bytes = batch_build(w, mac), len = w->end % LOG_BLOCK_BYTES + bytes;
    int bad = area_write(w, len, err);
    if (bad == 0 && w->files->sync(w->files->context, w->fd) != 0)
        bad = failed(err, errno, "fdatasync of the audit log");
    if (bad != 0) {
        take_back(w);
        return -1;
    }
    if (removed_check(w, err) != 0) return -1;
    FAULT("audit:durable");
    memcpy(w->tail, w->area + log_block_down(len), len % LOG_BLOCK_BYTES);
    committed(w, bytes, mac);
    return 0;
}

/* -- retention --------------------------------------------------------------------------------- */

bool log_writer_clock_set(const struct log_writer *w) {
    int64_t moved = wall_us(w) - (int64_t)(clock_boot_ns(w->clock) / 1000) - w->ahead_us;
    return llabs(moved) > CLOCK_SET_US;
}

const struct writer_segment *log_writer_expired(const struct log_writer *w) {
    if (w->closed_count == 0) return NULL;
    const struct writer_segment *s = &w->closed[0];
    bool old =
        !log_writer_clock_set(w) && wall_us(w) - s->closed_us > (int64_t)w->config->recon.retention_ms * US_PER_MS;
    return old || w->closed_bytes + w->end > w->config->recon.retention_bytes ? s : NULL;
}

int log_writer_closed_end(const struct log_writer *w, uint64_t *sequence, uint8_t mac[LOG_MAC_BYTES], struct err *err) {
    uint64_t next = w->closed_count > 1 ? w->closed[1].first : w->segment;
    *sequence = w->last.sequence;
    memcpy(mac, w->last.mac, LOG_MAC_BYTES);
    if (next == 0) return 0; /* it is the newest one */
    *sequence = next - 1;
    struct segment s;
    segment_init(&s);
    int bad = segment_open(&s, w->folder_fd, next, err);
    if (bad == 0) memcpy(mac, s.head.previous, LOG_MAC_BYTES);
    segment_free(&s);
    return bad;
}

int log_writer_remove(struct log_writer *w, struct err *err) {
    char name[LOG_NAME_BYTES + 8];
    const struct log_files *f = w->files;
    struct writer_segment s = w->closed[0];
    snprintf(name, sizeof name, "%016" PRIx64 ".index", s.first);
    if (f->unlink(f->context, w->folder_fd, name) != 0 && errno != ENOENT)
        return failed(err, errno, "removing an index of the audit log");
    segment_name(name, s.first);
    if (f->unlink(f->context, w->folder_fd, name) != 0 && errno != ENOENT)
        return failed(err, errno, "removing a segment of the audit log");
    w->closed_bytes -= s.bytes;
    memmove(w->closed, w->closed + 1, --w->closed_count * sizeof *w->closed);
    return 0;
}

#include "ingest/rejects.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/rejects_read.h"

static_assert((int)RECORD_KEY_NULL == (int)REJECT_KEY_NULL && (int)RECORD_VALUE_NULL == (int)REJECT_VALUE_NULL &&
                  (int)RECORD_SEALED == (int)REJECT_SEALED && (int)RECORD_CONTENT_ABSENT == (int)REJECT_CONTENT_ABSENT,
              "flags are stored as they are");

/* -- what is there already --------------------------------------------------------------------- */

static void seen_note(struct rejects_store *s, const struct rejects_entry *e, uint32_t lanes) {
    if (e->lane >= lanes || e->number == 0 || s->seen[e->lane].incarnation != e->incarnation) return;
    if (e->number > s->seen[e->lane].number) s->seen[e->lane].number = e->number;
}

static int existing_read(struct rejects_store *s, const char *folder, uint32_t lanes, uint64_t *end, struct err *err) {
    struct rejects_reader reader;
    struct rejects_record record;
    int r = rejects_open(&reader, folder, err);
    if (r == 0)
        while ((r = rejects_next(&reader, &record, err)) == 1) {
            seen_note(s, &record.head, lanes);
            known_add(&s->known, record.topic, &record.head);
        }
    s->segment = reader.segment;
    s->total_bytes = reader.total_bytes;
    s->segment_bytes = reader.segment_bytes;
    *end = reader.position;
    rejects_close(&reader);
    return r;
}

/* The last segment goes on after its last whole entry; what follows was being written when the machine went down, and
 * nothing was released on its strength. */
static int last_segment_reopen(struct rejects_store *s, uint64_t end, struct err *err) {
    char name[REJECTS_NAME_BYTES];
    if (s->segment == 0) return 0;
    rejects_segment_name(name, s->segment);
    if (end <
        sizeof(struct rejects_segment)) { /* not even its head: begin the next one, keep this for a person to look at */
        return 0;
    }
    s->fd = openat(s->folder_fd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (s->fd < 0) return err_set(err, errno, "%s: %s", name, strerror(errno));
    if (end < s->segment_bytes) {
        log_warn("ingest.rejects_torn", "%s: cutting off %llu bytes after the last whole entry", name,
                 (unsigned long long)(s->segment_bytes - end));
        if (ftruncate(s->fd, (off_t)end) != 0) return err_set(err, errno, "%s: %s", name, strerror(errno));
        s->total_bytes -= s->segment_bytes - end;
    }
    s->segment_bytes = s->durable_bytes = end;
    if (lseek(s->fd, (off_t)end, SEEK_SET) < 0 || fsync(s->fd) != 0)
        return err_set(err, errno, "%s: %s", name, strerror(errno));
    return 0;
}

int rejects_store_open(struct rejects_store *s, const char *data_dir, uint64_t max_bytes, const uint64_t *incarnation,
                       uint32_t lanes, const struct clock_port *clock, struct err *err) {
    char folder[PATH_BYTES + 16];
    uint64_t end = 0;
    *s = (struct rejects_store){.folder_fd = -1, .fd = -1, .max_bytes = max_bytes, .clock = clock};
    for (uint32_t i = 0; i < lanes; i++) s->seen[i].incarnation = incarnation[i];
    s->pending = calloc(REJECTS_PENDING_MAX, sizeof *s->pending);
    CHECK(s->pending != NULL);
    snprintf(folder, sizeof folder, "%s/rejects", data_dir);
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) return err_set(err, errno, "%s: %s", folder, strerror(errno));
    s->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->folder_fd < 0) return err_set(err, errno, "%s: %s", folder, strerror(errno));
    if (existing_read(s, folder, lanes, &end, err) != 0) return err_prefix(err, "%s", folder);
    for (uint32_t i = 0; i < lanes; i++) s->durable[i] = s->seen[i].number;
    return last_segment_reopen(s, end, err);
}

/* -- appending --------------------------------------------------------------------------------- */

static void segment_leave(struct rejects_store *s) {
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
    if (s->dirty) s->left_dirty = true;
}

static int segment_begin(struct rejects_store *s, struct err *err) {
    char name[REJECTS_NAME_BYTES];
    rejects_segment_name(name, s->segment + 1);
    int fd = FAULT_FAILS("ingest:reject_segment")
                 ? -1
                 : openat(s->folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return err_set(err, errno, "%s: %s", name, strerror(errno));
    struct rejects_segment head = {.magic = REJECTS_MAGIC,
                                   .version = REJECTS_VERSION,
                                   .header_bytes = sizeof head,
                                   .number = s->segment + 1,
                                   .created_ms = clock_wall_ms(s->clock)};
    if (FAULT_FAILS("ingest:reject_head") || write(fd, &head, sizeof head) != sizeof head ||
        FAULT_FAILS("ingest:reject_folder_sync") || fsync(s->folder_fd) != 0) {
        err_set(err, errno, "%s: %s", name, strerror(errno));
        close(fd);
        unlinkat(s->folder_fd, name, 0);
        return -1;
    }
    s->fd = fd;
    s->segment++;
    s->segment_bytes = s->durable_bytes = sizeof head;
    s->total_bytes += sizeof head;
    return 0;
}

/* Bytes of the segments that are there now: an operator makes room by removing some. */
static uint64_t folder_bytes(const struct rejects_store *s) {
    uint64_t sum = 0;
    struct stat st;
    int fd = openat(s->folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (d == NULL) {
        if (fd >= 0) close(fd);
        return s->total_bytes;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (fstatat(s->folder_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_size;
    closedir(d);
    return sum;
}

/* Whether so many bytes more would pass max_bytes. */
static bool full(struct rejects_store *s, uint64_t bytes) {
    if (s->total_bytes + bytes <= s->max_bytes) return false;
    s->total_bytes = folder_bytes(s);
    return s->total_bytes + bytes > s->max_bytes;
}

/* Writing goes on in a segment that an operator has removed, and nobody would ever find it there. */
static bool segment_removed(const struct rejects_store *s) {
    struct stat st;
    return fstat(s->fd, &st) == 0 && st.st_nlink == 0;
}

/* A write that was cut short is taken back, so that the segment always ends with a whole entry while we live. */
static int entry_write(struct rejects_store *s, struct iovec *part, int parts, size_t total, struct err *err) {
    ssize_t n = FAULT_FAILS("ingest:reject_write") ? -1 : writev(s->fd, part, parts);
    if (n == (ssize_t)total) {
        s->segment_bytes += total;
        s->total_bytes += total;
        s->dirty = true;
        return 0;
    }
    err_set(err, n < 0 ? errno : ENOSPC, "writing a rejected record: %s", n < 0 ? strerror(errno) : "disk full");
    if (n > 0 &&
        (ftruncate(s->fd, (off_t)s->segment_bytes) != 0 || lseek(s->fd, (off_t)s->segment_bytes, SEEK_SET) < 0))
        segment_leave(s); /* the reader stops at the torn entry; what comes next goes to a new segment */
    return -1;
}

static struct rejects_entry entry_of(const struct rejects_store *s, uint32_t lane, uint64_t number,
                                     const struct record_view *r, const char *topic) {
    struct rejects_entry e = {.magic = REJECTS_ENTRY_MAGIC,
                              .topic_bytes = (uint16_t)strlen(topic),
                              .reason = r->head.reason,
                              .flags = (uint8_t)(r->head.flags & ~(uint32_t)RECORD_REFED),
                              .lane = lane,
                              .partition = r->head.partition,
                              .incarnation = s->seen[lane].incarnation,
                              .number = number,
                              .offset = r->head.offset,
                              .timestamp_ms = r->head.timestamp_ms,
                              .stored_ms = clock_wall_ms(s->clock),
                              .key_bytes = r->head.kafka_key_bytes,
                              .value_bytes = r->head.value_bytes,
                              .headers_bytes = r->head.headers_bytes};
    memcpy(e.id, r->head.id, sizeof e.id);
    e.total_bytes = (uint32_t)rejects_entry_bytes(&e);
    return e;
}

/* The same record, rejected before: under an older epoch, or by rings that are gone. */
static bool stored_before(struct rejects_store *s, const char *topic, const struct rejects_entry *e) {
    for (uint32_t i = 0; i < s->pending_count; i++)
        if (known_same(&s->pending[i].head, e) && strcmp(s->pending[i].topic, topic) == 0) return true;
    return known_has(&s->known, topic, e);
}

static void pending_add(struct rejects_store *s, const char *topic, const struct rejects_entry *e) {
    struct rejects_pending *p = &s->pending[s->pending_count++];
    p->head = *e;
    snprintf(p->topic, sizeof p->topic, "%s", topic);
}

/* Entries of segments that an operator has removed are not taken out; more than the folder can hold are not kept. */
static void pending_settle(struct rejects_store *s, bool durable) {
    uint64_t bytes = s->max_bytes > s->total_bytes ? s->max_bytes : s->total_bytes;
    if (s->known.total > bytes / sizeof(struct rejects_entry)) known_forget(&s->known);
    for (uint32_t i = 0; durable && i < s->pending_count; i++)
        known_add(&s->known, s->pending[i].topic, &s->pending[i].head);
    s->pending_count = 0;
}

/* A sync in the middle of an append. When it fails, what the caller appended before is not durable either: its own sync
 * has to tell it so. */
static int sync_within(struct rejects_store *s, struct err *err) {
    bool others = s->pending_count > 0;
    if (rejects_store_sync(s, err) == 0) return 0;
    s->left_dirty = others;
    return -1;
}

enum rejects_result rejects_store_append(struct rejects_store *s, uint32_t lane, uint64_t number,
                                         const struct record_view *r, const char *topic, struct err *err) {
    static const uint8_t zeros[REJECTS_ALIGN];
    if (number != 0 && number <= s->seen[lane].number) return REJECTS_REPEAT;
    struct rejects_entry e = entry_of(s, lane, number, r, topic);
    if (stored_before(s, topic, &e)) return REJECTS_REPEAT;
    if (s->pending_count == REJECTS_PENDING_MAX && sync_within(s, err) != 0) return REJECTS_ERROR;
    size_t parts_bytes = sizeof e + e.topic_bytes + (size_t)e.key_bytes + e.value_bytes + e.headers_bytes;
    bool next_segment = s->fd < 0 || s->segment_bytes >= REJECTS_SEGMENT_BYTES;
    if (full(s, e.total_bytes + (next_segment ? sizeof(struct rejects_segment) : 0))) return REJECTS_FULL;
    if (s->fd >= 0 && next_segment) {
        if (sync_within(s, err) != 0) return REJECTS_ERROR;
        segment_leave(s);
    }
    if (s->fd < 0 && segment_begin(s, err) != 0) return REJECTS_ERROR;
    struct iovec part[] = {{&e, sizeof e},
                           {(void *)(uintptr_t)topic, e.topic_bytes},
                           {(void *)(uintptr_t)r->kafka_key, e.key_bytes},
                           {(void *)(uintptr_t)r->value, e.value_bytes},
                           {(void *)(uintptr_t)r->headers, e.headers_bytes},
                           {(void *)(uintptr_t)zeros, e.total_bytes - parts_bytes}};
    enum { PARTS = sizeof part / sizeof part[0] };
    uint32_t checksum = rejects_checksum(0, (const uint8_t *)&e + 8, sizeof e - 8);
    for (int i = 1; i < PARTS; i++) checksum = rejects_checksum(checksum, part[i].iov_base, part[i].iov_len);
    e.checksum = checksum;
    if (entry_write(s, part, PARTS, e.total_bytes, err) != 0) return REJECTS_ERROR;
    if (number != 0) s->seen[lane].number = number;
    pending_add(s, topic, &e);
    return REJECTS_STORED;
}

int rejects_store_sync(struct rejects_store *s, struct err *err) {
    if (s->dirty && !s->left_dirty && (FAULT_FAILS("ingest:reject_sync") || fdatasync(s->fd) != 0)) {
        err_set(err, errno, "fdatasync of the rejects folder: %s", strerror(errno));
        if (ftruncate(s->fd, (off_t)s->durable_bytes) == 0) s->total_bytes -= s->segment_bytes - s->durable_bytes;
        segment_leave(s);
    } else if (s->dirty && !s->left_dirty && segment_removed(s)) {
        err_set(err, ENOENT, "the segment that was being written to has been removed from the rejects folder");
        segment_leave(s);
    } else if (s->left_dirty) {
        err_set(err, EIO, "a segment of the rejects folder could not be finished");
    }
    bool whole = !s->left_dirty;
    if (whole) s->durable_bytes = s->segment_bytes;
    for (uint32_t i = 0; i < LANES_MAX; i++) {
        if (whole)
            s->durable[i] = s->seen[i].number;
        else
            s->seen[i].number = s->durable[i];
    }
    s->dirty = s->left_dirty = false;
    pending_settle(s, whole);
    return whole ? 0 : -1;
}

void rejects_store_close(struct rejects_store *s) {
    if (s->fd >= 0) close(s->fd);
    if (s->folder_fd >= 0) close(s->folder_fd);
    known_forget(&s->known);
    free(s->pending);
    *s = (struct rejects_store){.fd = -1, .folder_fd = -1};
}

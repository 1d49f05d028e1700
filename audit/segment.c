#include "audit/segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "shm/record.h"

/* -- the files --------------------------------------------------------------------------------- */

void segment_name(char out[LOG_NAME_BYTES], uint64_t first) {
    snprintf(out, LOG_NAME_BYTES, "%016" PRIx64 ".log", first);
}

static uint64_t name_parse(const char *name) {
    char again[LOG_NAME_BYTES];
    if (strlen(name) != LOG_NAME_BYTES - 1) return 0;
    uint64_t first = strtoull(name, NULL, 16);
    segment_name(again, first);
    return strcmp(again, name) == 0 ? first : 0;
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

uint64_t *segment_list(int folder_fd, size_t *count, struct err *err) {
    size_t room = 64;
    uint64_t *list = malloc(room * sizeof *list);
    int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    *count = 0;
    if (d == NULL || list == NULL) {
        err_set(err, errno, "the folder of the audit log: %s", strerror(errno));
        if (d != NULL)
            closedir(d);
        else if (fd >= 0)
            close(fd);
        free(list);
        return NULL;
    }
    struct dirent *e;
    while (errno = 0, (e = readdir(d)) != NULL) {
        uint64_t first = name_parse(e->d_name);
        if (first == 0) continue;
        if (*count == room) {
            uint64_t *more = reallocarray(list, room *= 2, sizeof *list);
            CHECK(more != NULL);
            list = more;
        }
        list[(*count)++] = first;
    }
    int code = errno; /* of the last readdir: a list that is not whole would be a log without its end */
    closedir(d);
    if (code != 0) {
        err_set(err, code, "the folder of the audit log: %s", strerror(code));
        free(list);
        return NULL;
    }
    qsort(list, *count, sizeof *list, ascending);
    return list;
}

void segment_init(struct segment *s) { *s = (struct segment){.fd = -1}; }

void segment_free(struct segment *s) {
    if (s->fd >= 0) close(s->fd);
    free(s->topic);
    free(s->place);
    free(s->batch.bytes);
    free(s->other.bytes);
    segment_init(s);
}

int segment_size(const struct segment *s, uint64_t *bytes, struct err *err) {
    struct stat st;
    if (fstat(s->fd, &st) != 0) return err_set(err, errno, "%016" PRIx64 ".log: %s", s->first, strerror(errno));
    *bytes = st.st_size > 0 ? (uint64_t)st.st_size : 0;
    return 0;
}

uint64_t segment_bytes(const struct segment *s) {
    uint64_t bytes = 0;
    (void)segment_size(s, &bytes, NULL);
    return bytes;
}

/* -- reading bytes ----------------------------------------------------------------------------- */

static void room_make(struct segment_blocks *b, size_t room) {
    if (room <= b->room) return;
    free(b->bytes);
    b->room = log_block_up(room + room / 2);
    b->bytes = aligned_alloc(LOG_BLOCK_BYTES, b->room);
    CHECK(b->bytes != NULL);
}

/* len bytes: whole, or SEGMENT_TORN. Reads whole blocks, as O_DIRECT demands. Behind bytes that somebody has taken out,
 * batches stand where none is written: from such a place they are moved, for their structures have to be aligned. */
static enum segment_read fetch(const struct segment *s, struct segment_blocks *b, uint64_t at, size_t len,
                               const uint8_t **out, struct err *err) {
    uint64_t from = log_block_down(at), end = at + len;
    size_t blocks = log_block_up(end - from);
    room_make(b, blocks);
    for (size_t done = 0; from + done < end;) {
        ssize_t n = pread(s->fd, b->bytes + done, blocks - done, (off_t)(from + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            err_set(err, errno, "%016" PRIx64 ".log: %s", s->first, strerror(errno));
            return SEGMENT_BAD;
        }
        if (n == 0) return SEGMENT_TORN;
        done += (size_t)n;
    }
    *out = b->bytes + (at - from);
    if (at % LOG_ALIGN != 0) *out = memmove(b->bytes, *out, len);
    return SEGMENT_BATCH;
}

static enum segment_read read_at(struct segment *s, void *out, size_t len, uint64_t at, struct err *err) {
    const uint8_t *bytes;
    enum segment_read r = fetch(s, &s->other, at, len, &bytes, err);
    if (r == SEGMENT_BATCH) memcpy(out, bytes, len);
    return r;
}

int segment_padding(struct segment *s, uint64_t at, struct err *err) {
    const uint8_t *p;
    uint64_t size;
    if (segment_size(s, &size, err) != 0) return -1;
    if (at >= size) return at == size;
    if (size > log_block_up(at)) return 0;
    enum segment_read r = fetch(s, &s->other, at, (size_t)(size - at), &p, err);
    if (r != SEGMENT_BATCH) return r == SEGMENT_BAD ? -1 : 0;
    while (at < size && *p == 0) at++, p++;
    return at == size;
}

static int bad(const struct segment *s, uint64_t at, const char *what, struct err *err) {
    return err_set(err, EX_DATAERR, "%016" PRIx64 ".log, byte %" PRIu64 ": %s", s->first, at, what);
}

/* -- the head ---------------------------------------------------------------------------------- */

static bool text_ends(const char *text, size_t room) { return memchr(text, '\0', room) != NULL; }

static const char *head_fault(const struct log_head *h, uint64_t first) {
    if (h->magic != LOG_MAGIC) return "this is no segment of an audit log";
    if (h->version != LOG_VERSION || h->entry_version != ENTRY_VERSION)
        return "a version that this build does not know";
    if (h->first != first) return "it is the segment of another sequence number: renamed?";
    if (h->topic_count < 1 || h->topic_count > TOPICS_MAX || h->place_count > PARTITIONS_MAX ||
        h->lane_count > LANES_MAX)
        return "the counts in its head are impossible";
    if (!text_ends(h->name, sizeof h->name) || !text_ends(h->instance, sizeof h->instance) ||
        !text_ends(h->group, sizeof h->group))
        return "the names in its head have no end";
    return NULL;
}

static const char *tables_fault(const struct segment *s) {
    for (uint32_t i = 0; i < s->head.topic_count; i++)
        if (!text_ends(s->topic[i], sizeof s->topic[i])) return "a topic's name has no end";
    for (uint32_t i = 0; i < s->head.place_count; i++)
        if (s->place[i].topic >= s->head.topic_count || s->place[i].partition < 0) return "a place of no partition";
    for (uint32_t i = 0; i < s->head.lane_count; i++)
        if (s->lane[i].lane >= LANES_MAX) return "a lane that cannot be";
    return NULL;
}

static int head_read(struct segment *s, struct err *err) {
    uint64_t at = sizeof s->head;
    enum segment_read r = read_at(s, &s->head, sizeof s->head, 0, err);
    const char *fault = r == SEGMENT_TORN ? "it ends within its head" : NULL;
    if (r == SEGMENT_BATCH) fault = head_fault(&s->head, s->first);
    if (r == SEGMENT_BAD) return -1;
    if (fault != NULL) return bad(s, 0, fault, err);
    const struct {
        void *out;
        size_t bytes;
    } parts[] = {{s->topic, (size_t)s->head.topic_count * LOG_TOPIC_BYTES},
                 {s->place, s->head.place_count * sizeof *s->place},
                 {s->lane, s->head.lane_count * sizeof *s->lane},
                 {s->mac, sizeof s->mac}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; at += parts[i++].bytes) {
        r = read_at(s, parts[i].out, parts[i].bytes, at, err);
        if (r == SEGMENT_BAD) return -1;
        if (r == SEGMENT_TORN) return bad(s, at, "it ends within its head", err);
    }
    s->body = at;
    fault = tables_fault(s);
    return fault != NULL ? bad(s, 0, fault, err) : 0;
}

int segment_open(struct segment *s, int folder_fd, uint64_t first, struct err *err) {
    char name[LOG_NAME_BYTES];
    if (s->fd >= 0) close(s->fd);
    segment_name(name, first);
    s->first = first;
    s->head = (struct log_head){0};
    s->fd = openat(folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | (s->direct ? O_DIRECT : 0));
    if (s->fd < 0 && s->direct && errno == EINVAL) s->fd = openat(folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (s->fd < 0) return err_set(err, errno, "%s: %s", name, strerror(errno));
    if (s->topic == NULL) s->topic = calloc(TOPICS_MAX, sizeof *s->topic);
    if (s->place == NULL) s->place = calloc(PARTITIONS_MAX, sizeof *s->place);
    CHECK(s->topic != NULL && s->place != NULL);
    return head_read(s, err);
}

/* -- batches ----------------------------------------------------------------------------------- */

enum segment_read segment_head_at(struct segment *s, uint64_t at, struct log_batch *head, struct err *err) {
    uint64_t size;
    if (segment_size(s, &size, err) != 0) return SEGMENT_BAD;
    if (at >= size) return SEGMENT_END;
    enum segment_read r = read_at(s, head, sizeof *head, at, err);
    if (r == SEGMENT_BAD) return r;
    const char *fault = NULL;
    if (r == SEGMENT_TORN || head->magic != LOG_BATCH_MAGIC) {
        int padding = segment_padding(s, at, err);
        if (padding != 0) return padding < 0 ? SEGMENT_BAD : SEGMENT_END;
    }
    if (r == SEGMENT_TORN) return r;
    if (head->magic != LOG_BATCH_MAGIC)
        fault = "no batch begins here";
    else if (head->bytes % LOG_ALIGN != 0 || head->bytes > LOG_BATCH_BYTES_MAX || head->lane_count > LANES_MAX ||
             head->lane_count < 1 || head->count < 1 ||
             head->bytes < sizeof *head + head->lane_count * sizeof(struct log_lane) +
                               head->count * sizeof(struct entry) + LOG_MAC_BYTES)
        fault = "the lengths of a batch do not fit together";
    if (fault != NULL) {
        bad(s, at, fault, err);
        return SEGMENT_BAD;
    }
    return head->bytes > size - at ? SEGMENT_TORN : SEGMENT_BATCH;
}

static bool entry_whole(const struct segment *s, const struct entry *e, size_t left) {
    return e->bytes % LOG_ALIGN == 0 && e->bytes >= sizeof *e && e->bytes <= left &&
           e->content_bytes <= e->bytes - sizeof *e && e->bytes - sizeof *e - e->content_bytes < LOG_ALIGN &&
           e->topic < s->head.topic_count && e->slot < LANES_MAX && e->outcome < ENTRY_OUTCOME_COUNT &&
           e->op < RECORD_OP_COUNT && e->reason < REASON_COUNT;
}

/* Where the first entry stands that is not whole, or NULL. */
static const uint8_t *entries_fault(const struct segment *s, const struct segment_batch *b) {
    const uint8_t *p = b->entries;
    for (uint32_t i = 0; i < b->head.count; i++) {
        size_t left = (size_t)(b->mac - p);
        const struct entry *e = (const struct entry *)(const void *)p;
        if (left < sizeof *e || !entry_whole(s, e, left)) return p;
        p += e->bytes;
    }
    return p == b->mac ? NULL : p;
}

enum segment_read segment_batch_at(struct segment *s, uint64_t at, struct segment_batch *out, struct err *err) {
    struct log_batch head;
    enum segment_read r = segment_head_at(s, at, &head, err);
    if (r != SEGMENT_BATCH) return r;
    const uint8_t *bytes;
    r = fetch(s, &s->batch, at, head.bytes, &bytes, err);
    if (r != SEGMENT_BATCH) return r;
    *out = (struct segment_batch){.bytes = bytes, .at = at, .mac = bytes + head.bytes - LOG_MAC_BYTES};
    memcpy(&out->head, bytes, sizeof out->head);
    out->lane = (const struct log_lane *)(const void *)(bytes + sizeof head);
    out->entries = bytes + sizeof head + head.lane_count * sizeof *out->lane;
    const uint8_t *fault = memcmp(&out->head, &head, sizeof head) != 0 ? bytes : NULL;
    for (uint32_t i = 0; fault == NULL && i < head.lane_count; i++)
        if (out->lane[i].lane >= LANES_MAX) fault = (const uint8_t *)&out->lane[i];
    if (fault == NULL) fault = entries_fault(s, out);
    if (fault == NULL) return SEGMENT_BATCH;
    bad(s, at + (uint64_t)(fault - bytes), "an entry that is not whole", err);
    return SEGMENT_BAD;
}

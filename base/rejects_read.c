#include "base/rejects_read.h"

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

enum { SEGMENT_DIGITS = 8 };
#define SEGMENT_SUFFIX ".rejects"

uint32_t rejects_checksum(uint32_t so_far, const void *data, size_t len) {
    static uint32_t table[256];
    static bool made;
    if (!made) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++) c = c & 1 ? c >> 1 ^ 0x82f63b78U : c >> 1;
            table[i] = c;
        }
        made = true;
    }
    uint32_t c = ~so_far;
    const uint8_t *p = data;
    for (size_t i = 0; i < len; i++) c = table[(c ^ p[i]) & 0xff] ^ c >> 8;
    return ~c;
}

void rejects_segment_name(char out[REJECTS_NAME_BYTES], uint64_t number) {
    snprintf(out, REJECTS_NAME_BYTES, "%0*" PRIu64 SEGMENT_SUFFIX, SEGMENT_DIGITS, number);
}

/* The number in a file's name, 0 when it is not a segment's. */
static uint64_t segment_number(const char *name) {
    char again[REJECTS_NAME_BYTES];
    char *end;
    errno = 0;
    uint64_t number = strtoull(name, &end, 10);
    if (errno != 0 || end == name || number == 0) return 0;
    rejects_segment_name(again, number);
    return strcmp(again, name) == 0 ? number : 0;
}

static int segment_compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int folder_error(struct err *err, const char *folder, const char *what) {
    int code = errno == EACCES || errno == EPERM ? EX_NOPERM : errno == ENOMEM ? EX_OSERR : EX_IOERR;
    return err_set(err, code, "%s: %s: %s", folder, what, strerror(errno));
}

static int segments_list(struct rejects_reader *r, const char *folder, DIR *listing, struct err *err) {
    size_t room = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(listing);
        if (entry == NULL) break;
        uint64_t number = segment_number(entry->d_name);
        if (number == 0) continue;
        if (r->segment_count == room) {
            room = room ? room * 2 : 64;
            uint64_t *more = realloc(r->segments, room * sizeof *more);
            if (more == NULL) return folder_error(err, folder, "listing the rejects folder");
            r->segments = more;
        }
        r->segments[r->segment_count++] = number;
    }
    if (errno != 0) return folder_error(err, folder, "listing the rejects folder");
    if (r->segment_count > 1) qsort(r->segments, r->segment_count, sizeof *r->segments, segment_compare);
    return 0;
}

int rejects_open(struct rejects_reader *r, const char *folder, struct err *err) {
    *r = (struct rejects_reader){.folder_fd = -1, .fd = -1};
    r->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r->folder_fd < 0) return errno == ENOENT ? 0 : folder_error(err, folder, "opening the rejects folder");
    int copy = fcntl(r->folder_fd, F_DUPFD_CLOEXEC, 0); /* closedir closes the descriptor it was given */
    DIR *listing = copy < 0 ? NULL : fdopendir(copy);
    if (listing == NULL) {
        int status = folder_error(err, folder, "listing the rejects folder");
        if (copy >= 0) close(copy);
        return status;
    }
    int status = segments_list(r, folder, listing, err);
    closedir(listing);
    return status;
}

/* Reads up to len bytes at `at` of the current segment; the end of the file cuts it short. */
static ssize_t segment_read(struct rejects_reader *r, void *out, size_t len, uint64_t at, struct err *err) {
    size_t got = 0;
    while (got < len) {
        ssize_t n = pread(r->fd, (uint8_t *)out + got, len - got, (off_t)(at + got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(err, EX_IOERR, "rejects segment %" PRIu64 ": %s", r->segment, strerror(errno));
        if (n == 0) break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

static void segment_end(struct rejects_reader *r) {
    if (r->fd < 0) return;
    if (r->segment_bytes > r->position) r->damaged_bytes += r->segment_bytes - r->position;
    close(r->fd);
    r->fd = -1;
}

/* Opens the next segment and checks its head. Returns 1 (nothing is open when its head is torn), 0 at the last, -1. */
static int segment_begin(struct rejects_reader *r, struct err *err) {
    for (;;) {
        if (r->next == r->segment_count) return 0;
        char name[REJECTS_NAME_BYTES];
        rejects_segment_name(name, r->segments[r->next]);
        r->fd = openat(r->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (r->fd >= 0) break;
        if (errno != ENOENT) return folder_error(err, name, "opening a rejects segment");
        r->next++; /* an operator removed it since the folder was listed */
    }
    r->segment = r->segments[r->next++];
    r->position = 0;
    struct stat st;
    if (fstat(r->fd, &st) != 0) return folder_error(err, "rejects segment", "reading its size");
    r->segment_bytes = (uint64_t)st.st_size;
    r->total_bytes += r->segment_bytes;
    struct rejects_segment head;
    ssize_t n = segment_read(r, &head, sizeof head, 0, err);
    if (n < 0) return -1;
    if (n < (ssize_t)sizeof head || head.magic != REJECTS_MAGIC) { /* torn before its head was written */
        segment_end(r);
        return 1;
    }
    if (head.version != REJECTS_VERSION || head.header_bytes != sizeof head)
        return err_set(err, EX_DATAERR, "rejects segment %" PRIu64 ": version %u; this build knows version %d",
                       r->segment, head.version, REJECTS_VERSION);
    r->position = sizeof head;
    return 1;
}

static int entry_lengths_valid(const struct rejects_entry *e) {
    return e->magic == REJECTS_ENTRY_MAGIC && e->total_bytes <= REJECTS_ENTRY_BYTES_MAX && e->topic_bytes > 0 &&
           e->topic_bytes < TOPIC_BYTES && e->total_bytes == rejects_entry_bytes(e);
}

/* Reads the entry at the current position. Returns 1, 0 when there is no whole one, -1. */
static int entry_read(struct rejects_reader *r, struct rejects_record *out, struct err *err) {
    ssize_t n = segment_read(r, &out->head, sizeof out->head, r->position, err);
    if (n < (ssize_t)sizeof out->head) return n < 0 ? -1 : 0;
    if (!entry_lengths_valid(&out->head)) return 0;
    size_t parts = out->head.total_bytes - sizeof out->head;
    if (parts > r->buffer_bytes) {
        uint8_t *more = realloc(r->buffer, parts);
        if (more == NULL) return err_set(err, EX_OSERR, "no memory for a rejected record of %zu bytes", parts);
        r->buffer = more;
        r->buffer_bytes = parts;
    }
    n = segment_read(r, r->buffer, parts, r->position + sizeof out->head, err);
    if (n < (ssize_t)parts) return n < 0 ? -1 : 0;
    uint32_t sum = rejects_checksum(0, (const uint8_t *)&out->head + 8, sizeof out->head - 8);
    if (rejects_checksum(sum, r->buffer, parts) != out->head.checksum) return 0;
    memcpy(out->topic, r->buffer, out->head.topic_bytes);
    out->topic[out->head.topic_bytes] = '\0';
    out->key = r->buffer + out->head.topic_bytes;
    out->value = out->key + out->head.key_bytes;
    out->headers = out->value + out->head.value_bytes;
    out->segment = r->segment;
    return 1;
}

int rejects_next(struct rejects_reader *r, struct rejects_record *out, struct err *err) {
    for (;;) {
        if (r->fd < 0) {
            int begun = segment_begin(r, err);
            if (begun <= 0) return begun;
            if (r->fd < 0) continue;
        }
        int found = entry_read(r, out, err);
        if (found < 0) return -1;
        if (found == 1) {
            r->position += out->head.total_bytes;
            return 1;
        }
        segment_end(r);
    }
}

void rejects_close(struct rejects_reader *r) {
    if (r->fd >= 0) close(r->fd);
    if (r->folder_fd >= 0) close(r->folder_fd);
    free(r->segments);
    free(r->buffer);
    *r = (struct rejects_reader){.folder_fd = -1, .fd = -1};
}

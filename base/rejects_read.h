/* Reader of the rejects folder: for `millrace rejects`, and for ingest at start, which looks for what is stored already
 * and for the end of the last whole entry. */
#ifndef MILLRACE_BASE_REJECTS_READ_H
#define MILLRACE_BASE_REJECTS_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/rejects_format.h"

struct rejects_record { /* one entry; pointers are valid until the next rejects_next */
    struct rejects_entry head;
    char topic[TOPIC_BYTES]; /* NUL-terminated */
    const uint8_t *key, *value, *headers;
    uint64_t segment;
};

struct rejects_reader {
    int folder_fd, fd;
    uint64_t *segments; /* ascending */
    size_t segment_count, next;
    uint64_t segment;       /* being read, or read last; 0: there is none */
    uint64_t position;      /* end of its last whole entry: where ingest appends; 0: not even its head is whole */
    uint64_t segment_bytes; /* size of that segment as found */
    uint64_t total_bytes;   /* of all segments begun so far */
    uint64_t damaged_bytes; /* skipped so far: torn tails, or a disk that lies */
    uint8_t *buffer;
    size_t buffer_bytes;
};

/* rejects_open lists the segments of folder. A folder that is not there is an empty one.
 * Returns 0, or -1 with err.code EX_NOPERM, EX_IOERR or EX_OSERR. Allocates; end with rejects_close in every case. */
int rejects_open(struct rejects_reader *r, const char *folder, struct err *err);

/* rejects_next reads the next whole entry into *out, in the order in which they were stored. What follows a broken
 * entry in a segment is skipped and counted in damaged_bytes. Returns 1, 0 at the end of the last segment (r->segment
 * and r->position then say where it ends), or -1 with err (unreadable file, or a version this build does not know). */
int rejects_next(struct rejects_reader *r, struct rejects_record *out, struct err *err);

void rejects_close(struct rejects_reader *r);

#endif

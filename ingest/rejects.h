/* Rejects store: the writer of data_dir/rejects (format: base/rejects_format.h). Ingest only; one per process. */
#ifndef MILLRACE_INGEST_REJECTS_H
#define MILLRACE_INGEST_REJECTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "ingest/known.h"
#include "shm/record.h"

/* The last number stored of one rejects ring, by incarnation: what a successor must not store again. */
struct rejects_seen {
    uint64_t incarnation, number;
};

/* One that was appended and is not durable yet. */
struct rejects_pending {
    struct rejects_entry head;
    char topic[TOPIC_BYTES];
};
enum { REJECTS_PENDING_MAX = 256 };

struct rejects_store {
    int folder_fd, fd;
    uint64_t segment;       /* number of the one being written; 0 none yet */
    uint64_t segment_bytes; /* of it */
    uint64_t durable_bytes; /* of these, as of the last sync */
    uint64_t total_bytes;   /* of all segments */
    uint64_t max_bytes;
    bool dirty;      /* appended since the last sync */
    bool left_dirty; /* a segment had to be left before what was appended to it was durable */
    struct rejects_seen seen[LANES_MAX];
    uint64_t durable[LANES_MAX];     /* seen[].number as of the last sync */
    struct known known;              /* what is durable, and was there at the start */
    struct rejects_pending *pending; /* REJECTS_PENDING_MAX */
    uint32_t pending_count;
    const struct clock_port *clock;
};

enum rejects_result { REJECTS_STORED, REJECTS_REPEAT, REJECTS_FULL, REJECTS_ERROR };

/* rejects_store_open makes the folder when it is missing (0700), reads what is there, and cuts a torn tail off the last
 * segment. incarnation[lane] is that of the lane's rejects ring. 0, or -1 with err. */
int rejects_store_open(struct rejects_store *s, const char *data_dir, uint64_t max_bytes, const uint64_t *incarnation,
                       uint32_t lanes, const struct clock_port *clock, struct err *err);

/* rejects_store_append writes one entry; it is durable only after rejects_store_sync. number: on the lane's rejects
 * ring, 0 for a reject of ingest's own. REJECTS_REPEAT: this number, or the same record under another one
 * (read again after a rewind), is stored already, or as soon as the next sync has succeeded. REJECTS_FULL: max_bytes
 * would be passed; nothing was written. REJECTS_ERROR: nothing whole was written, err says why; the same call may be
 * tried again. */
enum rejects_result rejects_store_append(struct rejects_store *s, uint32_t lane, uint64_t number,
                                         const struct record_view *r, const char *topic, struct err *err);

/* rejects_store_close gives back descriptors and memory; what was not synced may be lost. For tests. */
void rejects_store_close(struct rejects_store *s);

/* rejects_store_sync makes what was appended durable. After a failed fsync what it was about is cut off, the segment is
 * left and a new one begun at the next append, for the kernel may have dropped what it could not write, and would tell
 * the next who asks, a successor too, that all is well: the caller appends everything since the last sync again. 0, or
 * -1 with err. */
int rejects_store_sync(struct rejects_store *s, struct err *err);

#endif

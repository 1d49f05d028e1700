/* The table of live keys: one row for each key that Redis should hold, as the audit log tells it, outliving the log's
 * retention. In data_dir/recon/live/; the process recon writes it, tools read it.
 *
 * What has changed last is in memory (at most LIVE_DELTA_ROWS), the rest in sorted runs (recon/run.h), which are merged
 * as they grow: 72 bytes a key on disk and a quarter of a byte in memory, and up to twice the disk while the largest
 * runs are merged. The file MANIFEST names the current runs and the log sequence they cover; it is replaced by rename,
 * and only after what it names is on the disk. So killed at any instant the table is whole as of that sequence, and the
 * rest is applied from the log again.
 *
 * Which row counts: of two records of one topic and partition the one with the higher offset (of one offset the one
 * that was logged later: it may have been read under another configuration), so that records that are read again change
 * nothing; of different partitions the one that was logged later, which is also what Redis has. A deletion is a row too
 * until the merge that has nothing older to shadow. Rows of expired keys are left out a day after their time. */
#ifndef MILLRACE_RECON_LIVE_H
#define MILLRACE_RECON_LIVE_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "audit/log.h"
#include "base/config.h"
#include "base/digest.h"
#include "base/err.h"

enum { LIVE_DELTA_ROWS = 1 << 18, LIVE_TOPICS_MAX = 4096, LIVE_EXPIRED_KEPT_MS = 86400000 };

enum live_flags {
    LIVE_GONE = 1 << 0,  /* deleted, expired when it was applied, or its key was changed; never shown to callers */
    LIVE_HASH = 1 << 1,  /* stored as a Redis hash: `value` is the digest of its fields */
    LIVE_MOVED = 1 << 2, /* its record has deleted another key: writing it again does so again */
};

struct live_row {                /* format on disk, little-endian */
    uint8_t key[DIGEST_BYTES];   /*  0 digest of the Redis key */
    uint8_t value[DIGEST_BYTES]; /* 16 of the value before compression and encryption */
    int64_t offset;              /* 32 of the record it comes from */
    int64_t event_ms;            /* 40 its event time; -1 none */
    int64_t expire_at_ms;        /* 48 0 never */
    uint64_t load;               /* 56 first 8 bytes of its load id, as they stand in struct entry; 0 none */
    int32_t partition;           /* 64 */
    uint16_t topic;              /* 68 of this table: live_topic has the name */
    uint8_t algorithm;           /* 70 enum digest_algorithm of `value` */
    uint8_t flags;               /* 71 enum live_flags */
};
static_assert(sizeof(struct live_row) == 72, "format of the table of live keys");

struct live;

/* live_dir writes "DATA_DIR/recon/live" for the instance of c. */
void live_dir(const struct config *c, char out[PATH_BYTES + 16]);

/* live_open_writer opens or makes the table in folder dir (its parent is there) for the only writer, and takes away
 * what a predecessor left half done. live_open_reader opens it as it is now; whatever the writer does, the reader keeps
 * that state, applies the log from live_sequence on by itself, in memory without bound, and writes nothing. NULL with
 * err: EX_NOINPUT no table yet (reader), EX_DATAERR damaged (the sentence says which file), EX_TEMPFAIL another process
 * writes it, EX_IOERR. */
struct live *live_open_writer(const char *dir, struct err *err);
struct live *live_open_reader(const char *dir, struct err *err);
/* live_close writes nothing: what was not covered yet is applied again from the log. NULL is ignored. */
void live_close(struct live *l);

/* The log sequence to go on with: everything before it is in the table; 0: from the oldest there is. At start the
 * caller reads the log from the lower of its own position and this; what comes before it, live_apply ignores. */
uint64_t live_sequence(const struct live *l);
/* The first sequence the table has seen, 0 none yet: above 1 it knows nothing of the keys that were written before. */
uint64_t live_since(const struct live *l);

/* live_apply takes one entry of the log, in order, whatever its outcome. A full delta becomes a run first (writer).
 * Returns 0, or -1 with err (EX_IOERR; EX_UNAVAILABLE: more than LIVE_TOPICS_MAX topics): the entry was not taken, call
 * again with the same one. A gap in the sequence (retention was faster) is noted: live_gaps. */
int live_apply(struct live *l, const struct log_item *item, struct err *err);
uint64_t live_gaps(const struct live *l); /* entries that the log no longer had when the table came to them */

/* live_commit is for the writer, after each of its own transactions: merges a piece of what is to be merged (at most a
 * few ten milliseconds, and now and then the sync of what was merged), and writes the delta to the disk when it is
 * large or older than a minute. live_flush writes it now: at the end. now_ms: wall clock. 0, or -1 with err (EX_IOERR):
 * nothing is lost, call again. */
int live_commit(struct live *l, int64_t now_ms, struct err *err);
int live_flush(struct live *l, struct err *err);

/* live_find: 1 with *row, 0 no such key lives, -1 with err (EX_DATAERR, EX_IOERR). Expired rows count as living:
 * expire_at_ms is for the caller to look at. */
int live_find(struct live *l, const uint8_t key[DIGEST_BYTES], struct live_row *row, struct err *err);

/* live_find_at also tells the place of the key in the oldest run, whatever has become of it since; UINT64_MAX: it has
 * none there. live_base is that run, NULL when there is none: a table made by live_export is that run alone, and later
 * changes of it. */
struct run;
int live_find_at(struct live *l, const uint8_t key[DIGEST_BYTES], struct live_row *row, uint64_t *index,
                 struct err *err);
const struct run *live_base(const struct live *l);

/* live_export writes the table as it is now, living rows in a single run, as a table of its own into the new folder
 * dir. 0, or -1 with err (EX_IOERR, EX_CANTCREAT it is there already, EX_DATAERR). */
int live_export(struct live *l, const char *dir, struct err *err);

/* A walk over all living rows in the order of their digests, as of live_cursor_new. While it lasts the table must not
 * be changed. Next: 1 with *row, 0 at the end, -1 with err. For example the keys that a load marked as snapshot no
 * longer contains: those of its topic whose `load` is another. */
struct live_cursor;
struct live_cursor *live_cursor_new(struct live *l, struct err *err);
int live_cursor_next(struct live_cursor *c, struct live_row *row, struct err *err);
void live_cursor_free(struct live_cursor *c);

/* Names of the table's topics. Index of a name, or -1. */
const char *live_topic(const struct live *l, uint16_t topic);
int live_topic_find(const struct live *l, const char *name);

/* The highest offset + 1 of a partition that the table has seen; -1 none. */
int64_t live_next(const struct live *l, const char *topic, int32_t partition);

/* What it takes: for metrics and the documentation. */
struct live_size {
    uint64_t rows;       /* in the runs, replaced and deleted ones included */
    uint64_t delta_rows; /* in memory */
    uint64_t disk_bytes;
    uint32_t runs;
};
void live_measure(const struct live *l, struct live_size *out);

#endif

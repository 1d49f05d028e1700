/* The audit log on disk: its format, and reading it. Writing it is audit/writer.h. docs/formats.md has every byte.
 *
 * data_dir/audit/NNNNNNNNNNNNNNNN.log, the name being the sequence number (hexadecimal, from 1) of the segment's first
 * entry. Sequence numbers have no gaps. All numbers are little-endian.
 *
 *   segment   struct log_head | topics, char[LOG_TOPIC_BYTES] each | struct log_place … | struct log_lane … |
 *             mac[64] | batch | batch | …
 *   batch     struct log_batch | struct log_lane … | entries (shm/entry.h, padded to 8) | mac[64]
 *
 * A batch is what one write and one fdatasync made durable. A mac is a hash over the hash before it and the bytes since
 * then, and the HMAC of that hash under the chain key (audit/mac.h); the head's follows the last mac of the segment
 * before (log_head.previous). So nothing before the end of the log can be changed, left out or put in without breaking
 * the chain; that its end was not cut off, and without the key that it is the chain that was written, is what anchors
 * are for (audit/anchor.h).
 *
 * Batches are written in whole blocks of LOG_BLOCK_BYTES, past the page cache: zeros follow the last batch up to the
 * end of its block, and the next batch is written over them, with what its first block held before.
 *
 * Every segment holds at least one entry, but for the last one, which may be about to get its first. What stands behind
 * the last whole batch is a torn tail: it was being written when the machine went down, and audit cuts it off.
 *
 * data_dir/audit/durable (struct log_mark) says how far the log is known to be on the disk while audit runs: a batch is
 * written first and made durable then, and what a reader has counted must not go away again. */
#ifndef MILLRACE_AUDIT_LOG_H
#define MILLRACE_AUDIT_LOG_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "shm/entry.h"
#include "shm/twin.h"

#define LOG_MAGIC 0x31746475616c6c6dULL       /* "mllaudt1" */
#define LOG_BATCH_MAGIC 0x68637461626c6c6dULL /* "mllbatch" */
#define LOG_MARK_MAGIC 0x6b72616d6c6c6dULL    /* "mllmark" */
#define LOG_MARK_NAME "durable"
enum {
    LOG_VERSION = 2,
    LOG_HASH_BYTES = 32,
    LOG_MAC_BYTES = LOG_HASH_BYTES + 32, /* audit/mac.h */
    LOG_TOPIC_BYTES = 256,
    LOG_NAME_BYTES = 16 + 4 + 1,
    LOG_ALIGN = 8,
    LOG_BLOCK_BYTES = 4096,
};
static inline uint64_t log_block_down(uint64_t bytes) { return bytes / LOG_BLOCK_BYTES * LOG_BLOCK_BYTES; }
static inline uint64_t log_block_up(uint64_t bytes) { return log_block_down(bytes + LOG_BLOCK_BYTES - 1); }
#define LOG_BATCH_BYTES_MAX (1U << 30) /* no batch is larger */

struct log_head {
    uint64_t magic;
    uint32_t version;                /* LOG_VERSION */
    uint32_t entry_version;          /* ENTRY_VERSION */
    uint64_t first;                  /* sequence number of the first entry */
    int64_t created_us;              /* wall clock */
    uint32_t key_id;                 /* of the audit key */
    uint32_t topic_count;            /* [1, TOPICS_MAX] */
    uint32_t place_count;            /* [0, PARTITIONS_MAX] */
    uint32_t lane_count;             /* [0, LANES_MAX] struct log_lane after the places */
    uint8_t previous[LOG_MAC_BYTES]; /* last mac of the segment before; zeros in the first */
    char name[NAME_BYTES], instance[NAME_BYTES];
    char group[LOG_TOPIC_BYTES];
};

struct log_place {  /* where the log has got to in a partition, at the beginning of the segment */
    uint32_t topic; /* index in this segment's table */
    int32_t partition;
    int64_t next; /* highest offset logged + 1 */
};

struct log_lane { /* up to which number of a lane's ring everything is in the log */
    uint32_t lane;
    uint32_t reserved;
    uint64_t incarnation, number;
};

struct log_batch {
    uint64_t magic;
    uint32_t bytes;      /* of the whole batch, mac included; a multiple of 8 */
    uint32_t count;      /* entries, at least 1 */
    uint64_t first;      /* sequence number of the first */
    int64_t written_us;  /* wall clock when it was handed to the disk */
    uint32_t lane_count; /* struct log_lane that follow: one for each lane that has entries here */
    uint32_t reserved;
};

struct log_mark { /* mapped by its writer and by readers; goes stale, never wrong, when the machine goes down */
    uint64_t magic;
    uint32_t version; /* LOG_VERSION */
    uint32_t reserved;
    struct twin end; /* {first sequence number of the last segment, bytes of it that are durable} */
};
static_assert(sizeof(struct log_batch) == 40 && sizeof(struct log_lane) == 24 && sizeof(struct log_place) == 16 &&
                  sizeof(struct log_head) == 496 && sizeof(struct log_mark) == 64,
              "format of the log");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the log is written as it is in memory");

/* -- reading ----------------------------------------------------------------------------------- */

/* A reader follows the log from a sequence number on, across segments, while it is being written; it never blocks the
 * writer and takes no lock. It checks structure (sizes, numbers without gaps), not the chain: that is audit/verify.h.
 * It shows what `durable` covers; of a folder without that file (a copy) everything whole. One thread per reader. */
struct log_reader;

struct log_item {
    const struct entry *entry; /* with its content behind it; valid until the next call */
    const char *topic;         /* name, valid as long as the reader */
    uint64_t sequence;
    int64_t written_us;   /* of its batch */
    uint64_t segment;     /* first sequence number of the segment it stands in, */
    uint64_t at;          /* and where in that file */
    uint64_t incarnation; /* of the lane's ring when it was logged (entry.slot is the lane) */
};

enum log_read { LOG_ITEM, LOG_END, LOG_GONE, LOG_BAD };

/* log_reader_open opens the log in folder dir (data_dir/audit) at sequence number `from` (0: the oldest there is).
 * NULL with err: EX_NOINPUT no such folder. A log that has no segment yet is LOG_END until it has one. */
struct log_reader *log_reader_open(const char *dir, uint64_t from, struct err *err);
void log_reader_close(struct log_reader *r);

/* log_reader_direct, before the first log_reader_next: files are read past the page cache, where they can be. For one
 * who follows the writer closely and reads each byte once. */
void log_reader_direct(struct log_reader *r);

/* log_reader_next: LOG_ITEM with *item; LOG_END nothing more yet (call again later); LOG_GONE: retention has removed
 * what comes next, and log_reader_sequence is now the oldest that is there; LOG_BAD with err: the bytes are not a log
 * (a batch that is still being written reads as LOG_END), or the log ends before the sequence number that was asked
 * for: it is another one, or has been cut. After LOG_BAD the same call tries again. */
enum log_read log_reader_next(struct log_reader *r, struct log_item *item, struct err *err);
uint64_t log_reader_sequence(const struct log_reader *r); /* of the next entry; 0: the oldest, none seen yet */

/* log_reader_seek goes on at sequence number `from` (0: the oldest). Cheap within a segment that is open. */
void log_reader_seek(struct log_reader *r, uint64_t from);

/* log_dir writes "DATA_DIR/audit" for the instance of c. */
void log_dir(const struct config *c, char out[PATH_BYTES + 16]);

#endif

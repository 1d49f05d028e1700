/* Writer of the audit log (format: audit/log.h). One per instance: the worker `audit`, which holds the folder's lock.
 *
 * Entries are gathered into a batch in memory; log_writer_commit makes the batch durable with one write and one
 * fdatasync, or leaves it as it is, to be committed again: nothing of it counts before. Whoever is killed at any call
 * leaves a log that the next log_writer_open goes on with; what was not committed comes again on the rings. */
#ifndef MILLRACE_AUDIT_WRITER_H
#define MILLRACE_AUDIT_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "audit/files.h"
#include "audit/log.h"
#include "audit/mac.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/err.h"
#include "base/limits.h"

enum { WRITER_BATCH_BYTES = 4 << 20 }; /* of entries, at which a batch is full, however few they are */

struct log_writer_plan {
    const char *dir;               /* data_dir/audit; made (0700) when it is missing */
    const struct config *config;   /* names, topics, lanes, sizes; outlives the writer */
    const struct log_mac_key *key; /* of the chain */
    uint32_t key_id;
    const struct clock_port *clock;
    const struct log_files *files;
    uint32_t entry_bytes_max; /* of a struct entry with its content */
};

struct writer_place { /* one partition */
    struct log_place durable;
    int64_t next; /* with what is in the batch */
    bool live;    /* had an entry since the writer was opened */
};

struct writer_last {            /* the last durable batch; sequence 0: there is none */
    uint64_t segment, sequence; /* where it stands, and its last entry */
    uint8_t mac[LOG_MAC_BYTES];
};

struct writer_segment { /* one that is closed */
    uint64_t first, bytes;
    int64_t closed_us;
};

struct log_writer {
    const struct config *config;
    const struct clock_port *clock;
    const struct log_files *files;
    int folder_fd, fd; /* fd: of the last segment; -1: the next commit begins one */
    struct log_mark *mark;
    struct log_mac_key key;
    uint32_t key_id, entry_bytes_max;
    uint8_t mac[LOG_MAC_BYTES]; /* the last one of the log: of a batch, or of a head */
    struct writer_last last;
    uint64_t segment, end; /* the last segment: first sequence number (0: there is none), durable bytes */
    uint64_t sequence;     /* of the next entry that will be durable */
    char topic[TOPICS_MAX][LOG_TOPIC_BYTES]; /* table of the segments this writer adds to */
    uint32_t topic_count;
    uint16_t topic_of[TOPICS_MAX]; /* the configuration's topics in it */
    struct writer_place place[PARTITIONS_MAX];
    uint32_t place_count;
    uint16_t place_of[PARTITIONS_MAX];  /* by slot of the ledger, plus 1; 0 not known */
    struct log_lane lane[LANES_MAX];    /* durable */
    struct log_lane pending[LANES_MAX]; /* with what is in the batch */
    uint32_t lanes_in_batch;            /* a bit for each */
    uint8_t tail[LOG_BLOCK_BYTES];      /* what of the block that holds `end` stands before it */
    uint8_t *area;                      /* that again | the batch as it is written | zeros up to the end of a block */
    size_t entries_at;                  /* in area */
    size_t used;                        /* bytes of entries */
    uint32_t count;
    uint32_t repeats;              /* of them */
    int64_t ahead_us;              /* the wall clock over CLOCK_BOOTTIME, when the log was opened */
    int64_t written_us;            /* when it was tried first: tried again, it is the same bytes; 0 not yet */
    struct writer_segment *closed; /* ascending */
    size_t closed_count, closed_room;
    uint64_t closed_bytes;
    uint64_t cut_bytes; /* torn tail that log_writer_open has cut off */
};

/* log_writer_open takes the folder, finds the end of the log, and cuts off a torn tail: what of the last batch did not
 * reach the disk. 0, or -1 with err.code: EWOULDBLOCK another process writes this log; EX_DATAERR the end of the log is
 * not what was written there (`millrace audit verify` names the place); EX_CONFIG it was written under another key;
 * else an errno: the same call may succeed later. Allocates. */
int log_writer_open(struct log_writer *w, const struct log_writer_plan *plan, struct err *err);
void log_writer_close(struct log_writer *w);

/* For log_writer_open and log_writer_close alone: bytes of the area for entries of so many bytes at most; going on with
 * the segment that is open as fd behind byte `end`, the bytes of whose block before it are `tail`; closing that file,
 * without the zeros at its end. */
size_t log_writer_area(uint32_t entry_bytes_max);
void log_writer_goes_on(struct log_writer *w, int fd, uint64_t segment, uint64_t end, const void *tail);
void log_writer_leave(struct log_writer *w);

/* log_writer_number: up to which number of a lane's ring everything is durable in the log, or was never to be in it. */
uint64_t log_writer_number(const struct log_writer *w, uint32_t lane, uint64_t incarnation);

/* log_writer_full: whether the batch has to be committed before the next log_writer_add. */
static inline bool log_writer_full(const struct log_writer *w) { return w->used >= WRITER_BATCH_BYTES; }

/* log_writer_add puts an entry of a ring (body: struct entry, content; checked by entry_check) into the batch. number:
 * its number on the lane's ring, greater than log_writer_number. Returns whether its partition and offset were logged
 * before: the entry then has ENTRY_REPEAT. */
bool log_writer_add(struct log_writer *w, uint32_t lane, uint64_t incarnation, uint64_t number, const void *body);

/* log_writer_commit makes the batch durable; nothing to do when it is empty. 0, or -1 with err (an errno): nothing has
 * changed, and the same call may be tried again. May take as long as the disk does. */
int log_writer_commit(struct log_writer *w, struct err *err);

/* log_writer_clock_set: the wall clock was set, by more than an hour, since the log was opened: it says nothing of how
 * old a segment is, and a log is not removed because a clock is wrong. */
bool log_writer_clock_set(const struct log_writer *w);

/* log_writer_expired returns the oldest closed segment when it is to be removed by recon.retention or
 * recon.retention_bytes, else NULL. The last one is never removed. */
const struct writer_segment *log_writer_expired(const struct log_writer *w);

/* log_writer_closed_end tells the last sequence number and the last mac of the oldest closed segment, which there is.
 * 0, or -1 with err. */
int log_writer_closed_end(const struct log_writer *w, uint64_t *sequence, uint8_t mac[LOG_MAC_BYTES], struct err *err);

/* log_writer_remove removes the oldest closed segment and its index. 0, or -1 with err; the same call may be tried
 * again. */
int log_writer_remove(struct log_writer *w, struct err *err);

#endif

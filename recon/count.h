/* Counts what the audit log says: each entry once, into the window of its event time, and what identifies it (offset,
 * id, producer and sequence number) into sets from which the missing and the doubled are told. All of it goes into the
 * database in the caller's transaction, together with the next sequence number (meta `sequence`). */
#ifndef MILLRACE_RECON_COUNT_H
#define MILLRACE_RECON_COUNT_H

#include "audit/log.h"
#include "base/digest.h"
#include "recon/db.h"
#include "recon/spans.h"

enum count_what { /* the order of the columns in tables tally and load_tally */
                  COUNT_SEEN,
                  COUNT_APPLIED,
                  COUNT_SUPERSEDED,
                  COUNT_DELETED,
                  COUNT_EXPIRED,
                  COUNT_FILTERED,
                  COUNT_IN_RETRY,
                  COUNT_DEAD_LETTERED,
                  COUNT_DUPLICATE,
                  COUNT_DELAYED,
                  COUNT_ALTERED,
                  COUNT_LATE,
                  COUNT_UNDECLARED,
                  COUNT_REPEAT,
                  COUNT_BYTES,
                  COUNT_DIGESTED,
                  COUNT_PUBLISHED, /* the last, and only in tally */
                  COUNT_WHAT_COUNT
};

/* What whoever writes records could else make grow without bound, as none of it is checked by anybody: names of
 * producers, sequence numbers with gaps between them, ids of loads, event times. Beyond it records are counted all the
 * same, but not told apart by it; how many is told (count_limited). Tests lower it. */
enum count_limit { LIMIT_PRODUCERS, LIMIT_SEQUENCES, LIMIT_LOADS, LIMIT_WINDOWS, LIMIT_COUNT };
extern struct count_limits {
    size_t producers; /* each in each topic */
    size_t sequences; /* ranges of numbers of one of them */
    size_t loads;
    size_t windows; /* that begin more than recon.retention ago, or more than a day ahead */
} count_limits;
const char *count_limit_name(enum count_limit l); /* "producers" "sequences" "loads" "windows" */

struct count;

/* One partition of a topic, as this instance's log has it. Owned by struct count. */
struct count_partition {
    int64_t topic; /* number in the database */
    int32_t partition;
    int config;          /* index of the topic in the configuration; -1: it is not there any more */
    int64_t first, next; /* first offset ever logged (INT64_MAX: only refed ones), and the highest + 1 */
    uint32_t epoch;      /* of the last entry */
    uint64_t scan_sequence;
    struct spans range[DB_RANGE_COUNT];
    bool dirty;
};

struct count_result {
    struct count_partition *partition;
    int64_t start_ms; /* of the window */
    bool repeat;      /* the offset was counted before: nothing else was */
};

/* count_open reads what the database has. dir: folder for the table of ids (recon/ids.h). NULL with err. */
struct count *count_open(sqlite3 *db, const char *dir, const struct config *config, int64_t now_ms, struct err *err);
void count_close(struct count *c);

/* count_shared says whether the group has had other members: then a jump of offsets at a change of epoch is what others
 * have read. */
void count_shared(struct count *c, bool shared);

/* count_elsewhere takes offsets that were passed over and not looked at in Kafka yet for what others have read: it
 * turns out only now that there are, or were, others. */
void count_elsewhere(struct count *c);

/* count_entry counts one entry; a transaction is open. 0, or -1 with err: the transaction has to be given up, and the
 * object to be made anew. */
int count_entry(struct count *c, const struct log_item *item, struct count_result *out, struct err *err);

/* count_again fills *out for an entry that was counted before this process; partition NULL: it is not known. As
 * count_entry. */
int count_again(struct count *c, const struct log_item *item, struct count_result *out, struct err *err);

/* count_window_of is the window that a record counts in: that of its event time or, when that is far from now and there
 * are too many such already, that of when it was read. 0, or -1 with err. */
int count_window_of(struct count *c, int64_t topic, int64_t created_ms, int64_t read_ms, int64_t *start_ms,
                    struct err *err);

/* count_limited: how many records were not told apart, since count_open, because of a limit. */
int64_t count_limited(const struct count *c, enum count_limit l);

/* Whether a manifest may bring this load, this producer in a topic, this window: it is known, or becomes so now, or
 * there are too many. */
bool count_load_fits(struct count *c, const uint8_t load[16]);
bool count_producer_fits(struct count *c, int64_t topic, uint64_t producer);
bool count_window_fits(const struct count *c, int64_t topic, int64_t start_ms);

/* count_crowded: there is no room for another producer. */
bool count_crowded(const struct count *c);

/* count_forgot: rows were deleted, what is known of loads, windows and producers is read anew. After count_flush. 0, or
 * -1 with err. */
int count_forgot(struct count *c, struct err *err);

/* count_published counts a record that a scan of the topic has found; digest NULL: not an HMAC. As count_entry. */
int count_published(struct count *c, struct count_partition *p, int64_t start_ms, const uint8_t *digest,
                    struct err *err);

/* count_flush writes what has changed, with `sequence` as the next to be read. As count_entry. */
int count_flush(struct count *c, uint64_t sequence, int64_t now_ms, struct err *err);

/* count_find finds a partition, count_each the i-th; NULL: there is none. */
struct count_partition *count_find(struct count *c, int64_t topic, int32_t partition);
struct count_partition *count_each(struct count *c, size_t i);

/* count_sequences: what was logged of a producer's sequence in a topic; NULL nothing. */
const struct spans *count_sequences(struct count *c, int64_t topic, uint64_t producer);

/* count_learn: sequence numbers that another instance has logged. They count as seen, in count_sequences. Beyond the
 * limits they are not learned. */
void count_learn(struct count *c, int64_t topic, uint64_t producer, int64_t first, int64_t last);

/* count_retract takes an entry that was counted out of all counts, as it counts with another instance, and notes its
 * offset as retracted; an entry whose offset is noted so already changes nothing. count_retracted notes offsets. As
 * count_entry. */
int count_retract(struct count *c, struct count_partition *p, const struct log_item *item, struct err *err);
void count_retracted(struct count_partition *p, int64_t first, int64_t last);

/* count_topic: number of a configured topic in the database. */
int64_t count_topic(const struct count *c, uint32_t config_topic);

/* The window of an event time. */
static inline int64_t count_window(int64_t created_ms, int64_t window_ms) {
    int64_t rest = created_ms % window_ms;
    return created_ms - (rest < 0 ? rest + window_ms : rest);
}

/* A record to be listed (table record). Zeroed parts are unknown; partition -1: not known. */
struct count_found {
    enum db_record kind;
    int64_t topic, start_ms;
    int32_t partition;
    int64_t offset;
    uint64_t producer;
    int64_t sequence;
    const uint8_t *id, *load; /* 16 bytes; NULL none */
    uint64_t log_sequence, other;
    uint8_t outcome, reason;
    int64_t created_ms, noted_ms;
};
/* count_note lists it, unless it is listed already. */
int count_note(struct count *c, const struct count_found *f, struct err *err);

/* count_dirty asks for the window to be judged, making it when it is not there. */
int count_dirty(struct count *c, int64_t topic, int64_t start_ms, struct err *err);

#endif

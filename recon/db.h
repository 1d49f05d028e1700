/* recon's database, data_dir/recon/recon.db: SQLite in WAL mode. The recon process alone writes; commands read it while
 * it is being written (db_open_read).
 *
 * All that is derived from the audit log stands in it together with the sequence number the log was read up to
 * (meta `sequence`), and both change in one transaction: recon may be killed at any instant, and each entry is counted
 * once. The schema is the contract; numbers of states and kinds are the enums below.
 *
 *   meta          name -> value: `schema` DB_SCHEMA; `sequence` next log entry to be read; `read_us` when the batch of
 *                 the last one was written; `behind` 1 while the end of the log was not reached; `checked_ms` when the
 *                 windows were judged last; `window_ms` their length; `lost:TOPIC:PARTITION`
 *                 since when offsets are lost there (recon/cover.h); `instance` the name of this instance
 *   topic         topics by number. evidence, reconcile: as configured (enum config_evidence, config_reconcile)
 *   producer      hash (record_producer_hash) -> name, as manifests tell it
 *   instance      0 is this one; others are known by their accounts (recon/accounts.h)
 *   tally         counts of one partition in one window of event time. `seen` is every offset once: applied +
 *                 superseded + deleted + expired + filtered + in_retry + dead_lettered. duplicate, delayed, altered,
 *                 late, undeclared are attributes of some of them; `repeat` entries for offsets that were counted
 *                 before. bytes and digest_sum: of the published values of `digested` of them (those whose digest is an
 *                 HMAC). published, published_digest_sum: what the scan of the topic found
 *   origin        the same of one producer in one window: distinct sequence numbers only
 *   sequence      sequence numbers that were logged of a producer in a topic: [first, last], no two touching
 *   offset_range  ranges of offsets of a partition, [first, last]: enum db_range
 *   place         where this instance's log began in a partition, the next offset it expects and the epoch it had last;
 *                 scan_sequence: entries from this one on may be of offsets that were not scanned yet
 *   manifest      what a producer says it has published in a window
 *   load          loads, from their begin and end records; load_tally what was logged of each in each partition;
 *                 load_place where in each partition it begins, as its end says; load_begun when its begin was read
 *   window        the state of a topic's window, and what it rests on. published: by the evidence; -1 unknown
 *   window_change every change of state
 *   record        single records that an operator may ask for: enum db_record. At most DB_RECORDS_MAX of a kind are
 *                 kept of a partition's window; the counts are never cut
 *   exception     what somebody has to look at, and delivery: how far telling it has come (recon/exception.h) */
#ifndef MILLRACE_RECON_DB_H
#define MILLRACE_RECON_DB_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"

enum { DB_SCHEMA = 1, DB_RECORDS_MAX = 10000 };

enum db_window { WINDOW_PENDING, WINDOW_MATCHED, WINDOW_LATE, WINDOW_MISMATCH, WINDOW_STATE_COUNT };
enum db_range {
    DB_RANGE_LOGGED,
    DB_RANGE_SCANNED,   /* looked at in Kafka */
    DB_RANGE_ELSEWHERE, /* passed over at a change of epoch, while the group had other members */
    DB_RANGE_RETRACTED, /* logged here and counted by another instance, whose log has them as well */
    DB_RANGE_COUNT
};
enum db_load { LOAD_RUNNING, LOAD_COMPLETE, LOAD_ABORTED, LOAD_INCOMPLETE, LOAD_MATCHED, LOAD_STATE_COUNT };
enum db_record {
    FOUND_UNEXPLAINED, /* published and not in the log: known by producer and sequence, or by partition and offset */
    FOUND_IN_FLIGHT,   /* the same, and it may still come */
    FOUND_UNPUBLISHED, /* in the log, and the evidence does not know it */
    FOUND_REJECTED,
    FOUND_DUPLICATE, /* the same id at another offset before; `other` is the log sequence of that one, 0 unknown */
    FOUND_DELAYED,
    FOUND_ALTERED, /* its value is not what its producer declared, or what the topic holds now */
    FOUND_LATE,    /* came after its window had been closed */
    FOUND_KIND_COUNT
};

const char *db_window_name(enum db_window state); /* "pending" "matched" "late" "mismatch" */
const char *db_load_name(enum db_load state);     /* "running" "complete" "aborted" "incomplete" "matched" */
const char *db_record_name(enum db_record kind);  /* "unexplained" "in_flight" "unpublished" "rejected" … */

/* The schema, for whoever writes queries of his own. */
extern const char db_schema[];

/* db_path writes DATA_DIR/recon/recon.db for the instance of c. */
void db_path(const struct config *c, char out[PATH_BYTES + 32]);

/* db_open opens the database for writing, making folder and tables when they are not there. recon only. NULL with err:
 * EX_IOERR, EX_DATAERR another schema or damaged. The connection fails at once when it is locked. */
sqlite3 *db_open(const char *path, struct err *err);

/* db_open_read opens it read-only, for commands; waits up to 5 s for locks. NULL with err: EX_NOINPUT there is none
 * yet, EX_IOERR, EX_DATAERR. */
sqlite3 *db_open_read(const char *path, struct err *err);

/* db_prepare compiles one statement that is kept. 0, or -1 with err. */
int db_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **out, struct err *err);

/* db_run executes statements without results. 0, or -1 with err (code: SQLite's). */
int db_run(sqlite3 *db, const char *sql, struct err *err);

/* db_step steps s and resets it unless it has a row. 1 a row, 0 done, -1 with err. */
int db_step(sqlite3_stmt *s, struct err *err);

/* db_meta_get reads a number of `meta`; `none` when it is not there or cannot be read. */
int64_t db_meta_get(sqlite3 *db, const char *name, int64_t none);
int db_meta_set(sqlite3 *db, const char *name, int64_t value, struct err *err);

/* db_topic returns the number of the topic called name, giving it one when `make`. -1: there is none, or err. */
int64_t db_topic(sqlite3 *db, const char *name, bool make, struct err *err);

#endif

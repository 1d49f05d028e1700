/* The accounts of a group's instances: what each has logged, told to the others over recon.anchor_topic, so that every
 * one of them can answer for the whole group and none needs the others' disks.
 *
 * An account is that of one *log*: an instance and the id of its log (data_dir/audit/id, made with the first account).
 * An instance that comes back with an empty disk has a new log, and its old account stands as that of a log that is
 * gone: what was logged is known, the entries cannot be shown any more (exception evidence_lost names the offsets).
 *
 * Messages are JSON, keyed by instance, so those of one stay in order; each replaces or extends what was told before,
 * so reading them again changes nothing: tally, origin, load     one row of the table of that name, absolute offsets,
 * sequences      ranges of numbers, to be added to those known anchor                  a line of the audit log's
 * anchors, as it stands beat                    number: counts up; seen: of every other log the last beat that had come
 * before this log was read to its end and told; left: no more will come for now
 *
 * All messages of a log stand in the topic's first partition and are counted (order, microseconds by the clock of the
 * instance, or one more than the last): what is not newer than all that was taken of it before is a copy that somebody
 * has published again, and is left out.
 *
 * Beats are how one instance knows that the others have told it all: an answer to its beat n says that whatever they
 * had committed before they saw n has been accounted for.
 *
 * Two instances may both have logged a record (the first died before it could commit). It counts once: for the log
 * whose instance and id sort first, or that is gone; the other takes it out of its tallies again (count_retract). As
 * long as that is still to be done the accounts are not even, and no window is judged. */
#ifndef MILLRACE_RECON_ACCOUNTS_H
#define MILLRACE_RECON_ACCOUNTS_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/err.h"
#include "recon/count.h"
#include "shm/stats.h"

enum { ACCOUNT_MESSAGE_BYTES = 16384, ACCOUNT_BEAT_MS = 500, ACCOUNT_LOG_ID_BYTES = 33 };

struct account_message {
    int32_t partition;
    int64_t offset;
    size_t len;
    char text[ACCOUNT_MESSAGE_BYTES]; /* NUL-terminated */
};

/* Where messages go and come from. None of the calls waits. */
struct account_port {
    void *self;
    bool (*next)(void *self, struct account_message *out);       /* false: nothing yet */
    bool (*send)(void *self, const char *text, size_t len);      /* copies; false: no room just now */
    uint64_t (*unsent)(void *self);                              /* taken and not acknowledged by the brokers yet */
    bool (*lost)(void *self);                                    /* whether some will not be, since the last call */
    void (*rewind)(void *self);                                  /* back to the oldest, before seek says otherwise */
    void (*seek)(void *self, int32_t partition, int64_t offset); /* where to go on, before the first `next` */
};

struct accounts;

/* accounts_open makes its tables and begins to keep and to tell accounts; not in a transaction. key: AUDIT_KEY_ACCOUNT,
 * copied; the rest outlives it. NULL with err: EX_IOERR (the log's id cannot be read or made; the database). */
struct accounts *accounts_open(sqlite3 *db, struct count *count, const struct config *config,
                               const struct digest_key *key, const struct account_port *port,
                               const struct clock_port *clock, struct stats_local *stats, struct err *err);
void accounts_close(struct accounts *a);

/* accounts_step takes what the others have told and tells what is new here, a bounded amount of each. In a transaction.
 * Returns 1 when it got on with something, 0, or -1 with err: the transaction has to be given up, and count and this be
 * opened anew. */
int accounts_step(struct accounts *a, struct err *err);

/* accounts_log_end: the log has been read to its end, and what was read is in the database. */
void accounts_log_end(struct accounts *a);

/* accounts_ask returns the number of a beat that is still to be sent; accounts_answered whether every other instance
 * that is there has told all that it had committed before it saw that one. */
uint64_t accounts_ask(struct accounts *a);
bool accounts_answered(const struct accounts *a, uint64_t beat);

/* accounts_even: whether every record counts once. 1, 0, or -1 with err. */
int accounts_even(struct accounts *a, struct err *err);

/* accounts_leave has the last beat say that this instance leaves. accounts_told: everything, that beat included, is
 * with the brokers. */
void accounts_leave(struct accounts *a);
bool accounts_told(struct accounts *a);

/* Whether there are or were others in the group. */
bool accounts_shared(const struct accounts *a);

#endif

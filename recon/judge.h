/* Judges windows and loads: what the evidence says was published against what the log says became of it
 * (docs/reconciliation.md, "Windows").
 *
 * What is missing may still be on its way, so nothing is called unexplained before the group is *settled*: all that the
 * partitions of the topic held when the brokers were asked has been committed, and the log was read to its end after
 * that. Then whatever was published before is in the log, or nowhere. */
#ifndef MILLRACE_RECON_JUDGE_H
#define MILLRACE_RECON_JUDGE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "recon/accounts.h"
#include "recon/count.h"

struct judge;

struct judge_counts { /* over all windows in the database */
    int64_t windows[WINDOW_STATE_COUNT];
    int64_t unexplained;
};

/* judge_open: db, count and config outlive it. NULL with err. */
struct judge *judge_open(sqlite3 *db, struct count *count, const struct config *config, struct err *err);
void judge_close(struct judge *j);

/* judge_accounts: from now on nothing is settled before the group's other instances have told what they have logged.
 * accounts outlives j. */
void judge_accounts(struct judge *j, struct accounts *accounts);

/* judge_shared says that the group has or had other members. What is missing here may be in their logs: without their
 * accounts (recon.anchor_topic) nothing is called unexplained by its sequence number any more. */
void judge_shared(struct judge *j);

/* judge_lost: entries of records with event times in [from_ms, to_ms) were removed before they were counted: what is
 * missing in those windows may be among them. from_ms = to_ms: none were. */
void judge_lost(struct judge *j, int64_t from_ms, int64_t to_ms);

/* judge_ends takes what the brokers say of a partition: the next offset there will be, and the group's committed one
 * (-1 none), the latter asked after the former. topic: index in the configuration. */
void judge_ends(struct judge *j, uint32_t topic, int32_t partition, int64_t low, int64_t high, int64_t committed);

/* judge_round: all partitions have been asked since began_ms (wall clock). */
void judge_round(struct judge *j, int64_t began_ms);

/* judge_log_end: the log has been read to its end. In a transaction. 0, or -1 with err. */
int judge_log_end(struct judge *j, struct err *err);

/* judge_settled: the time up to which a topic is settled, 0 not yet. judge_committed: the committed offset of a
 * partition, as of the last whole round of questions; -1 none. */
int64_t judge_settled(const struct judge *j, uint32_t topic);
int64_t judge_committed(const struct judge *j, uint32_t topic, int32_t partition);

/* judge_windows judges the windows that have changed or are due, all of them when `all`, and the loads, at most
 * JUDGE_WINDOWS_MAX at a time. In a transaction. Returns how many (0 also while some records
 * count with two instances still), or -1 with err. */
enum { JUDGE_WINDOWS_MAX = 200 };
int judge_windows(struct judge *j, int64_t now_ms, bool all, struct err *err);

/* judge_total counts the windows. 0, or -1 with err. */
int judge_total(struct judge *j, struct judge_counts *out, struct err *err);

/* judge_forget removes windows that began before before_ms (now less recon.retention), or that begin as far in the
 * future, by a clock that is wrong, with all that belongs to them, once their state has not changed since before_ms
 * either: what is old and was judged just now is to be seen. 0, or -1 with err. */
int judge_forget(struct judge *j, int64_t before_ms, struct err *err);

#endif

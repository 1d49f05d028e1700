/* A topic read a second time, offset by offset, against what the log says of it: for topics with `evidence: scan` all
 * of it, with `evidence: offsets` only where the log has gaps (a transaction's marker leaves one, and so does a lost
 * record: only Kafka can tell).
 *
 * Digests of what was logged and not scanned yet are kept in memory, at most SCAN_ENTRIES; when they are full the log
 * is not read on until the scan has caught up. After a restart they come from the log again (scan_from). */
#ifndef MILLRACE_RECON_SCAN_H
#define MILLRACE_RECON_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "recon/count.h"
#include "recon/evidence.h"
#include "recon/judge.h"

enum { SCAN_ENTRIES = 1 << 18 };

struct scan;

/* scan_open: count and config outlive it. evidence may be NULL: then nothing is scanned. */
struct scan *scan_open(struct count *count, const struct config *config, const struct evidence_port *evidence);
void scan_close(struct scan *s);

/* scan_from: the log sequence to read from so that all that is to be scanned is in memory, at most `sequence`. */
uint64_t scan_from(const struct scan *s, uint64_t sequence);

/* scan_full: no entry can be taken. */
bool scan_full(const struct scan *s);

/* scan_logged takes an entry that was counted (or is read again after a start). Not when it is full. */
void scan_logged(struct scan *s, struct count_partition *p, int64_t start_ms, const struct log_item *item);

/* scan_take takes a message, a void or what is gone of a scan. In a transaction. 0, or -1 with err. */
int scan_take(struct scan *s, const struct evidence *e, int64_t now_ms, struct err *err);

/* scan_ask asks for what is to be scanned: call when the log was read to its end and every second. committed: whether
 * what the group has committed is in the log, if it ever will be (just after judge_log_end). shared: the group has
 * other members, so that what is committed may be in their logs. */
void scan_ask(struct scan *s, const struct judge *judge, bool shared, uint64_t now_ns);

/* scan_lost: how many records could not be looked at because Kafka does not keep them any more, since scan_open. */
uint64_t scan_lost(const struct scan *s);

#endif

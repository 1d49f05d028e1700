/* Records that two logs of the group have: read by one instance that could not commit them any more, and again by the
 * next. */
#ifndef MILLRACE_RECON_OVERLAP_H
#define MILLRACE_RECON_OVERLAP_H

#include <sqlite3.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "recon/count.h"

/* overlap_remove takes out of this log's tallies what the log `other` (table instance) has as well, and what was not
 * taken out before: found by the two logs' ranges of offsets, read again from the audit log here. In a transaction.
 * 0, or -1 with err. */
int overlap_remove(sqlite3 *db, struct count *count, const struct config *config, int64_t other, struct err *err);

/* overlap_open: whether some records count twice still, as two logs have them and neither has retracted them. Those of
 * two logs that are both gone cannot be told apart any more and are not asked for. 1, 0, or -1 with err. */
int overlap_open(sqlite3 *db, struct err *err);

#endif

/* What the audit log itself still tells of the keys that were found wrong: whether a value is that of an older record
 * of the key, whether an orphan's record was deleted, and the ids of records. Says nothing where the log has been
 * removed already. */
#ifndef MILLRACE_TOOLS_VERIFY_HISTORY_H
#define MILLRACE_TOOLS_VERIFY_HISTORY_H

#include "tools/verify.h"

/* verify_history looks at every candidate that is not right: few of them by the log's indexes, many by reading it once.
 * ALTERED becomes STALE where it is. 0, or -1 with err. */
int verify_history(struct verify *v, struct err *err);

#endif

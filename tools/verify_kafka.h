/* What verify asks Kafka for: the names of missing keys, and whether there are records that this log does not tell of.
 */
#ifndef MILLRACE_TOOLS_VERIFY_KAFKA_H
#define MILLRACE_TOOLS_VERIFY_KAFKA_H

#include "tools/verify_report.h"

enum { NAMES_MAX = 1000 }; /* keys whose records are read for their names */

/* verify_search looks for the rows that no key was met for: by their names, or by another walk where they have none.
 * What it comes by becomes a candidate. 0, or -1 with err. */
int verify_search(struct verify *v, struct verify_notes *notes, struct err *err);
int verify_any_unseen(struct verify *v, struct err *err); /* whether there are any: 1, 0, -1 with err */

/* verify_elsewhere turns findings into VERIFY_ELSEWHERE where this instance cannot know: its partition has gone on in
 * another instance's log (verify_others was called); orphans, where partitions of a topic whose keys look like them are
 * not in this log, or where the table does not go back to the beginning. */
void verify_elsewhere(struct verify *v, struct verify_notes *notes);

/* verify_begins_late: whether the log may begin behind what a partition had: audit was switched on later, or a log was
 * lost. Then keys without a row may be of records from before; notes names the partition. 1, 0 no, -1 with err. */
int verify_begins_late(struct verify *v, struct verify_notes *notes, struct err *err);

#endif

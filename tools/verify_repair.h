/* Putting right what verify has found: the records of wrong keys are read and written once more by the pipeline
 * (base/refeed_request.h), in order with what is published meanwhile; orphans are deleted when asked for. */
#ifndef MILLRACE_TOOLS_VERIFY_REPAIR_H
#define MILLRACE_TOOLS_VERIFY_REPAIR_H

#include "tools/verify_report.h"

/* verify_repair repairs and looks again. *repaired: keys that were wrong and are right now. The number of findings that
 * are left, or -1 with err (EX_UNAVAILABLE: the instance does not run, or does not answer). */
int64_t verify_repair(struct verify *v, struct verify_notes *notes, uint64_t *repaired, struct err *err);

#endif

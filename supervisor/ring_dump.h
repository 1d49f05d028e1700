/* Ring dump: rings that failed their checks, kept for `millrace ring` before they are made anew. They hold records, so
 * only the owner may read them. */
#ifndef MILLRACE_SUPERVISOR_RING_DUMP_H
#define MILLRACE_SUPERVISOR_RING_DUMP_H

#include "supervisor/plumbing.h"

enum { RING_DUMPS_MAX = 10 };

/* ring_dump saves the three rings of a lane (-1: of all lanes) to data_dir/rings/MILLISECONDS, under the names that
 * `millrace ring` gives them. No worker is attached. What cannot be saved is logged, and so is when RING_DUMPS_MAX are
 * there already: whoever has looked at one removes it. */
void ring_dump(const struct plumbing *p, int lane);

#endif

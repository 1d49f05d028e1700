/* What a complete load of all keys does for partitions of the instance on this machine that wait because Kafka has lost
 * offsets: they go on, and the load is on record as what makes up for the loss. */
#ifndef MILLRACE_TOOLS_LOAD_COVER_H
#define MILLRACE_TOOLS_LOAD_COVER_H

#include "base/config.h"
#include "feed/load.h"

struct load_cover {
    uint32_t made_up, waiting; /* partitions that go on; that were lost and still wait */
};

/* load_cover asks the instance of c, and waits for what becomes of it; some seconds for each partition that waits.
 * Tells what still waits, and why, on standard error. */
struct load_cover load_cover(const struct config *c, const struct load_result *r);

#endif

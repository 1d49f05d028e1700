/* Ids of records and loads: UUIDs of version 7 (RFC 9562), which sort by the time they were made. */
#ifndef MILLRACE_FEED_UUID7_H
#define MILLRACE_FEED_UUID7_H

#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

enum { UUID7_POOL_BYTES = 4000 }; /* random bytes fetched at a time: 10 for each id */

struct uuid7 { /* one thread's; zero it but for the clock */
    const struct clock_port *clock;
    size_t left;
    uint8_t pool[UUID7_POOL_BYTES];
};

/* uuid7_make writes an id: wall_ms (of the 48 bits that have room), then 74 random bits. Cannot fail. */
void uuid7_make(struct uuid7 *u, int64_t wall_ms, uint8_t out[16]);

#endif

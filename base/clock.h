/* The two ports every worker body needs: time and random numbers. The real ones are here; a simulator brings its own.
 */
#ifndef MILLRACE_BASE_CLOCK_H
#define MILLRACE_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

struct clock_port {
    uint64_t (*monotonic_ns)(void *context); /* CLOCK_MONOTONIC: intervals, heartbeats */
    int64_t (*wall_ms)(void *context);       /* CLOCK_REALTIME: expiry, latency against Kafka timestamps */
    uint64_t (*boottime_ns)(void *context);  /* CLOCK_BOOTTIME: leases, which run out while suspended too */
    void (*random)(void *context, void *out, size_t len); /* unpredictable bytes; cannot fail */
    void *context;
};

/* The machine's clocks and getrandom(2). */
extern const struct clock_port clock_real;

static inline uint64_t clock_ns(const struct clock_port *c) { return c->monotonic_ns(c->context); }
static inline uint64_t clock_boot_ns(const struct clock_port *c) { return c->boottime_ns(c->context); }
static inline int64_t clock_wall_ms(const struct clock_port *c) { return c->wall_ms(c->context); }

#define NS_PER_MS 1000000ULL
#define NS_PER_S 1000000000ULL

#endif

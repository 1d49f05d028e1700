#include "base/log.h"
#include "ingest/ingest.h"

/* The lease ends this much before the group may give our partitions to others; for a short session half of it does. */
enum { LEASE_MARGIN_MS = 2000 };

static bool fixed_list(const struct ingest *g) { return g->config->topic[0].partition_count > 0; }

static uint64_t lease_ns(const struct ingest *g) {
    uint64_t session_ms = g->config->kafka.session_timeout_ms;
    return (session_ms > 2 * LEASE_MARGIN_MS ? session_ms - LEASE_MARGIN_MS : session_ms / 2) * NS_PER_MS;
}

static uint64_t lease_now(const struct ingest *g) {
    return atomic_load_explicit(&g->ledger->lease_until_ns, memory_order_relaxed);
}

static void lease_store(struct ingest *g, uint64_t until_ns) {
    atomic_store_explicit(&g->ledger->lease_until_ns, until_ns, memory_order_release);
}

void lease_init(struct ingest *g) {
    if (fixed_list(g))
        lease_store(g, UINT64_MAX);
    else if (lease_now(g) == UINT64_MAX) /* the configuration had a fixed list before */
        lease_store(g, 0);
}

void lease_extend(struct ingest *g, uint64_t confirmed_ns) {
    if (fixed_list(g) || confirmed_ns < g->lease_from_ns) return;
    if (confirmed_ns + lease_ns(g) > lease_now(g)) lease_store(g, confirmed_ns + lease_ns(g));
}

void lease_begin(struct ingest *g) { g->lease_from_ns = clock_boot_ns(g->clock); }

void lease_end(struct ingest *g, const char *why) {
    if (fixed_list(g)) return;
    g->lease_from_ns = UINT64_MAX;
    if (lease_now(g) == 0) return;
    lease_store(g, 0);
    log_info("ingest.lease_end", "%s: nothing more is written", why);
}

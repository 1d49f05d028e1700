#include "sink/lost.h"

static uint64_t counted(const struct ledger_sink_slot *s) {
    uint64_t next, n;
    twin_load(&s->refed, &next, &n);
    return n;
}

bool lost_stands(const struct ledger_sink_slot *s, uint32_t epoch) {
    uint64_t noted, what;
    twin_load(&s->lost, &noted, &what);
    return noted != 0 && noted == epoch;
}

/* From where on what is written again counts. What Redis still has does not, though ingest may go back further (to a
 * reject that is not durable, say); what an earlier loss took and nobody has counted yet does. */
static uint64_t counts_from(const struct ledger_sink_slot *s, uint64_t what, bool open) {
    uint64_t from = (what & (LEDGER_LOST_ALL | LEDGER_LOST_OTHER)) != 0 ? 0 : what, counted_to, n;
    twin_load(&s->refed, &counted_to, &n);
    return open && counted_to < from ? counted_to : from;
}

/* The note itself comes last: a successor of a sink that dies before it comes to the same verdict. */
bool lost_note(struct ledger_sink_slot *s, uint32_t epoch, uint64_t what, int64_t had) {
    if (lost_stands(s, epoch)) return false;
    uint64_t before = atomic_load_explicit(&s->lost_next, memory_order_relaxed), n = counted(s);
    uint64_t from = counts_from(s, what, before != 0);
    if (before == 0) atomic_store_explicit(&s->lost_before, n, memory_order_relaxed);
    if ((uint64_t)had > before) atomic_store_explicit(&s->lost_next, (uint64_t)had, memory_order_release);
    twin_store(&s->refed, from, n);
    twin_store(&s->lost, epoch, what);
    return true;
}

void lost_answered(struct ledger_sink_slot *s) {
    uint64_t epoch, what;
    twin_load(&s->lost, &epoch, &what);
    if (epoch != 0) twin_store(&s->lost, 0, 0);
}

bool lost_refeeds(const struct ledger_sink_slot *s, int64_t next) {
    uint64_t from, n;
    if ((uint64_t)next > atomic_load_explicit(&s->lost_next, memory_order_relaxed)) return false;
    twin_load(&s->refed, &from, &n);
    return (uint64_t)next > from;
}

void lost_count(struct ledger_sink_slot *s, int64_t next, uint64_t n) {
    twin_store(&s->refed, (uint64_t)next, counted(s) + n);
}

bool lost_passed(struct ledger_sink_slot *s, int64_t next, uint64_t *n) {
    uint64_t end = atomic_load_explicit(&s->lost_next, memory_order_relaxed);
    if (end == 0 || (uint64_t)next < end) return false;
    *n = counted(s) - atomic_load_explicit(&s->lost_before, memory_order_relaxed);
    atomic_store_explicit(&s->lost_next, 0, memory_order_release);
    return true;
}

uint64_t lost_total(const struct ledger_sink *ledger) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < PARTITIONS_MAX; i++) sum += counted(&ledger->slot[i]);
    return sum;
}

#include "base/log.h"
#include "ingest/ingest.h"

/* In an order in which no death leaves a range that was never found: what is not a range (to not above from) is none.
 */
void loss_store(struct ingest *g, uint32_t slot, int64_t from, int64_t to) {
    struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    if (to == 0) atomic_store_explicit(&s->lost_to, 0, memory_order_release);
    atomic_store_explicit(&s->lost_from, from, memory_order_release);
    if (to != 0) atomic_store_explicit(&s->lost_to, to, memory_order_release);
}

/* Lost: what the ledger keeps of writes that Redis has lost, per partition, from the moment a mark shows it until all
 * of them are written again.
 *
 * The note `lost` is ingest's to read: it raises the epoch and reads again. Until then it stands, whatever the mark
 * says meanwhile, for the mark may have been overwritten by what was under way. What is written again below `lost_next`
 * is counted once, also when the sink dies or the connection drops in the middle: `refed` says up to which offset, and
 * is stored before the records are released. One writer, the lane's sink; everything survives its death. */
#ifndef MILLRACE_SINK_LOST_H
#define MILLRACE_SINK_LOST_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/ledger.h"

/* lost_note notes that in `epoch` a mark was found that says `what` (see struct ledger_sink_slot), where Redis had
 * acknowledged everything before `had`. Before anything more of the lane is released. A loss found while an earlier one
 * is being mended: the writes that were lost twice will be counted twice. False: this epoch's loss was noted already,
 * and nothing changes. */
bool lost_note(struct ledger_sink_slot *s, uint32_t epoch, uint64_t what, int64_t had);

/* lost_stands: a loss was noted in this epoch, and ingest has not raised it yet. */
bool lost_stands(const struct ledger_sink_slot *s, uint32_t epoch);

/* lost_open: a loss was noted and what was lost is not all there again. */
static inline bool lost_open(const struct ledger_sink_slot *s) {
    return atomic_load_explicit(&s->lost_next, memory_order_relaxed) != 0;
}

/* lost_answered: an epoch after the note has been established, so the note has done its work. */
void lost_answered(struct ledger_sink_slot *s);

/* lost_refeeds: whether the record whose next offset is `next` is a lost write that is written again and not counted
 * yet. */
bool lost_refeeds(const struct ledger_sink_slot *s, int64_t next);

/* lost_count counts n of them, all before `next`, which is about to be released. */
void lost_count(struct ledger_sink_slot *s, int64_t next, uint64_t n);

/* lost_passed closes the loss when everything that was lost is there again: `next` is released. Then true, and *n is
 * how many writes were written again. */
bool lost_passed(struct ledger_sink_slot *s, int64_t next, uint64_t *n);

/* lost_total: how many lost writes were written again since the ledger was made, in all partitions of the lane. */
uint64_t lost_total(const struct ledger_sink *ledger);

#endif

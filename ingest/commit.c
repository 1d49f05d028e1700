#include "base/fault.h"
#include "base/log.h"
#include "ingest/ingest.h"

enum { COMMIT_MS = 1000, FIRST_MS = 100, ANSWER_MS = 10000 };

int64_t commit_applied(const struct ingest *g, uint32_t slot) {
    const struct partition *p = &g->partition[slot];
    uint64_t epoch, next;
    twin_load(&g->lane[p->lane].sink->slot[slot].released, &epoch, &next);
    return epoch == p->epoch && epoch != 0 ? (int64_t)next : -1;
}

/* Audit may know of a record before the sink has noted it in its own region, hence the lesser of both. Until audit has
 * logged the first of this epoch, the epoch's start: all before that is done, here or elsewhere (a rewind waits for
 * commit_logged). */
int64_t commit_released(const struct ingest *g, uint32_t slot) {
    int64_t applied = commit_applied(g, slot);
    uint64_t epoch, next;
    if (g->audited == NULL || applied < 0) return applied;
    twin_load(&g->audited->slot[slot].released, &epoch, &next);
    int64_t logged = epoch == g->partition[slot].epoch
                         ? (int64_t)next
                         : atomic_load_explicit(&g->ledger->slot[slot].start, memory_order_relaxed);
    return logged < applied ? logged : applied;
}

bool commit_lost_found(const struct ingest *g, uint32_t slot, uint64_t *what) {
    const struct partition *p = &g->partition[slot];
    uint64_t epoch;
    twin_load(&g->lane[p->lane].sink->slot[slot].lost, &epoch, what);
    return p->epoch != 0 && epoch == p->epoch;
}

int64_t commit_crashed(const struct ingest *g, uint32_t slot, int64_t *ms, bool *waits) {
    const struct partition *p = &g->partition[slot];
    const struct ledger_sink_slot *s = &g->lane[p->lane].sink->slot[slot];
    uint64_t epoch, offset;
    twin_load(&s->crashed, &epoch, &offset);
    *ms = atomic_load_explicit(&s->crashed_ms, memory_order_acquire);
    *waits = epoch != 0 && epoch == p->epoch;
    return epoch != 0 ? (int64_t)offset : -1;
}

static uint32_t slot_of(const struct ingest *g, const struct kafka_partition *at) {
    for (uint32_t i = 0; i < g->partition_count; i++)
        if (g->partition[i].topic == at->topic && g->partition[i].partition == at->partition) return i;
    return UINT32_MAX;
}

/* A reject that is not durable yet holds its partition's commit back: cap[slot] becomes its offset. One of an earlier
 * epoch does not: the record was read again since, or somebody else has dealt with it. Nor does one that was refed: it
 * was dealt with when the partition came to it. `released` was read before the rings are looked at, and transform
 * publishes a reject before the marker that the sink releases: so the rings hold all rejects that matter. */
static void hold_back(struct ingest *g, int64_t cap[PARTITIONS_MAX]) {
    struct ring_item item;
    struct record_view r;
    struct err err;
    for (uint32_t lane = 0; lane < g->config->lanes; lane++) {
        struct ring_consumer *c = &g->lane[lane].rejects;
        enum ring_state s;
        while ((s = ring_peek(c, &item, &err)) == RING_OK && keep_open(g, lane, &item, &r)) {
            if (r.head.epoch != g->partition[r.head.slot].epoch || (r.head.flags & RECORD_REFED) != 0) continue;
            if (r.head.offset < cap[r.head.slot]) cap[r.head.slot] = r.head.offset;
        }
        if (s == RING_BROKEN) keep_broken(g, lane, err.text);
        ring_rewind(c);
    }
}

int64_t commit_cap(struct ingest *g, uint32_t slot) {
    static int64_t cap[PARTITIONS_MAX];
    for (uint32_t i = 0; i < g->partition_count; i++) cap[i] = INT64_MAX;
    hold_back(g, cap);
    return g->broken ? -1 : cap[slot];
}

/* What may be committed now, -1 nothing. Where nothing is released yet in this epoch: after a rewind the offset it went
 * back to; else what the broker has already, for each commit also confirms the lease. A first start at the latest
 * offset is committed as soon as it is decided: were it forgotten, the next start would begin at another latest offset
 * and leave out what came between. So are lost offsets, which would be forgotten with this machine. */
static int64_t commit_target(const struct ingest *g, uint32_t slot) {
    const struct partition *p = &g->partition[slot];
    const struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    if (!p->assigned) return -1;
    int64_t released = commit_released(g, slot), start = atomic_load_explicit(&s->start, memory_order_relaxed);
    uint32_t flags = atomic_load_explicit(&s->flags, memory_order_relaxed);
    uint64_t what;
    bool found = commit_lost_found(g, slot, &what); /* some of it is not there, nor perhaps of what came before start */
    if (released >= 0 && !found) return released;
    if ((flags & (LEDGER_REWOUND | LEDGER_REFEED)) != 0 && (!found || p->committed >= start)) return start;
    if (p->committed >= 0) return p->committed;
    bool latest = (flags & LEDGER_FIRST_START) != 0 && g->config->start == START_LATEST;
    return latest || loss_stands(g, slot) ? start : -1;
}

/* What is to be said beside it. */
static struct note commit_note(const struct ingest *g, uint32_t slot) {
    const struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    uint32_t flags = atomic_load_explicit(&s->flags, memory_order_relaxed);
    bool marked = commit_released(g, slot) >= 0;
    bool rewound = (flags & LEDGER_REWOUND) != 0 && (flags & LEDGER_ACCEPTED) == 0;
    bool known = marked || rewound || (flags & LEDGER_MARKED) != 0; /* Redis had a mark, or what it lost is mended */
    struct note note = {.origin = atomic_load_explicit(&s->origin, memory_order_relaxed),
                        .first = !marked && (flags & LEDGER_FIRST_START) != 0,
                        .rewound = !marked && (flags & LEDGER_REWOUND) != 0,
                        .accepted = !marked && (flags & LEDGER_ACCEPTED) != 0,
                        .run = known ? g->worker->control->run : 0,
                        .by = g->partition[slot].by};
    if (!loss_stands(g, slot)) return note;
    note.lost_from = atomic_load_explicit(&s->lost_from, memory_order_relaxed);
    note.lost_to = atomic_load_explicit(&s->lost_to, memory_order_relaxed);
    return note;
}

/* Fills commit_list with all that may be committed, what the broker has already too: it confirms that this instance is
 * still a member. */
static uint32_t collect(struct ingest *g) {
    static int64_t next[PARTITIONS_MAX], cap[PARTITIONS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->partition_count; i++) {
        next[i] = commit_target(g, i);
        cap[i] = INT64_MAX;
    }
    hold_back(g, cap);
    if (g->broken) return 0; /* nobody knows what else it held */
    for (uint32_t i = 0; i < g->partition_count; i++) {
        const struct partition *p = &g->partition[i];
        int64_t offset = next[i] < cap[i] ? next[i] : cap[i];
        if (offset >= 0)
            g->commit_list[n++] = (struct kafka_partition){p->topic, p->partition, offset, commit_note(g, i)};
    }
    return n;
}

void commit_step(struct ingest *g, bool at_once) {
    uint64_t now = clock_ns(g->clock);
    if (g->committing && now - g->commit_sent_ns > ANSWER_MS * NS_PER_MS) g->committing = false; /* no answer: again */
    if (g->committing || g->membership == MEMBER_WAITING || g->membership == MEMBER_ASSIGNING) return;
    if (g->kafka.lost(g->kafka.self)) return; /* the event is on its way; the group might take us for a newcomer */
    if (!at_once && now < g->commit_due_ns) return;
    g->commit_due_ns = now + (g->confirmed ? COMMIT_MS : FIRST_MS) * NS_PER_MS;
    uint32_t n = collect(g);
    if (n == 0) return;
    for (uint32_t i = 0; i < n; i++) /* noted before the call: after a crash, either value may be the broker's */
        atomic_store_explicit(&g->ledger->slot[slot_of(g, &g->commit_list[i])].intent, g->commit_list[i].offset,
                              memory_order_release);
    struct err err = {0};
    FAULT("ingest:commit_intent");
    if (g->kafka.commit(g->kafka.self, g->commit_list, n, clock_boot_ns(g->clock), &err) == 0) {
        g->committing = true;
        g->commit_sent_ns = now;
        return;
    }
    stats_add(g->stats, M_ingest_commit_fail, 1);
    log_warn("ingest.commit_failed", "%s", err.text);
}

void commit_result(struct ingest *g, const struct kafka_event *e) {
    g->committing = false;
    g->confirmed = true;
    stats_add(g->stats, e->ok ? M_ingest_commit : M_ingest_commit_fail, 1);
    if (!e->ok) log_warn("ingest.commit_failed", "%s; trying again", e->text);
    if (e->expelled)
        lease_end(g, e->text);
    else if (e->count > 0 && !g->kafka.lost(g->kafka.self))
        lease_extend(g, e->tag);
    FAULT("ingest:commit_answer");
    for (uint32_t i = 0; i < e->count; i++) {
        uint32_t slot = slot_of(g, &e->list[i]);
        if (slot == UINT32_MAX || e->list[i].offset < 0) continue;
        g->partition[slot].committed = e->list[i].offset;
        g->partition[slot].noted = e->list[i].note;
        atomic_store_explicit(&g->ledger->slot[slot].committed, e->list[i].offset, memory_order_release);
    }
}

bool commit_settled(const struct ingest *g) {
    if (g->committing) return false;
    for (uint32_t i = 0; i < g->partition_count; i++) {
        int64_t next = commit_target(g, i);
        struct note note = commit_note(g, i);
        if (next >= 0 && (next != g->partition[i].committed || !note_same(&note, &g->partition[i].noted))) return false;
    }
    return true;
}

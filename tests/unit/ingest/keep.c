/* Keep: from the rejects rings to the store; released only when durable, stored once.
 *
 * The store's source is part of this program, so that the disk can be made to fail. */
#include "tests/unit/ingest/help.h"

static struct {
    struct bench *b; /* whose rings are looked at when a sync is called */
    uint64_t released_at_sync;
    int syncs, sync_fails; /* so many fail from now on */
} disk;

static int disk_fdatasync(int fd) {
    struct ring_snapshot s;
    struct err err;
    disk.syncs++;
    if (disk.b != NULL && ring_observe(&disk.b->rejects[0], &s, &err) == RING_ATTACHED)
        disk.released_at_sync = s.released;
    if (disk.sync_fails > 0 && disk.sync_fails--) return errno = EIO, -1;
    return fdatasync(fd);
}

#define fdatasync disk_fdatasync
#include "ingest/rejects.c"
#undef fdatasync

enum { RING = 65536 };

static struct bench *bench_with(uint32_t lanes) {
    struct bench *b = bench_reading(lanes, RING, (int)lanes, 50);
    settle(b);
    return b;
}

/* n rejects of a lane, of records 1000, 1001, … */
static void rejects(struct bench *b, uint32_t lane, int n, uint32_t value_bytes) {
    static int64_t next_offset[LANES_MAX];
    struct record r = {.topic = 1, .slot = (uint16_t)lane, .partition = (int32_t)lane, .epoch = 1, .timestamp_ms = 5};
    for (int i = 0; i < n; i++) {
        r.offset = 1000 + next_offset[lane]++;
        r.id[0] = (uint8_t)i;
        reject(b, lane, &r, value_bytes);
    }
}

static uint64_t released(struct bench *b, uint32_t lane) {
    struct ring_snapshot s;
    struct err err;
    cr_assert_eq(ring_observe(&b->rejects[lane], &s, &err), RING_ATTACHED);
    return s.released;
}

Test(keep, stores_every_reject_of_every_lane_as_it_came) {
    struct bench *b = bench_with(2);
    rejects(b, 0, 7, 100);
    rejects(b, 1, 5, 0);
    settle(b);
    cr_assert_eq(released(b, 0), 7);
    cr_assert_eq(released(b, 1), 5);
    struct kept *k = kept_read(b->folder);
    cr_assert_eq(k->count, 12);
    uint64_t next[2] = {1, 1};
    for (uint32_t i = 0; i < k->count; i++) {
        const struct rejects_entry *e = &k->head[i];
        cr_assert_eq(e->number, next[e->lane]++);
        cr_assert_eq(e->incarnation, rejects_incarnation(e->lane));
        cr_assert_eq(e->offset, 999 + (int64_t)e->number);
        cr_assert_eq(e->reason, REASON_JSON_INVALID);
        cr_assert_eq(e->value_bytes, e->lane == 0 ? 100 : 0);
        cr_assert_eq(e->partition, (int32_t)e->lane);
    }
    cr_assert_eq(counted(b, M_ingest_reject_stored), 12);
    bench_drop(b);
}

Test(keep, releases_nothing_that_did_not_fit_and_keeps_it_later) {
    struct bench *b = bench_with(1);
    b->g->store.max_bytes = 1000; /* room for a few */
    rejects(b, 0, 20, 100);
    settle(b);
    uint64_t kept = released(b, 0);
    cr_assert(kept > 0 && kept < 20, "%d", (int)kept);
    cr_assert_eq(kept_read(b->folder)->count, kept);
    cr_assert_leq(kept_read(b->folder)->total_bytes, 1000);
    cr_assert_str_eq(reason_shown(b), "rejects full");
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_BLOCKED);
    b->g->store.max_bytes = 1 << 20;
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(released(b, 0), 20);
    cr_assert_eq(kept_read(b->folder)->count, 20);
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_RUNNING);
    bench_drop(b);
}

Test(keep, goes_on_by_itself_when_an_operator_has_made_room) {
    struct bench *b = bench_with(1);
    b->g->store.max_bytes = 1000;
    rejects(b, 0, 20, 100);
    settle(b);
    uint64_t before = released(b, 0);
    char path[128];
    snprintf(path, sizeof path, "%s/rejects/00000001.rejects", b->folder);
    cr_assert_eq(unlink(path), 0); /* exported and removed, as the message asks for */
    for (int s = 0; s < 3; s++) {
        pass_ms(b, 1000);
        settle(b);
    }
    uint64_t after = released(b, 0);
    cr_assert_gt(after, before, "it stays blocked although there is room");
    cr_assert_eq(kept_read(b->folder)->count, after - before, "what was released is in no file");
    bench_drop(b);
}

Test(keep, does_not_store_again_what_a_predecessor_stored_and_did_not_release) {
    struct bench *b = bench_with(1);
    rejects(b, 0, 5, 50);
    struct ring_item item;
    struct record_view r;
    struct err err;
    for (int i = 0; i < 3; i++) { /* stored, synced, and then it dies */
        cr_assert_eq(ring_peek(&b->g->lane[0].rejects, &item, &err), RING_OK);
        cr_assert_eq(record_open(item.body, item.len, &r), 0);
        cr_assert_eq(rejects_store_append(&b->g->store, 0, item.number, &r, "change", &err), REJECTS_STORED);
    }
    cr_assert_eq(rejects_store_sync(&b->g->store, &err), 0);
    ingest_dies(b);
    ingest_starts(b);
    settle(b);
    cr_assert_eq(released(b, 0), 5);
    struct kept *k = kept_read(b->folder);
    cr_assert_eq(k->count, 5);
    for (uint32_t i = 0; i < 5; i++) cr_assert_eq(k->head[i].number, i + 1);
    cr_assert_eq(counted(b, M_ingest_reject_repeat), 3);
    cr_assert_eq(counted(b, M_ingest_reject_stored), 2);
    bench_drop(b);
}

Test(keep, works_before_there_is_an_assignment) {
    struct bench *b = bench_with(1);
    rejects(b, 0, 5, 50);
    ingest_dies(b);
    ingest_starts(b); /* the broker is away */
    settle(b);
    cr_assert_eq(released(b, 0), 5);
    bench_drop(b);
}

Test(keep, takes_more_than_a_burst) {
    struct bench *b = bench_with(1);
    for (int i = 0; i < 5; i++) {
        rejects(b, 0, 150, 10);
        settle(b);
    }
    cr_assert_eq(kept_read(b->folder)->count, 750);
    bench_drop(b);
}

Test(keep, releases_only_after_the_sync) {
    struct bench *b = bench_with(1);
    rejects(b, 0, 5, 50);
    disk.b = b;
    disk.released_at_sync = 77;
    settle(b);
    cr_assert_eq(disk.syncs, 1, "one for all that was there");
    cr_assert_eq(disk.released_at_sync, 0);
    cr_assert_eq(released(b, 0), 5);
    bench_drop(b);
}

Test(keep, releases_nothing_when_the_sync_fails_and_stores_all_of_it_again) {
    struct bench *b = bench_with(1);
    rejects(b, 0, 5, 50);
    disk.sync_fails = 3;
    for (int s = 0; s < 3; s++) {
        cr_assert_eq(settle(b), STEP_BLOCKED);
        cr_assert_eq(released(b, 0), 0);
        cr_assert_str_eq(reason_shown(b), "rejects cannot be stored");
        pass_ms(b, 1000);
    }
    cr_assert_eq(counted(b, M_ingest_reject_store_fail), 3);
    settle(b);
    cr_assert_eq(released(b, 0), 5);
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_RUNNING);
    struct kept *k = kept_read(b->folder);
    bool there[6] = {false};
    for (uint32_t i = 0; i < k->count; i++) there[k->head[i].number] = true;
    for (int i = 1; i <= 5; i++) cr_assert(there[i]);
    bench_drop(b);
}

Test(keep, does_not_press_a_disk_that_fails) {
    struct bench *b = bench_with(1);
    rejects(b, 0, 5, 50);
    disk.sync_fails = 1000;
    for (int i = 0; i < 100; i++) step(b);
    cr_assert_eq(disk.syncs, 1);
    bench_drop(b);
}

Test(keep, lets_no_marker_pass_before_the_oversize_record_is_durable) {
    struct bench *b = bench_make(1, RING);
    sim_put(sim_partition_add(&b->kafka, 0, 0), 0, RING, 3);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    disk.sync_fails = 2;
    for (int s = 0; s < 2; s++) {
        cr_assert_eq(settle(b), STEP_BLOCKED);
        expect_nothing(b, 0);
        pass_ms(b, 1000);
    }
    settle(b);
    cr_assert_eq(expect_record(b, 0, 0, 0, 0).head.op, RECORD_REJECT);
    cr_assert_eq(disk.syncs, 3);
    bench_drop(b);
}

/* -- broken rings ------------------------------------------------------------------------------ */

/* Overwrites part of the first thing on a lane's rejects ring. */
static void damage(struct bench *b, size_t at, uint64_t value, size_t bytes) {
    off_t place = (off_t)(ring_control_bytes(1) + at);
    cr_assert_eq(pwrite(b->rejects[0].producer, &value, bytes, place), (ssize_t)bytes);
}

static void broken(size_t at, uint64_t value, size_t bytes) {
    struct bench *b = bench_with(1);
    apply_all(b);
    rejects(b, 0, 3, 100);
    damage(b, at, value, bytes);
    int64_t before = b->kafka.partition[0].committed;
    mode_set(b, CONTROL_LEAVE); /* not even then is anything committed: nobody knows what the ring has held */
    pass_ms(b, 2000);
    cr_assert_eq(step(b), STEP_BROKEN);
    cr_assert_eq(step(b), STEP_BROKEN);
    cr_assert_eq(released(b, 0), 0);
    cr_assert_eq(kept_read(b->folder)->count, 0);
    cr_assert_eq(b->kafka.partition[0].committed, before);
    char reason[STATS_TEXT_BYTES];
    stats_text_get(&b->worker.block->reason, reason);
    cr_assert_not_null(strstr(reason, "rejects ring of lane 0"), "%s", reason);
    bench_drop(b);
}

Test(keep, leaves_at_a_number_that_does_not_follow) { broken(8, 77, 8); }
Test(keep, leaves_at_a_length_beyond_the_ring) { broken(0, UINT32_MAX, 4); }
Test(keep, leaves_at_what_is_no_record) { broken(RING_HEADER_BYTES, UINT64_MAX, 8); }
Test(keep, leaves_at_a_record_of_no_topic) {
    broken(RING_HEADER_BYTES + offsetof(struct record, topic), UINT16_MAX, sizeof(uint16_t));
}
Test(keep, leaves_at_a_record_of_no_partition) {
    broken(RING_HEADER_BYTES + offsetof(struct record, slot), UINT16_MAX, sizeof(uint16_t));
}

/* While nothing can be stored nobody looks at the ring, but a rewind does: what it must not go behind is in there. */
Test(keep, broken_ring_that_a_rewind_finds_is_no_loss_of_offsets) {
    struct bench *b = bench_with(1);
    apply_all(b);
    rejects(b, 0, 1, 100);
    b->g->store.max_bytes = 1;
    settle(b);
    cr_assert(b->g->rejects_blocked);
    damage(b, 8, 77, 8);
    twin_store(&b->sink[0]->slot[0].lost, 1, 7);
    step(b);
    cr_assert(b->g->broken);
    cr_assert(b->ledger->slot[0].lost_to == b->ledger->slot[0].lost_from && epoch_of(b, 0, 0) == 1);
    cr_assert_eq(step(b), STEP_BROKEN);
    bench_drop(b);
}

/* The intake without Redis: the rig gives the ring and the ledger, and its sink is never stepped. */
#include "tests/unit/sink/rig.h"

static struct rig rig;
static struct intake *in;

static void start(void) {
    rig_init(&rig, NULL, 3);
    in = &rig.sink.line.intake;
    for (uint32_t i = 0; i < 2; i++) rig.sink.line.marks.slot[i].checked_epoch = 1; /* the marks of 0 and 1 are good */
}
static void stop(void) { rig_crash(&rig); }

TestSuite(intake, .init = start, .fini = stop);

static uint32_t fill(uint64_t reject) {
    ring_publish(&rig.producer);
    return intake_fill(in, reject, 5);
}

Test(intake, each_record_gets_the_kind_of_command_it_needs) {
    rig_add(&rig, 0, "k", "v");
    rig_put(&rig, .op = RECORD_UPDATE, .partition = 0, .key = "k", .value = "v");
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "k", .value = "v", .expire_at_ms = 9);
    rig_put(&rig, .op = RECORD_UPDATE, .partition = 0, .key = "k", .old_key = "o", .value = "v", .expire_at_ms = 9);
    rig_put(&rig, .op = RECORD_DELETE, .partition = 0, .key = "k");
    rig_put(&rig, .op = RECORD_SKIP, .partition = 0);
    rig_put(&rig, .op = RECORD_REJECT, .partition = 0);
    rig_hash(&rig, 0, "k", "a=1", .old_key = "o", .expire_at_ms = 9);
    cr_assert_eq(fill(0), 8);
    static const enum item_kind kinds[] = {ITEM_PLAIN,  ITEM_PLAIN,  ITEM_TIMED,  ITEM_MOVE,
                                           ITEM_DELETE, ITEM_MARKER, ITEM_MARKER, ITEM_HASH};
    for (uint32_t i = 0; i < 8; i++) {
        cr_assert_eq(in->item[i].kind, kinds[i], "%u", i);
        cr_assert_eq(in->item[i].number, i + 1);
        cr_assert_eq(in->item[i].next, i + 1);
    }
    cr_assert(!intake_full(in));
}

Test(intake, batch_ends_with_its_count) {
    for (int i = 0; i < 15; i++) rig_add(&rig, 0, "k", "v");
    cr_assert_eq(fill(0), 10);
    cr_assert(intake_full(in));
    cr_assert_eq(fill(0), 0);
    intake_sent(in);
    cr_assert_eq(fill(0), 5);
    cr_assert_eq(in->item[0].number, 11);
}

Test(intake, batch_ends_with_the_record_that_makes_it_large) {
    static char value[100000];
    memset(value, 'x', sizeof value - 1);
    for (int i = 0; i < 8; i++) rig_add(&rig, 0, "k", value);
    cr_assert_eq(fill(0), 6);
    cr_assert(intake_full(in));
}

Test(intake, record_of_an_earlier_epoch_is_a_marker_that_counts_for_nothing) {
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "k", .value = "v");
    atomic_store(&rig.plan->slot[0].epoch, 2);
    cr_assert_eq(fill(0), 1, "no mark is needed for it");
    cr_assert(in->item[0].kind == ITEM_MARKER && in->item[0].epoch == 0);
    cr_assert_eq(in->sample[1 & in->sample_mask].ingest_ns, -1);
}

Test(intake, record_that_was_refed_changes_nothing_of_how_far_the_partition_is) {
    twin_store(&rig.ledger->slot[0].released, 1, 40);
    rig_put(&rig, .op = RECORD_ADD, .key = "k", .value = "v", .flags = RECORD_REFED, .timestamp_ms = 5);
    rig_put(&rig, .op = RECORD_REJECT, .flags = RECORD_REFED);
    rig.next[0] = 40;
    rig_add(&rig, 0, "k", "v");
    cr_assert_eq(fill(0), 3);
    cr_assert(in->item[0].kind == ITEM_PLAIN && in->item[0].refed && in->item[0].epoch == 1);
    cr_assert(in->item[1].kind == ITEM_MARKER && in->item[1].refed);
    cr_assert(in->item[0].next == 40 && in->item[1].next == 40 && in->item[2].next == 41 && !in->item[2].refed);
    cr_assert_eq(in->sample[1 & in->sample_mask].timestamp_ms, -1, "how old it is says nothing");
}

Test(intake, record_waits_for_the_mark_of_its_partition_and_comes_first_afterwards) {
    rig_add(&rig, 0, "a", "v");
    rig_add(&rig, 2, "b", "v");
    rig_add(&rig, 0, "c", "v");
    cr_assert_eq(fill(0), 1);
    cr_assert(in->stop == INTAKE_UNMARKED && in->held.slot == 2 && intake_full(in));
    cr_assert_eq(fill(0), 0);
    rig.sink.line.marks.slot[2].checked_epoch = 1;
    intake_sent(in);
    cr_assert_eq(fill(0), 2);
    cr_assert(in->item[0].slot == 2 && in->item[0].number == 2 && in->item[1].number == 3);
}

Test(intake, record_that_waits_becomes_a_marker_when_its_epoch_passes) {
    rig_add(&rig, 2, "b", "v");
    cr_assert_eq(fill(0), 0);
    atomic_store(&rig.plan->slot[2].epoch, 2);
    cr_assert_eq(fill(0), 1);
    cr_assert(in->item[0].kind == ITEM_MARKER && in->item[0].epoch == 0);
}

Test(intake, poison_is_recognised_by_its_number_and_never_parsed) {
    rig_add(&rig, 0, "a", "v");
    memset(ring_reserve(&rig.producer, 50), 0xff, 50); /* parsing it would be INTAKE_BROKEN */
    ring_stage(&rig.producer, 50, RECORD_DATA);
    cr_assert_eq(fill(2), 1);
    cr_assert_eq(in->stop, INTAKE_POISON);
    cr_assert_eq(in->poison.topic, UINT16_MAX);
    cr_assert_eq(atomic_load(&rig.ring.page->in_hand), 0);
    cr_assert_eq(fill(2), 0, "nobody can read it again");
}

Test(intake, poison_whose_epoch_has_passed_is_a_marker_and_never_parsed) {
    struct record head = {
        .op = RECORD_ADD, .epoch = 1, .offset = 7, .value_bytes = 99}; /* lengths that do not add up */
    memcpy(ring_reserve(&rig.producer, sizeof head), &head, sizeof head);
    ring_stage(&rig.producer, sizeof head, RECORD_DATA);
    cr_assert_eq(fill(1), 0);
    cr_assert(in->stop == INTAKE_POISON && in->poison.offset == 7);
    atomic_store(&rig.plan->slot[0].epoch, 2);
    cr_assert_eq(fill(1), 1);
    cr_assert(in->stop == INTAKE_OPEN && in->item[0].kind == ITEM_MARKER && in->item[0].epoch == 0);
    intake_rewind(in);
    cr_assert_eq(fill(1), 1, "nor does a successor stop at it");
    cr_assert_eq(in->item[0].kind, ITEM_MARKER);
}

static void put_broken(struct record head, uint16_t type) {
    memcpy(ring_reserve(&rig.producer, sizeof head), &head, sizeof head);
    ring_stage(&rig.producer, sizeof head, type);
    cr_assert_eq(fill(0), 0);
    cr_assert_eq(in->stop, INTAKE_BROKEN);
    ring_release(&rig.ring, rig.ring.cursor, rig.ring.number);
    intake_rewind(in);
}

Test(intake, record_that_is_none_of_this_pipeline_is_refused) {
    struct record good = {.op = RECORD_DELETE, .epoch = 1};
    put_broken(good, RECORD_DATA + 1);
    struct record bad = good;
    bad.op = RECORD_RAW;
    put_broken(bad, RECORD_DATA);
    bad = good;
    bad.slot = 3;
    bad.partition = 3;
    put_broken(bad, RECORD_DATA);
    bad = good;
    bad.partition = 1;
    put_broken(bad, RECORD_DATA);
    bad = good;
    bad.topic = 1;
    put_broken(bad, RECORD_DATA);
    bad = good;
    bad.offset = -1;
    put_broken(bad, RECORD_DATA);
    bad = good;
    bad.value_bytes = 1;
    put_broken(bad, RECORD_DATA);
}

Test(intake, rewind_begins_with_the_oldest_unreleased_record) {
    for (int i = 0; i < 15; i++) rig_add(&rig, 0, "k", "v");
    fill(0);
    ring_release(&rig.ring, in->item[3].end, in->item[3].number);
    intake_sent(in);
    fill(0);
    intake_rewind(in);
    cr_assert_eq(fill(0), 10);
    cr_assert_eq(in->item[0].number, 5);
}

/* The ledger: made sealed, mapped by whoever may write it, refused when it is not one. */
#include "shm/ledger.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/workspace.h"

Test(ledger, layout_is_what_version_5_says) {
    cr_assert_eq(LEDGER_VERSION, 5);
    cr_assert_eq(offsetof(struct ledger_ingest, version), 8);
    cr_assert_eq(offsetof(struct ledger_ingest, count), 12);
    cr_assert_eq(offsetof(struct ledger_ingest, lease_until_ns), 16);
    cr_assert_eq(offsetof(struct ledger_ingest, accepted), 24);
    cr_assert_eq(offsetof(struct ledger_ingest, cluster), 40);
    cr_assert_eq(offsetof(struct ledger_ingest, slot), 128);
    cr_assert_eq(offsetof(struct ledger_sink, lane), 12);
    cr_assert_eq(offsetof(struct ledger_sink, slot), 64);
    cr_assert_eq(offsetof(struct ledger_ingest_slot, epoch), 8);
    cr_assert_eq(offsetof(struct ledger_ingest_slot, start), 16);
    cr_assert_eq(offsetof(struct ledger_ingest_slot, committed), 24);
    cr_assert_eq(offsetof(struct ledger_ingest_slot, intent), 32);
    cr_assert_eq(offsetof(struct ledger_ingest_slot, origin), 40);
    cr_assert_eq(offsetof(struct ledger_ingest_slot, lost_from), 48);
    cr_assert_eq(offsetof(struct ledger_sink_slot, lost), 48);
    cr_assert_eq(offsetof(struct ledger_sink_slot, lost_next), 96);
    cr_assert_eq(offsetof(struct ledger_sink_slot, lost_before), 104);
    cr_assert_eq(offsetof(struct ledger_sink_slot, refed), 112);
    cr_assert_eq(offsetof(struct ledger_sink_slot, seen), 160);
    cr_assert_eq(offsetof(struct ledger_audit, slot), 64);
    cr_assert_eq(offsetof(struct ledger_audit_slot, released), 0);
}

Test(ledger, a_new_ledger_knows_no_partition_and_no_commit) {
    struct err err = {0};
    int fd = ledger_ingest_create(&err);
    cr_assert_geq(fd, 0, "%s", err.text);
    struct ledger_ingest *l = ledger_ingest_map(fd, false, &err);
    cr_assert_not_null(l, "%s", err.text);
    cr_assert_eq(l->count, 0);
    for (int i = 0; i < PARTITIONS_MAX; i++) {
        cr_assert_eq(l->slot[i].epoch, 0);
        cr_assert_eq(l->slot[i].committed, -1);
        cr_assert_eq(l->slot[i].intent, -1);
        cr_assert_eq(l->slot[i].flags, 0);
    }
    fd = ledger_sink_create(3, &err);
    cr_assert_geq(fd, 0, "%s", err.text);
    struct ledger_sink *s = ledger_sink_map(fd, false, &err);
    cr_assert_not_null(s, "%s", err.text);
    cr_assert_eq(s->lane, 3);
    uint64_t epoch, next;
    twin_load(&s->slot[PARTITIONS_MAX - 1].released, &epoch, &next);
    cr_assert(epoch == 0 && next == 0);
    fd = ledger_audit_create(&err);
    cr_assert_geq(fd, 0, "%s", err.text);
    struct ledger_audit *a = ledger_audit_map(fd, true, &err);
    cr_assert_not_null(a, "%s", err.text);
    twin_store(&a->slot[PARTITIONS_MAX - 1].released, 2, 77);
    const struct ledger_audit *seen = ledger_audit_map(fd, false, &err);
    twin_load(&seen->slot[PARTITIONS_MAX - 1].released, &epoch, &next);
    cr_assert(epoch == 2 && next == 77);
    twin_load(&seen->slot[0].released, &epoch, &next);
    cr_assert(epoch == 0 && next == 0);
}

Test(ledger, what_the_owner_writes_every_reader_sees) {
    struct err err = {0};
    int fd = ledger_sink_create(0, &err);
    struct ledger_sink *owner = ledger_sink_map(fd, true, &err);
    int ro = workspace_reopen_readonly(fd, &err);
    struct ledger_sink *reader = ledger_sink_map(ro, false, &err);
    cr_assert(owner != NULL && reader != NULL, "%s", err.text);
    twin_store(&owner->slot[9].released, 4, 12345);
    uint64_t epoch, next;
    twin_load(&reader->slot[9].released, &epoch, &next);
    cr_assert(epoch == 4 && next == 12345);
    cr_assert_null(ledger_sink_map(ro, true, &err), "a read-only descriptor was mapped writable");
    cr_assert_neq(err.text[0], 0);
}

Test(ledger, a_reader_that_writes_faults, .signal = SIGSEGV) {
    int fd = ledger_ingest_create(NULL);
    struct ledger_ingest *reader = ledger_ingest_map(fd, false, NULL);
    cr_assert_not_null(reader);
    signal(SIGSEGV, SIG_DFL); /* a sanitizer's own handler would turn the fault into an exit */
    atomic_store(&reader->count, 1);
}

Test(ledger, memory_is_sealed_and_closed_on_exec) {
    int all[] = {ledger_ingest_create(NULL), ledger_sink_create(0, NULL)};
    for (int i = 0; i < 2; i++) {
        cr_assert(fcntl(all[i], F_GETFD) & FD_CLOEXEC);
        cr_assert_neq(ftruncate(all[i], 0), 0);
        cr_assert_neq(ftruncate(all[i], 1 << 24), 0);
    }
}

/* A plain file of the ledger's size whose first bytes are these. */
static int imitation(uint64_t magic, uint32_t version, size_t bytes) {
    int fd = memfd_create("imitation", MFD_CLOEXEC);
    cr_assert_geq(fd, 0);
    cr_assert_eq(pwrite(fd, &magic, 8, 0), 8);
    cr_assert_eq(pwrite(fd, &version, 4, 8), 4);
    cr_assert_eq(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

Test(ledger, wrong_magic_version_and_size_are_refused) {
    struct err err = {0};
    cr_assert_not_null(
        ledger_ingest_map(imitation(LEDGER_MAGIC, LEDGER_VERSION, sizeof(struct ledger_ingest)), false, &err));
    const struct {
        uint64_t magic;
        uint32_t version;
        size_t bytes;
    } bad[] = {{0, LEDGER_VERSION, sizeof(struct ledger_ingest)},
               {LEDGER_MAGIC + 1, LEDGER_VERSION, sizeof(struct ledger_ingest)},
               {LEDGER_MAGIC, 0, sizeof(struct ledger_ingest)},
               {LEDGER_MAGIC, LEDGER_VERSION + 1, sizeof(struct ledger_ingest)},
               {LEDGER_MAGIC, LEDGER_VERSION, sizeof(struct ledger_ingest) - 1},
               {LEDGER_MAGIC, LEDGER_VERSION, 12},
               {LEDGER_MAGIC, LEDGER_VERSION, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int fd = imitation(bad[i].magic, bad[i].version, bad[i].bytes);
        err = (struct err){0};
        cr_assert_null(ledger_ingest_map(fd, false, &err), "case %zu", i);
        cr_assert_neq(err.text[0], 0);
        cr_assert_null(ledger_sink_map(fd, true, &err), "case %zu", i);
        close(fd);
    }
    cr_assert_null(ledger_ingest_map(-1, false, &err));
}

Test(ledger, a_partition_is_in_the_same_lane_for_every_topic_and_every_lane_is_used) {
    for (uint32_t lanes = 1; lanes <= LANES_MAX; lanes++) {
        uint32_t used[LANES_MAX] = {0};
        for (int32_t partition = 0; partition < 1000; partition++) {
            uint32_t lane = ledger_lane(partition, lanes);
            cr_assert_lt(lane, lanes);
            used[lane]++;
        }
        for (uint32_t lane = 0; lane < lanes; lane++) cr_assert_geq(used[lane], 1000 / lanes);
    }
    cr_assert_lt(ledger_lane(INT32_MAX, LANES_MAX), LANES_MAX);
}

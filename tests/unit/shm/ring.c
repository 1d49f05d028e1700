/* The ring by its contract, both ends in one process. Deaths are in ring_death.c, threads in ring_race.c. */
#include "tests/unit/shm/help.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/limits.h"
#include "shm/record.h"
#include "shm/workspace.h"

/* -- ABI --------------------------------------------------------------------------------------- */

Test(ring, layout_in_shared_memory_is_what_version_2_says) {
    cr_assert_eq(RING_VERSION, 2);
    cr_assert_eq(sizeof(struct ring_header), 16);
    cr_assert_eq(offsetof(struct ring_header, type), 4);
    cr_assert_eq(offsetof(struct ring_header, flags), 6);
    cr_assert_eq(offsetof(struct ring_header, number), 8);
    cr_assert_eq(sizeof(struct ring_constants), 64);
    cr_assert_eq(offsetof(struct ring_constants, version), 8);
    cr_assert_eq(offsetof(struct ring_constants, record_version), 12);
    cr_assert_eq(offsetof(struct ring_constants, aux_count), 32);
    cr_assert_eq(offsetof(struct ring_constants, name), 40);
    cr_assert_eq(offsetof(struct ring_slot, number), 8);
    cr_assert_eq(offsetof(struct ring_producer_page, tail), 0);
    cr_assert_eq(offsetof(struct ring_producer_page, waiting), 128);
    cr_assert_eq(offsetof(struct ring_producer_page, sleeps), 136);
    cr_assert_eq(offsetof(struct ring_producer_page, wake_at), 144);
    cr_assert_eq(offsetof(struct ring_producer_page, slot), 256);
    cr_assert_eq(offsetof(struct ring_consumer_page, head), 0);
    cr_assert_eq(offsetof(struct ring_consumer_page, slot), 256);
    cr_assert_eq(offsetof(struct ring_consumer_page, in_hand), 384);
}

Test(ring, magic_reads_millring_in_a_dump) {
    struct ring_fds fds = ring_make(SMALL, 0);
    char magic[8];
    cr_assert_eq(pread(fds.constants, magic, 8, 0), 8);
    cr_assert_eq(memcmp(magic, "millring", 8), 0);
    ring_drop(&fds);
}

/* -- construction ------------------------------------------------------------------------------ */

static void expect_refused(const char *name, uint64_t capacity, uint32_t aux_count) {
    struct err err = {0};
    struct ring_fds fds;
    cr_assert_eq(ring_create(&fds, name, capacity, aux_count, 1, &err), -1);
    cr_assert_eq(err.code, EINVAL);
    cr_assert_neq(err.text[0], 0);
}

Test(ring, create_refuses_capacities_that_are_no_power_of_two_or_out_of_range) {
    expect_refused("x", 0, 0);
    expect_refused("x", 1, 0);
    expect_refused("x", 2048, 0);
    expect_refused("x", 4095, 0);
    expect_refused("x", 4097, 0);
    expect_refused("x", 3 * 4096, 0);
    expect_refused("x", RING_BYTES_MAX * 2, 0);
    expect_refused("x", UINT64_MAX, 0);
}

Test(ring, create_refuses_too_many_aux_words_and_too_long_names) {
    expect_refused("x", SMALL, RING_AUX_MAX + 1);
    expect_refused("x", SMALL, UINT32_MAX);
    expect_refused("a-name-of-24-characters-", SMALL, 0);
    struct err err = {0};
    struct ring_fds fds;
    cr_assert_eq(ring_create(&fds, "a-name-of-23-characters", SMALL, RING_AUX_MAX, 1, &err), 0, "%s", err.text);
    ring_drop(&fds);
}

Test(ring, memory_files_are_closed_on_exec_and_cannot_be_resized) {
    struct ring_fds fds = ring_make(SMALL, 7);
    const int all[] = {fds.constants, fds.producer, fds.consumer};
    for (int i = 0; i < 3; i++) {
        cr_assert(fcntl(all[i], F_GETFD) & FD_CLOEXEC);
        cr_assert_neq(ftruncate(all[i], 0), 0);
        cr_assert_neq(ftruncate(all[i], 1 << 20), 0);
        int seals = fcntl(all[i], F_GET_SEALS);
        cr_assert_eq(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    }
    ring_drop(&fds);
}

Test(ring, create_without_descriptors_left_fails_and_leaks_none) {
    struct err err = {0};
    struct ring_fds fds;
    int lowest_free = dup(0);
    close(lowest_free);
    struct rlimit limit = {(rlim_t)lowest_free + 2, (rlim_t)lowest_free + 2}; /* two more: the third file fails */
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    cr_assert_eq(ring_create(&fds, "x", SMALL, 0, 1, &err), -1);
    cr_assert_eq(err.code, EMFILE);
    int a = dup(0), b = dup(0), c = dup(0);
    cr_assert(a == lowest_free && b > a && c < 0, "a failed ring_create keeps descriptors");
}

/* -- attach ------------------------------------------------------------------------------------ */

/* A ring with some history: 60 records published, 50 released, so that neither position is 0. */
static struct ring_fds ring_used(uint32_t aux_count) {
    struct pair r = pair_make(SMALL, aux_count);
    struct ring_fds keep = {dup(r.fds.constants), dup(r.fds.producer), dup(r.fds.consumer)};
    for (uint64_t n = 1; n <= 60; n++) {
        cr_assert(put_len(&r.p, 40));
        ring_publish(&r.p);
        if (n <= 50) {
            struct ring_item item = peek_expect(&r.c, n);
            ring_release(&r.c, item.end, item.number);
        }
    }
    pair_drop(&r);
    return keep;
}

/* Both ends and an observer get the grade, a message, and nothing that would have to be detached. */
static void expect_grades(const struct ring_fds *fds, enum ring_grade producer, enum ring_grade consumer) {
    struct err err = {0};
    struct ring_producer p;
    struct ring_consumer c;
    enum ring_grade g = ring_producer_attach(&p, fds, -1, &err);
    cr_assert_eq(g, producer, "producer: %s (%s)", ring_grade_name(g), err.text);
    if (g == RING_ATTACHED)
        ring_producer_detach(&p);
    else
        cr_assert_neq(err.text[0], 0);
    err = (struct err){0};
    g = ring_consumer_attach(&c, fds, -1, &err);
    cr_assert_eq(g, consumer, "consumer: %s (%s)", ring_grade_name(g), err.text);
    if (g == RING_ATTACHED)
        ring_consumer_detach(&c);
    else
        cr_assert_neq(err.text[0], 0);
}

static void expect_both(const struct ring_fds *fds, enum ring_grade grade) {
    expect_grades(fds, grade, grade);
    struct err err = {0};
    struct ring_snapshot s;
    enum ring_grade g = ring_observe(fds, &s, &err);
    cr_assert_eq(g, grade, "observer: %s (%s)", ring_grade_name(g), err.text);
}

Test(ring, an_untouched_copy_attaches) {
    struct ring_fds fds = ring_used(3);
    struct ring_fds copy = ring_copy(&fds);
    expect_both(&copy, RING_ATTACHED);
    ring_drop(&copy);
    ring_drop(&fds);
}

Test(ring, attach_grades_every_damage_of_the_constants) {
    struct ring_fds fds = ring_used(3);
    const size_t capacity_at = offsetof(struct ring_constants, capacity);
    const struct {
        size_t at;
        uint64_t value;
        size_t n;
        enum ring_grade grade;
    } damage[] = {
        {0, 0, 8, RING_NOT_READY},
        {0, 0x646e697262616320ULL, 8, RING_CORRUPT},
        {offsetof(struct ring_constants, version), RING_VERSION + 1, 4, RING_WRONG_VERSION},
        {offsetof(struct ring_constants, version), 0, 4, RING_WRONG_VERSION},
        {offsetof(struct ring_constants, record_version), RECORD_VERSION + 1, 4, RING_WRONG_VERSION},
        {capacity_at, 0, 8, RING_CORRUPT},
        {capacity_at, 4097, 8, RING_CORRUPT},
        {capacity_at, 2048, 8, RING_CORRUPT},
        {capacity_at, RING_BYTES_MAX * 2, 8, RING_CORRUPT},
        {capacity_at, UINT64_MAX, 8, RING_CORRUPT},
        {capacity_at, SMALL * 2, 8, RING_TOO_SHORT},
        {capacity_at, RING_BYTES_MAX, 8, RING_TOO_SHORT},
        {offsetof(struct ring_constants, aux_count), RING_AUX_MAX + 1, 4, RING_CORRUPT},
        {offsetof(struct ring_constants, aux_count), RING_AUX_MAX, 4, RING_TOO_SHORT},
    };
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        struct ring_fds copy = ring_copy(&fds);
        smash(copy.constants, damage[i].at, &damage[i].value, damage[i].n);
        expect_both(&copy, damage[i].grade);
        ring_drop(&copy);
    }
    ring_drop(&fds);
}

Test(ring, attach_refuses_every_file_that_is_too_short) {
    struct ring_fds fds = ring_used(3);
    const off_t lengths[] = {0, 1, 63, RING_PAGE - 1, RING_PAGE, RING_PAGE + SMALL, (off_t)data_at(3) + SMALL - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct ring_fds copy = ring_copy(&fds);
        cr_assert_eq(ftruncate(copy.producer, lengths[i]), 0);
        expect_both(&copy, RING_TOO_SHORT);
        ring_drop(&copy);
        if (lengths[i] >= RING_PAGE) continue;
        copy = ring_copy(&fds);
        cr_assert_eq(ftruncate(copy.consumer, lengths[i]), 0);
        expect_both(&copy, RING_TOO_SHORT);
        ring_drop(&copy);
        if (lengths[i] >= (off_t)sizeof(struct ring_constants)) continue;
        copy = ring_copy(&fds);
        cr_assert_eq(ftruncate(copy.constants, lengths[i]), 0);
        expect_both(&copy, RING_TOO_SHORT);
        ring_drop(&copy);
    }
    ring_drop(&fds);
}

Test(ring, attach_refuses_positions_that_cannot_be) {
    struct ring_fds fds = ring_used(3);
    uint64_t tail = look64(fds.producer, 0), head = look64(fds.consumer, 0);
    cr_assert(tail > head && head > 0);
    const struct {
        uint64_t head, tail;
    } positions[] = {
        {head, head - RING_ALIGN},         /* tail before head */
        {head, head + SMALL + RING_ALIGN}, /* more than the ring holds */
        {head, tail + 1},
        {head, tail + 8}, /* misaligned */
        {head + 8, tail},
        {head - 3, tail},
        {tail + RING_ALIGN, tail}, /* head beyond the tail */
        {0, UINT64_MAX},
        {UINT64_MAX, 0},
        {head, 1ULL << 63},
        {1ULL << 63, tail},
    };
    for (size_t i = 0; i < sizeof positions / sizeof positions[0]; i++) {
        struct ring_fds copy = ring_copy(&fds);
        smash64(copy.producer, 0, positions[i].tail);
        smash64(copy.consumer, 0, positions[i].head);
        /* The slots say the same: only the positions are wrong. */
        smash64(copy.producer, slot_at(0), positions[i].tail);
        smash64(copy.producer, slot_at(1), positions[i].tail - 1600);
        smash64(copy.consumer, slot_at(0), positions[i].head);
        smash64(copy.consumer, slot_at(1), positions[i].head - 1600);
        expect_both(&copy, RING_CORRUPT);
        ring_drop(&copy);
    }
    ring_drop(&fds);
}

Test(ring, attach_wants_exactly_one_slot_that_matches_the_position) {
    struct ring_fds fds = ring_used(3);
    uint64_t tail = look64(fds.producer, 0), head = look64(fds.consumer, 0);
    struct ring_fds copy = ring_copy(&fds);
    smash64(copy.producer, slot_at(0), tail + 4800);
    smash64(copy.producer, slot_at(1), tail - 4800);
    expect_grades(&copy, RING_CORRUPT, RING_ATTACHED);
    smash64(copy.producer, slot_at(0), tail);
    smash64(copy.producer, slot_at(1), tail);
    expect_grades(&copy, RING_CORRUPT, RING_ATTACHED);
    ring_drop(&copy);
    copy = ring_copy(&fds);
    smash64(copy.consumer, slot_at(0), head + 4800);
    smash64(copy.consumer, slot_at(1), head - 4800);
    expect_grades(&copy, RING_ATTACHED, RING_CORRUPT);
    smash64(copy.consumer, slot_at(0), head);
    smash64(copy.consumer, slot_at(1), head);
    expect_grades(&copy, RING_ATTACHED, RING_CORRUPT);
    ring_drop(&copy);
    ring_drop(&fds);
}

Test(ring, attach_refuses_numbers_that_so_many_bytes_cannot_hold) {
    struct ring_fds whole = ring_used(3);
    static const uint64_t beyond[] = {1, 1000, 1ULL << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof beyond / sizeof beyond[0]; i++) {
        struct ring_fds fds = ring_copy(&whole);
        uint64_t tail = look64(fds.producer, 0), head = look64(fds.consumer, 0);
        int spare = look64(fds.producer, slot_at(0)) == tail; /* whatever stands there does not count */
        smash64(fds.producer, slot_at(spare) + 8, UINT64_MAX);
        expect_both(&fds, RING_ATTACHED);
        uint64_t limit = tail / RING_HEADER_BYTES;
        smash64(fds.producer, slot_at(!spare) + 8, limit);
        expect_grades(&fds, RING_ATTACHED, RING_ATTACHED);
        smash64(fds.producer, slot_at(!spare) + 8, limit < UINT64_MAX - beyond[i] ? limit + beyond[i] : beyond[i]);
        expect_grades(&fds, RING_CORRUPT, RING_ATTACHED);
        int current = look64(fds.consumer, slot_at(1)) == head;
        smash64(fds.consumer, slot_at(current) + 8, beyond[i] == 1 ? head / RING_HEADER_BYTES + 1 : beyond[i]);
        expect_grades(&fds, RING_CORRUPT, RING_CORRUPT);
        ring_drop(&fds);
    }
    ring_drop(&whole);
}

Test(ring, attach_refuses_descriptors_that_are_no_memory) {
    struct ring_fds fds = ring_used(0);
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    struct ring_fds bad = fds;
    bad.constants = ends[0];
    expect_both(&bad, RING_TOO_SHORT);
    bad = fds;
    bad.producer = ends[1];
    expect_both(&bad, RING_TOO_SHORT);
    bad = fds;
    bad.consumer = -1;
    expect_both(&bad, RING_TOO_SHORT);
    close(ends[0]);
    close(ends[1]);
    ring_drop(&fds);
}

Test(ring, attach_with_random_bytes_in_the_control_pages_never_crashes) {
    struct ring_fds fds = ring_used(3);
    uint64_t seed = 20240501;
    int attached = 0;
    for (int round = 0; round < 3000; round++) {
        struct ring_fds copy = ring_copy(&fds);
        const int file[] = {copy.constants, copy.producer, copy.consumer};
        for (uint32_t n = 1 + random_below(&seed, 4); n > 0; n--) {
            uint64_t bytes = random_next(&seed) >> random_below(&seed, 64);
            smash(file[random_below(&seed, 3)], random_below(&seed, 48) * 8, &bytes, 1 + random_below(&seed, 8));
        }
        struct err err;
        struct ring_producer p;
        struct ring_consumer c;
        struct ring_snapshot s;
        struct ring_item item;
        ring_observe(&copy, &s, &err);
        if (ring_producer_attach(&p, &copy, -1, &err) == RING_ATTACHED) {
            attached++;
            ring_producer_detach(&p);
        }
        if (ring_consumer_attach(&c, &copy, -1, &err) == RING_ATTACHED) {
            for (int n = 0; n < 100 && ring_peek(&c, &item, &err) == RING_OK; n++) {
            }
            ring_consumer_detach(&c);
        }
        ring_drop(&copy);
    }
    cr_assert(attached > 100 && attached < 2900, "the damage is too small or too great to test anything: %d", attached);
    ring_drop(&fds);
}

static int mappings(void) {
    FILE *maps = fopen("/proc/self/maps", "re");
    cr_assert_not_null(maps);
    int n = 0, c;
    while ((c = fgetc(maps)) != EOF) n += c == '\n';
    fclose(maps);
    return n;
}

Test(ring, detach_unmaps_files_that_are_longer_than_they_need_be) {
    struct ring_fds whole = ring_used(1), fds = ring_copy(&whole);
    cr_assert_eq(ftruncate(fds.constants, 3 * RING_PAGE), 0);
    cr_assert_eq(ftruncate(fds.producer, 1 << 20), 0);
    cr_assert_eq(ftruncate(fds.consumer, 5 * RING_PAGE), 0);
    struct err err = {0};
    struct ring_producer p;
    struct ring_consumer c;
    struct ring_snapshot s;
    int before = mappings();
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(ring_producer_attach(&p, &fds, -1, &err), RING_ATTACHED, "%s", err.text);
        cr_assert_eq(ring_consumer_attach(&c, &fds, -1, &err), RING_ATTACHED, "%s", err.text);
        cr_assert_eq(ring_observe(&fds, &s, &err), RING_ATTACHED, "%s", err.text);
        ring_producer_detach(&p);
        ring_consumer_detach(&c);
    }
    cr_assert_eq(mappings(), before);
    ring_drop(&fds);
    ring_drop(&whole);
}

Test(ring, every_grade_has_a_name) {
    for (int g = RING_ATTACHED; g <= RING_CORRUPT; g++)
        for (int other = RING_ATTACHED; other < g; other++)
            cr_assert_str_neq(ring_grade_name(g), ring_grade_name(other));
}

/* -- who may write where ----------------------------------------------------------------------- */

/* A sanitizer's own handler would turn the fault into an exit. */
static void faults_are_signals(void) { signal(SIGSEGV, SIG_DFL); }

Test(ring, a_consumer_that_writes_to_the_producers_page_faults, .signal = SIGSEGV) {
    struct pair r = pair_make(SMALL, 2);
    faults_are_signals();
    struct ring_producer_page *page = (struct ring_producer_page *)(uintptr_t)r.c.peer;
    atomic_store(&page->tail, 16);
}

Test(ring, a_consumer_that_writes_to_a_record_faults, .signal = SIGSEGV) {
    struct pair r = pair_make(SMALL, 2);
    put_and_publish(&r.p, 1, 32);
    struct ring_item item = peek_expect(&r.c, 1);
    faults_are_signals();
    *(uint8_t *)(uintptr_t)item.body = 1;
}

Test(ring, a_producer_that_writes_to_the_consumers_page_faults, .signal = SIGSEGV) {
    struct pair r = pair_make(SMALL, 2);
    faults_are_signals();
    struct ring_consumer_page *page = (struct ring_consumer_page *)(uintptr_t)r.p.peer;
    atomic_store(&page->head, 16);
}

Test(ring, each_end_works_with_the_other_sides_memory_reopened_read_only) {
    struct err err = {0};
    struct ring_fds fds = ring_make(SMALL, 2);
    int constants = workspace_reopen_readonly(fds.constants, &err);
    int producer = workspace_reopen_readonly(fds.producer, &err);
    int consumer = workspace_reopen_readonly(fds.consumer, &err);
    cr_assert(constants >= 0 && producer >= 0 && consumer >= 0, "%s", err.text);
    cr_assert_eq(mmap(NULL, RING_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, producer, 0), MAP_FAILED);
    cr_assert_eq(mmap(NULL, RING_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, consumer, 0), MAP_FAILED);

    struct ring_fds for_producer = {constants, fds.producer, consumer};
    struct ring_fds for_consumer = {constants, producer, fds.consumer};
    struct ring_producer p;
    struct ring_consumer c;
    cr_assert_eq(ring_producer_attach(&p, &for_producer, -1, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_eq(ring_consumer_attach(&c, &for_consumer, -1, &err), RING_ATTACHED, "%s", err.text);
    cr_assert(put_len(&p, 10));
    ring_publish(&p);
    struct ring_item item = peek_expect(&c, 1);
    ring_release(&c, item.end, 1);
    ring_producer_detach(&p);
    ring_consumer_detach(&c);

    cr_assert_neq(ring_producer_attach(&p, &for_consumer, -1, &err), RING_ATTACHED);
    cr_assert_neq(ring_consumer_attach(&c, &for_producer, -1, &err), RING_ATTACHED);
    struct ring_fds readable = {constants, producer, consumer};
    struct ring_snapshot s;
    cr_assert_eq(ring_observe(&readable, &s, &err), RING_ATTACHED, "%s", err.text);
    close(constants);
    close(producer);
    close(consumer);
    ring_drop(&fds);
}

/* -- life cycle -------------------------------------------------------------------------------- */

Test(ring, a_new_ring_is_empty_and_numbers_begin_at_1) {
    struct pair r = pair_make(SMALL, 4);
    peek_expect_empty(&r.c);
    cr_assert_eq(r.p.number_published, 0);
    cr_assert_eq(r.c.number_released, 0);
    cr_assert_eq(r.p.incarnation, 0x1234567890abcdefULL);
    cr_assert_eq(r.c.incarnation, 0x1234567890abcdefULL);
    for (uint32_t i = 0; i < 4; i++) cr_assert_eq(ring_aux_get(&r.p, i), 0);
    cr_assert(put_len(&r.p, 5));
    cr_assert_eq(r.p.number, 1);
    pair_drop(&r);
}

Test(ring, nothing_is_visible_before_publish_and_everything_after_it) {
    struct pair r = pair_make(SMALL, 0);
    for (uint32_t i = 0; i < 10; i++) {
        cr_assert(put_len(&r.p, i * 7));
        peek_expect_empty(&r.c);
    }
    ring_publish(&r.p);
    for (uint64_t n = 1; n <= 10; n++) cr_assert_eq(peek_expect(&r.c, n).len, (n - 1) * 7);
    peek_expect_empty(&r.c);
    pair_drop(&r);
}

Test(ring, publish_without_staged_records_changes_nothing) {
    struct pair r = pair_make(SMALL, 1);
    ring_publish(&r.p);
    put_and_publish(&r.p, 1, 8);
    uint64_t tail = look64(r.fds.producer, 0);
    ring_publish(&r.p);
    cr_assert(ring_reserve(&r.p, 100) != NULL);
    ring_publish(&r.p);
    cr_assert_eq(look64(r.fds.producer, 0), tail);
    cr_assert_eq(r.p.number_published, 1);
    pair_drop(&r);
}

Test(ring, a_record_may_be_staged_shorter_than_it_was_reserved) {
    struct pair r = pair_make(SMALL, 0);
    for (uint64_t n = 1; n <= 200; n++) {
        uint8_t *body = ring_reserve(&r.p, ring_record_max(SMALL));
        cr_assert_not_null(body);
        content_fill(body, n, (uint32_t)(n % 90));
        cr_assert_eq(ring_stage(&r.p, (uint32_t)(n % 90), content_type(n)), n);
        ring_publish(&r.p);
        struct ring_item item = peek_expect(&r.c, n);
        cr_assert_eq(item.len, n % 90);
        ring_release(&r.c, item.end, n);
    }
    pair_drop(&r);
}

Test(ring, a_second_reservation_replaces_the_first) {
    struct pair r = pair_make(SMALL, 0);
    uint8_t *first = ring_reserve(&r.p, 400);
    cr_assert_not_null(first);
    memset(first, 0xee, 400);
    cr_assert(put_len(&r.p, 20));
    ring_publish(&r.p);
    cr_assert_eq(peek_expect(&r.c, 1).len, 20);
    peek_expect_empty(&r.c);
    pair_drop(&r);
}

Test(ring, bodies_are_16_byte_aligned_on_both_sides) {
    struct pair r = pair_make(SMALL, 3);
    for (uint64_t n = 1; n <= 500; n++) {
        uint32_t len = content_len(n, ring_record_max(SMALL));
        uint8_t *body = ring_reserve(&r.p, len);
        cr_assert_eq((uintptr_t)body % 16, 0);
        content_fill(body, n, len);
        ring_stage(&r.p, len, content_type(n));
        ring_publish(&r.p);
        struct ring_item item = peek_expect(&r.c, n);
        cr_assert_eq((uintptr_t)item.body % 16, 0);
        ring_release(&r.c, item.end, n);
    }
    pair_drop(&r);
}

Test(ring, the_longest_and_the_empty_record_pass_at_every_place_in_the_ring) {
    struct pair r = pair_make(SMALL, 0);
    uint32_t max = ring_record_max(SMALL);
    cr_assert_eq(max, SMALL / 8 - 16);
    uint64_t n = 0;
    for (uint32_t shift = 0; shift < SMALL / RING_ALIGN; shift++) {
        const uint32_t len[] = {max, 0, max, max, 0};
        for (int i = 0; i < 5; i++) {
            cr_assert(put_len(&r.p, len[i]), "no room in an empty ring at %llu", (unsigned long long)r.p.cursor);
            ring_publish(&r.p);
            struct ring_item item = peek_expect(&r.c, ++n);
            cr_assert_eq(item.len, len[i]);
            cr_assert(item.body + item.len <= r.c.data + SMALL);
            ring_release(&r.c, item.end, n);
        }
    }
    pair_drop(&r);
}

Test(ring, several_records_lie_in_one_batch_across_the_wrap) {
    struct pair r = pair_make(SMALL, 0);
    uint64_t n = 0;
    for (int round = 0; round < 300; round++) {
        uint64_t first = n + 1;
        for (int i = 0; i < 6; i++, n++) cr_assert(put_len(&r.p, (uint32_t)(200 + n % 250)));
        peek_expect_empty(&r.c);
        ring_publish(&r.p);
        struct ring_item item = {0};
        for (uint64_t k = first; k <= n; k++) item = peek_expect(&r.c, k);
        peek_expect_empty(&r.c);
        ring_release(&r.c, item.end, n);
    }
    pair_drop(&r);
}

Test(ring, a_full_ring_takes_nothing_until_something_is_released) {
    struct pair r = pair_make(SMALL, 0);
    uint64_t n = 0;
    while (put_len(&r.p, 112)) n++;
    cr_assert_eq(n, SMALL / 128);
    cr_assert_not(ring_has_room(&r.p, 0));
    cr_assert_null(ring_reserve(&r.p, 0));
    ring_publish(&r.p);
    cr_assert_null(ring_reserve(&r.p, 0));
    struct ring_item item = peek_expect(&r.c, 1);
    cr_assert_null(ring_reserve(&r.p, 0)); /* read, but not released */
    ring_release(&r.c, item.end, 1);
    cr_assert(ring_has_room(&r.p, 112));
    cr_assert_not(ring_has_room(&r.p, 113));
    cr_assert_null(ring_reserve(&r.p, 113));
    cr_assert(put_len(&r.p, 112));
    ring_publish(&r.p);
    for (uint64_t k = 2; k <= n + 1; k++) peek_expect(&r.c, k);
    pair_drop(&r);
}

Test(ring, has_room_says_what_reserve_will_do) {
    struct pair r = pair_make(SMALL, 0);
    uint64_t seed = 77, n = 0;
    for (int i = 0; i < 20000; i++) {
        uint32_t len = random_below(&seed, ring_record_max(SMALL) + 1);
        bool room = ring_has_room(&r.p, len);
        cr_assert_eq(put_len(&r.p, len), room);
        ring_publish(&r.p);
        if (room && random_below(&seed, 10) > 0) continue;
        struct ring_item item;
        struct err err;
        while (ring_peek(&r.c, &item, &err) == RING_OK) {
            cr_assert_eq(item.number, ++n);
            ring_release(&r.c, item.end, item.number);
            if (random_below(&seed, 4) == 0) break;
        }
    }
    pair_drop(&r);
}

Test(ring, rewind_returns_to_the_oldest_unreleased_record) {
    struct pair r = pair_make(SMALL, 0);
    put_and_publish(&r.p, 10, 50);
    for (uint64_t n = 1; n <= 4; n++) {
        struct ring_item item = peek_expect(&r.c, n);
        if (n <= 3) ring_release(&r.c, item.end, n);
    }
    for (uint64_t n = 5; n <= 8; n++) peek_expect(&r.c, n);
    ring_rewind(&r.c);
    for (uint64_t n = 4; n <= 10; n++) peek_expect(&r.c, n);
    peek_expect_empty(&r.c);
    ring_rewind(&r.c);
    peek_expect(&r.c, 4);
    pair_drop(&r);
}

Test(ring, one_release_gives_back_everything_before_it) {
    struct pair r = pair_make(SMALL, 0);
    uint64_t n = 0;
    while (put_len(&r.p, 240)) n++;
    ring_publish(&r.p);
    struct ring_item item = {0};
    for (uint64_t k = 1; k <= n; k++) item = peek_expect(&r.c, k);
    ring_release(&r.c, item.end, n);
    uint64_t again = 0;
    while (put_len(&r.p, 240)) again++;
    cr_assert_eq(again, n);
    pair_drop(&r);
}

Test(ring, an_observer_sees_positions_numbers_and_the_record_in_hand) {
    struct pair r = pair_make(SMALL, 2);
    struct err err = {0};
    struct ring_snapshot s;
    put_and_publish(&r.p, 5, 30);
    cr_assert(put_len(&r.p, 30)); /* staged only */
    struct ring_item item = peek_expect(&r.c, 1);
    ring_release(&r.c, item.end, 1);
    peek_expect(&r.c, 2);
    ring_in_hand(&r.c, 2);
    cr_assert_eq(ring_observe(&r.fds, &s, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_eq(s.capacity, SMALL);
    cr_assert_eq(s.incarnation, r.p.incarnation);
    cr_assert_eq(s.head, 48);
    cr_assert_eq(s.tail, 5 * 48);
    cr_assert_eq(s.published, 5);
    cr_assert_eq(s.released, 1);
    cr_assert_eq(s.in_hand, 2);
    ring_in_hand(&r.c, 0);
    cr_assert_eq(ring_observe(&r.fds, &s, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_eq(s.in_hand, 0);
    pair_drop(&r);
}

Test(ring, counters_say_what_passed_since_attach) {
    struct pair r = pair_make(SMALL, 0);
    put_and_publish(&r.p, 3, 100);
    while (put_len(&r.p, 400)) {
    }
    cr_assert_eq(r.p.count.published, 3);
    cr_assert_eq(r.p.count.full, 1);
    peek_expect(&r.c, 1);
    peek_expect(&r.c, 2);
    peek_expect(&r.c, 3);
    peek_expect_empty(&r.c);
    cr_assert_eq(r.c.count.records, 3);
    cr_assert_eq(r.c.count.empty, 1);
    pair_drop(&r);
}

/* -- aux words --------------------------------------------------------------------------------- */

Test(ring, aux_words_take_effect_with_the_publication_after_them) {
    struct pair r = pair_make(SMALL, 3);
    ring_aux_set(&r.p, 0, 10);
    put_and_publish(&r.p, 1, 8);
    ring_aux_set(&r.p, 1, 20);
    cr_assert_eq(ring_aux_get(&r.p, 1), 20);
    ring_publish(&r.p); /* nothing staged: the word waits */
    ring_producer_detach(&r.p);
    producer_attach(&r);
    cr_assert_eq(ring_aux_get(&r.p, 0), 10);
    cr_assert_eq(ring_aux_get(&r.p, 1), 0);
    ring_aux_set(&r.p, 1, 21);
    ring_publish(&r.p);
    put_and_publish(&r.p, 1, 8);
    ring_producer_detach(&r.p);
    producer_attach(&r);
    cr_assert_eq(ring_aux_get(&r.p, 0), 10);
    cr_assert_eq(ring_aux_get(&r.p, 1), 21);
    cr_assert_eq(r.p.number_published, 2);
    pair_drop(&r);
}

Test(ring, all_4096_aux_words_survive) {
    struct pair r = pair_make(SMALL, RING_AUX_MAX);
    for (uint64_t round = 1; round <= 5; round++) {
        for (uint32_t i = 0; i < RING_AUX_MAX; i++)
            if (i % 5 != round % 5) ring_aux_set(&r.p, i, i * 1000 + round);
        put_and_publish(&r.p, 1, 8);
        ring_producer_detach(&r.p);
        producer_attach(&r);
        for (uint32_t i = 0; i < RING_AUX_MAX; i++) {
            uint64_t last = i % 5 != round % 5 ? round : round - 1;
            cr_assert_eq(ring_aux_get(&r.p, i), last == 0 ? 0 : i * 1000 + last);
        }
    }
    peek_expect(&r.c, 1); /* the words do not lie over the data */
    pair_drop(&r);
}

/* -- broken promises of the caller ------------------------------------------------------------- */

Test(ring, reserving_more_than_the_limit_aborts, .signal = SIGABRT) {
    struct pair r = pair_make(SMALL, 0);
    ring_reserve(&r.p, ring_record_max(SMALL) + 1);
}

Test(ring, staging_more_than_was_reserved_aborts, .signal = SIGABRT) {
    struct pair r = pair_make(SMALL, 0);
    cr_assert_not_null(ring_reserve(&r.p, 10));
    ring_stage(&r.p, 11, 1);
}

Test(ring, staging_twice_on_one_reservation_aborts, .signal = SIGABRT) {
    struct pair r = pair_make(SMALL, 0);
    cr_assert_not_null(ring_reserve(&r.p, 10));
    ring_stage(&r.p, 10, 1);
    ring_stage(&r.p, 10, 1);
}

Test(ring, staging_with_the_type_of_padding_aborts, .signal = SIGABRT) {
    struct pair r = pair_make(SMALL, 0);
    cr_assert_not_null(ring_reserve(&r.p, 10));
    ring_stage(&r.p, 10, RING_PADDING);
}

Test(ring, setting_an_aux_word_that_is_not_there_aborts, .signal = SIGABRT) {
    struct pair r = pair_make(SMALL, 4);
    ring_aux_set(&r.p, 4, 1);
}

Test(ring, releasing_what_was_not_read_aborts, .signal = SIGABRT) {
    struct pair r = pair_make(SMALL, 0);
    put_and_publish(&r.p, 3, 16);
    struct ring_item item = peek_expect(&r.c, 1);
    ring_release(&r.c, item.end + 32, 2);
}

Test(ring, releasing_backwards_aborts, .signal = SIGABRT) {
    struct pair r = pair_make(SMALL, 0);
    put_and_publish(&r.p, 3, 16);
    struct ring_item first = peek_expect(&r.c, 1), second = peek_expect(&r.c, 2);
    ring_release(&r.c, second.end, 2);
    ring_release(&r.c, first.end, 1);
}

/* -- hostile bytes ----------------------------------------------------------------------------- */

/* Three records of 100 bytes lie at positions 0, 128, 256; the header of the second is replaced. */
static void expect_broken(struct ring_header h) {
    struct pair r = pair_make(SMALL, 2);
    put_and_publish(&r.p, 3, 100);
    smash(r.fds.producer, data_at(2) + 128, &h, sizeof h);
    struct err err = {0};
    struct ring_item item;
    peek_expect(&r.c, 1);
    cr_assert_eq(ring_peek(&r.c, &item, &err), RING_BROKEN, "len %u type %u number %llu", h.len, h.type,
                 (unsigned long long)h.number);
    cr_assert_neq(err.text[0], 0);
    pair_drop(&r);
}

Test(ring, reader_refuses_length_beyond_tail) {
    expect_broken((struct ring_header){.len = 241, .type = 1, .number = 2});
    expect_broken((struct ring_header){.len = 496, .type = 1, .number = 2});
}

Test(ring, reader_refuses_length_beyond_the_limit) {
    expect_broken((struct ring_header){.len = 497, .type = 1, .number = 2});
    expect_broken((struct ring_header){.len = SMALL, .type = 1, .number = 2});
    expect_broken((struct ring_header){.len = UINT32_MAX, .type = 1, .number = 2});
    expect_broken((struct ring_header){.len = UINT32_MAX - 15, .type = 1, .number = 2});
    expect_broken((struct ring_header){.len = 1u << 31, .type = 1, .number = 2});
}

Test(ring, reader_refuses_a_length_beyond_the_limit_even_when_the_ring_holds_as_many_bytes) {
    struct pair r = pair_make(SMALL, 0);
    put_and_publish(&r.p, 20, 100);
    struct ring_header h = {.len = ring_record_max(SMALL) + 1, .type = 1, .number = 1};
    smash(r.fds.producer, data_at(0), &h, sizeof h);
    struct err err = {0};
    struct ring_item item;
    cr_assert_eq(ring_peek(&r.c, &item, &err), RING_BROKEN);
    pair_drop(&r);
}

Test(ring, reader_refuses_a_number_that_is_not_the_next) {
    expect_broken((struct ring_header){.len = 100, .type = 1, .number = 1});
    expect_broken((struct ring_header){.len = 100, .type = 1, .number = 3});
    expect_broken((struct ring_header){.len = 100, .type = 1, .number = 0});
    expect_broken((struct ring_header){.len = 100, .type = 1, .number = UINT64_MAX});
}

Test(ring, reader_refuses_padding_that_does_not_end_at_the_wrap) {
    expect_broken((struct ring_header){.len = 100, .type = RING_PADDING, .number = 0});
    expect_broken((struct ring_header){.len = 112, .type = RING_PADDING, .number = 2});
    expect_broken((struct ring_header){.len = 0, .type = RING_PADDING, .number = 0});
    expect_broken((struct ring_header){.len = UINT32_MAX, .type = RING_PADDING, .number = 0});
}

Test(ring, reader_refuses_padding_that_reaches_beyond_the_tail) {
    expect_broken((struct ring_header){.len = SMALL - 128 - 16, .type = RING_PADDING, .number = 0});
    /* Not even when the record it leads to looks like the next one. */
    struct pair r = pair_make(SMALL, 0);
    put_and_publish(&r.p, 3, 100);
    peek_expect(&r.c, 1);
    struct ring_header padding = {.len = SMALL - 128 - 16, .type = RING_PADDING};
    struct ring_header next = {.len = 100, .type = 1, .number = 2};
    smash(r.fds.producer, data_at(0) + 128, &padding, sizeof padding);
    smash(r.fds.producer, data_at(0), &next, sizeof next);
    struct err err = {0};
    struct ring_item item;
    cr_assert_eq(ring_peek(&r.c, &item, &err), RING_BROKEN);
    pair_drop(&r);
}

Test(ring, reader_refuses_flags_it_does_not_know) {
    expect_broken((struct ring_header){.len = 100, .type = 1, .flags = 1, .number = 2});
    expect_broken((struct ring_header){.len = 100, .type = 1, .flags = 0x8000, .number = 2});
}

/* Fills the ring so that the next record goes behind a padding of `pad` bytes, and publishes it. */
static struct pair pair_at_wrap(uint64_t *padding_at) {
    struct pair r = pair_make(SMALL, 0);
    for (uint64_t n = 1; n <= 31; n++) {
        put_and_publish(&r.p, 1, 112);
        struct ring_item item = peek_expect(&r.c, n);
        ring_release(&r.c, item.end, n);
    }
    put_and_publish(&r.p, 1, 300); /* 128 bytes are left before the wrap: padding, then the record */
    *padding_at = 31 * 128;
    return r;
}

Test(ring, reader_refuses_padding_with_padding_behind_it) {
    uint64_t at;
    struct pair r = pair_at_wrap(&at);
    struct ring_header h = {.len = 300, .type = RING_PADDING, .number = 32};
    smash(r.fds.producer, data_at(0), &h, sizeof h);
    struct err err = {0};
    struct ring_item item;
    cr_assert_eq(ring_peek(&r.c, &item, &err), RING_BROKEN);
    pair_drop(&r);
}

Test(ring, reader_refuses_padding_of_the_wrong_length_at_the_wrap) {
    for (uint32_t len = 0; len < 256; len += 16) {
        uint64_t at;
        struct pair r = pair_at_wrap(&at);
        struct ring_header h = {.len = len, .type = RING_PADDING};
        smash(r.fds.producer, data_at(0) + at, &h, sizeof h);
        struct err err = {0};
        struct ring_item item;
        cr_assert_eq(ring_peek(&r.c, &item, &err), len == 112 ? RING_OK : RING_BROKEN, "length %u", len);
        pair_drop(&r);
    }
}

Test(ring, reader_refuses_a_record_that_reaches_over_the_wrap) {
    uint64_t at;
    struct pair r = pair_at_wrap(&at);
    struct ring_header h = {.len = 300, .type = 1, .number = 32};
    smash(r.fds.producer, data_at(0) + at, &h, sizeof h);
    struct err err = {0};
    struct ring_item item;
    cr_assert_eq(ring_peek(&r.c, &item, &err), RING_BROKEN);
    pair_drop(&r);
}

Test(ring, reader_refuses_a_record_where_padding_should_be) {
    uint64_t at;
    struct pair r = pair_at_wrap(&at);
    struct ring_header h = {.len = 112, .type = 1, .number = 33};
    smash(r.fds.producer, data_at(0) + at, &h, sizeof h);
    struct err err = {0};
    struct ring_item item;
    cr_assert_eq(ring_peek(&r.c, &item, &err), RING_BROKEN);
    pair_drop(&r);
}

Test(ring, reader_refuses_a_tail_that_cannot_be) {
    const uint64_t moved[] = {
        1, 8, 15, SMALL + 16, SMALL * 2, 1ULL << 40, 1ULL << 63, (uint64_t)-16, (uint64_t)-128, (uint64_t)-256};
    for (size_t i = 0; i < sizeof moved / sizeof moved[0]; i++) {
        struct pair r = pair_make(SMALL, 0);
        put_and_publish(&r.p, 3, 112);
        for (uint64_t n = 1; n <= 3; n++) {
            struct ring_item item = peek_expect(&r.c, n);
            if (n < 3) ring_release(&r.c, item.end, n);
        }
        struct ring_header plausible = {.len = 100, .type = 1, .number = 4}; /* only the tail gives it away */
        smash(r.fds.producer, data_at(0) + 3 * 128, &plausible, sizeof plausible);
        smash64(r.fds.producer, 0, 3 * 128 + moved[i]);
        struct err err = {0};
        struct ring_item item;
        cr_assert_eq(ring_peek(&r.c, &item, &err), RING_BROKEN, "tail moved by %lld", (long long)moved[i]);
        pair_drop(&r);
    }
}

Test(ring, a_producer_whose_consumer_moves_the_head_beyond_the_tail_aborts, .signal = SIGABRT) {
    struct pair r = pair_make(SMALL, 0);
    while (put_len(&r.p, 100)) {
    }
    ring_publish(&r.p);
    smash64(r.fds.consumer, 0, r.p.tail + 128);
    ring_has_room(&r.p, 100);
}

Test(ring, a_producer_whose_consumer_moves_the_head_back_aborts, .signal = SIGABRT) {
    struct pair r = pair_make(SMALL, 0);
    put_and_publish(&r.p, 20, 100);
    struct ring_item item = {0};
    for (uint64_t n = 1; n <= 20; n++) item = peek_expect(&r.c, n);
    ring_release(&r.c, item.end, 20);
    while (put_len(&r.p, 100)) {
    }
    smash64(r.fds.consumer, 0, 0); /* as far as the published tail goes that could be */
    ring_has_room(&r.p, 100);
}

Test(ring, reader_of_random_bytes_stays_within_the_ring) {
    struct pair r = pair_make(SMALL, 0);
    uint64_t seed = 4711, ok = 0, refused = 0;
    for (int round = 0; round < 20000; round++) {
        uint64_t first = r.p.number_published + 1;
        for (int i = 0; i < 4; i++)
            if (!put(&r.p)) break;
        ring_publish(&r.p);
        uint8_t bytes[8];
        size_t at = (r.c.head & r.c.mask) + random_below(&seed, 40);
        for (uint32_t n = random_below(&seed, 3); n > 0; n--) {
            uint64_t x = random_next(&seed);
            memcpy(bytes, &x, 8);
            size_t where = (at + random_below(&seed, 200)) % (SMALL - 8);
            smash(r.fds.producer, data_at(0) + where, bytes, 1 + random_below(&seed, 8));
        }
        struct ring_item item;
        struct err err;
        enum ring_state state;
        while ((state = ring_peek(&r.c, &item, &err)) == RING_OK) {
            cr_assert_geq(item.body, r.c.data);
            cr_assert_leq(item.body + item.len, r.c.data + SMALL);
            cr_assert_geq(item.number, first > 1 ? 1 : 0);
            ring_release(&r.c, item.end, item.number);
            ok++;
        }
        if (state != RING_BROKEN) continue;
        refused++;
        pair_drop(&r);
        r = pair_make(SMALL, 0);
    }
    cr_assert_gt(ok, 10000);
    cr_assert_gt(refused, 100);
    pair_drop(&r);
}

/* -- the announced sleep ----------------------------------------------------------------------- */

static bool rang(int bell) {
    uint64_t n;
    return read(bell, &n, sizeof n) == (ssize_t)sizeof n;
}

Test(ring, a_sleeping_consumer_is_rung_once_and_an_awake_one_never) {
    struct pair r = pair_make(SMALL, 0);
    put_and_publish(&r.p, 1, 8);
    cr_assert_not(rang(r.consumer_bell));
    cr_assert(ring_consumer_arm(&r.c), "there is a record: do not sleep");
    ring_consumer_disarm(&r.c);
    peek_expect(&r.c, 1);
    cr_assert_not(ring_consumer_arm(&r.c));
    put_and_publish(&r.p, 1, 8);
    cr_assert(rang(r.consumer_bell));
    put_and_publish(&r.p, 1, 8);
    cr_assert_not(rang(r.consumer_bell), "rung twice in one sleep");
    ring_consumer_disarm(&r.c);
    peek_expect(&r.c, 2);
    peek_expect(&r.c, 3);
    put_and_publish(&r.p, 1, 8);
    cr_assert_not(rang(r.consumer_bell));
    peek_expect(&r.c, 4);
    cr_assert_not(ring_consumer_arm(&r.c));
    put_and_publish(&r.p, 1, 8);
    cr_assert(rang(r.consumer_bell), "the second sleep is rung too");
    cr_assert_eq(r.p.count.wakeups, 2);
    pair_drop(&r);
}

static void release_next(struct pair *r, uint64_t number) {
    struct ring_item item = peek_expect(&r->c, number);
    ring_release(&r->c, item.end, number);
}

Test(ring, a_sleeping_producer_is_rung_once_when_a_quarter_of_the_ring_is_free) {
    struct pair r = pair_make(SMALL, 0);   /* 16 records of 240 bytes and their headers */
    for (int turn = 0; turn < 3; turn++) { /* the second and third time across the wrap */
        uint64_t first = r.c.number_released + 1;
        while (put_len(&r.p, 240)) {
        }
        ring_publish(&r.p);
        cr_assert_not(ring_producer_arm(&r.p));
        for (uint64_t n = first; n < first + 3; n++) release_next(&r, n);
        cr_assert_not(rang(r.producer_bell), "woken for less than a quarter");
        release_next(&r, first + 3);
        cr_assert(rang(r.producer_bell));
        release_next(&r, first + 4);
        cr_assert_not(rang(r.producer_bell), "rung twice in one sleep");
        ring_producer_disarm(&r.p);
        cr_assert(ring_producer_arm(&r.p), "there is room: do not sleep");
        ring_producer_disarm(&r.p);
        release_next(&r, first + 5);
        cr_assert_not(rang(r.producer_bell), "rung while awake");
    }
    cr_assert_eq(r.c.count.wakeups, 3);
    pair_drop(&r);
}

Test(ring, a_producer_goes_to_sleep_with_less_than_a_quarter_of_the_ring_free) {
    struct pair r = pair_make(SMALL, 0);
    for (int i = 0; i < 13; i++) cr_assert(put_len(&r.p, 240));
    ring_publish(&r.p);
    cr_assert(ring_has_room(&r.p, 240));
    cr_assert_not(ring_producer_arm(&r.p));
    release_next(&r, 1);
    cr_assert(rang(r.producer_bell));
    ring_producer_disarm(&r.p);
    pair_drop(&r);
}

Test(ring, a_successor_of_a_sleeper_sleeps_and_is_rung_like_the_first) {
    struct pair r = pair_make(SMALL, 0);
    cr_assert_not(ring_consumer_arm(&r.c));
    put_and_publish(&r.p, 1, 8);
    cr_assert(rang(r.consumer_bell));
    ring_consumer_detach(&r.c); /* died asleep: the flag stays set */
    put_and_publish(&r.p, 1, 8);
    consumer_attach(&r);
    peek_expect(&r.c, 1);
    peek_expect(&r.c, 2);
    cr_assert_not(ring_consumer_arm(&r.c));
    put_and_publish(&r.p, 1, 8);
    cr_assert(rang(r.consumer_bell));
    ring_consumer_disarm(&r.c);
    pair_drop(&r);
}

Test(ring, an_end_without_a_doorbell_of_its_peer_works) {
    struct pair r = pair_make(SMALL, 0);
    struct err err;
    ring_producer_detach(&r.p);
    cr_assert_eq(ring_producer_attach(&r.p, &r.fds, -1, &err), RING_ATTACHED);
    cr_assert_not(ring_consumer_arm(&r.c));
    put_and_publish(&r.p, 1, 8);
    peek_expect(&r.c, 1);
    pair_drop(&r);
}

Test(ring, a_doorbell_whose_counter_is_full_does_not_stop_the_producer) {
    struct pair r = pair_make(SMALL, 0);
    uint64_t almost = UINT64_MAX - 1;
    cr_assert_eq(write(r.consumer_bell, &almost, sizeof almost), 8);
    cr_assert_not(ring_consumer_arm(&r.c));
    put_and_publish(&r.p, 1, 8);
    cr_assert(rang(r.consumer_bell));
    pair_drop(&r);
}

/* Ring files: a copy is the ring of one moment, whatever its ends do, and whatever bytes a file holds. */
#define ring_copy ring_copy_of_help /* the helper of that name copies whole files */
#include "tests/unit/shm/help.h"
#undef ring_copy

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include "shm/ring_file.h"

static char folder[64];
static int dir;

static void folder_make(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-ringfile-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    dir = open(folder, O_RDONLY | O_DIRECTORY);
    cr_assert_geq(dir, 0);
}

static void folder_drop(void) {
    unlinkat(dir, "a.ring", 0);
    unlinkat(dir, "b.ring", 0);
    close(dir);
    rmdir(folder);
}

static uint64_t file_bytes(const char *name) {
    struct stat st;
    cr_assert_eq(fstatat(dir, name, &st, 0), 0);
    return (uint64_t)st.st_size;
}

/* Walks a copy: the numbers (first, last] with their contents. */
static void walk_expect(const struct ring_fds *copy, uint64_t released, uint64_t last) {
    struct err err = {0};
    struct ring_consumer c;
    cr_assert_eq(ring_consumer_attach(&c, copy, -1, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_eq(c.number_released, released);
    for (uint64_t n = released + 1; n <= last; n++) peek_expect(&c, n);
    peek_expect_empty(&c);
    ring_consumer_detach(&c);
}

/* A ring that has been round its end, with some records released. */
static struct pair used_ring(void) {
    struct pair r = pair_make(SMALL, 3);
    struct ring_item item;
    for (int round = 0; round < 20; round++) {
        put_and_publish(&r.p, 5, 100);
        for (int i = 0; i < 5 && r.c.number < r.p.number - 7; i++) item = peek_expect(&r.c, r.c.number + 1);
        if (r.c.number > r.c.number_released) ring_release(&r.c, item.end, item.number);
    }
    cr_assert_gt(r.p.tail, SMALL);
    cr_assert_gt(r.p.number - r.c.number_released, 5);
    return r;
}

#ifndef __SANITIZE_THREAD__

Test(ring_file, a_copy_has_the_unreleased_records_and_the_numbers) {
    struct err err = {0};
    struct pair r = used_ring();
    struct ring_fds copy;
    struct ring_snapshot was, is;
    cr_assert_eq(ring_observe(&r.fds, &was, &err), RING_ATTACHED);
    cr_assert_eq(ring_file_copy(&copy, &r.fds, RING_FILE_UNRELEASED, &err), 0, "%s", err.text);
    cr_assert_eq(ring_observe(&copy, &is, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_eq(memcmp(&was, &is, sizeof was), 0);
    uint64_t released = r.c.number_released, last = r.p.number;
    ring_rewind(&r.c); /* the original moves on; the copy does not */
    struct ring_item item = peek_expect(&r.c, released + 1);
    ring_release(&r.c, item.end, item.number);
    walk_expect(&copy, released, last);
    ring_file_drop(&copy);
    pair_drop(&r);
}

Test(ring_file, control_alone_is_enough_to_observe_and_has_no_contents) {
    struct err err = {0};
    struct pair r = used_ring();
    struct ring_fds copy;
    struct ring_snapshot s;
    cr_assert_eq(ring_file_copy(&copy, &r.fds, RING_FILE_CONTROL, &err), 0, "%s", err.text);
    cr_assert_eq(ring_observe(&copy, &s, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_eq(s.published, r.p.number);
    cr_assert_eq(s.released, r.c.number_released);
    for (size_t at = data_at(3); at < data_at(3) + SMALL; at += 8) cr_assert_eq(look64(copy.producer, at), 0);
    ring_file_drop(&copy);
    pair_drop(&r);
}

Test(ring_file, what_was_saved_is_loaded_again, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    struct pair r = used_ring();
    struct ring_fds copy;
    struct stat st;
    umask(0);
    cr_assert_eq(ring_file_save(&r.fds, dir, "a.ring", &err), 0, "%s", err.text);
    cr_assert_eq(fstatat(dir, "a.ring", &st, 0), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert_eq(file_bytes("a.ring"), 2 * RING_PAGE + data_at(3) + SMALL);
    cr_assert_eq(ring_file_load(&copy, dir, "a.ring", RING_FILE_UNRELEASED, &err), 0, "%s", err.text);
    walk_expect(&copy, r.c.number_released, r.p.number);
    ring_file_drop(&copy);
    cr_assert_eq(ring_file_save(&r.fds, dir, "a.ring", &err), -1, "an older file must stay");
    cr_assert_eq(err.code, EEXIST);
    pair_drop(&r);
}

Test(ring_file, the_whole_of_a_ring_is_saved_released_records_too, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    struct pair r = used_ring();
    static char was[SMALL], is[SMALL];
    cr_assert_eq(pread(r.fds.producer, was, SMALL, (off_t)data_at(3)), SMALL);
    cr_assert_eq(ring_file_save(&r.fds, dir, "a.ring", &err), 0, "%s", err.text);
    int file = openat(dir, "a.ring", O_RDONLY);
    cr_assert_eq(pread(file, is, SMALL, 2 * RING_PAGE + (off_t)data_at(3)), SMALL);
    cr_assert_eq(memcmp(was, is, SMALL), 0);
    close(file);
    pair_drop(&r);
}

Test(ring_file, an_unused_ring_takes_no_room_on_disk, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    struct ring_fds fds = ring_make(1 << 24, 0);
    struct stat st;
    cr_assert_eq(ring_file_save(&fds, dir, "a.ring", &err), 0, "%s", err.text);
    cr_assert_eq(fstatat(dir, "a.ring", &st, 0), 0);
    cr_assert_gt(st.st_size, 1 << 24);
    cr_assert_lt(st.st_blocks * 512, 1 << 20);
    ring_drop(&fds);
}

Test(ring_file, a_smashed_ring_is_copied_as_it_is, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    struct pair r = used_ring();
    struct ring_fds copy;
    struct ring_consumer c;
    smash64(r.fds.producer, 0, r.p.tail + 16 * SMALL);
    cr_assert_eq(ring_file_copy(&copy, &r.fds, RING_FILE_UNRELEASED, &err), 0, "%s", err.text);
    cr_assert_eq(look64(copy.producer, 0), r.p.tail + 16 * SMALL);
    cr_assert_eq(ring_consumer_attach(&c, &copy, -1, &err), RING_CORRUPT);
    ring_file_drop(&copy);
    smash64(r.fds.constants, offsetof(struct ring_constants, capacity), 12345);
    cr_assert_eq(ring_file_save(&r.fds, dir, "a.ring", &err), 0, "%s", err.text);
    cr_assert_eq(ring_file_load(&copy, dir, "a.ring", RING_FILE_UNRELEASED, &err), 0, "%s", err.text);
    cr_assert_eq(ring_consumer_attach(&c, &copy, -1, &err), RING_CORRUPT);
    ring_file_drop(&copy);
    pair_drop(&r);
}

Test(ring_file, files_that_cannot_be_rings_are_refused, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    struct ring_fds copy;
    cr_assert_eq(ring_file_load(&copy, dir, "a.ring", RING_FILE_WHOLE, &err), -1);
    cr_assert_eq(err.code, ENOENT);
    int file = openat(dir, "a.ring", O_RDWR | O_CREAT, 0600);
    const off_t sizes[] = {0, 100, 4 * RING_PAGE - 1, 2L * RING_BYTES_MAX};
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(ftruncate(file, sizes[i]), 0);
        cr_assert_eq(ring_file_load(&copy, dir, "a.ring", RING_FILE_WHOLE, &err), -1);
        cr_assert_eq(err.code, EINVAL, "%s", err.text);
        cr_assert_eq(copy.producer, -1);
    }
    close(file);
}

/* Random bytes over a saved ring: any answer is fine, a crash or a read outside is not. */
Test(ring_file, hostile_bytes_are_survived, .init = folder_make, .fini = folder_drop, .timeout = 120) {
    enum { ROUNDS = 100000, HOT = 2 * RING_PAGE + 512 };
    struct err err = {0};
    struct pair r = used_ring();
    cr_assert_eq(ring_file_save(&r.fds, dir, "a.ring", &err), 0, "%s", err.text);
    static char good[8 * RING_PAGE], bad[8 * RING_PAGE];
    size_t bytes = file_bytes("a.ring");
    int file = openat(dir, "a.ring", O_RDWR);
    cr_assert_leq(bytes, sizeof good);
    cr_assert_eq(pread(file, good, bytes, 0), (ssize_t)bytes);
    uint64_t seed = 42, walked = 0, refused = 0;
    for (int round = 0; round < ROUNDS; round++) {
        memcpy(bad, good, bytes);
        uint32_t smashes = 1 + random_below(&seed, 4);
        for (uint32_t i = 0; i < smashes; i++) {
            uint32_t area = random_below(&seed, 4); /* constants, pages, headers and contents, anywhere */
            size_t at = area == 0   ? random_below(&seed, 64)
                        : area == 1 ? RING_PAGE + random_below(&seed, HOT)
                        : area == 2 ? bytes - SMALL + random_below(&seed, SMALL / 16) * 16
                                    : random_below(&seed, (uint32_t)bytes);
            uint64_t value = random_next(&seed) >> random_below(&seed, 64);
            size_t n = 1 + random_below(&seed, 8);
            memcpy(bad + at, &value, at + n <= bytes ? n : bytes - at);
        }
        cr_assert_eq(pwrite(file, bad, bytes, 0), (ssize_t)bytes);
        struct ring_fds copy;
        struct ring_consumer c;
        struct ring_item item;
        struct ring_snapshot s;
        if (ring_file_load(&copy, dir, "a.ring", (enum ring_file_part)(round % 3), &err) != 0) continue;
        ring_observe(&copy, &s, &err);
        uint64_t sum = 0;
        if (ring_consumer_attach(&c, &copy, -1, &err) == RING_ATTACHED) {
            while (ring_peek(&c, &item, &err) == RING_OK) {
                for (uint32_t i = 0; i < item.len; i++) sum += item.body[i];
                walked++;
            }
            ring_consumer_detach(&c);
        } else
            refused++;
        cr_assert_neq(sum, UINT64_MAX);
        ring_file_drop(&copy);
    }
    cr_assert_gt(walked, ROUNDS / 10, "most rounds must get as far as the records: %llu", (unsigned long long)walked);
    cr_assert_gt(refused, ROUNDS / 100);
    close(file);
    pair_drop(&r);
}

#endif

/* -- both ends at work ------------------------------------------------------------------------- */

static _Atomic bool stop;

static void *produce(void *arg) {
    struct ring_producer *p = arg;
    while (!atomic_load(&stop)) {
        uint64_t before = p->number;
        while (p->number < before + 3 && put_len(p, 40)) continue;
        ring_publish(p);
    }
    return NULL;
}

static void *consume(void *arg) {
    struct ring_consumer *c = arg;
    struct err err;
    struct ring_item item;
    while (!atomic_load(&stop)) {
        bool any = false;
        for (int i = 0; i < 4 && ring_peek(c, &item, &err) == RING_OK; i++) any = true;
        if (any) ring_release(c, item.end, item.number);
    }
    return NULL;
}

Test(ring_file, copies_of_a_ring_at_work_are_whole, .timeout = 60) {
    struct err err = {0};
    struct pair r = pair_make(1 << 16, 0);
    pthread_t threads[2];
    cr_assert_eq(pthread_create(&threads[0], NULL, produce, &r.p), 0);
    cr_assert_eq(pthread_create(&threads[1], NULL, consume, &r.c), 0);
    uint64_t last = 0, records = 0, copies = 0;
    for (int i = 0; i < 500; i++) {
        struct ring_fds copy;
        struct ring_consumer c;
        struct ring_item item;
        enum ring_state state;
        if (ring_file_copy(&copy, &r.fds, RING_FILE_UNRELEASED, &err) != 0) {
            cr_assert_eq(err.code, EAGAIN, "%s", err.text);
            continue;
        }
        copies++;
        cr_assert_eq(ring_consumer_attach(&c, &copy, -1, &err), RING_ATTACHED, "%s", err.text);
        cr_assert_geq(c.number, last);
        last = c.number;
        while ((state = ring_peek(&c, &item, &err)) == RING_OK) {
            cr_assert(content_matches(item.body, item.number, item.len), "record %llu is torn",
                      (unsigned long long)item.number);
            records++;
        }
        cr_assert_eq(state, RING_EMPTY, "%s", err.text);
        ring_consumer_detach(&c);
        ring_file_drop(&copy);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    cr_assert_gt(copies, 400, "%llu", (unsigned long long)copies);
    cr_assert_gt(records, 0);
    pair_drop(&r);
}

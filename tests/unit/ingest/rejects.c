/* Rejects store: what is written is read back, what is torn is cut off, what is there is not stored twice; a full
 * folder, a disk that takes only part of a write, and a disk that fails to keep its promise.
 *
 * The store's source is part of this program, so that its calls to the system can be made to fail. */
#include "tests/unit/ingest/help.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

static struct {
    int fdatasync_fails, writev_fails, fsync_fails; /* so many calls fail from now on */
    size_t writev_short;                            /* when not 0: the next write takes only so many bytes */
    bool ftruncate_fails;
    uint32_t fdatasyncs;
} disk;

static int disk_fdatasync(int fd) {
    disk.fdatasyncs++;
    if (disk.fdatasync_fails > 0 && disk.fdatasync_fails--) return errno = EIO, -1;
    return fdatasync(fd);
}

static int disk_fsync(int fd) {
    if (disk.fsync_fails > 0 && disk.fsync_fails--) return errno = EIO, -1;
    return fsync(fd);
}

static int disk_ftruncate(int fd, off_t size) {
    if (disk.ftruncate_fails) return errno = EIO, -1;
    return ftruncate(fd, size);
}

static ssize_t disk_writev(int fd, const struct iovec *part, int n) {
    if (disk.writev_fails > 0 && disk.writev_fails--) return errno = ENOSPC, -1;
    if (disk.writev_short == 0) return writev(fd, part, n);
    size_t left = disk.writev_short, done = 0;
    disk.writev_short = 0;
    for (int i = 0; i < n && left > 0; i++) {
        size_t take = part[i].iov_len < left ? part[i].iov_len : left;
        cr_assert_eq(write(fd, part[i].iov_base, take), (ssize_t)take);
        left -= take;
        done += take;
    }
    return (ssize_t)done;
}

#define fdatasync disk_fdatasync
#define fsync disk_fsync
#define ftruncate disk_ftruncate
#define writev disk_writev
#include "ingest/rejects.c"
#undef fdatasync
#undef fsync
#undef ftruncate
#undef writev

/* -- help -------------------------------------------------------------------------------------- */

struct rig {
    char folder[64];
    struct bench_clock time;
    struct clock_port clock;
    struct rejects_store store;
    uint64_t incarnation[2];
};

static void rig_open(struct rig *r, uint64_t max_bytes) {
    struct err err = {0};
    cr_assert_eq(rejects_store_open(&r->store, r->folder, max_bytes, r->incarnation, 2, &r->clock, &err), 0, "%s",
                 err.text);
}

static struct rig *rig_make(uint64_t max_bytes) {
    static struct rig r;
    snprintf(r.folder, sizeof r.folder, "/tmp/millrace-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(r.folder));
    log_init("node", "ingest", -1, 0, LOG_ERROR);
    r.clock = (struct clock_port){bench_monotonic_ns, bench_wall_ms, bench_monotonic_ns, bench_random, &r.time};
    r.incarnation[0] = 11;
    r.incarnation[1] = 22;
    rig_open(&r, max_bytes);
    return &r;
}

static void rig_close(struct rig *r) { rejects_store_close(&r->store); }

static void rig_reopen(struct rig *r) {
    uint64_t max_bytes = r->store.max_bytes;
    rig_close(r);
    rig_open(r, max_bytes);
}

static void rig_drop(struct rig *r) {
    rig_close(r);
    folder_remove(r->folder);
}

/* The record that goes under a number: parts of sizes that are not multiples of anything. */
static struct record_view view_of(uint64_t number, uint32_t value_bytes) {
    static uint8_t bytes[1 << 20];
    for (uint32_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(number * 31 + i * 7 + (i >> 8));
    struct record_view v = {.head = {.op = RECORD_REJECT,
                                     .reason = (uint8_t)(1 + number % (REASON_COUNT - 1)),
                                     .topic = 1,
                                     .partition = (int32_t)(number % 5),
                                     .epoch = 1,
                                     .offset = (int64_t)number * 10,
                                     .timestamp_ms = -1,
                                     .flags = number % 2 ? RECORD_KEY_NULL : 0,
                                     .kafka_key_bytes = number % 2 ? 0 : (uint32_t)(number % 13),
                                     .value_bytes = value_bytes,
                                     .headers_bytes = (uint32_t)(number % 7)},
                            .kafka_key = bytes,
                            .value = bytes + 1,
                            .headers = bytes + 2};
    memset(v.head.id, (int)number, sizeof v.head.id);
    return v;
}

static enum rejects_result append(struct rig *r, uint32_t lane, uint64_t number, uint32_t value_bytes) {
    struct err err = {0};
    struct record_view v = view_of(number, value_bytes);
    return rejects_store_append(&r->store, lane, number, &v, "change", &err);
}

static void store(struct rig *r, uint32_t lane, uint64_t first, uint64_t last, uint32_t value_bytes) {
    struct err err = {0};
    for (uint64_t n = first; n <= last; n++)
        cr_assert_eq(append(r, lane, n, value_bytes), REJECTS_STORED, "%d", (int)n);
    cr_assert_eq(rejects_store_sync(&r->store, &err), 0, "%s", err.text);
}

/* Lane 0's numbers first … last stand in the folder, each once, in order and whole; nothing else does. */
static void expect_stored(struct rig *r, uint64_t first, uint64_t last) {
    struct kept *k = kept_read(r->folder);
    cr_assert_eq(k->count, last - first + 1, "%u entries", k->count);
    for (uint32_t i = 0; i < k->count; i++)
        cr_assert_eq(k->head[i].number, first + i, "entry %u is %d", i, (int)k->head[i].number);
}

static void segment_path(const struct rig *r, uint64_t number, char out[128]) {
    snprintf(out, 128, "%s/rejects/%08llu.rejects", r->folder, (unsigned long long)number);
}

static off_t size_of(const struct rig *r, uint64_t segment) {
    struct stat st;
    char path[128];
    segment_path(r, segment, path);
    return stat(path, &st) == 0 ? st.st_size : -1;
}

/* -- the format -------------------------------------------------------------------------------- */

Test(rejects, are_read_back_as_they_were_stored) {
    struct rig *r = rig_make(1 << 24);
    struct rejects_reader reader;
    struct rejects_record found;
    struct err err = {0};
    char folder[80];
    for (uint64_t n = 1; n <= 40; n++) store(r, n % 2, n, n, (uint32_t)(n * n * 3));
    snprintf(folder, sizeof folder, "%s/rejects", r->folder);
    cr_assert_eq(rejects_open(&reader, folder, &err), 0);
    for (uint64_t n = 1; n <= 40; n++) {
        struct record_view v = view_of(n, (uint32_t)(n * n * 3));
        cr_assert_eq(rejects_next(&reader, &found, &err), 1, "%d: %s", (int)n, err.text);
        const struct rejects_entry *e = &found.head;
        cr_assert_str_eq(found.topic, "change");
        cr_assert_eq(e->number, n);
        cr_assert_eq(e->lane, n % 2);
        cr_assert_eq(e->incarnation, n % 2 ? 22 : 11);
        cr_assert_eq(e->partition, v.head.partition);
        cr_assert_eq(e->offset, v.head.offset);
        cr_assert_eq(e->timestamp_ms, -1);
        cr_assert_eq(e->stored_ms, bench_wall_ms(&r->time));
        cr_assert_eq(e->reason, v.head.reason);
        cr_assert_eq(e->flags, v.head.flags);
        cr_assert_arr_eq(e->id, v.head.id, 16);
        same_bytes(found.key, e->key_bytes, v.kafka_key, v.head.kafka_key_bytes, "key", v.head.offset);
        same_bytes(found.value, e->value_bytes, v.value, v.head.value_bytes, "value", v.head.offset);
        same_bytes(found.headers, e->headers_bytes, v.headers, v.head.headers_bytes, "headers", v.head.offset);
    }
    cr_assert_eq(rejects_next(&reader, &found, &err), 0);
    cr_assert_eq(reader.damaged_bytes, 0);
    rejects_close(&reader);
    rig_drop(r);
}

Test(rejects, are_private_to_the_owner) {
    struct rig *r = rig_make(1 << 20);
    struct stat st;
    char path[128];
    umask(0);
    store(r, 0, 1, 1, 10);
    segment_path(r, 1, path);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    snprintf(path, sizeof path, "%s/rejects", r->folder);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0700);
    rig_drop(r);
}

Test(rejects, go_on_in_the_same_segment_after_a_restart) {
    struct rig *r = rig_make(1 << 20);
    for (uint64_t n = 1; n <= 10; n++) {
        store(r, 0, n, n, 20);
        rig_reopen(r);
    }
    expect_stored(r, 1, 10);
    cr_assert_eq(size_of(r, 2), -1);
    cr_assert_eq((uint64_t)size_of(r, 1), r->store.total_bytes);
    rig_drop(r);
}

/* -- repeats ----------------------------------------------------------------------------------- */

Test(rejects, of_one_number_are_stored_once) {
    struct rig *r = rig_make(1 << 20);
    store(r, 0, 1, 5, 20);
    for (uint64_t n = 1; n <= 5; n++) cr_assert_eq(append(r, 0, n, 20), REJECTS_REPEAT);
    rig_reopen(r);
    for (uint64_t n = 1; n <= 5; n++) cr_assert_eq(append(r, 0, n, 20), REJECTS_REPEAT);
    cr_assert_eq(append(r, 0, 6, 20), REJECTS_STORED);
    cr_assert_eq(append(r, 1, 1, 21), REJECTS_STORED, "another lane has numbers of its own");
    rig_drop(r);
}

Test(rejects, of_another_incarnation_have_numbers_of_their_own) {
    struct rig *r = rig_make(1 << 20);
    store(r, 0, 1, 5, 20);
    r->incarnation[0] = 999;
    rig_reopen(r);
    cr_assert_eq(append(r, 0, 1, 21), REJECTS_STORED);
    rig_drop(r);
}

Test(rejects, of_lanes_that_are_no_more_do_not_matter) {
    struct rig *r = rig_make(1 << 20);
    store(r, 1, 1, 5, 20);
    struct err err = {0};
    rig_close(r);
    cr_assert_eq(rejects_store_open(&r->store, r->folder, 1 << 20, r->incarnation, 1, &r->clock, &err), 0);
    cr_assert_eq(append(r, 0, 1, 21), REJECTS_STORED);
    rig_drop(r);
}

Test(rejects, of_ingest_itself_have_no_number_and_are_no_repeats) {
    struct rig *r = rig_make(1 << 20);
    cr_assert_eq(append(r, 0, 0, 20), REJECTS_STORED);
    cr_assert_eq(append(r, 0, 0, 21), REJECTS_STORED);
    cr_assert_eq(append(r, 0, 1, 20), REJECTS_STORED);
    rig_drop(r);
}

/* The record of another number, as it comes again after a rewind or by new rings. */
static enum rejects_result append_again(struct rig *r, uint64_t number, uint64_t as, uint32_t value_bytes) {
    struct err err = {0};
    struct record_view v = view_of(number, value_bytes);
    return rejects_store_append(&r->store, 0, as, &v, "change", &err);
}

Test(rejects, of_a_record_that_is_read_again_are_stored_once) {
    struct rig *r = rig_make(1 << 20);
    struct err err = {0};
    store(r, 0, 1, 5, 20);
    for (uint64_t n = 1; n <= 5; n++) cr_assert_eq(append_again(r, n, 5 + n, 20), REJECTS_REPEAT);
    cr_assert_eq(append_again(r, 6, 11, 20), REJECTS_STORED);
    cr_assert_eq(append_again(r, 6, 12, 20), REJECTS_REPEAT, "not durable yet, but on its way");
    cr_assert_eq(rejects_store_sync(&r->store, &err), 0);
    r->incarnation[0] = 999;
    rig_reopen(r);
    for (uint64_t n = 1; n <= 6; n++) cr_assert_eq(append_again(r, n, n, 20), REJECTS_REPEAT);
    cr_assert_eq(append_again(r, 3, 7, 21), REJECTS_STORED, "a record of a topic that was made anew");
    cr_assert_eq(append_again(r, 3, 0, 20), REJECTS_REPEAT, "one of ingest's own");
    rig_drop(r);
}

Test(rejects, that_could_not_be_made_durable_are_no_repeats) {
    struct rig *r = rig_make(1 << 20);
    struct err err = {0};
    cr_assert_eq(append(r, 0, 1, 20), REJECTS_STORED);
    disk.fdatasync_fails = 1;
    cr_assert_eq(rejects_store_sync(&r->store, &err), -1);
    cr_assert_eq(append(r, 0, 1, 20), REJECTS_STORED);
    cr_assert_eq(rejects_store_sync(&r->store, &err), 0);
    cr_assert_eq(append_again(r, 1, 2, 20), REJECTS_REPEAT);
    rig_drop(r);
}

Test(rejects, that_could_not_be_made_durable_are_not_believed_by_a_successor) {
    struct rig *r = rig_make(1 << 20);
    struct err err = {0};
    store(r, 0, 1, 3, 33);
    off_t durable = size_of(r, 1);
    cr_assert_eq(append(r, 0, 4, 33), REJECTS_STORED);
    disk.fdatasync_fails = 1;
    cr_assert_eq(rejects_store_sync(&r->store, &err), -1);
    cr_assert_eq(size_of(r, 1), durable, "it is in the page cache, and the kernel has told that it is not on the disk");
    rig_reopen(r);
    cr_assert_eq(append(r, 0, 4, 33), REJECTS_STORED);
    cr_assert_eq(rejects_store_sync(&r->store, &err), 0);
    expect_stored(r, 1, 4);
    rig_drop(r);
}

Test(rejects, whose_sync_fails_within_an_append_are_not_said_to_be_durable) {
    struct rig *r = rig_make(1 << 20);
    struct err err = {0};
    for (uint64_t n = 1; n <= REJECTS_PENDING_MAX; n++) cr_assert_eq(append(r, 0, n, 20), REJECTS_STORED);
    disk.fdatasync_fails = 1;
    cr_assert_eq(append(r, 0, REJECTS_PENDING_MAX + 1, 20), REJECTS_ERROR);
    cr_assert_eq(rejects_store_sync(&r->store, &err), -1, "256 of them are in no file that lasts");
    cr_assert_eq(append(r, 0, 1, 20), REJECTS_STORED);
    cr_assert_eq(rejects_store_sync(&r->store, &err), 0);
    rig_drop(r);
}

/* -- torn tails -------------------------------------------------------------------------------- */

Test(rejects, torn_at_any_byte_are_cut_off_at_start_and_nothing_before_is_lost) {
    struct rig *r = rig_make(1 << 20);
    char path[128];
    store(r, 0, 1, 3, 33);
    off_t whole = size_of(r, 1);
    store(r, 0, 4, 4, 33);
    off_t all = size_of(r, 1);
    segment_path(r, 1, path);
    uint8_t bytes[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert_eq(read(fd, bytes, sizeof bytes), all);
    close(fd);
    for (off_t cut = whole; cut < all; cut++) {
        rig_close(r);
        fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
        cr_assert_eq(write(fd, bytes, (size_t)cut), cut);
        close(fd);
        rig_open(r, 1 << 20);
        cr_assert_eq(size_of(r, 1), whole, "cut at %d", (int)cut);
        cr_assert_eq(r->store.total_bytes, (uint64_t)whole);
        cr_assert_eq(append(r, 0, 4, 33), REJECTS_STORED);
        expect_stored(r, 1, 4);
    }
    rig_drop(r);
}

Test(rejects, whose_last_bytes_were_never_written_are_cut_off) { /* the size is on the disk, the content is not */
    struct rig *r = rig_make(1 << 20);
    char path[128];
    store(r, 0, 1, 3, 33);
    off_t whole = size_of(r, 1);
    store(r, 0, 4, 4, 33);
    segment_path(r, 1, path);
    for (off_t at = whole; at < size_of(r, 1); at += 5) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        uint8_t zeros[256] = {0};
        cr_assert_gt(pwrite(fd, zeros, (size_t)(size_of(r, 1) - at), at), 0);
        close(fd);
        rig_reopen(r);
        cr_assert_eq(size_of(r, 1), whole);
        store(r, 0, 4, 4, 33);
        expect_stored(r, 1, 4);
    }
    rig_drop(r);
}

Test(rejects, segment_without_a_whole_head_is_left_alone_and_followed_by_another) {
    for (int bytes = 0; bytes < (int)sizeof(struct rejects_segment); bytes += 7) {
        struct rig *r = rig_make(1 << 20);
        char path[128];
        store(r, 0, 1, 3, 33);
        rig_close(r);
        segment_path(r, 2, path);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        cr_assert_eq(write(fd, "\x89mlrej\r\n and then nothing more of", (size_t)bytes), bytes);
        close(fd);
        rig_open(r, 1 << 20);
        store(r, 0, 4, 6, 33);
        expect_stored(r, 1, 6);
        cr_assert_gt(size_of(r, 3), 0);
        rig_drop(r);
    }
}

/* -- segments ---------------------------------------------------------------------------------- */

Test(rejects, begin_a_new_segment_when_one_is_full) {
    struct rig *r = rig_make(1ULL << 30);
    uint64_t n = 0;
    while (size_of(r, 3) < 0) {
        n++;
        cr_assert_lt(n, 300);
        store(r, 0, n, n, (1 << 20) - 100);
    }
    cr_assert_geq((uint64_t)size_of(r, 1), REJECTS_SEGMENT_BYTES);
    cr_assert_lt((uint64_t)size_of(r, 1), REJECTS_SEGMENT_BYTES + (1 << 20));
    expect_stored(r, 1, n);
    rig_reopen(r);
    cr_assert_eq(append(r, 0, n, 10), REJECTS_REPEAT);
    store(r, 0, n + 1, n + 1, 10);
    expect_stored(r, 1, n + 1);
    cr_assert_eq(r->store.total_bytes, (uint64_t)(size_of(r, 1) + size_of(r, 2) + size_of(r, 3)));
    rig_drop(r);
}

/* -- full -------------------------------------------------------------------------------------- */

Test(rejects, stop_before_max_bytes_and_not_after) {
    for (uint64_t max = 100; max < 1500; max += 41) {
        struct rig *r = rig_make(max);
        uint64_t n = 0;
        while (append(r, 0, n + 1, 50) == REJECTS_STORED) n++;
        cr_assert_eq(append(r, 0, n + 1, 50), REJECTS_FULL);
        struct kept *k = kept_read(r->folder);
        cr_assert_eq(k->count, n);
        cr_assert_leq(k->total_bytes, max, "%d bytes in a folder of %d", (int)k->total_bytes, (int)max);
        rig_drop(r);
    }
}

Test(rejects, count_what_was_there_before) {
    struct rig *r = rig_make(1000);
    uint64_t n = 0;
    while (append(r, 0, n + 1, 50) == REJECTS_STORED) n++;
    rig_reopen(r);
    cr_assert_eq(append(r, 0, n + 1, 50), REJECTS_FULL);
    rig_drop(r);
}

Test(rejects, have_room_again_when_an_operator_removes_segments) {
    struct rig *r = rig_make(1000);
    struct err err = {0};
    char path[128];
    uint64_t n = 0;
    while (append(r, 0, n + 1, 50) == REJECTS_STORED) n++;
    cr_assert_eq(rejects_store_sync(&r->store, &err), 0);
    segment_path(r, 1, path);
    cr_assert_eq(unlink(path), 0);
    int tries = 0;
    for (bool durable = false; !durable; tries++) { /* as ingest does: everything since the last sync again */
        cr_assert_lt(tries, 3);
        cr_assert_eq(append(r, 0, n + 1, 50), REJECTS_STORED);
        durable = rejects_store_sync(&r->store, &err) == 0;
    }
    expect_stored(r, n + 1, n + 1);
    rig_drop(r);
}

Test(rejects, are_not_durable_in_a_segment_that_was_removed) {
    struct rig *r = rig_make(1 << 20);
    struct err err = {0};
    char path[128];
    store(r, 0, 1, 3, 33);
    segment_path(r, 1, path);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(append(r, 0, 4, 33), REJECTS_STORED);
    cr_assert_eq(rejects_store_sync(&r->store, &err), -1);
    cr_assert_not_null(strstr(err.text, "removed"));
    store(r, 0, 4, 5, 33);
    expect_stored(r, 4, 5);
    rig_drop(r);
}

/* -- a disk that fails ------------------------------------------------------------------------- */

Test(rejects, cut_short_in_the_middle_of_a_write_are_taken_back_and_written_again) {
    for (size_t bytes = 1; bytes < sizeof(struct rejects_entry) + 60; bytes += 3) {
        struct rig *r = rig_make(1 << 20);
        store(r, 0, 1, 3, 60);
        off_t whole = size_of(r, 1);
        disk.writev_short = bytes;
        cr_assert_eq(append(r, 0, 4, 60), REJECTS_ERROR, "%d bytes", (int)bytes);
        cr_assert_eq(size_of(r, 1), whole);
        store(r, 0, 4, 6, 60);
        expect_stored(r, 1, 6);
        rig_drop(r);
    }
}

Test(rejects, that_cannot_be_taken_back_are_left_behind_in_their_segment) {
    struct rig *r = rig_make(1 << 20);
    struct err err = {0};
    store(r, 0, 1, 3, 60);
    cr_assert_eq(append(r, 0, 4, 60), REJECTS_STORED);
    disk.writev_short = 50;
    disk.ftruncate_fails = true;
    cr_assert_eq(append(r, 0, 5, 60), REJECTS_ERROR);
    disk.ftruncate_fails = false;
    cr_assert_eq(rejects_store_sync(&r->store, &err), -1, "number 4 was never made durable");
    for (uint64_t n = 4; n <= 6; n++) cr_assert_eq(append(r, 0, n, 60), REJECTS_STORED);
    cr_assert_eq(rejects_store_sync(&r->store, &err), 0);
    rig_reopen(r);
    for (uint64_t n = 1; n <= 6; n++) cr_assert_eq(append(r, 0, n, 60), REJECTS_REPEAT);
    rig_drop(r);
}

Test(rejects, meet_a_full_disk_and_go_on_when_there_is_room) {
    struct rig *r = rig_make(1 << 20);
    store(r, 0, 1, 3, 60);
    disk.writev_fails = 3;
    for (int i = 0; i < 3; i++) cr_assert_eq(append(r, 0, 4, 60), REJECTS_ERROR);
    store(r, 0, 4, 6, 60);
    expect_stored(r, 1, 6);
    rig_drop(r);
}

Test(rejects, are_not_durable_when_the_sync_fails_and_are_stored_again_elsewhere) {
    struct rig *r = rig_make(1 << 20);
    struct err err = {0};
    store(r, 0, 1, 3, 60);
    for (uint64_t n = 4; n <= 5; n++) cr_assert_eq(append(r, 0, n, 60), REJECTS_STORED);
    disk.fdatasync_fails = 1;
    cr_assert_eq(rejects_store_sync(&r->store, &err), -1);
    cr_assert_not_null(strstr(err.text, "fdatasync"));
    cr_assert_eq(append(r, 0, 3, 60), REJECTS_REPEAT, "this one is durable");
    uint32_t syncs = disk.fdatasyncs;
    store(r, 0, 4, 5, 60); /* fails when they count as stored */
    cr_assert_gt(disk.fdatasyncs, syncs);
    cr_assert_gt(size_of(r, 2), 0,
                 "the kernel may have dropped what it could not write: the segment is not to be trusted");
    rig_drop(r);
}

Test(rejects, sync_twice_as_well_as_once) {
    struct rig *r = rig_make(1 << 20);
    struct err err = {0};
    cr_assert_eq(rejects_store_sync(&r->store, &err), 0);
    cr_assert_eq(append(r, 0, 1, 60), REJECTS_STORED);
    disk.fdatasync_fails = 1;
    cr_assert_eq(rejects_store_sync(&r->store, &err), -1);
    cr_assert_eq(rejects_store_sync(&r->store, &err), 0); /* nothing appended since */
    cr_assert_eq(append(r, 0, 1, 60), REJECTS_STORED);
    rig_drop(r);
}

Test(rejects, whose_new_segment_cannot_be_made_leave_no_trace_of_it) {
    struct rig *r = rig_make(1 << 20);
    disk.fsync_fails = 1;
    cr_assert_eq(append(r, 0, 1, 60), REJECTS_ERROR);
    cr_assert_eq(size_of(r, 1), -1);
    store(r, 0, 1, 2, 60);
    expect_stored(r, 1, 2);
    rig_drop(r);
}

Test(rejects, roll_over_only_when_what_is_before_is_durable) {
    struct rig *r = rig_make(1ULL << 30);
    struct err err = {0};
    uint64_t n = 0;
    while ((uint64_t)(size_of(r, 1) < 0 ? 0 : size_of(r, 1)) < REJECTS_SEGMENT_BYTES)
        cr_assert_eq(append(r, 0, ++n, (1 << 20) - 100), REJECTS_STORED);
    disk.fdatasync_fails = 1;
    cr_assert_eq(append(r, 0, n + 1, 10), REJECTS_ERROR);
    cr_assert_eq(rejects_store_sync(&r->store, &err), -1, "nothing of what was before is durable");
    cr_assert_eq(append(r, 0, 1, 10), REJECTS_STORED, "nothing was durable yet");
    cr_assert_eq(rejects_store_sync(&r->store, &err), 0);
    rig_drop(r);
}

/* The real thing: a limit on the size of files, met in the middle of an entry. */
Test(rejects, meet_a_limit_on_file_size_without_harm) {
    struct rig *r = rig_make(1 << 20);
    struct rlimit limit = {1000, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    uint64_t n = 0;
    while (append(r, 0, n + 1, 60) == REJECTS_STORED) n++;
    cr_assert(n > 2 && n < 10);
    for (int i = 0; i < 3; i++) cr_assert_eq(append(r, 0, n + 1, 60), REJECTS_ERROR);
    expect_stored(r, 1, n);
    limit.rlim_cur = RLIM_INFINITY;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    store(r, 0, n + 1, n + 3, 60);
    expect_stored(r, 1, n + 3);
    rig_drop(r);
}

/* -- deaths ------------------------------------------------------------------------------------ */

/* A process appends and syncs for ever and is killed at any moment: what it had called durable is there, each number
 * once. */
_Noreturn static void append_for_ever(struct rig *r, _Atomic uint64_t *durable, uint64_t next) {
    struct err err;
    uint64_t seed = next + 1;
    for (;; next++) {
        enum rejects_result result = append(r, 0, next, random_below(&seed, 3000));
        if (result != REJECTS_STORED) _exit(1);
        if (next % 5 != 0) continue;
        if (rejects_store_sync(&r->store, &err) != 0) _exit(2);
        atomic_store(durable, next);
    }
}

Test(rejects, called_durable_survive_a_kill_at_any_moment, .timeout = 120) {
    struct rig *r = rig_make(1ULL << 30);
    _Atomic uint64_t *durable = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t next = 1, seed = 7;
    for (int round = 0; round < 40 && next < 3000; round++) {
        pid_t pid = fork();
        if (pid == 0) append_for_ever(r, durable, next);
        usleep(1000 + random_below(&seed, 20000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        cr_assert(WIFSIGNALED(status));
        rig_reopen(r);
        next = r->store.seen[0].number + 1;
        cr_assert_gt(next, atomic_load(durable));
        expect_stored(r, 1, next - 1);
    }
    cr_assert_gt(next, 40, "it hardly got to work");
    rig_drop(r);
}

#include <errno.h>
#include <sysexits.h>

#include "tests/unit/audit/help.h"

Test(log_reader, a_folder_that_is_not_there_is_told) {
    struct err err;
    cr_assert_null(log_reader_open("/tmp/millrace-no-such-folder", 0, &err));
    cr_assert_eq(err.code, EX_NOINPUT);
}

Test(log_reader, a_log_without_a_segment_ends_at_once_and_goes_on_when_there_is_one) {
    struct bench *b = bench_make();
    struct log_item item;
    cr_assert_eq(mkdir(b->log, 0700), 0);
    struct log_reader *r = log_reader_open(b->log, 0, &b->err);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_END);
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_END);
    log_fill(b, 1, 3, 2);
    for (uint64_t s = 1; s <= 3; s++) {
        cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
        cr_assert_eq(item.sequence, s);
        cr_assert_eq(item.entry->offset, (int64_t)s);
        cr_assert_str_eq(item.topic, "cards");
        cr_assert_eq(item.incarnation, 77);
        cr_assert_eq(item.entry->slot, 0);
    }
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_END);
    log_fill(b, 4, 1, 1);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
    cr_assert_eq(log_reader_sequence(r), 5);
    log_reader_close(r);
    bench_drop(b);
}

Test(log_reader, what_is_not_durable_yet_is_not_shown) {
    struct bench *b = bench_make();
    struct log_item item;
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 5, 5);
    uint64_t end = b->writer.end;
    log_fill(b, 6, 5, 5);
    twin_store(&b->writer.mark->end, 1, end);
    struct log_reader *r = log_reader_open(b->log, 4, &b->err);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_END);
    twin_store(&b->writer.mark->end, 1, b->writer.end);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
    cr_assert_eq(item.sequence, 6);
    log_reader_close(r);
    bench_drop(b);
}

Test(log_reader, contents_and_segments_are_read_from_any_sequence_number) {
    struct bench *b = bench_make();
    struct log_item item;
    enum { N = 3000 };
    cr_assert_eq(bench_open(b), 0);
    for (int i = 1; i <= N; i++) {
        log_writer_add(&b->writer, (uint32_t)i % 2, 70 + (uint64_t)(i % 2), (uint64_t)i,
                       entry_make((uint16_t)(i % 2), i % 3, i, (uint32_t)(i % 9) * 100 + (uint32_t)i % 7));
        if (i % 50 == 0) cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0);
    }
    cr_assert_gt(b->writer.closed_count, 0);
    for (uint64_t from = 0; from <= N + 1; from += from == 0 ? 1 : 100) {
        struct log_reader *r = log_reader_open(b->log, from, &b->err);
        uint64_t expected = from == 0 ? 1 : from;
        while (log_reader_next(r, &item, &b->err) == LOG_ITEM) {
            int i = (int)expected;
            cr_assert_eq(item.sequence, expected++);
            cr_assert_eq(item.entry->slot, i % 2);
            cr_assert_eq(item.incarnation, 70 + (uint64_t)(i % 2));
            cr_assert_str_eq(item.topic, i % 2 == 0 ? "cards" : "limits");
            const struct entry *e = entry_make((uint16_t)(i % 2), i % 3, i, (uint32_t)(i % 9) * 100 + (uint32_t)i % 7);
            cr_assert_eq(memcmp(item.entry->id, e->id, 16), 0);
            cr_assert_eq(item.entry->content_bytes, e->content_bytes);
            cr_assert_eq(memcmp(item.entry + 1, e + 1, e->content_bytes), 0);
        }
        cr_assert_eq(expected, N + 1);
        log_reader_seek(r, 17);
        cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
        cr_assert_eq(item.sequence, 17);
        log_reader_seek(r, 1234);
        cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
        cr_assert_eq(item.sequence, 1234);
        log_reader_close(r);
    }
    bench_drop(b);
}

Test(log_reader, what_retention_has_removed_is_told_and_passed_over) {
    struct bench *b = bench_make();
    struct log_item item;
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 16000, 500);
    cr_assert_geq(b->writer.closed_count, 2);
    uint64_t second = b->writer.closed[1].first;
    struct log_reader *inside = log_reader_open(b->log, 10, &b->err);
    cr_assert_eq(log_reader_next(inside, &item, &b->err), LOG_ITEM);
    cr_assert_eq(log_writer_remove(&b->writer, &b->err), 0);
    struct log_reader *r = log_reader_open(b->log, 10, &b->err);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_GONE);
    cr_assert_eq(log_reader_sequence(r), second);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
    cr_assert_eq(item.sequence, second);
    log_reader_close(r);
    uint64_t n = 1; /* who has the file open reads on in it */
    while (log_reader_next(inside, &item, &b->err) == LOG_ITEM) n++;
    cr_assert_eq(n, 16000 - 9);
    log_reader_close(inside);
    bench_drop(b);
}

Test(log_reader, a_segment_missing_in_the_middle_is_gone_not_the_end) {
    struct bench *b = bench_make();
    struct log_item item;
    char path[128];
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 16000, 500);
    cr_assert_geq(b->writer.closed_count, 2);
    uint64_t second = b->writer.closed[1].first;
    snprintf(path, sizeof path, "%s/%016" PRIx64 ".log", b->log, second);
    cr_assert_eq(unlink(path), 0);
    struct log_reader *r = log_reader_open(b->log, 0, &b->err);
    for (uint64_t s = 1; s < second; s++) cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_GONE);
    cr_assert_gt(log_reader_sequence(r), second);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
    log_reader_close(r);
    bench_drop(b);
}

Test(log_reader, a_log_that_ends_before_the_number_asked_for_is_bad) {
    struct bench *b = bench_make();
    struct log_item item;
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 10, 5);
    struct log_reader *r = log_reader_open(b->log, 11, &b->err);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_END);
    log_reader_seek(r, 12);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_BAD);
    cr_assert_not_null(strstr(b->err.text, "sequence number 12"), "%s", b->err.text);
    log_fill(b, 11, 2, 2);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM);
    cr_assert_eq(item.sequence, 12);
    log_reader_close(r);
    bench_drop(b);
}

Test(log_reader, a_copy_without_the_mark_is_read_to_its_last_whole_batch) {
    struct bench *b = bench_make();
    char path[128];
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 20, 5);
    snprintf(path, sizeof path, "%s/" LOG_MARK_NAME, b->log);
    cr_assert_eq(unlink(path), 0);
    off_t end = (off_t)b->writer.end;
    cr_assert_eq(log_count(b, 0), 20);
    cr_assert_eq(file_bytes(b, 1) % LOG_BLOCK_BYTES, 0);
    file_cut(b, 1, end + 1); /* within the zeros behind it */
    cr_assert_eq(log_count(b, 0), 20);
    file_cut(b, 1, end - 1);
    cr_assert_eq(log_count(b, 0), 15);
    bench_drop(b);
}

Test(log_reader, broken_bytes_are_told_with_their_place) {
    struct bench *b = bench_make();
    struct log_item item;
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 20, 5);
    struct segment s;
    segment_init(&s);
    int folder = open(b->log, O_RDONLY | O_DIRECTORY);
    cr_assert_eq(segment_open(&s, folder, 1, &b->err), 0);
    file_put(b, 1, (off_t)s.body + 40 + 24, "\x09", 1); /* length of the first entry */
    struct log_reader *r = log_reader_open(b->log, 0, &b->err);
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_BAD);
    cr_assert_not_null(strstr(b->err.text, "0000000000000001.log, byte "), "%s", b->err.text);
    log_reader_close(r);
    segment_free(&s);
    close(folder);
    bench_drop(b);
}

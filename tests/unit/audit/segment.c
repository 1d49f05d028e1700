#include "audit/segment.h"

#include <errno.h>
#include <sysexits.h>

#include "tests/unit/audit/help.h"

Test(segment, only_files_with_the_name_of_a_segment_are_listed_in_ascending_order) {
    static const char *const names[] = {
        "00000000000000ff.log", "0000000000000001.log",   "0000000000000010.log",  "0000000000000000.log",
        "00000000000000FE.log", "00000000000000fe.index", "00000000000000fe.logs", "durable",
        "segment.new"};
    struct bench *b = bench_make();
    size_t count;
    int folder = open(b->dir, O_RDONLY | O_DIRECTORY);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        close(openat(folder, names[i], O_WRONLY | O_CREAT, 0600));
    uint64_t *list = segment_list(folder, &count, &b->err);
    cr_assert_eq(count, 3);
    cr_assert(list[0] == 1 && list[1] == 16 && list[2] == 255);
    free(list);
    close(folder);
    bench_drop(b);
}

Test(segment, a_head_that_cannot_be_is_refused_with_the_reason) {
    static const struct {
        size_t at;
        uint8_t value;
        const char *reason;
    } cases[] = {{offsetof(struct log_head, magic), 0, "no segment"},
                 {offsetof(struct log_head, version), 9, "version"},
                 {offsetof(struct log_head, entry_version), 9, "version"},
                 {offsetof(struct log_head, first), 2, "another sequence number"},
                 {offsetof(struct log_head, topic_count), 0, "counts"},
                 {offsetof(struct log_head, topic_count), TOPICS_MAX + 1, "counts"},
                 {offsetof(struct log_head, lane_count), LANES_MAX + 1, "counts"},
                 {offsetof(struct log_head, topic_count), 60, "within its head"}};
    struct bench *b = bench_make();
    struct segment s;
    segment_init(&s);
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 3, 3);
    cr_assert_eq(segment_open(&s, b->writer.folder_fd, 2, &b->err), -1);
    cr_assert_eq(b->err.code, ENOENT);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t was;
        int fd = file_open(b, 1);
        cr_assert_eq(pread(fd, &was, 1, (off_t)cases[i].at), 1);
        cr_assert_eq(pwrite(fd, &cases[i].value, 1, (off_t)cases[i].at), 1);
        cr_assert_eq(segment_open(&s, b->writer.folder_fd, 1, &b->err), -1);
        cr_assert_eq(b->err.code, EX_DATAERR);
        cr_assert_not_null(strstr(b->err.text, cases[i].reason), "%s", b->err.text);
        cr_assert_eq(pwrite(fd, &was, 1, (off_t)cases[i].at), 1);
        close(fd);
    }
    cr_assert_eq(segment_open(&s, b->writer.folder_fd, 1, &b->err), 0);
    cr_assert_str_eq(s.topic[1], "limits");
    segment_free(&s);
    bench_drop(b);
}

/* Refeed requests and their results: what is written is read back, and nothing else is taken for one. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/refeed_request.h"

static char dir[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void folder_make(void) {
    snprintf(dir, sizeof dir, "/tmp/millrace-refeed-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
}
static void folder_remove(void) { nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

TestSuite(refeed_request, .init = folder_make, .fini = folder_remove);

static struct refeed_request *request_of_two(void) {
    struct refeed_request *r = refeed_request_new();
    struct err err = {0};
    cr_assert_eq(refeed_request_until(r, "cards.bulk", 3, 1000, &err), 0);
    cr_assert_eq(refeed_request_until(r, "cards.change", 0, 50, &err), 0);
    static const int64_t offset[] = {700, 5, 999, 5, 0};
    for (size_t i = 0; i < sizeof offset / sizeof offset[0]; i++)
        cr_assert_eq(refeed_request_add(r, "cards.bulk", 3, offset[i], &err), 0);
    return r;
}

static void written(char id[REFEED_ID_BYTES], char path[PATH_BYTES + 64]) {
    struct refeed_request *r = request_of_two();
    struct err err = {0};
    cr_assert_eq(refeed_request_write(r, dir, id, &err), 0, "%s", err.text);
    cr_assert(refeed_id_valid(id));
    refeed_path(path, dir, id, "refeed");
    refeed_request_free(r);
}

Test(refeed_request, is_read_as_it_was_written_sorted_and_each_offset_once) {
    char id[REFEED_ID_BYTES], path[PATH_BYTES + 64];
    struct refeed_wanted w;
    struct err err = {0};
    written(id, path);
    cr_assert_eq(refeed_request_read(path, &w, &err), 0, "%s", err.text);
    cr_assert_eq(w.count, 2);
    cr_assert_str_eq(w.part[0]->topic, "cards.bulk");
    cr_assert(w.part[0]->partition == 3 && w.part[0]->until == 1000 && w.part[0]->count == 4);
    static const int64_t sorted[] = {0, 5, 700, 999};
    cr_assert_arr_eq(w.offset[0], sorted, sizeof sorted);
    cr_assert(w.part[1]->count == 0 && w.part[1]->until == 50, "a partition without offsets stays in it");
    free(w.memory);
    char folder[PATH_BYTES + 64];
    struct stat st;
    refeed_path(folder, dir, NULL, NULL);
    cr_assert_eq(stat(folder, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0700);
}

Test(refeed_request, refuses_what_is_out_of_range) {
    struct refeed_request *r = request_of_two();
    struct err err = {0};
    cr_assert_eq(refeed_request_add(r, "cards.bulk", 3, 1000, &err), -1, "not below until");
    cr_assert_eq(refeed_request_add(r, "cards.bulk", 3, -1, &err), -1);
    cr_assert_eq(refeed_request_add(r, "cards.bulk", 4, 1, &err), -1, "a partition that was not added");
    cr_assert_eq(refeed_request_until(r, "with space", 0, 1, &err), -1);
    cr_assert_eq(refeed_request_until(r, "", 0, 1, &err), -1);
    cr_assert_eq(refeed_request_until(r, "cards.bulk", -1, 1, &err), -1);
    cr_assert_eq(refeed_request_until(r, "cards.bulk", 0, -1, &err), -1);
    cr_assert_eq(refeed_request_until(r, "cards.bulk", 0, 1LL << 62, &err), -1);
    cr_assert_eq(err.code, EX_USAGE);
    cr_assert_eq(refeed_request_count(r), 5);
    refeed_request_free(r);
}

Test(refeed_request, is_bounded) {
    struct refeed_request *r = refeed_request_new();
    struct err err = {0};
    char id[REFEED_ID_BYTES];
    cr_assert_eq(refeed_request_write(r, dir, id, &err), -1, "nothing is asked for");
    for (int32_t i = 0; i < PARTITIONS_MAX; i++)
        cr_assert_eq(refeed_request_until(r, "t", i, REFEED_OFFSETS_MAX + 1, &err), 0);
    cr_assert_eq(refeed_request_until(r, "t", PARTITIONS_MAX, 1, &err), -1);
    for (int64_t i = 0; i < REFEED_OFFSETS_MAX; i++) cr_assert_eq(refeed_request_add(r, "t", 7, i, &err), 0);
    cr_assert_eq(refeed_request_add(r, "t", 8, 0, &err), -1);
    char path[PATH_BYTES + 64];
    struct refeed_wanted w;
    cr_assert_eq(refeed_request_write(r, dir, id, &err), 0, "%s", err.text);
    refeed_path(path, dir, id, "refeed");
    cr_assert_eq(refeed_request_read(path, &w, &err), 0, "the largest is read: %s", err.text);
    cr_assert(w.count == PARTITIONS_MAX && w.part[7]->count == REFEED_OFFSETS_MAX);
    free(w.memory);
    refeed_request_free(r);
}

/* Every cut and every changed byte of the heads is refused, or leaves a request that is in order by itself. */
Test(refeed_request, damaged_files_are_refused) {
    char id[REFEED_ID_BYTES], path[PATH_BYTES + 64], bytes[2048];
    struct refeed_wanted w;
    struct err err = {0};
    written(id, path);
    int fd = open(path, O_RDWR);
    ssize_t len = read(fd, bytes, sizeof bytes);
    cr_assert_eq(len, (ssize_t)(sizeof(struct refeed_head) + 2 * sizeof(struct refeed_partition) + 4 * 8));
    for (ssize_t cut = 0; cut < len; cut++) {
        cr_assert_eq(ftruncate(fd, cut), 0);
        cr_assert_eq(refeed_request_read(path, &w, &err), -1, "cut to %zd bytes", cut);
        cr_assert_eq(pwrite(fd, bytes, (size_t)len, 0), len);
    }
    cr_assert_eq(ftruncate(fd, len + 8), 0);
    cr_assert_eq(refeed_request_read(path, &w, &err), -1, "bytes behind the end");
    cr_assert_eq(ftruncate(fd, len), 0);
    size_t offsets = sizeof(struct refeed_head) + sizeof(struct refeed_partition);
    static const struct {
        size_t at;
        unsigned char with;
        const char *what;
    } change[] = {{0, 0, "magic"},    {8, 9, "version"},         {12, 3, "partitions"},
                  {16, 5, "offsets"}, {24, 0, "an empty topic"}, {25, ' ', "a topic with a space"}};
    for (size_t i = 0; i < sizeof change / sizeof change[0]; i++) {
        cr_assert_eq(pwrite(fd, &change[i].with, 1, (off_t)change[i].at), 1);
        cr_assert_eq(refeed_request_read(path, &w, &err), -1, "%s", change[i].what);
        cr_assert_eq(err.code, EX_DATAERR);
        cr_assert_eq(pwrite(fd, bytes, (size_t)len, 0), len);
    }
    static const int64_t wrong[][4] = {{5, 0, 700, 999}, {0, 5, 5, 999}, {0, 5, 700, 1000}, {-1, 5, 700, 999}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_assert_eq(pwrite(fd, wrong[i], sizeof wrong[i], (off_t)offsets), (ssize_t)sizeof wrong[i]);
        cr_assert_eq(refeed_request_read(path, &w, &err), -1, "offsets %zu", i);
    }
    close(fd);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(refeed_request_read(path, &w, &err), -1);
    cr_assert_eq(err.code, EX_NOINPUT);
}

Test(refeed_request, one_partition_twice_is_refused) {
    char id[REFEED_ID_BYTES], path[PATH_BYTES + 64];
    struct refeed_wanted w;
    struct err err = {0};
    struct {
        struct refeed_head head;
        struct refeed_partition part[2];
    } file = {{REFEED_MAGIC, REFEED_VERSION, 2, 0}, {{"t", 1, 0, 5}, {"t", 1, 0, 5}}};
    written(id, path);
    for (int same = 1; same >= 0; same--) {
        FILE *f = fopen(path, "w");
        cr_assert(f != NULL && fwrite(&file, sizeof file, 1, f) == 1 && fclose(f) == 0);
        cr_assert_eq(refeed_request_read(path, &w, &err), same ? -1 : 0);
        file.part[1].partition = 2;
    }
    free(w.memory);
}

Test(refeed_request, names_sort_by_time) {
    char first[REFEED_ID_BYTES], second[REFEED_ID_BYTES], path[PATH_BYTES + 64];
    written(first, path);
    usleep(3000);
    written(second, path);
    cr_assert_lt(strcmp(first, second), 0);
    cr_assert(!refeed_id_valid("../../etc/passwd") && !refeed_id_valid("0123456789abcde") &&
              !refeed_id_valid("0123456789ABCDEF"));
}

static void result_written(const char *id) {
    struct refeed_outcome o[] = {{"cards.bulk", 3, REFEED_DONE, 5, 3, 1, 900}, {"x", 0, REFEED_ELSEWHERE, 1, 0, 0, -1}};
    struct refeed_missing m[] = {{"cards.bulk", 3, 0, true}, {"cards.bulk", 3, 5, false}};
    struct refeed_result r = {2, 2, o, m, "why it was"};
    struct err err = {0};
    cr_assert_eq(refeed_result_write(dir, id, &r, &err), 0, "%s", err.text);
}

Test(refeed_request, a_result_is_read_as_it_was_written) {
    char id[REFEED_ID_BYTES], path[PATH_BYTES + 64];
    struct refeed_result r;
    struct err err = {0};
    written(id, path);
    cr_assert_eq(refeed_result_read(dir, id, &r, &err), 0, "not there yet");
    result_written(id);
    cr_assert_eq(refeed_result_read(dir, id, &r, &err), 1, "%s", err.text);
    cr_assert(r.partitions == 2 && r.missing == 2);
    cr_assert_str_eq(r.partition[0].topic, "cards.bulk");
    cr_assert(r.partition[0].partition == 3 && r.partition[0].state == REFEED_DONE && r.partition[0].asked == 5 &&
              r.partition[0].fed == 3 && r.partition[0].covered == 1 && r.partition[0].from == 900);
    cr_assert(r.partition[1].state == REFEED_ELSEWHERE && r.partition[1].from == -1);
    cr_assert(r.miss[0].gone && r.miss[0].offset == 0 && !r.miss[1].gone && r.miss[1].offset == 5);
    cr_assert_str_eq(r.reason, "why it was");
    refeed_result_free(&r);
    refeed_path(path, dir, id, "done");
    static const char *const bad[] = {"",
                                      "millrace refeed 2\nend \n",
                                      "millrace refeed 1\n",
                                      "millrace refeed 1\npartition t 1 perhaps asked=1 fed=1 covered=0 from=1\nend \n",
                                      "millrace refeed 1\nmissing t 1 5 lost\nend \n",
                                      "millrace refeed 1\nrubbish\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        FILE *f = fopen(path, "w");
        cr_assert(f != NULL && fputs(bad[i], f) >= 0 && fclose(f) == 0);
        cr_assert_eq(refeed_result_read(dir, id, &r, &err), -1, "%s", bad[i]);
    }
}

Test(refeed_request, is_not_withdrawn_once_it_is_begun) {
    char id[REFEED_ID_BYTES], path[PATH_BYTES + 64], begun[PATH_BYTES + 64];
    written(id, path);
    refeed_path(begun, dir, id, "begun");
    cr_assert_eq(close(open(begun, O_CREAT | O_WRONLY, 0600)), 0);
    cr_assert(!refeed_request_remove(dir, id) && access(path, F_OK) == 0);
    result_written(id);
    cr_assert(refeed_request_remove(dir, id));
    cr_assert(access(path, F_OK) != 0 && access(begun, F_OK) != 0);
    refeed_path(path, dir, id, "done");
    cr_assert_neq(access(path, F_OK), 0);
    cr_assert(refeed_request_remove(dir, id), "nothing is left, and that is no error");
}

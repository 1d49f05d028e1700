#include "base/rejects_read.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

static char folder[64];

static void setup(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-rejects-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void file_path(char out[128], uint64_t number) {
    char name[REJECTS_NAME_BYTES];
    rejects_segment_name(name, number);
    snprintf(out, 128, "%s/%s", folder, name);
}

static void teardown(void) {
    char path[128];
    for (uint64_t i = 0; i < 12; i++) {
        file_path(path, i);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/other", folder);
    unlink(path);
    rmdir(folder);
}
TestSuite(rejects_read, .init = setup, .fini = teardown);

static FILE *segment_make(uint64_t number) {
    char path[128];
    file_path(path, number);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    struct rejects_segment head = {
        .magic = REJECTS_MAGIC, .version = REJECTS_VERSION, .header_bytes = sizeof head, .number = number};
    fwrite(&head, sizeof head, 1, f);
    return f;
}

/* Appends an entry as ingest writes it. Returns its length. */
static size_t entry_put(FILE *f, int64_t offset, const char *key, const char *value) {
    struct rejects_entry e = {.magic = REJECTS_ENTRY_MAGIC,
                              .topic_bytes = 5,
                              .reason = 4,
                              .lane = 2,
                              .partition = 3,
                              .incarnation = 77,
                              .number = (uint64_t)offset + 100,
                              .offset = offset,
                              .timestamp_ms = 5,
                              .key_bytes = (uint32_t)strlen(key),
                              .value_bytes = (uint32_t)strlen(value)};
    static uint8_t parts[4096];
    size_t total = rejects_entry_bytes(&e), rest = total - sizeof e;
    memset(parts, 0, sizeof parts);
    memcpy(parts, "cards", 5);
    memcpy(parts + 5, key, e.key_bytes);
    memcpy(parts + 5 + e.key_bytes, value, e.value_bytes);
    e.total_bytes = (uint32_t)total;
    e.checksum = rejects_checksum(rejects_checksum(0, (uint8_t *)&e + 8, sizeof e - 8), parts, rest);
    fwrite(&e, sizeof e, 1, f);
    fwrite(parts, rest, 1, f);
    return total;
}

/* Reads all of the folder; expects these offsets in this order, ending with -1. */
static struct rejects_reader read_expect(const int64_t *offsets) {
    struct rejects_reader r;
    struct rejects_record record;
    struct err err = {0};
    cr_assert_eq(rejects_open(&r, folder, &err), 0, "%s", err.text);
    int more;
    while ((more = rejects_next(&r, &record, &err)) == 1) {
        cr_assert_neq(*offsets, -1, "more than was expected: offset %ld", (long)record.head.offset);
        cr_assert_eq(record.head.offset, *offsets++);
        cr_assert_str_eq(record.topic, "cards");
        cr_assert_eq(record.head.number, (uint64_t)record.head.offset + 100);
    }
    cr_assert_eq(more, 0, "%s", err.text);
    cr_assert_eq(*offsets, -1, "offset %ld is missing", (long)*offsets);
    struct rejects_reader end = r;
    rejects_close(&r);
    return end;
}
#define READ_EXPECT(...) read_expect((const int64_t[]){__VA_ARGS__, -1})

Test(rejects_read, checksum_is_crc32c) {
    cr_assert_eq(rejects_checksum(0, "123456789", 9), 0xe3069283U); /* the check value of the CRC catalogue */
    cr_assert_eq(rejects_checksum(rejects_checksum(0, "1234", 4), "56789", 5), 0xe3069283U);
}

Test(rejects_read, no_folder_is_an_empty_one) {
    struct rejects_reader r;
    struct rejects_record record;
    struct err err = {0};
    cr_assert_eq(rejects_open(&r, "/nonexistent/rejects", &err), 0);
    cr_assert_eq(rejects_next(&r, &record, &err), 0);
    cr_assert_eq(r.segment, 0);
    rejects_close(&r);
    cr_assert_eq(read_expect((const int64_t[]){-1}).segment, 0);
}

Test(rejects_read, reads_segments_in_order_and_says_where_to_append) {
    FILE *f = segment_make(10), *g = segment_make(9);
    entry_put(f, 4, "k", "four");
    entry_put(f, 5, "", "");
    entry_put(g, 1, "key", "one");
    fclose(f);
    fclose(g);
    char path[128];
    snprintf(path, sizeof path, "%s/other", folder);
    fclose(fopen(path, "w"));
    struct rejects_reader r = READ_EXPECT(1, 4, 5);
    cr_assert_eq(r.segment, 10);
    cr_assert_eq(r.position, r.segment_bytes);
    cr_assert_eq(r.damaged_bytes, 0);
}

Test(rejects_read, gives_the_parts_back) {
    FILE *f = segment_make(1);
    entry_put(f, 4, "the key", "the value");
    fclose(f);
    struct rejects_reader r;
    struct rejects_record record;
    struct err err = {0};
    cr_assert_eq(rejects_open(&r, folder, &err), 0);
    cr_assert_eq(rejects_next(&r, &record, &err), 1);
    cr_assert_eq(record.head.key_bytes, 7);
    cr_assert_eq(memcmp(record.key, "the key", 7), 0);
    cr_assert_eq(memcmp(record.value, "the value", 9), 0);
    cr_assert_eq(record.head.lane, 2);
    cr_assert_eq(record.head.incarnation, 77);
    cr_assert_eq(record.segment, 1);
    rejects_close(&r);
}

Test(rejects_read, finds_the_torn_tail_at_every_length) {
    char path[128];
    FILE *f = segment_make(3);
    size_t whole = sizeof(struct rejects_segment) + entry_put(f, 1, "k", "first");
    size_t last = entry_put(f, 2, "k", "a second one");
    fclose(f);
    file_path(path, 3);
    for (size_t cut = last; cut-- > 0;) {
        cr_assert_eq(truncate(path, (off_t)(whole + cut)), 0);
        struct rejects_reader r = READ_EXPECT(1);
        cr_assert_eq(r.segment, 3);
        cr_assert_eq(r.position, whole);
        cr_assert_eq(r.damaged_bytes, cut);
    }
    for (size_t cut = sizeof(struct rejects_segment); cut-- > 0;) {
        cr_assert_eq(truncate(path, (off_t)cut), 0);
        struct rejects_reader r = read_expect((const int64_t[]){-1});
        cr_assert_eq(r.segment, 3);
        cr_assert_eq(r.position, 0, "not even its head is whole");
    }
}

Test(rejects_read, every_flipped_byte_is_noticed_and_later_segments_are_read) {
    char path[128];
    FILE *f = segment_make(1);
    size_t begin = sizeof(struct rejects_segment), len = entry_put(f, 1, "key", "value");
    fclose(f);
    f = segment_make(2);
    entry_put(f, 2, "k", "v");
    fclose(f);
    file_path(path, 1);
    int fd = open(path, O_RDWR);
    for (size_t i = begin; i < begin + len; i++) {
        uint8_t byte;
        cr_assert_eq(pread(fd, &byte, 1, (off_t)i), 1);
        byte ^= 0x20;
        cr_assert_eq(pwrite(fd, &byte, 1, (off_t)i), 1);
        struct rejects_reader r = READ_EXPECT(2);
        cr_assert_eq(r.damaged_bytes, len, "byte %zu", i);
        byte ^= 0x20;
        cr_assert_eq(pwrite(fd, &byte, 1, (off_t)i), 1);
    }
    close(fd);
    READ_EXPECT(1, 2);
}

Test(rejects_read, refuses_another_version) {
    char path[128];
    fclose(segment_make(1));
    file_path(path, 1);
    int fd = open(path, O_RDWR);
    cr_assert_eq(pwrite(fd, "\2", 1, 8), 1);
    close(fd);
    struct rejects_reader r;
    struct rejects_record record;
    struct err err = {0};
    cr_assert_eq(rejects_open(&r, folder, &err), 0);
    cr_assert_eq(rejects_next(&r, &record, &err), -1);
    cr_assert_eq(err.code, EX_DATAERR);
    rejects_close(&r);
}

#include "feed/rows.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <unistd.h>

static struct err err;

static int file_of(const void *text, size_t len) {
    int fd = memfd_create("rows", MFD_CLOEXEC);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, len), (ssize_t)len);
    cr_assert_eq(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

/* Everything that rows_next says, a line each. */
static const char *all(const void *text, size_t len, enum rows_format format, const char *add, const char *add_value) {
    static char out[8192];
    size_t n = 0;
    struct row row;
    out[0] = 0;
    err = (struct err){0};
    int fd = file_of(text, len);
    struct rows *r = rows_open(fd, format, add, add_value, &err);
    if (r == NULL) snprintf(out, sizeof out, "refused: %s", err.text);
    for (enum rows_result got = ROWS_ROW; r != NULL && got != ROWS_END;) {
        got = rows_next(r, &row, &err);
        if (got == ROWS_ROW)
            n += (size_t)snprintf(out + n, sizeof out - n, "%llu %.*s\n", (unsigned long long)row.line,
                                  (int)row.value_bytes, (const char *)row.value);
        if (got == ROWS_BAD || got == ROWS_FAILED)
            n += (size_t)snprintf(out + n, sizeof out - n, "%s%s\n", got == ROWS_FAILED ? "failed: " : "", err.text);
        if (got == ROWS_FAILED) break;
    }
    rows_close(r);
    close(fd);
    return out;
}

static const char *csv(const char *text) { return all(text, strlen(text), ROWS_CSV, NULL, NULL); }
static const char *jsonl(const char *text) { return all(text, strlen(text), ROWS_JSONL, NULL, NULL); }

Test(rows, csv_becomes_objects_of_strings) {
    cr_assert_str_eq(csv("a,b\n1,x\n2,\n"), "2 {\"a\":\"1\",\"b\":\"x\"}\n3 {\"a\":\"2\",\"b\":\"\"}\n");
    cr_assert_str_eq(csv("a,b\r\n1,x\r\n,\r\n"), "2 {\"a\":\"1\",\"b\":\"x\"}\n3 {\"a\":\"\",\"b\":\"\"}\n");
    cr_assert_str_eq(csv("a\n1"), "2 {\"a\":\"1\"}\n");
    cr_assert_str_eq(csv("a,b\n1,"), "2 {\"a\":\"1\",\"b\":\"\"}\n");
    cr_assert_str_eq(csv("\xef\xbb\xbf"
                         "a\n1\n"),
                     "2 {\"a\":\"1\"}\n");
    cr_assert_str_eq(csv("a\n"), "");
    cr_assert_str_eq(csv("a"), "");
}

Test(rows, csv_fields_may_be_quoted) {
    cr_assert_str_eq(csv("a,b\n\"1,2\",\"say \"\"hi\"\"\"\n"), "2 {\"a\":\"1,2\",\"b\":\"say \\\"hi\\\"\"}\n");
    cr_assert_str_eq(csv("\"a\"\"\",b\n\"\",\"x\"\r\n\"last\",\"\"\"\""),
                     "2 {\"a\\\"\":\"\",\"b\":\"x\"}\n3 {\"a\\\"\":\"last\",\"b\":\"\\\"\"}\n");
}

Test(rows, csv_fields_may_have_line_breaks_and_lines_are_counted) {
    cr_assert_str_eq(csv("a,b\n\"one\ntwo\r\n\",2\n3,4\n"),
                     "2 {\"a\":\"one\\ntwo\\r\\n\",\"b\":\"2\"}\n5 {\"a\":\"3\",\"b\":\"4\"}\n");
}

Test(rows, csv_characters_that_json_does_not_know_are_escaped) {
    cr_assert_str_eq(csv("a\n\t\\\x01\xc3\xa4\n"), "2 {\"a\":\"\\t\\\\\\u0001\xc3\xa4\"}\n");
    cr_assert_str_eq(all("a\nx\0y\n", 6, ROWS_CSV, NULL, NULL), "2 {\"a\":\"x\\u0000y\"}\n");
}

Test(rows, empty_lines_are_passed_over_and_an_empty_quoted_field_is_a_row) {
    cr_assert_str_eq(csv("a\n\n1\n\r\n\"\"\n\n"), "3 {\"a\":\"1\"}\n5 {\"a\":\"\"}\n");
}

Test(rows, csv_mistakes_are_named_with_their_line_and_the_next_row_is_read) {
    cr_assert_str_eq(csv("a,b\n1\n1,2,3\n4,5\n"),
                     "line 2: 1 fields, but 2 columns\nline 3: 3 fields, but 2 columns\n4 {\"a\":\"4\",\"b\":\"5\"}\n");
    cr_assert_str_eq(csv("a,b\nx\"y,2\n4,5\n"), "line 2: a quote within a field that does not begin with one\n"
                                                "3 {\"a\":\"4\",\"b\":\"5\"}\n");
    cr_assert_str_eq(csv("a,b\n\"x\"y,2\n4,5\n"),
                     "line 2: text between a closing quote and the next comma\n3 {\"a\":\"4\",\"b\":\"5\"}\n");
    cr_assert_str_eq(csv("a,b\n\"x\"\ry,2\n4,5\n"),
                     "line 2: a carriage return without a line feed\n3 {\"a\":\"4\",\"b\":\"5\"}\n");
    cr_assert_str_eq(csv("a\n\xff\n1\n"), "line 2: not UTF-8\n3 {\"a\":\"1\"}\n");
    cr_assert_str_eq(csv("a,b\n1,2\n\"never\n3,4\n"), "2 {\"a\":\"1\",\"b\":\"2\"}\nline 3: a quote is not closed\n"
                                                      "4 {\"a\":\"3\",\"b\":\"4\"}\n");
}

Test(rows, csv_heads_that_name_no_columns_are_refused) {
    cr_assert_str_eq(csv(""), "refused: line 1: no row with the names of the columns");
    cr_assert_str_eq(csv("a,,b\n1,2,3\n"), "refused: line 1: column 2 has no name");
    cr_assert_str_eq(csv("a,b,a\n1,2,3\n"), "refused: line 1: the column a is there twice");
    cr_assert_str_eq(csv("\xff\n"), "refused: line 1: not UTF-8");
    cr_assert_eq(err.code, EX_DATAERR);
}

Test(rows, a_column_is_added_unless_the_file_has_it) {
    cr_assert_str_eq(all("a\n1\n", 4, ROWS_CSV, "op", "add"), "2 {\"a\":\"1\",\"op\":\"add\"}\n");
    cr_assert_str_eq(all("op\n1\n", 5, ROWS_CSV, "op", "add"), "2 {\"op\":\"1\"}\n");
}

Test(rows, json_lines_are_kept_as_they_are) {
    cr_assert_str_eq(jsonl("{\"a\": 1}\n\n  {\"b\":2}\t\r\n{\"c\":3}"), "1 {\"a\": 1}\n3 {\"b\":2}\n4 {\"c\":3}\n");
    cr_assert_str_eq(jsonl("\xef\xbb\xbf{}\n\xff\n{}\n"), "1 {}\nline 2: not UTF-8\n3 {}\n");
    cr_assert_str_eq(jsonl(""), "");
}

/* A row of every length around the sizes in which the file is read. */
Test(rows, rows_that_lie_across_reads_are_whole) {
    enum { ROWS = 3000, LEN = 331 };
    size_t room = ROWS * (LEN + 20) + 16, n = 0;
    char *text = malloc(room), expected[LEN + 64];
    n += (size_t)sprintf(text, "a,b\n");
    for (int i = 0; i < ROWS; i++) {
        n += (size_t)sprintf(text + n, "\"%d", i);
        for (int k = 0; k < i % LEN; k++) text[n++] = k % 50 == 49 ? '\n' : 'x';
        n += (size_t)sprintf(text + n, "\"\"\",y\n");
    }
    int fd = file_of(text, n);
    struct rows *r = rows_open(fd, ROWS_CSV, NULL, NULL, &err);
    struct row row;
    for (int i = 0; i < ROWS; i++) {
        cr_assert_eq(rows_next(r, &row, &err), ROWS_ROW, "%d: %s", i, err.text);
        int at = sprintf(expected, "{\"a\":\"%d", i);
        for (int k = 0; k < i % LEN; k++) at += sprintf(expected + at, "%s", k % 50 == 49 ? "\\n" : "x");
        at += sprintf(expected + at, "\\\"\",\"b\":\"y\"}");
        cr_assert_eq(row.value_bytes, (size_t)at, "%d", i);
        cr_assert_arr_eq(row.value, expected, (size_t)at, "%d", i);
    }
    cr_assert_eq(rows_next(r, &row, &err), ROWS_END);
    rows_close(r);
    close(fd);
    free(text);
}

Test(rows, reading_goes_on_at_a_position) {
    const char *text = "a\n1\n\"2\n2\"\n3\n4\n";
    int fd = file_of(text, strlen(text));
    struct rows *r = rows_open(fd, ROWS_CSV, NULL, NULL, &err);
    struct row row;
    uint64_t line;
    rows_next(r, &row, &err);
    rows_next(r, &row, &err);
    uint64_t at = rows_position(r, &line);
    cr_assert_eq(at, 10);
    cr_assert_eq(line, 5);
    rows_next(r, &row, &err);
    rows_next(r, &row, &err);
    cr_assert_eq(rows_next(r, &row, &err), ROWS_END);
    cr_assert_eq(rows_seek(r, at, line, &err), 0);
    cr_assert_eq(rows_next(r, &row, &err), ROWS_ROW);
    cr_assert_eq(row.line, 5);
    cr_assert_arr_eq(row.value, "{\"a\":\"3\"}", 9);
    cr_assert_eq(rows_position(r, &line), 12);
    rows_close(r);
    close(fd);
}

Test(rows, a_quote_that_is_never_closed_does_not_take_all_memory) {
    size_t len = (size_t)ROW_BYTES_MAX + (1 << 20);
    char *text = malloc(len);
    memset(text, 'x', len);
    memcpy(text, "a\n\"b\n", 5);
    for (size_t i = 1000; i < len; i += 1000) text[i] = '\n';
    int fd = file_of(text, len);
    struct rows *r = rows_open(fd, ROWS_CSV, NULL, NULL, &err);
    struct row row;
    cr_assert_eq(rows_next(r, &row, &err), ROWS_BAD);
    cr_assert_str_eq(err.text, "line 2: a row longer than 8388608 bytes; is a quote not closed?");
    cr_assert_eq(rows_next(r, &row, &err), ROWS_ROW);
    cr_assert_eq(row.line, 3);
    rows_close(r);
    memset(text + 2, 'x', len - 2);
    close(fd);
    fd = file_of(text, len);
    r = rows_open(fd, ROWS_CSV, NULL, NULL, &err);
    cr_assert_eq(rows_next(r, &row, &err), ROWS_FAILED);
    cr_assert_str_eq(err.text, "line 2: longer than 8388608 bytes");
    rows_close(r);
    close(fd);
    free(text);
}

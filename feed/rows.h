/* Rows of a file as JSON objects: CSV (RFC 4180) or JSON lines.
 *
 * CSV: the first row names the columns; every further row becomes an object with a string for each of them, in their
 * order. Fields may be quoted, with line breaks and doubled quotes in them; rows end with LF or CR LF; empty lines are
 * passed over. JSON lines: one object a line, kept as it is without the blanks around it; empty lines are passed over.
 * Both are UTF-8; a byte order mark at the beginning is passed over. */
#ifndef MILLRACE_FEED_ROWS_H
#define MILLRACE_FEED_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum rows_format { ROWS_CSV, ROWS_JSONL };
enum { ROW_BYTES_MAX = 8 << 20, COLUMNS_MAX = 4096 };

struct row {              /* valid until the next call */
    const uint8_t *value; /* the object */
    size_t value_bytes;
    uint64_t line; /* where the row begins, from 1 */
};

enum rows_result {
    ROWS_ROW,    /* *out is filled */
    ROWS_END,    /* nothing follows */
    ROWS_BAD,    /* this row is not to be used; err.text says why, "line N: …"; the next call goes on behind it */
    ROWS_FAILED, /* reading failed, or nothing of the file can be used (its head, its size): err */
};

/* rows_open reads from fd, which stays the caller's, from its present position, the beginning of the text. add: a
 * column of every CSV row beside those of the file, with the value add_value; NULL none. If the file has a column of
 * that name, the file's counts. Returns NULL with err: EX_OSERR, EX_DATAERR (no head, a column twice or without name),
 * EX_IOERR. */
struct rows *rows_open(int fd, enum rows_format format, const char *add, const char *add_value, struct err *err);
void rows_close(struct rows *r);

/* rows_next reads one row. A row longer than ROW_BYTES_MAX is bad, and so is one whose fields are not as many as the
 * columns, that is not UTF-8, or whose quotes are wrong. JSON lines are not checked here but for that. */
enum rows_result rows_next(struct rows *r, struct row *out, struct err *err);

/* Where the next row begins: bytes from the beginning of the text and the line. rows_seek goes back there, after
 * rows_open of the same file; fd has to be seekable. 0, or -1 with err. */
uint64_t rows_position(const struct rows *r, uint64_t *line);
int rows_seek(struct rows *r, uint64_t position, uint64_t line, struct err *err);

/* rows_has_column: whether the CSV file names such a column. */
bool rows_has_column(const struct rows *r, const char *name);

#endif

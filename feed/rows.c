#include "feed/rows.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/utf8.h"

enum { READ_BYTES = 256 << 10 };

struct bytes { /* a growing buffer */
    uint8_t *at;
    size_t len, room;
};

struct span { /* one field of a CSV row, in the input */
    const uint8_t *at;
    size_t len;
    bool quoted; /* without its outer quotes; inner ones are still doubled */
};

struct rows {
    int fd;
    enum rows_format format;
    struct bytes in; /* in.at[used, in.len) is not dealt with yet */
    size_t used;
    uint64_t base, line; /* position of in.at[0] in the file; line at `used`, from 1 */
    bool eof;
    struct bytes out;
    uint32_t columns;
    char *column[COLUMNS_MAX];      /* names as they are */
    struct bytes lead[COLUMNS_MAX]; /* what stands before a value: {"name": or ,"name": */
    struct bytes tail;              /* behind the last value: the added column, } */
    struct span span[COLUMNS_MAX];
};

enum scan { SCAN_ROW, SCAN_MORE, SCAN_BAD };

/* -- buffers ----------------------------------------------------------------------------------- */

static void reserve(struct bytes *b, size_t more) {
    if (b->room - b->len >= more) return;
    size_t room = b->room < 4096 ? 4096 : b->room;
    while (room - b->len < more) room *= 2;
    b->at = realloc(b->at, room);
    CHECK(b->at != NULL);
    b->room = room;
}

static void append(struct bytes *b, const void *data, size_t len) {
    reserve(b, len);
    if (len > 0) memcpy(b->at + b->len, data, len);
    b->len += len;
}

/* Reads on behind what is there. 1: something came; 0: the end; -1 with err. */
static int input_more(struct rows *r, struct err *err) {
    if (r->eof) return 0;
    if (r->used > 0) {
        memmove(r->in.at, r->in.at + r->used, r->in.len - r->used);
        r->base += r->used;
        r->in.len -= r->used;
        r->used = 0;
    }
    reserve(&r->in, READ_BYTES);
    ssize_t n;
    do n = read(r->fd, r->in.at + r->in.len, READ_BYTES);
    while (n < 0 && errno == EINTR);
    if (n < 0) return err_set(err, EX_IOERR, "reading: %s", strerror(errno));
    r->in.len += (size_t)n;
    r->eof = n == 0;
    return n > 0;
}

/* -- output ------------------------------------------------------------------------------------ */

/* The inside of a JSON string. quoted: of two quotes one is meant. */
static void put_escaped(struct bytes *out, const uint8_t *at, size_t len, bool quoted) {
    static const char hex[] = "0123456789abcdef";
    reserve(out, 6 * len);
    uint8_t *to = out->at + out->len;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = at[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            *to++ = c;
            continue;
        }
        if (c == '"' && quoted) i++;
        const char *plain = c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : c == '"' ? "\\\"" : "\\\\";
        if (c >= 0x20 || c == '\n' || c == '\r' || c == '\t') {
            *to++ = (uint8_t)plain[0];
            *to++ = (uint8_t)plain[1];
        } else {
            memcpy(to, "\\u00", 4);
            to[4] = (uint8_t)hex[c >> 4];
            to[5] = (uint8_t)hex[c & 15];
            to += 6;
        }
    }
    out->len = (size_t)(to - out->at);
}

static void object_make(struct rows *r) {
    r->out.len = 0;
    for (uint32_t i = 0; i < r->columns; i++) {
        append(&r->out, r->lead[i].at, r->lead[i].len);
        put_escaped(&r->out, r->span[i].at, r->span[i].len, r->span[i].quoted);
    }
    append(&r->out, r->tail.at, r->tail.len);
}

/* -- CSV --------------------------------------------------------------------------------------- */

struct scanned {
    uint32_t fields;
    size_t end; /* behind the row and its line break */
    size_t bad; /* SCAN_BAD: where */
    const char *why;
};

static enum scan scan_bad(struct scanned *s, size_t at, const char *why) {
    s->bad = at;
    s->why = why;
    return SCAN_BAD;
}

/* A field that begins with a quote at *at, which moves behind the closing one. */
static enum scan quoted_scan(const struct rows *r, size_t *at, struct span *f, struct scanned *s) {
    const uint8_t *p = r->in.at;
    size_t begin = *at + 1, i = begin;
    for (;;) {
        const uint8_t *quote = memchr(p + i, '"', r->in.len - i);
        if (quote == NULL) return r->eof ? scan_bad(s, *at, "a quote is not closed") : SCAN_MORE;
        i = (size_t)(quote - p) + 1;
        if (i == r->in.len && !r->eof) return SCAN_MORE; /* is it doubled? */
        if (i == r->in.len || p[i] != '"') break;
        i++;
    }
    *f = (struct span){p + begin, i - 1 - begin, true};
    *at = i;
    if (i == r->in.len || p[i] == ',' || p[i] == '\n') return SCAN_ROW;
    if (p[i] != '\r') return scan_bad(s, i, "text between a closing quote and the next comma");
    if (i + 1 == r->in.len) return r->eof ? SCAN_ROW : SCAN_MORE;
    return p[i + 1] == '\n' ? SCAN_ROW : scan_bad(s, i, "a carriage return without a line feed");
}

static enum scan plain_scan(const struct rows *r, size_t *at, struct span *f, struct scanned *s) {
    const uint8_t *p = r->in.at;
    size_t begin = *at, i = begin;
    while (i < r->in.len && p[i] != ',' && p[i] != '\n' && p[i] != '"') i++;
    if (i == r->in.len && !r->eof) return SCAN_MORE;
    if (i < r->in.len && p[i] == '"') return scan_bad(s, i, "a quote within a field that does not begin with one");
    bool crlf = i > begin && p[i - 1] == '\r' && (i == r->in.len || p[i] == '\n');
    *f = (struct span){p + begin, i - begin - crlf, false};
    *at = i;
    return SCAN_ROW;
}

/* Divides the row that begins at `used` into r->span[]. */
static enum scan csv_scan(struct rows *r, struct scanned *s) {
    size_t at = r->used;
    *s = (struct scanned){0};
    for (;;) {
        struct span f;
        enum scan got = at < r->in.len && r->in.at[at] == '"' ? quoted_scan(r, &at, &f, s) : plain_scan(r, &at, &f, s);
        if (got != SCAN_ROW) return got;
        if (s->fields < COLUMNS_MAX) r->span[s->fields] = f;
        s->fields++;
        if (at < r->in.len && r->in.at[at] == ',') {
            at++;
            if (at == r->in.len && !r->eof) return SCAN_MORE;
            continue;
        }
        at += at < r->in.len && r->in.at[at] == '\r';
        s->end = at + (at < r->in.len);
        return SCAN_ROW;
    }
}

/* -- rows -------------------------------------------------------------------------------------- */

static void consume(struct rows *r, size_t end) {
    for (const uint8_t *p = r->in.at + r->used; (p = memchr(p, '\n', (size_t)(r->in.at + end - p))) != NULL; p++)
        r->line++;
    r->used = end;
}

/* Goes on behind the line in which `at` stands. */
static void skip_line(struct rows *r, size_t at) {
    const uint8_t *end = memchr(r->in.at + at, '\n', r->in.len - at);
    consume(r, end != NULL ? (size_t)(end - r->in.at) + 1 : r->in.len);
}

static enum scan line_scan(struct rows *r, struct scanned *s) {
    const uint8_t *begin = r->in.at + r->used, *end = memchr(begin, '\n', r->in.len - r->used);
    *s = (struct scanned){.fields = 1};
    if (end == NULL && !r->eof) return SCAN_MORE;
    const uint8_t *stop = end != NULL ? end : r->in.at + r->in.len;
    s->end = (size_t)(stop - r->in.at) + (end != NULL);
    while (begin < stop && (*begin == ' ' || *begin == '\t')) begin++;
    while (stop > begin && (stop[-1] == ' ' || stop[-1] == '\t' || stop[-1] == '\r')) stop--;
    r->span[0] = (struct span){begin, (size_t)(stop - begin), false};
    return SCAN_ROW;
}

/* Divides the next row, reading as much as that takes. ROWS_ROW: in r->span[]; its bytes are used when consumed. */
static enum rows_result row_scan(struct rows *r, struct scanned *s, struct err *err) {
    for (;;) {
        if (r->eof && r->used == r->in.len) return ROWS_END;
        enum scan got = r->used == r->in.len ? SCAN_MORE : r->format == ROWS_CSV ? csv_scan(r, s) : line_scan(r, s);
        if (got == SCAN_ROW) return ROWS_ROW;
        bool whole = r->eof || (got == SCAN_BAD && memchr(r->in.at + s->bad, '\n', r->in.len - s->bad) != NULL);
        if (got == SCAN_BAD && whole) {
            err_set(err, EX_DATAERR, "line %llu: %s", (unsigned long long)r->line, s->why);
            skip_line(r, s->bad);
            return ROWS_BAD;
        }
        if (r->in.len - r->used > ROW_BYTES_MAX) {
            unsigned long long line = r->line;
            if (memchr(r->in.at + r->used, '\n', r->in.len - r->used) == NULL)
                return err_set(err, EX_DATAERR, "line %llu: longer than %d bytes", line, ROW_BYTES_MAX), ROWS_FAILED;
            err_set(err, EX_DATAERR, "line %llu: a row longer than %d bytes; is a quote not closed?", line,
                    ROW_BYTES_MAX);
            skip_line(r, r->used);
            return ROWS_BAD;
        }
        if (input_more(r, err) < 0) return ROWS_FAILED;
    }
}

static enum rows_result row_bad(struct err *err, uint64_t line, const char *why) {
    err_set(err, EX_DATAERR, "line %llu: %s", (unsigned long long)line, why);
    return ROWS_BAD;
}

enum rows_result rows_next(struct rows *r, struct row *out, struct err *err) {
    struct scanned s;
    for (;;) {
        enum rows_result got = row_scan(r, &s, err);
        if (got != ROWS_ROW) return got;
        size_t begin = r->used;
        uint64_t line = r->line;
        consume(r, s.end);
        if (s.fields == 1 && r->span[0].len == 0 && !r->span[0].quoted) continue; /* an empty line */
        if (s.end - begin > ROW_BYTES_MAX) return row_bad(err, line, "longer than a row may be");
        if (!utf8_valid(r->in.at + begin, s.end - begin)) return row_bad(err, line, "not UTF-8");
        *out = (struct row){r->span[0].at, r->span[0].len, line};
        if (r->format == ROWS_JSONL) return ROWS_ROW;
        if (s.fields != r->columns) {
            err_set(err, EX_DATAERR, "line %llu: %u fields, but %u columns", (unsigned long long)line, s.fields,
                    r->columns);
            return ROWS_BAD;
        }
        object_make(r);
        out->value = r->out.at;
        out->value_bytes = r->out.len;
        return ROWS_ROW;
    }
}

/* -- opening ----------------------------------------------------------------------------------- */

static void column_name(struct rows *r, uint32_t i) {
    const struct span *f = &r->span[i];
    char *name = malloc(f->len + 1);
    CHECK(name != NULL);
    size_t n = 0;
    for (size_t k = 0; k < f->len; k++) {
        name[n++] = (char)f->at[k];
        if (f->quoted && f->at[k] == '"') k++;
    }
    name[n] = 0;
    r->column[i] = name;
    r->columns = i + 1;
    if (i > 0) append(&r->lead[i], "\"", 1); /* of the value before */
    append(&r->lead[i], i > 0 ? ",\"" : "{\"", 2);
    put_escaped(&r->lead[i], f->at, f->len, f->quoted);
    append(&r->lead[i], "\":\"", 3);
}

static int head_read(struct rows *r, const char *add, const char *add_value, struct err *err) {
    struct scanned s;
    enum rows_result got = row_scan(r, &s, err);
    if (got == ROWS_END) return err_set(err, EX_DATAERR, "line 1: no row with the names of the columns");
    if (got != ROWS_ROW) return -1;
    if (s.fields > COLUMNS_MAX) return err_set(err, EX_DATAERR, "line 1: more than %d columns", COLUMNS_MAX);
    if (!utf8_valid(r->in.at + r->used, s.end - r->used)) return err_set(err, EX_DATAERR, "line 1: not UTF-8");
    for (uint32_t i = 0; i < s.fields; i++) {
        if (r->span[i].len == 0) return err_set(err, EX_DATAERR, "line 1: column %u has no name", i + 1);
        column_name(r, i);
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(r->column[k], r->column[i]) == 0)
                return err_set(err, EX_DATAERR, "line 1: the column %.200s is there twice", r->column[i]);
    }
    append(&r->tail, "\"", 1);
    if (add != NULL && !rows_has_column(r, add)) {
        append(&r->tail, ",\"", 2);
        put_escaped(&r->tail, (const uint8_t *)add, strlen(add), false);
        append(&r->tail, "\":\"", 3);
        put_escaped(&r->tail, (const uint8_t *)add_value, strlen(add_value), false);
        append(&r->tail, "\"", 1);
    }
    append(&r->tail, "}", 1);
    consume(r, s.end);
    return 0;
}

struct rows *rows_open(int fd, enum rows_format format, const char *add, const char *add_value, struct err *err) {
    struct rows *r = calloc(1, sizeof *r);
    if (r == NULL) return err_set(err, EX_OSERR, "no memory"), NULL;
    *r = (struct rows){.fd = fd, .format = format, .line = 1};
    int n = 1;
    while (n > 0 && r->in.len < 3) n = input_more(r, err);
    if (n >= 0 && r->in.len >= 3 && memcmp(r->in.at, "\xef\xbb\xbf", 3) == 0) r->used = 3;
    if (n >= 0 && (format == ROWS_JSONL || head_read(r, add, add_value, err) == 0)) return r;
    rows_close(r);
    return NULL;
}

void rows_close(struct rows *r) {
    if (r == NULL) return;
    for (uint32_t i = 0; i < r->columns; i++) {
        free(r->column[i]);
        free(r->lead[i].at);
    }
    free(r->tail.at);
    free(r->in.at);
    free(r->out.at);
    free(r);
}

uint64_t rows_position(const struct rows *r, uint64_t *line) {
    *line = r->line;
    return r->base + r->used;
}

int rows_seek(struct rows *r, uint64_t position, uint64_t line, struct err *err) {
    if (lseek(r->fd, (off_t)position, SEEK_SET) < 0) return err_set(err, EX_IOERR, "seeking: %s", strerror(errno));
    r->in.len = r->used = 0;
    r->base = position;
    r->line = line;
    r->eof = false;
    return 0;
}

bool rows_has_column(const struct rows *r, const char *name) {
    for (uint32_t i = 0; i < r->columns; i++)
        if (strcmp(r->column[i], name) == 0) return true;
    return false;
}

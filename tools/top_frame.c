#include "tools/top_frame.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "base/grouped.h"

static_assert((int)GROUPED_BYTES == (int)FRAME_NUMBER_BYTES, "the same buffers");

void frame_clear(struct frame *f, int rows, int columns) {
    f->rows = rows < 1 ? 1 : rows > FRAME_ROWS_MAX ? FRAME_ROWS_MAX : rows;
    f->columns = columns < 1 ? 1 : columns > FRAME_COLUMNS_MAX ? FRAME_COLUMNS_MAX : columns;
    memset(f->text, ' ', sizeof f->text);
    memset(f->style, STYLE_PLAIN, sizeof f->style);
}

static void put(struct frame *f, int row, int column, enum style style, const char *text) {
    if (row < 0 || row >= f->rows) return;
    for (const char *p = text; *p != 0 && column < f->columns; p++, column++) {
        if (column < 0) continue;
        f->text[row][column] = *p >= 0x20 && *p < 0x7f ? *p : '?';
        f->style[row][column] = (uint8_t)style;
    }
}

void frame_put(struct frame *f, int row, int column, enum style style, const char *format, ...) {
    char text[FRAME_COLUMNS_MAX + 1];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    put(f, row, column, style, text);
}

void frame_right(struct frame *f, int row, int end, enum style style, const char *format, ...) {
    char text[FRAME_COLUMNS_MAX + 1];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    put(f, row, end - (int)strlen(text), style, text);
}

void frame_style(struct frame *f, int row, int column, int end, enum style style) {
    if (row < 0 || row >= f->rows) return;
    for (int i = column < 0 ? 0 : column; i < end && i < f->columns; i++) f->style[row][i] = (uint8_t)style;
}

static int used(const struct frame *f, int row) {
    int n = f->columns;
    while (n > 0 && f->text[row][n - 1] == ' ') n--;
    return n;
}

void frame_print(const struct frame *f, FILE *out) {
    int rows = f->rows;
    while (rows > 0 && used(f, rows - 1) == 0) rows--;
    for (int i = 0; i < rows; i++) fprintf(out, "%.*s\n", used(f, i), f->text[i]);
}

/* -- numbers ----------------------------------------------------------------------------------- */

const char *frame_number(double value, int width, char out[FRAME_NUMBER_BYTES]) {
    static const char units[] = "kMGTPE";
    if (!(value > 0)) value = 0;
    if (value < 1e15 && strlen(grouped((uint64_t)llround(value), out)) <= (size_t)width) return out;
    int unit = -1;
    while (value >= 999.5 && units[unit + 1] != 0) {
        value /= 1000;
        unit++;
    }
    snprintf(out, FRAME_NUMBER_BYTES, value < 99.95 ? "%.1f%c" : "%.0f%c", value, units[unit]);
    return out;
}

const char *frame_bytes(double bytes, char out[FRAME_NUMBER_BYTES]) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    int unit = 0;
    while (bytes >= 999.5 && unit < 4) {
        bytes /= 1000;
        unit++;
    }
    snprintf(out, FRAME_NUMBER_BYTES, unit > 0 && bytes < 99.95 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return out;
}

const char *frame_duration(int64_t ms, char out[FRAME_NUMBER_BYTES]) {
    int64_t s = ms / 1000;
    if (ms < 0)
        snprintf(out, FRAME_NUMBER_BYTES, "-");
    else if (ms < 10000)
        snprintf(out, FRAME_NUMBER_BYTES, "%.1fs", (double)ms / 1000);
    else if (s < 60)
        snprintf(out, FRAME_NUMBER_BYTES, "%" PRId64 "s", s);
    else if (s < 3600)
        snprintf(out, FRAME_NUMBER_BYTES, "%" PRId64 "m %" PRId64 "s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, FRAME_NUMBER_BYTES, "%" PRId64 "h %" PRId64 "m", s / 3600, s % 3600 / 60);
    else
        snprintf(out, FRAME_NUMBER_BYTES, "%" PRId64 "d %" PRId64 "h", s / 86400, s % 86400 / 3600);
    return out;
}

const char *frame_latency(double ms, char out[FRAME_NUMBER_BYTES]) {
    if (ms < 0)
        snprintf(out, FRAME_NUMBER_BYTES, "-");
    else if (ms < 1000)
        snprintf(out, FRAME_NUMBER_BYTES, ms < 10 ? "%.2f ms" : "%.0f ms", ms);
    else
        snprintf(out, FRAME_NUMBER_BYTES, ms < 100000 ? "%.1f s" : "%.0f s", ms / 1000);
    return out;
}

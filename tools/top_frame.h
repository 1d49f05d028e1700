/* A screen full of characters with styles, before it is anybody's terminal: `millrace top` draws it with curses,
 * `--once` prints it as text, tests look at it. Plain ASCII; what does not fit is cut. */
#ifndef MILLRACE_TOOLS_TOP_FRAME_H
#define MILLRACE_TOOLS_TOP_FRAME_H

#include <stdint.h>
#include <stdio.h>

enum { FRAME_ROWS_MAX = 256, FRAME_COLUMNS_MAX = 512, FRAME_NUMBER_BYTES = 32 };

enum style { STYLE_PLAIN, STYLE_DIM, STYLE_BOLD, STYLE_HEAD, STYLE_GOOD, STYLE_WARN, STYLE_BAD, STYLE_COUNT };

struct frame {
    int rows, columns;
    char text[FRAME_ROWS_MAX][FRAME_COLUMNS_MAX];
    uint8_t style[FRAME_ROWS_MAX][FRAME_COLUMNS_MAX];
};

/* frame_clear makes an empty frame of this size, cut to the largest there is. */
void frame_clear(struct frame *f, int rows, int columns);

/* frame_put writes at (row, column); frame_right so that the text ends before the column. What falls outside is cut;
 * control characters and bytes beyond ASCII become `?`. */
void frame_put(struct frame *f, int row, int column, enum style style, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
void frame_right(struct frame *f, int row, int end, enum style style, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* frame_style gives what is in row from column to end another style. */
void frame_style(struct frame *f, int row, int column, int end, enum style style);

/* frame_print writes the frame as lines of text, without blanks at their ends and empty lines at its own. */
void frame_print(const struct frame *f, FILE *out);

/* Numbers as people read them, in at most `width` characters (at least 5): 1,234,567; 12.3M where it is too long. */
const char *frame_number(double value, int width, char out[FRAME_NUMBER_BYTES]);
const char *frame_bytes(double bytes, char out[FRAME_NUMBER_BYTES]);  /* 512 B, 10.3 MB */
const char *frame_duration(int64_t ms, char out[FRAME_NUMBER_BYTES]); /* 0.8s 12s 2m 5s 3h 4m 2d 3h; "-" below 0 */
const char *frame_latency(double ms, char out[FRAME_NUMBER_BYTES]);   /* 0.35 ms, 12 ms, 1.5 s; "-" below 0 */

#endif

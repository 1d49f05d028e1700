/* Silences: windows about which nothing is to be sent for a while. The file data_dir/recon/silences, written by
 * `millrace recon silence` and read by recon: a line each, "UNTIL_MS WINDOW_MS TOPIC\n", TOPIC `*` for every topic.
 * A file of its own, so that recon stays the only writer of its database. */
#ifndef MILLRACE_RECON_SILENCE_H
#define MILLRACE_RECON_SILENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"

enum { SILENCES_MAX = 1024 };

struct silence {
    int64_t until_ms;  /* wall clock, milliseconds since 1970 */
    int64_t window_ms; /* beginning of the window */
    char topic[TOPIC_BYTES];
};

struct silences {
    size_t count;
    struct silence item[SILENCES_MAX];
};

/* silences_path writes where the file is for the instance of c. */
void silences_path(const struct config *c, char out[PATH_BYTES + 32]);

/* silences_read reads the file; none: no silences. Returns 0, or -1 with err: EX_NOINPUT it cannot be read, EX_DATAERR
 * it is not such a file (out is then empty). */
int silences_read(const char *path, struct silences *out, struct err *err);

/* silences_write puts in the file's place one with these. Atomically. Returns 0, or -1 with err EX_CANTCREAT. */
int silences_write(const char *path, const struct silences *s, struct err *err);

/* silences_put adds a silence, or lets the one for the same window and topic end at another time; one that ends at or
 * before now_ms is taken out, as are all that are over. Returns 0, or -1 when there is no room. */
int silences_put(struct silences *s, const struct silence *item, int64_t now_ms);

/* Until when exceptions about topic and window are silenced, 0 when they are not. */
int64_t silences_until(const struct silences *s, const char *topic, int64_t window_ms, int64_t now_ms);

#endif

/* What the views of `millrace recon` share: the database, how far behind it is, times as text, and rows as a table or
 * as JSON. */
#ifndef MILLRACE_TOOLS_RECON_VIEW_H
#define MILLRACE_TOOLS_RECON_VIEW_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/utc.h"

#include "base/config.h"

enum { VIEW_MISMATCH = 1, VIEW_BEHIND_MAX = 1000000, VIEW_TIME_BYTES = UTC_BYTES };

struct view {
    const struct config *config;
    sqlite3 *db;
    bool json;
    int64_t sequence;   /* of the log's entry that is counted next */
    int64_t behind;     /* entries in the log that are not counted yet, at most VIEW_BEHIND_MAX; -1 cannot be told */
    int64_t checked_ms; /* when windows were judged last; 0 never */
};

/* view_open opens the database of the instance of c and looks at how far it has come. Returns 0, or the exit status
 * after printing what is wrong. view_close may follow either. */
int view_open(struct view *v, const struct config *c, bool json);
void view_close(struct view *v);

/* view_head prints what was found about the whole: for people a line, for machines the first members of an object that
 * the caller ends. */
void view_head(const struct view *v);

/* view_rows prints the rows of statement s: as a table with the columns' names above it, or as a JSON array called
 * name. A column whose name ends in `_ms` is a time (0 and less: none), one in `id` with 16 bytes is a UUID,
 * `digest_sum` hexadecimal. Returns how many, -1 after printing what is wrong. Finalizes s. */
int64_t view_rows(const struct view *v, const char *name, sqlite3_stmt *s);

/* view_prepare compiles sql and binds n numbers; NULL after printing what is wrong. */
sqlite3_stmt *view_prepare(const struct view *v, const char *sql, const int64_t *number, int n);

/* view_number: the first number of the first row, `none` without one. */
int64_t view_number(const struct view *v, const char *sql, const int64_t *number, int n, int64_t none);

/* view_time writes "2026-03-14T22:20:00.000Z", or "-" below 0. */
void view_time(char out[VIEW_TIME_BYTES], int64_t ms);

#endif

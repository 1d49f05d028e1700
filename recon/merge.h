/* Several runs and a delta as one sequence of rows in the order of their keys, one row a key (live_replaces). */
#ifndef MILLRACE_RECON_MERGE_H
#define MILLRACE_RECON_MERGE_H

#include "recon/delta.h"
#include "recon/run.h"

enum { MERGE_RUNS_MAX = 64 };

struct merge {
    uint32_t count;                                  /* of runs; the delta comes after them */
    struct run_cursor *cursor;                       /* [count] */
    const struct live_row *head[MERGE_RUNS_MAX + 1]; /* next row of each, oldest source first; NULL: at its end */
    const struct live_row **sorted;                  /* of the delta */
    uint32_t sorted_at, sorted_count;
    struct live_row row; /* returned last */
};

/* merge_begin: runs[0, count) from the oldest to the newest, then delta (NULL: none); all must stay as they are until
 * merge_end. 0, or -1 with err (EX_OSERR, EX_DATAERR, EX_IOERR). merge_next: the next row, gone ones too, valid until
 * the next call; NULL at the end, or with err->code set. merge_end may follow a failure. */
int merge_begin(struct merge *m, const struct run *const *runs, uint32_t count, const struct delta *delta,
                struct err *err);
const struct live_row *merge_next(struct merge *m, struct err *err);
void merge_end(struct merge *m);

#endif

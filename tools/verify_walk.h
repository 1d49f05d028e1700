/* A walk over all keys of Redis by SCAN, a page at a time: while Redis answers for one page, the page before it is
 * compared. A page is small, so that other clients wait for it no longer than a fraction of a millisecond. */
#ifndef MILLRACE_TOOLS_VERIFY_WALK_H
#define MILLRACE_TOOLS_VERIFY_WALK_H

#include "tools/verify.h"

enum verify_walk {
    WALK_COMPARE, /* every key in scope is compared; what is not as it should be becomes a candidate */
    WALK_SEARCH,  /* keys whose rows were not met yet become candidates, nothing is compared */
};

enum { CURSOR_BYTES = 24 };

/* What is called every so often, and when the walk is asked to leave, with the cursor to go on with: every key before
 * it was dealt with. Returns 0, or -1 with err: the walk ends. */
struct walk_hook {
    uint64_t every_ms;
    int (*between)(struct verify *v, const char *cursor, void *context, struct err *err);
    void *context;
};

/* verify_walk_all goes from the cursor ("0": the beginning) to the end. hook may be NULL. 0; 1 it was asked to leave
 * (v->leave); -1 with err. Says how far it is on standard error. */
int verify_walk_all(struct verify *v, enum verify_walk kind, const char *cursor, const struct walk_hook *hook,
                    struct err *err);

#endif

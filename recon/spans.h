/* A set of numbers kept as ranges that neither overlap nor touch: what was logged of a producer's sequence or of a
 * partition's offsets. Numbers come nearly in order, so there are few ranges, and adding at the end costs nothing. */
#ifndef MILLRACE_RECON_SPANS_H
#define MILLRACE_RECON_SPANS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct span {
    int64_t first, last; /* first <= last */
};

struct spans { /* zeroed: empty */
    struct span *at;
    size_t count, room;
    int64_t dirty_low, dirty_high; /* lowest and highest number touched since spans_clean; low > high: none */
    bool dirty;
};

void spans_free(struct spans *s);

/* spans_add adds [first, last]. Returns whether anything of it was not there before. Aborts without memory. */
bool spans_add(struct spans *s, int64_t first, int64_t last);

bool spans_has(const struct spans *s, int64_t value);

/* spans_gap finds the first maximal range of [from, to] that is not in the set. Returns false when there is none. */
bool spans_gap(const struct spans *s, int64_t from, int64_t to, struct span *out);

/* spans_missing counts the numbers of [from, to] that are not in the set. */
int64_t spans_missing(const struct spans *s, int64_t from, int64_t to);

/* spans_from returns the index of the first range that ends at `value` or later (count: none). */
size_t spans_from(const struct spans *s, int64_t value);

/* spans_touched gives the part of the set to be stored anew: ranges [*begin, *end) of at, in place of every stored
 * range that begins in *low .. *high. false: nothing has changed. spans_clean when it is stored. */
bool spans_touched(const struct spans *s, size_t *begin, size_t *end, int64_t *low, int64_t *high);
void spans_clean(struct spans *s);

#endif

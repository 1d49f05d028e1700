#include "recon/spans.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"

void spans_free(struct spans *s) {
    free(s->at);
    *s = (struct spans){0};
}

size_t spans_from(const struct spans *s, int64_t value) {
    size_t low = 0, high = s->count;
    if (high > 0 && s->at[high - 1].last < value) return high; /* by far the most frequent question */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->at[middle].last < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool spans_has(const struct spans *s, int64_t value) {
    size_t i = spans_from(s, value);
    return i < s->count && s->at[i].first <= value;
}

static void touch(struct spans *s, int64_t first, int64_t last) {
    if (!s->dirty || first < s->dirty_low) s->dirty_low = first;
    if (!s->dirty || last > s->dirty_high) s->dirty_high = last;
    s->dirty = true;
}

static void insert(struct spans *s, size_t i, struct span one) {
    if (s->count == s->room) {
        s->room = s->room == 0 ? 16 : 2 * s->room;
        s->at = realloc(s->at, s->room * sizeof *s->at);
        CHECK(s->at != NULL);
    }
    memmove(s->at + i + 1, s->at + i, (s->count - i) * sizeof *s->at);
    s->at[i] = one;
    s->count++;
}

bool spans_add(struct spans *s, int64_t first, int64_t last) {
    CHECK(first <= last);
    /* The first range that touches [first, last], or stands behind it. */
    size_t i = spans_from(s, first > INT64_MIN ? first - 1 : first), end = i;
    if (i < s->count && s->at[i].first <= first && s->at[i].last >= last) return false;
    struct span one = {first, last};
    for (; end < s->count && s->at[end].first <= (last < INT64_MAX ? last + 1 : last); end++) {
        if (s->at[end].first < one.first) one.first = s->at[end].first;
        if (s->at[end].last > one.last) one.last = s->at[end].last;
    }
    touch(s, first, last);
    if (end == i) {
        insert(s, i, one);
        return true;
    }
    s->at[i] = one;
    memmove(s->at + i + 1, s->at + end, (s->count - end) * sizeof *s->at);
    s->count -= end - i - 1;
    return true;
}

bool spans_gap(const struct spans *s, int64_t from, int64_t to, struct span *out) {
    size_t i = spans_from(s, from);
    if (i < s->count && s->at[i].first <= from) { /* ranges do not touch: behind this one is a gap */
        if (s->at[i].last >= to) return false;
        from = s->at[i++].last + 1;
    }
    if (from > to) return false;
    *out = (struct span){from, i < s->count && s->at[i].first <= to ? s->at[i].first - 1 : to};
    return true;
}

int64_t spans_missing(const struct spans *s, int64_t from, int64_t to) {
    int64_t n = 0;
    for (struct span gap; from <= to && spans_gap(s, from, to, &gap); from = gap.last + 1)
        n += gap.last - gap.first + 1;
    return n;
}

bool spans_touched(const struct spans *s, size_t *begin, size_t *end, int64_t *low, int64_t *high) {
    if (!s->dirty) return false;
    *begin = spans_from(s, s->dirty_low);
    *end = spans_from(s, s->dirty_high) + 1;
    CHECK(*end <= s->count); /* what was touched is in the set */
    *low = s->at[*begin].first;
    *high = s->at[*end - 1].last;
    return true;
}

void spans_clean(struct spans *s) { s->dirty = false; }

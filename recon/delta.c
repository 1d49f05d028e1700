#include "recon/delta.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum { AHEAD = 16 }; /* slots whose rows are fetched before they are looked at */

/* Keys are digests already: their leading bits spread them evenly, and leave them in the table nearly in order. */
static uint32_t home_of(const struct delta *d, const uint8_t key[DIGEST_BYTES]) {
    uint32_t prefix;
    memcpy(&prefix, key, sizeof prefix);
    return (uint32_t)((uint64_t)__builtin_bswap32(prefix) * ((uint64_t)d->mask + 1) >> 32);
}

static int no_memory(struct err *err) { return err_set(err, EX_OSERR, "no memory for the rows of live keys"); }

int delta_init(struct delta *d, uint32_t room, struct err *err) {
    memset(d, 0, sizeof *d);
    d->room = room;
    d->mask = 2 * room - 1;
    d->row = malloc((size_t)room * sizeof *d->row);
    d->slot = calloc((size_t)d->mask + 1, sizeof *d->slot);
    if (d->row != NULL && d->slot != NULL) return 0;
    delta_free(d);
    return no_memory(err);
}

void delta_free(struct delta *d) {
    free(d->row);
    free(d->slot);
    memset(d, 0, sizeof *d);
}

void delta_clear(struct delta *d) {
    d->count = 0;
    memset(d->slot, 0, ((size_t)d->mask + 1) * sizeof *d->slot);
}

/* Where the key is, or where it would go: the table is never more than half full. */
static uint32_t *place_of(const struct delta *d, const uint8_t key[DIGEST_BYTES]) {
    uint32_t at = home_of(d, key);
    while (d->slot[at] != 0 && memcmp(d->row[d->slot[at] - 1].key, key, DIGEST_BYTES) != 0) at = (at + 1) & d->mask;
    return &d->slot[at];
}

const struct live_row *delta_find(const struct delta *d, const uint8_t key[DIGEST_BYTES]) {
    uint32_t slot = *place_of(d, key);
    return slot == 0 ? NULL : &d->row[slot - 1];
}

static int grow(struct delta *d, struct err *err) {
    uint32_t room = 2 * d->room;
    if (room > UINT32_MAX / 4) return no_memory(err);
    struct live_row *row = realloc(d->row, (size_t)room * sizeof *row);
    if (row == NULL) return no_memory(err);
    d->row = row;
    uint32_t *slot = calloc(2 * (size_t)room, sizeof *slot);
    if (slot == NULL) return no_memory(err);
    free(d->slot);
    d->slot = slot;
    d->room = room;
    d->mask = 2 * room - 1;
    for (uint32_t i = 0; i < d->count; i++) *place_of(d, d->row[i].key) = i + 1;
    return 0;
}

int delta_put(struct delta *d, const struct live_row *row, struct err *err) {
    uint32_t *slot = place_of(d, row->key);
    if (*slot != 0) {
        struct live_row *there = &d->row[*slot - 1];
        if (live_replaces(row, there)) *there = *row;
        return 0;
    }
    if (d->count == d->room) {
        if (grow(d, err) != 0) return -1;
        slot = place_of(d, row->key);
    }
    d->row[d->count++] = *row;
    *slot = d->count;
    return 0;
}

/* Moves the last of sorted[0, n) to where it belongs: a few places before, behind keys it shares a cluster with. */
static void settle(const struct live_row **sorted, uint32_t n) {
    const struct live_row *row = sorted[n - 1];
    uint32_t at = n - 1;
    for (; at > 0 && memcmp(sorted[at - 1]->key, row->key, DIGEST_BYTES) > 0; at--) sorted[at] = sorted[at - 1];
    sorted[at] = row;
}

const struct live_row **delta_sorted(const struct delta *d, struct err *err) {
    const struct live_row **sorted = malloc(((size_t)d->count + 1) * sizeof *sorted);
    uint32_t n = 0, first = 0;
    if (sorted == NULL) {
        no_memory(err);
        return NULL;
    }
    /* The last keys may have found no room at the end of the table and gone on at its beginning. */
    while (d->slot[first] != 0 && home_of(d, d->row[d->slot[first] - 1].key) > first) first++;
    for (uint64_t i = 0; i <= d->mask; i++) {
        uint32_t at = (uint32_t)(first + i) & d->mask, ahead = d->slot[(at + AHEAD) & d->mask];
        if (ahead != 0) __builtin_prefetch(&d->row[ahead - 1]);
        if (d->slot[at] == 0) continue;
        sorted[n++] = &d->row[d->slot[at] - 1];
        settle(sorted, n);
    }
    return sorted;
}

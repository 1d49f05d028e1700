#include "recon/delta.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

/* Keys are digests already. */
static uint32_t hash_of(const uint8_t key[DIGEST_BYTES]) {
    uint32_t h;
    memcpy(&h, key + 8, sizeof h);
    return h;
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
    uint32_t at = hash_of(key) & d->mask;
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

struct sortable { /* most keys differ in their first bytes: what is compared stands side by side */
    uint64_t prefix;
    const struct live_row *row;
};

static int by_key(const void *a, const void *b) {
    const struct sortable *x = a, *y = b;
    if (x->prefix != y->prefix) return x->prefix < y->prefix ? -1 : 1;
    return memcmp(x->row->key, y->row->key, DIGEST_BYTES);
}

static uint64_t prefix_of(const uint8_t key[DIGEST_BYTES]) {
    uint64_t prefix;
    memcpy(&prefix, key, sizeof prefix);
    return __builtin_bswap64(prefix);
}

const struct live_row **delta_sorted(const struct delta *d, struct err *err) {
    struct sortable *order = malloc((d->count + 1) * sizeof *order);
    const struct live_row **sorted = malloc((d->count + 1) * sizeof *sorted);
    if (order == NULL || sorted == NULL) {
        free(order);
        free(sorted);
        no_memory(err);
        return NULL;
    }
    for (uint32_t i = 0; i < d->count; i++)
        order[i] = (struct sortable){.prefix = prefix_of(d->row[i].key), .row = &d->row[i]};
    qsort(order, d->count, sizeof *order, by_key);
    for (uint32_t i = 0; i < d->count; i++) sorted[i] = order[i].row;
    free(order);
    return sorted;
}

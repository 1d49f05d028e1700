#include "recon/pairs.h"

#include <stdlib.h>

#include "base/err.h"

static struct pair_slot *slot_of(const struct pairs *p, uint64_t a, uint64_t b) {
    uint64_t h = (a ^ (b << 32 | b >> 32)) * 0x9e3779b97f4a7c15ULL;
    h = (h ^ b) * 0x9e3779b97f4a7c15ULL;
    size_t i = (h ^ h >> 32) & (p->slots - 1);
    while (p->slot[i].value != NULL && (p->slot[i].a != a || p->slot[i].b != b)) i = (i + 1) & (p->slots - 1);
    return &p->slot[i];
}

void *pairs_get(const struct pairs *p, uint64_t a, uint64_t b) { return p->slots > 0 ? slot_of(p, a, b)->value : NULL; }

static void grow(struct pairs *p) {
    struct pairs more = {.slots = p->slots > 0 ? 2 * p->slots : 64, .count = p->count};
    more.slot = calloc(more.slots, sizeof *more.slot);
    CHECK(more.slot != NULL);
    for (size_t i = 0; i < p->slots; i++)
        if (p->slot[i].value != NULL) *slot_of(&more, p->slot[i].a, p->slot[i].b) = p->slot[i];
    free(p->slot);
    *p = more;
}

void pairs_put(struct pairs *p, uint64_t a, uint64_t b, void *value) {
    if (2 * (p->count + 1) > p->slots) grow(p);
    *slot_of(p, a, b) = (struct pair_slot){a, b, value};
    p->count++;
}

void pairs_free(struct pairs *p) {
    free(p->slot);
    *p = (struct pairs){0};
}

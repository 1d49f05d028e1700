/* A set of pairs of numbers, each with a value: what recon has to know at once whether it has it (producers by topic,
 * loads by their id, windows far from now). Grows by itself; how large it may become is for its user to say. */
#ifndef MILLRACE_RECON_PAIRS_H
#define MILLRACE_RECON_PAIRS_H

#include <stddef.h>
#include <stdint.h>

struct pair_slot {
    uint64_t a, b;
    void *value; /* NULL: an unused slot */
};

struct pairs { /* zeroed: empty */
    struct pair_slot *slot; /* open addressing, a power of two, at most half full */
    size_t slots, count;
};

/* pairs_get returns the value of (a, b), NULL none. */
void *pairs_get(const struct pairs *p, uint64_t a, uint64_t b);

/* pairs_put adds (a, b), which is not there, with a value that is not NULL. Aborts without memory. */
void pairs_put(struct pairs *p, uint64_t a, uint64_t b, void *value);

void pairs_free(struct pairs *p); /* … and is empty again; values are the user's */

#endif

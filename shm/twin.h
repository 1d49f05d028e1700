/* Twin: a small value of two words with one writer, which survives the death of its writer at any instruction.
 *
 * Two copies and a generation. The writer fills the copy that is not current, then stores the generation, whose lowest
 * bit names the current copy. A reader takes the generation, the copy, the generation again, and tries once more when
 * it moved. A writer killed in between has changed nothing that is visible. */
#ifndef MILLRACE_SHM_TWIN_H
#define MILLRACE_SHM_TWIN_H

#include <stdatomic.h>
#include <stdint.h>

struct twin { /* ABI: 48 bytes */
    _Atomic uint64_t generation;
    _Atomic uint64_t copy[2][2];
    uint64_t reserved;
};

/* twin_store: the one writer. Release: what it wrote before is seen by a reader of this value. */
static inline void twin_store(struct twin *t, uint64_t a, uint64_t b) {
    uint64_t next = atomic_load_explicit(&t->generation, memory_order_relaxed) + 1;
    atomic_store_explicit(&t->copy[next & 1][0], a, memory_order_release); /* T2, pairs with T2' in twin_load */
    atomic_store_explicit(&t->copy[next & 1][1], b, memory_order_release);
    atomic_store_explicit(&t->generation, next, memory_order_release); /* T1, pairs with T1' in twin_load */
}

/* twin_load: any reader. The words are acquire loads, so the second look at the generation cannot be moved before them
 * (T2'): a reader that saw a word of generation n + 2 also sees generation n + 1. */
static inline void twin_load(const struct twin *t, uint64_t *a, uint64_t *b) {
    for (;;) {
        uint64_t g = atomic_load_explicit(&t->generation, memory_order_acquire); /* T1' */
        uint64_t x = atomic_load_explicit(&t->copy[g & 1][0], memory_order_acquire);
        uint64_t y = atomic_load_explicit(&t->copy[g & 1][1], memory_order_acquire);
        if (atomic_load_explicit(&t->generation, memory_order_relaxed) == g) {
            *a = x;
            *b = y;
            return;
        }
    }
}

#endif

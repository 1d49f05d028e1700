/* The ring against a model that is nothing but numbers: random operations from seeds, deaths of both ends included. */
#include "tests/unit/shm/help.h"

enum { AUX = 5 };

/* What must hold: numbers up to `staged` exist, up to `published` are visible, up to `peeked` were read, up to
 * `released` are gone. Contents and lengths follow from the numbers. */
struct model {
    uint64_t staged, published, peeked, released;
    uint64_t aux_next[AUX], aux_published[AUX];
    uint64_t end[1 << 16]; /* end position of every peeked record, by number */
    uint64_t full, deaths;
};

static void stage_some(struct pair *r, struct model *m, uint64_t *seed) {
    for (uint32_t n = random_below(seed, 8); n > 0; n--) {
        uint32_t len = content_len(m->staged + 1, ring_record_max(r->p.capacity));
        bool room = ring_has_room(&r->p, len);
        uint8_t *body = ring_reserve(&r->p, len);
        cr_assert_eq(body != NULL, room);
        if (body == NULL) {
            cr_assert_gt(m->staged, m->released, "full, but nothing is in the ring");
            m->full++;
            return;
        }
        content_fill(body, m->staged + 1, len);
        if (random_below(seed, 16) == 0) return; /* reserved, written, never staged */
        cr_assert_eq(ring_stage(&r->p, len, content_type(m->staged + 1)), m->staged + 1);
        m->staged++;
    }
}

static void publish(struct pair *r, struct model *m) {
    ring_publish(&r->p);
    if (m->staged == m->published) return; /* aux words wait */
    m->published = m->staged;
    memcpy(m->aux_published, m->aux_next, sizeof m->aux_next);
}

static void peek_some(struct pair *r, struct model *m, uint64_t *seed) {
    for (uint32_t n = random_below(seed, 8); n > 0; n--) {
        struct ring_item item;
        struct err err = {0};
        enum ring_state state = ring_peek(&r->c, &item, &err);
        if (m->peeked == m->published) {
            cr_assert_eq(state, RING_EMPTY, "%s", err.text);
            return;
        }
        cr_assert_eq(state, RING_OK, "%s", err.text);
        cr_assert_eq(item.number, ++m->peeked);
        cr_assert_eq(item.len, content_len(item.number, ring_record_max(r->c.capacity)));
        cr_assert_eq(item.type, content_type(item.number));
        cr_assert(content_matches(item.body, item.number, item.len));
        m->end[item.number & 0xffff] = item.end;
    }
}

static void release_some(struct pair *r, struct model *m, uint64_t *seed) {
    if (m->peeked == m->released) return;
    uint64_t number = m->released + 1 + random_below(seed, (uint32_t)(m->peeked - m->released));
    /* What is not released yet must not have been written over. */
    ring_rewind(&r->c);
    uint64_t peeked = m->peeked;
    for (m->peeked = m->released; m->peeked < peeked;) peek_some(r, m, seed);
    ring_release(&r->c, m->end[number & 0xffff], number);
    m->released = number;
}

static void producer_dies(struct pair *r, struct model *m) {
    ring_producer_detach(&r->p);
    producer_attach(r);
    m->staged = m->published;
    memcpy(m->aux_next, m->aux_published, sizeof m->aux_next);
    cr_assert_eq(r->p.number_published, m->published);
    m->deaths++;
}

static void consumer_dies(struct pair *r, struct model *m) {
    ring_consumer_detach(&r->c);
    consumer_attach(r);
    m->peeked = m->released;
    cr_assert_eq(r->c.number_released, m->released);
    m->deaths++;
}

static void run(uint64_t capacity, uint64_t seed, int operations, struct model *total) {
    struct pair r = pair_make(capacity, AUX);
    static struct model m;
    m = (struct model){0};
    for (int i = 0; i < operations; i++) {
        uint32_t aux;
        switch (random_below(&seed, 40)) {
        case 0: producer_dies(&r, &m); break;
        case 1: consumer_dies(&r, &m); break;
        case 2:
            ring_rewind(&r.c);
            m.peeked = m.released;
            break;
        case 3 ... 8:
            aux = random_below(&seed, AUX);
            m.aux_next[aux] = random_next(&seed);
            ring_aux_set(&r.p, aux, m.aux_next[aux]);
            break;
        case 9 ... 15: publish(&r, &m); break;
        case 16 ... 22: release_some(&r, &m, &seed); break;
        case 23 ... 30: peek_some(&r, &m, &seed); break;
        default: stage_some(&r, &m, &seed); break;
        }
        for (aux = 0; aux < AUX; aux++) cr_assert_eq(ring_aux_get(&r.p, aux), m.aux_next[aux]);
        struct ring_snapshot s;
        if (i % 16 != 0) continue;
        cr_assert_eq(ring_observe(&r.fds, &s, NULL), RING_ATTACHED);
        cr_assert_eq(s.published, m.published);
        cr_assert_eq(s.released, m.released);
    }
    total->published += m.published;
    total->full += m.full;
    total->deaths += m.deaths;
    pair_drop(&r);
}

static void run_seeds(uint64_t capacity, int seeds, int operations) {
    static struct model total;
    for (int seed = 1; seed <= seeds; seed++) run(capacity, (uint64_t)seed * 0x9e3779b97f4a7c15ULL, operations, &total);
    cr_assert_gt(total.published, (uint64_t)seeds * operations / 4, "only %llu", (unsigned long long)total.published);
    cr_assert_gt(total.full, (uint64_t)seeds);
    cr_assert_gt(total.deaths, (uint64_t)seeds);
}

Test(ring_model, the_smallest_ring_does_what_the_model_says) { run_seeds(SMALL, 60, 2000); }
Test(ring_model, a_larger_ring_does_what_the_model_says) { run_seeds(65536, 10, 5000); }

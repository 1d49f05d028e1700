/* Two threads on one ring: that no wake-up is lost, and (built with VARIANT=tsan) that there is no data race.
 *
 * Each end maps the ring at an address of its own, and a race detector only compares accesses to one address. So both
 * ends are pointed to one mapping here; that the other side's memory is read-only, ring.c tests. */
#include "tests/unit/shm/help.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>

enum { RECORDS = 1000000, PATIENCE_MS = 2000 };

struct race {
    struct pair r;
    uint64_t records;
    uint32_t batch_max;
    bool release_when_dry; /* one release a cycle: a wake-up that is lost is not made up for by the next */
    uint64_t producer_sleeps, consumer_sleeps;
    _Atomic uint32_t wrong_line; /* Criterion's assertions are for the main thread */
    _Atomic uint32_t stop;
};

#define RIGHT(x)                                                                                                       \
    do {                                                                                                               \
        if (x) break;                                                                                                  \
        atomic_store(&race->wrong_line, (uint32_t)__LINE__);                                                           \
        atomic_store(&race->stop, 1);                                                                                  \
        return NULL;                                                                                                   \
    } while (0)

/* Sleeps until the doorbell rings. false: it did not for PATIENCE_MS, twice; then a wake-up is lost, or the other end
 * stands still for so long. */
static bool sleep_on(int bell, const _Atomic uint32_t *stop) {
    for (int tries = 0; tries < 2; tries++) {
        struct pollfd fd = {.fd = bell, .events = POLLIN};
        uint64_t n;
        if (atomic_load(stop) != 0) return true;
        if (poll(&fd, 1, PATIENCE_MS) == 1) return read(bell, &n, sizeof n) == (ssize_t)sizeof n;
    }
    return false;
}

static void *produce(void *arg) {
    struct race *race = arg;
    struct ring_producer *p = &race->r.p;
    uint64_t seed = 5;
    uint32_t batch = 1;
    while (p->number < race->records && atomic_load_explicit(&race->stop, memory_order_relaxed) == 0) {
        uint32_t len = content_len(p->number + 1, ring_record_max(p->capacity));
        uint8_t *body = ring_reserve(p, len);
        if (body == NULL) {
            ring_publish(p);
            if (!ring_producer_arm(p)) {
                race->producer_sleeps++;
                RIGHT(sleep_on(race->r.producer_bell, &race->stop));
            }
            ring_producer_disarm(p);
            continue;
        }
        content_fill(body, p->number + 1, len);
        ring_stage(p, len, content_type(p->number + 1));
        ring_aux_set(p, 0, p->number);
        if (--batch > 0) continue;
        ring_publish(p);
        batch = 1 + random_below(&seed, race->batch_max);
        if (random_below(&seed, 4000) == 0) usleep(50); /* let the other side run dry */
    }
    ring_publish(p);
    return NULL;
}

static void *consume(void *arg) {
    struct race *race = arg;
    struct ring_consumer *c = &race->r.c;
    uint64_t seed = 6;
    while (c->number < race->records && atomic_load_explicit(&race->stop, memory_order_relaxed) == 0) {
        struct ring_item item;
        enum ring_state state = ring_peek(c, &item, NULL);
        RIGHT(state != RING_BROKEN);
        if (state == RING_EMPTY) {
            if (!ring_consumer_arm(c)) {
                race->consumer_sleeps++;
                RIGHT(sleep_on(race->r.consumer_bell, &race->stop));
            }
            ring_consumer_disarm(c);
            continue;
        }
        RIGHT(item.len == content_len(item.number, ring_record_max(c->capacity)));
        RIGHT(item.type == content_type(item.number));
        RIGHT(content_matches(item.body, item.number, item.len));
        /* The producer may sleep for the room that is held here: it is given back before this end sleeps. */
        bool dry = item.end == atomic_load_explicit(&c->peer->tail, memory_order_acquire);
        if (dry || (!race->release_when_dry && random_below(&seed, 6) == 0)) ring_release(c, item.end, item.number);
        if (random_below(&seed, 4000) == 0) usleep(50); /* let the other side fill the ring */
    }
    return NULL;
}

static void race_run(uint64_t capacity, struct race *race) {
    race->r = pair_make(capacity, 1);
    uint64_t records = race->records;
    struct pair *r = &race->r;
    const struct ring_consumer_page *producers_view = r->p.peer;
    const struct ring_producer_page *consumers_view = r->c.peer;
    const uint8_t *consumers_data = r->c.data;
    r->p.peer = r->c.page;
    r->c.peer = r->p.page;
    r->c.data = r->p.data;
    pthread_t producer, consumer;
    cr_assert_eq(pthread_create(&producer, NULL, produce, race), 0);
    cr_assert_eq(pthread_create(&consumer, NULL, consume, race), 0);
    pthread_join(producer, NULL);
    pthread_join(consumer, NULL);
    r->p.peer = producers_view;
    r->c.peer = consumers_view;
    r->c.data = consumers_data;
    cr_assert_eq(race->wrong_line, 0, "wrong at line %u, after %llu of %llu records", race->wrong_line,
                 (unsigned long long)r->c.number, (unsigned long long)records);
    cr_assert_eq(r->c.number_released, records);
    cr_assert_eq(r->p.number_published, records);
    pair_drop(r);
}

Test(ring_race, a_million_records_of_all_lengths_pass_between_sleepers_without_a_lost_wakeup, .timeout = 300) {
    static struct race race = {.records = RECORDS, .batch_max = 20};
    race_run(SMALL, &race);
    cr_assert_gt(race.producer_sleeps, 100);
    cr_assert_gt(race.consumer_sleeps, 100);
}

Test(ring_race, every_record_alone_in_its_batch_wakes_a_sleeper, .timeout = 120) {
    static struct race race = {.records = 200000, .batch_max = 1};
    race_run(1 << 16, &race);
}

Test(ring_race, a_producer_that_sleeps_for_the_only_release_is_woken_by_it, .timeout = 120) {
    static struct race race = {.records = 200000, .batch_max = 1000, .release_when_dry = true};
    race_run(SMALL, &race);
    cr_assert_gt(race.producer_sleeps, 100);
}

/* Two threads that answer each other over two rings: whenever one publishes, the other is going to sleep, and nothing
 * that comes later makes up for a wake-up that is lost. */
#ifdef __SANITIZE_THREAD__
enum { ANSWERS = 3000 };
#else
enum { ANSWERS = 100000 };
#endif

struct answering {
    struct race *race; /* where it says that something is wrong */
    struct ring_producer *out;
    struct ring_consumer *in;
    int bell;
    bool begins;
};

/* The scheduler likes to put two that wake each other on one processor, where they never run at the same time. false:
 * there is only one. */
static bool processor_take(unsigned n) {
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return false;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && n-- == 0) CPU_SET(cpu, &one);
    return sched_setaffinity(0, sizeof one, &one) == 0;
}

/* How often to look before going to sleep: mostly until the other side has answered, now and then so often that it
 * answers at just that moment. */
static uint32_t looks_before_sleep(uint64_t *seed, bool two_processors) {
    return two_processors && random_below(seed, 4) > 0 ? 100000 : random_below(seed, 1u << random_below(seed, 11));
}

static void *answer(void *arg) {
    struct answering *a = arg;
    struct race *race = a->race;
    uint64_t seed = a->begins ? 11 : 12;
    bool two_processors = processor_take(a->begins ? 0 : 1);
    if (a->begins) {
        ring_reserve(a->out, 8);
        ring_stage(a->out, 8, 1);
        ring_publish(a->out);
    }
    while (a->in->number < ANSWERS && atomic_load_explicit(&race->stop, memory_order_relaxed) == 0) {
        struct ring_item item;
        uint32_t looks = looks_before_sleep(&seed, two_processors);
        enum ring_state state;
        while ((state = ring_peek(a->in, &item, NULL)) == RING_EMPTY && looks > 0) looks--;
        RIGHT(state != RING_BROKEN);
        if (state == RING_EMPTY) {
            if (!ring_consumer_arm(a->in)) RIGHT(sleep_on(a->bell, &race->stop));
            ring_consumer_disarm(a->in);
            continue;
        }
        ring_release(a->in, item.end, item.number);
        if (a->out->number == ANSWERS) continue;
        RIGHT(ring_reserve(a->out, 8) != NULL);
        ring_stage(a->out, 8, 1);
        ring_publish(a->out);
    }
    return NULL;
}

Test(ring_race, two_that_answer_each_other_are_never_both_asleep, .timeout = 120) {
    static struct race race;
    struct pair there = pair_make(SMALL, 0), back = pair_make(SMALL, 0);
    struct answering first = {&race, &there.p, &back.c, back.consumer_bell, true};
    struct answering second = {&race, &back.p, &there.c, there.consumer_bell, false};
    pthread_t a, b;
    cr_assert_eq(pthread_create(&a, NULL, answer, &first), 0);
    cr_assert_eq(pthread_create(&b, NULL, answer, &second), 0);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    cr_assert_eq(race.wrong_line, 0, "both asleep after %llu answers", (unsigned long long)back.c.number);
    cr_assert_eq(back.c.number, ANSWERS);
    pair_drop(&there);
    pair_drop(&back);
}

static void *fill(void *arg) {
    struct race *race = arg;
    struct ring_producer *p = &race->r.p;
    uint64_t seed = 21;
    bool two_processors = processor_take(0);
    while (p->number < race->records && atomic_load_explicit(&race->stop, memory_order_relaxed) == 0) {
        uint32_t looks = looks_before_sleep(&seed, two_processors);
        while (!ring_has_room(p, 240) && looks > 0) looks--;
        if (!ring_has_room(p, 240)) {
            if (!ring_producer_arm(p)) RIGHT(sleep_on(race->r.producer_bell, &race->stop));
            ring_producer_disarm(p);
            continue;
        }
        while (ring_reserve(p, 240) != NULL) ring_stage(p, 240, 1);
        ring_publish(p);
    }
    return NULL;
}

static void *empty_at_once(void *arg) {
    struct race *race = arg;
    struct ring_consumer *c = &race->r.c;
    uint64_t seed = 22;
    bool two_processors = processor_take(1);
    while (c->number_released < race->records && atomic_load_explicit(&race->stop, memory_order_relaxed) == 0) {
        struct ring_item item, last = {0};
        uint32_t looks = looks_before_sleep(&seed, two_processors);
        while (ring_peek(c, &last, NULL) == RING_EMPTY && looks > 0) looks--;
        while (ring_peek(c, &item, NULL) == RING_OK) last = item;
        if (last.number != 0) {
            ring_release(c, last.end, last.number);
            continue;
        }
        if (!ring_consumer_arm(c)) RIGHT(sleep_on(race->r.consumer_bell, &race->stop));
        ring_consumer_disarm(c);
    }
    return NULL;
}

Test(ring_race, a_ring_filled_and_emptied_at_once_never_has_both_ends_asleep, .timeout = 120) {
    static struct race race = {.records = 16 * (uint64_t)ANSWERS};
    race.r = pair_make(SMALL, 0);
    pthread_t a, b;
    cr_assert_eq(pthread_create(&a, NULL, fill, &race), 0);
    cr_assert_eq(pthread_create(&b, NULL, empty_at_once, &race), 0);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    cr_assert_eq(race.wrong_line, 0, "both asleep after %llu records", (unsigned long long)race.r.c.number);
    cr_assert_geq(race.r.c.number_released, race.records);
    pair_drop(&race.r);
}

static void *observe(void *arg) {
    struct race *race = arg;
    uint64_t published = 0, released = 0;
    while (atomic_load(&race->stop) == 0) {
        struct ring_snapshot s;
        RIGHT(ring_observe(&race->r.fds, &s, NULL) == RING_ATTACHED);
        RIGHT(s.tail - s.head <= s.capacity && s.head <= s.tail);
        RIGHT(s.published >= published && s.released >= released);
        published = s.published;
        released = s.released;
    }
    return NULL;
}

Test(ring_race, an_observer_of_a_ring_at_work_sees_positions_that_can_be, .timeout = 120) {
    static struct race race;
    race = (struct race){.r = pair_make(SMALL, 1)};
    struct pair *r = &race.r;
    pthread_t observer;
    cr_assert_eq(pthread_create(&observer, NULL, observe, &race), 0);
    for (uint64_t n = 0; n < 300000 && atomic_load(&race.stop) == 0;) {
        while (put(&r->p)) {
        }
        ring_publish(&r->p);
        struct ring_item item;
        while (ring_peek(&r->c, &item, NULL) == RING_OK) {
            ring_release(&r->c, item.end, item.number);
            n = item.number;
        }
    }
    atomic_store(&race.stop, 1);
    pthread_join(observer, NULL);
    cr_assert_eq(race.wrong_line, 0, "wrong at line %u", race.wrong_line);
    pair_drop(r);
}

Test(ring_race, an_end_attaches_again_and_again_while_the_other_is_at_work, .timeout = 120) {
    static struct race race;
    race = (struct race){.r = pair_make(SMALL, 1), .records = 200000, .batch_max = 8};
    struct pair *r = &race.r;
    pthread_t producer;
    cr_assert_eq(pthread_create(&producer, NULL, produce, &race), 0);
    uint64_t expected = 0, attached = 0;
    while (expected < race.records && race.wrong_line == 0) {
        struct ring_item item;
        while (ring_peek(&r->c, &item, NULL) == RING_OK) {
            cr_assert_eq(item.number, ++expected);
            ring_release(&r->c, item.end, item.number);
        }
        ring_consumer_detach(&r->c);
        consumer_attach(r);
        attached++;
    }
    pthread_join(producer, NULL);
    cr_assert_eq(race.wrong_line, 0, "wrong at line %u", race.wrong_line);
    cr_assert_gt(attached, 1000, "only %llu", (unsigned long long)attached);
    pair_drop(r);
}

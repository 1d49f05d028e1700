/* Deaths: states of memory that a killed end leaves behind, built by hand, and real processes killed at random. */
#include "tests/unit/shm/help.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "base/limits.h"

enum { AUX = 3 };

/* A ring with n records published, whose aux word 0 is the last number and word 1 its square. */
static struct pair ring_with(int n) {
    struct pair r = pair_make(SMALL, AUX);
    for (int i = 0; i < n; i++) {
        cr_assert(put_len(&r.p, 40));
        ring_aux_set(&r.p, 0, r.p.number);
        ring_aux_set(&r.p, 1, r.p.number * r.p.number);
        ring_publish(&r.p);
    }
    return r;
}

/* The successor goes on with number n + 1 and the aux words of n, and the reader sees all records once and in order. */
static void expect_continues(struct pair *r, uint64_t n) {
    producer_attach(r);
    cr_assert_eq(r->p.number_published, n);
    cr_assert_eq(r->p.number, n);
    cr_assert_eq(ring_aux_get(&r->p, 0), n);
    cr_assert_eq(ring_aux_get(&r->p, 1), n * n);
    cr_assert_eq(ring_aux_get(&r->p, 2), 0);
    for (int i = 0; i < 5; i++) {
        cr_assert(put_len(&r->p, (uint32_t)(20 + 30 * i)));
        cr_assert_eq(r->p.number, n + 1 + (uint64_t)i);
        ring_aux_set(&r->p, 0, r->p.number);
        ring_publish(&r->p);
    }
    struct ring_item item = {0};
    for (uint64_t k = r->c.number_released + 1; k <= n + 5; k++) item = peek_expect(&r->c, k);
    peek_expect_empty(&r->c);
    ring_release(&r->c, item.end, n + 5);
    ring_producer_detach(&r->p);
    producer_attach(r);
    cr_assert_eq(r->p.number_published, n + 5);
    cr_assert_eq(ring_aux_get(&r->p, 0), n + 5);
    cr_assert_eq(ring_aux_get(&r->p, 1), n * n);
    pair_drop(r);
}

/* Index of the slot of the producer's page that is not current. */
static int slot_spare(const struct pair *r) {
    uint64_t tail = look64(r->fds.producer, 0);
    bool first = look64(r->fds.producer, slot_at(0)) == tail;
    cr_assert_neq(first, look64(r->fds.producer, slot_at(1)) == tail);
    return first ? 1 : 0;
}

static size_t aux_at(int slot, uint32_t i) { return RING_PAGE + ((size_t)slot * AUX + i) * sizeof(uint64_t); }

Test(ring_death, a_producer_that_staged_and_did_not_publish_leaves_no_trace) {
    for (int n = 0; n < 6; n++) {
        struct pair r = ring_with(n);
        for (int i = 0; i < 4; i++) cr_assert(put_len(&r.p, 90));
        ring_aux_set(&r.p, 0, 999);
        ring_aux_set(&r.p, 2, 999);
        ring_producer_detach(&r.p);
        expect_continues(&r, (uint64_t)n);
    }
}

Test(ring_death, a_producer_that_died_while_copying_leaves_no_trace) {
    for (int n = 0; n < 6; n++) {
        struct pair r = ring_with(n);
        uint8_t *body = ring_reserve(&r.p, 300);
        memset(body, 0xff, 300);
        memset(body - RING_HEADER_BYTES, 0xff, 5); /* half a header */
        ring_producer_detach(&r.p);
        expect_continues(&r, (uint64_t)n);
    }
}

Test(ring_death, a_half_filled_slot_of_a_tail_that_never_came_is_not_taken) {
    for (int n = 1; n < 6; n++)
        for (int stage = 0; stage < 4; stage++) {
            struct pair r = ring_with(n);
            uint64_t tail = r.p.tail;
            ring_producer_detach(&r.p);
            int spare = slot_spare(&r);
            smash64(r.fds.producer, aux_at(spare, 0), 4242);
            if (stage >= 1) smash64(r.fds.producer, aux_at(spare, 2), 4242);
            if (stage >= 2) smash64(r.fds.producer, slot_at(spare) + 8, (uint64_t)n + 1);
            if (stage >= 3) smash64(r.fds.producer, slot_at(spare), tail + 64);
            expect_continues(&r, (uint64_t)n);
        }
}

Test(ring_death, the_position_of_a_future_tail_does_not_come_true_later) {
    /* The dead producer had filled its slot for a tail that its successor reaches with other records, one, two or three
     * publications later. */
    for (int later = 1; later <= 3; later++) {
        struct pair r = ring_with(3);
        uint64_t tail = r.p.tail;
        ring_producer_detach(&r.p);
        int spare = slot_spare(&r);
        smash64(r.fds.producer, slot_at(spare), tail + (uint64_t)later * 64);
        smash64(r.fds.producer, slot_at(spare) + 8, 77);
        smash64(r.fds.producer, aux_at(spare, 0), 77);
        producer_attach(&r);
        for (int i = 1; i <= later; i++) {
            cr_assert(put_len(&r.p, 48));
            ring_aux_set(&r.p, 0, r.p.number);
            ring_publish(&r.p);
            ring_producer_detach(&r.p);
            producer_attach(&r);
            cr_assert_eq(r.p.number_published, (uint64_t)(3 + i));
            cr_assert_eq(ring_aux_get(&r.p, 0), (uint64_t)(3 + i));
            cr_assert_eq(ring_aux_get(&r.p, 1), 9);
        }
        cr_assert_eq(r.p.tail, tail + (uint64_t)later * 64);
        pair_drop(&r);
    }
}

Test(ring_death, successors_that_die_at_once_one_after_the_other_lose_nothing) {
    struct pair r = ring_with(4);
    for (int i = 0; i < 100; i++) {
        ring_producer_detach(&r.p);
        producer_attach(&r);
        if (i % 3 == 0) cr_assert(put_len(&r.p, 50));
        if (i % 3 == 1) ring_aux_set(&r.p, 1, 1);
    }
    ring_producer_detach(&r.p);
    expect_continues(&r, 4);
}

Test(ring_death, padding_that_was_staged_without_its_record_is_never_seen) {
    struct pair r = ring_with(0);
    uint64_t n = 0;
    while (r.p.tail < SMALL - 200) {
        put_and_publish(&r.p, 1, 112);
        struct ring_item item = peek_expect(&r.c, ++n);
        ring_release(&r.c, item.end, n);
    }
    cr_assert(put_len(&r.p, 400)); /* goes behind padding */
    cr_assert_gt(r.p.cursor, (uint64_t)SMALL);
    ring_producer_detach(&r.p);
    producer_attach(&r);
    peek_expect_empty(&r.c);
    put_and_publish(&r.p, 1, 8); /* fits before the wrap, where the padding header was */
    cr_assert_leq(r.p.tail, (uint64_t)SMALL);
    peek_expect(&r.c, n + 1);
    peek_expect_empty(&r.c);
    pair_drop(&r);
}

Test(ring_death, a_consumers_successor_gets_the_oldest_unreleased_record_with_its_number) {
    struct pair r = ring_with(20);
    struct ring_item third = {0};
    for (uint64_t k = 1; k <= 12; k++) {
        struct ring_item item = peek_expect(&r.c, k);
        if (k == 3) third = item;
    }
    ring_release(&r.c, third.end, 3);
    ring_in_hand(&r.c, 13);
    ring_consumer_detach(&r.c);
    consumer_attach(&r);
    cr_assert_eq(r.c.number_released, 3);
    for (uint64_t k = 4; k <= 20; k++) peek_expect(&r.c, k);
    peek_expect_empty(&r.c);
    pair_drop(&r);
}

Test(ring_death, a_consumer_that_died_while_releasing_has_released_nothing) {
    for (int stage = 0; stage < 2; stage++) {
        struct pair r = ring_with(10);
        struct ring_item item = {0};
        for (uint64_t k = 1; k <= 4; k++) item = peek_expect(&r.c, k);
        ring_release(&r.c, item.end, 4);
        uint64_t head = r.c.head;
        ring_consumer_detach(&r.c);
        int spare = look64(r.fds.consumer, slot_at(0)) == head ? 1 : 0;
        smash64(r.fds.consumer, slot_at(spare) + 8, 9);
        if (stage == 1) smash64(r.fds.consumer, slot_at(spare), head + 320);
        consumer_attach(&r);
        cr_assert_eq(r.c.number_released, 4);
        for (uint64_t k = 5; k <= 10; k++) {
            item = peek_expect(&r.c, k);
            ring_release(&r.c, item.end, k);
            ring_consumer_detach(&r.c);
            consumer_attach(&r);
            cr_assert_eq(r.c.number_released, k);
        }
        pair_drop(&r);
    }
}

Test(ring_death, a_full_ring_outlives_both_ends) {
    struct pair r = ring_with(0);
    uint64_t n = 0;
    while (put_len(&r.p, 112)) n++;
    ring_publish(&r.p);
    ring_producer_detach(&r.p);
    ring_consumer_detach(&r.c);
    producer_attach(&r);
    cr_assert_null(ring_reserve(&r.p, 0));
    consumer_attach(&r);
    for (uint64_t k = 1; k <= n; k++) {
        struct ring_item item = peek_expect(&r.c, k);
        ring_release(&r.c, item.end, k);
    }
    cr_assert(put_len(&r.p, 112));
    pair_drop(&r);
}

/* -- processes killed at random ---------------------------------------------------------------- */

enum { KILLS = 100, BATCH = 16, EXIT_WRONG = 3 };

/* What the two children and the judge share besides the ring. */
struct notes {
    _Atomic uint64_t released;  /* noted by the consumer after each release */
    _Atomic uint64_t published; /* noted by the producer after each publication */
    _Atomic uint32_t stop;
    _Atomic uint32_t wrong_line;
};

static void wrong_unless(struct notes *notes, bool right, int line) {
    if (right) return;
    atomic_store(&notes->wrong_line, (uint32_t)line);
    _exit(EXIT_WRONG);
}
#define RIGHT(x) wrong_unless(notes, x, __LINE__)

static void nap(int bell) {
    struct pollfd fd = {.fd = bell, .events = POLLIN};
    uint64_t n;
    if (poll(&fd, 1, WAIT_MS_MAX) > 0 && read(bell, &n, sizeof n) < 0) {
        /* Somebody else's wake-up: look again. */
    }
}

static void ring_bell(int bell) {
    uint64_t one = 1;
    if (write(bell, &one, sizeof one) < 0) {
        /* Full: a wake-up is pending. */
    }
}

static void produce(struct pair *r, struct notes *notes) {
    struct ring_producer *p = &r->p;
    RIGHT(ring_producer_attach(p, &r->fds, r->consumer_bell, NULL) == RING_ATTACHED);
    ring_bell(r->consumer_bell);
    RIGHT(ring_aux_get(p, 0) == p->number_published);
    RIGHT(ring_aux_get(p, 1) == p->number_published * 3);
    uint64_t noted = atomic_load(&notes->published);
    RIGHT(p->number_published >= noted && p->number_published <= noted + BATCH);
    atomic_store(&notes->published, p->number_published);
    while (atomic_load(&notes->stop) == 0) {
        for (int i = 0; i < BATCH; i++) {
            uint64_t number = p->number + 1;
            uint32_t len = content_len(number, ring_record_max(p->capacity));
            uint8_t *body = ring_reserve(p, len);
            if (body == NULL) {
                if (p->number != p->number_published) break;
                if (!ring_producer_arm(p)) nap(r->producer_bell);
                ring_producer_disarm(p);
                i--;
                if (atomic_load(&notes->stop) != 0) break;
                continue;
            }
            content_fill(body, number, len);
            ring_stage(p, len, content_type(number));
        }
        ring_aux_set(p, 0, p->number);
        ring_aux_set(p, 1, p->number * 3);
        ring_publish(p);
        atomic_store(&notes->published, p->number_published);
    }
    _exit(0);
}

static void consume(struct pair *r, struct notes *notes, uint64_t seed) {
    struct ring_consumer *c = &r->c;
    RIGHT(ring_consumer_attach(c, &r->fds, r->producer_bell, NULL) == RING_ATTACHED);
    ring_bell(r->producer_bell);
    uint64_t noted = atomic_load(&notes->released);
    RIGHT(c->number_released >= noted && c->number_released <= noted + BATCH);
    atomic_store(&notes->released, c->number_released);
    uint64_t expected = c->number_released;
    for (;;) {
        struct ring_item item, last = {0};
        enum ring_state state = RING_OK;
        for (uint32_t n = 1 + random_below(&seed, BATCH); n > 0; n--) {
            state = ring_peek(c, &item, NULL);
            RIGHT(state != RING_BROKEN);
            if (state == RING_EMPTY) break;
            RIGHT(item.number == ++expected);
            RIGHT(item.len == content_len(item.number, ring_record_max(c->capacity)));
            RIGHT(item.type == content_type(item.number));
            RIGHT(content_matches(item.body, item.number, item.len));
            last = item;
        }
        if (last.number != 0) {
            ring_release(c, last.end, last.number);
            atomic_store(&notes->released, last.number);
        }
        if (state != RING_EMPTY) continue;
        if (atomic_load(&notes->stop) == 2) _exit(0);
        if (!ring_consumer_arm(c)) nap(r->consumer_bell);
        ring_consumer_disarm(c);
    }
}

static pid_t child_start(struct pair *r, struct notes *notes, bool producer, uint64_t seed) {
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid > 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing behind */
    if (producer)
        produce(r, notes);
    else
        consume(r, notes, seed | 1);
    _exit(EXIT_WRONG);
}

static void child_end(pid_t pid, int signal_expected, const struct notes *notes) {
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    if (signal_expected != 0 && WIFSIGNALED(status) && WTERMSIG(status) == signal_expected) return;
    cr_assert(signal_expected == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0,
              "a process ended with status %x; wrong at line %u", status, atomic_load(&notes->wrong_line));
}

Test(ring_death, a_hundred_kills_of_both_ends_lose_repeat_reorder_and_alter_nothing, .timeout = 120) {
    struct pair r = pair_make(SMALL, 2);
    ring_producer_detach(&r.p);
    ring_consumer_detach(&r.c);
    struct notes *notes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(notes, MAP_FAILED);
    uint64_t seed = 31337, before = 0;
    int live = 0;
    pid_t pid[2] = {child_start(&r, notes, true, 1), child_start(&r, notes, false, 2)};
    for (int kills = 0; kills < KILLS; kills++) {
        struct timespec pause = {0, 1000 * (long)(500 + random_below(&seed, 6000))};
        nanosleep(&pause, NULL);
        uint64_t now = atomic_load(&notes->released);
        live += now > before;
        before = now;
        uint32_t who = random_below(&seed, 3); /* one, the other, or both at once */
        for (uint32_t i = 0; i < 2; i++)
            if (who == i || who == 2) cr_assert_eq(kill(pid[i], SIGKILL), 0);
        for (uint32_t i = 0; i < 2; i++)
            if (who == i || who == 2) {
                child_end(pid[i], SIGKILL, notes);
                pid[i] = child_start(&r, notes, i == 0, random_next(&seed));
            }
    }
    struct timespec more = {0, 100000000};
    nanosleep(&more, NULL);
    atomic_store(&notes->stop, 1);
    child_end(pid[0], 0, notes);
    atomic_store(&notes->stop, 2);
    child_end(pid[1], 0, notes);
    struct ring_snapshot s;
    cr_assert_eq(ring_observe(&r.fds, &s, NULL), RING_ATTACHED);
    cr_assert_eq(s.head, s.tail);
    cr_assert_eq(s.published, s.released);
    cr_assert_eq(s.released, atomic_load(&notes->released));
    cr_assert_gt(s.released, 1000);
    cr_assert_geq(live, KILLS / 2, "only %d of %d kills hit a ring at work", live, KILLS);
}

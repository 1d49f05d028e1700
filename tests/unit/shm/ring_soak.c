/* Two processes, one ring, records of all lengths, and kills of either end at random moments: every record comes once
 * for its reader's life, in order, byte for byte. SEED decides who is killed after how long; TIMES multiplies the
 * records. */
#include "tests/unit/shm/help.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/limits.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { RECORDS = 1000000 };
#else
enum { RECORDS = 10000000 };
#endif
enum { BATCH = 64, KILL_US_MAX = 20000, EXIT_WRONG = 3 };

/* What the two children and the judge share besides the ring. */
struct notes {
    _Atomic uint64_t released;  /* noted by the consumer after each release */
    _Atomic uint64_t published; /* noted by the producer after each publication */
    _Atomic uint64_t bytes;     /* read; what was read twice counts twice */
    _Atomic uint32_t stop;
    _Atomic uint32_t wrong_line;
    uint64_t records; /* so many are written */
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

static void sleep_for_room(struct pair *r) {
    if (!ring_producer_arm(&r->p)) nap(r->producer_bell);
    ring_producer_disarm(&r->p);
}

static void produce(struct pair *r, struct notes *notes, uint64_t seed) {
    struct ring_producer *p = &r->p;
    RIGHT(ring_producer_attach(p, &r->fds, r->consumer_bell, NULL) == RING_ATTACHED);
    ring_bell(r->consumer_bell);
    RIGHT(ring_aux_get(p, 0) == p->number_published);
    RIGHT(ring_aux_get(p, 1) == p->number_published * 3);
    uint64_t noted = atomic_load(&notes->published);
    RIGHT(p->number_published >= noted && p->number_published <= noted + BATCH);
    atomic_store(&notes->published, p->number_published);
    while (atomic_load_explicit(&notes->stop, memory_order_relaxed) == 0) {
        for (uint32_t n = 1 + random_below(&seed, BATCH); n > 0 && p->number < notes->records; n--) {
            uint64_t number = p->number + 1;
            uint32_t len = content_len(number, ring_record_max(p->capacity));
            uint8_t *body = ring_reserve(p, len);
            if (body == NULL) break;
            content_fill(body, number, len);
            ring_stage(p, len, content_type(number));
        }
        if (p->number == p->number_published) {
            sleep_for_room(r);
            continue;
        }
        ring_aux_set(p, 0, p->number);
        ring_aux_set(p, 1, p->number * 3);
        ring_publish(p);
        atomic_store_explicit(&notes->published, p->number_published, memory_order_relaxed);
    }
    _exit(0);
}

/* Reads up to n records and checks them. Returns the last; its number is 0 when there was none. */
static struct ring_item read_some(struct ring_consumer *c, struct notes *notes, uint64_t *expected, uint32_t n) {
    struct ring_item item, last = {0};
    uint64_t bytes = 0;
    for (; n > 0; n--) {
        enum ring_state state = ring_peek(c, &item, NULL);
        RIGHT(state != RING_BROKEN);
        if (state == RING_EMPTY) break;
        RIGHT(item.number == ++*expected);
        RIGHT(item.len == content_len(item.number, ring_record_max(c->capacity)));
        RIGHT(item.type == content_type(item.number));
        RIGHT(content_matches(item.body, item.number, item.len));
        bytes += item.len;
        last = item;
    }
    atomic_fetch_add_explicit(&notes->bytes, bytes, memory_order_relaxed);
    return last;
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
        struct ring_item last = read_some(c, notes, &expected, 1 + random_below(&seed, BATCH));
        if (last.number != 0) {
            ring_release(c, last.end, last.number);
            atomic_store_explicit(&notes->released, last.number, memory_order_relaxed);
            continue;
        }
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
        produce(r, notes, seed | 1);
    else
        consume(r, notes, seed | 1);
    _exit(EXIT_WRONG);
}

static void child_end(pid_t pid, int signal_expected, const struct notes *notes) {
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    if (signal_expected != 0 && WIFSIGNALED(status) && WTERMSIG(status) == signal_expected) return;
    cr_assert(signal_expected == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0,
              "a process ended with status %x; wrong at line %u", (unsigned)status, atomic_load(&notes->wrong_line));
}

/* Kills until all records are through. Returns how many were killed. */
static uint32_t soak(struct pair *r, struct notes *notes, uint64_t *seed) {
    uint32_t kills = 0;
    pid_t pid[2] = {child_start(r, notes, true, random_next(seed)), child_start(r, notes, false, random_next(seed))};
    while (atomic_load(&notes->released) < notes->records) {
        struct timespec pause = {0, 1000 * (long)random_below(seed, KILL_US_MAX)};
        nanosleep(&pause, NULL);
        uint32_t who = random_below(seed, 3); /* one, the other, or both at once */
        for (uint32_t i = 0; i < 2; i++)
            if (who == i || who == 2) cr_assert_eq(kill(pid[i], SIGKILL), 0);
        for (uint32_t i = 0; i < 2; i++)
            if (who == i || who == 2) {
                child_end(pid[i], SIGKILL, notes);
                pid[i] = child_start(r, notes, i == 0, random_next(seed));
                kills++;
            }
    }
    atomic_store(&notes->stop, 1);
    ring_bell(r->producer_bell);
    child_end(pid[0], 0, notes);
    atomic_store(&notes->stop, 2);
    ring_bell(r->consumer_bell);
    child_end(pid[1], 0, notes);
    return kills;
}

static void soak_ring(uint64_t capacity, uint64_t records, uint64_t seed) {
    double start = seconds_now();
    struct pair r = pair_make(capacity, 2);
    ring_producer_detach(&r.p);
    ring_consumer_detach(&r.c);
    struct notes *notes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(notes, MAP_FAILED);
    notes->records = records;
    uint64_t state = seed * 0x9e3779b97f4a7c15ULL | 1;
    uint32_t kills = soak(&r, notes, &state);
    struct ring_snapshot s;
    cr_assert_eq(ring_observe(&r.fds, &s, NULL), RING_ATTACHED);
    cr_assert_eq(s.head, s.tail);
    cr_assert_eq(s.published, records);
    cr_assert_eq(s.released, records);
    printf("measured: soak: %llu records, %llu MB, %u kills, a ring of %llu bytes, in %.1f s (SEED=%llu)\n",
           (unsigned long long)records, (unsigned long long)(atomic_load(&notes->bytes) / 1000000), kills,
           (unsigned long long)capacity, seconds_now() - start, (unsigned long long)seed);
    cr_assert_gt(kills, 5);
    ring_drop(&r.fds);
    munmap(notes, 4096);
}

Test(ring_soak, millions_of_records_pass_two_processes_that_are_killed_at_random, .timeout = 36000) {
    uint64_t seed = asked("SEED", 31337), records = RECORDS * asked("TIMES", 1);
    soak_ring(SMALL, records / 2, seed);
    soak_ring(1 << 16, records - records / 2, seed + 1);
}

/* A ring whose end is stopped before every single instruction of an operation: killed there, so that a successor has to
 * go on from exactly that memory; or left to run after the peer has changed a word under its eyes.
 *
 * The operation is single-stepped once, which gives the list of its instructions. For each of them a new process runs
 * up to it (a breakpoint takes it there) on a ring in the same state. */
#include "tests/unit/shm/help.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "base/limits.h"

enum { AUX = 2, INSTRUCTIONS_MAX = 20000 };

/* Sanitizers make an operation many times as long: there every few instructions must do. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STRIDE = 31 };
#else
enum { STRIDE = 1 };
#endif

/* -- states of a ring -------------------------------------------------------------------------- */

struct state {
    const char *name;
    uint64_t at;      /* where the oldest record begins, in bytes of the data */
    uint64_t used;    /* bytes of unreleased records of 64 bytes each */
    uint32_t len;     /* of the record that is written */
    bool asleep;      /* both ends have announced that they sleep */
    bool at_wrap_63;  /* positions pass 2^63 */
    bool other_slots; /* one more publication and release, so that the other slots are the current ones */
};

static const struct state states[] = {
    {.name = "new and empty", .len = 24},
    {.name = "empty, in the middle", .at = 1600, .len = 24},
    {.name = "empty, other slots", .at = 1600, .len = 24, .other_slots = true},
    {.name = "some records", .at = 512, .used = 640, .len = 40},
    {.name = "some records, other slots", .at = 512, .used = 640, .len = 40, .other_slots = true},
    {.name = "room for exactly this record", .at = 256, .used = SMALL - 64, .len = 48},
    {.name = "full", .at = 256, .used = SMALL, .len = 0},
    {.name = "full, records across the wrap", .at = 2048, .used = SMALL, .len = 48},
    {.name = "up to the very end of the data", .at = SMALL - 320, .used = 256, .len = 48},
    {.name = "padding before it", .at = SMALL - 320, .used = 256, .len = 100},
    {.name = "padding that is a header only", .at = SMALL - 336, .used = 320, .len = 100},
    {.name = "padding in an empty ring", .at = SMALL - 48, .len = 64},
    {.name = "no room behind the padding", .at = 64, .used = SMALL - 128, .len = 100},
    {.name = "the longest record, padding before it", .at = SMALL - 400, .len = SMALL / 8 - 16},
    {.name = "the empty record", .at = 1024, .used = 128, .len = 0},
    {.name = "both asleep", .at = 512, .used = 640, .len = 24, .asleep = true},
    {.name = "empty, both asleep", .at = 1600, .len = 24, .asleep = true},
    {.name = "positions beyond 2^63", .at = SMALL - 320, .used = 256, .len = 100, .at_wrap_63 = true},
};
enum { STATES = sizeof states / sizeof states[0] };

static void put_with_aux(struct ring_producer *p, uint32_t len) {
    cr_assert(put_len(p, len));
    ring_aux_set(p, 0, p->number);
    ring_aux_set(p, 1, p->number * 3);
    ring_publish(p);
}

static void release_all(struct ring_consumer *c) {
    struct ring_item item, last = {0};
    while (ring_peek(c, &item, NULL) == RING_OK) last = item;
    if (last.number != 0) ring_release(c, last.end, last.number);
}

/* A new ring's positions, moved to `position`. */
static void positions_set(struct pair *r, uint64_t position) {
    smash64(r->fds.producer, 0, position);
    smash64(r->fds.consumer, 0, position);
    smash64(r->fds.producer, slot_at(0), position);
    smash64(r->fds.consumer, slot_at(0), position);
}

/* Both ends go to `at` of the data by records that end there exactly: no padding. */
static void advance(struct pair *r, uint64_t at) {
    uint64_t rest;
    while ((rest = (at - r->p.tail) % SMALL) != 0) {
        uint64_t to_end = SMALL - r->p.tail % SMALL;
        if (rest > to_end) rest = to_end;
        if (rest > SMALL / 8) rest = SMALL / 8;
        put_with_aux(&r->p, (uint32_t)rest - RING_HEADER_BYTES);
        release_all(&r->c);
    }
}

static struct pair state_make(const struct state *state) {
    struct pair r = pair_make(SMALL, AUX);
    if (state->at_wrap_63) {
        ring_producer_detach(&r.p);
        ring_consumer_detach(&r.c);
        positions_set(&r, (1ULL << 63) - SMALL);
        producer_attach(&r);
        consumer_attach(&r);
    }
    if (state->other_slots) advance(&r, 32);
    advance(&r, state->at);
    for (uint64_t n = 0; n < state->used; n += 64) put_with_aux(&r.p, 48);
    if (state->asleep) {
        ring_producer_arm(&r.p);
        ring_consumer_arm(&r.c);
    }
    ring_producer_detach(&r.p);
    ring_consumer_detach(&r.c);
    return r;
}

/* The bytes of a ring, to begin from the same ones again. */
struct image {
    uint8_t producer[2 * RING_PAGE + SMALL], consumer[RING_PAGE];
};

static void image_take(const struct pair *r, struct image *image) {
    cr_assert_eq(pread(r->fds.producer, image->producer, sizeof image->producer, 0), sizeof image->producer);
    cr_assert_eq(pread(r->fds.consumer, image->consumer, sizeof image->consumer, 0), sizeof image->consumer);
}

static void image_put(const struct pair *r, const struct image *image) {
    smash(r->fds.producer, 0, image->producer, sizeof image->producer);
    smash(r->fds.consumer, 0, image->consumer, sizeof image->consumer);
}

/* -- operations -------------------------------------------------------------------------------- */

/* What the process under test leaves for the judge. */
struct result {
    enum ring_state state;
    struct ring_item item;
    uint64_t tail_seen;
    uint8_t *reserved;
};
static struct result *result;
static uint8_t content[SMALL / 8]; /* of the next record, so that copying it takes few instructions */

static void prepare_content(struct pair *r, const struct state *state) {
    content_fill(content, r->p.number + 1, state->len);
}

static void operate_write(struct pair *r, const struct state *state) {
    uint8_t *body = ring_reserve(&r->p, state->len);
    result->reserved = body;
    if (body == NULL) return;
    uint64_t number = r->p.number + 1;
    memcpy(body, content, state->len);
    ring_stage(&r->p, state->len, content_type(number));
    ring_aux_set(&r->p, 0, number);
    ring_aux_set(&r->p, 1, number * 3);
    ring_publish(&r->p);
}

static void prepare_batch(struct pair *r, const struct state *state) {
    for (int i = 0; i < 3; i++)
        if (!put_len(&r->p, state->len)) break;
    ring_aux_set(&r->p, 0, r->p.number);
    ring_aux_set(&r->p, 1, r->p.number * 3);
}

static void operate_publish(struct pair *r, const struct state *state) {
    (void)state;
    ring_publish(&r->p);
}

static void operate_peek(struct pair *r, const struct state *state) {
    (void)state;
    result->state = ring_peek(&r->c, &result->item, NULL);
    result->tail_seen = r->c.tail_seen;
    if (result->state == RING_OK) ring_in_hand(&r->c, result->item.number);
}

static struct ring_item prepared; /* the last item that was peeked */

static void prepare_peeked(struct pair *r, const struct state *state) {
    (void)state;
    struct ring_item item;
    prepared = (struct ring_item){.end = r->c.head};
    for (int i = 0; i < 5 && ring_peek(&r->c, &item, NULL) == RING_OK; i++) prepared = item;
}

static void operate_release(struct pair *r, const struct state *state) {
    (void)state;
    ring_release(&r->c, prepared.end, prepared.number);
}

/* A successor that is killed while it attaches leaves the ring to the next one. */
static void operate_attach_producer(struct pair *r, const struct state *state) {
    (void)state;
    ring_producer_detach(&r->p);
    ring_producer_attach(&r->p, &r->fds, -1, NULL);
}

static void operate_attach_consumer(struct pair *r, const struct state *state) {
    (void)state;
    ring_consumer_detach(&r->c);
    ring_consumer_attach(&r->c, &r->fds, -1, NULL);
}

struct operation {
    const char *name;
    bool producer;
    void (*prepare)(struct pair *r, const struct state *state); /* by both, before the process is born; may be NULL */
    void (*run)(struct pair *r, const struct state *state);
};

static const struct operation operations[] = {
    {"reserve, stage and publish", true, prepare_content, operate_write},
    {"publish a batch", true, prepare_batch, operate_publish},
    {"peek", false, NULL, operate_peek},
    {"release", false, prepare_peeked, operate_release},
    {"attach a producer", true, NULL, operate_attach_producer},
    {"attach a consumer", false, NULL, operate_attach_consumer},
};
enum { OPERATIONS = sizeof operations / sizeof operations[0] };

/* -- a process that is stopped before its k-th instruction ------------------------------------- */

struct course {
    uint64_t at[INSTRUCTIONS_MAX];  /* addresses, in the order of execution */
    uint32_t hit[INSTRUCTIONS_MAX]; /* how often the address came before, and once for now */
    uint32_t count;
};

#define BREAKPOINT() __asm__ __volatile__("int3" ::: "memory")

static void stop_expect(pid_t pid, int signal) {
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSTOPPED(status) && WSTOPSIG(status) == signal, "status %x", (unsigned)status);
}

static uint64_t rip_get(pid_t pid) {
    struct user_regs_struct regs;
    cr_assert_eq(ptrace(PTRACE_GETREGS, pid, NULL, &regs), 0);
    return regs.rip;
}

static void rip_set(pid_t pid, uint64_t rip) {
    struct user_regs_struct regs;
    cr_assert_eq(ptrace(PTRACE_GETREGS, pid, NULL, &regs), 0);
    regs.rip = rip;
    cr_assert_eq(ptrace(PTRACE_SETREGS, pid, NULL, &regs), 0);
}

/* Text is the same here and there but for breakpoints, and a word of it may be read from here. */
static void text_set(pid_t pid, uint64_t at, uint8_t byte) {
    uint64_t word;
    memcpy(&word, (const void *)(uintptr_t)at, sizeof word);
    word = (word & ~0xffULL) | byte;
    cr_assert_eq(ptrace(PTRACE_POKETEXT, pid, (void *)(uintptr_t)at, (void *)(uintptr_t)word), 0);
}

static uint8_t text_get(uint64_t at) { return *(const uint8_t *)(uintptr_t)at; }

static void step(pid_t pid) {
    cr_assert_eq(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
    stop_expect(pid, SIGTRAP);
}

/* Starts the operation in a process of its own, stopped before its first instruction. */
static pid_t operation_start(struct pair *r, const struct operation *o, const struct state *state) {
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(STDERR_FILENO); /* what it has to say when it aborts is not news */
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(1);
        BREAKPOINT();
        o->run(r, state);
        BREAKPOINT();
        _exit(0);
    }
    stop_expect(pid, SIGTRAP);
    return pid;
}

static void operation_kill(pid_t pid) {
    int status;
    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %x", (unsigned)status);
}

/* Fills *course with the instructions from one breakpoint to the other; the last is that breakpoint itself. */
static void operation_trace(pid_t pid, struct course *course) {
    static uint64_t seen[INSTRUCTIONS_MAX];
    static uint32_t times[INSTRUCTIONS_MAX];
    uint32_t different = 0;
    course->count = 0;
    for (;;) {
        uint64_t rip = rip_get(pid);
        uint32_t i = 0;
        while (i < different && seen[i] != rip) i++;
        if (i == different) {
            seen[different++] = rip;
            times[i] = 0;
        }
        cr_assert_lt(course->count, INSTRUCTIONS_MAX);
        course->at[course->count] = rip;
        course->hit[course->count++] = ++times[i];
        if (text_get(rip) == 0xcc) break;
        step(pid);
    }
    operation_kill(pid);
}

/* Lets the process run up to its k-th instruction. */
static void operation_run_to(pid_t pid, const struct course *course, uint32_t k) {
    uint64_t at = course->at[k];
    if (k == 0) return;
    if (k + 1 == course->count) { /* the breakpoint behind the operation */
        cr_assert_eq(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
        stop_expect(pid, SIGTRAP);
        return;
    }
    uint32_t hit = rip_get(pid) == at;
    if (hit > 0) step(pid);
    for (;;) {
        text_set(pid, at, 0xcc);
        cr_assert_eq(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
        stop_expect(pid, SIGTRAP);
        cr_assert_eq(rip_get(pid), at + 1, "another breakpoint");
        text_set(pid, at, text_get(at));
        rip_set(pid, at);
        if (++hit == course->hit[k]) return;
        step(pid);
    }
}

static struct course *course_of(struct pair *r, const struct operation *o, const struct state *state) {
    static struct course course;
    operation_trace(operation_start(r, o, state), &course);
    return &course;
}

/* -- death at every instruction ---------------------------------------------------------------- */

/* The numbers that must be seen: those of before the operation up to some instruction, of after it from then on. */
struct expected {
    uint64_t published[2], released[2];
    uint64_t seen;
};

static void ends_attach(struct pair *r, const struct operation *o, const struct state *state) {
    producer_attach(r);
    consumer_attach(r);
    if (o->prepare != NULL) o->prepare(r, state);
}

static void ends_detach(struct pair *r) {
    ring_producer_detach(&r->p);
    ring_consumer_detach(&r->c);
}

/* All that is unreleased comes in order, unaltered; then the ring carries new records, three times around. */
static void expect_goes_on(struct pair *r, uint64_t published, uint64_t released) {
    struct ring_item item = {0};
    ring_rewind(&r->c);
    for (uint64_t n = released + 1; n <= published; n++) item = peek_expect(&r->c, n);
    peek_expect_empty(&r->c);
    if (item.number != 0) ring_release(&r->c, item.end, item.number);
    uint64_t until = r->p.tail + 3 * SMALL;
    ring_aux_set(&r->p, 1, 4711); /* once, so that every later publication has to carry it on */
    while ((int64_t)(until - r->p.tail) > 0) {
        uint64_t first = r->p.number;
        for (int i = 0; i < 5; i++) put(&r->p);
        cr_assert_gt(r->p.number, first, "there is no room in an empty ring");
        ring_aux_set(&r->p, 0, r->p.number);
        ring_publish(&r->p);
        for (uint64_t n = first + 1; n <= r->p.number; n++) item = peek_expect(&r->c, n);
        peek_expect_empty(&r->c);
        ring_release(&r->c, item.end, item.number);
    }
    uint64_t number = r->p.number;
    ring_producer_detach(&r->p);
    producer_attach(r);
    cr_assert_eq(r->p.number_published, number);
    cr_assert_eq(ring_aux_get(&r->p, 0), number);
    cr_assert_eq(ring_aux_get(&r->p, 1), 4711);
}

static void expect_survives(struct pair *r, bool producer, struct expected *e) {
    struct ring_snapshot s;
    cr_assert_eq(ring_observe(&r->fds, &s, NULL), RING_ATTACHED);
    const uint64_t *of = producer ? e->published : e->released;
    uint64_t now = producer ? s.published : s.released;
    cr_assert(now == of[0] || now == of[1], "%llu", (unsigned long long)now);
    cr_assert_geq(now, e->seen, "what had taken effect was undone by an instruction that comes later");
    e->seen = now;
    cr_assert_eq(producer ? s.released : s.published, producer ? e->released[0] : e->published[0]);
    if (producer) {
        ring_producer_detach(&r->p);
        producer_attach(r);
    } else {
        ring_consumer_detach(&r->c);
        consumer_attach(r);
    }
    cr_assert_eq(r->p.number_published, s.published);
    cr_assert_eq(r->p.number, s.published);
    cr_assert_eq(r->c.number_released, s.released);
    cr_assert_eq(ring_aux_get(&r->p, 0), s.published);
    cr_assert_eq(ring_aux_get(&r->p, 1), s.published * 3);
    expect_goes_on(r, s.published, s.released);
}

/* The numbers before and after the operation, when nobody dies. */
static struct expected operation_whole(struct pair *r, const struct operation *o, const struct state *state) {
    struct expected e = {0};
    ends_attach(r, o, state);
    e.published[0] = r->p.number_published;
    e.released[0] = r->c.number_released;
    o->run(r, state);
    e.published[1] = r->p.number_published;
    e.released[1] = r->c.number_released;
    ends_detach(r);
    return e;
}

/* The last instruction is never left out: what is killed there has done everything. */
static uint32_t next_point(const struct course *course, uint32_t k) {
    return k + STRIDE < course->count || k + 1 == course->count ? k + STRIDE : course->count - 1;
}

/* Returns before how many instructions the process was killed. *effective: whether it had an effect. */
static uint32_t kill_everywhere(const struct operation *o, const struct state *state, bool *effective) {
    static struct image image;
    struct pair r = state_make(state);
    image_take(&r, &image);
    struct expected e = operation_whole(&r, o, state);
    image_put(&r, &image);
    ends_attach(&r, o, state);
    struct course *course = course_of(&r, o, state);
    ends_detach(&r);
    uint32_t points = 0;
    for (uint32_t k = 0; k < course->count; k = next_point(course, k)) {
        points++;
        image_put(&r, &image);
        ends_attach(&r, o, state);
        pid_t pid = operation_start(&r, o, state);
        operation_run_to(pid, course, k);
        operation_kill(pid);
        expect_survives(&r, o->producer, &e);
        ends_detach(&r);
    }
    *effective = e.published[0] != e.published[1] || e.released[0] != e.released[1];
    const uint64_t *of = o->producer ? e.published : e.released;
    cr_assert_eq(e.seen, of[1], "%s: at its end the operation has not happened", state->name);
    ring_drop(&r.fds);
    close(r.producer_bell);
    close(r.consumer_bell);
    return points;
}

static void kill_everywhere_in_states(const struct operation *o, int first, int count, int effective_min) {
    double start = seconds_now();
    uint32_t points = 0;
    int effective = 0;
    result = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(result, MAP_FAILED);
    for (int i = first; i < first + count; i++) {
        bool had_effect;
        points += kill_everywhere(o, &states[i], &had_effect);
        effective += had_effect;
    }
    printf("measured: %s: killed before each of %u instructions, in %d states of the ring, in %.1f s\n", o->name,
           points, count, seconds_now() - start);
    cr_assert_geq(effective, effective_min);
}

Test(ring_step, a_producer_killed_at_any_instruction_of_writing_a_record_leaves_a_sound_ring, .timeout = 300) {
    kill_everywhere_in_states(&operations[0], 0, STATES, STATES - 3);
}
Test(ring_step, a_producer_killed_at_any_instruction_of_publishing_a_batch_leaves_a_sound_ring, .timeout = 300) {
    kill_everywhere_in_states(&operations[1], 0, STATES, STATES - 3);
}
Test(ring_step, a_consumer_killed_at_any_instruction_of_peeking_leaves_a_sound_ring, .timeout = 300) {
    kill_everywhere_in_states(&operations[2], 0, STATES, 0);
}
Test(ring_step, a_consumer_killed_at_any_instruction_of_releasing_leaves_a_sound_ring, .timeout = 300) {
    kill_everywhere_in_states(&operations[3], 0, STATES, STATES - 6);
}
Test(ring_step, a_successor_killed_at_any_instruction_of_attaching_leaves_the_ring_to_the_next, .timeout = 300) {
    kill_everywhere_in_states(&operations[4], 3, 2, 0);
    kill_everywhere_in_states(&operations[5], 3, 2, 0);
}

/* -- a peer that writes at every instruction --------------------------------------------------- */

struct write {
    const char *what;
    uint64_t at; /* in the peer's file; bytes of the data are counted from where the next record begins */
    bool in_data;
    uint64_t value; /* put there, or added to what is there */
    uint64_t keep;  /* bits of the old value that stay */
    bool add;
};

#define HEADER(len, type, flags) ((uint64_t)(len) | (uint64_t)(type) << 32 | (uint64_t)(flags) << 48)
enum { TYPE = 7 };

static const struct write producer_writes[] = {
    {"a length of 4 GiB", 0, true, HEADER(UINT32_MAX, 0, 0), 0xffffffff00000000, false},
    {"a length beyond the limit", 0, true, HEADER(SMALL / 8, 0, 0), 0xffffffff00000000, false},
    {"a length beyond the tail", 0, true, HEADER(SMALL / 8 - 16, 0, 0), 0xffffffff00000000, false},
    {"another length", 0, true, HEADER(5, 0, 0), 0xffffffff00000000, false},
    {"the type of padding", 0, true, 0, 0xffff0000ffffffff, false},
    {"padding of no length", 0, true, 0, 0, false},
    {"padding of 4 GiB", 0, true, HEADER(UINT32_MAX, 0, 0), 0, false},
    {"another type", 0, true, HEADER(0, TYPE, 0), 0xffff0000ffffffff, false},
    {"flags", 0, true, HEADER(0, 0, 1), 0x0000ffffffffffff, false},
    {"all bits set", 0, true, UINT64_MAX, 0, false},
    {"the next number", 8, true, 1, 0, true},
    {"the number before", 8, true, UINT64_MAX, 0, true},
    {"a tail one record further", 0, false, 64, 0, true},
    {"a tail one record back", 0, false, -64ULL, 0, true},
    {"an unaligned tail", 0, false, 8, 0, true},
    {"a tail a ring further", 0, false, SMALL, 0, true},
    {"any tail", 0, false, 0x123456789abcde00, 0, false},
};

static const struct write consumer_writes[] = {
    {"a head one record further", 0, false, 64, 0, true},
    {"a head one record back", 0, false, -64ULL, 0, true},
    {"an unaligned head", 0, false, 8, 0, true},
    {"a head a ring further", 0, false, SMALL, 0, true},
    {"a head a ring back", 0, false, -(uint64_t)SMALL, 0, true},
    {"any head", 0, false, 0x123456789abcde00, 0, false},
};

static void write_do(const struct write *w, int fd, uint64_t record) {
    size_t at = w->at + (w->in_data ? data_at(AUX) + (record & (SMALL - 1)) : 0);
    uint64_t old = look64(fd, at);
    smash64(fd, at, w->add ? old + w->value : (old & w->keep) | w->value);
}

/* Lets the process go on to its end. Returns the signal it died of, 0 when it did not. */
static int operation_finish(pid_t pid) {
    int status;
    cr_assert_eq(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGTRAP) return WTERMSIG(status);
    return 0; /* SIGTRAP: the breakpoint behind the operation */
}

/* What was read must be a record that stands within the ring, and every word of its header either the one of before
 * the write or the one of after it. */
static void expect_bounded(const struct pair *r, const struct ring_header old[2], const struct ring_header new[2],
                           const char *what) {
    if (result->state != RING_OK) return;
    cr_assert(result->tail_seen % RING_ALIGN == 0 && result->tail_seen - r->c.head <= SMALL,
              "%s: a tail that cannot be", what);
    const struct ring_item *item = &result->item;
    uint64_t at = (uint64_t)(item->body - r->c.data) - RING_HEADER_BYTES;
    cr_assert(item->body >= r->c.data + RING_HEADER_BYTES && at < SMALL, "%s", what);
    cr_assert_leq(at + RING_HEADER_BYTES + item->len, SMALL, "%s", what);
    cr_assert_leq(item->len, ring_record_max(SMALL), "%s", what);
    cr_assert_eq(item->number, r->c.number + 1, "%s", what);
    cr_assert(item->len == old[0].len || item->len == old[1].len || item->len == new[0].len, "%s: %u", what, item->len);
    cr_assert(item->type == old[0].type || item->type == old[1].type || item->type == new[0].type, "%s: %u", what,
              item->type);
    cr_assert_neq(item->type, RING_PADDING, "%s", what);
    cr_assert_leq(item->end - r->c.cursor, SMALL, "%s", what);
}

static struct ring_header header_at(const struct pair *r, uint64_t position) {
    struct ring_header h;
    memcpy(&h, r->c.data + (position & (SMALL - 1)), sizeof h);
    return h;
}

struct tally {
    uint32_t points, refused, taken, aborted;
};

static void write_at_every_instruction_of_peek(const struct state *state, const struct write *w, struct tally *tally) {
    static struct image image;
    const struct operation *o = &operations[2];
    struct pair r = state_make(state);
    image_take(&r, &image);
    ends_attach(&r, o, state);
    struct ring_header old[2] = {header_at(&r, r.c.cursor), header_at(&r, 0)}, new[2];
    struct course *course = course_of(&r, o, state);
    for (uint32_t k = 0; k < course->count; k = next_point(course, k)) {
        image_put(&r, &image);
        *result = (struct result){.state = RING_EMPTY};
        pid_t pid = operation_start(&r, o, state);
        operation_run_to(pid, course, k);
        write_do(w, r.fds.producer, r.c.cursor);
        new[0] = new[1] = header_at(&r, r.c.cursor);
        int died_of = operation_finish(pid);
        cr_assert_eq(died_of, 0, "%s, %s, before instruction %u: signal %d", state->name, w->what, k, died_of);
        expect_bounded(&r, old, new, w->what);
        tally->points++;
        tally->refused += result->state == RING_BROKEN;
        tally->taken += result->state == RING_OK;
    }
    pair_drop(&r);
}

/* States whose oldest record stands in the middle, at the end, behind padding. */
static const struct state peeked_states[] = {
    {.name = "some records", .at = 512, .used = 640},
    {.name = "full, records across the wrap", .at = 2048 + 32, .used = SMALL - 64},
    {.name = "one record, up to the very end of the data", .at = SMALL - 64, .used = 64},
    {.name = "padding", .at = SMALL - 32, .used = 128},
};

Test(ring_step, a_producer_that_writes_at_any_instruction_of_a_peek_is_refused_or_unnoticed, .timeout = 300) {
    double start = seconds_now();
    struct tally t = {0};
    result = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(result, MAP_FAILED);
    for (size_t i = 0; i < sizeof peeked_states / sizeof peeked_states[0]; i++)
        for (size_t k = 0; k < sizeof producer_writes / sizeof producer_writes[0]; k++)
            write_at_every_instruction_of_peek(&peeked_states[i], &producer_writes[k], &t);
    printf("measured: peek: a hostile write before each of %u instructions: %u refused, %u not noticed, in %.1f s\n",
           t.points, t.refused, t.taken, seconds_now() - start);
    cr_assert(t.refused > t.points / 8 && t.taken > t.points / 8);
}

static void write_at_every_instruction_of_reserve(const struct state *state, const struct write *w, struct tally *t) {
    static struct image image;
    const struct operation *o = &operations[0];
    struct pair r = state_make(state);
    image_take(&r, &image);
    ends_attach(&r, o, state);
    struct course *course = course_of(&r, o, state);
    for (uint32_t k = 0; k < course->count; k = next_point(course, k)) {
        image_put(&r, &image);
        *result = (struct result){0};
        pid_t pid = operation_start(&r, o, state);
        operation_run_to(pid, course, k);
        write_do(w, r.fds.consumer, 0);
        int died_of = operation_finish(pid);
        cr_assert(died_of == 0 || died_of == SIGABRT, "%s, %s, before instruction %u: signal %d", state->name, w->what,
                  k, died_of);
        cr_assert(result->reserved == NULL || (result->reserved >= r.p.data + RING_HEADER_BYTES &&
                                               result->reserved + state->len <= r.p.data + SMALL));
        t->points++;
        t->aborted += died_of == SIGABRT;
        t->taken += died_of == 0;
    }
    pair_drop(&r);
}

Test(ring_step, a_consumer_that_writes_at_any_instruction_of_a_reservation_stops_the_producer_or_nothing,
     .timeout = 300) {
    static const struct state full = {.name = "full", .at = 256, .used = SMALL, .len = 0};
    static const struct state some = {.name = "padding before it", .at = SMALL - 320, .used = 256, .len = 100};
    double start = seconds_now();
    struct tally t = {0};
    result = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(result, MAP_FAILED);
    for (size_t k = 0; k < sizeof consumer_writes / sizeof consumer_writes[0]; k++) {
        write_at_every_instruction_of_reserve(&full, &consumer_writes[k], &t);
        write_at_every_instruction_of_reserve(&some, &consumer_writes[k], &t);
    }
    printf("measured: reserve: a hostile write before each of %u instructions: %u times stopped, %u not noticed, in "
           "%.1f s\n",
           t.points, t.aborted, t.taken, seconds_now() - start);
    cr_assert(t.aborted > 10 && t.taken > t.points / 2);
}

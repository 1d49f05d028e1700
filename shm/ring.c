#include "shm/ring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/limits.h"
#include "shm/record.h"
#include "shm/workspace.h"

enum { RING_CAPACITY_MIN = 4096 };
enum { RING_WAKE_SHARE = 4 }; /* of the ring, that has to be free before a sleeping producer is woken */
static_assert(RING_WAKE_SHARE * 2 <= RING_RECORD_SHARE, "any record has room there, with the padding before it");

static bool power_of_two(uint64_t x) { return x != 0 && (x & (x - 1)) == 0; }
static uint64_t align_up(uint64_t x, uint64_t to) { return (x + to - 1) & ~(to - 1); }

uint64_t ring_control_bytes(uint32_t aux_count) {
    return RING_PAGE + align_up(2ULL * aux_count * sizeof(uint64_t), RING_PAGE);
}

const char *ring_grade_name(enum ring_grade grade) {
    static const char *const names[] = {"attached", "not ready", "wrong version", "too short", "corrupt"};
    return (unsigned)grade < sizeof names / sizeof names[0] ? names[grade] : "unknown";
}

int ring_grade_exit(enum ring_grade grade) { return grade == RING_TOO_SHORT ? EXIT_DONT_RESTART : EXIT_RING_BROKEN; }

/* -- construction ------------------------------------------------------------------------------ */

static void close_all(struct ring_fds *fds) {
    if (fds->constants >= 0) close(fds->constants);
    if (fds->producer >= 0) close(fds->producer);
    if (fds->consumer >= 0) close(fds->consumer);
    *fds = (struct ring_fds){-1, -1, -1};
}

static int constants_write(int fd, const char *name, uint64_t capacity, uint32_t aux_count, uint64_t incarnation,
                           struct err *err) {
    size_t bytes;
    struct ring_constants *k = workspace_map(fd, sizeof *k, true, &bytes, err);
    if (k == NULL) return -1;
    k->version = RING_VERSION;
    k->record_version = RECORD_VERSION;
    k->capacity = capacity;
    k->incarnation = incarnation;
    k->aux_count = aux_count;
    strncpy(k->name, name, sizeof k->name - 1);
    atomic_store_explicit(&k->magic, RING_MAGIC, memory_order_release); /* C1, pairs with C1' in constants_read */
    munmap(k, bytes);
    return 0;
}

/* Both slots are zero after creation: slot 0 matches position 0 with number 0, slot 1 must not. */
static int slots_init(int fd, size_t slot_at, struct err *err) {
    size_t bytes;
    char *page = workspace_map(fd, RING_PAGE, true, &bytes, err);
    if (page == NULL) return -1;
    struct ring_slot *slot = (struct ring_slot *)(void *)(page + slot_at);
    atomic_store_explicit(&slot[1].position, UINT64_MAX, memory_order_relaxed);
    munmap(page, bytes);
    return 0;
}

/* One of a ring's three memory files. Its name in /proc/PID/fd is how tools find it (RING_MEMORY_NAME). */
static int region_create(const char *name, uint64_t incarnation, const char *region, size_t bytes, unsigned how,
                         struct err *err) {
    char memory[RING_MEMORY_BYTES];
    snprintf(memory, sizeof memory, RING_MEMORY_NAME, name, incarnation, region);
    return workspace_create_held(memory, bytes, how, err);
}

int ring_create(struct ring_fds *fds, const char *name, uint64_t capacity, uint32_t aux_count, uint64_t incarnation,
                struct err *err) {
    return ring_create_held(fds, name, capacity, aux_count, incarnation, 0, err);
}

int ring_create_held(struct ring_fds *fds, const char *name, uint64_t capacity, uint32_t aux_count,
                     uint64_t incarnation, unsigned how, struct err *err) {
    *fds = (struct ring_fds){-1, -1, -1};
    if (!power_of_two(capacity) || capacity < RING_CAPACITY_MIN || capacity > RING_BYTES_MAX)
        return err_set(err, EINVAL, "ring %s: capacity %llu is not a power of two in [%d, %lu]", name,
                       (unsigned long long)capacity, RING_CAPACITY_MIN, RING_BYTES_MAX);
    if (aux_count > RING_AUX_MAX)
        return err_set(err, EINVAL, "ring %s: %u aux words, at most %d", name, aux_count, RING_AUX_MAX);
    if (strlen(name) >= sizeof((struct ring_constants *)0)->name)
        return err_set(err, EINVAL, "ring %s: the name is longer than 23 characters", name);
    fds->constants = region_create(name, incarnation, "constants", RING_PAGE, 0, err);
    if (fds->constants >= 0)
        fds->producer =
            region_create(name, incarnation, "producer", ring_control_bytes(aux_count) + capacity, how, err);
    if (fds->producer >= 0) fds->consumer = region_create(name, incarnation, "consumer", RING_PAGE, 0, err);
    if (fds->consumer < 0 || slots_init(fds->producer, offsetof(struct ring_producer_page, slot), err) != 0 ||
        slots_init(fds->consumer, offsetof(struct ring_consumer_page, slot), err) != 0 ||
        constants_write(fds->constants, name, capacity, aux_count, incarnation, err) != 0) {
        close_all(fds);
        return -1;
    }
    return 0;
}

/* -- attach: everything that is relied on later is checked here, once -------------------------- */

static enum ring_grade grade(enum ring_grade g, struct err *err, const char *what) {
    err_set(err, EINVAL, "ring is %s: %s", ring_grade_name(g), what);
    return g;
}

static enum ring_grade constants_read(int fd, struct ring_constants *out, struct err *err) {
    size_t bytes;
    struct ring_constants *k = workspace_map(fd, sizeof *k, false, &bytes, err);
    if (k == NULL) return RING_TOO_SHORT;
    uint64_t magic = atomic_load_explicit(&k->magic, memory_order_acquire); /* C1' */
    memcpy(out, k, sizeof *out);
    munmap(k, bytes);
    if (magic == 0) return grade(RING_NOT_READY, err, "magic not written");
    if (magic != RING_MAGIC) return grade(RING_CORRUPT, err, "wrong magic");
    if (out->version != RING_VERSION || out->record_version != RECORD_VERSION)
        return grade(RING_WRONG_VERSION, err, "made by another build");
    if (!power_of_two(out->capacity) || out->capacity < RING_CAPACITY_MIN || out->capacity > RING_BYTES_MAX)
        return grade(RING_CORRUPT, err, "impossible capacity");
    if (out->aux_count > RING_AUX_MAX) return grade(RING_CORRUPT, err, "impossible count of aux words");
    return RING_ATTACHED;
}

/* The three regions, mapped. */
struct mapping {
    struct ring_constants constants;
    struct ring_producer_page *producer;
    struct ring_consumer_page *consumer;
    size_t producer_bytes, consumer_bytes;
};

static void unmap_regions(struct mapping *m) {
    if (m->producer != NULL) munmap(m->producer, m->producer_bytes);
    if (m->consumer != NULL) munmap(m->consumer, m->consumer_bytes);
}

static enum ring_grade map_regions(struct mapping *m, const struct ring_fds *fds, bool producer_writes,
                                   bool consumer_writes, struct err *err) {
    m->producer = NULL;
    m->consumer = NULL;
    enum ring_grade g = constants_read(fds->constants, &m->constants, err);
    if (g != RING_ATTACHED) return g;
    size_t need = ring_control_bytes(m->constants.aux_count) + m->constants.capacity;
    m->producer = workspace_map(fds->producer, need, producer_writes, &m->producer_bytes, err);
    m->consumer = workspace_map(fds->consumer, RING_PAGE, consumer_writes, &m->consumer_bytes, err);
    if (m->producer == NULL || m->consumer == NULL) {
        unmap_regions(m);
        return RING_TOO_SHORT;
    }
    return RING_ATTACHED;
}

static bool positions_sane(uint64_t head, uint64_t tail, uint64_t capacity) {
    return tail - head <= capacity && head % RING_ALIGN == 0 && tail % RING_ALIGN == 0;
}

/* Which slot matches the position; -1 when none or both do. */
static int slot_current(const struct ring_slot slot[2], uint64_t position) {
    bool m0 = atomic_load_explicit(&slot[0].position, memory_order_relaxed) == position;
    bool m1 = atomic_load_explicit(&slot[1].position, memory_order_relaxed) == position;
    return m0 == m1 ? -1 : m1;
}

/* Records are at least a header long, and numbers and positions begin at 0 together. */
static bool number_sane(const struct ring_slot *current) {
    return current->number <= atomic_load_explicit(&current->position, memory_order_relaxed) / RING_HEADER_BYTES;
}

static enum ring_grade check_state(const struct mapping *m, int *producer_slot, int *consumer_slot, struct err *err) {
    /* Head first: it can only move towards the tail that is read afterwards. */
    uint64_t head = atomic_load_explicit(&m->consumer->head, memory_order_acquire);
    uint64_t tail = atomic_load_explicit(&m->producer->tail, memory_order_acquire);
    if (tail - head >
        m->constants.capacity) { /* an end at work may have moved both in between: look at the head again */
        head = atomic_load_explicit(&m->consumer->head, memory_order_acquire);
    }
    if (!positions_sane(head, tail, m->constants.capacity)) return grade(RING_CORRUPT, err, "positions are impossible");
    *producer_slot = slot_current(m->producer->slot, tail);
    *consumer_slot = slot_current(m->consumer->slot, head);
    return RING_ATTACHED;
}

/* -- producer ---------------------------------------------------------------------------------- */

static void producer_forget(struct ring_producer *p) {
    free(p->aux_now);
    free(p->aux_set_in);
    free(p->aux_changed[0]);
    free(p->aux_changed[1]);
    *p = (struct ring_producer){.peer_doorbell = -1};
}

static int producer_allocate(struct ring_producer *p, uint32_t aux_count, struct err *err) {
    size_t n = aux_count > 0 ? aux_count : 1;
    p->aux_now = calloc(n, sizeof *p->aux_now);
    p->aux_set_in = calloc(n, sizeof *p->aux_set_in);
    p->aux_changed[0] = calloc(n, sizeof *p->aux_changed[0]);
    p->aux_changed[1] = calloc(n, sizeof *p->aux_changed[1]);
    if (p->aux_now == NULL || p->aux_set_in == NULL || p->aux_changed[0] == NULL || p->aux_changed[1] == NULL)
        return err_set(err, ENOMEM, "no memory for %u aux words", aux_count);
    return 0;
}

/* The slot that is not current may hold anything a predecessor was writing when it died: make it the twin of the
 * current one, with a position that matches nothing, so that later publications only write what changed. */
static void slot_heal(struct ring_producer *p) {
    int spare = 1 - p->current;
    atomic_store_explicit(&p->page->slot[spare].position, UINT64_MAX, memory_order_release);
    memcpy(p->aux[spare], p->aux[p->current], p->aux_count * sizeof(uint64_t));
    memcpy(p->aux_now, p->aux[p->current], p->aux_count * sizeof(uint64_t));
}

enum ring_grade ring_producer_attach(struct ring_producer *p, const struct ring_fds *fds, int peer_doorbell,
                                     struct err *err) {
    *p = (struct ring_producer){.peer_doorbell = peer_doorbell};
    struct mapping m;
    int mine, theirs;
    enum ring_grade g = map_regions(&m, fds, true, false, err);
    if (g != RING_ATTACHED) return g;
    g = check_state(&m, &mine, &theirs, err);
    if (g == RING_ATTACHED && mine < 0) g = grade(RING_CORRUPT, err, "no slot matches the tail");
    if (g == RING_ATTACHED && !number_sane(&m.producer->slot[mine]))
        g = grade(RING_CORRUPT, err, "more records were published than there is room for");
    if (g == RING_ATTACHED && producer_allocate(p, m.constants.aux_count, err) != 0) g = RING_NOT_READY;
    if (g != RING_ATTACHED) {
        unmap_regions(&m);
        producer_forget(p);
        return g;
    }
    p->page = m.producer;
    p->peer = m.consumer;
    p->aux_count = m.constants.aux_count;
    p->aux[0] = (uint64_t *)(void *)((char *)m.producer + RING_PAGE);
    p->aux[1] = p->aux[0] + p->aux_count;
    p->data = (uint8_t *)m.producer + ring_control_bytes(p->aux_count);
    p->capacity = m.constants.capacity;
    p->mask = p->capacity - 1;
    p->incarnation = m.constants.incarnation;
    p->tail = p->cursor = atomic_load_explicit(&p->page->tail, memory_order_relaxed);
    p->head_seen = atomic_load_explicit(&p->peer->head, memory_order_acquire);
    p->current = mine;
    p->number = p->number_published = p->page->slot[mine].number;
    p->producer_bytes = m.producer_bytes;
    p->consumer_bytes = m.consumer_bytes;
    p->publication = 1;
    slot_heal(p);
    return RING_ATTACHED;
}

void ring_producer_detach(struct ring_producer *p) {
    if (p->page != NULL) {
        munmap(p->page, p->producer_bytes);
        munmap((void *)(uintptr_t)p->peer, p->consumer_bytes);
    }
    producer_forget(p);
}

/* Bytes from the cursor that a body of len takes, the padding before it included; *at gets the header's position. */
static uint64_t bytes_needed(const struct ring_producer *p, uint32_t len, uint64_t *at) {
    uint64_t need = RING_HEADER_BYTES + align_up(len, RING_ALIGN);
    uint64_t to_end = p->capacity - (p->cursor & p->mask);
    uint64_t pad = need > to_end ? to_end : 0;
    *at = p->cursor + pad;
    return pad + need;
}

/* The head only moves forward, and never beyond the tail. */
static void head_advance(struct ring_producer *p, uint64_t head) {
    CHECK(head % RING_ALIGN == 0 && head - p->head_seen <= p->tail - p->head_seen);
    p->head_seen = head;
}

bool ring_has_room(struct ring_producer *p, uint32_t len) {
    uint64_t at;
    uint64_t need = bytes_needed(p, len, &at);
    if (need <= p->capacity - (p->cursor - p->head_seen)) return true;
    uint64_t head = atomic_load_explicit(&p->peer->head, memory_order_acquire); /* A2, pairs with P2 */
    head_advance(p, head);
    return need <= p->capacity - (p->cursor - head);
}

void *ring_reserve(struct ring_producer *p, uint32_t len) {
    CHECK(len <= ring_record_max(p->capacity));
    if (!ring_has_room(p, len)) {
        p->count.full++;
        return NULL;
    }
    bytes_needed(p, len, &p->reserved_at);
    p->reserved = len;
    p->reserving = true;
    return p->data + (p->reserved_at & p->mask) + RING_HEADER_BYTES;
}

static void header_write(struct ring_producer *p, uint64_t at, uint32_t len, uint16_t type, uint64_t number) {
    struct ring_header h = {.len = len, .type = type, .flags = 0, .number = number};
    memcpy(p->data + (at & p->mask), &h, sizeof h);
}

uint64_t ring_stage(struct ring_producer *p, uint32_t len, uint16_t type) {
    CHECK(p->reserving && len <= p->reserved && type != RING_PADDING);
    if (p->reserved_at != p->cursor) {
        uint32_t pad = (uint32_t)(p->reserved_at - p->cursor) - RING_HEADER_BYTES;
        header_write(p, p->cursor, pad, RING_PADDING, 0);
    }
    p->number++;
    header_write(p, p->reserved_at, len, type, p->number);
    p->cursor = p->reserved_at + RING_HEADER_BYTES + align_up(len, RING_ALIGN);
    p->reserving = false;
    p->count.bytes += len;
    return p->number;
}

void ring_aux_set(struct ring_producer *p, uint32_t i, uint64_t value) {
    CHECK(i < p->aux_count);
    p->aux_now[i] = value;
    if (p->aux_set_in[i] == p->publication) return;
    p->aux_set_in[i] = p->publication;
    p->aux_changed[0][p->aux_changed_count[0]++] = i;
}

/* Writes {position, number, aux} into the slot that is not current. It differs from aux_now only in what was set for
 * this publication and for the one before (which went to the other slot). */
static void slot_fill(struct ring_producer *p, int spare) {
    for (int generation = 0; generation < 2; generation++)
        for (uint32_t k = 0; k < p->aux_changed_count[generation]; k++) {
            uint32_t i = p->aux_changed[generation][k];
            p->aux[spare][i] = p->aux_now[i];
        }
    uint32_t *swap = p->aux_changed[1];
    p->aux_changed[1] = p->aux_changed[0];
    p->aux_changed_count[1] = p->aux_changed_count[0];
    p->aux_changed[0] = swap;
    p->aux_changed_count[0] = 0;
    p->publication++;
    p->page->slot[spare].number = p->number;
    atomic_store_explicit(&p->page->slot[spare].position, p->cursor, memory_order_relaxed);
}

static void doorbell_ring(int doorbell) {
    uint64_t one = 1;
    if (doorbell >= 0 && write(doorbell, &one, sizeof one) < 0) {
        /* EAGAIN: the counter is full, so the sleeper has a wake-up pending. Anything else costs WAIT_MS_MAX. */
    }
}

/* Whether the peer sleeps and this sleep was not answered yet. */
static bool asleep(const _Atomic uint64_t *waiting, uint64_t signalled, uint64_t *sleep) {
    *sleep = atomic_load_explicit(waiting, memory_order_seq_cst); /* A3, pairs with P3 */
    return *sleep != 0 && *sleep != signalled;
}

void ring_publish(struct ring_producer *p) {
    if (p->cursor == p->tail) return;
    int spare = 1 - p->current;
    slot_fill(p, spare);
    p->count.published += p->number - p->number_published;
    p->current = spare;
    p->tail = p->cursor;
    p->number_published = p->number;
    /* P1, pairs with A1 in ring_peek: records, slot and aux words before it are seen by whoever sees this tail. */
    atomic_store_explicit(&p->page->tail, p->tail, memory_order_seq_cst);
    uint64_t sleep;
    if (!asleep(&p->peer->waiting, p->signalled, &sleep)) return;
    p->signalled = sleep;
    p->count.wakeups++;
    doorbell_ring(p->peer_doorbell);
}

bool ring_producer_arm(struct ring_producer *p) {
    uint64_t room = p->capacity / RING_WAKE_SHARE;
    /* Whoever sees this sleep's number sees its wake_at, or that of a later sleep, whose own look at the head counts.
     */
    atomic_store_explicit(&p->page->wake_at, p->cursor + room - p->capacity, memory_order_relaxed);
    atomic_store_explicit(&p->page->waiting, ++p->page->sleeps, memory_order_seq_cst); /* P3 */
    head_advance(p, atomic_load_explicit(&p->peer->head, memory_order_seq_cst));
    return room <= p->capacity - (p->cursor - p->head_seen);
}

void ring_producer_disarm(struct ring_producer *p) {
    atomic_store_explicit(&p->page->waiting, 0, memory_order_relaxed);
}

/* -- consumer ---------------------------------------------------------------------------------- */

enum ring_grade ring_consumer_attach(struct ring_consumer *c, const struct ring_fds *fds, int peer_doorbell,
                                     struct err *err) {
    *c = (struct ring_consumer){.peer_doorbell = peer_doorbell};
    struct mapping m;
    int mine, theirs;
    enum ring_grade g = map_regions(&m, fds, false, true, err);
    if (g != RING_ATTACHED) return g;
    g = check_state(&m, &theirs, &mine, err);
    if (g == RING_ATTACHED && mine < 0) g = grade(RING_CORRUPT, err, "no slot matches the head");
    if (g == RING_ATTACHED && !number_sane(&m.consumer->slot[mine]))
        g = grade(RING_CORRUPT, err, "more records were released than there is room for");
    if (g != RING_ATTACHED) {
        unmap_regions(&m);
        return g;
    }
    c->page = m.consumer;
    c->peer = m.producer;
    c->data = (const uint8_t *)m.producer + ring_control_bytes(m.constants.aux_count);
    c->capacity = m.constants.capacity;
    c->mask = c->capacity - 1;
    c->incarnation = m.constants.incarnation;
    c->head = c->cursor = atomic_load_explicit(&c->page->head, memory_order_relaxed);
    c->tail_seen = c->cursor;
    c->current = mine;
    c->number = c->number_released = c->page->slot[mine].number;
    c->producer_bytes = m.producer_bytes;
    c->consumer_bytes = m.consumer_bytes;
    atomic_store_explicit(&c->page->in_hand, 0, memory_order_relaxed);
    return RING_ATTACHED;
}

void ring_consumer_detach(struct ring_consumer *c) {
    if (c->page != NULL) {
        munmap((void *)(uintptr_t)c->peer, c->producer_bytes);
        munmap(c->page, c->consumer_bytes);
    }
    *c = (struct ring_consumer){.peer_doorbell = -1};
}

static enum ring_state broken(const struct ring_consumer *c, struct err *err, const char *what) {
    err_set(err, EINVAL, "ring is corrupt at position %llu, after record %llu: %s", (unsigned long long)c->cursor,
            (unsigned long long)c->number, what);
    return RING_BROKEN;
}

/* One load per word: what was checked is what is used, whatever the other side writes meanwhile. */
static struct ring_header header_load(const uint8_t *at) {
    const _Atomic uint64_t *word = (const _Atomic uint64_t *)(const void *)at;
    uint64_t w[2] = {atomic_load_explicit(&word[0], memory_order_relaxed),
                     atomic_load_explicit(&word[1], memory_order_relaxed)};
    struct ring_header h;
    memcpy(&h, w, sizeof h);
    return h;
}

/* Skips a padding record; the publication that wrote it also holds a record behind it. */
static enum ring_state padding_skip(struct ring_consumer *c, const struct ring_header *h, struct err *err) {
    uint64_t to_end = c->capacity - (c->cursor & c->mask);
    if ((uint64_t)h->len + RING_HEADER_BYTES != to_end) return broken(c, err, "padding does not end at the wrap");
    if (to_end >= c->tail_seen - c->cursor) return broken(c, err, "padding reaches beyond the tail");
    c->cursor += to_end;
    return RING_OK;
}

enum ring_state ring_peek(struct ring_consumer *c, struct ring_item *item, struct err *err) {
    if (c->cursor == c->tail_seen) {
        uint64_t tail = atomic_load_explicit(&c->peer->tail, memory_order_acquire); /* A1, pairs with P1 */
        if (tail == c->cursor) {
            c->count.empty++;
            return RING_EMPTY;
        }
        if (!positions_sane(c->head, tail, c->capacity) || tail - c->head < c->cursor - c->head)
            return broken(c, err, "the tail is impossible");
        c->tail_seen = tail;
    }
    struct ring_header h = header_load(c->data + (c->cursor & c->mask));
    if (h.type == RING_PADDING) {
        if (padding_skip(c, &h, err) != RING_OK) return RING_BROKEN;
        h = header_load(c->data + (c->cursor & c->mask));
    }
    uint64_t pos = c->cursor & c->mask;
    if (h.type == RING_PADDING || h.flags != 0) return broken(c, err, "unknown record type");
    if (h.len > ring_record_max(c->capacity)) return broken(c, err, "a length beyond the limit");
    uint64_t need = RING_HEADER_BYTES + align_up(h.len, RING_ALIGN);
    if (need > c->tail_seen - c->cursor) return broken(c, err, "a length beyond the tail");
    if (pos + need > c->capacity) return broken(c, err, "a length beyond the wrap");
    if (h.number != c->number + 1) return broken(c, err, "a number out of sequence");
    c->cursor += need;
    c->number = h.number;
    c->count.records++;
    *item = (struct ring_item){
        .body = c->data + pos + RING_HEADER_BYTES, .len = h.len, .type = h.type, .number = h.number, .end = c->cursor};
    return RING_OK;
}

void ring_release(struct ring_consumer *c, uint64_t end, uint64_t number) {
    if (end == c->head) return;
    CHECK(end - c->head <= c->cursor - c->head && number > c->number_released && number <= c->number);
    int spare = 1 - c->current;
    c->page->slot[spare].number = number;
    atomic_store_explicit(&c->page->slot[spare].position, end, memory_order_relaxed);
    c->current = spare;
    c->head = end;
    c->number_released = number;
    /* P2, pairs with A2 in ring_has_room: the bytes before it are no longer read when the producer sees this head. */
    atomic_store_explicit(&c->page->head, end, memory_order_seq_cst);
    uint64_t sleep;
    if (!asleep(&c->peer->waiting, c->signalled, &sleep)) return;
    uint64_t wake_at = atomic_load_explicit(&c->peer->wake_at, memory_order_relaxed);
    if ((int64_t)(end - wake_at) < 0) return; /* not enough yet: a later release answers this sleep */
    c->signalled = sleep;
    c->count.wakeups++;
    doorbell_ring(c->peer_doorbell);
}

void ring_rewind(struct ring_consumer *c) {
    c->cursor = c->head;
    c->number = c->number_released;
}

void ring_in_hand(struct ring_consumer *c, uint64_t number) {
    atomic_store_explicit(&c->page->in_hand, number, memory_order_relaxed);
}

bool ring_consumer_arm(struct ring_consumer *c) {
    atomic_store_explicit(&c->page->waiting, ++c->page->sleeps, memory_order_seq_cst); /* P3 */
    return atomic_load_explicit(&c->peer->tail, memory_order_seq_cst) != c->cursor;
}

void ring_consumer_disarm(struct ring_consumer *c) {
    atomic_store_explicit(&c->page->waiting, 0, memory_order_relaxed);
}

/* -- observers --------------------------------------------------------------------------------- */

enum ring_grade ring_observe(const struct ring_fds *fds, struct ring_snapshot *s, struct err *err) {
    struct mapping m;
    int producer_slot, consumer_slot;
    *s = (struct ring_snapshot){0};
    enum ring_grade g = map_regions(&m, fds, false, false, err);
    if (g != RING_ATTACHED) return g;
    for (int tries = 0; tries < 100; tries++) { /* both ends may be at work: take a moment when the slots match */
        g = check_state(&m, &producer_slot, &consumer_slot, err);
        if (g == RING_ATTACHED && producer_slot >= 0 && consumer_slot >= 0) break;
    }
    if (g == RING_ATTACHED) {
        s->capacity = m.constants.capacity;
        s->incarnation = m.constants.incarnation;
        s->head = atomic_load_explicit(&m.consumer->head, memory_order_acquire);
        s->tail = atomic_load_explicit(&m.producer->tail, memory_order_acquire);
        s->in_hand = atomic_load_explicit(&m.consumer->in_hand, memory_order_relaxed);
        if (producer_slot >= 0) s->published = m.producer->slot[producer_slot].number;
        if (consumer_slot >= 0) s->released = m.consumer->slot[consumer_slot].number;
        if (s->tail - s->head > s->capacity) s->head = s->tail - s->capacity;
    }
    unmap_regions(&m);
    return g;
}

/* Ring: single producer, single consumer, variable-length records in place, in memory that outlives both ends.
 *
 * Three regions by writer, each a memory file sealed against resizing; the other side's is mapped from a descriptor
 * reopened read-only:
 *
 *   constants (supervisor)   producer (control, then data)                      consumer
 *   +--------------------+   +--------------------------------------------+   +-----------------------+
 *   | magic version      |   | tail | waiting | slot 0 | slot 1 || data … |   | head | waiting        |
 *   | capacity           |   |             slot: position, number, aux[]  |   | slot 0 | slot 1        |
 *   | incarnation        |   +--------------------------------------------+   | number in hand        |
 *   +--------------------+                                                    +-----------------------+
 *
 * Positions are free-running 64-bit byte counts, masked on use. Every record carries its number, one more than the one
 * before. The producer writes beyond the shared tail and makes a whole batch visible with one store of the tail; before
 * that it fills the slot that is not current with {new position, last number, aux words}. A successor takes the slot
 * whose position equals the tail: the batch is either wholly there, with its aux words, or was never published. The
 * consumer's page has the same two slots, so a successor knows the number of the first record it will see.
 *
 * Nothing is repaired here: what fails a check is RING_CORRUPT (RING_BROKEN while reading): the worker leaves with
 * EXIT_RING_BROKEN, and the supervisor makes all rings anew.
 *
 * Ordering. P1: store of tail (seq_cst) -> A1: load of tail (acquire) in ring_peek. P2: store of head (seq_cst) ->
 * A2: load of head (acquire) in ring_has_room. P3/A3: the waiting words, seq_cst on both sides against P1/P2, so that
 * either the sleeper sees the new position or the other side sees the flag (Dekker's protocol). */
#ifndef MILLRACE_SHM_RING_H
#define MILLRACE_SHM_RING_H

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/limits.h"

#define RING_MAGIC 0x676e69726c6c696dULL /* "millring" */
enum { RING_VERSION = 2, RING_HEADER_BYTES = 16, RING_ALIGN = 16, RING_AUX_MAX = 4096, RING_PAGE = 4096 };

struct ring_constants {      /* ABI: written once by ring_create, magic last */
    _Atomic uint64_t magic;  /*  0 */
    uint32_t version;        /*  8 RING_VERSION */
    uint32_t record_version; /* 12 RECORD_VERSION of the build that made it */
    uint64_t capacity;       /* 16 bytes of data, a power of two */
    uint64_t incarnation;    /* 24 random; numbers are never reused within one */
    uint32_t aux_count;      /* 32 aux words in each of the producer's slots, [0, RING_AUX_MAX] */
    uint32_t reserved;       /* 36 */
    char name[24];           /* 40 for messages and tools */
};

struct ring_slot {             /* ABI */
    _Atomic uint64_t position; /* equals tail (or head) when the slot is the current one */
    uint64_t number;           /* of the last record published (or released) */
    uint64_t reserved[6];
};

struct ring_producer_page { /* ABI; followed by aux[2][aux_count], padded to whole pages, then the data */
    _Atomic uint64_t tail;  /*   0 */
    uint64_t gap0[15];
    _Atomic uint64_t waiting; /* 128 0: awake; else which sleep of the producer this is */
    uint64_t sleeps;          /* 136 so far, by all producers */
    _Atomic uint64_t wake_at; /* 144 head from which on there is room worth waking for; set before `waiting` */
    uint64_t gap1[13];
    struct ring_slot slot[2]; /* 256 */
    uint64_t gap2[464];       /* to 4096 */
};

struct ring_consumer_page { /* ABI */
    _Atomic uint64_t head;  /*   0 */
    uint64_t gap0[15];
    _Atomic uint64_t waiting; /* 128 */
    uint64_t sleeps;          /* 136 */
    uint64_t gap1[14];
    struct ring_slot slot[2]; /* 256 */
    _Atomic uint64_t in_hand; /* 384 number being parsed; 0 none: whom a death is counted against */
    uint64_t gap2[463];
};

static_assert(sizeof(struct ring_constants) == 64, "ring ABI");
static_assert(offsetof(struct ring_constants, capacity) == 16, "ring ABI");
static_assert(offsetof(struct ring_constants, incarnation) == 24, "ring ABI");
static_assert(sizeof(struct ring_slot) == 64, "ring ABI");
static_assert(sizeof(struct ring_producer_page) == RING_PAGE, "ring ABI");
static_assert(sizeof(struct ring_consumer_page) == RING_PAGE, "ring ABI");
static_assert(offsetof(struct ring_producer_page, waiting) == 128, "ring ABI");
static_assert(offsetof(struct ring_producer_page, wake_at) == 144, "ring ABI");
static_assert(offsetof(struct ring_producer_page, slot) == 256, "ring ABI");
static_assert(offsetof(struct ring_consumer_page, in_hand) == 384, "ring ABI");
static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "positions are lock-free");

struct ring_header { /* before every record; ABI */
    uint32_t len;    /* bytes of the body */
    uint16_t type;   /* RING_PADDING or the user's, [1, 65535] */
    uint16_t flags;  /* zero */
    uint64_t number;
};
static_assert(sizeof(struct ring_header) == RING_HEADER_BYTES, "ring ABI");
enum { RING_PADDING = 0 };

/* The descriptors of one ring. The supervisor holds the writable ones; a worker gets its own side writable and the
 * other side reopened read-only. */
struct ring_fds {
    int constants, producer, consumer;
};

enum ring_grade { RING_ATTACHED, RING_NOT_READY, RING_WRONG_VERSION, RING_TOO_SHORT, RING_CORRUPT };
const char *ring_grade_name(enum ring_grade grade);

/* ring_grade_exit returns the exit status of a worker that could not attach: EXIT_RING_BROKEN when what is in the ring
 * is at fault (its maker is the worker's own supervisor, of the same build), else EXIT_DONT_RESTART. */
int ring_grade_exit(enum ring_grade grade);

/* Name of a region's memory file: the ring's name, its incarnation, and constants, producer or consumer. What
 * /proc/PID/fd shows as "/memfd:millring/ingest[0]/0123456789abcdef/producer (deleted)". */
#define RING_MEMORY_NAME "millring/%s/%016" PRIx64 "/%s"
enum { RING_MEMORY_BYTES = 64 };

/* Bytes of the producer's region before the data: its page and the aux words of both slots, in whole pages. */
uint64_t ring_control_bytes(uint32_t aux_count);

/* ring_create makes the three memory files, sealed, and returns their writable descriptors (close-on-exec) in *fds.
 * Supervisor only. capacity: power of two in [4096, RING_BYTES_MAX] (the configuration's are from RING_BYTES_MIN on);
 * aux_count in [0, RING_AUX_MAX]; name: at most 23 characters; incarnation: random. Returns 0, or -1 with err.code an
 * errno (ENOMEM, EMFILE, …, EINVAL). */
int ring_create(struct ring_fds *fds, const char *name, uint64_t capacity, uint32_t aux_count, uint64_t incarnation,
                struct err *err);

/* ring_create_held is ring_create with the data (and the producer's page) held as workspace_create_held does. */
int ring_create_held(struct ring_fds *fds, const char *name, uint64_t capacity, uint32_t aux_count,
                     uint64_t incarnation, unsigned how, struct err *err);

/* The writing end. Private to one process; made by ring_producer_attach, never copied. */
struct ring_producer {
    struct ring_producer_page *page;
    const struct ring_consumer_page *peer;
    uint8_t *data;
    uint64_t *aux[2];         /* in shared memory, one per slot */
    uint64_t *aux_now;        /* private: the aux words of the next publication */
    uint64_t *aux_set_in;     /* private: publication in which the word was last set */
    uint32_t *aux_changed[2]; /* private: words set for the next publication / in the one before */
    uint32_t aux_changed_count[2];
    uint64_t publication; /* counts publications since attach */
    uint64_t capacity, mask, incarnation;
    uint64_t tail;      /* published */
    uint64_t cursor;    /* staged, >= tail */
    uint64_t head_seen; /* cached copy of the peer's head */
    uint64_t number;    /* staged last */
    uint64_t number_published;
    uint64_t signalled; /* the peer's waiting word that was already answered */
    uint32_t aux_count;
    uint32_t reserved;    /* bytes promised by the last ring_reserve */
    bool reserving;       /* between ring_reserve and ring_stage */
    uint64_t reserved_at; /* position of the reserved header, after any padding */
    int current;          /* index of the slot that matches tail */
    int peer_doorbell;    /* eventfd of the consumer's process */
    size_t producer_bytes, consumer_bytes; /* mapped */
    struct {
        uint64_t published, bytes, full, wakeups;
    } count; /* since attach */
};

/* ring_producer_attach maps the ring as its producer, checking everything it will rely on: mapped sizes, magic,
 * version, capacity, positions (head <= tail <= head + capacity, aligned), exactly one slot that matches the tail, a
 * number in it that so many bytes can hold. Continues where a predecessor left: number and aux words are those of its
 * last publication; what it staged and did not publish is gone. peer_doorbell: eventfd of the consumer, -1 none. err
 * tells more than the grade. Idempotent. */
enum ring_grade ring_producer_attach(struct ring_producer *p, const struct ring_fds *fds, int peer_doorbell,
                                     struct err *err);
void ring_producer_detach(struct ring_producer *p);

/* ring_record_max returns the largest body in bytes: capacity / RING_RECORD_SHARE less the header. */
static inline uint32_t ring_record_max(uint64_t capacity) {
    return (uint32_t)(capacity / RING_RECORD_SHARE) - RING_HEADER_BYTES;
}

/* ring_reserve returns where a body of up to len bytes can be written, or NULL when there is no room now (an
 * expected state). Producer only. len in [0, ring_record_max]. 16-byte aligned. The room is private until
 * ring_stage and ring_publish; a second ring_reserve before ring_stage replaces the first. */
void *ring_reserve(struct ring_producer *p, uint32_t len);

/* ring_stage makes the first len bytes of the last reservation the next record. Producer only. len in [0, reserved];
 * type in [1, 65535]. Returns the record's number. Nothing is visible before ring_publish. */
uint64_t ring_stage(struct ring_producer *p, uint32_t len, uint16_t type);

/* ring_aux_set sets aux word i (in [0, aux_count)) as of the next publication. Producer only. */
void ring_aux_set(struct ring_producer *p, uint32_t i, uint64_t value);
static inline uint64_t ring_aux_get(const struct ring_producer *p, uint32_t i) { return p->aux_now[i]; }

/* ring_publish makes everything staged visible, with one store of the tail (P1), and rings the consumer's doorbell when
 * it sleeps. Producer only. Without staged records it does nothing, and aux words wait for the next record.
 * Cannot fail. */
void ring_publish(struct ring_producer *p);

/* ring_has_room: whether ring_reserve(len) would succeed now. Producer only. */
bool ring_has_room(struct ring_producer *p, uint32_t len);

/* ring_producer_arm announces that the producer will sleep until a quarter of the ring is free: room for any record,
 * and enough of it that nobody is woken for each record that is given back. Returns true when it is so already (do not
 * sleep). ring_producer_disarm after waking. Producer only. */
bool ring_producer_arm(struct ring_producer *p);
void ring_producer_disarm(struct ring_producer *p);

/* The reading end. */
struct ring_consumer {
    struct ring_consumer_page *page;
    const struct ring_producer_page *peer;
    const uint8_t *data;
    uint64_t capacity, mask, incarnation;
    uint64_t head; /* released */
    uint64_t number_released;
    uint64_t cursor;    /* next to peek, >= head */
    uint64_t number;    /* of the record before cursor */
    uint64_t tail_seen; /* cached copy of the peer's tail */
    uint64_t signalled;
    int current;
    int peer_doorbell;
    size_t producer_bytes, consumer_bytes; /* mapped */
    struct {
        uint64_t records, empty, wakeups;
    } count;
};

struct ring_item { /* one record, in place; valid until its position is released */
    const uint8_t *body;
    uint32_t len;
    uint16_t type;
    uint64_t number;
    uint64_t end; /* position after it, for ring_release */
};

enum ring_state { RING_OK, RING_EMPTY, RING_BROKEN };

/* ring_consumer_attach: as ring_producer_attach, for the consumer. The first ring_peek returns the oldest record that
 * was not released, whatever a predecessor had read. */
enum ring_grade ring_consumer_attach(struct ring_consumer *c, const struct ring_fds *fds, int peer_doorbell,
                                     struct err *err);
void ring_consumer_detach(struct ring_consumer *c);

/* ring_peek fills *item with the next record and moves the private cursor past it. Consumer only. The header is loaded
 * once and checked (length against tail and limit, type, number = the expected one) before use.
 * RING_OK, RING_EMPTY, or RING_BROKEN with err filled: stop, leave with EXIT_RING_BROKEN, touch nothing. */
enum ring_state ring_peek(struct ring_consumer *c, struct ring_item *item, struct err *err);

/* ring_release gives back everything before `end` (an item's end, ascending) whose last record has `number`; one store
 * of the head (P2); rings the producer's doorbell when it sleeps and has the room it waits for. Consumer only. */
void ring_release(struct ring_consumer *c, uint64_t end, uint64_t number);

/* ring_rewind moves the cursor back to the oldest unreleased record. Consumer only. */
void ring_rewind(struct ring_consumer *c);

/* ring_in_hand notes which number is being parsed (0: none), so that a death is counted against it. Consumer only. */
void ring_in_hand(struct ring_consumer *c, uint64_t number);

/* ring_consumer_arm announces that the consumer will sleep; true when there is something to peek (do not sleep). */
bool ring_consumer_arm(struct ring_consumer *c);
void ring_consumer_disarm(struct ring_consumer *c);

/* What an observer (supervisor, tools) sees of a ring; positions are read head, tail, head again and clamped. */
struct ring_snapshot {
    uint64_t capacity, incarnation, head, tail, published, released, in_hand;
};

/* ring_observe maps the ring read-only, fills *s, and unmaps. Anyone with the descriptors. */
enum ring_grade ring_observe(const struct ring_fds *fds, struct ring_snapshot *s, struct err *err);

#endif

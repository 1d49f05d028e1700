/* A reader whose producer writes what it likes, into records and tail, between two peeks too: every record it is given
 * lies within the data, and numbers have no gap.
 *
 * Data and page are blocks of the heap, so that AddressSanitizer sees a byte too many. An input is: the position of the
 * reader, the last number, a tail, then the bytes from the reader's position on; while it reads, more words from the
 * input go over tail and data. */
#include "tests/fuzz/fuzz.h"

#include "shm/ring.h"

enum { CAPACITY = 4096, PEEKS = 64, WRITE_EVERY = 3 };

static struct ring_producer_page *page;
static struct ring_consumer_page *own;
static uint8_t *data;

static struct ring_consumer consumer_make(struct input *in) {
    uint64_t at = input_u64(in) & ~(uint64_t)(RING_ALIGN - 1);
    uint64_t number = input_u64(in) % (UINT64_MAX / RING_HEADER_BYTES); /* attach accepts none beyond */
    atomic_store(&page->tail, at + input_u64(in));
    return (struct ring_consumer){.page = own,
                                  .peer = page,
                                  .data = data,
                                  .capacity = CAPACITY,
                                  .mask = CAPACITY - 1,
                                  .head = at,
                                  .cursor = at,
                                  .tail_seen = at,
                                  .number = number,
                                  .number_released = number,
                                  .peer_doorbell = -1};
}

static void data_fill(struct input *in, uint64_t at) {
    size_t first = CAPACITY - (at & (CAPACITY - 1));
    memset(data, 0, CAPACITY);
    input_bytes(in, data + (at & (CAPACITY - 1)), in->left < first ? in->left : first);
    input_bytes(in, data, in->left < CAPACITY - first ? in->left : CAPACITY - first);
}

/* The producer at work: a tail, or a word of the header that comes next. */
static void peer_writes(struct input *in, const struct ring_consumer *c) {
    uint8_t what = input_u8(in);
    uint64_t value = input_u64(in);
    if (what % 4 == 0)
        atomic_store(&page->tail, c->cursor + value);
    else
        memcpy(data + (c->cursor & (CAPACITY - 1)) + (what % 4 == 1 ? 8 : 0), &value, sizeof value);
}

static void item_check(const struct ring_consumer *c, const struct ring_item *item, uint64_t before, uint64_t number) {
    uint64_t at = (uint64_t)(item->body - data);
    WRONG_UNLESS(at >= RING_HEADER_BYTES && at <= CAPACITY && item->len <= CAPACITY - at);
    WRONG_UNLESS(item->len <= ring_record_max(CAPACITY) && item->type != RING_PADDING);
    WRONG_UNLESS(item->number == number + 1 && c->number == item->number);
    WRONG_UNLESS(item->end == c->cursor && item->end - before <= c->tail_seen - before);
    WRONG_UNLESS(c->tail_seen - c->head <= CAPACITY);
    read_all(item->body, item->len);
}

uint64_t read_sum;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    if (page == NULL) {
        page = aligned_alloc(64, sizeof *page);
        own = aligned_alloc(64, sizeof *own);
        data = aligned_alloc(64, CAPACITY);
    }
    memset(page, 0, sizeof *page);
    memset(own, 0, sizeof *own);
    struct input in = {bytes, len};
    size_t later = len / 4; /* of the input is for what the producer writes meanwhile */
    struct input meanwhile = {bytes + (len - later), later};
    in.left = len - later;
    struct ring_consumer c = consumer_make(&in);
    data_fill(&in, c.cursor);
    for (int i = 0; i < PEEKS; i++) {
        struct ring_item item;
        struct err err = {0};
        uint64_t before = c.cursor, number = c.number;
        enum ring_state state = ring_peek(&c, &item, &err);
        WRONG_UNLESS((state == RING_BROKEN) == (err.text[0] != 0));
        if (state == RING_BROKEN) break;
        if (state == RING_EMPTY && meanwhile.left == 0) break;
        if (state == RING_OK) item_check(&c, &item, before, number);
        if (state == RING_OK && i % 4 == 0) ring_release(&c, item.end, item.number);
        if (i % WRITE_EVERY == 0 && meanwhile.left > 0) peer_writes(&meanwhile, &c);
    }
    return 0;
}

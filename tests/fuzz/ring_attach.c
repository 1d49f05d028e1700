/* Any bytes in the three regions of a ring, of any size: attaching gives a grade, and what attaches can be used.
 *
 * The regions are blocks of the heap, exactly as long as the files would be, so that AddressSanitizer sees a byte too
 * many. An input is: sizes, the constants, the words of both pages that mean something, the data. */
#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>

#include "shm/workspace.h"

static void *region_map(int fd, size_t bytes_min, bool writable, size_t *bytes, struct err *err);
static int region_unmap(void *at, size_t bytes);
#define workspace_map region_map
#define munmap region_unmap
#include "shm/ring.c"

enum { CONSTANTS, PRODUCER, CONSUMER, REGIONS, PAGES_MAX = 24 };

static struct {
    uint8_t *block[PAGES_MAX + 1]; /* by its pages; made when first asked for, and all zero between two inputs */
    size_t bytes;
    int mapped;
} region[REGIONS];

static void *region_map(int fd, size_t bytes_min, bool writable, size_t *bytes, struct err *err) {
    (void)writable;
    if (region[fd].bytes < bytes_min || region[fd].bytes == 0) {
        err_set(err, EINVAL, "memory file is %zu bytes, needs %zu", region[fd].bytes, bytes_min);
        return NULL;
    }
    if (bytes != NULL) *bytes = region[fd].bytes;
    region[fd].mapped++;
    return region[fd].block[region[fd].bytes / RING_PAGE];
}

static int region_unmap(void *at, size_t bytes) {
    int i = 0;
    while (i < REGIONS && at != region[i].block[region[i].bytes / RING_PAGE]) i++;
    WRONG_UNLESS(i < REGIONS && bytes == region[i].bytes && region[i].mapped > 0);
    region[i].mapped--;
    return 0;
}

static uint8_t *region_take(int i, uint8_t pages) {
    size_t n = pages % (PAGES_MAX + 1);
    region[i].bytes = n * RING_PAGE;
    if (region[i].block[n] == NULL) region[i].block[n] = calloc(1, n * RING_PAGE);
    return region[i].block[n];
}

static void slots_fill(struct ring_slot slot[2], struct input *in) {
    for (int i = 0; i < 2; i++) {
        slot[i].position = input_u64(in);
        slot[i].number = input_u64(in);
    }
}

static void regions_fill(struct input *in) {
    uint8_t pages[REGIONS];
    input_bytes(in, pages, sizeof pages);
    uint8_t *at[REGIONS];
    for (int i = 0; i < REGIONS; i++) at[i] = region_take(i, pages[i]);
    struct ring_constants constants;
    input_bytes(in, &constants, sizeof constants);
    if (region[CONSTANTS].bytes > 0) memcpy(at[CONSTANTS], &constants, sizeof constants);
    if (region[CONSUMER].bytes > 0) {
        struct ring_consumer_page *page = (void *)at[CONSUMER];
        page->head = input_u64(in);
        slots_fill(page->slot, in);
    }
    if (region[PRODUCER].bytes == 0) return;
    struct ring_producer_page *page = (void *)at[PRODUCER];
    page->tail = input_u64(in);
    slots_fill(page->slot, in);
    uint64_t control = ring_control_bytes(constants.aux_count);
    if (control >= region[PRODUCER].bytes) return;
    size_t room = region[PRODUCER].bytes - control;
    input_bytes(in, at[PRODUCER] + control, room < in->left ? room : in->left);
}

/* Touched pages are few: the constants, both pages, and what was written of the data. */
static void regions_clear(void) {
    for (int i = 0; i < REGIONS; i++) {
        WRONG_UNLESS(region[i].mapped == 0);
        if (region[i].bytes > 0) memset(region[i].block[region[i].bytes / RING_PAGE], 0, region[i].bytes);
    }
}

static const struct ring_fds fds = {.constants = CONSTANTS, .producer = PRODUCER, .consumer = CONSUMER};

static void consumer_use(void) {
    struct ring_consumer c;
    struct ring_item item, last = {0};
    struct err err = {0};
    enum ring_grade g = ring_consumer_attach(&c, &fds, -1, &err);
    WRONG_UNLESS((g == RING_ATTACHED) == (err.text[0] == 0));
    if (g != RING_ATTACHED) return;
    WRONG_UNLESS(c.page->slot[c.current].position == c.head && c.page->slot[c.current].number == c.number_released);
    for (int i = 0; i < 4 && ring_peek(&c, &item, &err) == RING_OK; i++) {
        read_all(item.body, item.len);
        last = item;
    }
    if (last.number != 0) ring_release(&c, last.end, last.number);
    ring_consumer_detach(&c);
}

static void producer_use(void) {
    struct ring_producer p;
    struct err err = {0};
    enum ring_grade g = ring_producer_attach(&p, &fds, -1, &err);
    WRONG_UNLESS((g == RING_ATTACHED) == (err.text[0] == 0));
    if (g != RING_ATTACHED) return;
    WRONG_UNLESS(p.page->slot[p.current].position == p.tail && p.page->slot[p.current].number == p.number_published);
    WRONG_UNLESS(p.tail - p.head_seen <= p.capacity);
    for (uint32_t len = 0; len < 4; len++) {
        uint8_t *body = ring_reserve(&p, len * ring_record_max(p.capacity) / 3);
        if (body == NULL) break;
        memset(body, 7, len * ring_record_max(p.capacity) / 3);
        ring_stage(&p, len * ring_record_max(p.capacity) / 3, 1);
        if (p.aux_count > 0) ring_aux_set(&p, p.aux_count - 1, len);
        ring_publish(&p);
    }
    ring_producer_detach(&p);
}

uint64_t read_sum;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    struct input in = {bytes, len};
    struct ring_snapshot s;
    regions_fill(&in);
    if (ring_observe(&fds, &s, NULL) == RING_ATTACHED) WRONG_UNLESS(s.tail - s.head <= s.capacity);
    consumer_use();
    producer_use();
    consumer_use();
    regions_clear();
    return 0;
}

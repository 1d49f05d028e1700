#include "shm/ring_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/workspace.h"

enum { CHUNK = 65536, LOOKS = 4, TRIES = 20 }; /* an end at work must move twice within microseconds to cost a try */

/* Where a region of a ring begins: a memory file of its own, or a part of a ring file. */
struct place {
    int fd;
    off_t at;
};

struct places {
    struct place constants, consumer, producer;
    off_t producer_bytes;
};

static int bytes_read(struct place from, off_t start, void *out, size_t n, struct err *err) {
    for (size_t got = 0; got < n;) {
        ssize_t r = pread(from.fd, (char *)out + got, n - got, from.at + start + (off_t)got);
        if (r < 0) return err_set(err, errno, "reading a ring: %s", strerror(errno));
        if (r == 0) return err_set(err, EINVAL, "the file ends within the ring");
        got += (size_t)r;
    }
    return 0;
}

static int bytes_write(struct place to, off_t start, const void *bytes, size_t n, struct err *err) {
    for (size_t put = 0; put < n;) {
        ssize_t w = pwrite(to.fd, (const char *)bytes + put, n - put, to.at + start + (off_t)put);
        if (w < 0) return err_set(err, errno, "writing a copy of a ring: %s", strerror(errno));
        put += (size_t)w;
    }
    return 0;
}

static bool all_zero(const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != 0) return false;
    return true;
}

/* fresh: the target was never written, so what is zero can stay a hole. */
static int range_copy(struct place to, struct place from, off_t start, off_t end, bool fresh, struct err *err) {
    static _Thread_local char chunk[CHUNK];
    for (off_t at = start; at < end; at += CHUNK) {
        size_t n = end - at < CHUNK ? (size_t)(end - at) : CHUNK;
        if (bytes_read(from, at, chunk, n, err) != 0) return -1;
        if (fresh && all_zero(chunk, n)) continue;
        if (bytes_write(to, at, chunk, n, err) != 0) return -1;
    }
    return 0;
}

/* -- one moment -------------------------------------------------------------------------------- */

/* The page's position and slots, taken twice: the same values twice were all there at once. Both pages begin alike,
 * with the position, and have the slots at the same place. A ring that was smashed may never look at rest: the last
 * look counts then. */
struct front {
    uint64_t position;
    uint64_t gap[31];
    struct ring_slot slot[2];
};
static_assert(offsetof(struct front, slot) == offsetof(struct ring_producer_page, slot), "the front of a page");
static_assert(offsetof(struct front, slot) == offsetof(struct ring_consumer_page, slot), "the front of a page");

static bool front_settled(const struct front *a, const struct front *b) {
    bool matches[2];
    for (int i = 0; i < 2; i++)
        matches[i] = a->slot[i].position == a->position && b->slot[i].position == a->position &&
                     a->slot[i].number == b->slot[i].number;
    return a->position == b->position && matches[0] != matches[1];
}

static int page_read(struct place from, unsigned char page[RING_PAGE], struct front *front, struct err *err) {
    for (int i = 0; i < LOOKS; i++) {
        struct front again;
        if (bytes_read(from, 0, page, RING_PAGE, err) != 0 || bytes_read(from, 0, &again, sizeof again, err) != 0)
            return -1;
        memcpy(front, page, sizeof *front);
        if (front_settled(front, &again)) break;
    }
    return 0;
}

/* Data from position head to position tail, in the region's bytes. */
static int records_copy(const struct places *to, const struct places *from, const struct ring_constants *k,
                        uint64_t head, uint64_t tail, struct err *err) {
    off_t data = (off_t)ring_control_bytes(k->aux_count);
    uint64_t first = head & (k->capacity - 1), n = tail - head, to_end = k->capacity - first;
    uint64_t straight = n < to_end ? n : to_end;
    if (range_copy(to->producer, from->producer, data + (off_t)first, data + (off_t)(first + straight), false, err) !=
        0)
        return -1;
    return range_copy(to->producer, from->producer, data, data + (off_t)(n - straight), false, err);
}

static bool capacity_fits(const struct ring_constants *k, off_t producer_bytes) {
    return k->capacity != 0 && (k->capacity & (k->capacity - 1)) == 0 && k->capacity <= RING_BYTES_MAX &&
           k->aux_count <= RING_AUX_MAX && ring_control_bytes(k->aux_count) + k->capacity <= (uint64_t)producer_bytes;
}

/* The producer overwrites nothing that was not released when the tail was read, as long as the head has not passed
 * that tail when the copying is over. */
static int moment_copy(const struct places *to, const struct places *from, enum ring_file_part part,
                       const struct ring_constants *k, struct err *err) {
    unsigned char producer[RING_PAGE], consumer[RING_PAGE];
    struct front p, c;
    for (int i = 0; i < TRIES; i++) {
        if (page_read(from->consumer, consumer, &c, err) != 0 || page_read(from->producer, producer, &p, err) != 0)
            return -1;
        uint64_t head = c.position;
        bool sane = p.position - head <= k->capacity && (p.position | head) % RING_ALIGN == 0;
        if (sane && part != RING_FILE_CONTROL && records_copy(to, from, k, head, p.position, err) != 0) return -1;
        if (sane && page_read(from->consumer, consumer, &c, err) != 0) return -1;
        /* An end at work may have moved both positions between the looks; a smashed ring stays as it is. */
        if (p.position - c.position > k->capacity && i < TRIES - 1) continue;
        if (sane && p.position - c.position > k->capacity)
            return err_set(err, EAGAIN, "the ring moves faster than it can be copied");
        if (!sane && range_copy(to->producer, from->producer, RING_PAGE, from->producer_bytes, false, err) != 0)
            return -1;
        break;
    }
    if (bytes_write(to->consumer, 0, consumer, sizeof consumer, err) != 0) return -1;
    return bytes_write(to->producer, 0, producer, sizeof producer, err);
}

static int ring_take(const struct places *to, const struct places *from, enum ring_file_part part, struct err *err) {
    unsigned char page[RING_PAGE];
    struct ring_constants k;
    if (bytes_read(from->constants, 0, page, sizeof page, err) != 0 ||
        bytes_write(to->constants, 0, page, sizeof page, err) != 0)
        return -1;
    memcpy(&k, page, sizeof k);
    bool known = capacity_fits(&k, from->producer_bytes);
    off_t fixed = known && part != RING_FILE_WHOLE ? (off_t)ring_control_bytes(k.aux_count) : from->producer_bytes;
    if (range_copy(to->producer, from->producer, 0, fixed, true, err) != 0) return -1;
    if (known) return moment_copy(to, from, part, &k, err);
    return range_copy(to->consumer, from->consumer, 0, RING_PAGE, true, err);
}

/* -- places ------------------------------------------------------------------------------------ */

static off_t size_of(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 ? st.st_size : -1;
}

static int producer_sized(struct places *p, off_t bytes, struct err *err) {
    p->producer_bytes = bytes;
    if (bytes < 2 * RING_PAGE) return err_set(err, EINVAL, "too short for a ring");
    if ((uint64_t)bytes > ring_control_bytes(RING_AUX_MAX) + RING_BYTES_MAX + WORKSPACE_HUGE_BYTES)
        return err_set(err, EINVAL, "too long for a ring");
    return 0;
}

static int memory_make(struct ring_fds *to, struct places *p, struct err *err) {
    *to = (struct ring_fds){-1, -1, -1};
    to->constants = workspace_create("ring copy", RING_PAGE, err);
    if (to->constants >= 0) to->consumer = workspace_create("ring copy", RING_PAGE, err);
    if (to->consumer >= 0) to->producer = workspace_create("ring copy", (size_t)p->producer_bytes, err);
    *p = (struct places){{to->constants, 0}, {to->consumer, 0}, {to->producer, 0}, p->producer_bytes};
    return to->producer >= 0 ? 0 : -1;
}

void ring_file_drop(struct ring_fds *fds) {
    if (fds->constants >= 0) close(fds->constants);
    if (fds->consumer >= 0) close(fds->consumer);
    if (fds->producer >= 0) close(fds->producer);
    *fds = (struct ring_fds){-1, -1, -1};
}

static struct places places_in(int file) {
    return (struct places){{file, 0}, {file, RING_PAGE}, {file, 2 * RING_PAGE}, 0};
}

static struct places places_of(const struct ring_fds *fds) {
    return (struct places){{fds->constants, 0}, {fds->consumer, 0}, {fds->producer, 0}, 0};
}

static int memory_take(struct ring_fds *to, const struct places *from, enum ring_file_part part, struct err *err) {
    struct places copy = {.producer_bytes = from->producer_bytes};
    if (memory_make(to, &copy, err) == 0 && ring_take(&copy, from, part, err) == 0) return 0;
    ring_file_drop(to);
    return -1;
}

int ring_file_copy(struct ring_fds *to, const struct ring_fds *from, enum ring_file_part part, struct err *err) {
    struct places places = places_of(from);
    *to = (struct ring_fds){-1, -1, -1};
    if (producer_sized(&places, size_of(from->producer), err) != 0) return -1;
    return memory_take(to, &places, part, err);
}

int ring_file_save(const struct ring_fds *from, int folder, const char *name, struct err *err) {
    struct places places = places_of(from);
    if (producer_sized(&places, size_of(from->producer), err) != 0) return -1;
    int file = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return err_set(err, errno, "%s: %s", name, strerror(errno));
    struct places copy = places_in(file);
    int r = 0;
    if (ftruncate(file, 2 * RING_PAGE + places.producer_bytes) != 0)
        r = err_set(err, errno, "%s: %s", name, strerror(errno));
    if (r == 0) r = ring_take(&copy, &places, RING_FILE_WHOLE, err);
    if (close(file) != 0 && r == 0) r = err_set(err, errno, "%s: %s", name, strerror(errno));
    if (r != 0) unlinkat(folder, name, 0);
    return r;
}

int ring_file_load(struct ring_fds *to, int folder, const char *name, enum ring_file_part part, struct err *err) {
    *to = (struct ring_fds){-1, -1, -1};
    int file = openat(folder, name, O_RDONLY | O_CLOEXEC);
    if (file < 0) return err_set(err, errno, "%s: %s", name, strerror(errno));
    struct places places = places_in(file);
    int r = producer_sized(&places, size_of(file) - 2 * RING_PAGE, err);
    if (r == 0) r = memory_take(to, &places, part, err);
    if (r != 0) err_prefix(err, "%s", name);
    close(file);
    return r;
}

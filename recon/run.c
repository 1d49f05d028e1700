#include "recon/run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#define XXH_INLINE_ALL /* the whole of it is in the header: the size of its state is not ABI */
#include <xxhash.h>

#include "base/fault.h"

enum {
    ROW_BYTES = sizeof(struct live_row),
    BLOCK_BYTES = RUN_BLOCK_ROWS * ROW_BYTES + 8,
    BUFFER_BLOCKS = 128,
    FENCES_AT_FIRST = 1024,
};

/* -- writing ----------------------------------------------------------------------------------- */

static int write_all(int fd, const void *bytes, size_t len, uint64_t at) {
    const uint8_t *from = bytes;
    while (len > 0) {
        ssize_t n = FAULT_FAILS("recon:run_write") ? -1 : pwrite(fd, from, len, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        from += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_failed(struct err *err) { return err_set(err, EX_IOERR, "write: %s", strerror(errno)); }

int run_writer_open(struct run_writer *w, int dir, const char *name, struct err *err) {
    memset(w, 0, sizeof *w);
    w->fd = FAULT_FAILS("recon:run_open") ? -1 : openat(dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (w->fd < 0) return err_set(err, EX_IOERR, "%s: %s", name, strerror(errno));
    w->buffer = malloc((size_t)BUFFER_BLOCKS * BLOCK_BYTES);
    w->fence_room = FENCES_AT_FIRST;
    w->fence = malloc(w->fence_room * DIGEST_BYTES);
    w->at = sizeof(struct run_head);
    if (w->buffer != NULL && w->fence != NULL) return 0;
    run_writer_drop(w);
    return err_set(err, EX_OSERR, "no memory for a run");
}

static int flush_buffer(struct run_writer *w, struct err *err) {
    if (write_all(w->fd, w->buffer, w->buffered, w->at) != 0) return write_failed(err);
    sync_file_range(w->fd, (off_t)w->at, (off_t)w->buffered, SYNC_FILE_RANGE_WRITE); /* less is left for the end */
    w->at += w->buffered;
    w->buffered = 0;
    return 0;
}

static int flush_block(struct run_writer *w, struct err *err) {
    size_t bytes = (size_t)w->pending * ROW_BYTES;
    uint64_t hash = XXH3_64bits(w->block, bytes);
    if (w->blocks == w->fence_room) {
        void *more = realloc(w->fence, 2 * w->fence_room * DIGEST_BYTES);
        if (more == NULL) return err_set(err, EX_OSERR, "no memory for the keys of a run's blocks");
        w->fence = more;
        w->fence_room *= 2;
    }
    if (w->buffered + BLOCK_BYTES > (size_t)BUFFER_BLOCKS * BLOCK_BYTES && flush_buffer(w, err) != 0) return -1;
    memcpy(w->fence[w->blocks++], w->block[0].key, DIGEST_BYTES);
    memcpy(w->buffer + w->buffered, w->block, bytes);
    memcpy(w->buffer + w->buffered + bytes, &hash, sizeof hash);
    w->buffered += bytes + sizeof hash;
    w->pending = 0;
    return 0;
}

int run_writer_put(struct run_writer *w, const struct live_row *row, struct err *err) {
    if (w->pending == RUN_BLOCK_ROWS && flush_block(w, err) != 0) return -1;
    w->block[w->pending++] = *row;
    w->rows++;
    return 0;
}

int run_writer_close(struct run_writer *w, struct err *err) {
    struct run_head head = {
        .magic = RUN_MAGIC, .version = RUN_VERSION, .row_bytes = ROW_BYTES, .rows = w->rows, .fences_hash = 0};
    if (w->pending > 0 && flush_block(w, err) != 0) return -1;
    if (flush_buffer(w, err) != 0) return -1;
    size_t fences = w->blocks * DIGEST_BYTES;
    head.fences_hash = XXH3_64bits(w->fence, fences);
    if (write_all(w->fd, w->fence, fences, w->at) != 0 || write_all(w->fd, &head, sizeof head, 0) != 0 ||
        fdatasync(w->fd) != 0)
        return write_failed(err);
    int closed = close(w->fd);
    w->fd = -1;
    run_writer_drop(w);
    return closed == 0 ? 0 : write_failed(err);
}

void run_writer_drop(struct run_writer *w) {
    if (w->fd >= 0) close(w->fd);
    w->fd = -1;
    free(w->buffer);
    free(w->fence);
    w->buffer = NULL;
    w->fence = NULL;
}

/* -- reading ----------------------------------------------------------------------------------- */

static int damaged(const struct run *r, const char *what, struct err *err) {
    return err_set(err, EX_DATAERR, "%s: %s", r->name, what);
}

/* All of len bytes, or the file is not what its head says. */
static int read_all(const struct run *r, void *out, size_t len, uint64_t at, struct err *err) {
    uint8_t *to = out;
    while (len > 0) {
        ssize_t n = pread(r->fd, to, len, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(err, EX_IOERR, "%s: %s", r->name, strerror(errno));
        if (n == 0) return damaged(r, "ends too early", err);
        to += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static uint64_t block_at(uint64_t block) { return sizeof(struct run_head) + block * BLOCK_BYTES; }

static uint32_t block_rows(const struct run *r, uint64_t block) {
    uint64_t left = r->rows - block * RUN_BLOCK_ROWS;
    return left < RUN_BLOCK_ROWS ? (uint32_t)left : RUN_BLOCK_ROWS;
}

static int load(struct run *r, struct err *err) {
    struct run_head head;
    struct stat st;
    if (fstat(r->fd, &st) != 0) return err_set(err, EX_IOERR, "%s: %s", r->name, strerror(errno));
    if (read_all(r, &head, sizeof head, 0, err) != 0) return -1;
    if (head.magic != RUN_MAGIC || head.row_bytes != ROW_BYTES) return damaged(r, "is not a run of live keys", err);
    if (head.version != RUN_VERSION) return damaged(r, "was written by another version", err);
    if (head.rows > (uint64_t)st.st_size / ROW_BYTES) return damaged(r, "ends too early", err);
    r->rows = head.rows;
    r->blocks = (head.rows + RUN_BLOCK_ROWS - 1) / RUN_BLOCK_ROWS;
    if (run_file_bytes(r) != (uint64_t)st.st_size) return damaged(r, "has another size than its head says", err);
    size_t fences = r->blocks * DIGEST_BYTES;
    r->fence = malloc(fences + 1);
    if (r->fence == NULL) return err_set(err, EX_OSERR, "no memory for %s", r->name);
    if (read_all(r, r->fence, fences, run_file_bytes(r) - fences, err) != 0) return -1;
    return XXH3_64bits(r->fence, fences) == head.fences_hash ? 0 : damaged(r, "is damaged", err);
}

int run_open(struct run *r, int dir, const char *name, struct err *err) {
    memset(r, 0, sizeof *r);
    snprintf(r->name, sizeof r->name, "%s", name);
    r->fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0) return err_set(err, errno == ENOENT ? EX_NOINPUT : EX_IOERR, "%s: %s", name, strerror(errno));
    if (load(r, err) == 0) return 0;
    run_close(r);
    return -1;
}

void run_close(struct run *r) {
    if (r->fd >= 0) close(r->fd);
    free(r->fence);
    r->fd = -1;
    r->fence = NULL;
}

/* One block into row[0, block_rows). */
static int read_block(const struct run *r, uint64_t block, struct live_row row[RUN_BLOCK_ROWS], struct err *err) {
    uint8_t bytes[BLOCK_BYTES];
    uint64_t hash;
    size_t len = (size_t)block_rows(r, block) * ROW_BYTES;
    if (read_all(r, bytes, len + sizeof hash, block_at(block), err) != 0) return -1;
    memcpy(&hash, bytes + len, sizeof hash);
    if (XXH3_64bits(bytes, len) != hash) return damaged(r, "is damaged", err);
    memcpy(row, bytes, len);
    return 0;
}

/* The block that holds the key if any does: the last one whose first key is not above it; -1 none. */
static int64_t block_of(const struct run *r, const uint8_t key[DIGEST_BYTES]) {
    uint64_t low = 0, high = r->blocks;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (memcmp(r->fence[middle], key, DIGEST_BYTES) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return (int64_t)low - 1;
}

int run_find(const struct run *r, const uint8_t key[DIGEST_BYTES], struct live_row *row, uint64_t *index,
             struct err *err) {
    struct live_row rows[RUN_BLOCK_ROWS];
    int64_t block = block_of(r, key);
    if (block < 0) return 0;
    if (read_block(r, (uint64_t)block, rows, err) != 0) return -1;
    uint32_t low = 0, high = block_rows(r, (uint64_t)block);
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        int order = memcmp(rows[middle].key, key, DIGEST_BYTES);
        if (order == 0) {
            *row = rows[middle];
            *index = (uint64_t)block * RUN_BLOCK_ROWS + middle;
            return 1;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

int run_row(const struct run *r, uint64_t index, struct live_row *row, struct err *err) {
    struct live_row rows[RUN_BLOCK_ROWS];
    CHECK(index < r->rows);
    if (read_block(r, index / RUN_BLOCK_ROWS, rows, err) != 0) return -1;
    *row = rows[index % RUN_BLOCK_ROWS];
    return 0;
}

void run_cursor_init(struct run_cursor *c, const struct run *r, uint64_t from) {
    c->run = r;
    c->next_block = from / RUN_BLOCK_ROWS;
    c->count = 0;
    c->at = (uint32_t)(from % RUN_BLOCK_ROWS); /* rows to be left out of the first block */
}

/* The next blocks; 0 rows at the end. */
static int fill(struct run_cursor *c, struct err *err) {
    const struct run *r = c->run;
    uint32_t skip = c->count == 0 ? c->at : 0;
    c->count = 0;
    c->at = 0;
    for (int i = 0; i < RUN_READ_BLOCKS && c->next_block < r->blocks; i++, c->next_block++) {
        if (read_block(r, c->next_block, c->row + c->count, err) != 0) return -1;
        c->count += block_rows(r, c->next_block);
    }
    c->at = skip;
    return 0;
}

const struct live_row *run_cursor_next(struct run_cursor *c, struct err *err) {
    if (c->at >= c->count) {
        if (c->next_block >= c->run->blocks || fill(c, err) != 0) return NULL;
        if (c->at >= c->count) return NULL;
    }
    return &c->row[c->at++];
}

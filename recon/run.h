/* A sorted run of the table of live keys: a file of rows in ascending order of their key digests, written once.
 *
 *   struct run_head | block | block | … | first key of each block, 16 bytes each
 *   block: RUN_BLOCK_ROWS rows (the last one fewer), then XXH3-64 of them
 *
 * The checksums find damage, not intent: that is what the audit log's chain is for. */
#ifndef MILLRACE_RECON_RUN_H
#define MILLRACE_RECON_RUN_H

#include <stdint.h>

#include "recon/live.h"

enum { RUN_VERSION = 1, RUN_BLOCK_ROWS = 64, RUN_NAME_BYTES = 32 };
#define RUN_MAGIC 0x316e7572766c6c6dULL /* "mllvrun1" */

struct run_head {
    uint64_t magic;
    uint32_t version, row_bytes;
    uint64_t rows;
    uint64_t fences_hash; /* XXH3-64 of the keys at the end */
};
static_assert(sizeof(struct run_head) == 32, "format of a run");

/* -- writing ----------------------------------------------------------------------------------- */

struct run_writer {
    int fd;
    uint64_t rows, blocks;
    uint32_t pending; /* rows in block[] */
    size_t buffered;  /* bytes in buffer[] */
    uint8_t (*fence)[DIGEST_BYTES];
    uint64_t fence_room;
    uint64_t at; /* where the buffer goes in the file */
    uint8_t *buffer;
    struct live_row block[RUN_BLOCK_ROWS];
};

/* run_writer_open makes the file `name` in folder dir anew. Rows are put in ascending order of their keys, no two
 * alike. run_writer_close writes what is left and syncs the file: it is not part of a table before a manifest names it.
 * run_writer_drop gives up; it may follow any failure, and a close. 0, or -1 with err (EX_IOERR, EX_OSERR). */
int run_writer_open(struct run_writer *w, int dir, const char *name, struct err *err);
int run_writer_put(struct run_writer *w, const struct live_row *row, struct err *err);
int run_writer_close(struct run_writer *w, struct err *err);
void run_writer_drop(struct run_writer *w);

/* -- reading ----------------------------------------------------------------------------------- */

struct run {
    int fd;
    uint64_t rows, blocks;
    uint8_t (*fence)[DIGEST_BYTES]; /* first key of each block */
    char name[RUN_NAME_BYTES];      /* for messages */
};

/* run_open opens and checks a run; the fd keeps it readable when the file is removed. 0, or -1 with err: EX_NOINPUT no
 * such file, EX_DATAERR, EX_IOERR. */
int run_open(struct run *r, int dir, const char *name, struct err *err);
void run_close(struct run *r);
static inline uint64_t run_file_bytes(const struct run *r) {
    return sizeof(struct run_head) + r->rows * sizeof(struct live_row) + r->blocks * (8 + DIGEST_BYTES);
}

/* run_find: 1 with *row and *index (its place in the run), 0 not there, -1 with err (EX_DATAERR, EX_IOERR). */
int run_find(const struct run *r, const uint8_t key[DIGEST_BYTES], struct live_row *row, uint64_t *index,
             struct err *err);
/* run_row: the row at index in [0, rows). 0, or -1 with err. */
int run_row(const struct run *r, uint64_t index, struct live_row *row, struct err *err);

enum { RUN_READ_BLOCKS = 16 };
struct run_cursor {
    const struct run *run;
    uint64_t next_block;
    uint32_t at, count; /* in row[] */
    struct live_row row[RUN_READ_BLOCKS * RUN_BLOCK_ROWS];
};
/* A walk from the row at index `from` on. Next: the row, valid until the next call; NULL at the end, or with err->code
 * set. */
void run_cursor_init(struct run_cursor *c, const struct run *r, uint64_t from);
const struct live_row *run_cursor_next(struct run_cursor *c, struct err *err);

#endif

/* Index of a closed segment of the audit log: data_dir/audit/NNNNNNNNNNNNNNNN.index, made from the segment alone, by
 * `recon`: it is no part of the chain of evidence, and making it must not hold up the lanes. A segment without one is
 * read through; one that is deleted is made anew. An index is believed as far as its macs go (AUDIT_KEY_INDEX): whoever
 * writes the disk could else hide an entry from whoever looks it up.
 *
 *   struct index_head | three tables: by id, by key, by place | struct index_block … | macs
 *   macs: one of 16 bytes for each INDEX_PIECE_BYTES behind the head; that in the head is of the head (with zeros in
 *   its place) and of these
 *   table: starts, u32[2^bits + 1] | struct index_slot[items]
 *
 * A table is a hash table: the upper `bits` of the hash name the bucket, whose slots are [starts[b], starts[b + 1]). */
#ifndef MILLRACE_AUDIT_INDEX_H
#define MILLRACE_AUDIT_INDEX_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "audit/log.h"
#include "base/digest.h"
#include "base/err.h"

#define INDEX_MAGIC 0x7865646e696c6c6dULL /* "mllindex" */
enum { INDEX_VERSION = 2, INDEX_NAME_BYTES = 16 + 6 + 1, INDEX_BLOCK_BYTES = 65536, INDEX_PIECE_BYTES = 65536 };
#define INDEX_SEGMENT_BYTES_MAX (1ULL << 30)
enum index_table { INDEX_ID, INDEX_KEY, INDEX_PLACE, INDEX_TABLES };

struct index_head {
    uint64_t magic;
    uint32_t version, block_count;
    uint64_t first, entries;    /* of the segment */
    uint64_t segment_bytes;     /* its size, */
    uint8_t mac[LOG_MAC_BYTES]; /* and the mac of its head: what the index was made from */
    struct {
        uint32_t bits, items;
        uint64_t at; /* in the file, of the starts */
    } table[INDEX_TABLES];
    uint64_t blocks_at;
    uint64_t macs_at; /* where the pieces end */
    uint8_t own_mac[DIGEST_BYTES];
};

struct index_slot {
    uint32_t tag;     /* lower half of the hash */
    uint32_t ordinal; /* of the entry: sequence number less that of the segment */
};

struct index_block {    /* batches that begin within INDEX_BLOCK_BYTES of the segment */
    uint64_t at, first; /* of the first of them: place, sequence number */
    int64_t created_min_ms, created_max_ms;
    int64_t written_us; /* of the first */
};
static_assert(sizeof(struct index_head) == 184 && sizeof(struct index_slot) == 8 && sizeof(struct index_block) == 40,
              "format of the index");

/* What entries are found by. place: topic's name, partition, offset. */
uint64_t index_hash(const uint8_t digest[16]);
uint64_t index_hash_place(const char *topic, int32_t partition, int64_t offset);

/* index_key_load takes the key of the macs from recon.keys, for this process: without it, or one given by index_key,
 * indexes are neither made nor used. 0, or -1 with err as of audit_keys_load. */
int index_key_load(const char *path, struct err *err);
void index_key(const uint8_t key[DIGEST_KEY_BYTES]);

/* index_build makes the index of the segment whose first sequence number is given. The segment must be closed. About
 * 24 bytes of the file per entry, a third of that in memory meanwhile. 0, or -1 with err (an errno, EX_DATAERR). */
int index_build(int folder_fd, uint64_t first, struct err *err);

/* index_build_next makes the index of the oldest closed segment in dir that has none, larger ones than
 * INDEX_SEGMENT_BYTES_MAX excepted: two seconds of work for 256 MiB. One that is not to be believed counts as none.
 * 1 made one, 0 there is none to make, -1 with err (a folder that is not there is one without segments). */
int index_build_next(const char *dir, struct err *err);

/* One that is open: mapped read-only. */
struct index {
    const struct index_head *head;
    size_t bytes;
};

/* index_open maps the index of a segment. 0, or -1: there is none, or not of this segment, or (*forged) it was changed:
 * its head, its blocks, or its macs. */
int index_open(struct index *x, int folder_fd, uint64_t first, bool *forged);
void index_close(struct index *x);

/* index_find calls found with the ordinal of each entry that may be it, in ascending order. 0, or -1: the part of the
 * table where they would stand was changed, and nothing is known. */
int index_find(const struct index *x, enum index_table table, uint64_t hash,
               void (*found)(void *context, uint32_t ordinal), void *context);

static inline const struct index_block *index_blocks(const struct index *x) {
    return (const struct index_block *)(const void *)((const char *)x->head + x->head->blocks_at);
}

/* index_block_of: the block in which the entry stands. */
const struct index_block *index_block_of(const struct index *x, uint64_t sequence);

#endif

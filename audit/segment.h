/* One file of the audit log as it is read: its head, and its batches by their places. Checks structure, not macs. */
#ifndef MILLRACE_AUDIT_SEGMENT_H
#define MILLRACE_AUDIT_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "audit/log.h"
#include "base/err.h"
#include "base/limits.h"

struct segment {
    int fd; /* -1: none is open */
    uint64_t first;
    struct log_head head;
    char (*topic)[LOG_TOPIC_BYTES]; /* [TOPICS_MAX] */
    struct log_place *place;        /* [PARTITIONS_MAX] */
    struct log_lane lane[LANES_MAX];
    uint8_t mac[LOG_MAC_BYTES]; /* of the head */
    uint64_t body;              /* where the first batch begins */
    struct segment_blocks {     /* of the file, those read last */
        uint8_t *bytes;
        size_t room;
    } batch, other;
    bool direct; /* files are read past the page cache: to be set after segment_init */
};

struct segment_batch { /* pointers are valid until the next call */
    struct log_batch head;
    const struct log_lane *lane;
    const uint8_t *bytes;   /* the whole batch, head.bytes long */
    const uint8_t *entries; /* [entries, mac) */
    const uint8_t *mac;
    uint64_t at;
};

/* SEGMENT_END: nothing at this place, or zeros up to the end of its block and of the file. SEGMENT_TORN: something, but
 * the file ends before the batch does. */
enum segment_read { SEGMENT_BATCH, SEGMENT_END, SEGMENT_TORN, SEGMENT_BAD };

/* segment_list returns the first sequence numbers of the segments in folder_fd, ascending; *count of them; to be freed.
 * NULL with err (an errno) when the folder cannot be read; an empty folder is a list of none. */
uint64_t *segment_list(int folder_fd, size_t *count, struct err *err);

void segment_name(char out[LOG_NAME_BYTES], uint64_t first);

void segment_init(struct segment *s);
void segment_free(struct segment *s);

/* segment_open opens the file whose first sequence number is `first`, closing the one before, and reads its head.
 * 0, or -1 with err.code: ENOENT there is no such file, another errno, or EX_DATAERR: it is not a segment (what is read
 * of the head stands in s->head). Allocates. */
int segment_open(struct segment *s, int folder_fd, uint64_t first, struct err *err);

/* segment_size: size of the file now. 0, or -1 with err (an errno). */
int segment_size(const struct segment *s, uint64_t *bytes, struct err *err);

/* segment_bytes is segment_size for those to whom 0 is as good as an error. */
uint64_t segment_bytes(const struct segment *s);

/* segment_padding: 1 when a place is the end of the file, or only zeros follow up to the end of its block and of the
 * file; 0 when not; -1 with err (an errno). */
int segment_padding(struct segment *s, uint64_t at, struct err *err);

/* segment_head_at reads the head of the batch at a place, for skipping it. SEGMENT_BATCH: all of it is there. err may
 * be NULL. */
enum segment_read segment_head_at(struct segment *s, uint64_t at, struct log_batch *head, struct err *err);

/* segment_batch_at reads a whole batch and checks that its entries add up to it. */
enum segment_read segment_batch_at(struct segment *s, uint64_t at, struct segment_batch *out, struct err *err);

/* segment_head_bytes: what stands before the first batch, mac included. */
static inline uint64_t segment_head_bytes(const struct log_head *h) {
    return sizeof *h + (uint64_t)h->topic_count * LOG_TOPIC_BYTES +
           (uint64_t)h->place_count * sizeof(struct log_place) + (uint64_t)h->lane_count * sizeof(struct log_lane) +
           LOG_MAC_BYTES;
}

#endif

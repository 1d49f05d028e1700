/* What has changed in the table of live keys since its last run: rows by key digest, in memory. */
#ifndef MILLRACE_RECON_DELTA_H
#define MILLRACE_RECON_DELTA_H

#include "recon/live.h"

struct delta {
    struct live_row *row;
    uint32_t count, room;
    uint32_t *slot; /* index in row[] + 1, by hash; 0 empty */
    uint32_t mask;
};

/* delta_init makes room for `room` rows, a power of two; delta_put makes more when there is none.
 * 0, or -1 with err (EX_OSERR). */
int delta_init(struct delta *d, uint32_t room, struct err *err);
void delta_free(struct delta *d);
void delta_clear(struct delta *d);

/* The row of a key, or NULL. Valid until the next delta_put. */
const struct live_row *delta_find(const struct delta *d, const uint8_t key[DIGEST_BYTES]);

/* delta_put takes a row that comes after all that were put before, by live_replaces. 0, or -1 with err (EX_OSERR). */
int delta_put(struct delta *d, const struct live_row *row, struct err *err);

/* delta_sorted: rows in the order of their keys; to be given to free(). NULL with err (EX_OSERR). */
const struct live_row **delta_sorted(const struct delta *d, struct err *err);

/* The rule of which row counts: whether `later` takes the place of `earlier`, which was logged before. */
static inline bool live_replaces(const struct live_row *later, const struct live_row *earlier) {
    return later->topic != earlier->topic || later->partition != earlier->partition || later->offset >= earlier->offset;
}

#endif

/* What a producer says it has published, on the topic `recon.manifest_topic`: JSON, one message each, with the Kafka
 * key PRODUCER|TOPIC, so that one producer's stay in order.
 *
 *   window      how many records, bytes of values and what sum of digests were created within a window of time. There
 *               may be several for a window: they add up, and first_sequence tells them apart (a repeat counts once)
 *   load_begin  before the first record of a load
 *   load_end    behind the last manifest of it, when every record was acknowledged
 *
 * A window's manifest is sent when all its records are acknowledged: it never promises what is still on its way. */
#ifndef MILLRACE_FEED_MANIFEST_H
#define MILLRACE_FEED_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/limits.h"

enum { MANIFEST_BYTES_MAX = 4096, MANIFEST_PLACES_MAX = 80, MANIFEST_KEY_BYTES = NAME_BYTES + TOPIC_BYTES };

struct manifest {           /* sums over records in the order of their sequences; zero: none yet */
    int64_t from_ms, to_ms; /* [from, to): of their created times */
    uint64_t first_sequence, last_sequence, count, bytes;
    uint8_t digest_sum[DIGEST_BYTES];
};

/* manifest_add counts one record. bytes: of its value, 0 of a null one. The window is that of the first record:
 * created_ms has to lie in it (manifest_has) from then on. window_ms > 0. */
void manifest_add(struct manifest *m, int64_t created_ms, uint64_t window_ms, uint64_t sequence, uint64_t bytes,
                  const uint8_t digest[DIGEST_BYTES]);

/* manifest_has tells whether a record created then is in the window; in that of an empty manifest every one is. */
bool manifest_has(const struct manifest *m, int64_t created_ms);

struct manifest_load {               /* what the manifests of one load have in common */
    const char *producer, *topic;    /* NUL-terminated */
    enum digest_algorithm algorithm; /* of the digests that are summed up */
    uint8_t id[16];
    int64_t created_ms;
    bool snapshot; /* the load holds every key of the topic: what it does not contain no longer exists */
};

/* One partition of a load_end: where in it the load's first record went. */
struct manifest_place {
    int32_t partition;
    int64_t first_offset;
};

/* These write the message, NUL-terminated, to out and return its length. places: [0, MANIFEST_PLACES_MAX]; what is more
 * goes before the end in messages of their own, so that a reader has them all by then. */
size_t manifest_window(const struct manifest_load *l, const struct manifest *m, char out[MANIFEST_BYTES_MAX]);
size_t manifest_begin(const struct manifest_load *l, char out[MANIFEST_BYTES_MAX]);
size_t manifest_places(const struct manifest_load *l, const struct manifest_place *place, size_t places,
                       char out[MANIFEST_BYTES_MAX]);
size_t manifest_end(const struct manifest_load *l, const struct manifest *sum, bool complete,
                    const struct manifest_place *place, size_t places, char out[MANIFEST_BYTES_MAX]);

/* manifest_key writes PRODUCER|TOPIC and returns its length. */
size_t manifest_key(const struct manifest_load *l, char out[MANIFEST_KEY_BYTES]);

#endif

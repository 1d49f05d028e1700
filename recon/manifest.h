/* What producers declare on the manifest topic: windows, and the begin and end of loads. JSON, one object a message
 * (docs/reconciliation.md). */
#ifndef MILLRACE_RECON_MANIFEST_H
#define MILLRACE_RECON_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/digest.h"
#include "base/err.h"
#include "recon/count.h"

enum manifest_type { MANIFEST_WINDOW, MANIFEST_LOAD_BEGIN, MANIFEST_LOAD_PLACES, MANIFEST_LOAD_END };

struct manifest {
    enum manifest_type type;
    char producer[NAME_BYTES];
    char topic[TOPIC_BYTES];
    int64_t from_ms, to_ms;                              /* of a window: [from_ms, to_ms) */
    int64_t created_ms;                                  /* of a load's begin */
    int64_t first_sequence, last_sequence, count, bytes; /* [1, 2^62], 0 and 0 of a load without records */
    bool summed;                                         /* digest_sum is there */
    uint8_t digest_sum[DIGEST_BYTES];
    uint8_t load[16];
    bool snapshot, aborted;
    uint32_t places; /* of a load's places and end: partitions that its records went to */
    struct {
        int32_t partition;
        int64_t first_offset;
    } place[PARTITIONS_MAX];
};

/* manifest_parse reads text[0, len). 0, or -1 with err.text saying what is wrong with it. Unknown names are passed
 * over. */
int manifest_parse(const char *text, size_t len, struct manifest *out, struct err *err);

/* manifest_store stores it in the caller's transaction. A window's manifest that is already there is replaced; others
 * of the same window add up. Manifests of topics that the configuration does not have are left out.
 * Returns 1 stored, 0 nothing new, -1 with err; err.code EX_DATAERR: it cannot be counted (its window is not one of
 * ours, or there are too many producers, loads or windows: recon/count.h), and nothing has happened. */
int manifest_store(sqlite3 *db, struct count *count, const struct config *config, const struct manifest *m,
                   int64_t now_ms, struct err *err);

#endif

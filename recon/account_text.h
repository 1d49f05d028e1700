/* The messages of accounts (recon/accounts.h) as text: JSON with a last member "mac", the HMAC (AUDIT_KEY_ACCOUNT)
 * of all that stands before it, so that only the group's own instances can tell accounts. */
#ifndef MILLRACE_RECON_ACCOUNT_TEXT_H
#define MILLRACE_RECON_ACCOUNT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/digest.h"
#include "recon/accounts.h"

enum account_type {
    ACCOUNT_TALLY,
    ACCOUNT_ORIGIN,
    ACCOUNT_LOAD,
    ACCOUNT_OFFSETS,
    ACCOUNT_SEQUENCES,
    ACCOUNT_RETRACTED,
    ACCOUNT_BEAT
};
enum { ACCOUNT_COUNTS_MAX = 24, ACCOUNT_RANGES_MAX = 256, ACCOUNT_SEEN_MAX = 64 };

struct account_seen {
    char instance[NAME_BYTES], log[ACCOUNT_LOG_ID_BYTES];
    int64_t beat;
};

struct account {
    enum account_type type;
    char group[TOPIC_BYTES], instance[NAME_BYTES], log[ACCOUNT_LOG_ID_BYTES];
    int64_t order;           /* counts up over all messages of a log; 0: of an instance that does not count them */
    char topic[TOPIC_BYTES]; /* all but beats */
    int64_t where;           /* partition; of origin and sequences the producer's hash */
    int64_t start_ms;        /* of tally and origin */
    uint8_t load[16];        /* of load */
    size_t counts;           /* of tally, origin, load: the columns of the table, in its order */
    int64_t count[ACCOUNT_COUNTS_MAX];
    size_t digests;
    uint8_t digest[2][DIGEST_BYTES];
    size_t ranges; /* of offsets, sequences and retracted: first and last */
    int64_t range[ACCOUNT_RANGES_MAX][2];
    int64_t number; /* of beats */
    bool left;
    size_t seens;
    struct account_seen seen[ACCOUNT_SEEN_MAX];
};

/* account_write writes a message of at most ACCOUNT_MESSAGE_BYTES - 1 and a NUL. Returns its length. */
size_t account_write(const struct account *a, const struct digest_key *key, char out[ACCOUNT_MESSAGE_BYTES]);

/* account_parse reads text[0, len). 0, or -1: it is not an account, or its mac is not ours. */
int account_parse(struct account *out, const struct digest_key *key, const char *text, size_t len);

#endif

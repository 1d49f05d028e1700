/* Verification of an audit log: that no entry was changed, put in, taken out or moved since it was written, and with
 * anchors that its end was not cut off and its past not rewritten. Reads only. */
#ifndef MILLRACE_AUDIT_VERIFY_H
#define MILLRACE_AUDIT_VERIFY_H

#include <openssl/types.h>
#include <stdbool.h>
#include <stdint.h>

#include "audit/log.h"
#include "audit/mac.h"
#include "base/err.h"

enum verify_kind {
    VERIFY_CHANGED, /* bytes are not what was written */
    VERIFY_MISSING, /* entries were taken out */
    VERIFY_CUT,     /* the end of the log, or of a file, is gone */
    VERIFY_MOVED,   /* entries stand where others belong: out of order, twice, or put in */
    VERIFY_ANCHOR,  /* an anchor was changed or taken out, or is signed by somebody else */
    VERIFY_KIND_COUNT
};
const char *verify_kind_name(enum verify_kind kind); /* "changed" "missing" "cut off" "moved" "anchor" */

struct verify_finding {
    enum verify_kind kind;
    uint64_t segment, at; /* file and byte; of an anchor: segment 0 and the line */
    uint64_t batch;       /* in the file, from 1; 0: its head, or the file as a whole */
    uint64_t first, last; /* entries it is about; 0, 0: none */
    char text[256];       /* a sentence */
};

struct verify_plan {
    const char *dir;
    const struct log_mac_key *key; /* NULL: of each mac only the hash can be checked */
    uint32_t key_id;               /* of key */
    const char *anchors;           /* file; NULL: that in dir */
    EVP_PKEY *anchor_key;          /* the public key suffices; NULL: signatures are not checked */
    void (*found)(void *context, const struct verify_finding *finding);
    void *context;
};

struct verify_result {
    uint64_t segments, batches, entries, bytes;
    uint64_t first, last;       /* sequence numbers that are there; 0, 0: none */
    uint64_t anchors;           /* that are of this log, */
    uint64_t anchors_confirmed; /* and whose mac stands where it says */
    uint64_t anchored;          /* the newest entry that a confirmed anchor covers; 0 none */
    uint64_t findings;
    uint64_t unfinished_bytes; /* of a batch that is being written, behind what is durable: not a finding */
};

/* log_verify reads the whole log. 0 with *result, whatever was found; -1 with err: EX_NOINPUT no such folder or no such
 * file of anchors, EX_IOERR what is there cannot be read, EX_NOPERM. */
int log_verify(const struct verify_plan *plan, struct verify_result *result, struct err *err);

#endif

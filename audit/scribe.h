/* Scribe: everything of `audit` that waits for the disk, one errand at a time: opening the log, making a batch durable,
 * anchors, retention. In a thread of its own, so that a slow disk never looks like a worker that hangs; or, for tests,
 * at once. Between scribe_start and the scribe_poll that says SCRIBE_DONE nobody else touches the log. */
#ifndef MILLRACE_AUDIT_SCRIBE_H
#define MILLRACE_AUDIT_SCRIBE_H

#include <openssl/types.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "audit/anchor.h"
#include "audit/writer.h"
#include "base/audit_keys.h"

enum { ANCHOR_INTERVAL_S = 60, ANCHOR_RETRY_S = 1, SCRIBE_STACK_BYTES = 256 << 10 };

enum scribe_state { SCRIBE_IDLE, SCRIBE_ASKED, SCRIBE_DONE, SCRIBE_LEAVING };

struct scribe_result {
    int failed; /* -1: nothing has changed; err says why, as of log_writer_open or log_writer_commit */
    struct err err;
    uint64_t bytes, entries, repeats; /* made durable */
    uint64_t ns;                      /* it took; 0: there was nothing to write */
};

struct scribe {
    struct log_writer_plan plan;
    struct log_mac_key key;
    struct log_writer log; /* usable once `open` */
    bool open;
    struct anchors anchors;
    bool anchors_gone; /* there was none when the log was opened, though it has entries */
    EVP_PKEY *anchor_key;
    uint64_t anchored_ns;
    bool clock_told;     /* that the wall clock was set */
    uint64_t signed_for; /* the segment whose removal was signed for last; 0 none */
    bool last;           /* the errand is the last one: an anchor is due whenever something was written */
    struct scribe_result result;
    bool threaded;
    pthread_t thread;
    pthread_mutex_t lock; /* of state */
    pthread_cond_t changed;
    enum scribe_state state;
    int bell; /* eventfd, readable when an errand is done; -1 without a thread */
};

/* scribe_init prepares it; plan->key is set by it, from the keys. Everything the plan points to outlives it. 0, or -1
 * with err (EX_SOFTWARE, EX_OSERR). */
int scribe_init(struct scribe *s, const struct log_writer_plan *plan, const struct audit_keys *keys, bool threaded,
                struct err *err);

/* scribe_fini waits for the errand that is under way, if there is one, and gives everything back. */
void scribe_fini(struct scribe *s);

/* scribe_start begins an errand: opens the log unless it is open, else commits the batch. last: see above. Only when
 * the scribe is idle. */
void scribe_start(struct scribe *s, bool last);

/* scribe_poll: SCRIBE_IDLE no errand, SCRIBE_ASKED one is under way, SCRIBE_DONE it is over: *result is filled in, and
 * the scribe is idle again. */
enum scribe_state scribe_poll(struct scribe *s, struct scribe_result *result);

/* scribe_due: whether an errand is worth while though the batch is empty, for an anchor. Only when it is idle. */
bool scribe_due(const struct scribe *s);

#endif

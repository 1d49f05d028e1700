/* What verify knows of the keys that Redis should hold: the table of live keys as it was when verify began, exported so
 * that nothing changes under the walk, and on top of it what the audit log tells since.
 *
 * The log is read by verify itself, from where the table ends: whether recon runs, and how far it has come, does not
 * matter. */
#ifndef MILLRACE_TOOLS_VERIFY_KNOWN_H
#define MILLRACE_TOOLS_VERIFY_KNOWN_H

#include <stdbool.h>
#include <stdint.h>

#include "recon/live.h"
#include "recon/run.h"

struct known {
    const struct config *config;
    struct live *live;
    struct log_reader *log; /* NULL: there is no log any more */
    uint8_t *seen;          /* bit for each row of the export */
    uint64_t rows, unseen;  /* of the export */
    uint64_t as_of;         /* log sequence of the export: it tells of everything before */
    bool kept;              /* the folder is somebody's, to go on with */
    int lock;               /* held on the folder: one that nobody holds was left by a death; -1 none */
    char folder[PATH_BYTES + 64];
};

/* known_open exports the table into `folder`, which it makes, or which a former run has left: then that is opened
 * again. folder NULL: one of its own, removed at the end. While it reads the log, it says so on standard error.
 * known_open_for_keys exports nothing: there are no places to walk over, only rows to be found.
 * 0, or -1 with err: EX_NOINPUT neither table nor log, EX_DATAERR, EX_IOERR, EX_CANTCREAT. */
int known_open(struct known *k, const struct config *config, const char *folder, struct err *err);
int known_open_for_keys(struct known *k, const struct config *config, struct err *err);
void known_close(struct known *k);   /* removes the folder unless it is kept */
void known_discard(struct known *k); /* the folder is not needed any more: known_close removes it */

void known_remove(const char *folder); /* a folder that known_open has made */

/* known_follow reads the log to its end. The number of entries, or -1 with err. */
int64_t known_follow(struct known *k, struct err *err);

/* known_settle waits until everything that ingest has read by now is logged, and until nothing that is in the log
 * already is being written again (Redis forgot, a worker began again), and reads the log to its end. When no instance
 * runs there is nothing to wait for. Says what it waits for on standard error. 0, or -1 with err: EX_TEMPFAIL the
 * pipeline gets nowhere for KNOWN_PATIENCE_MS, or has ended with records read and not logged; or as known_follow. */
enum { KNOWN_PATIENCE_MS = 60000 };
int known_settle(struct known *k, struct err *err);

/* known_find: the row of a key as of what was read of the log: 1, 0 no such key lives, -1 with err. *index: the place
 * of the key in the export, UINT64_MAX none. */
static inline int known_find(struct known *k, const uint8_t key[DIGEST_BYTES], struct live_row *row, uint64_t *index,
                             struct err *err) {
    return live_find_at(k->live, key, row, index, err);
}

static inline bool known_seen(const struct known *k, uint64_t index) { return k->seen[index / 8] >> (index % 8) & 1; }
void known_see(struct known *k, uint64_t index);

#endif

/* What is known of one record, or of all records of one Redis key, gathered from wherever it stands: for
 * `millrace recon record`. */
#ifndef MILLRACE_TOOLS_RECON_FIND_H
#define MILLRACE_TOOLS_RECON_FIND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "recon/db.h"
#include "recon/live.h"
#include "shm/entry.h"

enum { FIND_ENTRIES_MAX = 1000, FIND_NOTES_MAX = 200, FIND_PRODUCER_BYTES = 64 };

struct find_entry {
    struct entry e;
    uint64_t sequence;
    int64_t written_us;
    char topic[TOPIC_BYTES];
    char producer[FIND_PRODUCER_BYTES]; /* its name; its hash in hexadecimal when no database knows it */
    int64_t committed;                  /* the group's next offset as the running instance knows it; -1 unknown */
};

struct find_note { /* a row of table record */
    enum db_record kind;
    char topic[TOPIC_BYTES];
    int32_t partition; /* -1 unknown, as the offset */
    int64_t offset, start_ms;
    char producer[FIND_PRODUCER_BYTES]; /* empty: none */
    int64_t sequence;
    int window; /* enum db_window of its window; -1 unknown */
};

struct find {
    /* asked for; one of the three */
    const uint8_t *id;
    const uint8_t *key; /* digest of the Redis key */
    const char *topic;
    int32_t partition;
    int64_t offset;
    /* found */
    struct find_entry *entry; /* ascending by sequence number */
    size_t entries, more;     /* more: older ones that are left out */
    struct find_note note[FIND_NOTES_MAX];
    size_t notes;
    bool live_known; /* the table of live keys was read, and knows the key */
    bool live_there; /* … as living */
    struct live_row live;
    char live_topic[TOPIC_BYTES];
};

/* find_run fills in what is found. A part that is not there (no database yet, no table, nothing running) is left empty.
 * 0, or -1 with err: the log cannot be read (EX_NOINPUT there is none, EX_DATAERR). find_free frees it. */
int find_run(struct find *f, const struct config *c, struct err *err);
void find_free(struct find *f);

#endif

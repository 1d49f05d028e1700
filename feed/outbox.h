/* The outbox: an SQLite file that keeps every record from before it is sent until the broker has acknowledged it, so
 * that a producer that dies at any instant sends again what may be missing, under the same id and sequence.
 *
 * It also knows the next sequence of each producer and topic, the loads and how far each has come in its source, and
 * the manifests not sent yet. Every change of these is made in one transaction with the records it belongs to, synced
 * to the disk before the first of them is sent.
 *
 * One process at a time: outbox_open holds a lock until outbox_close. Others may read the file meanwhile. Functions
 * return 0, or -1 with err (EX_IOERR unless said otherwise). */
#ifndef MILLRACE_FEED_OUTBOX_H
#define MILLRACE_FEED_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/limits.h"
#include "feed/manifest.h"

struct outbox;

enum { OUTBOX_TAG_BYTES = 9 };

enum outbox_state {
    OUTBOX_READING,  /* the source has more */
    OUTBOX_SENDING,  /* all of it is in the outbox, or was acknowledged */
    OUTBOX_ENDING,   /* given up by its user: what is in the outbox is sent, and no more is read */
    OUTBOX_COMPLETE, /* everything was acknowledged, its end too */
    OUTBOX_ABORTED,  /* likewise, of what was in the outbox when it was given up */
    OUTBOX_STATE_COUNT
};

struct outbox_source { /* where a load's records come from, and what becomes of them; the outbox only keeps it */
    char path[2 * PATH_BYTES]; /* absolute */
    uint64_t bytes;            /* of the file */
    uint8_t hash[16];          /* of its content */
    uint32_t format, operation, skip_bad, spooled;
    uint64_t max_message, rate;
    char key[TEMPLATE_BYTES];
};

struct outbox_load {
    int64_t number; /* in this outbox, from 1; given by outbox_load_insert */
    uint8_t id[16];
    char topic[TOPIC_BYTES], producer[NAME_BYTES];
    uint32_t state;       /* enum outbox_state */
    bool snapshot, begun; /* begun: its load_begin was acknowledged */
    uint32_t algorithm;   /* enum digest_algorithm: of all its digests */
    int64_t created_ms;
    struct outbox_source source;
    /* How far it is; all records ever put into the outbox are in sum, its window aside. */
    uint64_t position, line, skipped, oversized;
    struct manifest sum;
};

struct outbox_record {
    int64_t n; /* in this outbox, ascending in the order of putting */
    uint64_t sequence;
    uint8_t id[16], digest[16];
    int64_t created_ms;
    uint32_t operation;      /* enum record_op; RECORD_RAW: none is said */
    const void *key, *value; /* NULL: null */
    size_t key_bytes, value_bytes;
};

struct outbox_manifest {
    int64_t n;      /* in this outbox */
    int64_t last_n; /* of its last record */
    bool closed;    /* no record will be added */
    struct manifest sum;
};

/* outbox_open makes the file at path (mode 0600; its folder has to be there) or goes on with it. Returns NULL with err:
 * EX_TEMPFAIL another process has it, EX_CANTCREAT, EX_DATAERR (not an outbox, or one of a newer version). */
struct outbox *outbox_open(const char *path, struct err *err);
void outbox_close(struct outbox *o);

/* outbox_open_read opens it without the lock, to look at while another process uses it: only functions that read. NULL
 * with err: EX_NOINPUT there is none, or as outbox_open. */
struct outbox *outbox_open_read(const char *path, struct err *err);

/* Eight hexadecimal digits drawn when the file was made: a name made of it is not used again when the file is lost. */
const char *outbox_tag(const struct outbox *o);

/* outbox_begin … outbox_commit: a transaction. What is called in between takes effect as a whole or not at all.
 * outbox_rollback after a failure. The functions below may also be called outside of one. */
int outbox_begin(struct outbox *o, struct err *err);
int outbox_commit(struct outbox *o, struct err *err);
void outbox_rollback(struct outbox *o);

/* outbox_load_insert gives l->number. EX_USAGE: a load with this id is there. */
int outbox_load_insert(struct outbox *o, struct outbox_load *l, struct err *err);
int outbox_load_update(struct outbox *o, const struct outbox_load *l, struct err *err);
/* outbox_load_find: by id, or with NULL the oldest that is neither complete nor aborted and has a number above `after`.
 * 1 found, 0 none. */
int outbox_load_find(struct outbox *o, const uint8_t id[16], int64_t after, struct outbox_load *out, struct err *err);

/* outbox_load_next finds the load with the lowest number above `after`, whatever its state. 1 found, 0 none. */
int outbox_load_next(struct outbox *o, int64_t after, struct outbox_load *out, struct err *err);

/* outbox_sequence takes the next `count` sequences of a producer in a topic: *first to *first + count - 1. */
int outbox_sequence(struct outbox *o, const char *producer, const char *topic, uint64_t count, uint64_t *first,
                    struct err *err);

/* outbox_next returns the n for the next record; the caller counts on from there. */
int64_t outbox_next(const struct outbox *o);
int outbox_put(struct outbox *o, int64_t load, const struct outbox_record *r, struct err *err);
/* outbox_remove: those with n in [from, to], which were acknowledged. */
int outbox_remove(struct outbox *o, int64_t from, int64_t to, struct err *err);
/* outbox_failed notes on the records of a load that sending them was tried once more in vain. next_ms: when it is tried
 * again, by the wall clock. */
int outbox_failed(struct outbox *o, int64_t load, int64_t next_ms, const char *why, struct err *err);
struct outbox_attempts { /* of the oldest record of a load */
    uint32_t count;      /* how often sending it was tried in vain */
    int64_t next_ms;     /* 0: at once */
    char why[200];
};
/* outbox_attempts finds that out; count 0: never, or there is no record. outbox_forgive sets it to 0. */
int outbox_attempts(struct outbox *o, int64_t load, struct outbox_attempts *out, struct err *err);
int outbox_forgive(struct outbox *o, int64_t load, struct err *err);
/* outbox_count: records of a load that are not acknowledged, and the bytes of their keys and values. */
int outbox_count(struct outbox *o, int64_t load, uint64_t *records, uint64_t *bytes, struct err *err);

/* outbox_read finds the first record of a load with an n above `after`. 1 found (*out is valid until the next call), 0
 * none. */
int outbox_read(struct outbox *o, int64_t load, int64_t after, struct outbox_record *out, struct err *err);

/* outbox_manifest_put inserts (m->n 0: it is given one) or replaces. _first finds the oldest of a load, closed or not;
 * 1 found, 0 none. */
int outbox_manifest_put(struct outbox *o, int64_t load, struct outbox_manifest *m, struct err *err);
int outbox_manifest_first(struct outbox *o, int64_t load, bool closed, struct outbox_manifest *out, struct err *err);
int outbox_manifest_remove(struct outbox *o, int64_t n, struct err *err);

/* The lowest offset of a load's records in each partition. _places returns how many, at most room; -1 with err. */
int outbox_place_note(struct outbox *o, int64_t load, const struct manifest_place *p, struct err *err);
int outbox_places(struct outbox *o, int64_t load, struct manifest_place *out, int room, struct err *err);

#endif

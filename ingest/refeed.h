/* Refeed: records that somebody wants in Redis once more (base/refeed_request.h) are read again from Kafka, and only
 * those; part of ingest.
 *
 * All partitions of a request that this instance reads are held until everything read of them is released. Then each
 * goes back to `from`, the request's `until` or where it is, whatever is lower, under a new epoch, and the broker has
 * confirmed that as the committed offset before anything is passed on: so whoever dies, everything from `from` on
 * follows the chosen records. These come next (RECORD_REFED): they advance nothing, neither the partition's position
 * nor its mark. When Redis has acknowledged all of them, the partitions go on at `from`. */
#ifndef MILLRACE_INGEST_REFEED_H
#define MILLRACE_INGEST_REFEED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/refeed_request.h"

struct ingest;
struct lane;
struct partition;

enum refeed_phase {
    REFEED_NONE,
    REFEED_LOOK,   /* asking what Kafka has of the partitions; they are read as ever */
    REFEED_QUIET,  /* holding them until all that was read of them is released */
    REFEED_COMMIT, /* they went back: until the broker has that */
    REFEED_READ,   /* passing on what was chosen */
    REFEED_SETTLE, /* until Redis has it */
    REFEED_TELL,   /* over: the result is to be written */
};

struct refeed_part {         /* one partition of the request, same index */
    bool mine;               /* read by this instance, and not given up since */
    bool told;               /* Kafka has said what it has */
    bool moved;              /* the client's position is not where the partition goes on */
    bool read;               /* all chosen records are passed on, or missing */
    uint32_t slot;           /* in the ledger */
    uint32_t epoch;          /* when it was looked at, or the one begun for the request */
    uint32_t first, at, end; /* chosen offsets: [first, end) are to be passed on, `at` is next */
    uint32_t gone, last;     /* below `gone` Kafka has none of them any more, nor from `last` on yet */
};

struct refeed {
    enum refeed_phase phase;
    char id[REFEED_ID_BYTES];
    struct refeed_wanted wanted;
    struct refeed_result result;
    struct refeed_part part[PARTITIONS_MAX];
    uint64_t number[LANES_MAX]; /* of the last record passed on in each lane */
    uint64_t asked;             /* control.refeed when the folder was looked at last */
    bool started, look;         /* the folder was looked at by this process; there may be something in it */
    bool committing;            /* the commit of where it went back was sent */
    uint32_t tries;
    uint64_t due_ns, since_ns; /* not before; when the phase began */
};

/* refeed_step does the next bit of the request in hand, or looks for one. Before records are read. True when it came a
 * step further. */
bool refeed_step(struct ingest *g);

/* -- for read.c: a partition with `refeed` set ------------------------------------------------- */

/* refeed_waits: nothing is to be read of it now. */
bool refeed_waits(const struct ingest *g, const struct partition *p);

/* refeed_position: the offset that it needs next. */
int64_t refeed_position(const struct ingest *g, const struct partition *p);

/* refeed_wants: whether the record at an offset is to be passed on. Notes what is missing before it, and has the client
 * jump when the next one is far. Call for each record read, in order. */
bool refeed_wants(struct ingest *g, struct partition *p, int64_t offset, uint64_t now);

/* refeed_passed: the record that was wanted is on the ring of its lane. */
void refeed_passed(struct ingest *g, struct partition *p);

/* refeed_ends: the partition ends here, or (why) what is wanted cannot be read. */
void refeed_ends(struct ingest *g, struct partition *p, const char *why);

#endif

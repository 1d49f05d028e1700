/* The state of the table of live keys beside its rows: the file MANIFEST, lines of text and a checksum. */
#ifndef MILLRACE_RECON_LIVE_STATE_H
#define MILLRACE_RECON_LIVE_STATE_H

#include "recon/merge.h"

enum { LIVE_PLACES_MAX = 65536, LIVE_PLACE_CACHE = 1024 };

struct live_place { /* where the table has got to in a partition */
    uint16_t topic;
    int32_t partition;
    int64_t next;
};

struct live_state {
    uint64_t next;     /* log sequence to go on with; 0 from the oldest */
    uint64_t since;    /* first sequence seen; 0 none */
    uint64_t gaps;     /* entries that were gone before they were seen */
    uint64_t next_run; /* number of the run to be made next */
    uint32_t run_count;
    uint64_t run[MERGE_RUNS_MAX]; /* numbers, oldest first */
    uint32_t topic_count;
    char (*topic)[TOPIC_BYTES];
    uint32_t place_count, place_room;
    struct live_place *place;
    uint32_t cache[LIVE_PLACE_CACHE]; /* index in place[] that was found last, by topic and partition */
};

int live_state_init(struct live_state *s, struct err *err);
void live_state_free(struct live_state *s);

/* live_state_topic: index of a topic, which is added when it is new. live_state_place likewise.
 * -1 or NULL with err: EX_UNAVAILABLE too many, EX_OSERR. */
int live_state_topic(struct live_state *s, const char *name, struct err *err);
struct live_place *live_state_place(struct live_state *s, uint16_t topic, int32_t partition, struct err *err);

/* live_state_write replaces dir/MANIFEST and syncs it and the folder. 0; or with err (EX_IOERR, EX_OSERR) -1: the old
 * one is in place, or LIVE_STATE_DOUBT: the new one is, and may not outlast a power failure.
 * live_state_read fills a state that live_state_init has prepared. 0, or -1 with err: EX_NOINPUT no MANIFEST,
 * EX_DATAERR not as it was written, EX_IOERR, EX_OSERR. */
enum { LIVE_STATE_DOUBT = -2 };
int live_state_write(const struct live_state *s, int dir, struct err *err);
int live_state_read(struct live_state *s, int dir, struct err *err);

void live_run_name(uint64_t run, char out[RUN_NAME_BYTES]);

#endif

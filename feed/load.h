/* A load: a file published to a topic, once, whole, and provably; it goes on where it was when it is interrupted.
 *
 * The whole file is looked at before its first record is published: rows that cannot be used are refused then. Standard
 * input is copied beside the outbox first. */
#ifndef MILLRACE_FEED_LOAD_H
#define MILLRACE_FEED_LOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/config.h"
#include "feed/outbox.h"
#include "feed/rows.h"
#include "shm/record.h"

enum { LOAD_COMPLAINTS_MAX = 10 }; /* rows that are named, of those that cannot be used */

struct load_settings {
    const struct config *config;
    const char *outbox; /* its path */
    uint32_t attempts, attempt_ms;
    const _Atomic int *stop;
    /* Called now and then with the rows looked at (published false), or the records taken, acknowledged and in all (0:
     * not known). NULL: nobody wants to know. */
    void (*progress)(void *context, bool published, uint64_t taken, uint64_t acknowledged, uint64_t all);
    void *context;
};

struct load_request {
    const char *path; /* "-": standard input */
    const char *topic;
    const char *producer;       /* NULL: load-INSTANCE-TAG, with the tag of the outbox */
    const char *key, *keys_out; /* NULL: none */
    const uint8_t *id;          /* NULL: a new one */
    enum rows_format format;
    enum record_op operation; /* RECORD_RAW: none is asked for */
    bool snapshot, skip_bad, dry_run;
    uint64_t max_message, rate; /* rate: records a second; 0 no limit */
};

struct load_result {
    struct outbox_load load;     /* as it is now */
    uint64_t acknowledged, left; /* of this run; in the outbox */
    uint64_t rows;               /* good ones of the file; 0 when they were not counted */
    uint32_t reconnects;
    bool manifests; /* a topic for them is configured */
    int places;     /* partitions that its records went to, and where the first of them stands */
    struct manifest_place place[PARTITIONS_MAX];
};

/* load_run begins a load and carries it through. Complaints about rows go to standard error, "FILE: line N: …".
 * Returns 0, or -1 with err: EX_USAGE, EX_NOINPUT, EX_DATAERR (rows that cannot be used), EX_CONFIG, EX_CANTCREAT, or
 * as feed.h says. *out is filled either way; out->load.number is 0 when nothing was begun. */
int load_run(const struct load_settings *s, const struct load_request *r, struct load_result *out, struct err *err);

/* load_resume goes on with a load: that of the id, or with NULL the oldest that is not over and has a number above
 * `after`. 1 carried through, 0 there is none, -1. abandon: sends what the outbox has, and ends it as aborted. */
int load_resume(const struct load_settings *s, const uint8_t *id, int64_t after, bool abandon, struct load_result *out,
                struct err *err);

#endif

/* Feeding a set of records into a running pipeline, group by group, by refeeds (tools/refeed.h). */
#ifndef MILLRACE_TOOLS_REPLAY_FEED_H
#define MILLRACE_TOOLS_REPLAY_FEED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

#include "tools/refeed.h"
#include "tools/replay_set.h"

struct replay_feed {
    struct command_place at;
    const struct config *config;
    const char *dir;    /* of the audit log */
    uint64_t rate;      /* records a second, about; 0 as fast as it goes */
    unsigned timeout_s; /* for each refeed */
    _Atomic int *stop;  /* other than 0: end early */
    void (*progress)(void *context, uint64_t fed);
    void *context;
    /* filled in: */
    uint64_t requests, fed, covered;
    uint64_t elsewhere; /* records of partitions that this instance does not read, */
    uint64_t gone;      /* that are not in Kafka any more, */
    uint64_t ended;     /* that were given up, */
    uint64_t left;      /* and that were not come to */
    struct refeed_missing *missing;
    char reason[REFEED_TEXT_BYTES];
};

/* replay_feed_run feeds everything; before each refeed the log is read on, so that what came meanwhile follows too. A
 * refeed that is given up is asked for again, a few times. 0, or -1 with err (as refeed_send, replay_set_follow). */
int replay_feed_run(struct replay_feed *f, struct replay_set *s, struct err *err);

/* The exit status: 0, 1 some of it was not fed, EX_TEMPFAIL given up or stopped. */
int replay_feed_status(const struct replay_feed *f);
void replay_feed_print(FILE *out, const struct replay_feed *f, const struct replay_set *s, bool json);
void replay_feed_free(struct replay_feed *f);

#endif

/* The records that a replay is about: those that were chosen, found in the audit log; and, for the pipeline, those that
 * have to follow them: every later record of the keys that they wrote or deleted, and of the keys that these wrote or
 * deleted, in turn. Records whose keys hang together are a *group*: it is fed as a whole, so that no key stays behind.
 */
#ifndef MILLRACE_TOOLS_REPLAY_SET_H
#define MILLRACE_TOOLS_REPLAY_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "audit/search.h"
#include "base/config.h"
#include "base/refeed_request.h"

struct replay_record {
    uint16_t topic;  /* number of its name in the set: replay_set_topic */
    bool follows;    /* not chosen: it comes later for one of the keys */
    uint8_t outcome; /* enum entry_outcome */
    int32_t partition;
    uint32_t key; /* number of its key in the set */
    int64_t offset, created_ms;
    uint64_t sequence; /* in the audit log, of the first entry that was met */
    uint32_t wave;     /* in a group that was given: those of an earlier wave have to be in Redis first */
    uint8_t id[16];
};

struct replay_set;

/* replay_set_new: nothing is in it. Ends the process when there is no memory, as everything here does. */
struct replay_set *replay_set_new(void);
void replay_set_free(struct replay_set *s);

/* replay_set_choose adds what the query finds in the audit log in dir. keyless: records that were rejected too, which
 * have no key, so that nobody knows what came after them; otherwise they are only counted. 0, or -1 with err. */
int replay_set_choose(struct replay_set *s, const char *dir, const struct log_query *q, bool keyless, struct err *err);

/* replay_set_add adds a range of offsets, [from, to), that nothing else is known of. 0, or -1 with err when there would
 * be more than REPLAY_RECORDS_MAX. */
enum { REPLAY_RECORDS_MAX = 50000000 };
int replay_set_add(struct replay_set *s, const char *topic, int32_t partition, int64_t from, int64_t to,
                   struct err *err);

/* replay_set_follow reads the log on to its end, from where it was read before, or from the first chosen record, and
 * adds what follows. 0, or -1 with err (EX_NOINPUT: retention has removed what came next). */
int replay_set_follow(struct replay_set *s, const char *dir, struct err *err);

/* replay_set_until: up to which offset of a partition every record since the first chosen one is known: the log's end,
 * or where records are missing in it, because another instance had the partition meanwhile. Of a partition of which the
 * log says nothing since then: what had been committed before the last replay_set_follow, for that is in the log. */
int64_t replay_set_until(const struct replay_set *s, const char *topic, int32_t partition, int64_t committed);

/* replay_set_group gives the groups that have not been given yet, each with all its records, in the order of their
 * first records, as long as they are at most max together (the first one always). *records (to be freed) are sorted by
 * wave, topic, partition and offset: where the records of a group go on in another partition, by the order of the log,
 * another wave begins. Returns how many; 0 there is no more. */
size_t replay_set_group(struct replay_set *s, size_t max, struct replay_record **records);

/* replay_set_again: what replay_set_group gave last is to be given again, with what follows by then. */
void replay_set_again(struct replay_set *s);

/* What is in it: all of them, sorted by topic, partition and offset. Valid until it changes. */
const struct replay_record *replay_set_records(struct replay_set *s, size_t *count);
const char *replay_set_topic(const struct replay_set *s, uint16_t topic);
size_t replay_set_chosen(const struct replay_set *s);  /* how many were chosen, */
size_t replay_set_keyless(const struct replay_set *s); /* and how many were found and left out */

#endif

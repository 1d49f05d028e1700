/* Known: which rejected records stand in the rejects folder, so that one that is read and rejected again (after a
 * rewind, or with new rings) is not stored twice. Exact per topic, partition and offset; a digest of timestamp, id and
 * lengths tells a record of a topic that was made anew from the one before. 16 bytes a record. */
#ifndef MILLRACE_INGEST_KNOWN_H
#define MILLRACE_INGEST_KNOWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rejects_format.h"

struct known_entry {
    int64_t offset;
    uint64_t digest;
};

struct known_partition {
    char topic[TOPIC_BYTES];
    int32_t partition;
    size_t count, room;
    struct known_entry *entry; /* by offset; several may have the same */
};

struct known { /* zeroed: empty */
    struct known_partition *partition;
    uint32_t count, room;
    uint32_t last; /* the one asked about last */
    uint64_t total;
};

/* known_has: whether a record with this head stands there. Topic: its name, shorter than TOPIC_BYTES. */
bool known_has(struct known *k, const char *topic, const struct rejects_entry *e);

/* known_add notes one; ending the process when there is no memory. */
void known_add(struct known *k, const char *topic, const struct rejects_entry *e);

/* known_forget makes it empty: at worst a record is stored again. */
void known_forget(struct known *k);

/* Whether two heads are of the same record of a partition. */
bool known_same(const struct rejects_entry *a, const struct rejects_entry *b);

#endif

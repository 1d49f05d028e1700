/* Refeed requests: which records ingest is to read once more from Kafka and pass on through the pipeline, so that Redis
 * gets them again. Files of data_dir/refeed:
 *
 *     ID.refeed   the request, made by a tool (below); then the instance is asked to look: `millrace ctl refeed`
 *     ID.begun    ingest has begun with it; made before the first record is passed on
 *     ID.done     what became of it (refeed_result_read); nothing happens any more
 *
 * A request is carried out at least once, whoever dies meanwhile: a successor of ingest begins again with those that
 * have no ID.done. ID is 16 hexadecimal digits; requests are carried out in the order of their names, one at a time.
 *
 * What is asked for: per partition some offsets, and a position `until` up to which the requester's knowledge is
 * complete: for every key that the request is about, whichever partition writes it, the request has every record before
 * `until` that comes after one of its records. (An update that changes the key is about both, for it deletes the old
 * one: what was written there later has to follow it.) Ingest holds all partitions of the request, passes on the chosen
 * offsets before `until`, and then goes on with every one of them at `until`. So every later record of the keys follows
 * again, in order, and no key stays at an older value than it had. Partitions that may write the same keys (of other
 * topics, say) belong into the request even without offsets. `until` should be close to the end: all records behind it
 * are written once more. Between the partitions of a request the chosen records have no order. */
#ifndef MILLRACE_BASE_REFEED_REQUEST_H
#define MILLRACE_BASE_REFEED_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/limits.h"

#define REFEED_MAGIC 0x316465656665726dULL /* "mrefeed1" */
enum { REFEED_VERSION = 1, REFEED_OFFSETS_MAX = 1 << 17, REFEED_ID_BYTES = 17, REFEED_TEXT_BYTES = 160 };

/* The file: this head, then for each partition a struct refeed_partition and its offsets (int64_t, ascending, each
 * once, below `until`). Little-endian. */
struct refeed_head {
    uint64_t magic;
    uint32_t version;
    uint32_t partitions; /* [1, PARTITIONS_MAX] */
    uint64_t offsets;    /* of all partitions, [0, REFEED_OFFSETS_MAX] */
};
struct refeed_partition {
    char topic[TOPIC_BYTES]; /* NUL-terminated */
    int32_t partition;       /* [0, 2^31) */
    uint32_t count;          /* offsets that follow */
    int64_t until;           /* [0, 2^62) */
};

/* -- making one -------------------------------------------------------------------------------- */

struct refeed_request;

/* refeed_request_new: an empty request; NULL: no memory. */
struct refeed_request *refeed_request_new(void);
void refeed_request_free(struct refeed_request *r);

/* refeed_request_until adds a partition with its position, or changes it. 0, or -1 with err (EX_USAGE: out of range,
 * or more than PARTITIONS_MAX; EX_OSERR: no memory). */
int refeed_request_until(struct refeed_request *r, const char *topic, int32_t partition, int64_t until,
                         struct err *err);

/* refeed_request_add chooses one offset of a partition that was added before; in any order, repeats count once. 0, or
 * -1 with err (EX_USAGE: no such partition, not below its `until`, or more than REFEED_OFFSETS_MAX; EX_OSERR). */
int refeed_request_add(struct refeed_request *r, const char *topic, int32_t partition, int64_t offset, struct err *err);
uint32_t refeed_request_count(const struct refeed_request *r); /* offsets chosen, repeats included */

/* refeed_request_write makes data_dir/refeed (0700) and the request's file in it, durably and whole or not at all. id
 * gets its name. 0, or -1 with err (code EX_CANTCREAT, EX_USAGE without any partition). */
int refeed_request_write(struct refeed_request *r, const char *data_dir, char id[REFEED_ID_BYTES], struct err *err);

/* refeed_request_remove removes what belongs to a request: when its result was read, or to withdraw it. Missing files
 * are no error. One that is begun and not done is left as it is: returns false. */
bool refeed_request_remove(const char *data_dir, const char *id);

/* -- reading one: ingest ----------------------------------------------------------------------- */

/* refeed_request_read reads and checks a whole file. part[i] and offset[i] point into memory of the caller's to free()
 * as out->memory. 0, or -1 with err (EX_NOINPUT, EX_DATAERR with what is wrong, EX_OSERR). */
struct refeed_wanted {
    void *memory;
    uint32_t count;
    const struct refeed_partition *part[PARTITIONS_MAX];
    const int64_t *offset[PARTITIONS_MAX];
};
int refeed_request_read(const char *path, struct refeed_wanted *out, struct err *err);

/* -- what became of it ------------------------------------------------------------------------- */

enum refeed_state {
    REFEED_DONE,      /* Redis has acknowledged every chosen record that is in Kafka */
    REFEED_ELSEWHERE, /* the partition is not read by this instance: ask the others */
    REFEED_UNKNOWN,   /* no such topic in the configuration */
    REFEED_ENDED,     /* given up before the end, reason in the result: ask again */
};

/* Text, a line for each partition and one for each chosen offset that was not passed on:
 *     millrace refeed 1
 *     partition TOPIC PARTITION STATE asked=N fed=N covered=N from=OFFSET
 *     missing TOPIC PARTITION OFFSET gone|absent
 *     end REASON */
struct refeed_outcome {
    char topic[TOPIC_BYTES];
    int32_t partition;
    enum refeed_state state;
    uint64_t asked;   /* offsets in the request */
    uint64_t fed;     /* passed on as chosen */
    uint64_t covered; /* not below `from`: passed on with everything else */
    int64_t from;     /* from here on everything was passed on again; -1 nothing was done */
};
struct refeed_missing {
    char topic[TOPIC_BYTES];
    int32_t partition;
    int64_t offset;
    bool gone; /* below the oldest record that Kafka has; else there is no record at this offset (compaction) */
};
struct refeed_result {
    uint32_t partitions, missing;
    struct refeed_outcome *partition;
    struct refeed_missing *miss;
    char reason[REFEED_TEXT_BYTES]; /* why it was ended, or the request refused; "" it was not */
};

const char *refeed_state_name(enum refeed_state state); /* "done" "elsewhere" "unknown" "ended" */

/* refeed_result_read reads data_dir/refeed/ID.done. 1 there (refeed_result_free gives the memory back), 0 not there
 * yet, -1 with err. */
int refeed_result_read(const char *data_dir, const char *id, struct refeed_result *out, struct err *err);
void refeed_result_free(struct refeed_result *r);

/* refeed_result_write: ingest only. Whole and durable. 0, or -1 with err. */
int refeed_result_write(const char *data_dir, const char *id, const struct refeed_result *r, struct err *err);

/* refeed_path writes DATA_DIR/refeed/ID.SUFFIX; id NULL: the folder. */
void refeed_path(char out[PATH_BYTES + 64], const char *data_dir, const char *id, const char *suffix);

/* refeed_id_valid: 16 hexadecimal digits in lower case. */
bool refeed_id_valid(const char *id);

#endif

/* Marks: what tells that Redis has lost writes it acknowledged.
 *
 * One key per partition, `millrace:mark:GROUP:TOPIC:PARTITION`, with the text `2 NEXT EPOCH INSTANCE CLUSTER SEEN:MS`:
 * every record of the partition before offset NEXT is in Redis, and the last of them that Kafka has given had the
 * offset SEEN and the timestamp MS: by this record ingest knows a topic that was made anew under the same name. It is
 * written behind the data of every batch, in the same ordered stream, by SET XX GET: a mark that is gone stays gone,
 * and the old one comes back to be compared with what was there last. A Redis that went back in time (failover, a lost
 * tail of the AOF, a flush) went back with its marks.
 *
 * Nothing here talks to Redis: sink/line.c does, and asks here what the answers mean. Marks ahead of the ledger are
 * normal after a crash, when records are sent again. An epoch is *established* once its mark was found good or written:
 * the ledger then has what was released in it. */
#ifndef MILLRACE_SINK_MARKS_H
#define MILLRACE_SINK_MARKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "shm/ledger.h"
#include "sink/resp.h"

enum {
    MARK_KEY_BYTES = 14 + TOPIC_BYTES + TOPIC_BYTES + 16,            /* millrace:mark:GROUP:TOPIC:PARTITION, NUL */
    MARK_TEXT_BYTES = 2 + 21 + 11 + NAME_BYTES + CLUSTER_BYTES + 42, /* 2 NEXT EPOCH INSTANCE CLUSTER SEEN:MS, NUL */
};

struct mark {
    int64_t next;    /* [0, 2^62); -1: there is none */
    uint32_t epoch;  /* as counted by the instance that wrote it */
    bool foreign;    /* written from another Kafka cluster; both ids are known */
    int64_t seen;    /* one more than the offset of the last record covered that Kafka has given; 0: unknown */
    int64_t seen_ms; /* and its timestamp, [0, 2^62) */
};

enum mark_verdict {
    MARK_GOOD,    /* as expected, or ahead of what this instance relies on */
    MARK_OTHER,   /* good, but somebody else has written it meanwhile */
    MARK_CREATE,  /* there is none, and it is right to begin one at marks_floor */
    MARK_TRUST,   /* the same, on the word of redis.when_marks_missing: trust_kafka */
    MARK_SET,     /* the epoch began by a rewind: whatever there is, the mark is to be set to marks_floor */
    MARK_MISSING, /* there is none, and redis.when_marks_missing: block */
    MARK_LOST,    /* Redis has lost writes: it has what `found` says */
    MARK_FOREIGN, /* the key holds something that is not a mark */
};

struct marks_slot {
    struct mark known;          /* in Redis after the last answer that was read */
    uint32_t checked_epoch;     /* epoch in which it was compared on this connection; 0: not yet */
    int64_t seen_next, seen_ms; /* `seen` of the last mark that was read or sent */
    uint32_t bad_epoch;         /* epoch in which it was last said that an operator has to put it right */
    bool seen;                  /* it was there once while this process ran: it cannot be missing for a good reason */
};

struct marks {
    const struct config *config;
    const struct ledger_ingest *plan;
    struct ledger_sink *ledger;
    struct marks_slot slot[PARTITIONS_MAX];
};

/* mark_key, mark_text write a key or a value, NUL-terminated, and return its length. cluster: "" unknown. */
size_t mark_key(char out[MARK_KEY_BYTES], const char *group, const char *topic, int32_t partition);
size_t mark_text(char out[MARK_TEXT_BYTES], struct mark mark, const char *instance, const char *cluster);

/* mark_parse reads a mark's text, of version 2 (with SEEN:MS, with `-`, or without that word), or 1 (no cluster), and
 * compares its cluster with ours ("" unknown). 0, or -1 when it is none of ours (another version included). */
int mark_parse(const char *text, size_t len, const char *cluster, struct mark *out);

void marks_init(struct marks *m, const struct config *config, const struct ledger_ingest *plan,
                struct ledger_sink *ledger);

/* marks_cluster: the id of the brokers' cluster, "" unknown. */
const char *marks_cluster(const struct marks *m);

/* marks_forget: the connection is gone, or an error has stopped it in the middle; every mark is to be read again. */
void marks_forget(struct marks *m);

/* marks_mine: whether the partition of a slot is read by this instance now, in this lane. */
bool marks_mine(const struct marks *m, uint32_t slot, uint32_t lane);

/* marks_checked: whether records of this epoch may be sent: the mark was compared on this connection. */
static inline bool marks_checked(const struct marks *m, uint32_t slot, uint32_t epoch) {
    return m->slot[slot].checked_epoch == epoch;
}

/* marks_floor: the next offset that Redis must have: what was released in this epoch, else where the epoch began. */
int64_t marks_floor(const struct marks *m, uint32_t slot);

/* marks_of: the mark of a record (or of a marker: timestamp_ms -1, or no record at all) that is sent next, all before
 * next covered. Call once for each, in the order of sending, after its mark was checked. */
struct mark marks_of(struct marks *m, uint32_t slot, int64_t next, uint32_t epoch, int64_t timestamp_ms);

/* marks_judge_read judges the answer to GET (a string or nil), after everything sent before it has been executed.
 * MARK_GOOD and MARK_OTHER note it as known and checked, and establish the epoch: its start is released, and the note
 * of a loss in an earlier epoch is taken back. MARK_LOST too when a loss was noted in this epoch already: it stands
 * until ingest raises the epoch. *found gets the mark, or what is known to be there when that is less; next -1: nil.
 * What it says of the last record goes to the ledger before the epoch is established. It is taken for unknown where the
 * mark is of another topic: of another cluster, or when an operator has accepted what was lost (LEDGER_ACCEPTED). */
enum mark_verdict marks_judge_read(struct marks *m, uint32_t slot, const struct resp_reply *reply, struct mark *found);

/* marks_judge_old judges the old mark that SET XX GET returned when `wrote` was written, and notes what is there now. A
 * partition that was taken away, or has another epoch by now, is somebody else's: always MARK_GOOD. */
enum mark_verdict marks_judge_old(struct marks *m, uint32_t slot, struct mark wrote, const struct resp_reply *reply,
                                  struct mark *found);

/* marks_lost_word: what the ledger's `lost` says of a mark found (second word). */
uint64_t marks_lost_word(struct mark found);

#endif

/* Ingest: reads the partitions this instance was given, numbers their records into the lanes' rings, commits what the
 * last stage has released, and keeps what transform rejects. */
#ifndef MILLRACE_INGEST_INGEST_H
#define MILLRACE_INGEST_INGEST_H

#include "base/log.h"
#include "ingest/kafka.h"
#include "ingest/refeed.h"
#include "ingest/rejects.h"
#include "shm/worker.h"

/* A record by which a topic is known: what stood where. */
struct proof {
    int64_t next; /* its offset + 1; 0: none */
    int64_t timestamp_ms;
};

/* One partition as this process knows it; the ledger has what must outlive it. Index = ledger slot. */
struct partition {
    uint32_t topic;
    int32_t partition;
    uint32_t lane;
    uint32_t epoch;
    bool assigned;
    void *handle;        /* of the Kafka port, while assigned */
    int64_t next;        /* the offset to be published next: one more than the last, or where the epoch began */
    int64_t committed;   /* next offset the broker has; -1 none */
    struct note noted;   /* and what its commit says beside */
    uint64_t by;         /* which instances have committed it, for the next note */
    uint32_t refetches;  /* in a row: how often what comes next could not be read; 0: all is well */
    uint64_t refetch_ns; /* when to seek to `next` again; 0: nothing is being fetched again */
    bool waits;          /* not read: offsets are lost, or it is about to be rewound */
    bool gone;           /* Kafka said that it does not have `next` */
    bool judged;         /* and found lost in this epoch: what the sink had noted then */
    uint64_t judged_what;
    uint64_t judge_ns;           /* the broker is not asked about it before */
    int64_t crashed, crashed_ms; /* the record that crashes the sink, as commit_crashed said before the last read */
    uint32_t witnessed; /* the epoch in which the topic was compared with what is known of it; 0: it is to be */
    struct proof proof; /* what to compare it with next; none, and not witnessed: what its mark says */
    struct proof last;  /* the newest record that was read in this epoch */
    int32_t broker;     /* who gave it */
    enum { SHAKEN_NOT, SHAKEN, SHAKEN_READ_OUT } shaken; /* since a connection broke; all that came before is read */
    struct refeed_part *refeed; /* held, or read for a refeed; NULL: not. A new epoch ends that */
};

struct lane {
    struct ring_producer out;
    struct ring_consumer rejects;
    const struct ledger_sink *sink;
    uint32_t slot[PARTITIONS_MAX]; /* assigned partitions */
    uint32_t slot_count;
    uint32_t turn; /* whose turn it is to be read */
    bool full;     /* the last look found no room for a record of any size */
};

enum membership { MEMBER_WAITING, MEMBER_ASSIGNING, MEMBER_READING, MEMBER_REVOKING };

struct ingest {
    struct worker *worker;
    const struct config *config;
    const struct clock_port *clock;
    struct stats_local *stats;
    struct kafka_port kafka;
    struct ledger_ingest *ledger;
    const struct ledger_audit *audited; /* NULL: audit is off */
    struct rejects_store store;
    struct lane lane[LANES_MAX];
    struct partition partition[PARTITIONS_MAX];
    uint32_t partition_count;

    enum membership membership;
    bool first_assignment;            /* none since this process started: positions in shm may be resumed */
    struct kafka_event event;         /* the one being polled */
    struct kafka_event rebalance;     /* ASSIGN or REVOKE being carried out */
    uint64_t rebalance_due_ns;        /* until when a revocation waits for what is in flight */
    uint64_t retry_ns;                /* no new attempt at the broker before */
    uint32_t begun;                   /* partitions of an assignment whose beginning is decided */
    int8_t topic_commits[TOPICS_MAX]; /* whether the group has commits in a topic: 1, 0, -1 not asked yet */

    uint64_t lease_from_ns; /* commits sent before that boot time bring no lease; UINT64_MAX: none does */
    bool cluster_checked;   /* by this process: the brokers are those of the ledger */
    bool confirmed;         /* a commit was answered since the assignment */

    bool committing;        /* a commit is on its way */
    uint64_t commit_due_ns; /* next timer commit */
    uint64_t commit_sent_ns;
    struct kafka_partition commit_list[PARTITIONS_MAX];

    bool holding; /* a message too large for a ring waits until the store takes its reject */
    uint32_t held_slot;
    struct kafka_message held;

    bool rejects_blocked; /* the store did not take the last one */
    bool rejects_full;    /* because max_bytes is reached */
    bool broken;          /* a rejects ring fails its checks: nothing more is committed, the process leaves */
    uint64_t rejects_retry_ns;
    char kafka_error[STATS_TEXT_BYTES];   /* what Kafka said last while there are no partitions; "" nothing */
    bool kafka_denied;                    /* … and only a person can mend it */
    char trouble[STATS_TEXT_BYTES];       /* why it is BLOCKED: something that cannot be read; "" none */
    char lost_text[STATS_TEXT_BYTES];     /* … offsets that are lost; "" none */
    uint32_t judge_turn;                  /* whose turn it is when Kafka is asked what it has; as many as time allows */
    uint32_t accept_turn;                 /* … and when a loss is accepted */
    uint64_t accept_ns;                   /* no new attempt to carry out control.accept_loss before */
    uint32_t witness_turn, witness_fails; /* whose turn it is to be asked about; failures in a row */
    uint64_t witness_ns;                  /* no new question before */
    uint64_t witness_all_ns;              /* when all partitions are asked about again */
    struct refeed refeed;                 /* a request in hand */
    uint64_t report_due_ns, watermarks_due_ns, ends_due_ns;
    bool leaving; /* the last commit was asked for */
    uint64_t leave_due_ns;
};

/* Where a log line is about. */
static inline struct log_at ingest_at(const struct ingest *g, uint32_t topic, int32_t partition, int64_t offset) {
    return (struct log_at){g->config->topic[topic].name, partition, offset};
}

/* ingest_init fills *g: lanes are attached, the Kafka port is open, the store is open. */
void ingest_init(struct ingest *g, struct worker *w, const struct kafka_port *kafka);

/* ingest_step does a bounded amount of work: see enum step. */
enum step ingest_step(void *self);
bool ingest_arm(void *self);
void ingest_disarm(void *self);
int ingest_wants(void *self, struct pollfd *fds, int max, int *timeout_ms);

/* -- the parts of the step, one file each ------------------------------------------------------ */

/* assignment.c: events of the consumer group, and where each partition begins. STEP_FAILED when it cannot go on,
 * STEP_AGAIN when another process can. */
enum step assignment_step(struct ingest *g);
bool assignment_again(struct ingest *g, struct err *err); /* the client begins every partition anew, where we are */
void assignment_restore(struct ingest *g);                /* partitions as a predecessor left them in the ledger */
bool assignment_drained(const struct ingest *g);          /* everything read of assigned partitions is released */

/* read.c: from the partitions' queues to the rings. True when something moved; *blocked when a ring has no room. */
bool read_step(struct ingest *g, bool *blocked);
void read_drop_held(struct ingest *g);              /* before the partitions change */
void read_from(struct partition *p, int64_t next);  /* nothing of what went wrong before counts any more */
void read_again(struct partition *p, uint64_t now); /* from where it is, after a pause */
int64_t read_position(const struct ingest *g, const struct partition *p); /* what the client is to give next */

/* commit.c: what is released, to the broker; on a timer, or at once. */
void commit_step(struct ingest *g, bool at_once);
void commit_result(struct ingest *g, const struct kafka_event *e);
bool commit_settled(const struct ingest *g); /* nothing on its way, and nothing released that is not committed */

/* rewind.c: what Redis has lost is read again; or it is found that Kafka has not got it either. */
void rewind_step(struct ingest *g);
/* A new epoch from target on. flags: what the sink should know beside LEDGER_REWOUND. */
void rewind_to(struct ingest *g, uint32_t slot, int64_t target, uint32_t flags);

/* loss.c: offsets that Redis needs and Kafka no longer has, until an operator accepts that. */
void loss_step(struct ingest *g); /* carries out control.accept_loss */
void loss_show(struct ingest *g); /* after any change: what the state says */
void loss_note(struct ingest *g, uint32_t slot, int64_t from, int64_t to);
void loss_store(struct ingest *g, uint32_t slot, int64_t from, int64_t to); /* 0, 0: none */
static inline bool loss_stands(const struct ingest *g, uint32_t slot) {
    const struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    return atomic_load_explicit(&s->lost_to, memory_order_relaxed) >
           atomic_load_explicit(&s->lost_from, memory_order_relaxed);
}

/* witness.c: whether the topic is still the one that was read and written from. After each takeover by the last record
 * that the mark covers; when a record comes from another broker, or is the first after a connection broke, by the one
 * before it; else once a minute, by what had been read the minute before. Records go on meanwhile. At most two calls of
 * the port that block, once a second. */
void witness_step(struct ingest *g);
void witness_record(struct partition *p, const struct kafka_message *m); /* about to be taken; not for a refeed */
void witness_read_out(struct partition *p);                              /* the client has nothing of it for us */
void witness_trouble(struct ingest *g);                                  /* a connection broke */

/* lease.c: until when the sinks may write, on the strength of what the group has confirmed. */
void lease_init(struct ingest *g);                          /* a fixed list of partitions needs none */
void lease_begin(struct ingest *g);                         /* an assignment is carried out */
void lease_extend(struct ingest *g, uint64_t confirmed_ns); /* a commit sent at that boot time was taken */
void lease_end(struct ingest *g, const char *why);          /* the group has left us out, or took everything */

/* keep.c: from the rejects rings to the store. True when something moved. May find a ring broken. */
bool keep_step(struct ingest *g);
/* Notes that a lane's rejects ring, or what is in it, fails its checks; worker_broken has told why. */
void keep_broken(struct ingest *g, uint32_t lane, const char *why);
/* The original's head in *r: false when it is none, and the ring is broken. */
bool keep_open(struct ingest *g, uint32_t lane, const struct ring_item *item, struct record_view *r);
/* The store did not take something: wait before the next attempt, and say so. err NULL: it is full. */
void keep_block(struct ingest *g, const struct err *err);

/* report.c: positions and lag of every partition, for the stats segment. */
void report_step(struct ingest *g, uint64_t now);

/* Next offset up to which Redis has everything that was read of a partition, or -1 when nothing is known of it in its
 * present epoch. */
int64_t commit_applied(const struct ingest *g, uint32_t slot);
/* Next offset up to which the last stage is done with a partition: with audit on, everything is in the audit log as
 * well. That may be committed. -1 when commit_applied is. */
int64_t commit_released(const struct ingest *g, uint32_t slot);
/* Whether the last stage is done with all that Redis has of a partition. Where the sink stands still, over a loss, it
 * comes to that; before that the epoch must not be raised, for what an epoch begins with counts as done. */
static inline bool commit_logged(const struct ingest *g, uint32_t slot) {
    return commit_released(g, slot) == commit_applied(g, slot);
}
/* Offset of the partition's first reject in its present epoch that is not durable; INT64_MAX: none. */
int64_t commit_cap(struct ingest *g, uint32_t slot);
/* The offset of the last record that crashed the sink poison.attempts times, -1 none; *ms its timestamp, *waits whether
 * the sink stands before it in the present epoch. */
int64_t commit_crashed(const struct ingest *g, uint32_t slot, int64_t *ms, bool *waits);
/* Whether the sink has found writes of the present epoch, or before it, gone from Redis; *what as in shm/ledger.h. */
bool commit_lost_found(const struct ingest *g, uint32_t slot, uint64_t *what);

#endif

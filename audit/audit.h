/* Audit: the last stage of the chain. Takes what became of every record (shm/entry.h) from the sinks of all lanes,
 * makes it durable in the audit log (audit/log.h), and only then says that the record is done.
 *
 * Entries wait to be written together until recon.commit_records of them are there, or recon.commit_interval has passed
 * since the first. Once a batch is durable, in this order: the ledger (per partition {epoch, next offset}, which ingest
 * commits), the number that is shown (stats_block.lane_published, never more than the sink has shown before it passed
 * the entry on), the rings. Killed anywhere in between, a successor finds in the log what is in it, and logs only the
 * rest; the ledger and the rings catch up. */
#ifndef MILLRACE_AUDIT_AUDIT_H
#define MILLRACE_AUDIT_AUDIT_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "audit/scribe.h"
#include "base/audit_keys.h"
#include "base/err.h"
#include "shm/entry.h"
#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/worker.h"

struct audit_ports {
    struct worker *worker;            /* clock, configuration, stats, control */
    struct ring_consumer *ring;       /* [0, lanes): the audit ring of each lane, attached */
    uint32_t lanes;                   /* [1, LANES_MAX] */
    const struct ledger_ingest *plan; /* topic and partition of each slot */
    struct ledger_audit *ledger;      /* what is released */
    const char *dir;                  /* folder of the log (log_dir); made when it is not there */
    const struct log_files *files;
    bool threaded;                 /* the disk is waited for in a thread; without it, in audit_step: for tests */
    const struct audit_keys *keys; /* AUDIT_KEY_CHAIN | AUDIT_KEY_ANCHOR; wiped by the caller after audit_init */
};

struct audit_lane {
    uint64_t end, number; /* of the last entry taken from its ring; 0, 0: none since the last release */
};

struct audit_slot { /* of the ledger: what is taken and not released */
    uint32_t epoch; /* 0: nothing */
    int64_t next;
};

struct audit {
    struct audit_ports port;
    struct scribe scribe;
    struct audit_lane lane[LANES_MAX];
    struct audit_slot slot[PARTITIONS_MAX];
    uint16_t touched[PARTITIONS_MAX]; /* slots with something to release */
    uint32_t touched_count, lane_first;
    bool taken;        /* something is taken and not released */
    uint64_t since_ns; /* when the first entry of the batch was taken */
    uint64_t began_ns; /* when the errand that is under way began; 0 none is */
    uint64_t retry_ns; /* no errand before this; 0: the last one went well */
    bool leaving;      /* the last errand was asked for */
    bool broken;       /* a ring fails its checks, or what is in it is no entry */
    struct err err;
};

/* audit_init prepares the body: everything is allocated here. All that the ports point to, the keys excepted, must
 * outlive it. Returns 0, or -1 with err: it can never go on. */
int audit_init(struct audit *a, const struct audit_ports *ports, struct err *err);
void audit_fini(struct audit *a);

/* For struct worker_body; self is a struct audit. A log that cannot be written is STATE_BLOCKED, never a failure: the
 * lanes wait. Asked to leave (CONTROL_LEAVE), it makes durable what it has taken, within a bounded time, and goes. */
enum step audit_step(void *self);
bool audit_arm(void *self);
void audit_disarm(void *self);
int audit_wants(void *self, struct pollfd *fds, int max, int *timeout_ms);

#endif

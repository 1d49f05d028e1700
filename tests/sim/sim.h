/* The simulator: all workers of an instance, the supervisor's own code, Kafka, Redis, the clock and the files of the
 * audit log in one process and one thread. A seed decides every choice: who goes on at which load or store, who dies
 * where, what breaks and when. What has to hold is looked at after every turn (tests/sim/oracle.c).
 *
 * One world per process: the runner (tests/sim/main.c) forks one for each seed. */
#ifndef MILLRACE_TESTS_SIM_SIM_H
#define MILLRACE_TESTS_SIM_SIM_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <ucontext.h>

#include "audit/files.h"
#include "base/config.h"
#include "ingest/ingest.h"
#include "shm/worker.h"
#include "sink/stream.h"
#include "supervisor/supervisor.h"

#define KAFKA_REQUIRE(condition, ...) SIM_REQUIRE(condition, __VA_ARGS__)
#define SIM_REQUIRE(condition, ...) ((condition) ? (void)0 : sim_fail(__VA_ARGS__))
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#include "tests/sim/kafka.h"

enum { SIM_LANES = 2, SIM_BLOCKS = 2 + 2 * SIM_LANES + 2, SIM_PARTS = 8, SIM_STACK_BYTES = 512 << 10 };

/* -- fibers: one per worker process ------------------------------------------------------------ */

enum fiber_state { FIBER_NONE, FIBER_READY, FIBER_ASLEEP, FIBER_STOPPED, FIBER_DEAD };

struct fiber {
    enum fiber_state state;
    void (*body)(void *context);
    void *context;
    void *stack;
    bool begun;
    jmp_buf place;
    ucontext_t start;
    uint64_t wake_ns; /* FIBER_ASLEEP, FIBER_STOPPED: until then at most */
    uint32_t quantum; /* loads and stores before somebody else has a turn */
    uint64_t die_in;  /* places until it dies by die_signal; 0: it does not */
    int die_signal;
    bool blocks; /* asleep in a call, where no doorbell wakes it */
};

void fiber_begin(struct fiber *f, void (*body)(void *context), void *context);
void fiber_run(struct fiber *f);                  /* from the scheduler, until it gives way */
void fiber_give_way(void);                        /* from a fiber */
void fiber_sleep(uint64_t until_ns, bool blocks); /* from a fiber */
_Noreturn void fiber_die(void);                   /* from a fiber: never comes back */
struct fiber *fiber_current(void);                /* NULL: the scheduler runs */

/* -- workers ----------------------------------------------------------------------------------- */

struct sim_stream { /* the sink's end of a connection */
    int connection; /* -1 none */
    bool connected;
};

struct process {
    struct fiber fiber;
    enum role role;
    uint32_t lane;
    pid_t pid; /* 0: there is none */
    int pidfd;
    int exit_signal, exit_code; /* of FIBER_DEAD */
    bool bell;                  /* its doorbell was rung */
    bool reaped;
    bool watches; /* asleep, and what comes from Redis wakes it */
    uint64_t stopped_until_ns;
    int fds[WORKER_FDS_MAX];
    struct worker worker;
    struct sim_stream stream;
    void *memory;                         /* of the body, from calloc: goes with the process */
    void (*gone)(struct process *p);      /* what the kernel gives back when it has ended */
    void (*overslept)(struct process *p); /* it has slept as long as it may: there must be nothing to do */
};

/* Called by the product in place of fork and exec: supervisor/spawn.h. */
void process_exit(int code); /* from a fiber */
void process_killed(struct process *p, int signal);
const char *process_name(const struct process *p);

/* -- the oracle -------------------------------------------------------------------------------- */

enum effect { EFFECT_SET, EFFECT_DELETE, EFFECT_REJECT };

struct message { /* what is known of a message that was published */
    enum effect effect;
    char key[24], old[24]; /* in Redis; old "": it does not change */
};

struct part { /* one partition */
    struct sim_partition *kafka;
    struct message *message; /* by index in the log */
    uint32_t room;
    int64_t at;   /* the dataset of Redis has everything before, and was last written here */
    bool forgot;  /* Redis has lost something that is committed, and nobody has committed less since */
    bool refused; /* Redis has refused one of its records, which others may have overtaken until it comes again */
    bool mine;    /* the group has given it to this instance */
    bool ever_forgot;
    bool flushed; /* Redis has nothing, and what follows on a connection is written before anybody can know */
    bool marked;  /* since Redis has lost something, the mark was written */
};

void oracle_publish(uint32_t part);
bool oracle_marks_fit(void);
void oracle_forgot(uint32_t part); /* Redis has lost writes */
void oracle_wrote(uint32_t part, int64_t offset, const char *key);
void oracle_deleted(const char *key);
void oracle_mark(const char *key, int64_t next);
int oracle_part(const char *key); /* of a record's key or a mark's; -1 none */
void oracle_commit(void *context, struct sim_partition *p, int64_t offset);
void oracle_look(void);         /* after every turn */
bool oracle_quiet(void);        /* everything that was published is dealt with */
void oracle_end(void);          /* … and is as it should be */
const char *oracle_waits(void); /* what is not dealt with yet */
void oracle_committed(void);    /* what is committed is where it should be beside Redis: the audit log, the rejects */
void oracle_attach(void);       /* shared memory was made (anew) */
bool oracle_id(const char *value, size_t len, uint32_t *part, int64_t *offset);

#define SIM_COUNTS                                                                                                     \
    SIM_COUNT(messages, "messages published")                                                                          \
    SIM_COUNT(records, "records written to Redis")                                                                     \
    SIM_COUNT(deaths, "kills of workers")                                                                              \
    SIM_COUNT(stops, "stops")                                                                                          \
    SIM_COUNT(poisons, "crashes on a record")                                                                          \
    SIM_COUNT(instances, "lives of an instance")                                                                       \
    SIM_COUNT(gave_up, "that gave up")                                                                                 \
    SIM_COUNT(resets, "rings made anew")                                                                               \
    SIM_COUNT(connections, "connections to Redis")                                                                     \
    SIM_COUNT(cuts, "cut")                                                                                             \
    SIM_COUNT(refusals, "commands refused")                                                                            \
    SIM_COUNT(crashes, "crashes of Redis")                                                                             \
    SIM_COUNT(flushes, "flushes")                                                                                      \
    SIM_COUNT(lost_writes, "acknowledged writes lost")                                                                 \
    SIM_COUNT(rebalances, "rebalances")                                                                                \
    SIM_COUNT(commits_lost, "commits not answered in order")                                                           \
    SIM_COUNT(fetch_errors, "failed fetches")                                                                          \
    SIM_COUNT(disk_errors, "failed calls to files")

struct sim_counts {
#define SIM_COUNT(name, text) uint64_t name;
    SIM_COUNTS
#undef SIM_COUNT
};

/* -- the world --------------------------------------------------------------------------------- */

struct sim_world {
    uint64_t seed, random, clock_random;
    uint64_t now_ns;
    uint64_t turns, hash, places;
    bool trace;
    char folder[64];
    struct supervisor *supervisor;
    struct process process[SIM_BLOCKS]; /* by stats block index */
    struct sim kafka;
    struct part part[SIM_PARTS];
    uint32_t parts;
    bool storm;       /* faults happen */
    bool member_here; /* the group knows the ingest that runs */
    bool stopping;
    pid_t pids;
    uint32_t poisons_left, disk;
    bool again;       /* something was delivered again: an instance died, or Redis lost writes */
    uint32_t preempt; /* places between two looks at who goes on, on average */
    uint32_t lives;
    uint64_t faults; /* a bit for each kind */
    uint32_t broker, pause_ms;
    uint64_t ended_ns; /* when a process ended last */
    uint64_t begin_ns, tick_ns, publish_ns, fault_ns, storm_until_ns, give_ns, later_ns;
    bool given, later;
    struct sim_counts count;
};

extern struct sim_world sim;

uint32_t dice(uint32_t n); /* [0, n) */
void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_note(uint64_t what); /* into the hash of what happened */
void sim_run(uint64_t seed, bool trace);
void sim_block(uint64_t ms); /* a call that takes its time */
void sim_joins(void);        /* a new ingest is a member of the group */
extern const struct log_files sim_files;
void sim_place(void);
const char *sim_base(void); /* folder for the files of a world: in memory where that can be */

#endif

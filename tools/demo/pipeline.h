/* The pipeline under demonstration: its configuration, its processes, and what its stats segment says. */
#ifndef MILLRACE_TOOLS_DEMO_PIPELINE_H
#define MILLRACE_TOOLS_DEMO_PIPELINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "shm/stats.h"
#include "tools/demo/process.h"

enum { PIPELINE_LANES = 2 };

struct pipeline {
    struct process process; /* millrace run */
    const char *folder;
    const char *millrace; /* path of the program */
    const char *log;
    struct stats stats;
};

/* pipeline_start makes a key file with `millrace keygen`, writes folder/millrace.yaml, runs it, and waits until every
 * worker is at work. */
int pipeline_start(struct pipeline *p, const char *broker, struct err *err);

/* Records whose effect Redis has acknowledged, over all lanes. */
uint64_t pipeline_applied(const struct pipeline *p);
uint64_t pipeline_rejected(const struct pipeline *p);
uint64_t pipeline_restarts(const struct pipeline *p);

/* The workers are numbered from 0. */
uint32_t pipeline_workers(const struct pipeline *p);

/* pipeline_kill sends SIGKILL to a worker; name gets what to call it. Returns its process id, 0 when it has none. */
pid_t pipeline_kill(struct pipeline *p, uint32_t worker, char name[32]);

/* pipeline_stop asks it to drain, and expects exit status 0. */
int pipeline_stop(struct pipeline *p, struct err *err);

#endif

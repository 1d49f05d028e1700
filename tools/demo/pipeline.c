#include "tools/demo/pipeline.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>

#include "tools/demo/broker.h"

static const char configuration[] =
    "config_version: 1\n"
    "name: demo\n"
    "instance: demo\n"
    "lanes: %d\n"
    "run_dir: \"%s/run\"\n"
    "data_dir: \"%s/data\"\n"
    "ring_bytes: 4MiB\n"
    "drain_timeout: 5s\n"
    "start: earliest\n"
    "kafka:\n"
    "  bootstrap.servers: \"%s\"\n"
    "  fetch.wait.max.ms: 10      # an idle mock broker waits it out in full\n"
    "redis:\n"
    "  url: \"unix://%s/redis.sock\"\n"
    "crypto:\n"
    "  keys: \"%s/keys\"\n"
    "defaults:\n"
    "  format: json\n"
    "  value:\n"
    "    compress: lz4\n"
    "    encrypt: true\n"
    "topics:\n"
    "  - name: " BROKER_TOPIC_BULK "\n"
    "    mode: bulk\n"
    "    key: \"card:{account}:{card_no}\"\n"
    "    partitions: \"0-%d\"        # a fixed list: no consumer group has to form first\n"
    "  - name: " BROKER_TOPIC_CHANGE "\n"
    "    mode: change\n"
    "    operation:\n"
    "      header: op\n"
    "    key: \"card:{account}:{card_no}\"\n"
    "    old_key: \"card:{old_account}:{old_card_no}\"\n"
    "    partitions: \"0-%d\"\n";

static int configuration_write(const struct pipeline *p, const char *broker, char path[PATH_BYTES], struct err *err) {
    const char *f = p->folder;
    char run[PATH_BYTES], data[PATH_BYTES];
    snprintf(run, sizeof run, "%s/run", f);
    snprintf(data, sizeof data, "%s/data", f);
    snprintf(path, PATH_BYTES, "%s/millrace.yaml", f);
    FILE *out = mkdir(run, 0700) == 0 && mkdir(data, 0700) == 0 ? fopen(path, "w") : NULL;
    int n = out != NULL ? fprintf(out, configuration, PIPELINE_LANES, f, f, broker, f, f, CARDS_PARTITIONS - 1,
                                  CARDS_PARTITIONS - 1)
                        : -1;
    if (out != NULL && fclose(out) == 0 && n > 0) return 0;
    return err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
}

static int keys_make(const struct pipeline *p, struct err *err) {
    struct process keygen;
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/keys", p->folder);
    char *argv[] = {(char *)(uintptr_t)p->millrace, (char[]){"keygen"}, path, NULL};
    if (process_start(&keygen, argv, p->log, NULL, err) != 0) return -1;
    if (!process_ended(&keygen, 5000)) process_stop(&keygen, 0);
    return keygen.status == 0 ? 0 : err_set(err, EX_SOFTWARE, "millrace keygen ends with status %d", keygen.status);
}

/* -- what the segment says --------------------------------------------------------------------- */

static enum worker_state state_of(const struct stats_block *b) {
    return (enum worker_state)atomic_load_explicit(&b->state, memory_order_acquire);
}

/* 1: every worker is at work; 0: not yet; -1 with err: it will not be without help. */
static int all_running(const struct pipeline *p, struct err *err) {
    for (uint32_t i = 1; i < p->stats.header->block_count; i++) {
        const struct stats_block *b = stats_block(&p->stats, i);
        enum worker_state state = state_of(b);
        char reason[STATS_TEXT_BYTES];
        stats_text_get(&b->reason, reason);
        if (state == STATE_FAILED || state == STATE_BLOCKED)
            return err_set(err, EX_SOFTWARE, "%s is %s: %s", role_name((enum role)b->role), worker_state_name(state),
                           reason);
        if (state != STATE_RUNNING) return 0;
    }
    return 1;
}

static int running_wait(struct pipeline *p, struct err *err) {
    char run[PATH_BYTES];
    snprintf(run, sizeof run, "%s/run", p->folder);
    for (int waited = 0; waited < 10000 && !interrupted(); waited += 20) {
        if (process_ended(&p->process, 20))
            return err_set(err, EX_SOFTWARE, "millrace ends with status %d", p->process.status);
        if (p->stats.header == NULL && stats_open(&p->stats, run, "demo", err) != 0) continue;
        int r = all_running(p, err);
        if (r != 0) return r > 0 ? 0 : -1;
    }
    return err_set(err, EX_TEMPFAIL, "the workers do not start");
}

int pipeline_start(struct pipeline *p, const char *broker, struct err *err) {
    char path[PATH_BYTES];
    if (keys_make(p, err) != 0 || configuration_write(p, broker, path, err) != 0) return -1;
    char *argv[] = {(char *)(uintptr_t)p->millrace, (char[]){"run"}, (char[]){"-c"}, path, NULL};
    if (process_start(&p->process, argv, p->log, NULL, err) != 0) return -1;
    return running_wait(p, err);
}

uint64_t pipeline_applied(const struct pipeline *p) {
    uint64_t n = 0; /* numbers of a lane begin at 1 and none is left out, so the last one is a count */
    for (uint32_t lane = 0; lane < PIPELINE_LANES; lane++)
        n += atomic_load_explicit(&stats_block(&p->stats, stats_block_index(ROLE_SINK, lane))->published,
                                  memory_order_acquire);
    return n;
}

uint64_t pipeline_rejected(const struct pipeline *p) {
    uint64_t n = 0;
    for (uint32_t lane = 0; lane < PIPELINE_LANES; lane++)
        n += atomic_load_explicit(
            &stats_block(&p->stats, stats_block_index(ROLE_TRANSFORM, lane))->value[M_transform_record_reject],
            memory_order_relaxed);
    return n;
}

uint32_t pipeline_workers(const struct pipeline *p) { return p->stats.header->block_count - 1; }

uint64_t pipeline_restarts(const struct pipeline *p) {
    uint64_t n = 0;
    for (uint32_t i = 1; i < p->stats.header->block_count; i++) {
        uint64_t starts = atomic_load_explicit(&stats_block(&p->stats, i)->starts, memory_order_relaxed);
        n += starts > 0 ? starts - 1 : 0;
    }
    return n;
}

pid_t pipeline_kill(struct pipeline *p, uint32_t worker, char name[32]) {
    const struct stats_block *b = stats_block(&p->stats, worker + 1);
    pid_t pid = (pid_t)atomic_load_explicit(&b->pid, memory_order_acquire);
    if (b->lane < 0)
        snprintf(name, 32, "%s", role_name((enum role)b->role));
    else
        snprintf(name, 32, "%s of lane %d", role_name((enum role)b->role), b->lane);
    return pid > 0 && kill(pid, SIGKILL) == 0 ? pid : 0;
}

int pipeline_stop(struct pipeline *p, struct err *err) {
    if (process_ended(&p->process, 0))
        return err_set(err, EX_SOFTWARE, "millrace ended by itself, with status %d", p->process.status);
    kill(p->process.pid, SIGTERM);
    if (!process_ended(&p->process, 10000)) return err_set(err, EX_SOFTWARE, "millrace does not end");
    return p->process.status == 0 ? 0 : err_set(err, EX_SOFTWARE, "millrace ends with status %d", p->process.status);
}

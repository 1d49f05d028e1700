/* sim: runs the simulator over a range of seeds, each in a process of its own.
 *
 *   sim --from N --seeds N [--jobs N]    runs so many; prints each seed that fails and a line of counts
 *   sim --seed N [--trace]               runs one; --trace prints everything that happens
 *   sim --from N --seeds N --twice       runs each twice and compares what happened */
#include <ftw.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/sim.h"

struct outcome {
    uint64_t seed, hash, turns, places;
    struct sim_counts count;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void folder_remove(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "%s/millrace-sim-%d", sim_base(), (int)pid);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* In the child: runs the seed, tells what came of it. */
_Noreturn static void child(uint64_t seed, bool trace, int out) {
    sim_run(seed, trace);
    struct outcome o = {seed, sim.hash, sim.turns, sim.places, sim.count};
    fflush(stdout);
    if (write(out, &o, sizeof o) != sizeof o) _exit(2);
    _exit(0);
}

struct job {
    pid_t pid;
    int in;
    uint64_t seed;
};

static struct job job_begin(uint64_t seed, bool trace) {
    int ends[2];
    if (pipe(ends) != 0) abort();
    fflush(stdout);
    struct job j = {fork(), ends[0], seed};
    if (j.pid == 0) child(seed, trace, ends[1]);
    close(ends[1]);
    return j;
}

/* Whether the seed passed; *o is filled then. */
static bool job_end(struct job j, int status, struct outcome *o) {
    bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0 && read(j.in, o, sizeof *o) == sizeof *o;
    close(j.in);
    folder_remove(j.pid);
    if (!good && WIFSIGNALED(status)) printf("seed %" PRIu64 " ends by signal %d\n", j.seed, WTERMSIG(status));
    return good;
}

static bool one(uint64_t seed, bool trace, struct outcome *o) {
    int status;
    struct job j = job_begin(seed, trace);
    waitpid(j.pid, &status, 0);
    return job_end(j, status, o);
}

static struct {
    uint64_t passed, failed, first_failed, turns, places;
    struct sim_counts count;
} total;

static void add(bool good, uint64_t seed, const struct outcome *o) {
    if (!good) {
        if (total.failed++ == 0) total.first_failed = seed;
        return;
    }
    total.passed++;
    total.turns += o->turns;
    total.places += o->places;
    uint64_t *sum = (uint64_t *)(void *)&total.count;
    const uint64_t *n = (const uint64_t *)(const void *)&o->count;
    for (size_t i = 0; i < sizeof total.count / sizeof *sum; i++) sum[i] += n[i];
}

static void many(uint64_t from, uint64_t seeds, uint32_t jobs, uint64_t stop_after) {
    struct job running[16] = {0};
    uint64_t next = from, under_way = 0;
    while ((next < from + seeds && total.failed < stop_after) || under_way > 0) {
        for (uint32_t i = 0; i < jobs && next < from + seeds && total.failed < stop_after; i++)
            if (running[i].pid == 0) {
                running[i] = job_begin(next++, false);
                under_way++;
            }
        int status;
        pid_t pid = wait(&status);
        for (uint32_t i = 0; i < jobs; i++) {
            struct outcome o;
            if (running[i].pid != pid) continue;
            add(job_end(running[i], status, &o), running[i].seed, &o);
            running[i].pid = 0;
            under_way--;
        }
    }
}

static void twice(uint64_t from, uint64_t seeds) {
    for (uint64_t seed = from; seed < from + seeds; seed++) {
        struct outcome a = {0}, b = {0};
        bool good = one(seed, false, &a) && one(seed, false, &b);
        if (good && (a.hash != b.hash || a.turns != b.turns)) {
            printf("seed %" PRIu64 " is another one the second time: %016" PRIx64 " %016" PRIx64 "\n", seed, a.hash,
                   b.hash);
            good = false;
        }
        add(good, seed, &a);
    }
}

static void report(void) {
    printf("sim: %" PRIu64 " turns, %" PRIu64 " loads and stores", total.turns, total.places);
#define SIM_COUNT(name, text) printf(", %" PRIu64 " " text, total.count.name);
    SIM_COUNTS
#undef SIM_COUNT
    printf("\nsim: %" PRIu64 " passed, %" PRIu64 " failed\n", total.passed, total.failed);
}

static const char *argument(int argc, char **argv, const char *name) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0) return i + 1 < argc ? argv[i + 1] : "";
    return NULL;
}

static uint64_t number(int argc, char **argv, const char *name, uint64_t otherwise) {
    const char *text = argument(argc, argv, name);
    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (argument(argc, argv, "--seed") != NULL) {
        struct outcome o = {0};
        bool good = one(number(argc, argv, "--seed", 1), argument(argc, argv, "--trace") != NULL, &o);
        printf("seed %" PRIu64 ": %s, %" PRIu64 " turns, hash %016" PRIx64 "\n", number(argc, argv, "--seed", 1),
               good ? "passed" : "failed", o.turns, o.hash);
        return good ? 0 : 1;
    }
    uint64_t from = number(argc, argv, "--from", 1), seeds = number(argc, argv, "--seeds", 2000);
    if (argument(argc, argv, "--twice") != NULL)
        twice(from, seeds);
    else
        many(from, seeds, (uint32_t)number(argc, argv, "--jobs", 2), number(argc, argv, "--stop", UINT64_MAX));
    report();
    return total.failed > 0 ? 1 : 0;
}

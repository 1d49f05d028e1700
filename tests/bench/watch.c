/* Looks at an instance of millrace from outside, without being felt: waits until it is done with `count` records (with
 * audit on: until they are in the audit log), and says how long that took from its first record on, and what each of
 * its processes has used. It may be started first. */
#include "tests/bench/bench.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shm/stats_view.h"

static void pause_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

struct progress {
    uint64_t ingest, done;
};

static struct progress progress(const struct stats *s) {
    struct progress p = {0};
    for (uint32_t i = 0; i < view_lane_count(s); i++) {
        struct lane_numbers n = view_lane(s, i);
        p.ingest += n.ingest;
        p.done += n.audit;
    }
    return p;
}

/* Processor time of all threads of a process that lives. */
static double cpu_s(uint32_t pid) {
    char path[64];
    uint64_t sum = 0;
    snprintf(path, sizeof path, "/proc/%u/task", pid);
    DIR *d = opendir(path);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char file[400];
        unsigned long long ns;
        snprintf(file, sizeof file, "%s/%s/schedstat", path, e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(file, "r");
        if (f != NULL && fscanf(f, "%llu", &ns) == 1) sum += ns;
        if (f != NULL) fclose(f);
    }
    if (d != NULL) closedir(d);
    return (double)sum / 1e9;
}

/* A line "Name:   N kB" of /proc/PID/FILE; 0 when there is none. */
static unsigned long field_kb(uint32_t pid, const char *file, const char *name) {
    char path[64], line[256];
    unsigned long kb = 0;
    snprintf(path, sizeof path, "/proc/%u/%s", pid, file);
    FILE *f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, name, strlen(name)) == 0) kb = strtoul(line + strlen(name), NULL, 10);
    if (f != NULL) fclose(f);
    return kb;
}

/* Peak memory with the pages of the rings, which several processes have mapped, shared out among them. */
static unsigned long memory_kb(uint32_t pid) {
    return field_kb(pid, "status", "VmHWM:") - field_kb(pid, "status", "RssShmem:") +
           field_kb(pid, "smaps_rollup", "Pss_Shmem:");
}

static void processes_print(const struct stats *s) {
    for (uint32_t i = 0; i < s->header->block_count; i++) {
        const struct stats_block *block = stats_block(s, i);
        uint32_t pid = view_pid(block);
        printf("%s{\"role\": \"%s\", \"cpu_s\": %.4f, \"memory_kb\": %lu, \"memory_alone_kb\": %lu}", i > 0 ? ", " : "",
               view_role(block), cpu_s(pid), memory_kb(pid), field_kb(pid, "status", "VmHWM:"));
    }
}

/* Waits for the successor of an ingest that was killed to have read `count` records. */
static void wait_successor(const struct stats *s, const struct bench *b, uint64_t limit) {
    const struct stats_block *ingest = stats_block(s, stats_block_index(ROLE_INGEST, 0));
    uint64_t before = 0;
    for (bool seen = false;;) {
        uint32_t pid = view_pid(ingest);
        uint64_t now = progress(s).ingest;
        if (!seen) before = now; /* as far as the one that was killed has come */
        seen = seen || (pid != 0 && pid != b->after);
        if (seen && now >= before + b->count) return;
        if (bench_now_ns() > limit) bench_fail("no other ingest than %u has read anything", b->after);
        pause_ms(1);
    }
}

int main(int argc, char **argv) {
    struct bench b;
    struct stats stats;
    struct err err = {0};
    bench_options(&b, argc, argv);
    uint64_t limit = bench_now_ns() + (b.seconds > 0 ? b.seconds : 60) * 1000000000ULL, began = 0;
    while (stats_open(&stats, b.run_dir, b.name, &err) != 0) {
        if (bench_now_ns() > limit) bench_fail("%s", err.text);
        pause_ms(2);
    }
    if (b.after != 0) wait_successor(&stats, &b, limit);
    while (b.after == 0) {
        struct progress p = progress(&stats);
        uint64_t now = bench_now_ns();
        if (began == 0 && p.ingest > 0) began = now;
        if (p.done >= b.count) break;
        if (now > limit) bench_fail("only %llu records applied in time", (unsigned long long)p.done);
        pause_ms(1);
    }
    uint64_t now = bench_now_ns();
    printf("{\"records\": %llu, \"seconds\": %.4f, \"at\": %.4f, \"processes\": [", (unsigned long long)b.count,
           (double)(now - began) / 1e9, (double)now / 1e9);
    processes_print(&stats);
    printf("]}\n");
    return 0;
}

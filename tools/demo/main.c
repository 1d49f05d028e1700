/* millrace-demo: the whole pipeline on this machine with a broker and a Redis of its own, a worker killed half-way, and
 * every key compared in the end. This file is its table of contents. */
#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/grouped.h"
#include "tools/demo/broker.h"
#include "tools/demo/cache.h"
#include "tools/demo/cards.h"
#include "tools/demo/pipeline.h"
#include "tools/demo/process.h"

static const char help[] =
    "usage: millrace demo [--seed N] [--keep]\n"
    "\n"
    "Starts an embedded Kafka broker and a private Redis, publishes 20,000 card records (a bulk load, then changes\n"
    "and deletes) over a few seconds, runs the pipeline, kills one of its workers half-way, and compares every key\n"
    "and value in Redis with what was published.\n"
    "  --seed N  the same records and the same victim as another run's\n"
    "  --keep    leave the folder with configuration, logs and key file, and say where it is\n"
    "Exit status: 0 when nothing is missing, altered or unexpected.\n";

enum { PUBLISH_MS = 5000, STEP_MS = 10, DRAIN_MS = 15000, PROGRESS_TERMINAL_MS = 100, PROGRESS_LINE_MS = 1000 };

struct demo {
    uint64_t seed;
    bool keep, terminal;
    char folder[64], log[3][96]; /* logs of broker, Redis, millrace */
    char own[PATH_BYTES], millrace[PATH_BYTES];
    char broker_address[BROKER_ADDRESS_BYTES];
    struct process broker, redis;
    struct producer producer;
    struct pipeline pipeline;
    uint32_t published;
    bool killed;
    uint64_t start_ns, end_ns; /* from the first record published to the last one applied */
    uint64_t shown_ns;         /* the last progress line */
};

/* -- a folder of its own ----------------------------------------------------------------------- */

static int folder_make(struct demo *d, struct err *err) {
    const char *parent = getenv("TMPDIR");
    if (parent == NULL || parent[0] != '/' || strlen(parent) > 32) parent = "/tmp"; /* paths of sockets are short */
    snprintf(d->folder, sizeof d->folder, "%s/millrace-demo-XXXXXX", parent);
    if (mkdtemp(d->folder) == NULL) {
        err_set(err, EX_CANTCREAT, "%s: %s", d->folder, strerror(errno));
        d->folder[0] = 0;
        return -1;
    }
    const char *names[] = {"broker", "redis", "millrace"};
    for (int i = 0; i < 3; i++) snprintf(d->log[i], sizeof d->log[i], "%s/%s.log", d->folder, names[i]);
    return 0;
}

static int entry_remove(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void folder_remove(const struct demo *d) { nftw(d->folder, entry_remove, 16, FTW_DEPTH | FTW_PHYS); }

/* The programs lie side by side. */
static int programs_find(struct demo *d, struct err *err) {
    ssize_t n = readlink("/proc/self/exe", d->own, sizeof d->own - 1);
    d->own[n > 0 ? n : 0] = 0;
    const char *slash = strrchr(d->own, '/');
    if (slash == NULL) return err_set(err, EX_OSFILE, "this program does not know where it is");
    const char *const places[] = {"millrace", "../../bin/millrace"};
    for (int i = 0; i < 2; i++) {
        int len = snprintf(d->millrace, sizeof d->millrace, "%.*s/%s", (int)(slash - d->own), d->own, places[i]);
        if (len < (int)sizeof d->millrace && access(d->millrace, X_OK) == 0) return 0;
    }
    return err_set(err, EX_UNAVAILABLE, "there is no millrace beside %s", d->own);
}

/* -- the run ----------------------------------------------------------------------------------- */

static uint64_t now_ns(void) { return clock_ns(&clock_real); }

static void progress(struct demo *d, bool last) {
    uint64_t now = now_ns();
    uint64_t every = (d->terminal ? PROGRESS_TERMINAL_MS : PROGRESS_LINE_MS) * NS_PER_MS;
    if (last && !d->terminal) every = PROGRESS_TERMINAL_MS * NS_PER_MS; /* not the same line twice */
    if ((!last || !d->terminal) && now - d->shown_ns < every) return;
    char published[32], applied[32], rate[32];
    uint64_t n = pipeline_applied(&d->pipeline);
    double seconds = (double)(now - d->start_ns) / (double)NS_PER_S;
    printf("%s  %4.1f s   published %6s   applied %6s   %s records/s%s", d->terminal ? "\r" : "", seconds,
           grouped(d->published, published), grouped(n, applied),
           grouped(seconds > 0.1 ? (uint64_t)((double)n / seconds) : 0, rate), d->terminal ? "\033[K" : "\n");
    if (d->terminal && last) putchar('\n');
    fflush(stdout);
    d->shown_ns = now;
}

static int start_all(struct demo *d, struct err *err) {
    if (programs_find(d, err) != 0 || folder_make(d, err) != 0) return -1;
    d->pipeline = (struct pipeline){.folder = d->folder, .millrace = d->millrace, .log = d->log[2]};
    if (broker_start(&d->broker, d->own, d->log[0], d->broker_address, err) != 0) return -1;
    if (cache_start(&d->redis, d->folder, d->log[1], err) != 0) return -1;
    if (pipeline_start(&d->pipeline, d->broker_address, err) != 0) return -1;
    printf("  Kafka      embedded broker at %s, topics %s and %s, %d partitions each\n", d->broker_address,
           BROKER_TOPIC_BULK, BROKER_TOPIC_CHANGE, CARDS_PARTITIONS);
    printf("  Redis      private server at %s/redis.sock\n", d->folder);
    printf("  millrace   ingest, 2 x transform, 2 x sink under a supervisor; values compressed and encrypted\n\n");
    return producer_init(&d->producer, d->broker_address, err);
}

static void worker_kill(struct demo *d) {
    char name[32];
    uint32_t worker = (uint32_t)(d->seed % pipeline_workers(&d->pipeline));
    pid_t pid = pipeline_kill(&d->pipeline, worker, name);
    if (pid == 0) return; /* between two lives: with the next record */
    d->killed = true;
    if (d->terminal) progress(d, true);
    printf("           killed the %s (process %d) with SIGKILL\n", name, (int)pid);
    fflush(stdout);
}

/* Waits until as many records are applied as were published. */
static int applied_wait(struct demo *d, int timeout_ms, struct err *err) {
    for (uint64_t until = now_ns() + (uint64_t)timeout_ms * NS_PER_MS; pipeline_applied(&d->pipeline) < d->published;) {
        if (interrupted()) return err_set(err, EX_TEMPFAIL, "interrupted");
        if (process_ended(&d->pipeline.process, 0))
            return err_set(err, EX_SOFTWARE, "millrace ended by itself, with status %d", d->pipeline.process.status);
        if (now_ns() > until)
            return err_set(err, EX_SOFTWARE, "after %d s only %" PRIu64 " of %u records are applied", timeout_ms / 1000,
                           pipeline_applied(&d->pipeline), d->published);
        producer_poll(&d->producer, 2);
        progress(d, false);
    }
    return 0;
}

/* Publishes records up to `until` at an even pace. */
static int publish(struct demo *d, struct cards *cards, struct fold *fold, uint32_t until, struct err *err) {
    static struct card_record record;
    const uint32_t per_step = CARDS_RECORDS * STEP_MS / PUBLISH_MS;
    uint64_t next = now_ns();
    while (d->published < until) {
        for (uint32_t i = 0; i < per_step && d->published < until; i++) {
            cards_next(cards, &record);
            if (producer_send(&d->producer, &record, err) != 0) return -1;
            fold_apply(fold, &record);
            d->published++;
            if (d->published >= CARDS_RECORDS / 2 && !d->killed) worker_kill(d);
        }
        next += STEP_MS * NS_PER_MS;
        do {
            uint64_t now = now_ns();
            producer_poll(&d->producer, now < next ? (int)((next - now) / NS_PER_MS) : 0);
        } while (now_ns() + NS_PER_MS < next);
        progress(d, false);
        if (interrupted()) return err_set(err, EX_TEMPFAIL, "interrupted");
    }
    return producer_flush(&d->producer, 10000, err);
}

static int run(struct demo *d, struct fold *fold, struct err *err) {
    static struct cards cards;
    char all[32], rate[32], bulk[32], changes[32];
    printf("Publishing %s card records, %s a second: a bulk load of %s, then %s changes\n"
           "(new values, new keys, deletes).\n",
           grouped(CARDS_RECORDS, all), grouped(CARDS_RECORDS * 1000 / PUBLISH_MS, rate), grouped(CARDS_BULK, bulk),
           grouped(CARDS_RECORDS - CARDS_BULK, changes));
    cards_init(&cards, d->seed);
    d->start_ns = d->shown_ns = now_ns();
    /* Between topics there is no order: the changes begin when the load is in the cache. */
    if (publish(d, &cards, fold, CARDS_BULK, err) != 0 || applied_wait(d, DRAIN_MS, err) != 0) return -1;
    if (publish(d, &cards, fold, CARDS_RECORDS, err) != 0 || applied_wait(d, DRAIN_MS, err) != 0) return -1;
    d->end_ns = now_ns();
    progress(d, true);
    return 0;
}

/* -- the verdict ------------------------------------------------------------------------------- */

static void row(const char *name, uint64_t n) {
    char text[32];
    printf("  %-16s %8s\n", name, grouped(n, text));
}

static int judge(struct demo *d, struct fold *fold, struct err *err) {
    char path[PATH_BYTES], keys_there[32];
    struct difference difference;
    snprintf(path, sizeof path, "%s/keys", d->folder);
    uint64_t applied = pipeline_applied(&d->pipeline), rejected = pipeline_rejected(&d->pipeline);
    uint64_t restarts = pipeline_restarts(&d->pipeline);
    if (pipeline_stop(&d->pipeline, err) != 0 || broker_check(&d->producer, err) != 0) return -1;
    printf("Drained and stopped. Comparing %s keys and their values in Redis with what was published.\n\n",
           grouped(fold->count, keys_there));
    struct keys *keys = keys_load(path, err);
    if (keys == NULL) return -1;
    int r = cache_compare(d->folder, keys, fold, &difference, err);
    keys_free(keys);
    if (r != 0) return -1;
    row("published", d->producer.delivered);
    row("applied", applied - rejected);
    row("records/s", d->producer.delivered * NS_PER_S / (d->end_ns - d->start_ns));
    row("worker restarts", restarts);
    row("missing", difference.missing);
    row("altered", difference.altered);
    row("unexpected", difference.unexpected);
    if (difference.missing + difference.altered + difference.unexpected > 0)
        return err_set(err, EX_DATAERR, "Redis does not hold what was published");
    if (restarts == 0) return err_set(err, EX_SOFTWARE, "the killed worker was not started again");
    printf("\nWhat was published is in Redis: nothing lost, nothing out of order, nothing altered.\n");
    return 0;
}

/* The last lines of the pipeline's log, for whoever has no shell on the machine where it failed. */
static void log_show(const char *path) {
    char text[2048];
    FILE *log = fopen(path, "r");
    if (log == NULL) return;
    if (fseek(log, -(long)sizeof text + 1, SEEK_END) != 0) rewind(log);
    size_t n = fread(text, 1, sizeof text - 1, log);
    fclose(log);
    text[n] = 0;
    const char *from = n == sizeof text - 1 ? strchr(text, '\n') : NULL; /* not half a line */
    fprintf(stderr, "The end of its log:\n%s", from != NULL ? from + 1 : text);
}

static int finish(struct demo *d, int result, const struct err *err) {
    producer_free(&d->producer);
    process_stop(&d->pipeline.process, 5000);
    process_stop(&d->redis, 2000);
    process_stop(&d->broker, 2000);
    stats_close(&d->pipeline.stats);
    bool failed = result != 0 && !interrupted();
    if (d->terminal && result != 0) putchar('\n');
    fflush(stdout);
    if (failed) {
        fprintf(stderr, "millrace demo: %s (seed %" PRIu64 ")\n", err->text, d->seed);
        if (d->folder[0] != 0) log_show(d->log[2]);
    } else if (result != 0) {
        fprintf(stderr, "Interrupted; everything it started has ended.\n");
    }
    if (d->folder[0] == 0) return failed ? EXIT_FAILURE : 128 + 2;
    if (failed || d->keep)
        fprintf(stderr, "Configuration, logs and key file are in %s\n", d->folder);
    else
        folder_remove(d);
    return failed ? EXIT_FAILURE : result != 0 ? 128 + 2 : 0;
}

/* Returns 0 to go on, or the exit status and *done. */
static int options_read(struct demo *d, int argc, char **argv, bool *done) {
    static const struct option options[] = {{"seed", required_argument, NULL, 's'},
                                            {"keep", no_argument, NULL, 'k'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    int o;
    char *end;
    *done = true;
    opterr = 0;
    while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) switch (o) {
        case 's':
            d->seed = strtoull(optarg, &end, 10);
            if (optarg[0] >= '0' && optarg[0] <= '9' && *end == 0) break;
            fprintf(stderr, "millrace demo: --seed takes a number\n");
            return EX_USAGE;
        case 'k': d->keep = true; break;
        case 'h': fputs(help, stdout); return 0;
        default: fprintf(stderr, "millrace demo: unknown option\nTry `millrace demo --help`.\n"); return EX_USAGE;
        }
    *done = optind < argc;
    if (*done) fprintf(stderr, "millrace demo: unexpected argument %s\n", argv[optind]);
    return *done ? EX_USAGE : 0;
}

int main(int argc, char **argv) {
    static struct demo d;
    static struct fold fold;
    struct err err = {0};
    bool done;
    if (argc == 2 && strcmp(argv[1], "--broker") == 0) return broker_main();
    d.seed = (uint64_t)clock_wall_ms(&clock_real) % 100000;
    int status = options_read(&d, argc, argv, &done);
    if (done) return status;
    d.terminal = isatty(STDOUT_FILENO) == 1;
    interrupt_watch();
    printf("millrace demo: Kafka -> millrace -> Redis on this machine (seed %" PRIu64 ")\n\n", d.seed);
    fflush(stdout);
    int result = start_all(&d, &err);
    if (result == 0) result = run(&d, &fold, &err);
    if (result == 0) result = judge(&d, &fold, &err);
    return finish(&d, result, &err);
}

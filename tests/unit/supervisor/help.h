/* What the tests of supervisor/ share: an instance in a temporary folder whose workers are this very program under
 * another name, doing what a plan says; a clock that moves when told; waiting for what processes do.
 *
 * A worker named millrace-ROLE reads data_dir/plan-ROLE (or plan-ROLE-LANE): one line per start, the last one for all
 * later starts; a line is a list of words, done in order (see plan_word). */
#ifndef MILLRACE_TESTS_UNIT_SUPERVISOR_HELP_H
#define MILLRACE_TESTS_UNIT_SUPERVISOR_HELP_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "shm/record.h"
#include "shm/worker.h"
#include "shm/workspace.h"
#include "supervisor/child.h"
#include "supervisor/plumbing.h"
#include "supervisor/spawn.h"

/* -- the worker's side ------------------------------------------------------------------------- */

struct plan_worker {
    struct worker w;
    enum role role;
    int argc;
    char **argv;
    char folder[PATH_BYTES];
    bool attached, consuming;
    struct ring_consumer in;
    struct ring_producer out;
};

static uint64_t plan_argument(const struct plan_worker *p, const char *name) {
    for (int i = 1; i + 1 < p->argc; i++)
        if (strcmp(p->argv[i], name) == 0) return strtoull(p->argv[i + 1], NULL, 10);
    _exit(99);
}

static void plan_beat(struct plan_worker *p) {
    atomic_store_explicit(&p->w.block->heartbeat_ns, clock_ns(&clock_real), memory_order_relaxed);
    usleep(2000);
}

static struct ring_consumer *plan_input(struct plan_worker *p) {
    struct err err;
    struct ring_fds fds = worker_ring_fds(WORKER_FD_LANES);
    if (!p->consuming && ring_consumer_attach(&p->in, &fds, -1, &err) != RING_ATTACHED) _exit(98);
    p->consuming = true;
    return &p->in;
}

static void plan_consume(struct plan_worker *p, unsigned long n) {
    struct ring_item item;
    struct err err;
    for (; n > 0; n--) {
        if (ring_peek(plan_input(p), &item, &err) != RING_OK) _exit(97);
        ring_release(&p->in, item.end, item.number);
    }
}

static void plan_publish(struct plan_worker *p, unsigned long n) {
    struct err err;
    struct ring_fds fds = worker_ring_fds(WORKER_FD_LANES + (p->role == ROLE_TRANSFORM ? 3 : 0));
    if (ring_producer_attach(&p->out, &fds, -1, &err) != RING_ATTACHED) _exit(96);
    for (; n > 0; n--) {
        if (ring_reserve(&p->out, 16) == NULL) _exit(95);
        ring_stage(&p->out, 16, RECORD_DATA);
    }
    ring_publish(&p->out);
}

/* What this process holds: descriptors with what they are, environment, arguments; for the test to read. */
static void plan_list(const struct plan_worker *p) {
    char path[2 * PATH_BYTES], link[288], target[256];
    snprintf(path, sizeof path, "%s/list-%s", p->folder, role_name(p->role));
    DIR *d = opendir("/proc/self/fd");
    int own = dirfd(d);
    char text[32768];
    size_t at = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.' || atoi(e->d_name) == own) continue;
        snprintf(link, sizeof link, "/proc/self/fd/%s", e->d_name);
        ssize_t n = readlink(link, target, sizeof target - 1);
        target[n > 0 ? n : 0] = 0;
        int flags = fcntl(atoi(e->d_name), F_GETFL);
        at += (size_t)snprintf(text + at, sizeof text - at, "fd %s %s %s\n", e->d_name,
                               (flags & O_ACCMODE) == O_RDONLY ? "ro" : "rw", target);
    }
    closedir(d);
    FILE *status = fopen("/proc/self/status", "re");
    while (status != NULL && fgets(target, sizeof target, status) != NULL)
        if (strncmp(target, "SigBlk", 6) == 0) at += (size_t)snprintf(text + at, sizeof text - at, "%s", target);
    if (status != NULL) fclose(status);
    for (char **e = environ; *e != NULL; e++) at += (size_t)snprintf(text + at, sizeof text - at, "env %s\n", *e);
    for (int i = 0; i < p->argc; i++) at += (size_t)snprintf(text + at, sizeof text - at, "arg %s\n", p->argv[i]);
    FILE *f = fopen(path, "we");
    if (f == NULL || fwrite(text, 1, at, f) != at || fclose(f) != 0) _exit(94);
}

/* data_dir/left-ROLE: on which mode this worker left, and when. */
_Noreturn static void plan_leave(const struct plan_worker *p, enum control_mode mode) {
    char path[2 * PATH_BYTES];
    snprintf(path, sizeof path, "%s/left-%s", p->folder, role_name(p->role));
    FILE *f = fopen(path, "we");
    if (f == NULL || fprintf(f, "%d %llu\n", (int)mode, (unsigned long long)clock_ns(&clock_real)) < 0 ||
        fclose(f) != 0)
        _exit(87);
    _exit(EXIT_ASKED);
}

static void plan_serve(struct plan_worker *p, bool drains, bool leaves) {
    for (;;) {
        enum control_mode mode = worker_mode(&p->w);
        if ((mode == CONTROL_DRAIN && drains) || (mode == CONTROL_LEAVE && leaves)) plan_leave(p, mode);
        plan_beat(p);
    }
}

/* Asked to leave, it takes its time, as ingest does over its last commit. */
static void plan_leave_late(struct plan_worker *p) {
    while (worker_mode(&p->w) != CONTROL_LEAVE) plan_beat(p);
    for (int i = 0; i < 100; i++) plan_beat(p);
    plan_leave(p, CONTROL_LEAVE);
}

static void plan_attach(struct plan_worker *p) {
    if (!p->attached) worker_init(&p->w, p->role, p->argc, p->argv);
    p->attached = true;
}

static void plan_mark(const struct plan_worker *p) { /* data_dir/pid-ROLE: who it is, for tests that cannot ask */
    char path[2 * PATH_BYTES];
    snprintf(path, sizeof path, "%s/pid-%s", p->folder, role_name(p->role));
    FILE *f = fopen(path, "we");
    if (f == NULL || fprintf(f, "%d\n", (int)getpid()) < 0 || fclose(f) != 0) _exit(93);
}

/* One word of a plan, with its number after a colon where it takes one. */
static void plan_word(struct plan_worker *p, const char *word) {
    bool takes = strchr(word, ':') != NULL;
    unsigned long n = takes ? strtoul(strchr(word, ':') + 1, NULL, 10) : 0;
    size_t len = takes ? (size_t)(strchr(word, ':') - word) : strlen(word);
#define WORD(name) (len == sizeof(name) - 1 && strncmp(word, name, len) == 0)
    if (WORD("attach"))
        plan_attach(p);
    else if (WORD("ready"))
        worker_ready(&p->w);
    else if (WORD("mark"))
        plan_mark(p);
    else if (WORD("list"))
        plan_list(p);
    else if (WORD("exit"))
        _exit((int)n);
    else if (WORD("raise")) {
        signal((int)n, SIG_DFL);
        raise((int)n);
    } else if (WORD("refuse")) {
        worker_fail(&p->w, "test.refused", "%s", "the reason why");
        _exit(EXIT_DONT_RESTART);
    } else if (WORD("blocked"))
        worker_state(&p->w, STATE_BLOCKED, "%s", "something is wrong");
    else if (WORD("panic"))
        CHECK(!"a broken promise");
    else if (WORD("hold"))
        ring_in_hand(plan_input(p), n);
    else if (WORD("move"))
        plan_consume(p, n);
    else if (WORD("publish"))
        plan_publish(p, n);
    else if (WORD("beat")) {
        for (; n > 0; n--) plan_beat(p);
    } else if (WORD("wait"))
        usleep((useconds_t)n * 1000);
    else if (WORD("serve"))
        plan_serve(p, true, true);
    else if (WORD("serve-only-leave"))
        plan_serve(p, false, true);
    else if (WORD("leave-late"))
        plan_leave_late(p);
    else if (WORD("serve-for-ever"))
        plan_serve(p, false, false);
    else if (WORD("silent")) {
        for (;;) pause();
    } else if (WORD("spin")) {
        for (atomic_int i = 0;; i++) {
        }
    } else if (WORD("stop"))
        raise(SIGSTOP);
    else
        _exit(92);
#undef WORD
}

static void plan_die_with_test(void) {
    struct stats s;
    struct err err;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (stats_map(&s, WORKER_FD_STATS, &err) != 0 || atomic_load(&stats_block(&s, 0)->pid) != (uint32_t)getppid())
        _exit(88);
}

/* Runs before main: under a worker's name this program is that worker. */
__attribute__((constructor)) static void plan_run(int argc, char **argv) {
    static struct plan_worker p;
    static struct config config;
    if (argc < 1 || strncmp(argv[0], "millrace-", 9) != 0) return;
    p.argc = argc;
    p.argv = argv;
    for (int r = ROLE_INGEST; r < ROLE_COUNT; r++)
        if (strcmp(argv[0] + 9, role_name((enum role)r)) == 0) p.role = (enum role)r;
    if (pread(WORKER_FD_CONFIG, &config, sizeof config, 0) != (ssize_t)sizeof config) _exit(91);
    snprintf(p.folder, sizeof p.folder, "%s", config.data_dir);
    char path[2 * PATH_BYTES], line[1024];
    snprintf(path, sizeof path, "%s/plan-%s-%d", p.folder, argv[0] + 9, (int)plan_argument(&p, "--lane"));
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        snprintf(path, sizeof path, "%s/plan-%s", p.folder, argv[0] + 9);
        f = fopen(path, "re");
    }
    if (f == NULL) _exit(90);
    line[0] = 0;
    for (uint64_t n = plan_argument(&p, "--starts"); n > 0 && fgets(line, sizeof line, f) != NULL; n--) {
    }
    fclose(f);
    if (strstr(line, "attach") == NULL) plan_die_with_test(); /* `attach` sees to that as real workers do */
    char *rest = NULL;
    for (char *word = strtok_r(line, " \n", &rest); word != NULL; word = strtok_r(NULL, " \n", &rest))
        plan_word(&p, word);
    _exit(89); /* a plan ends with what the worker stays in, or dies of */
}

/* -- the test's side --------------------------------------------------------------------------- */

struct fake_clock {
    uint64_t now_ns;
    uint64_t random_state;
    uint32_t random_given; /* what random yields when random_fixed */
    bool random_fixed;
};

static uint64_t fake_monotonic_ns(void *context) { return ((struct fake_clock *)context)->now_ns; }
static int64_t fake_wall_ms(void *context) { return (int64_t)(((struct fake_clock *)context)->now_ns / NS_PER_MS); }
static void fake_random(void *context, void *out, size_t len) {
    struct fake_clock *c = context;
    for (size_t i = 0; i < len; i++) {
        c->random_state = c->random_state * 6364136223846793005ULL + 1442695040888963407ULL;
        ((uint8_t *)out)[i] = (uint8_t)(c->random_state >> 56);
    }
    if (c->random_fixed && len == sizeof c->random_given) memcpy(out, &c->random_given, len);
}

struct instance {
    char folder[64];
    struct config config;
    struct plumbing plumbing;
    struct stats_local local;
    struct fake_clock time;
    struct clock_port clock;
    struct child_context context;
    struct child child;
};

static inline void folder_make(char out[64]) {
    snprintf(out, 64, "/tmp/millrace-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(out));
    for (int r = ROLE_INGEST; r < ROLE_COUNT; r++) {
        char path[128], self[PATH_BYTES] = {0};
        cr_assert_gt(readlink("/proc/self/exe", self, sizeof self - 1), 0);
        snprintf(path, sizeof path, "%s/millrace-%s", out, role_name((enum role)r));
        cr_assert_eq(symlink(self, path), 0);
    }
}

static inline void folder_remove(const char *folder) {
    DIR *d = opendir(folder);
    if (d == NULL) return;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    rmdir(folder);
}

/* The lines that workers of a role follow ("transform", or "transform-1" for one lane). */
static inline void plan(const char *folder, const char *who, const char *lines) {
    char path[128], draft[136];
    snprintf(path, sizeof path, "%s/plan-%s", folder, who);
    snprintf(draft, sizeof draft, "%s.new", path);
    FILE *f = fopen(draft, "we");
    cr_assert_not_null(f);
    cr_assert_geq(fputs(lines, f), 0);
    cr_assert_eq(fclose(f), 0);
    cr_assert_eq(rename(draft, path), 0);
}

static inline void config_small(struct config *c, const char *folder) {
    memset(c, 0, sizeof *c);
    c->abi = CONFIG_ABI;
    snprintf(c->name, sizeof c->name, "unit");
    snprintf(c->instance, sizeof c->instance, "node");
    snprintf(c->run_dir, sizeof c->run_dir, "%s", folder);
    snprintf(c->data_dir, sizeof c->data_dir, "%s", folder);
    c->lanes = 1;
    c->ring_bytes = RING_BYTES_MIN;
    c->drain_timeout_ms = 5000;
    c->heartbeat_timeout_ms = 10000;
    c->restart.limit = 5;
    c->restart.window_ms = 60000;
    c->restart.backoff_ms_max = 1000;
    c->poison.attempts = 3;
    c->poison.limit = 10;
    c->log.level = LOG_ERROR;
    c->topic_count = 1;
    snprintf(c->topic[0].name, sizeof c->topic[0].name, "t");
    snprintf(c->redis.password, sizeof c->redis.password, "redis-secret");
    snprintf(c->crypto.keys, sizeof c->crypto.keys, "/path/of/the/keys");
    c->kafka.property_count = 2;
    snprintf(c->kafka.property[0].name, NAME_BYTES, "sasl.password");
    snprintf(c->kafka.property[0].value, VALUE_BYTES, "kafka-secret");
    c->kafka.property[0].secret = 1;
    snprintf(c->kafka.property[1].name, NAME_BYTES, "bootstrap.servers");
    snprintf(c->kafka.property[1].value, VALUE_BYTES, "localhost:1");
}

/* An instance with one child of a role, not started, under a clock that the test moves. */
static inline struct instance *instance_make(enum role role) {
    static struct instance i;
    struct err err = {0};
    folder_make(i.folder);
    config_small(&i.config, i.folder);
    i.config.audit = role == ROLE_AUDIT || role == ROLE_RECON;
    log_init("node", "supervisor", -1, 0, LOG_ERROR);
    cr_assert_eq(plumbing_create(&i.plumbing, &i.config, &err), 0, "%s", err.text);
    stats_local_init(&i.local, stats_block(&i.plumbing.stats, 0));
    atomic_store(&stats_block(&i.plumbing.stats, 0)->pid, (uint32_t)getpid());
    i.time.now_ns = 1000 * NS_PER_S;
    i.clock = (struct clock_port){fake_monotonic_ns, fake_wall_ms, fake_monotonic_ns, fake_random, &i.time};
    i.context = (struct child_context){&i.plumbing, &i.clock, i.folder, &i.local};
    child_init(&i.child, &i.plumbing, role, i.config.audit ? i.config.lanes : 0);
    return &i;
}

static inline void instance_drop(struct instance *i) {
    if (i->child.pid > 0) {
        kill(i->child.pid, SIGKILL);
        waitpid(i->child.pid, NULL, 0);
    }
    stats_close(&i->plumbing.stats);
    folder_remove(i->folder);
}

static inline void pass_ms(struct instance *i, uint64_t ms) { i->time.now_ns += ms * NS_PER_MS; }

#define WAIT_S 20 /* on a loaded machine; nothing waits longer than it must */

/* Looks and reaps, as the supervisor's loop does, until `condition` holds. The fake clock stands still meanwhile. */
#define child_until(i, condition)                                                                                      \
    do {                                                                                                               \
        uint64_t until_ = clock_ns(&clock_real) + WAIT_S * NS_PER_S;                                                   \
        while (!(condition)) {                                                                                         \
            cr_assert_lt(clock_ns(&clock_real), until_, "waited in vain for: %s (state %s)", #condition,               \
                         child_state_name((i)->child.state));                                                          \
            child_reap(&(i)->child, &(i)->context);                                                                    \
            if (condition) break;                                                                                      \
            child_look(&(i)->child, &(i)->context, false);                                                             \
            usleep(500);                                                                                               \
        }                                                                                                              \
    } while (0)

/* The process of the child has ended and lies there unreaped; nothing was handled. */
static inline void await_end(const struct instance *i) {
    struct pollfd p = {.fd = i->child.pidfd, .events = POLLIN};
    cr_assert_eq(poll(&p, 1, WAIT_S * 1000), 1, "the worker did not end");
}

/* Waits for the end of the present process and lets the child handle it. */
static inline void next_death(struct instance *i) {
    await_end(i);
    child_reap(&i->child, &i->context);
}

static inline void child_begin(struct instance *i) { child_handle(&i->child, EVENT_START, &i->context); }

static inline uint64_t counted(const struct instance *i, enum metric m) { return i->local.value[m]; }

static inline bool process_runs(pid_t pid) {
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

/* n records for the child to read, as its neighbour would publish them. */
static inline void feed(struct instance *i, int n) {
    struct ring_producer p;
    struct err err;
    const struct plumbing_ring *ring = plumbing_input(&i->plumbing, i->child.role, 0);
    cr_assert_eq(ring_producer_attach(&p, &ring->rw, -1, &err), RING_ATTACHED);
    for (; n > 0; n--) {
        memset(ring_reserve(&p, 16), 0, 16);
        ring_stage(&p, 16, RECORD_DATA);
    }
    ring_publish(&p);
    ring_producer_detach(&p);
}

#endif

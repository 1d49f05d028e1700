/* What a worker process stands on: what it refuses to start with, where it runs, how it waits. */
#include "shm/worker.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "shm/workspace.h"

enum { STAND = 500 }; /* where descriptors wait before they get their numbers */

/* What a supervisor would have made; each test changes it before it starts its worker. */
static struct {
    struct config config;
    struct control control;
    struct stats stats;
    char folder[32], log[16384];
    int stats_fd;
} at;

static void made(void) {
    struct err err;
    snprintf(at.folder, sizeof at.folder, "/tmp/millrace-test-XXXXXX");
    cr_assert_not_null(mkdtemp(at.folder));
    at.config = (struct config){.abi = CONFIG_ABI, .lanes = 2, .name = "unit", .instance = "node"};
    at.config.log.level = LOG_INFO;
    snprintf(at.config.run_dir, sizeof at.config.run_dir, "%s", at.folder);
    at.control.version = CONTROL_VERSION;
    at.control.magic = CONTROL_MAGIC;
    cr_assert_eq(stats_create(&at.stats, &at.config, &at.stats_fd, &err), 0, "%s", err.text);
    stats_block(&at.stats, 0)->pid = (uint32_t)getpid();
}

static void removed(void) {
    char path[64];
    snprintf(path, sizeof path, "%s/unit.stats", at.folder);
    unlink(path);
    rmdir(at.folder);
}

static int copy_of(const void *bytes, size_t n) {
    struct err err;
    int fd = workspace_create("copy", n, &err);
    cr_assert_eq(pwrite(fd, bytes, n, 0), (ssize_t)n);
    return fd;
}

/* In the child: exactly the descriptors of a worker, its standard error in the pipe. */
static void stand(int log) {
    int fds[] = {copy_of(&at.config, sizeof at.config), at.stats_fd, copy_of(&at.control, sizeof at.control),
                 eventfd(0, EFD_NONBLOCK), eventfd(0, EFD_NONBLOCK)};
    enum { N = sizeof fds / sizeof fds[0] };
    for (int i = 0; i < N; i++) fds[i] = fcntl(fds[i], F_DUPFD, STAND);
    int err = fcntl(log, F_DUPFD, STAND);
    for (int i = 0; i < N; i++) dup2(fds[i], WORKER_FD_CONFIG + i);
    dup2(err, STDERR_FILENO);
}

/* Runs `body` as a transform of lane 1 after worker_init. Returns its exit status; its log is in at.log. */
static int run_worker(int (*body)(struct worker *w)) {
    int log[2], status;
    cr_assert_eq(pipe(log), 0);
    pid_t child = fork();
    if (child == 0) {
        static struct worker w;
        stand(log[1]);
        worker_init(&w, ROLE_TRANSFORM, 5, (char *[]){"millrace-transform", "--lane", "1", "--starts", "1", NULL});
        _exit(body(&w));
    }
    close(log[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(log[0], at.log + n, sizeof at.log - 1 - n)) > 0;) n += (size_t)got;
    at.log[n] = 0;
    close(log[0]);
    cr_assert_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static uint64_t gauge(enum metric m) { return stats_block(&at.stats, stats_block_index(ROLE_TRANSFORM, 1))->value[m]; }

static int be_ready(struct worker *w) {
    worker_ready(w);
    stats_flush(&w->local);
    return EXIT_ASKED;
}

TestSuite(worker, .init = made, .fini = removed);

/* -- what is inherited ------------------------------------------------------------------------- */

Test(worker, starts_on_what_the_supervisor_made) {
    cr_assert_eq(run_worker(be_ready), EXIT_ASKED, "%s", at.log);
    cr_assert_not_null(strstr(at.log, "worker.ready"), "%s", at.log);
}

Test(worker, refuses_a_configuration_of_another_build) {
    at.config.abi++;
    cr_assert_eq(run_worker(be_ready), EXIT_DONT_RESTART);
    cr_assert_not_null(strstr(at.log, "configuration: made by another build"), "%s", at.log);
}

Test(worker, refuses_a_control_page_of_another_build) {
    at.control.version++;
    cr_assert_eq(run_worker(be_ready), EXIT_DONT_RESTART);
    cr_assert_not_null(strstr(at.log, "control page: made by another build"), "%s", at.log);
    at.control.version = CONTROL_VERSION;
    at.control.magic = CONTROL_MAGIC + 1;
    cr_assert_eq(run_worker(be_ready), EXIT_DONT_RESTART);
    at.control.magic = 0;
    cr_assert_eq(run_worker(be_ready), EXIT_DONT_RESTART, "not written to its end");
}

/* -- processors -------------------------------------------------------------------------------- */

static int affinity_is_last(struct worker *w) {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    if (CPU_COUNT(&set) != 1) return 1;
    for (uint32_t n = 0; n < CPUS_MAX; n++)
        if (CPU_ISSET(n, &set) && !cpus_has(&w->config->cpus.transform.set[1], n)) return 2;
    return be_ready(w);
}

/* One processor there is; with the other lane's set elsewhere. */
static uint32_t want_one(void) {
    cpu_set_t set;
    uint32_t last = 0;
    sched_getaffinity(0, sizeof set, &set);
    for (uint32_t n = 0; n < CPUS_MAX; n++)
        if (CPU_ISSET(n, &set)) last = n;
    at.config.cpus.transform.count = 2;
    cpus_add(&at.config.cpus.transform.set[0], 1000);
    cpus_add(&at.config.cpus.transform.set[1], last);
    return last;
}

Test(worker, pins_itself_to_the_processors_of_its_lane) {
    char expected[64];
    snprintf(expected, sizeof expected, "to processors %u\n", want_one());
    cr_assert_eq(run_worker(affinity_is_last), EXIT_ASKED, "%s", at.log);
    cr_assert_not_null(strstr(at.log, "worker.pinned "), "%s", at.log);
    cr_assert_not_null(strstr(at.log, expected), "%s", at.log);
    cr_assert_eq(gauge(M_worker_cpu_pinned), 1);
}

Test(worker, pinned_partly_says_what_it_got) {
    char expected[64];
    uint32_t last = want_one();
    cpus_add(&at.config.cpus.transform.set[1], 1001);
    snprintf(expected, sizeof expected, "to processors %u of %u,1001: ", last, last);
    cr_assert_eq(run_worker(affinity_is_last), EXIT_ASKED, "%s", at.log);
    cr_assert_not_null(strstr(at.log, "worker.pinned_partly"), "%s", at.log);
    cr_assert_not_null(strstr(at.log, expected), "%s", at.log);
    cr_assert_eq(gauge(M_worker_cpu_pinned), 1);
}

Test(worker, goes_on_unpinned_where_no_processor_of_its_set_can_be_had) {
    at.config.cpus.transform.count = 1;
    cpus_add(&at.config.cpus.transform.set[0], 1000);
    cr_assert_eq(run_worker(be_ready), EXIT_ASKED, "%s", at.log);
    cr_assert_not_null(strstr(at.log, "worker.not_pinned"), "%s", at.log);
    cr_assert_not_null(strstr(at.log, "processors 1000 cannot be had"), "%s", at.log);
    cr_assert_eq(gauge(M_worker_cpu_pinned), 0);
}

/* -- locked memory ----------------------------------------------------------------------------- */

Test(worker, says_whether_its_memory_is_locked_and_goes_on_either_way) {
    at.config.memory.lock = 1;
    cr_assert_eq(run_worker(be_ready), EXIT_ASKED, "%s", at.log);
    bool locked = strstr(at.log, "worker.memory_locked") != NULL;
    cr_assert(locked || strstr(at.log, "worker.memory_not_locked") != NULL, "%s", at.log);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* which make mlockall do nothing */
    cr_assert_eq(gauge(M_worker_memory_locked) > 0, locked);
#endif
    cr_assert_lt(strstr(at.log, "memory_"), strstr(at.log, "worker.ready"), "before it is ready: %s", at.log);
}

Test(worker, says_nothing_about_what_was_not_asked_for) {
    cr_assert_eq(run_worker(be_ready), EXIT_ASKED, "%s", at.log);
    cr_assert(strstr(at.log, "pinned") == NULL && strstr(at.log, "memory") == NULL && strstr(at.log, "spins") == NULL,
              "%s", at.log);
    cr_assert(gauge(M_worker_cpu_pinned) == 0 && gauge(M_worker_memory_locked) == 0);
}

/* A state is logged once; why it is still connecting is known only when that has been tried. */
static int connect_in_vain(struct worker *w) {
    worker_ready(w);
    worker_state(w, STATE_CONNECTING, "%s", "no route");
    worker_state(w, STATE_CONNECTING, "%s", "no route either");
    return EXIT_ASKED;
}

Test(worker, says_once_why_it_is_still_connecting) {
    cr_assert_eq(run_worker(connect_in_vain), EXIT_ASKED, "%s", at.log);
    cr_assert_not_null(strstr(at.log, "worker.state connecting: no route\n"), "%s", at.log);
    cr_assert_null(strstr(at.log, "either"), "%s", at.log);
    cr_assert_null(strstr(at.log, "connecting\n"), "a state without its reason tells nobody anything: %s", at.log);
}

/* -- waiting ----------------------------------------------------------------------------------- */

/* A body with nothing to do, that counts how often it is asked before it first sleeps and leaves after that. */
struct idler {
    uint64_t steps, first_ns, slept_ns;
};

static enum step idler_step(void *self) {
    struct idler *i = self;
    if (i->steps++ == 0) i->first_ns = clock_ns(&clock_real);
    return i->slept_ns != 0 ? STEP_DONE : STEP_IDLE;
}

static bool idler_arm(void *self) {
    struct idler *i = self;
    i->slept_ns = clock_ns(&clock_real);
    return true; /* there is work after all: no sleep */
}

static void idler_disarm(void *self) { (void)self; }

static int idle(struct worker *w) {
    struct idler i = {0};
    struct worker_body body = {.self = &i, .step = idler_step, .arm = idler_arm, .disarm = idler_disarm};
    int status = worker_run(w, &body);
    fprintf(stderr, "steps %llu, slept after %llu us\n", (unsigned long long)i.steps,
            (unsigned long long)(i.slept_ns - i.first_ns) / 1000);
    return status;
}

static void run_idle(unsigned long long *steps, unsigned long long *us) {
    cr_assert_eq(run_worker(idle), EXIT_ASKED, "%s", at.log);
    const char *said = strstr(at.log, "steps ");
    cr_assert(said != NULL && sscanf(said, "steps %llu, slept after %llu us", steps, us) == 2, "%s", at.log);
}

Test(worker, without_spin_us_sleeps_as_soon_as_it_is_idle) {
    unsigned long long steps, us;
    run_idle(&steps, &us);
    cr_assert_eq(steps, 2, "one finds nothing, one leaves");
}

Test(worker, with_spin_us_looks_for_work_so_long_before_it_sleeps) {
    unsigned long long steps, us;
    at.config.spin_us = 10000;
    run_idle(&steps, &us);
    cr_assert_geq(us, 10000);
    cr_assert_gt(steps, 100);
    cr_assert_not_null(strstr(at.log, "worker.spins"), "%s", at.log);
    cr_assert_not_null(strstr(at.log, "for 10000 microseconds"), "%s", at.log);
}

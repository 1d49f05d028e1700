/* Spawn: what a worker's process begins with, and that it begins with nothing else. */
#include "tests/unit/supervisor/help.h"

#include <sys/mman.h>

struct listing {
    char fd[512][320]; /* by number: "ro TARGET", "" none */
    int fd_count;
    char rest[16384]; /* the other lines */
};

static void listing_read(struct listing *l, const char *folder, enum role role) {
    char path[128], line[1024];
    int fd;
    char target[320];
    memset(l, 0, sizeof *l);
    snprintf(path, sizeof path, "%s/list-%s", folder, role_name(role));
    FILE *f = fopen(path, "re");
    cr_assert_not_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "fd %d %319[^\n]", &fd, target) == 2) {
            cr_assert(fd >= 0 && fd < 512);
            snprintf(l->fd[fd], sizeof l->fd[fd], "%s", target);
            l->fd_count++;
        } else {
            strncat(l->rest, line, sizeof l->rest - strlen(l->rest) - 1);
        }
    }
    fclose(f);
}

/* Starts a worker that lists what it has, and waits for it. */
static void spawn_and_list(struct instance *i, enum role role, uint32_t lane, struct listing *l) {
    int fds[WORKER_FDS_MAX], status, pidfd = -1;
    struct err err = {0};
    plan(i->folder, role_name(role), "list exit:0\n");
    int n = plumbing_descriptors(&i->plumbing, role, lane, fds);
    pid_t pid = spawn_worker(i->folder, &i->config, role, lane, 1, fds, n, &pidfd, &err);
    cr_assert_gt(pid, 0, "%s", err.text);
    cr_assert_geq(pidfd, 0);
    cr_assert_neq(fcntl(pidfd, F_GETFD) & FD_CLOEXEC, 0);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
    close(pidfd);
    listing_read(l, i->folder, role);
    cr_assert_eq(l->fd_count, WORKER_FD_CONFIG + n, "%s holds %d descriptors", role_name(role), l->fd_count);
    for (int fd = 0; fd < WORKER_FD_CONFIG + n; fd++)
        cr_assert_neq(l->fd[fd][0], 0, "%s: %d is not there", role_name(role), fd);
}

static void expect_fd(const struct listing *l, int fd, const char *want) {
    cr_assert_eq(strncmp(l->fd[fd], want, strlen(want)), 0, "descriptor %d is `%s`, not `%s`", fd, l->fd[fd], want);
}

/* The three memory files of a ring from descriptor fd on, of which the one that this end writes is writable. */
static void expect_ring(const struct listing *l, int fd, const char *ring, bool producer) {
    static const char *const part[] = {"constants", "producer", "consumer"};
    for (int k = 0; k < 3; k++) {
        char want[64], *end;
        snprintf(want, sizeof want, "%s /memfd:millring/%s/", k == (producer ? 1 : 2) ? "rw" : "ro", ring);
        expect_fd(l, fd + k, want);
        cr_assert_not_null(end = strrchr(l->fd[fd + k], '/'));
        cr_assert_eq(strncmp(end + 1, part[k], strlen(part[k])), 0, "descriptor %d is `%s`", fd + k, l->fd[fd + k]);
    }
}

static void expect_common(const struct listing *l, enum role role) {
    expect_fd(l, 0, "rw /dev/null");
    cr_assert_str_eq(l->fd[1], l->fd[2]);
    expect_fd(l, WORKER_FD_CONFIG, "ro /memfd:config");
    expect_fd(l, WORKER_FD_STATS, "rw /tmp/");
    expect_fd(l, WORKER_FD_CONTROL, "ro /memfd:control");
    expect_fd(l, WORKER_FD_DOORBELL, "rw anon_inode:[eventfd]");
    expect_fd(l, WORKER_FD_ATTENTION, "rw anon_inode:[eventfd]");
    expect_fd(l, WORKER_FD_LEDGER, role == ROLE_INGEST ? "rw /memfd:ledger-ingest" : "ro /memfd:ledger-ingest");
    expect_fd(l, WORKER_FD_AUDITED, role == ROLE_AUDIT ? "rw /memfd:ledger-audit" : "ro /memfd:ledger-audit");
}

/* Things of the supervisor that no worker may see, some of them opened by careless code. */
static void clutter(void) {
    int pair[2];
    cr_assert_eq(pipe(pair), 0);
    cr_assert_geq(open("/etc/passwd", O_RDONLY), 0);
    cr_assert_geq(fcntl(pair[0], F_DUPFD, 300), 300);
    cr_assert_geq(fcntl(pair[1], F_DUPFD, 900), 900);
    cr_assert_geq(memfd_create("secret", 0), 0);
}

Test(spawn, hands_down_exactly_the_documented_descriptors_to_ingest) {
    struct instance *i = instance_make(ROLE_INGEST);
    static struct listing l;
    clutter();
    spawn_and_list(i, ROLE_INGEST, 0, &l);
    expect_common(&l, ROLE_INGEST);
    int fd = WORKER_FD_LANES;
    expect_ring(&l, fd, "ingest[0]", true);
    expect_ring(&l, fd + 3, "rejects[0]", false);
    expect_fd(&l, fd + 6, "ro /memfd:ledger-sink");
    expect_fd(&l, fd + 7, "rw anon_inode:[eventfd]");
    instance_drop(i);
}

Test(spawn, hands_down_exactly_the_documented_descriptors_to_transform) {
    struct instance *i = instance_make(ROLE_INGEST);
    static struct listing l;
    clutter();
    spawn_and_list(i, ROLE_TRANSFORM, 0, &l);
    expect_common(&l, ROLE_TRANSFORM);
    int fd = WORKER_FD_LANES;
    expect_ring(&l, fd, "ingest[0]", false);
    expect_ring(&l, fd + 3, "transform[0]", true);
    expect_ring(&l, fd + 6, "rejects[0]", true);
    expect_fd(&l, fd + 9, "rw anon_inode:[eventfd]");
    expect_fd(&l, fd + 10, "rw anon_inode:[eventfd]");
    instance_drop(i);
}

Test(spawn, hands_down_exactly_the_documented_descriptors_to_sink) {
    struct instance *i = instance_make(ROLE_INGEST);
    static struct listing l;
    clutter();
    spawn_and_list(i, ROLE_SINK, 0, &l);
    expect_common(&l, ROLE_SINK);
    int fd = WORKER_FD_LANES;
    expect_ring(&l, fd, "transform[0]", false);
    expect_fd(&l, fd + 3, "rw anon_inode:[eventfd]");
    expect_fd(&l, fd + 4, "rw /memfd:ledger-sink");
    instance_drop(i);
}

Test(spawn, hands_down_the_audit_rings_where_audit_is_on) {
    struct instance *i = instance_make(ROLE_AUDIT);
    static struct listing l;
    clutter();
    int fd = WORKER_FD_LANES;
    spawn_and_list(i, ROLE_SINK, 0, &l);
    expect_common(&l, ROLE_SINK);
    expect_ring(&l, fd + SINK_LANE_FDS, "sink[0]", true);
    expect_fd(&l, fd + SINK_LANE_FDS + 3, "rw anon_inode:[eventfd]");
    spawn_and_list(i, ROLE_AUDIT, 1, &l);
    expect_common(&l, ROLE_AUDIT);
    expect_ring(&l, fd, "sink[0]", false);
    expect_fd(&l, fd + 3, "rw anon_inode:[eventfd]");
    spawn_and_list(i, ROLE_RECON, 1, &l);
    expect_common(&l, ROLE_RECON);
    instance_drop(i);
}

enum { CROSSED = 12 };

/* In a process of its own, for it overwrites whatever stands at these numbers: descriptors that come last stand where
 * the first ones have to go. */
static void spawn_crossed(struct instance *i) {
    int fds[CROSSED], pidfd, status = 1;
    char name[16];
    struct err err = {0};
    atomic_store(&stats_block(&i->plumbing.stats, 0)->pid, (uint32_t)getpid());
    fds[0] = fcntl(i->plumbing.config_fd[ROLE_SINK], F_DUPFD, 200);
    fds[1] = fcntl(i->plumbing.stats_fd, F_DUPFD, 200);
    for (int k = 2; k < CROSSED; k++) {
        int at = WORKER_FD_CONFIG + CROSSED + 1 - k;
        snprintf(name, sizeof name, "m%d", k);
        int fd = memfd_create(name, 0);
        if (fd != at && (dup2(fd, at) < 0 || close(fd) != 0)) _exit(1);
        fds[k] = at;
    }
    pid_t pid = spawn_worker(i->folder, &i->config, ROLE_SINK, 0, 1, fds, CROSSED, &pidfd, &err);
    waitpid(pid, &status, 0);
    _exit(status == 0 ? 0 : 2);
}

Test(spawn, places_descriptors_that_stand_in_each_others_way) {
    struct instance *i = instance_make(ROLE_SINK);
    static struct listing l;
    int status;
    plan(i->folder, "sink", "list exit:0\n");
    pid_t pid = fork();
    if (pid == 0) spawn_crossed(i);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0, "%x", status);
    listing_read(&l, i->folder, ROLE_SINK);
    for (int k = 2; k < CROSSED; k++) {
        char want[32];
        snprintf(want, sizeof want, "rw /memfd:m%d ", k);
        expect_fd(&l, WORKER_FD_CONFIG + k, want);
    }
    instance_drop(i);
}

Test(spawn, empties_the_environment_but_for_four_names) {
    struct instance *i = instance_make(ROLE_INGEST);
    static struct listing l;
    clearenv();
    setenv("REDIS_PASSWORD", "redis-secret", 1);
    setenv("LD_LIBRARY_PATH", "/nowhere", 1);
    setenv("PATHS", "no", 1);
    setenv("PATH", "/usr/bin", 1);
    setenv("LANG", "C.UTF-8", 1);
    setenv("TZ", "UTC", 1);
    setenv("MILLRACE_FAULT", "point=marker", 1);
    setenv("MILLRACE_FAULT_DIR", "/nowhere", 1);
    spawn_and_list(i, ROLE_TRANSFORM, 0, &l);
    cr_assert_not_null(strstr(l.rest, "env PATH=/usr/bin\n"));
    cr_assert_not_null(strstr(l.rest, "env LANG=C.UTF-8\n"));
    cr_assert_not_null(strstr(l.rest, "env TZ=UTC\n"));
    cr_assert_not_null(strstr(l.rest, "env MILLRACE_FAULT=point=marker\n"));
    cr_assert_not_null(strstr(l.rest, "env MILLRACE_FAULT_DIR=/nowhere\n"));
    int n = 0;
    for (const char *p = l.rest; (p = strstr(p, "env ")) != NULL; p++) n++;
    cr_assert_eq(n, 5, "%s", l.rest);
    cr_assert_null(strstr(l.rest, "secret"));
    instance_drop(i);
}

Test(spawn, leaves_out_a_variable_that_is_too_long_rather_than_cutting_it) {
    struct instance *i = instance_make(ROLE_INGEST);
    static struct listing l;
    static char path[8192];
    memset(path, 'x', sizeof path - 1);
    clearenv();
    setenv("PATH", path, 1);
    setenv("TZ", "UTC", 1);
    spawn_and_list(i, ROLE_TRANSFORM, 0, &l);
    cr_assert_null(strstr(l.rest, "env PATH"));
    cr_assert_not_null(strstr(l.rest, "env TZ=UTC\n"));
    instance_drop(i);
}

Test(spawn, names_role_lane_and_start_in_the_arguments_and_nothing_secret) {
    struct instance *i = instance_make(ROLE_INGEST);
    static struct listing l;
    spawn_and_list(i, ROLE_TRANSFORM, 0, &l);
    cr_assert_not_null(
        strstr(l.rest, "arg millrace-transform\narg --name\narg unit\narg --lane\narg 0\narg --starts\narg 1\n"));
    cr_assert_null(strstr(l.rest, "secret"));
    instance_drop(i);
}

Test(spawn, lets_no_signal_blocked_by_the_supervisor_be_blocked_in_a_worker) {
    struct instance *i = instance_make(ROLE_INGEST);
    static struct listing l;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    spawn_and_list(i, ROLE_SINK, 0, &l);
    sigprocmask(SIG_UNBLOCK, &all, NULL);
    cr_assert_not_null(strstr(l.rest, "SigBlk:\t0000000000000000\n"), "%s", l.rest);
    instance_drop(i);
}

Test(spawn, that_cannot_execute_says_so_and_asks_not_to_be_tried_again) {
    struct instance *i = instance_make(ROLE_INGEST);
    int fds[WORKER_FDS_MAX], pidfd, status, channel[2];
    struct err err = {0};
    char text[512] = {0}, folder[96];
    cr_assert_eq(pipe2(channel, O_CLOEXEC), 0);
    int keep = fcntl(2, F_DUPFD_CLOEXEC, 10);
    dup2(channel[1], 2);
    snprintf(folder, sizeof folder, "%s/none", i->folder);
    int n = plumbing_descriptors(&i->plumbing, ROLE_SINK, 0, fds);
    pid_t pid = spawn_worker(folder, &i->config, ROLE_SINK, 0, 1, fds, n, &pidfd, &err);
    dup2(keep, 2);
    cr_assert_gt(pid, 0);
    waitpid(pid, &status, 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_DONT_RESTART);
    cr_assert_gt(read(channel[0], text, sizeof text - 1), 0);
    cr_assert_not_null(strstr(text, "none/millrace-sink"), "%s", text);
    cr_assert_not_null(strstr(text, "No such file"), "%s", text);
    instance_drop(i);
}

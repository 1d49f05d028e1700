/* Supervisor: the whole of it in a process of its own, with workers that follow a plan. */
#include "tests/unit/supervisor/run.h"

#include <sys/socket.h>
#include <sys/un.h>

/* -- start ------------------------------------------------------------------------------------- */

Test(supervisor, refuses_a_second_start_of_the_same_name, .timeout = 60) {
    struct run *r = run_make();
    static struct supervisor second;
    struct err err = {0};
    run_up(r);
    pid_t ingest = pid_of(r, ROLE_INGEST);
    second.config = r->s->config;
    cr_assert_eq(supervisor_init(&second, r->folder, &err), -1);
    cr_assert_eq(err.code, EX_TEMPFAIL);
    cr_assert_not_null(strstr(err.text, "unit"));
    usleep(100000);
    cr_assert_eq(pid_of(r, ROLE_INGEST), ingest, "the first one was disturbed");
    cr_assert_eq(state(r), STATE_RUNNING);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

Test(supervisor, starts_beside_another_name_with_a_data_dir_of_its_own, .timeout = 60) {
    struct run *r = run_make();
    static struct supervisor other;
    struct err err = {0};
    run_up(r);
    other.config = r->s->config;
    snprintf(other.config.name, sizeof other.config.name, "other");
    cr_assert_eq(supervisor_init(&other, r->folder, &err), -1, "both would write the same file of rejected records");
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert_not_null(strstr(err.text, "data_dir"), "%s", err.text);
    close(other.lock_fd);
    close(other.data_fd);
    snprintf(other.config.data_dir, sizeof other.config.data_dir, "%s/other", r->folder);
    cr_assert_eq(supervisor_init(&other, r->folder, &err), 0, "%s", err.text);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

Test(supervisor, leaves_its_name_free_however_it_ended, .timeout = 60) {
    struct run *r = run_make();
    run_up(r);
    kill(r->pid, SIGKILL);
    cr_assert_eq(run_end(r), -SIGKILL);
    run_start(r);
    until((stats_close(&r->stats), atomic_load(&block(r, ROLE_SUPERVISOR, 0)->pid) == (uint32_t)r->pid));
    until(state(r) == STATE_RUNNING);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

Test(supervisor, that_cannot_make_its_folder_says_so, .timeout = 60) {
    struct run *r = run_make();
    struct err err = {0};
    snprintf(r->s->config.run_dir, PATH_BYTES, "%s/missing/folder", r->folder);
    cr_assert_eq(supervisor_init(r->s, r->folder, &err), -1);
    cr_assert_eq(err.code, EX_CANTCREAT);
    cr_assert_not_null(strstr(err.text, "missing/folder"));
    run_drop(r);
}

Test(supervisor, is_running_only_when_every_worker_is_attached, .timeout = 60) {
    struct run *r = run_make();
    plan(r->folder, "sink", "attach wait:400 mark ready serve\n");
    run_start(r);
    until(atomic_load(&block(r, ROLE_TRANSFORM, 0)->ready) == 1 && atomic_load(&block(r, ROLE_INGEST, 0)->ready) == 1);
    usleep(100000);
    cr_assert_eq(state(r), STATE_STARTING);
    until(state(r) == STATE_RUNNING);
    cr_assert_eq(atomic_load(&block(r, ROLE_SINK, 0)->ready), 1);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

Test(supervisor, starts_a_transform_and_a_sink_for_every_lane, .timeout = 60) {
    struct run *r = run_make();
    r->s->config.lanes = 3;
    run_up(r);
    for (uint32_t lane = 0; lane < 3; lane++) {
        cr_assert_gt(atomic_load(&block(r, ROLE_TRANSFORM, lane)->pid), 0);
        cr_assert_gt(atomic_load(&block(r, ROLE_SINK, lane)->pid), 0);
    }
    cr_assert_eq(metric(r, M_supervisor_child_start), 7);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

Test(supervisor, starts_audit_and_recon_when_audit_is_on_and_recon_leaves_last, .timeout = 60) {
    struct run *r = run_make();
    r->s->config.audit = 1;
    r->s->config.lanes = 2;
    plan(r->folder, "audit", "attach mark ready leave-late\n");
    run_up(r);
    cr_assert_eq(metric(r, M_supervisor_child_start), 7);
    cr_assert_gt(atomic_load(&block(r, ROLE_AUDIT, 2)->pid), 0);
    until(atomic_load(&block(r, ROLE_RECON, 2)->state) != STATE_STARTING);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    int mode[3];
    unsigned long long at[3];
    cr_assert(left(r, ROLE_INGEST, &mode[0], &at[0]) && left(r, ROLE_AUDIT, &mode[1], &at[1]) &&
              left(r, ROLE_RECON, &mode[2], &at[2]));
    cr_assert(mode[0] == CONTROL_DRAIN && mode[1] == CONTROL_LEAVE && mode[2] == CONTROL_DRAIN);
    cr_assert(at[0] < at[1] && at[1] < at[2], "recon left before the audit log had its end");
    cr_assert_eq(metric(r, M_supervisor_child_exit), 7);
    run_drop(r);
}

Test(supervisor, runs_without_recon_when_that_cannot, .timeout = 60) {
    struct run *r = run_make();
    r->s->config.audit = 1;
    plan(r->folder, "recon", "attach refuse\n");
    run_up(r);
    until(atomic_load(&block(r, ROLE_RECON, 1)->starts) >= 3);
    cr_assert_eq(state(r), STATE_RUNNING);
    cr_assert_eq(atomic_load(&block(r, ROLE_AUDIT, 1)->starts), 1);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

Test(supervisor, does_not_run_without_audit, .timeout = 60) {
    struct run *r = run_make();
    r->s->config.audit = 1;
    plan(r->folder, "audit", "attach refuse\n");
    run_start(r);
    cr_assert_eq(run_end(r), EX_CONFIG);
    run_drop(r);
}

/* -- deaths ------------------------------------------------------------------------------------ */

Test(supervisor, replaces_a_dead_worker_and_leaves_the_others_alone, .timeout = 60) {
    struct run *r = run_make();
    run_up(r);
    pid_t ingest = pid_of(r, ROLE_INGEST), sink = pid_of(r, ROLE_SINK), transform = pid_of(r, ROLE_TRANSFORM);
    uint64_t begin = clock_ns(&clock_real);
    kill(transform, SIGKILL);
    until(pid_of(r, ROLE_TRANSFORM) != transform && pid_of(r, ROLE_TRANSFORM) != 0);
    cr_assert_lt(clock_ns(&clock_real) - begin, NS_PER_S, "the first restart is at once");
    until(atomic_load(&block(r, ROLE_TRANSFORM, 0)->ready) == 2);
    cr_assert_eq(pid_of(r, ROLE_INGEST), ingest);
    cr_assert_eq(pid_of(r, ROLE_SINK), sink);
    until(metric(r, M_supervisor_child_died) == 1);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    cr_assert_eq(metric(r, M_supervisor_child_exit), 3);
    cr_assert_eq(metric(r, M_supervisor_child_died), 1);
    run_drop(r);
}

Test(supervisor, gives_up_with_status_and_reason_when_a_worker_keeps_dying, .timeout = 60) {
    struct run *r = run_make();
    plan(r->folder, "transform", "attach ready raise:11\n");
    r->s->config.restart.backoff_ms_max = 20;
    run_start(r);
    cr_assert_eq(run_end(r), EX_SOFTWARE);
    char reason[STATS_TEXT_BYTES];
    stats_text_get(&block(r, ROLE_SUPERVISOR, 0)->reason, reason);
    cr_assert_not_null(strstr(reason, "died 5 times"), "%s", reason);
    cr_assert_eq(metric(r, M_supervisor_child_died), 5);
    int mode;
    unsigned long long at;
    cr_assert(left(r, ROLE_INGEST, &mode, &at), "ingest had to commit what is released");
    cr_assert_eq(mode, CONTROL_LEAVE);
    run_drop(r);
}

Test(supervisor, gives_up_at_once_when_a_worker_refuses, .timeout = 60) {
    struct run *r = run_make();
    plan(r->folder, "sink", "attach refuse\n");
    run_start(r);
    cr_assert_eq(run_end(r), EX_CONFIG);
    char reason[STATS_TEXT_BYTES];
    stats_text_get(&block(r, ROLE_SUPERVISOR, 0)->reason, reason);
    cr_assert_str_eq(reason, "the reason why");
    cr_assert_eq(atomic_load(&block(r, ROLE_SINK, 0)->state), STATE_FAILED);
    cr_assert_eq(atomic_load(&block(r, ROLE_SINK, 0)->starts), 1);
    run_drop(r);
}

Test(supervisor, kills_and_replaces_a_hung_worker, .timeout = 60) {
    struct run *r = run_make();
    r->s->config.heartbeat_timeout_ms = 1000;
    plan(r->folder, "transform", "attach mark ready silent\nattach mark ready serve\n");
    run_start(r);
    until(atomic_load(&block(r, ROLE_TRANSFORM, 0)->ready) == 2);
    until(metric(r, M_supervisor_child_hung) == 1);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

Test(supervisor, does_not_blame_workers_for_the_time_it_stood_still_itself, .timeout = 60) {
    struct run *r = run_make();
    r->s->config.heartbeat_timeout_ms = 1000;
    run_up(r);
    pid_t worker[] = {pid_of(r, ROLE_INGEST), pid_of(r, ROLE_TRANSFORM), pid_of(r, ROLE_SINK)};
    kill(r->pid, SIGSTOP);
    for (int k = 0; k < 3; k++) kill(worker[k], SIGSTOP);
    usleep(2500000);
    kill(r->pid, SIGCONT); /* the whole machine wakes, the supervisor first */
    usleep(400000);
    for (int k = 0; k < 3; k++) kill(worker[k], SIGCONT);
    usleep(400000);
    cr_assert_eq(metric(r, M_supervisor_child_hung), 0);
    cr_assert_eq(pid_of(r, ROLE_TRANSFORM), worker[1]);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

/* Waits until no process of the instance is left; the test inherits and collects them. */
static void orphans_end(void) {
    uint64_t limit = clock_ns(&clock_real) + WAIT_S * NS_PER_S;
    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0) return;
        cr_assert_lt(clock_ns(&clock_real), limit, "a worker outlived its supervisor");
        if (pid == 0) usleep(2000);
    }
}

Test(supervisor, takes_its_workers_along_when_it_dies, .timeout = 60) {
    struct run *r = run_make();
    r->s->config.lanes = 2;
    plan(r->folder, "ingest", "attach mark ready serve-for-ever\n");
    plan(r->folder, "transform", "attach mark ready silent\n");
    plan(r->folder, "sink-1", "attach silent\n"); /* not even ready */
    run_start(r);
    until(atomic_load(&block(r, ROLE_SINK, 0)->ready) == 1 && atomic_load(&block(r, ROLE_TRANSFORM, 1)->ready) == 1 &&
          atomic_load(&block(r, ROLE_INGEST, 0)->ready) == 1 && atomic_load(&block(r, ROLE_SINK, 1)->pid) != 0);
    kill(r->pid, SIGKILL);
    orphans_end();
    run_drop(r);
}

/* -- leaving ----------------------------------------------------------------------------------- */

Test(supervisor, drains_ingest_first_and_only_then_asks_the_others_to_leave, .timeout = 60) {
    struct run *r = run_make();
    plan(r->folder, "ingest", "attach mark ready beat:100 serve\n");
    run_up(r);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    int mode[3];
    unsigned long long at[3];
    cr_assert(left(r, ROLE_INGEST, &mode[0], &at[0]) && left(r, ROLE_TRANSFORM, &mode[1], &at[1]) &&
              left(r, ROLE_SINK, &mode[2], &at[2]));
    cr_assert_eq(mode[0], CONTROL_DRAIN);
    cr_assert_eq(mode[1], CONTROL_LEAVE);
    cr_assert_eq(mode[2], CONTROL_LEAVE);
    cr_assert(at[1] > at[0] && at[2] > at[0], "the others left before what ingest had read could be applied");
    cr_assert_eq(metric(r, M_supervisor_child_exit), 3);
    cr_assert_eq(metric(r, M_supervisor_child_died), 0);
    cr_assert_eq(state(r), STATE_DOWN);
    run_drop(r);
}

Test(supervisor, drains_on_an_interrupt_too_and_once, .timeout = 60) {
    struct run *r = run_make();
    run_up(r);
    for (int k = 0; k < 3; k++) kill(r->pid, k == 1 ? SIGTERM : SIGINT);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

Test(supervisor, restarts_workers_that_die_while_it_drains, .timeout = 60) {
    struct run *r = run_make();
    plan(r->folder, "ingest", "attach mark ready serve-only-leave\nattach mark ready beat:200 serve\n");
    run_up(r);
    pid_t ingest = pid_of(r, ROLE_INGEST), sink = pid_of(r, ROLE_SINK);
    kill(r->pid, SIGTERM);
    until(state(r) == STATE_DRAINING);
    kill(sink, SIGKILL);
    until(atomic_load(&block(r, ROLE_SINK, 0)->ready) == 2);
    kill(ingest, SIGKILL); /* the next one drains and leaves */
    cr_assert_eq(run_end(r), EX_OK);
    int mode;
    unsigned long long at;
    cr_assert(left(r, ROLE_INGEST, &mode, &at));
    cr_assert_eq(mode, CONTROL_DRAIN);
    run_drop(r);
}

Test(supervisor, that_cannot_drain_in_time_leaves_in_order_with_a_temporary_failure, .timeout = 60) {
    struct run *r = run_make();
    r->s->config.drain_timeout_ms = 1000;
    plan(r->folder, "ingest", "attach mark ready leave-late\n");
    run_up(r);
    uint64_t begin = clock_ns(&clock_real);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_TEMPFAIL);
    uint64_t took = clock_ns(&clock_real) - begin;
    cr_assert_geq(took, NS_PER_S);
    int mode;
    unsigned long long at[2];
    cr_assert(left(r, ROLE_INGEST, &mode, &at[0]));
    cr_assert_eq(mode, CONTROL_LEAVE);
    cr_assert(left(r, ROLE_SINK, &mode, &at[1]));
    cr_assert_lt(at[0], at[1]);
    run_drop(r);
}

Test(supervisor, ends_even_when_no_worker_does_as_asked, .timeout = 60) {
    struct run *r = run_make();
    r->s->config.drain_timeout_ms = 1000;
    plan(r->folder, "ingest", "attach mark ready serve-for-ever\n");
    plan(r->folder, "transform", "attach mark ready stop\n");
    plan(r->folder, "sink", "attach mark ready serve-for-ever\n");
    r->s->config.heartbeat_timeout_ms = 60000;
    run_up(r);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_TEMPFAIL);
    orphans_end();
    run_drop(r);
}

Test(supervisor, drains_while_a_worker_is_still_starting_or_waiting_to, .timeout = 60) {
    struct run *r = run_make();
    plan(r->folder, "ingest", "attach raise:9\nattach raise:9\nattach raise:9\nattach mark ready serve\n");
    r->s->config.restart.backoff_ms_max = 200;
    run_start(r);
    until(atomic_load(&block(r, ROLE_INGEST, 0)->starts) >= 2);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    int mode;
    unsigned long long at;
    cr_assert(left(r, ROLE_INGEST, &mode, &at), "it was not given the chance to commit");
    cr_assert_eq(mode, CONTROL_DRAIN);
    run_drop(r);
}

Test(supervisor, does_not_stop_for_a_hangup, .timeout = 60) {
    struct run *r = run_make();
    run_up(r);
    kill(r->pid, SIGHUP);
    usleep(200000);
    cr_assert_eq(state(r), STATE_RUNNING);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

Test(supervisor, writes_its_metrics_file_whole, .timeout = 60) {
    struct run *r = run_make();
    snprintf(r->s->config.metrics.textfile, PATH_BYTES, "%s/metrics.prom", r->folder);
    r->s->config.metrics.interval_ms = 1000;
    run_up(r);
    until(access(r->s->config.metrics.textfile, R_OK) == 0);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    char draft[PATH_BYTES + 8];
    snprintf(draft, sizeof draft, "%s.new", r->s->config.metrics.textfile);
    cr_assert_neq(access(draft, F_OK), 0);
    run_drop(r);
}

/* -- the service manager ----------------------------------------------------------------------- */

static int manager_make(const struct run *r) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    snprintf(a.sun_path, sizeof a.sun_path, "%s/notify", r->folder);
    cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    setenv("NOTIFY_SOCKET", a.sun_path, 1);
    setenv("WATCHDOG_USEC", "600000", 1);
    unsetenv("WATCHDOG_PID");
    return fd;
}

/* Whether a datagram with this line in it has come by now. Those before it are lost. */
static bool told(int fd, const char *line) {
    char text[1024];
    for (ssize_t len; (len = recv(fd, text, sizeof text - 1, 0)) > 0;) {
        text[len] = 0;
        if (strstr(text, line) != NULL) return true;
    }
    return false;
}

Test(supervisor, tells_the_manager_that_it_is_ready_when_every_worker_is_and_when_it_stops, .timeout = 60) {
    struct run *r = run_make();
    int fd = manager_make(r);
    plan(r->folder, "sink", "attach mark wait:700 ready serve\n");
    run_start(r);
    until(stats_there(r));
    usleep(400000);
    cr_assert_not(told(fd, "READY=1"), "one worker is not attached yet");
    until(told(fd, "READY=1"));
    until(told(fd, "STATUS=connecting; 0 records/s to Redis, lag unknown"));
    kill(r->pid, SIGTERM);
    until(told(fd, "STOPPING=1\nEXTEND_TIMEOUT_USEC="));
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

Test(supervisor, feeds_the_watchdog_unless_a_silent_worker_does_not_go, .timeout = 60) {
    struct run *r = run_make();
    r->s->config.heartbeat_timeout_ms = 1000;
    int fd = manager_make(r);
    run_up(r);
    for (int i = 0; i < 3; i++) until(told(fd, "WATCHDOG=1"));
    /* Stopped, silent, killed, replaced: the watchdog does not notice. */
    kill(pid_of(r, ROLE_SINK), SIGSTOP);
    until(metric(r, M_supervisor_child_hung) == 1);
    for (int i = 0; i < 3; i++) until(told(fd, "WATCHDOG=1"));
    kill(r->pid, SIGSTOP);
    while (told(fd, "WATCHDOG=1")) continue;
    usleep(700000);
    cr_assert_not(told(fd, ""), "a stopped supervisor says nothing");
    kill(r->pid, SIGCONT);
    until(told(fd, "WATCHDOG=1"));
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK);
    run_drop(r);
}

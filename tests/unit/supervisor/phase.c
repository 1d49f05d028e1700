/* Phases: going over to another configuration, and making broken rings anew; what a stop, a death or a refusal in the
 * midst of it leads to. */
#include "supervisor/phase.h"

#include <sys/resource.h>

#include "tests/unit/supervisor/run.h"

static char file[128];

/* The file of an instance, with more lines than it needs. */
static void configure(const struct run *r, const char *more) {
    char draft[136];
    snprintf(draft, sizeof draft, "%s.new", file);
    FILE *f = fopen(draft, "we");
    cr_assert_not_null(f);
    fprintf(f,
            "config_version: 1\nname: unit\ninstance: node\nrun_dir: %s\ndata_dir: %s\nstart: earliest\n"
            "drain_timeout: 3s\nring_bytes: 1MiB\nlog:\n  level: error\nkafka:\n  bootstrap.servers: localhost:1\n"
            "redis:\n  url: redis://localhost:1/0\n%s"
            "topics:\n  - name: t\n    mode: bulk\n    format: raw\n    key: \"{$key}\"\n",
            r->folder, r->folder, more);
    cr_assert_eq(fclose(f), 0);
    cr_assert_eq(rename(draft, file), 0);
}

/* An instance that was read from a file; not started. */
static struct run *made(void) {
    struct run *r = run_make();
    struct err err = {0};
    snprintf(file, sizeof file, "%s/millrace.yaml", r->folder);
    configure(r, "");
    cr_assert_eq(config_load(file, &r->s->config, &err), 0, "%s", err.text);
    snprintf(r->s->file, sizeof r->s->file, "%s", file);
    return r;
}

/* The segment under the name now. */
static struct stats_block *now(struct run *r) {
    struct err err;
    if (r->stats.header != NULL && atomic_load(&r->stats.header->superseded)) stats_close(&r->stats);
    until(r->stats.header != NULL || stats_open(&r->stats, r->folder, "unit", &err) == 0);
    return block(r, ROLE_SUPERVISOR, 0);
}

static uint64_t count(struct run *r, enum metric m) { return atomic_load(&now(r)->value[m]); }
static bool running(struct run *r) { return atomic_load(&now(r)->state) == STATE_RUNNING; }
static uint64_t starts(struct run *r, enum role role) {
    now(r);
    return atomic_load(&block(r, role, 0)->starts);
}

static void reload(struct run *r, const char *more) {
    configure(r, more);
    kill(r->pid, SIGHUP);
}

static void stop(struct run *r, int status) {
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), status);
    run_drop(r);
}

Test(phase, a_reload_starts_everything_anew_with_the_new_configuration, .timeout = 60) {
    struct run *r = made();
    run_up(r);
    reload(r, "lanes: 2\n");
    until(count(r, M_supervisor_reload) == 1 && running(r));
    cr_assert_eq(r->stats.header->lanes, 2);
    cr_assert_eq(starts(r, ROLE_INGEST), 2, "starts go on");
    cr_assert_eq(atomic_load(&block(r, ROLE_SINK, 1)->starts), 1);
    cr_assert_eq(count(r, M_supervisor_child_start), 3 + 5);
    cr_assert_eq(count(r, M_supervisor_child_died), 0);
    cr_assert_eq(count(r, M_supervisor_ring_reset), 0);
    int mode;
    unsigned long long at[2];
    cr_assert(left(r, ROLE_INGEST, &mode, &at[0]) && mode == CONTROL_DRAIN);
    cr_assert(left(r, ROLE_SINK, &mode, &at[1]) && mode == CONTROL_LEAVE);
    cr_assert_lt(at[0], at[1], "the sink had to stay until ingest had left");
    stop(r, EX_OK);
}

Test(phase, a_reload_of_the_same_or_of_a_bad_file_touches_nobody, .timeout = 60) {
    struct run *r = made();
    run_up(r);
    pid_t sink = pid_of(r, ROLE_SINK);
    kill(r->pid, SIGHUP); /* perhaps it is heard only when the file is bad already, and refused, too */
    reload(r, "lannes: 2\n");
    until(count(r, M_supervisor_reload_refuse) >= 1);
    unlink(file);
    kill(r->pid, SIGHUP);
    until(count(r, M_supervisor_reload_refuse) >= 2);
    cr_assert_eq(pid_of(r, ROLE_SINK), sink);
    cr_assert_eq(count(r, M_supervisor_reload), 0);
    cr_assert(running(r));
    stop(r, EX_OK);
}

Test(phase, a_second_reload_waits_for_the_first, .timeout = 60) {
    struct run *r = made();
    plan(r->folder, "ingest", "attach mark ready beat:200 serve\n");
    run_up(r);
    reload(r, "lanes: 2\n");
    until(atomic_load(&now(r)->state) == STATE_DRAINING);
    reload(r, "lanes: 3\n");
    kill(r->pid, SIGHUP); /* one more says nothing new */
    until(count(r, M_supervisor_reload) == 2 && running(r));
    cr_assert_eq(r->stats.header->lanes, 3);
    usleep(300000);
    cr_assert_eq(count(r, M_supervisor_reload), 2);
    stop(r, EX_OK);
}

Test(phase, a_stop_in_the_midst_of_a_reload_is_a_stop, .timeout = 60) {
    struct run *r = made();
    plan(r->folder, "ingest", "attach mark ready beat:200 serve\n");
    run_up(r);
    reload(r, "lanes: 2\n");
    until(atomic_load(&now(r)->state) == STATE_DRAINING);
    kill(r->pid, SIGHUP);
    kill(r->pid, SIGTERM);
    cr_assert_eq(run_end(r), EX_OK, "it had time to drain");
    cr_assert_eq(r->stats.header->lanes, 1);
    run_drop(r);
}

Test(phase, a_stop_that_cannot_drain_in_the_midst_of_a_reload_says_so, .timeout = 60) {
    struct run *r = made();
    plan(r->folder, "ingest", "attach mark ready serve-only-leave\n");
    run_up(r);
    reload(r, "lanes: 2\n");
    until(atomic_load(&now(r)->state) == STATE_DRAINING);
    stop(r, EX_TEMPFAIL);
}

Test(phase, what_is_stuck_is_not_waited_for_to_the_end, .timeout = 60) {
    struct run *r = made();
    plan(r->folder, "ingest", "attach mark ready publish:5 serve-only-leave\n");
    plan(r->folder, "sink", "attach ready blocked serve\n");
    r->s->config.drain_timeout_ms = 60000;
    run_up(r);
    struct stats mine;
    struct err err;
    char path[128];
    snprintf(path, sizeof path, "%s/unit.stats", r->folder);
    int fd = open(path, O_RDWR | O_CLOEXEC); /* what a real ingest says of itself */
    cr_assert_eq(stats_map(&mine, fd, &err), 0, "%s", err.text);
    atomic_store(&stats_block(&mine, 1)->lane_published[0], 5);
    uint64_t begin = clock_ns(&clock_real);
    reload(r, "lanes: 2\n");
    until(count(r, M_supervisor_reload) == 1);
    uint64_t took = clock_ns(&clock_real) - begin;
    cr_assert(took > 1900 * NS_PER_MS && took < 15 * NS_PER_S, "%llu", (unsigned long long)took);
    cr_assert_eq(count(r, M_supervisor_ring_reset), 1);
    cr_assert_eq(count(r, M_supervisor_record_discard), 5);
    kill(r->pid, SIGKILL);
    run_end(r);
    run_drop(r);
}

Test(phase, a_reload_that_a_worker_refuses_is_undone, .timeout = 60) {
    struct run *r = made();
    plan(r->folder, "transform", "attach mark ready serve\nattach refuse\nattach mark ready serve\n");
    run_up(r);
    reload(r, "lanes: 2\n");
    until(count(r, M_supervisor_reload_refuse) == 1 && running(r));
    cr_assert_eq(r->stats.header->lanes, 1, "the configuration of before");
    cr_assert_eq(count(r, M_supervisor_reload), 0);
    reload(r, "lanes: 3\n"); /* the next one is none the worse for it */
    until(count(r, M_supervisor_reload) == 1 && running(r));
    cr_assert_eq(r->stats.header->lanes, 3);
    stop(r, EX_OK);
}

Test(phase, a_worker_that_refuses_both_configurations_ends_the_instance, .timeout = 60) {
    struct run *r = made();
    plan(r->folder, "transform", "attach mark ready serve\nattach refuse\n");
    run_up(r);
    reload(r, "lanes: 2\n");
    cr_assert_eq(run_end(r), EX_CONFIG);
    run_drop(r);
}

Test(phase, a_reload_without_room_for_its_rings_goes_back, .timeout = 60) {
    struct run *r = made();
    run_up(r);
    struct rlimit few = {100, 100};
    cr_assert_eq(prlimit(r->pid, RLIMIT_NOFILE, &few, NULL), 0);
    reload(r, "lanes: 16\n");
    until(count(r, M_supervisor_reload_refuse) == 1 && running(r));
    cr_assert_eq(r->stats.header->lanes, 1);
    cr_assert_eq(starts(r, ROLE_SINK), 2);
    stop(r, EX_OK);
}

Test(phase, broken_rings_are_made_anew_and_not_for_ever, .timeout = 60) {
    struct run *r = made();
    plan(r->folder, "sink", "attach ready exit:124\nattach ready exit:124\nattach ready serve\n");
    run_start(r);
    until(count(r, M_supervisor_ring_reset) == 2 && running(r));
    usleep(200000);
    cr_assert(running(r));
    cr_assert_eq(starts(r, ROLE_SINK), 3);
    cr_assert_eq(starts(r, ROLE_INGEST), 3, "all workers have new rings");
    plan(r->folder, "sink", "attach ready exit:124\n");
    kill(pid_of(r, ROLE_SINK), SIGKILL);
    cr_assert_eq(run_end(r), EX_SOFTWARE);
    cr_assert_eq(count(r, M_supervisor_ring_reset), 3);
    char reason[STATS_TEXT_BYTES];
    stats_text_get(&now(r)->reason, reason);
    cr_assert_not_null(strstr(reason, "rings broke more than 3 times"), "%s", reason);
    run_drop(r);
}

Test(phase, a_ring_that_breaks_while_stopping_ends_in_the_stop, .timeout = 60) {
    struct run *r = made();
    plan(r->folder, "ingest", "attach mark ready serve-only-leave\n");
    plan(r->folder, "sink", "attach mark ready beat:300 exit:124\n");
    run_up(r);
    stop(r, EX_TEMPFAIL);
}

Test(phase, a_ring_that_breaks_during_a_reload_is_part_of_it, .timeout = 60) {
    struct run *r = made();
    plan(r->folder, "ingest", "attach mark ready serve-only-leave\n");
    plan(r->folder, "sink", "attach mark ready beat:200 exit:124\nattach ready serve\n");
    run_up(r);
    reload(r, "lanes: 2\n");
    until(count(r, M_supervisor_reload) == 1 && running(r));
    cr_assert_eq(r->stats.header->lanes, 2);
    cr_assert_eq(count(r, M_supervisor_child_died), 1);
    kill(r->pid, SIGKILL);
    run_end(r);
    run_drop(r);
}

Test(phase, workers_that_die_during_a_reload_delay_it_only, .timeout = 60) {
    struct run *r = made();
    plan(r->folder, "ingest", "attach mark ready raise:11\nattach mark ready beat:50 raise:9\nattach ready serve\n");
    plan(r->folder, "sink", "attach mark ready beat:60 raise:9\nattach ready serve\n");
    run_start(r);
    until(atomic_load(&block(r, ROLE_INGEST, 0)->starts) >= 1);
    reload(r, "lanes: 2\n");
    until(count(r, M_supervisor_reload) == 1 && running(r));
    cr_assert_eq(r->stats.header->lanes, 2);
    stop(r, EX_OK);
}

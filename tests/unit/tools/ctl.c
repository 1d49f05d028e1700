/* millrace ctl, against a socket that answers what the test says. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/refeed_request.h"
#include "shm/stats.h"
#include "tests/unit/tools/command.h"

static pid_t server;

/* A supervisor that answers each connection with the next of replies (NULL: none), the last one again and again, and
 * notes what it was asked. */
static void serve(const char *const *replies) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "%s/cards.sock", folder);
    cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    cr_assert_eq(listen(fd, 8), 0);
    server = fork();
    if (server != 0) {
        close(fd);
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int k = 0;; k += replies[k + 1] != NULL) {
        char line[256];
        int client = accept(fd, NULL, NULL);
        ssize_t n = recv(client, line, sizeof line, 0);
        int asked = open(in_folder("asked"), O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (n < 0 || write(asked, line, (size_t)n) != n) _exit(1);
        close(asked);
        if (send(client, replies[k], strlen(replies[k]), MSG_NOSIGNAL) < 0) _exit(1);
        close(client);
    }
}

static void end(void) {
    if (server > 0) {
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
    }
    folder_remove();
}

TestSuite(ctl, .init = folder_make, .fini = end, .timeout = 60);

#define CTL(...) run_command(command_ctl, (char *[]){"ctl", __VA_ARGS__, "--name", "cards", "--run-dir", folder, NULL})
#define SERVE(...) serve((const char *const[]){__VA_ARGS__, NULL})

static const char *asked(void) {
    static char text[1024];
    file_get("asked", text, sizeof text);
    return text;
}

Test(ctl, status_is_for_people_and_for_programs) {
    SERVE("{\"ok\":true,\"name\":\"cards\",\"instance\":\"n1\",\"phase\":\"running\",\"reason\":\"\",\"pid\":77,"
          "\"lanes\":2,\"file\":\"/etc/m.yaml\",\"reload_asked\":1,\"reload_done\":1,\"reload_result\":\"refused\","
          "\"message\":\"a \\\"quoted\\\" word\"}\n");
    cr_assert_eq(CTL("status"), 0, "%s", done.err);
    cr_assert_str_eq(done.out, "cards/n1, pid 77: running\nconfiguration /etc/m.yaml, 2 lanes\n"
                               "last reload: refused: a \"quoted\" word\n");
    cr_assert_eq(CTL("status", "--format", "json"), 0);
    cr_assert_eq(strncmp(done.out, "{\"ok\":true,", 11), 0);
    cr_assert_str_eq(asked(), "status\nstatus\n");
}

Test(ctl, reload_tells_at_once_what_is_refused) {
    SERVE("{\"ok\":false,\"result\":\"refused\",\"reload\":3,\"message\":\"m.yaml:4:1: unknown key\"}\n");
    cr_assert_eq(CTL("reload", "--wait"), EX_CONFIG);
    cr_assert_not_null(strstr(done.err, "m.yaml:4:1: unknown key"));
    cr_assert_str_eq(asked(), "reload\n", "there is nothing to wait for");
}

Test(ctl, reload_waits_for_its_own_number) {
    SERVE("{\"ok\":true,\"result\":\"queued\",\"reload\":4,\"message\":\"queued\"}\n",
          "{\"ok\":true,\"reload_done\":3,\"reload_result\":\"refused\",\"message\":\"of another\"}\n",
          "{\"ok\":true,\"reload_done\":4,\"reload_result\":\"reloaded\",\"message\":\"in force\"}\n");
    cr_assert_eq(CTL("reload", "--wait"), 0, "%s", done.err);
    cr_assert_str_eq(done.out, "reloaded: in force\n");
}

Test(ctl, reload_that_is_undone_is_a_refusal) {
    SERVE("{\"ok\":true,\"result\":\"started\",\"reload\":1,\"message\":\"started\"}\n",
          "{\"ok\":true,\"reload_done\":1,\"reload_result\":\"undone\",\"message\":\"keys are missing\"}\n");
    cr_assert_eq(CTL("reload", "--wait"), EX_CONFIG);
    cr_assert_not_null(strstr(done.err, "keys are missing"));
}

Test(ctl, reload_that_takes_too_long_is_left_to_itself) {
    SERVE("{\"ok\":true,\"result\":\"started\",\"reload\":1,\"message\":\"started\"}\n",
          "{\"ok\":true,\"reload_done\":0,\"reload_result\":\"none\",\"message\":\"\"}\n");
    cr_assert_eq(CTL("reload", "--wait", "--timeout", "1"), EX_TEMPFAIL);
    cr_assert_eq(CTL("reload"), 0, "without --wait it is done when it is begun");
}

Test(ctl, an_instance_that_ends_meanwhile_is_told) {
    SERVE("{\"ok\":true,\"result\":\"started\",\"reload\":1,\"message\":\"started\"}\n", "");
    cr_assert_eq(CTL("reload", "--wait"), EX_UNAVAILABLE);
    cr_assert_not_null(strstr(done.err, "its log"));
}

Test(ctl, without_an_instance_says_so) {
    cr_assert_eq(CTL("status"), EX_UNAVAILABLE);
    cr_assert_not_null(strstr(done.err, "cards.sock"));
    cr_assert_not_null(strstr(done.err, "is millrace running?"));
    cr_assert_eq(CTL("accept-loss"), EX_UNAVAILABLE);
}

Test(ctl, an_answer_that_is_none_is_told) {
    SERVE("not a line");
    cr_assert_eq(CTL("status"), EX_UNAVAILABLE);
    cr_assert_not_null(strstr(done.err, "not answered"));
}

/* -- accept-loss ------------------------------------------------------------------------------- */

static struct stats segment;

static void lose(int32_t partition, int64_t from, int64_t to) {
    static struct config config;
    struct err err = {0};
    int fd;
    if (segment.header == NULL) {
        snprintf(config.run_dir, sizeof config.run_dir, "%s", folder);
        snprintf(config.name, sizeof config.name, "cards");
        config.lanes = 1;
        config.topic_count = 1;
        snprintf(config.topic[0].name, TOPIC_BYTES, "t");
        cr_assert_eq(stats_create(&segment, &config, &fd, &err), 0, "%s", err.text);
        segment.header->partition_count = 3;
        for (int i = 0; i < 3; i++) stats_partition(&segment, (uint32_t)i)->partition = i;
    }
    atomic_store(&stats_partition(&segment, (uint32_t)partition)->lost_from, from);
    atomic_store(&stats_partition(&segment, (uint32_t)partition)->lost_to, to);
}

/* Carries out what is asked for, after a while, as ingest does. */
static void carry_out(int32_t partition) {
    if (fork() != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < 1000 && access(in_folder("asked"), F_OK) != 0; i++) usleep(10000);
    usleep(200000);
    lose(partition, 0, 0);
    _exit(0);
}

Test(ctl, accept_loss_tells_what_was_accepted_when_it_is) {
    lose(1, 10, 25);
    lose(2, 7, 9);
    SERVE("{\"ok\":true,\"message\":\"asked\"}\n");
    carry_out(1);
    cr_assert_eq(CTL("accept-loss", "--topic", "t", "--partition", "1"), 0, "%s", done.err);
    cr_assert_str_eq(done.out, "t[1]: offsets [10,25) accepted as lost\n");
    cr_assert_str_eq(asked(), "accept-loss t 1\n");
}

Test(ctl, accept_loss_has_json_too) {
    lose(1, 10, 25);
    SERVE("{\"ok\":true,\"message\":\"asked\"}\n");
    carry_out(1);
    cr_assert_eq(CTL("accept-loss", "--format", "json"), 0, "%s", done.err);
    cr_assert_str_eq(done.out,
                     "{\"ok\":true,\"accepted\":[{\"topic\":\"t\",\"partition\":1,\"from\":10,\"to\":25}]}\n");
    cr_assert_str_eq(asked(), "accept-loss\n");
}

Test(ctl, accept_loss_asks_for_nothing_when_nothing_is_lost) {
    lose(1, 10, 25);
    SERVE("{\"ok\":true,\"message\":\"\"}\n");
    cr_assert_eq(CTL("accept-loss", "--topic", "t", "--partition", "2"), 0, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "nothing to accept"));
    cr_assert_str_eq(asked(), "status\n");
}

Test(ctl, accept_loss_of_an_unknown_topic_is_told) {
    lose(1, 10, 25);
    cr_assert_eq(CTL("accept-loss", "--topic", "T"), EX_USAGE);
    cr_assert_not_null(strstr(done.err, "no topic T"));
}

Test(ctl, status_shows_the_state_and_that_a_reload_is_under_way) {
    lose(1, 10, 25);
    struct stats_block *whole = stats_block(&segment, 0), *sink = stats_block(&segment, 3);
    whole->pid = (uint32_t)getpid();
    whole->heartbeat_ns = clock_ns(&clock_real);
    whole->state = STATE_RUNNING;
    for (uint32_t i = 1; i < segment.header->block_count; i++) stats_block(&segment, i)->state = STATE_RUNNING;
    sink->state = STATE_BLOCKED;
    stats_text_set(&sink->reason, "OOM");
    SERVE("{\"ok\":true,\"name\":\"cards\",\"instance\":\"n1\",\"phase\":\"running\",\"reason\":\"\",\"pid\":7,"
          "\"lanes\":1,\"file\":\"/m.yaml\",\"reload_asked\":2,\"reload_done\":1,\"reload_result\":\"refused\"}\n");
    cr_assert_eq(CTL("status"), 0, "%s", done.err);
    cr_assert_str_eq(done.out, "cards/n1, pid 7: blocked (OOM)\nconfiguration /m.yaml, 1 lane\n"
                               "a reload is under way\n");
}

Test(ctl, accept_loss_that_is_refused_is_told) {
    lose(1, 10, 25);
    SERVE("{\"ok\":false,\"message\":\"the instance is not running\"}\n");
    cr_assert_eq(CTL("accept-loss"), EX_TEMPFAIL);
    cr_assert_not_null(strstr(done.err, "not running"));
}

/* -- refeed ------------------------------------------------------------------------------------ */

static const char *request_make(char id[REFEED_ID_BYTES]) {
    static char path[PATH_BYTES + 64];
    struct refeed_request *r = refeed_request_new();
    struct err err = {0};
    cr_assert_eq(refeed_request_until(r, "t", 3, 100, &err), 0);
    cr_assert_eq(refeed_request_add(r, "t", 3, 7, &err), 0);
    cr_assert_eq(refeed_request_write(r, folder, id, &err), 0, "%s", err.text);
    refeed_request_free(r);
    refeed_path(path, folder, id, "refeed");
    return path;
}

static void answer_later(const char *id, const struct refeed_result *r) {
    struct err err = {0};
    if (fork() != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < 1000 && access(in_folder("asked"), F_OK) != 0; i++) usleep(10000);
    usleep(100000);
    _exit(refeed_result_write(folder, id, r, &err) != 0);
}

Test(ctl, refeed_tells_what_became_of_it_and_clears_up) {
    char id[REFEED_ID_BYTES];
    const char *path = request_make(id);
    struct refeed_outcome o[] = {{"t", 3, REFEED_DONE, 1, 1, 0, 90}};
    SERVE("{\"ok\":true,\"message\":\"asked\"}\n");
    answer_later(id, &(struct refeed_result){1, 0, o, NULL, ""});
    cr_assert_eq(CTL("refeed", (char *)(uintptr_t)path), 0, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "t[3]: done; 1 of 1 records fed again"), "%s", done.out);
    cr_assert_str_eq(asked(), "refeed\n");
    cr_assert_neq(access(path, F_OK), 0);
    refeed_path((char *)(uintptr_t)path, folder, id, "done");
    cr_assert_neq(access(path, F_OK), 0);
}

Test(ctl, refeed_has_json_and_a_status_for_what_is_not_there) {
    char id[REFEED_ID_BYTES];
    const char *path = request_make(id);
    struct refeed_outcome o[] = {{"t", 3, REFEED_DONE, 1, 0, 0, 90}};
    struct refeed_missing m[] = {{"t", 3, 7, true}};
    SERVE("{\"ok\":true,\"message\":\"asked\"}\n");
    answer_later(id, &(struct refeed_result){1, 1, o, m, ""});
    cr_assert_eq(CTL("refeed", (char *)(uintptr_t)path, "--format", "json"), 1, "%s", done.err);
    cr_assert_str_eq(done.out, "{\"partitions\":[{\"topic\":\"t\",\"partition\":3,\"state\":\"done\",\"asked\":1,"
                               "\"fed\":0,\"covered\":0,\"from\":90}],\"missing\":[{\"topic\":\"t\",\"partition\":3,"
                               "\"offset\":7,\"why\":\"gone\"}],\"reason\":\"\"}\n");
}

Test(ctl, refeed_that_is_given_up_is_to_be_asked_again) {
    char id[REFEED_ID_BYTES];
    const char *path = request_make(id);
    struct refeed_outcome o[] = {{"t", 3, REFEED_ENDED, 1, 0, 0, -1}, {"t", 4, REFEED_ELSEWHERE, 0, 0, 0, -1}};
    SERVE("{\"ok\":true,\"message\":\"asked\"}\n");
    answer_later(id, &(struct refeed_result){2, 0, o, NULL, "t[3]: why"});
    cr_assert_eq(CTL("refeed", (char *)(uintptr_t)path), EX_TEMPFAIL);
    cr_assert(strstr(done.out, "given up") != NULL && strstr(done.out, "another instance") != NULL &&
                  strstr(done.out, "t[3]: why") != NULL,
              "%s", done.out);
}

Test(ctl, refeed_that_is_not_begun_in_time_is_withdrawn) {
    char id[REFEED_ID_BYTES];
    const char *path = request_make(id);
    SERVE("{\"ok\":true,\"message\":\"asked\"}\n");
    cr_assert_eq(CTL("refeed", (char *)(uintptr_t)path, "--timeout", "1"), EX_TEMPFAIL);
    cr_assert_not_null(strstr(done.err, "withdrawn"));
    cr_assert_neq(access(path, F_OK), 0);
}

Test(ctl, refeed_that_is_begun_is_left_to_itself) {
    char id[REFEED_ID_BYTES], begun[PATH_BYTES + 64];
    const char *path = request_make(id);
    refeed_path(begun, folder, id, "begun");
    cr_assert_eq(close(open(begun, O_CREAT | O_WRONLY, 0600)), 0);
    SERVE("{\"ok\":true,\"message\":\"asked\"}\n");
    cr_assert_eq(CTL("refeed", (char *)(uintptr_t)path, "--timeout", "1"), EX_TEMPFAIL);
    cr_assert_not_null(strstr(done.err, "carried out all the same"));
    cr_assert_eq(access(path, F_OK), 0);
}

Test(ctl, refeed_without_an_instance_leaves_nothing_behind) {
    char id[REFEED_ID_BYTES];
    const char *path = request_make(id);
    cr_assert_eq(CTL("refeed", (char *)(uintptr_t)path), EX_UNAVAILABLE);
    cr_assert_neq(access(path, F_OK), 0);
    cr_assert_eq(CTL("refeed", (char *)(uintptr_t)path), EX_NOINPUT);
    file_put("0123456789abcdef.refeed", "x");
    cr_assert_eq(CTL("refeed", (char *)(uintptr_t)in_folder("0123456789abcdef.refeed")), EX_USAGE,
                 "not in the folder of refeeds");
}

/* -- arguments --------------------------------------------------------------------------------- */

Test(ctl, refuses_arguments_that_mean_nothing) {
    cr_assert_eq(CTL("frobnicate"), EX_USAGE);
    cr_assert_eq(run_command(command_ctl, (char *[]){"ctl", "frobnicate", NULL}), EX_USAGE);
    cr_assert_not_null(strstr(done.err, "unknown command frobnicate"), "the file is not looked for: %s", done.err);
    cr_assert_eq(CTL("status", "reload"), EX_USAGE);
    cr_assert_eq(CTL("refeed"), EX_USAGE);
    cr_assert_eq(CTL("refeed", "a", "b"), EX_USAGE);
    cr_assert_eq(CTL("stop", "--timeout", "5"), EX_USAGE);
    cr_assert_eq(CTL("status", "--wait"), EX_USAGE);
    cr_assert_eq(CTL("status", "--topic", "t"), EX_USAGE);
    cr_assert_eq(CTL("status", "--format", "xml"), EX_USAGE);
    cr_assert_eq(CTL("accept-loss", "--partition", "1"), EX_USAGE);
    cr_assert_eq(CTL("accept-loss", "--topic", "t", "--partition", "-1"), EX_USAGE);
    cr_assert_eq(CTL("accept-loss", "--topic", "two words"), EX_USAGE);
    cr_assert_eq(CTL("reload", "--timeout", "soon"), EX_USAGE);
    cr_assert_eq(CTL("status", "-c", "x.yaml"), EX_USAGE);
    cr_assert_eq(run_command(command_ctl, (char *[]){"ctl", NULL}), EX_USAGE);
    cr_assert_eq(run_command(command_ctl, (char *[]){"ctl", "status", "--run-dir", folder, NULL}), EX_USAGE);
    cr_assert_eq(run_command(command_ctl, (char *[]){"ctl", "--help", NULL}), 0);
    cr_assert_not_null(strstr(done.out, "accept-loss"));
}

/* Feeding a replay piece by piece, to an instance that the test plays: it notes what it is asked for, and answers. */
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sysexits.h>

#include "shm/stats.h"
#include "tests/unit/audit/help.h"
#include "tools/replay_feed.h"

static struct bench *b;
static struct stats segment;
static struct replay_set *s;
static struct replay_feed f;
static _Atomic int stop;
static pid_t instance;
static uint64_t number;

static void logged(uint16_t topic, int32_t partition, int64_t offset, uint8_t key) {
    struct entry e = *entry_make(topic, partition, offset, 0);
    memset(e.digest_key, key, sizeof e.digest_key);
    log_writer_add(&b->writer, 0, 77, ++number, &e);
    cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0, "%s", b->err.text);
}

static void partition(uint32_t slot, uint32_t topic, int32_t number_of_it, int64_t committed) {
    struct stats_partition *p = stats_partition(&segment, slot);
    p->topic = topic;
    p->partition = number_of_it;
    atomic_store(&p->assigned, 1);
    atomic_store(&p->committed, committed);
    if (slot >= segment.header->partition_count) segment.header->partition_count = slot + 1;
}

static void start(void) {
    struct err err = {0};
    int fd;
    b = bench_make();
    snprintf(b->config.run_dir, sizeof b->config.run_dir, "%s", b->dir);
    b->config.topic[0].reconcile = b->config.topic[1].reconcile = RECONCILE_DIGEST;
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    cr_assert_eq(stats_create(&segment, &b->config, &fd, &err), 0, "%s", err.text);
    partition(0, 0, 0, 10);
    partition(1, 1, 3, 50);
    s = replay_set_new();
    f = (struct replay_feed){
        .at = {b->dir, b->config.name}, .config = &b->config, .dir = b->log, .timeout_s = 10, .stop = &stop};
}

static void end(void) {
    if (instance > 0) {
        kill(instance, SIGKILL);
        waitpid(instance, NULL, 0);
    }
    replay_feed_free(&f);
    replay_set_free(s);
    stats_close(&segment);
    bench_drop(b);
}

TestSuite(replay_feed, .init = start, .fini = end, .timeout = 60);

/* "cards/0<6:0,2 limits/3<50:" of a request. */
static void note(const struct refeed_wanted *w) {
    char path[128], line[512];
    size_t len = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        len += (size_t)snprintf(line + len, sizeof line - len, "%s%s/%d<%lld:", i > 0 ? " " : "", w->part[i]->topic,
                                w->part[i]->partition, (long long)w->part[i]->until);
        for (uint32_t k = 0; k < w->part[i]->count; k++)
            len +=
                (size_t)snprintf(line + len, sizeof line - len, "%s%lld", k > 0 ? "," : "", (long long)w->offset[i][k]);
    }
    snprintf(path, sizeof path, "%s/asked", b->dir);
    FILE *out = fopen(path, "a");
    fprintf(out, "%s\n", line);
    fclose(out);
}

/* The first `ended` requests are given up, after another record of key 1 was logged; limits[3] is `third`. */
static void answer(int *ended, enum refeed_state third) {
    char folder[PATH_BYTES + 64], path[PATH_BYTES + 512], id[REFEED_ID_BYTES] = "";
    struct refeed_wanted w;
    struct refeed_outcome o[8] = {0};
    struct err err = {0};
    struct dirent *e;
    refeed_path(folder, b->dir, NULL, NULL);
    DIR *d = opendir(folder);
    while (d != NULL && (e = readdir(d)) != NULL)
        if (strstr(e->d_name, ".refeed") != NULL) memcpy(id, e->d_name, REFEED_ID_BYTES - 1);
    if (d != NULL) closedir(d);
    refeed_path(path, b->dir, id, "refeed");
    if (refeed_request_read(path, &w, &err) != 0) _exit(1);
    note(&w);
    for (uint32_t i = 0; i < w.count; i++) {
        memcpy(o[i].topic, w.part[i]->topic, TOPIC_BYTES);
        o[i].partition = w.part[i]->partition;
        o[i].state = *ended > 0 ? REFEED_ENDED : o[i].partition == 3 ? third : REFEED_DONE;
        o[i].asked = w.part[i]->count;
        o[i].fed = o[i].state == REFEED_DONE ? o[i].asked : 0;
    }
    if (*ended > 0) logged(0, 0, 100 + *ended, 1);
    struct refeed_result r = {.partitions = w.count, .partition = o};
    if (*ended > 0) snprintf(r.reason, sizeof r.reason, "given up %d", *ended);
    *ended -= *ended > 0;
    if (refeed_result_write(b->dir, id, &r, &err) != 0) _exit(1);
    free(w.memory);
}

static void play(int ended, enum refeed_state third) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "%s/%.9s.sock", b->dir, b->config.name);
    cr_assert(bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 8) == 0);
    instance = fork();
    if (instance != 0) {
        close(fd);
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        char line[64];
        int client = accept(fd, NULL, NULL);
        static const char ok[] = "{\"ok\":true,\"message\":\"asked\"}\n";
        if (recv(client, line, sizeof line, 0) < 0 || send(client, ok, sizeof ok - 1, MSG_NOSIGNAL) < 0) _exit(1);
        close(client);
        answer(&ended, third);
    }
}

static const char *asked(void) {
    static char text[4096];
    char path[128];
    snprintf(path, sizeof path, "%s/asked", b->dir);
    FILE *in = fopen(path, "r");
    text[in != NULL ? fread(text, 1, sizeof text - 1, in) : 0] = 0;
    if (in != NULL) fclose(in);
    return text;
}

static void choose(const char *topic, int64_t from, int64_t to) {
    struct log_query q = {.topic = topic, .partition = -1, .offset_from = from, .offset_to = to};
    cr_assert_eq(replay_set_choose(s, b->log, &q, false, &b->err), 0, "%s", b->err.text);
}

static void run(void) { cr_assert_eq(replay_feed_run(&f, s, &b->err), 0, "%s", b->err.text); }

static const char *printed(bool json) {
    static char text[4096];
    memset(text, 0, sizeof text);
    FILE *out = fmemopen(text, sizeof text - 1, "w");
    replay_feed_print(out, &f, s, json);
    fclose(out);
    return text;
}

Test(replay_feed, asks_for_the_chosen_records_and_what_follows_up_to_the_end_of_the_log) {
    for (int64_t i = 0; i < 6; i++) logged(0, 0, i, (uint8_t)(1 + i % 2));
    logged(1, 3, 7, 1);
    choose("cards", 2, 3);
    play(0, REFEED_DONE);
    run();
    cr_assert_str_eq(asked(), "cards/0<6:2,4 limits/3<8:\ncards/0<6: limits/3<8:7\n");
    cr_assert(f.fed == 3 && f.requests == 2 && replay_feed_status(&f) == EX_OK);
    cr_assert_not_null(strstr(printed(false), "1 records chosen, 2 that follow them; 3 fed again"), "%s",
                       printed(false));
    cr_assert_not_null(strstr(printed(true), "{\"chosen\":1,\"following\":2,\"requests\":2,\"fed\":3,"), "%s",
                       printed(true));
}

/* Ingest keeps the order within a partition. Keys that have nothing to do with it need not wait. */
Test(replay_feed, has_one_partition_done_before_it_goes_on_in_another) {
    logged(0, 0, 0, 1);
    logged(1, 3, 20, 1);
    logged(1, 3, 21, 1);
    logged(1, 3, 22, 2);
    logged(0, 0, 1, 1);
    logged(0, 0, 2, 3);
    choose("cards", 0, 3);
    struct log_query q = {.topic = "limits", .partition = 3, .offset_from = 22, .offset_to = 23};
    cr_assert_eq(replay_set_choose(s, b->log, &q, false, &b->err), 0);
    play(0, REFEED_DONE);
    run();
    cr_assert_str_eq(asked(), "cards/0<3:0,2 limits/3<23:22\ncards/0<3: limits/3<23:20,21\ncards/0<3:1 limits/3<23:\n");
    cr_assert(f.fed == 6 && f.ended == 0);
}

Test(replay_feed, holds_partitions_that_the_log_says_nothing_of_where_they_were_committed) {
    logged(0, 0, 0, 1);
    choose("cards", 0, 1);
    partition(2, 1, 4, -1); /* never committed: nothing was read of it */
    play(0, REFEED_DONE);
    run();
    cr_assert_str_eq(asked(), "cards/0<1:0 limits/3<50:\n");
}

Test(replay_feed, leaves_partitions_out_that_are_not_logged) {
    b->config.topic[1].reconcile = RECONCILE_OFF;
    logged(0, 0, 0, 1);
    choose("cards", 0, 1);
    play(0, REFEED_DONE);
    run();
    cr_assert_str_eq(asked(), "cards/0<1:0\n");
}

Test(replay_feed, keeps_within_the_rate_and_together_what_hangs_together) {
    for (int64_t i = 0; i < 6; i++) logged(0, 0, i, (uint8_t)(1 + i % 3));
    choose("cards", 0, 6);
    play(0, REFEED_DONE);
    f.rate = 3;
    run();
    cr_assert_str_eq(asked(), "cards/0<6:0,3 limits/3<50:\ncards/0<6:1,4 limits/3<50:\ncards/0<6:2,5 limits/3<50:\n");
    cr_assert(f.requests == 3 && f.fed == 6);
}

/* What was written meanwhile to the keys of a piece belongs to it when it is sent again. */
Test(replay_feed, asks_again_with_what_came_since_when_it_is_given_up) {
    logged(0, 0, 0, 1);
    choose("cards", 0, 1);
    play(2, REFEED_DONE);
    run();
    cr_assert_str_eq(asked(), "cards/0<1:0 limits/3<50:\ncards/0<103:0,102 limits/3<50:\n"
                              "cards/0<103:0,101,102 limits/3<50:\n");
    cr_assert(f.fed == 3 && f.ended == 0 && replay_feed_status(&f) == EX_OK);
}

Test(replay_feed, gives_up_after_some_attempts) {
    logged(0, 0, 0, 1);
    choose("cards", 0, 1);
    play(100, REFEED_DONE);
    run();
    cr_assert(f.ended > 0 && replay_feed_status(&f) == EX_TEMPFAIL);
    cr_assert_not_null(strstr(printed(false), "given up"), "%s", printed(false));
}

Test(replay_feed, names_what_another_instance_has_to_do) {
    logged(0, 0, 0, 1);
    logged(1, 3, 7, 2);
    choose(NULL, 0, 100);
    atomic_store(&stats_partition(&segment, 1)->assigned, 0); /* it has moved away since */
    play(0, REFEED_ELSEWHERE);
    run();
    cr_assert_str_eq(asked(), "cards/0<1:0 limits/3<8:7\n");
    cr_assert(f.fed == 1 && f.elsewhere == 1 && replay_feed_status(&f) == 1);
    cr_assert_not_null(strstr(printed(false), "1 records are of partitions that another instance reads"));
}

Test(replay_feed, stops_when_it_is_told_to) {
    for (int64_t i = 0; i < 4; i++) logged(0, 0, i, (uint8_t)(1 + i));
    choose("cards", 0, 4);
    atomic_store(&stop, 1);
    run();
    cr_assert(f.left == 4 && f.fed == 0 && replay_feed_status(&f) == EX_TEMPFAIL);
    atomic_store(&stop, 0);
}

Test(replay_feed, without_an_instance_says_so) {
    logged(0, 0, 0, 1);
    choose("cards", 0, 1);
    cr_assert_eq(replay_feed_run(&f, s, &b->err), -1);
    cr_assert_eq(b->err.code, EX_UNAVAILABLE, "%s", b->err.text);
    cr_assert_eq(replay_feed_status(&f), EX_OK, "the error has the status");
}

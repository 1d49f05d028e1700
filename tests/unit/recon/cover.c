#include "recon/cover.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "recon/db.h"
#include "shm/stats.h"

static struct config config;
static struct stats stats;
static sqlite3 *db;
static struct cover *cover;
static struct err err;
static char folder[64], asked[4096];
static int refuse;

static int fake_ask(const struct config *c, const char *request, struct err *e) {
    cr_assert_eq(c, &config);
    strncat(asked, request, sizeof asked - strlen(asked) - 1);
    return refuse ? err_set(e, EX_UNAVAILABLE, "nobody") : 0;
}

static void begin(void) {
    int fd;
    log_init("node", "recon", -1, 0, LOG_ERROR);
    snprintf(folder, sizeof folder, "/tmp/millrace-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(config.run_dir, sizeof config.run_dir, "%s", folder);
    snprintf(config.name, sizeof config.name, "unit");
    config.lanes = 1;
    config.topic_count = 2;
    snprintf(config.topic[0].name, TOPIC_BYTES, "cards");
    snprintf(config.topic[1].name, TOPIC_BYTES, "others");
    cr_assert_eq(stats_create(&stats, &config, &fd, &err), 0, "%s", err.text);
    cr_assert_eq(sqlite3_open(":memory:", &db), SQLITE_OK);
    cr_assert_eq(db_run(db, db_schema, &err), 0, "%s", err.text);
    cr_assert_eq(db_topic(db, "cards", true, &err), 1, "%s", err.text);
    cr_assert_eq(db_topic(db, "others", true, &err), 2);
    for (uint32_t i = 0; i < 3; i++) {
        struct stats_partition *p = stats_partition(&stats, i);
        p->topic = i / 2;
        p->partition = (int32_t)i % 2;
    }
    atomic_store(&stats.header->partition_count, 3);
    cover = cover_new(db, &config, &stats, fake_ask);
}

static void end(void) {
    char command[128];
    cover_free(cover);
    sqlite3_close(db);
    stats_close(&stats);
    snprintf(command, sizeof command, "%s/unit.stats", folder);
    unlink(command);
    rmdir(folder);
}

static void lost(uint32_t i, int64_t from, int64_t to) {
    atomic_store(&stats_partition(&stats, i)->lost_from, from);
    atomic_store(&stats_partition(&stats, i)->lost_to, to);
}

/* A load of the topic "cards" that begins in partition 0 at offset 500. */
static void load(int id, int64_t created_ms, const char *end_ms, int snapshot, int aborted, bool places) {
    char sql[512];
    snprintf(sql, sizeof sql,
             "INSERT INTO load(id, topic, producer, state, snapshot, created_ms, ended_ms, aborted, changed_ms, count) "
             "VALUES(x'%032x', 1, 5, 1, %d, %lld, %s, %d, 0, 10); INSERT INTO load_begun VALUES(x'%032x', 1, %lld)",
             (unsigned)id, snapshot, (long long)created_ms, end_ms, aborted, (unsigned)id, (long long)created_ms + 10);
    cr_assert_eq(db_run(db, sql, &err), 0, "%s", err.text);
    snprintf(sql, sizeof sql, "INSERT INTO load_place VALUES(x'%032x', 1, 0, 500)", (unsigned)id);
    if (places) cr_assert_eq(db_run(db, sql, &err), 0, "%s", err.text);
}

static void run(const char *sql) { cr_assert_eq(db_run(db, sql, &err), 0, "%s", err.text); }

static const char *step(int64_t now_ms) {
    asked[0] = 0;
    cr_assert_eq(cover_step(cover, now_ms, &err), 0, "%s", err.text);
    return asked;
}

Test(cover, a_load_of_all_keys_after_the_loss_is_told_of, .init = begin, .fini = end) {
    load(1, 900, "950", 1, 0, true);
    cr_assert_str_eq(step(1000), "");
    lost(0, 0, 100);
    lost(1, 0, 50);
    lost(2, 0, 50);
    cr_assert_str_eq(step(1000), "", "it began before");
    load(2, 2000, "2100", 1, 0, true);
    cr_assert_str_eq(step(2200), "accept-loss cards 0 00000000-0000-0000-0000-000000000002 500\n",
                     "that nothing of it is in the other partition is not proven yet");
    run("UPDATE load SET state = 4");
    cr_assert_str_eq(step(2300), "accept-loss cards 1 00000000-0000-0000-0000-000000000002 -1\n");
    cr_assert_str_eq(step(2300), "", "not again and again");
    lost(0, 0, 0);
    cr_assert_str_eq(step(63000), "accept-loss cards 1 00000000-0000-0000-0000-000000000002 -1\n");
    load(3, 63500, "63600", 1, 0, true);
    run("UPDATE load SET state = 4");
    cr_assert_str_eq(step(63700), "accept-loss cards 1 00000000-0000-0000-0000-000000000003 -1\n",
                     "a newer one at once");
    lost(0, 100, 200);
    cr_assert_str_eq(step(64000), "", "a loss that is newer than all loads");
}

Test(cover, loads_that_prove_nothing_do_not_count, .init = begin, .fini = end) {
    lost(0, 0, 100);
    step(1000);
    load(1, 2000, "2100", 0, 0, true);  /* some keys */
    load(2, 2000, "NULL", 1, 0, true);  /* not at its end */
    load(3, 2000, "2100", 1, 1, true);  /* given up */
    load(4, 2000, "2100", 1, 0, false); /* a producer that does not say where it went */
    cr_assert_str_eq(step(3000), "");
}

/* What anybody can write on the topic of manifests makes up for no loss. */
Test(cover, loads_that_are_made_up_do_not_count, .init = begin, .fini = end) {
    lost(0, 0, 100);
    lost(1, 0, 100);
    step(1000);
    load(1, 2000, "2100", 1, 0, true); /* that nothing at all was published */
    run("UPDATE load SET count = 0");
    cr_assert_str_eq(step(3000), "");
    run("DELETE FROM load; DELETE FROM load_place");
    load(2, 400000000, "2100", 1, 0, true); /* of the day after tomorrow, begun before */
    run("UPDATE load_begun SET noted_ms = 2000");
    cr_assert_str_eq(step(3000), "");
    run("DELETE FROM load; DELETE FROM load_place");
    load(3, 2000, "2100", 1, 0, true); /* its begin stood there before the loss */
    run("UPDATE load_begun SET noted_ms = 999");
    cr_assert_str_eq(step(3000), "");
    run("DELETE FROM load_begun");
    cr_assert_str_eq(step(3000), "", "a begin that was never read");
    load(4, 1500, "1600", 1, 0, true); /* an honest one that is older than these */
    cr_assert_str_eq(step(3000), "accept-loss cards 0 00000000-0000-0000-0000-000000000004 500\n");
}

Test(cover, when_a_loss_was_seen_is_known_after_a_restart, .init = begin, .fini = end) {
    lost(0, 0, 100);
    step(1000);
    load(1, 2000, "2100", 1, 0, true);
    cover_free(cover);
    cover = cover_new(db, &config, &stats, fake_ask);
    cr_assert_str_eq(step(5000), "accept-loss cards 0 00000000-0000-0000-0000-000000000001 500\n");
    lost(0, 0, 0);
    step(6000);
    cover_free(cover);
    cover = cover_new(db, &config, &stats, fake_ask);
    lost(0, 100, 200);
    cr_assert_str_eq(step(7000), "", "that one is new");
}

Test(cover, who_does_not_answer_is_asked_again, .init = begin, .fini = end) {
    lost(0, 0, 100);
    step(1000);
    load(1, 2000, "2100", 1, 0, true);
    refuse = 1;
    cr_assert_neq(step(3000)[0], 0);
    cr_assert_neq(step(63100)[0], 0);
}

Test(cover, a_supervisor_that_is_not_there_is_reported, .init = begin, .fini = end) {
    cr_assert_eq(cover_ask_supervisor(&config, "accept-loss\n", &err), -1);
    cr_assert_eq(err.code, EX_UNAVAILABLE);
    cr_assert_not_null(strstr(err.text, "/unit.sock: "), "%s", err.text);
}

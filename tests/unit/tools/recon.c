#include "recon/db.h"
#include "tests/unit/tools/command.h"
#include "tools/recon_view.h"

#define LOAD "0192a0b0-0000-7000-8000-000000000001"

static sqlite3 *db;

static void run_sql(const char *sql) {
    struct err err = {0};
    cr_assert_eq(db_run(db, sql, &err), 0, "%s: %s", sql, err.text);
}

static void window_put(int topic, int64_t start_ms, int state, int unexplained) {
    char sql[512];
    snprintf(
        sql, sizeof sql,
        "INSERT INTO window(topic, start_ms, state, evidence, published, seen, in_flight, unexplained, unpublished, "
        "reason, since_ms, checked_ms, dirty) VALUES(%d, %lld, %d, 0, %d, 10, 0, %d, 0, '', 1, 1, 0);"
        "INSERT INTO tally(instance, topic, partition, start_ms, published_digest_sum, seen, applied, deleted, "
        "digest_sum, offset_min, offset_max) VALUES(0, %d, 3, %lld, x'', 10, 8, 2, x'', 100, 109);",
        topic, (long long)start_ms, state, 10 + unexplained, unexplained, topic, (long long)start_ms);
    run_sql(sql);
}

static void begin(void) {
    char text[1024];
    struct err err = {0};
    folder_make();
    mkdir(in_folder("data"), 0700);
    mkdir(in_folder("data/audit"), 0700);
    snprintf(text, sizeof text,
             "config_version: 1\nname: cards\ninstance: node1\nrun_dir: %s\ndata_dir: %s/data\nkafka:\n"
             "  bootstrap.servers: localhost:9092\nredis:\n  url: redis://localhost\ntopics:\n"
             "  - {name: cards, mode: bulk, key: \"{$key}\"}\n",
             folder, folder);
    file_put("millrace.yaml", text);
    chmod(in_folder("millrace.yaml"), 0600);
    db = db_open(in_folder("data/recon/recon.db"), &err);
    cr_assert_not_null(db, "%s", err.text);
    run_sql("INSERT INTO topic(id, name) VALUES(1, 'cards'), (2, 'limits')");
}

static void end(void) {
    sqlite3_close(db);
    folder_remove();
}

static void recon(char *a, char *b, char *c, char *d, char *e) {
    run_command(command_recon, (char *[]){"recon", "-c", (char *)in_folder("millrace.yaml"), a, b, c, d, e, NULL});
}

static void shows(const char *text) { cr_assert_not_null(strstr(done.out, text), "%s\n%s", text, done.out); }

Test(recon_command, says_by_its_status_whether_everything_asked_about_matches, .init = begin, .fini = end) {
    recon(NULL, NULL, NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_NOINPUT, "no windows yet");
    window_put(1, 1773526800000, WINDOW_MATCHED, 0);
    recon(NULL, NULL, NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_OK, "%s", done.err);
    shows("2026-03-14T22:20:00.000Z  matched  manifest");
    window_put(1, 1773527400000, WINDOW_PENDING, 0);
    recon(NULL, NULL, NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_TEMPFAIL);
    window_put(2, 1773526800000, WINDOW_MISMATCH, 2);
    recon(NULL, NULL, NULL, NULL, NULL);
    cr_assert_eq(done.status, VIEW_MISMATCH);
    recon("--topic", "cards", "--window", "2026-03-14T22:20:00Z", NULL);
    cr_assert_eq(done.status, EX_OK, "of what was asked about");
    recon("--topic", "limits", NULL, NULL, NULL);
    cr_assert_eq(done.status, VIEW_MISMATCH);
    recon("--topic", "nobody", NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_NOINPUT);
}

Test(recon_command, shows_partitions_records_and_changes_of_a_window, .init = begin, .fini = end) {
    window_put(1, 1773526800000, WINDOW_MISMATCH, 1);
    run_sql("INSERT INTO producer VALUES(77, 'till');"
            "INSERT INTO record(topic, start_ms, kind, partition, \"offset\", producer, sequence, log_sequence, other, "
            "outcome, reason, created_ms, noted_ms) VALUES(1, 1773526800000, 0, -1, -1, 77, 4711, 0, 0, 0, 0, -1, 1), "
            "(1, 1773526800000, 3, 3, 105, 77, 12, 9, 0, 7, 5, 1773526800123, 1);"
            "INSERT INTO window_change(topic, start_ms, at_ms, before, after, reason) VALUES"
            "(1, 1773526800000, 1773526900000, 0, 3, 'records are missing')");
    recon("--window", "1773526800000", "--records", NULL, NULL);
    cr_assert_eq(done.status, VIEW_MISMATCH);
    shows("unexplained");
    shows("4711");
    shows("json_invalid");
    shows("records are missing");
    recon("--window", "1773526800000", "--records", "--format", "json");
    shows("\"kind\":\"unexplained\",\"partition\":null,\"offset\":null,\"id\":null,\"producer\":\"till\",\"sequence\":"
          "4711");
    shows("\"partition\":3,\"published\":null,\"seen\":10,\"applied\":8");
    shows("\"before\":\"pending\",\"after\":\"mismatch\"");
}

Test(recon_command, tells_what_of_a_load_is_missing, .init = begin, .fini = end) {
    recon("--load", LOAD, NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_NOINPUT);
    run_sql(
        "INSERT INTO load(id, topic, producer, state, snapshot, created_ms, ended_ms, count, bytes, first_sequence, "
        "last_sequence, changed_ms, unexplained, reason) VALUES(x'0192a0b0000070008000000000000001', 1, 77, 1, 0, 1, "
        "2, 100, 1, 11, 110, 1, 6, 'records are missing');"
        "INSERT INTO sequence VALUES(0, 1, 77, 1, 10), (0, 1, 77, 13, 50), (0, 1, 77, 53, 108)");
    recon("--load", LOAD, "--format", "json", NULL);
    cr_assert_eq(done.status, VIEW_MISMATCH);
    shows("\"missing\":[\n  {\"first_sequence\":11,\"last_sequence\":12},\n  "
          "{\"first_sequence\":51,\"last_sequence\":52},"
          "\n  {\"first_sequence\":109,\"last_sequence\":110}]");
    run_sql("UPDATE load SET state = 4, unexplained = 0, reason = ''");
    recon("--load", LOAD, "--wait=1", NULL, NULL);
    cr_assert_eq(done.status, EX_OK);
    shows(LOAD);
    run_sql("UPDATE load SET state = 0");
    recon("--load", LOAD, "--wait=1", NULL, NULL);
    cr_assert_eq(done.status, EX_TEMPFAIL, "it has waited, and it is running still");
    run_sql("UPDATE load SET state = 3");
    recon("--load", LOAD, "--wait", NULL, NULL);
    cr_assert_eq(done.status, VIEW_MISMATCH, "an incomplete one is not waited for");
}

Test(recon_command, a_table_has_what_happened_and_json_has_everything, .init = begin, .fini = end) {
    window_put(1, 1773526800000, WINDOW_MATCHED, 0); /* with deletions, and nothing else that is seldom */
    recon("--window", "1773526800000", NULL, NULL, NULL);
    shows("partition  published  seen  applied  deleted  first_offset  last_offset\n");
    recon("--window", "1773526800000", "--format", "json", NULL);
    shows("\"superseded\":0");
    shows("\"late\":0");
    recon("--window", "1773526800001", NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_NOINPUT);
    cr_assert_not_null(strstr(done.err, "no window is known that begins at this time"), "%s", done.err);
    cr_assert_null(strstr(done.out, "no partitions"));
}

Test(recon_command, says_what_an_option_takes, .init = begin, .fini = end) {
    recon("--window", "yesterday", NULL, NULL, NULL);
    cr_assert_not_null(strstr(done.err, "--window takes the beginning of a window: 2026-03-14T22:20:00Z"), "%s",
                       done.err);
    recon("--partition", "x", NULL, NULL, NULL);
    cr_assert_not_null(strstr(done.err, "--partition takes a number"), "%s", done.err);
    recon("--format", "xml", NULL, NULL, NULL);
    cr_assert_not_null(strstr(done.err, "--format is table or json"), "%s", done.err);
}

Test(recon_command, explains_what_it_cannot_do, .init = begin, .fini = end) {
    recon("--window", "yesterday", NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_USAGE);
    recon("--wait", NULL, NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_USAGE);
    recon("--load", "x", NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_USAGE);
    recon("more", NULL, NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_USAGE);
    run_sql("UPDATE meta SET value = 99 WHERE name = 'schema'");
    recon(NULL, NULL, NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_DATAERR, "%s", done.err);
    sqlite3_close(db);
    db = NULL;
    remove(in_folder("data/recon/recon.db"));
    recon(NULL, NULL, NULL, NULL, NULL);
    cr_assert_eq(done.status, EX_NOINPUT);
    cr_assert_not_null(strstr(done.err, "has recon ever run here"));
}

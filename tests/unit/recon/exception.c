#include "recon/exception.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static struct config config;
static sqlite3 *db;
static struct err err;

static void open_database(void) {
    snprintf(config.name, sizeof config.name, "cards");
    snprintf(config.instance, sizeof config.instance, "node1");
    snprintf(config.kafka.group_id, sizeof config.kafka.group_id, "millrace-cards");
    cr_assert_eq(sqlite3_open(":memory:", &db), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(db, exception_schema, NULL, NULL, NULL), SQLITE_OK);
}

static void close_database(void) { sqlite3_close(db); }

TestSuite(exception, .init = open_database, .fini = close_database);

static const struct exception_about window = {EXCEPTION_WINDOW_MISMATCH, "cards.change", 1700000000000, ""};

static int64_t number(const char *sql) {
    sqlite3_stmt *s;
    cr_assert_eq(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK, "%s", sqlite3_errmsg(db));
    cr_assert_eq(sqlite3_step(s), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return n;
}

static void text(const char *sql, char out[64]) {
    sqlite3_stmt *s;
    cr_assert_eq(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    cr_assert_eq(sqlite3_step(s), SQLITE_ROW);
    snprintf(out, 64, "%s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
}

Test(exception, schema_may_be_run_again) {
    cr_assert_eq(sqlite3_exec(db, exception_schema, NULL, NULL, NULL), SQLITE_OK);
}

Test(exception, is_raised_once_and_brought_up_to_date) {
    char now[64];
    cr_assert_eq(exception_raise(db, &config, &window, 3, 1000, &err, "%d records", 3), 0);
    cr_assert_eq(exception_raise(db, &config, &window, 4, 2000, &err, "%d records", 4), 0);
    cr_assert_eq(number("SELECT count(*) FROM exception"), 1);
    cr_assert_eq(number("SELECT count FROM exception"), 4);
    cr_assert_eq(number("SELECT raised_ms FROM exception"), 1000);
    text("SELECT text FROM exception", now);
    cr_assert_str_eq(now, "4 records");
    cr_assert_eq(number("SELECT count(*) FROM delivery"), 1, "a log line, no other channel is configured");
}

Test(exception, has_a_delivery_for_each_configured_channel) {
    snprintf(config.recon.webhook, sizeof config.recon.webhook, "https://receiver.example/hook");
    snprintf(config.recon.command, sizeof config.recon.command, "/bin/true");
    cr_assert_eq(exception_raise(db, &config, &window, 0, 1000, &err, "x"), 0);
    cr_assert_eq(number("SELECT count(*) FROM delivery WHERE channel IN ('log', 'webhook', 'command')"), 3);
}

Test(exception, differs_by_kind_topic_window_and_subject) {
    struct exception_about others[] = {window, window, window, window};
    others[0].kind = EXCEPTION_WINDOW_LATE;
    others[1].topic = "cards.bulk";
    others[2].window_ms += 600000;
    others[3].subject = "partition 3";
    cr_assert_eq(exception_raise(db, &config, &window, 0, 1, &err, "x"), 0);
    for (int i = 0; i < 4; i++) cr_assert_eq(exception_raise(db, &config, &others[i], 0, 1, &err, "x"), 0);
    cr_assert_eq(number("SELECT count(DISTINCT id) FROM exception"), 5);
    cr_assert_eq(exception_open_count(db, EXCEPTION_KIND_COUNT, &err), 5);
    cr_assert_eq(exception_open_count(db, EXCEPTION_WINDOW_MISMATCH, &err), 4);
    cr_assert_eq(exception_clear(db, &window, 2, &err), 0);
    cr_assert_eq(exception_open_count(db, EXCEPTION_WINDOW_MISMATCH, &err), 3, "only the one that was meant");
    cr_assert_eq(exception_clear_kind(db, EXCEPTION_WINDOW_MISMATCH, 2, &err), 0);
    cr_assert_eq(exception_open_count(db, EXCEPTION_KIND_COUNT, &err), 1);
}

Test(exception, that_comes_back_is_another_one) {
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(exception_raise(db, &config, &window, 0, 1000 + i, &err, "x"), 0);
        cr_assert_eq(exception_clear(db, &window, 2000 + i, &err), 0);
    }
    cr_assert_eq(number("SELECT count(DISTINCT id) FROM exception"), 3);
    /* The oldest is forgotten; the next still gets an id that none has had. */
    cr_assert_eq(exception_forget(db, 2001, &err), 0);
    cr_assert_eq(number("SELECT count(*) FROM exception"), 2);
    cr_assert_eq(number("SELECT count(*) FROM delivery"), 2);
    cr_assert_eq(exception_raise(db, &config, &window, 0, 3000, &err, "x"), 0);
    cr_assert_eq(number("SELECT max(occurrence) FROM exception"), 3);
}

Test(exception, open_ones_are_never_forgotten) {
    cr_assert_eq(exception_raise(db, &config, &window, 0, 1, &err, "x"), 0);
    cr_assert_eq(exception_forget(db, INT64_MAX, &err), 0);
    cr_assert_eq(number("SELECT count(*) FROM exception"), 1);
}

Test(exception, id_is_the_same_when_the_transaction_is_done_again) {
    char first[64], again[64], told[EXCEPTION_ID_BYTES];
    sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
    cr_assert_eq(exception_raise(db, &config, &window, 0, 1000, &err, "x"), 0);
    text("SELECT id FROM exception", first);
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    cr_assert_eq(number("SELECT count(*) FROM exception"), 0);
    exception_current_id(db, &config, &window, told);
    cr_assert_eq(exception_raise(db, &config, &window, 0, 9000, &err, "y"), 0);
    text("SELECT id FROM exception", again);
    cr_assert_str_eq(first, again);
    cr_assert_str_eq(first, told);
    exception_current_id(db, &config, &window, told);
    cr_assert_str_eq(first, told, "of the open one");
    exception_clear(db, &window, 9001, &err);
    exception_current_id(db, &config, &window, told);
    cr_assert_str_neq(first, told, "the next is another one");
    cr_assert_eq(first[14], '8', "a version 8 UUID");
    snprintf(config.instance, sizeof config.instance, "node2");
    exception_id(&config, &window, 0, told);
    cr_assert_str_neq(first, told, "another instance, another exception");
}

Test(exception, without_its_deliveries_it_is_not_raised_at_all) {
    sqlite3_exec(db, "DROP TABLE delivery", NULL, NULL, NULL);
    cr_assert_eq(exception_raise(db, &config, &window, 0, 1000, &err, "x"), -1);
    cr_assert_eq(number("SELECT count(*) FROM exception"), 0);
    sqlite3_exec(db, "BEGIN; CREATE TABLE mine(a); INSERT INTO mine VALUES(1)", NULL, NULL, NULL);
    cr_assert_eq(exception_raise(db, &config, &window, 0, 1000, &err, "x"), -1);
    cr_assert_eq(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK, "the caller's transaction goes on");
    cr_assert_eq(number("SELECT count(*) FROM mine"), 1);
    cr_assert_eq(number("SELECT count(*) FROM exception"), 0);
}

Test(exception, every_kind_has_a_name) {
    for (int i = 0; i < EXCEPTION_KIND_COUNT; i++) cr_assert_gt(strlen(exception_kind_name(i)), 3);
    cr_assert_str_eq(exception_kind_name(EXCEPTION_KIND_COUNT), "?");
}

Test(exception, acknowledged_stays_open_and_is_not_counted) {
    char id[64];
    cr_assert_eq(exception_raise(db, &config, &window, 3, 1000, &err, "x"), 0);
    text("SELECT id FROM exception", id);
    cr_assert_eq(exception_acknowledge(db, "00000000-0000-8000-8000-000000000000", 2000, &err), 0);
    cr_assert_eq(exception_acknowledge(db, id, 2000, &err), 1);
    cr_assert_eq(exception_acknowledge(db, id, 3000, &err), 0, "once");
    cr_assert_eq(exception_open_count(db, EXCEPTION_KIND_COUNT, &err), 0);
    cr_assert_eq(exception_raise(db, &config, &window, 4, 4000, &err, "x"), 0);
    cr_assert_eq(number("SELECT count(*) FROM exception"), 1, "still the same");
    cr_assert_eq(exception_clear(db, &window, 5000, &err), 0);
    cr_assert_eq(exception_raise(db, &config, &window, 1, 6000, &err, "x"), 0);
    cr_assert_eq(exception_open_count(db, EXCEPTION_KIND_COUNT, &err), 1, "what comes back is another one");
}

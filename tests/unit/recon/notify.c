#include "recon/notify.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "recon/acknowledge.h"
#include "recon/exception.h"
#include "recon/silence.h"
#include "tests/unit/recon/receiver.h"

static struct config config;
static sqlite3 *db;
static struct err err;
static struct notify *n;
static struct receiver receiver;
static char folder[64], program[128], taken[128], database[128];
static uint64_t now_ns; /* of the test's clock, which stands still unless told */

static uint64_t test_ns(void *context) { return context == NULL ? now_ns : 0; }
static int64_t test_wall(void *context) { return context == NULL ? 1700000000000 + (int64_t)(now_ns / NS_PER_MS) : 0; }
static void test_random(void *context, void *out, size_t len) {
    (void)context;
    memset(out, 0, len);
}
static const struct clock_port test_clock = {test_ns, test_wall, test_ns, test_random, NULL};

static void database_open(void) {
    cr_assert_eq(sqlite3_open(database, &db), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(db, exception_schema, NULL, NULL, NULL), SQLITE_OK, "%s", sqlite3_errmsg(db));
}

static void begin(void) {
    char path[PATH_BYTES];
    now_ns = NS_PER_S;
    snprintf(folder, sizeof folder, "/tmp/millrace-notify-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(config.data_dir, sizeof config.data_dir, "%s", folder);
    snprintf(path, sizeof path, "%s/recon", folder);
    mkdir(path, 0750);
    snprintf(database, sizeof database, "%s/recon/recon.db", folder);
    snprintf(program, sizeof program, "%s/program", folder);
    snprintf(taken, sizeof taken, "%s/taken", folder);
    snprintf(config.name, sizeof config.name, "cards");
    snprintf(config.instance, sizeof config.instance, "node1");
    snprintf(config.kafka.group_id, sizeof config.kafka.group_id, "millrace-cards");
    config.recon.window_ms = 600000;
    log_init("cards", "recon", -1, 0, LOG_ERROR);
    database_open();
}

static void end(void) {
    char command[256];
    notify_close(n);
    sqlite3_close(db);
    snprintf(command, sizeof command, "rm -r %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(notify, .init = begin, .fini = end, .timeout = 60);

static void open_notify(void) {
    n = notify_open(db, &config, &test_clock, &err);
    cr_assert_not_null(n, "%s", err.text);
}

static void with_webhook(int answer) {
    receiver_start(&receiver, answer);
    snprintf(config.recon.webhook, sizeof config.recon.webhook, "%s", receiver.url);
}

static void with_command(const char *text) {
    FILE *f = fopen(program, "w");
    fprintf(f, "#!/bin/sh\n%s\n", text);
    fclose(f);
    chmod(program, 0755);
    snprintf(config.recon.command, sizeof config.recon.command, "%s", program);
}

static void raise_window(const char *topic, int64_t window_ms) {
    struct exception_about about = {EXCEPTION_WINDOW_MISMATCH, topic, window_ms, ""};
    cr_assert_eq(exception_raise(db, &config, &about, 2, test_wall(NULL), &err, "two \"records\""), 0, "%s", err.text);
}

static int64_t number(const char *sql) {
    sqlite3_stmt *s;
    cr_assert_eq(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK, "%s", sqlite3_errmsg(db));
    cr_assert_eq(sqlite3_step(s), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return value;
}
static int64_t undone(void) { return number("SELECT count(*) FROM delivery WHERE done_ms = 0"); }

/* Steps until nothing is under way at this time of the test's clock. */
static void settle(void) {
    struct pollfd fds[8];
    for (int quiet = 0; quiet < 3;) {
        now_ns += NS_PER_S / 4;
        quiet = notify_step(n) ? 0 : quiet + 1;
        for (int timeout_ms = 100, fd_count; (fd_count = notify_wants(n, fds, 8, &timeout_ms)) > 0; timeout_ms = 100) {
            poll(fds, (nfds_t)fd_count, timeout_ms > 20 ? 20 : timeout_ms);
            notify_step(n);
            quiet = 0;
        }
    }
}

Test(notify, sends_each_once_over_every_channel) {
    char text[2048] = "", wanted[1024];
    with_webhook(200);
    snprintf(text, sizeof text, "cat >>%s", taken);
    with_command(text);
    open_notify();
    raise_window("cards.change", 1700000400000);
    raise_window("cards.bulk", 1700000400000);
    settle();
    cr_assert_eq(undone(), 0);
    cr_assert_eq(receiver.count, 2);
    cr_assert_str_neq(receiver.id[0], receiver.id[1]);
    cr_assert_eq(notify_counts(n).sent, 6);
    cr_assert_eq(notify_counts(n).failed, 0);
    int fd = open(taken, O_RDONLY);
    text[read(fd, text, sizeof text - 1)] = '\0';
    close(fd);
    cr_assert_eq(strncmp(strchr(text, '\n') + 1, "{\"id\":\"", 7), 0, "one line each: %s", text);
    const char *topic = strstr(receiver.body, "\"topic\":\"cards.change\"") != NULL ? "cards.change" : "cards.bulk";
    snprintf(wanted, sizeof wanted,
             "{\"id\":\"%s\",\"kind\":\"window_mismatch\",\"name\":\"cards\",\"group\":\"millrace-cards\","
             "\"instance\":\"node1\",\"topic\":\"%s\",\"window_from\":\"2023-11-14T22:20:00.000Z\","
             "\"window_to\":\"2023-11-14T22:30:00.000Z\",\"subject\":null,\"count\":2,"
             "\"text\":\"two \\\"records\\\"\",\"raised\":\"2023-11-14T22:13:21.000Z\"}\n",
             receiver.id[1], topic);
    cr_assert_str_eq(receiver.body, wanted);
    now_ns += 3600 * NS_PER_S;
    settle();
    cr_assert_eq(receiver.count, 2);
}

Test(notify, tries_again_ever_more_slowly_with_the_same_id) {
    with_webhook(500);
    open_notify();
    raise_window("cards.change", 1700000400000);
    settle();
    cr_assert_eq(receiver.count, 1 + (now_ns > 2 * NS_PER_S), "at once, and after a second");
    int early = receiver.count;
    for (int minutes = 0; minutes < 60; minutes++) {
        now_ns += 60 * NS_PER_S;
        settle();
    }
    cr_assert(receiver.count - early >= 11 && receiver.count - early <= 20, "%d in an hour", receiver.count - early);
    atomic_store(&receiver.answer, 200);
    now_ns += NOTIFY_BACKOFF_MS_MAX * NS_PER_MS;
    settle();
    cr_assert_eq(undone(), 0);
    int count = receiver.count;
    for (int i = 1; i < count; i++) cr_assert_str_eq(receiver.id[i], receiver.id[0]);
    now_ns += 3600 * NS_PER_S;
    settle();
    cr_assert_eq(receiver.count, count);
}

Test(notify, one_channel_does_not_hold_up_the_other) {
    char text[256];
    with_webhook(RECEIVER_HANG);
    snprintf(text, sizeof text, "cat >>%s", taken);
    with_command(text);
    open_notify();
    for (int i = 0; i < 3; i++) raise_window("cards.change", i * 600000);
    struct pollfd fds[8];
    while (number("SELECT count(*) FROM delivery WHERE done_ms = 0 AND channel = 'command'") > 0) {
        int timeout_ms = 10, fd_count = notify_wants(n, fds, 8, &timeout_ms);
        poll(fds, (nfds_t)fd_count, 5);
        now_ns += NS_PER_MS;
        notify_step(n);
    }
    cr_assert_eq(receiver.count, 1, "the first is still with the receiver");
    atomic_store(&receiver.answer, 200);
    settle();
    cr_assert_eq(undone(), 0);
}

Test(notify, one_that_fails_does_not_hold_up_the_next) {
    with_command("case $(cat) in *cards.bad*) exit 1;; esac");
    open_notify();
    raise_window("cards.bad", 600000);
    raise_window("cards.good", 600000);
    settle();
    cr_assert_eq(number("SELECT count(*) FROM delivery d JOIN exception e ON e.id = d.exception WHERE done_ms = 0 AND"
                        " topic = 'cards.bad'"),
                 1);
    cr_assert_eq(undone(), 1);
    cr_assert_eq(number("SELECT error = 'it ended with status 1' FROM delivery WHERE done_ms = 0"), 1);
}

Test(notify, killed_before_it_is_noted_sends_again_under_the_same_id) {
    with_webhook(RECEIVER_HANG);
    open_notify();
    raise_window("cards.change", 600000);
    while (receiver.count == 0) {
        now_ns += NS_PER_MS;
        notify_step(n); /* the receiver has it; nobody has heard its answer */
    }
    notify_close(n);
    sqlite3_close(db);
    atomic_store(&receiver.answer, 200);
    database_open();
    open_notify();
    settle();
    cr_assert_eq(undone(), 0);
    cr_assert_eq(receiver.count, 2);
    cr_assert_str_eq(receiver.id[0], receiver.id[1]);
}

Test(notify, result_that_cannot_be_stored_is_kept_and_not_sent_again) {
    with_webhook(200);
    open_notify();
    raise_window("cards.change", 600000);
    sqlite3_exec(db, "PRAGMA query_only = 1", NULL, NULL, NULL);
    for (int i = 0; i < 3; i++) settle();
    cr_assert_eq(receiver.count, 1);
    cr_assert_eq(undone(), 2);
    sqlite3_exec(db, "PRAGMA query_only = 0", NULL, NULL, NULL);
    now_ns += 2 * NS_PER_S;
    settle();
    cr_assert_eq(undone(), 0);
    cr_assert_eq(receiver.count, 1);
}

Test(notify, silenced_window_is_sent_when_the_silence_is_over) {
    char path[PATH_BYTES + 32];
    static struct silences s;
    struct silence item = {.window_ms = 600000, .topic = "*"};
    with_webhook(200);
    open_notify();
    item.until_ms = test_wall(NULL) + 60000;
    cr_assert_eq(silences_put(&s, &item, test_wall(NULL)), 0);
    silences_path(&config, path);
    cr_assert_eq(silences_write(path, &s, &err), 0);
    raise_window("cards.change", 600000);
    raise_window("cards.change", 1200000);
    settle();
    cr_assert_eq(receiver.count, 1, "only the other window");
    cr_assert_eq(undone(), 2, "not even a log line");
    now_ns += 61 * NS_PER_S;
    settle();
    cr_assert_eq(undone(), 0);
    cr_assert_eq(receiver.count, 2);
}

Test(notify, silence_that_is_lifted_counts_at_once) {
    char path[PATH_BYTES + 32];
    static struct silences s;
    struct silence item = {.window_ms = 600000, .topic = "cards.change", .until_ms = INT64_MAX};
    open_notify();
    silences_path(&config, path);
    silences_put(&s, &item, 0);
    cr_assert_eq(silences_write(path, &s, &err), 0);
    raise_window("cards.change", 600000);
    settle();
    cr_assert_eq(undone(), 1);
    item.until_ms = 0;
    silences_put(&s, &item, 0);
    cr_assert_eq(silences_write(path, &s, &err), 0);
    now_ns += 2 * NS_PER_S;
    settle();
    cr_assert_eq(undone(), 0);
}

Test(notify, acknowledged_is_not_sent_any_more) {
    with_webhook(500);
    open_notify();
    raise_window("cards.change", 600000);
    settle();
    cr_assert_eq(acknowledge_put(&config, receiver.id[0], &err), 0, "%s", err.text);
    cr_assert_eq(acknowledge_put(&config, "nonsense", &err), 0);
    sqlite3_exec(db, "PRAGMA query_only = 1", NULL, NULL, NULL);
    now_ns += 2 * NS_PER_S;
    notify_step(n); /* cannot be stored: the file stays */
    sqlite3_exec(db, "PRAGMA query_only = 0", NULL, NULL, NULL);
    now_ns += 2 * NS_PER_S;
    settle();
    cr_assert_eq(number("SELECT count(*) FROM exception WHERE acknowledged_ms > 0"), 1);
    int tried = receiver.count;
    now_ns += 3600 * NS_PER_S;
    settle();
    cr_assert_eq(receiver.count, tried);
    cr_assert_eq(undone(), 1);
    char path[192];
    snprintf(path, sizeof path, "%s/recon/acknowledged", folder);
    cr_assert_neq(access(path, F_OK), 0, "taken");
}

Test(notify, clock_that_was_set_back_does_not_delay) {
    with_webhook(500);
    open_notify();
    raise_window("cards.change", 600000);
    settle();
    int before = receiver.count;
    sqlite3_exec(db, "UPDATE delivery SET next_ms = next_ms + 86400000 WHERE done_ms = 0", NULL, NULL, NULL);
    settle();
    cr_assert_gt(receiver.count, before);
}

/* -- audit ------------------------------------------------------------------------------------- */

static void audit_for(bool cannot_write, uint64_t ms) {
    for (uint64_t i = 0; i <= ms; i += 100) {
        notify_audit(n, cannot_write, 4711, "No space left on device");
        now_ns += 100 * NS_PER_MS;
    }
    settle();
}

Test(notify, audit_is_given_a_moment_before_it_is_an_exception) {
    open_notify();
    audit_for(true, NOTIFY_AUDIT_PATIENCE_MS / 2);
    audit_for(false, 200);
    audit_for(true, NOTIFY_AUDIT_PATIENCE_MS / 2);
    audit_for(false, 200);
    cr_assert_eq(number("SELECT count(*) FROM exception"), 0);
}

Test(notify, audit_that_cannot_write_is_raised_once_and_cleared) {
    with_webhook(200);
    open_notify();
    audit_for(true, 2 * NOTIFY_AUDIT_PATIENCE_MS);
    audit_for(true, NOTIFY_AUDIT_PATIENCE_MS);
    cr_assert_eq(exception_open_count(db, EXCEPTION_AUDIT_CANNOT_WRITE, &err), 1);
    cr_assert_eq(receiver.count, 1);
    cr_assert_not_null(strstr(receiver.body, "\"subject\":\"entry 4711\""), "%s", receiver.body);
    cr_assert_not_null(strstr(receiver.body, "\"text\":\"No space left on device\""), "%s", receiver.body);
    audit_for(false, 2000);
    cr_assert_eq(exception_open_count(db, EXCEPTION_AUDIT_CANNOT_WRITE, &err), 0);
    audit_for(true, 2 * NOTIFY_AUDIT_PATIENCE_MS);
    cr_assert_eq(receiver.count, 2, "a second time is another one");
    cr_assert_str_neq(receiver.id[0], receiver.id[1]);
}

Test(notify, successor_clears_what_its_predecessor_has_raised) {
    open_notify();
    audit_for(true, 2 * NOTIFY_AUDIT_PATIENCE_MS);
    notify_close(n);
    open_notify();
    audit_for(true, 2 * NOTIFY_AUDIT_PATIENCE_MS);
    cr_assert_eq(number("SELECT count(*) FROM exception"), 1, "still the same");
    notify_close(n);
    open_notify();
    audit_for(false, 2000);
    cr_assert_eq(exception_open_count(db, EXCEPTION_AUDIT_CANNOT_WRITE, &err), 0);
}

Test(notify, full_disk_does_not_keep_the_word_from_getting_out) {
    with_webhook(200);
    with_command("exit 1");
    open_notify();
    sqlite3_exec(db, "PRAGMA query_only = 1", NULL, NULL, NULL);
    audit_for(true, 2 * NOTIFY_AUDIT_PATIENCE_MS);
    cr_assert_eq(receiver.count, 1);
    cr_assert_eq(number("SELECT count(*) FROM exception"), 0);
    notify_close(n); /* a successor that cannot store it either says it again, as the same */
    open_notify();
    audit_for(true, 2 * NOTIFY_AUDIT_PATIENCE_MS);
    cr_assert_eq(receiver.count, 2);
    cr_assert_str_eq(receiver.id[0], receiver.id[1]);
    sqlite3_exec(db, "PRAGMA query_only = 0", NULL, NULL, NULL);
    audit_for(true, 2000);
    cr_assert_eq(receiver.count, 2, "stored, and noted as sent");
    cr_assert_eq(number("SELECT count(*) FROM exception WHERE cleared_ms = 0"), 1);
    cr_assert_eq(undone(), 1, "the command has not taken it yet");
    with_command("exit 0");
    now_ns += 600 * NS_PER_S;
    settle();
    cr_assert_eq(undone(), 0);
}

Test(notify, full_disk_that_is_mended_at_once_leaves_its_exception_on_record) {
    with_webhook(200);
    open_notify();
    sqlite3_exec(db, "PRAGMA query_only = 1", NULL, NULL, NULL);
    audit_for(true, 2 * NOTIFY_AUDIT_PATIENCE_MS);
    sqlite3_exec(db, "PRAGMA query_only = 0", NULL, NULL, NULL);
    audit_for(false, 3000);
    cr_assert_eq(receiver.count, 1);
    cr_assert_eq(number("SELECT count(*) FROM exception WHERE cleared_ms > 0"), 1);
    cr_assert_eq(undone(), 0);
}

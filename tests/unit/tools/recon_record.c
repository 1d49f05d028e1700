#include "tests/unit/tools/command.h"

#include "audit/writer.h"
#include "base/audit_keys.h"
#include "base/digest.h"
#include "recon/db.h"
#include "recon/live.h"
#include "shm/record.h"

static struct config config;
static struct audit_keys keys;
static struct log_writer writer;
static struct err err;

static char *file(void) { return (char *)(uintptr_t)in_folder("millrace.yaml"); }

static void log_open(void) {
    char dir[PATH_BYTES + 16];
    struct log_mac_key key;
    log_dir(&config, dir);
    log_mac_key_init(&key, keys.chain);
    const struct log_writer_plan plan = {.dir = dir,
                                         .config = &config,
                                         .key = &key,
                                         .key_id = keys.id,
                                         .clock = &clock_real,
                                         .files = &log_files_real,
                                         .entry_bytes_max = sizeof(struct entry)};
    cr_assert_eq(log_writer_open(&writer, &plan, &err), 0, "%s", err.text);
}

static void setup(void) {
    char text[1024];
    folder_make();
    snprintf(text, sizeof text,
             "config_version: 1\nname: test\ninstance: node1\nrun_dir: %s\ndata_dir: %s\naudit: on\n"
             "kafka:\n  bootstrap.servers: localhost:1\nredis:\n  url: redis://127.0.0.1:1/0\n"
             "recon:\n  keys: %s\ntopics:\n"
             "  - name: cards.change\n    mode: change\n    format: raw\n    key: \"{$key}\"\n",
             folder, folder, in_folder("keys"));
    file_put("millrace.yaml", text);
    int fd = open(in_folder("keys"), O_WRONLY | O_CREAT, 0600);
    dprintf(fd, "key 1 %s 2026-01-01\ncurrent 1\n", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
    close(fd);
    cr_assert_eq(audit_keys_load(in_folder("keys"), AUDIT_KEY_CHAIN | AUDIT_KEY_DIGEST, &keys, &err), 0, "%s",
                 err.text);
    snprintf(config.data_dir, sizeof config.data_dir, "%s", folder);
    snprintf(config.name, sizeof config.name, "test");
    snprintf(config.instance, sizeof config.instance, "node1");
    snprintf(config.topic[0].name, sizeof config.topic[0].name, "cards.change");
    config.topic_count = 1;
    config.lanes = 1;
    config.recon.segment_bytes = 1 << 20;
    config.recon.retention_ms = 1ULL << 40;
    config.recon.retention_bytes = 1ULL << 40;
    log_open();
}

static void end(void) {
    log_writer_close(&writer);
    folder_remove();
}
TestSuite(recon_record, .init = setup, .fini = end);

static void key_digest(const char *key, uint8_t out[DIGEST_BYTES]) {
    struct digest_key k;
    digest_key_init(&k, keys.digest);
    digest_of(&k, DIGEST_HMAC, key, strlen(key), out);
}

static struct entry entry_of(int64_t offset, uint8_t id, const char *key) {
    struct entry e = {.bytes = sizeof e,
                      .partition = 3,
                      .epoch = 1,
                      .offset = offset,
                      .timestamp_ms = 1773526800100,
                      .created_ms = 1773526800000,
                      .ingested_us = 1773526800101000,
                      .transformed_us = 40,
                      .sent_us = 90,
                      .answered_us = 400,
                      .op = RECORD_ADD,
                      .outcome = ENTRY_APPLIED,
                      .digest_algorithm = DIGEST_HMAC,
                      .flags = ENTRY_CREATED | ENTRY_DECLARED,
                      .producer = 0xabc,
                      .sequence = (uint64_t)offset,
                      .published_bytes = 512,
                      .stored_bytes = 512};
    memset(e.id, id, sizeof e.id);
    memset(e.digest_published, 0x11, sizeof e.digest_published);
    memset(e.digest_stored, 0x22, sizeof e.digest_stored);
    key_digest(key, e.digest_key);
    return e;
}

static void put(struct entry e) {
    static uint64_t number;
    log_writer_add(&writer, 0, 77, ++number, &e);
    cr_assert_eq(log_writer_commit(&writer, &err), 0, "%s", err.text);
}

static size_t count(const char *text, const char *part) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part)) n++;
    return n;
}

#define AT "cards.change/3/1000"

Test(recon_record, shows_every_stage_with_its_time) {
    put(entry_of(1000, 7, "card:1"));
    put(entry_of(1001, 8, "card:2"));
    cr_assert_eq(RUN(command_recon_record, "--at", AT, "-c", file()), EX_OK, "%s", done.err);
    cr_assert_eq(count(done.out, "id 0"), 1, "%s", done.out);
    static const char *const wanted[] = {
        "cards.change/3/1000  id 07070707-0707-0707-0707-070707070707  add, applied\n",
        "  created      2026-03-14T22:20:00.000000Z\n",
        "  Kafka        2026-03-14T22:20:00.100000Z  +100.000 ms\n",
        "  ingested     2026-03-14T22:20:00.101000Z  +1.000 ms\n",
        "  transformed  2026-03-14T22:20:00.101040Z  +0.040 ms\n",
        "  sent         2026-03-14T22:20:00.101090Z  +0.050 ms\n",
        "  answered     2026-03-14T22:20:00.101400Z  +0.310 ms\n",
        "  committed    unknown\n",
        "  log          entry 1\n",
        "  producer     0000000000000abc number 1000\n",
        "  published    512 bytes  hmac:11111111111111111111111111111111  as declared\n",
        "  stored       512 bytes  hmac:22222222222222222222222222222222\n"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        cr_assert_not_null(strstr(done.out, wanted[i]), "%s is not in %s", wanted[i], done.out);
}

Test(recon_record, finds_repeats_and_duplicates_from_any_of_them) {
    struct entry again = entry_of(1000, 7, "card:1"), rejected = entry_of(1002, 9, "card:9");
    again.flags |= ENTRY_REPEAT;
    rejected.outcome = ENTRY_REJECTED;
    rejected.reason = REASON_JSON_INVALID;
    put(entry_of(1000, 7, "card:1"));
    put(entry_of(1001, 7, "card:1"));
    put(rejected);
    put(again);
    cr_assert_eq(RUN(command_recon_record, "--at", AT, "--format", "json", "-c", file()), EX_OK, "%s", done.err);
    cr_assert_eq(count(done.out, "\"id\":\"07070707-0707-0707-0707-070707070707\""), 3, "%s", done.out);
    cr_assert_eq(count(done.out, "\"repeat\":true"), 1);
    cr_assert_lt(strstr(done.out, "\"entry\":1,"), strstr(done.out, "\"entry\":2,"));
    cr_assert_lt(strstr(done.out, "\"entry\":2,"), strstr(done.out, "\"entry\":4,"));
    cr_assert_eq(RUN(command_recon_record, "--id", "07070707-0707-0707-0707-070707070707", "-c", file()), EX_OK);
    cr_assert_eq(count(done.out, "  id 07070707"), 3, "%s", done.out);
    cr_assert_eq(count(done.out, ", delivered again\n"), 1);
    cr_assert_eq(RUN(command_recon_record, "--at", "cards.change/3/1002", "-c", file()), EX_OK);
    cr_assert_not_null(strstr(done.out, "rejected as json_invalid"), "%s", done.out);
    cr_assert_null(strstr(done.out, "  stored "), "a rejected record is not stored");
}

Test(recon_record, finds_all_of_a_key_also_where_it_was_replaced) {
    struct entry changed = entry_of(1002, 9, "card:2");
    changed.flags |= ENTRY_KEY_CHANGED;
    key_digest("card:1", changed.digest_old_key);
    put(entry_of(1000, 7, "card:1"));
    put(entry_of(1001, 8, "card:3"));
    put(changed);
    cr_assert_eq(RUN(command_recon_record, "--key", "card:1", "-c", file()), EX_OK, "%s", done.err);
    cr_assert_eq(count(done.out, "cards.change/3/"), 2, "%s", done.out);
    cr_assert_eq(count(done.out, "  old key "), 1);
    cr_assert_eq(RUN(command_recon_record, "--key", "card:99", "-c", file()), EX_NOINPUT);
    cr_assert_not_null(strstr(done.err, "nothing is known"));
}

Test(recon_record, tells_what_its_key_should_hold) {
    char dir[PATH_BYTES + 16];
    mkdir(in_folder("recon"), 0750);
    live_dir(&config, dir);
    struct live *l = live_open_writer(dir, &err);
    cr_assert_not_null(l, "%s", err.text);
    put(entry_of(1000, 7, "card:1"));
    log_dir(&config, dir);
    struct log_reader *reader = log_reader_open(dir, 0, &err);
    struct log_item item;
    cr_assert_eq(log_reader_next(reader, &item, &err), LOG_ITEM);
    cr_assert_eq(live_apply(l, &item, &err), 0);
    log_reader_close(reader);
    cr_assert_eq(live_flush(l, &err), 0);
    live_close(l);
    struct entry newer = entry_of(1001, 8, "card:1"), gone = entry_of(1002, 9, "card:1");
    put(newer); /* the table has not been written: it is caught up from the log */
    cr_assert_eq(RUN(command_recon_record, "--at", AT, "-c", file()), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "its key: should hold the value of cards.change/3/1001, hmac:2222"), "%s",
                       done.out);
    gone.op = RECORD_DELETE;
    gone.outcome = ENTRY_DELETED;
    put(gone);
    cr_assert_eq(RUN(command_recon_record, "--at", AT, "-c", file()), EX_OK);
    cr_assert_not_null(strstr(done.out, "its key: should not be in Redis\n"), "%s", done.out);
    cr_assert_eq(RUN(command_recon_record, "--key", "card:1", "--redis", "-c", file()), EX_UNAVAILABLE, "%s", done.out);
}

Test(recon_record, knows_what_a_key_should_hold_before_there_is_a_table) {
    struct entry gone = entry_of(1002, 9, "card:1"), late = entry_of(1001, 8, "card:1");
    put(entry_of(1000, 7, "card:1"));
    cr_assert_eq(RUN(command_recon_record, "--key", "card:1", "-c", file()), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "its key: should hold the value of cards.change/3/1000, hmac:2222"), "%s",
                       done.out);
    gone.op = RECORD_DELETE;
    gone.outcome = ENTRY_DELETED;
    put(gone);
    put(late); /* delivered again */
    cr_assert_eq(RUN(command_recon_record, "--key", "card:1", "-c", file()), EX_OK);
    cr_assert_not_null(strstr(done.out, "its key: should not be in Redis\n"), "%s", done.out);
}

Test(recon_record, shows_findings_also_of_what_is_not_in_the_log) {
    char path[PATH_BYTES + 32];
    db_path(&config, path);
    sqlite3 *db = db_open(path, &err);
    cr_assert_not_null(db, "%s", err.text);
    int64_t topic = db_topic(db, "cards.change", true, &err);
    char sql[1024];
    snprintf(sql, sizeof sql,
             "INSERT INTO record(topic, start_ms, kind, partition, \"offset\", producer, sequence, log_sequence, other,"
             " outcome, reason, created_ms, noted_ms) VALUES(%lld, 1773526800000, %d, 3, 1000, 0, 0, 0, 0, 0, 0, 0, 0)",
             (long long)topic, FOUND_UNEXPLAINED);
    cr_assert_eq(db_run(db, sql, &err), 0, "%s", err.text);
    sqlite3_close(db);
    cr_assert_eq(RUN(command_recon_record, "--at", AT, "-c", file()), EX_OK, "%s", done.err);
    cr_assert_str_eq(done.out, "finding: unexplained, cards.change/3/1000, window 2026-03-14T22:20:00.000000Z\n");
    cr_assert_eq(RUN(command_recon_record, "--at", AT, "--format", "json", "-c", file()), EX_OK);
    cr_assert_not_null(strstr(done.out, "\"findings\":[{\"finding\":\"unexplained\",\"topic\":\"cards.change\","
                                        "\"partition\":3,\"offset\":1000,"),
                       "%s", done.out);
}

Test(recon_record, calls_producers_by_their_names_and_takes_places_as_they_are_printed) {
    char path[PATH_BYTES + 32];
    put(entry_of(1000, 7, "card:1"));
    db_path(&config, path);
    sqlite3 *db = db_open(path, &err);
    cr_assert_not_null(db, "%s", err.text);
    int64_t topic = db_topic(db, "cards.change", true, &err);
    char sql[1024];
    snprintf(sql, sizeof sql,
             "INSERT INTO producer VALUES(2748, 'till-7'); INSERT INTO record(topic, start_ms, kind, partition, "
             "\"offset\", producer, sequence, log_sequence, other, outcome, reason, created_ms, noted_ms) VALUES(%lld, "
             "1773526800000, %d, 3, 1000, 2748, 1000, 0, 0, 0, 0, 0, 0)",
             (long long)topic, FOUND_DELAYED);
    cr_assert_eq(db_run(db, sql, &err), 0, "%s", err.text);
    sqlite3_close(db);
    cr_assert_eq(RUN(command_recon_record, "--at", "cards.change/3@1000", "-c", file()), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "  producer     till-7 number 1000\n"), "%s", done.out);
    cr_assert_not_null(strstr(done.out, ", producer till-7 number 1000, window"), "%s", done.out);
    cr_assert_eq(RUN(command_recon_record, "--at", AT, "--format", "json", "-c", file()), EX_OK);
    cr_assert_eq(count(done.out, "\"producer\":\"till-7\",\"sequence\":1000"), 2, "%s", done.out);
}

Test(recon_record, refuses_what_cannot_be_meant) {
    static const char *const bad[] = {"cards.change", "cards.change/3", "/3/4",  "a/b/x/4",
                                      "a/3/-1",       "a/-1/3",         "a/3/4x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(RUN(command_recon_record, "--at", (char *)(uintptr_t)bad[i], "-c", file()), EX_USAGE, "%s",
                     bad[i]);
    cr_assert_eq(RUN(command_recon_record, "-c", file()), EX_USAGE);
    cr_assert_eq(RUN(command_recon_record, "--at", AT, "--key", "k", "-c", file()), EX_USAGE);
    cr_assert_eq(RUN(command_recon_record, "--at", AT, "--redis", "-c", file()), EX_USAGE);
    cr_assert_eq(RUN(command_recon_record, "--id", "7", "-c", file()), EX_USAGE);
    cr_assert_eq(RUN(command_recon_record, "--id", "0123456789abcdef", "-c", file()), EX_USAGE, "raw bytes");
    cr_assert_eq(RUN(command_recon_record, "--at", AT, "--format", "xml", "-c", file()), EX_USAGE);
    cr_assert_eq(RUN(command_recon_record, "--at", "a/b/3/4", "-c", file()), EX_NOINPUT, "a topic may have slashes");
}

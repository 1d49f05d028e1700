/* What other instances have logged, as it stands in recon's database. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "recon/db.h"
#include "tools/verify_kafka.h"
#include "tools/verify_others.h"
#include "tools/verify_repair.h"

static struct config config;
static struct verify v = {.config = &config};

static void rows(const char *sql) {
    char path[PATH_BYTES + 32];
    struct err err = {0};
    db_path(&config, path);
    sqlite3 *db = db_open(path, &err);
    cr_assert_not_null(db, "%s", err.text);
    cr_assert_eq(db_run(db, sql, &err), 0, "%s", err.text);
    sqlite3_close(db);
}

static void prepare(void) {
    struct err err = {0};
    char table[PATH_BYTES + 16];
    struct entry e = {.bytes = sizeof e, .outcome = ENTRY_APPLIED};
    const struct log_item item = {.entry = &e, .topic = "cards", .sequence = 1};
    snprintf(config.data_dir, sizeof config.data_dir, "/tmp/millrace-others-XXXXXX");
    cr_assert_not_null(mkdtemp(config.data_dir));
    rows("INSERT INTO topic(id, name, evidence, reconcile) VALUES(1, 'cards', 0, 0), (2, 'other', 0, 0);"
         "INSERT OR IGNORE INTO instance(id, name) VALUES(0, 'node1');"
         "INSERT INTO instance(id, name) VALUES(1, 'node2');"
         "INSERT INTO offset_range(instance, topic, partition, first, last, kind) VALUES"
         " (0, 1, 0, 0, 99, 0), (1, 1, 0, 50, 60, 0), (1, 1, 1, 5, 9, 0), (1, 1, 2, 0, 9, 1);");
    live_dir(&config, table);
    v.known.live = live_open_writer(table, &err);
    cr_assert_not_null(v.known.live, "%s", err.text);
    cr_assert_eq(live_apply(v.known.live, &item, &err), 0);
}

static void clean(void) {
    static const char *const files[] = {"recon/live/MANIFEST", "recon/live/LOCK",    "recon/live", "recon/recon.db",
                                        "recon/recon.db-wal",  "recon/recon.db-shm", "recon",      ""};
    char path[PATH_BYTES + 64];
    live_close(v.known.live);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", config.data_dir, files[i]);
        remove(path);
    }
}
TestSuite(verify_others, .init = prepare, .fini = clean);

Test(verify_others, what_this_log_has_as_well_is_nothing_to_wonder_about) {
    struct err err = {0};
    struct verify_notes notes = {0};
    cr_assert_eq(verify_others(&v, &notes, &err), 0, "%s", err.text);
    cr_assert_eq(v.reach_count, 1, "neither the range that is here too, nor one without records");
    cr_assert(v.reach[0].partition == 1 && v.reach[0].last == 9);
    cr_assert_not_null(strstr(notes.text[0], "offsets 5 to 9 of cards/1"));
    cr_assert_not_null(strstr(notes.text[0], "node2"));
    cr_assert(verify_shared(&v, "cards") && !verify_shared(&v, "other"));
}

Test(verify_others, only_records_before_the_others_are_in_doubt) {
    struct err err = {0};
    struct live_row row = {.topic = 0, .partition = 1, .offset = 8};
    cr_assert_eq(verify_others(&v, NULL, &err), 0);
    cr_assert(verify_gone_on(&v, &row));
    row.offset = 9;
    cr_assert_not(verify_gone_on(&v, &row));
    row = (struct live_row){.topic = 0, .partition = 0, .offset = 8};
    cr_assert_not(verify_gone_on(&v, &row));
}

Test(verify_others, others_who_tell_nothing_are_a_reason_to_repair_nothing) {
    struct err err = {0};
    uint64_t repaired = 0;
    cr_assert_eq(verify_others(&v, NULL, &err), 0);
    cr_assert_not(v.untold, "there was nobody else");
    rows("INSERT INTO meta(name, value) VALUES('shared', 1)");
    snprintf(config.recon.anchor_topic, sizeof config.recon.anchor_topic, "accounts");
    cr_assert_eq(verify_others(&v, NULL, &err), 0);
    cr_assert_not(v.untold, "they tell");
    config.recon.anchor_topic[0] = '\0';
    cr_assert_eq(verify_others(&v, NULL, &err), 0);
    cr_assert(v.untold);
    cr_assert_eq(verify_repair(&v, NULL, &repaired, &err), -1);
    cr_assert_not_null(strstr(err.text, "recon.anchor_topic"), "%s", err.text);
}

Test(verify_others, what_may_be_anothers_is_no_orphan) {
    struct verify_notes notes = {0};
    struct candidate *c = calloc(1, sizeof *c);
    v.candidate = c;
    v.count = 1;
    v.untold = true;
    *c = (struct candidate){.name = (char *)(uintptr_t) "card:1", .name_bytes = 6, .class = VERIFY_ORPHAN};
    verify_elsewhere(&v, &notes);
    cr_assert_eq(c->class, VERIFY_ELSEWHERE);
    cr_assert_not_null(strstr(notes.text[0], "recon.anchor_topic"), "%s", notes.text[0]);
    *c = (struct candidate){.name = (char *)(uintptr_t) "card:1", .name_bytes = 6, .class = VERIFY_ORPHAN};
    v.untold = false;
    config.topic_count = 1;
    snprintf(config.topic[0].name, sizeof config.topic[0].name, "cards");
    config.kafka.property_count = 1; /* no broker is there to be asked */
    config.kafka.property[0] = (struct config_property){.name = "bootstrap.servers", .value = "127.0.0.1:1"};
    verify_elsewhere(&v, &notes);
    cr_assert_eq(c->class, VERIFY_ELSEWHERE, "Kafka could not be asked");
    v.candidate = NULL;
    v.count = 0;
    free(c);
}

Test(verify_others, a_log_that_begins_behind_its_topic_deletes_nothing) {
    struct err err = {0};
    config.topic_count = 1;
    snprintf(config.topic[0].name, sizeof config.topic[0].name, "cards");
    rows("INSERT INTO place(topic, partition, first, next, epoch, scan_sequence) VALUES(1, 0, 0, 100, 1, 0),"
         " (2, 0, 7, 9, 1, 0)");
    cr_assert_eq(verify_begins_late(&v, NULL, &err), 0, "from its first record on, and a topic of old: %s", err.text);
    rows("UPDATE place SET first = 50 WHERE topic = 1");
    cr_assert_eq(verify_begins_late(&v, NULL, &err), -1, "what Kafka had before has to be known");
}

Test(verify_others, without_a_database_there_is_nobody_else) {
    struct err err = {0};
    char path[PATH_BYTES + 32];
    db_path(&config, path);
    cr_assert_eq(remove(path), 0);
    cr_assert_eq(verify_others(&v, NULL, &err), 0, "%s", err.text);
    cr_assert_eq(v.reach_count, 0);
}

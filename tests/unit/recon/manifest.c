#include "recon/manifest.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

static struct manifest m;
static struct err err;
static char text[70000];

static int parsed(const char *rest) {
    int n = snprintf(text, sizeof text, "{\"producer\":\"p\",\"topic\":\"cards\",%s}", rest);
    return manifest_parse(text, (size_t)n, &m, &err);
}

#define SUMS "\"first_sequence\":3,\"last_sequence\":5,\"count\":3,\"bytes\":99"
#define WINDOW "\"type\":\"window\",\"from_ms\":10,\"to_ms\":20," SUMS
#define SUM "\"digest_sum\":\"ab000000000000000000000000000001\""

Test(manifest, windows_are_read) {
    cr_assert_eq(parsed(WINDOW "," SUM ",\"other\":[1]"), 0, "%s", err.text);
    cr_assert_eq(m.type, MANIFEST_WINDOW);
    cr_assert(m.from_ms == 10 && m.to_ms == 20 && m.first_sequence == 3 && m.last_sequence == 5);
    cr_assert(m.count == 3 && m.bytes == 99 && m.digest_sum[0] == 0xab && m.digest_sum[15] == 1);
    cr_assert_str_eq(m.producer, "p");
    cr_assert_str_eq(m.topic, "cards");
}

Test(manifest, only_sums_of_the_logs_own_digests_are_compared) {
    cr_assert(parsed(WINDOW "," SUM) == 0 && m.summed);
    cr_assert(parsed(WINDOW "," SUM ",\"digest\":\"hmac\"") == 0 && m.summed);
    cr_assert(parsed(WINDOW "," SUM ",\"digest\":\"xxh3\"") == 0 && !m.summed);
    cr_assert(parsed(WINDOW) == 0 && !m.summed);
}

Test(manifest, the_end_of_a_load_may_name_every_partition) {
    static char rest[60000];
    size_t n = (size_t)snprintf(rest, sizeof rest,
                                "\"type\":\"load_end\",\"load\":\"01020304-0506-0708-090a-0b0c0d0e0f10\"," SUMS
                                ",\"state\":\"complete\",\"first_offsets\":{\"0\":0");
    for (int p = 1; p < PARTITIONS_MAX; p++)
        n += (size_t)snprintf(rest + n, sizeof rest - n, ",\"%d\":9223372036854775807", p);
    snprintf(rest + n, sizeof rest - n, "}");
    cr_assert_eq(parsed(rest), 0, "%s", err.text);
    cr_assert(m.type == MANIFEST_LOAD_END && !m.aborted && m.load[15] == 0x10);
}

Test(manifest, what_is_missing_or_impossible_is_refused) {
    static const char *const wrong[] = {"\"type\":\"other\"",
                                        "\"type\":\"window\"," SUMS,
                                        "\"type\":\"window\",\"from_ms\":20,\"to_ms\":20," SUMS,
                                        WINDOW ",\"digest_sum\":\"zz\"",
                                        "\"type\":\"load_begin\",\"load\":\"x\",\"created_ms\":1",
                                        "\"type\":\"load_end\",\"load\":\"01020304-0506-0708-090a-0b0c0d0e0f10\"," SUMS
                                        ",\"state\":\"done\""};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_assert_eq(parsed(wrong[i]), -1, "%s", wrong[i]);
        cr_assert_eq(err.code, EX_DATAERR);
    }
    cr_assert_eq(manifest_parse("[]", 2, &m, &err), -1);
    cr_assert_eq(manifest_parse(text, sizeof text, &m, &err), -1, "too long");
}

#define WHOLE                                                                                                          \
    "{\"type\":\"window\",\"producer\":\"till\",\"topic\":\"cards\",\"from_ms\":600000,\"to_ms\":1200000,"             \
    "\"first_sequence\":5,\"last_sequence\":9,\"count\":5,\"bytes\":500,"                                              \
    "\"digest_sum\":\"000102030405060708090a0b0c0d0e0f\"}"

Test(manifest, no_cut_or_changed_text_does_harm) {
    char copy[sizeof WHOLE];
    for (size_t n = 0; n + 1 < sizeof WHOLE; n++)
        cr_assert_eq(manifest_parse(WHOLE, n < sizeof WHOLE - 1 ? n : 0, &m, &err), -1, "%zu bytes", n);
    srand(5);
    for (int i = 0; i < 20000; i++) {
        memcpy(copy, WHOLE, sizeof copy);
        for (int k = 1 + rand() % 3; k > 0; k--) copy[(size_t)rand() % (sizeof copy - 1)] = (char)(rand() % 256);
        if (manifest_parse(copy, sizeof copy - 1, &m, &err) != 0) continue;
        cr_assert(m.count >= 0 && m.from_ms < m.to_ms && m.last_sequence - m.first_sequence >= m.count - 1);
    }
}

static char folder[64], path[96];
static struct config config;
static sqlite3 *db;
static struct count *count;

static void begin(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-manifest-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/recon.db", folder);
    config.topic_count = 1;
    config.recon.window_ms = 600000;
    snprintf(config.topic[0].name, sizeof config.topic[0].name, "cards");
    cr_assert_not_null(db = db_open(path, &err), "%s", err.text);
    cr_assert_not_null(count = count_open(db, folder, &config, 0, &err), "%s", err.text);
}

static void end(void) {
    static const char *const files[] = {"recon.db", "recon.db-wal", "recon.db-shm", "ids"};
    count_close(count);
    sqlite3_close(db);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    rmdir(folder);
}

static int64_t number(const char *sql) {
    sqlite3_stmt *s;
    cr_assert_eq(db_prepare(db, sql, &s, &err), 0, "%s", err.text);
    int64_t n = sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int64(s, 0) : -1;
    sqlite3_finalize(s);
    return n;
}

static int store(void) { return manifest_store(db, count, &config, &m, 1000, &err); }

Test(manifest, is_stored_once_and_replaced_by_a_later_one, .init = begin, .fini = end) {
    cr_assert_eq(manifest_parse(WHOLE, sizeof WHOLE - 1, &m, &err), 0);
    cr_assert_eq(store(), 1, "%s", err.text);
    cr_assert_eq(store(), 0, "the same again is nothing new");
    m.last_sequence = 10;
    m.count = 6;
    cr_assert_eq(store(), 1);
    m.first_sequence = 11;
    m.last_sequence = 12;
    m.count = 2;
    cr_assert_eq(store(), 1);
    cr_assert_eq(number("SELECT sum(count) FROM manifest"), 8);
    cr_assert_eq(number("SELECT count(*) FROM window WHERE dirty = 1 AND start_ms = 600000"), 1);
    snprintf(m.topic, sizeof m.topic, "another");
    cr_assert_eq(store(), 0, "a topic of somebody else");
    snprintf(m.topic, sizeof m.topic, "cards");
    m.to_ms += 1;
    cr_assert_eq(store(), -1);
    cr_assert_eq(err.code, EX_DATAERR);
}

Test(manifest, of_more_producers_loads_and_windows_than_are_kept_is_refused, .init = begin, .fini = end) {
    count_limits = (struct count_limits){.producers = 2, .sequences = 10, .loads = 1, .windows = 2};
    const int64_t year = 31536000000;
    cr_assert_eq(manifest_parse(WHOLE, sizeof WHOLE - 1, &m, &err), 0);
    for (int i = 0; i < 3; i++) {
        m.from_ms = (i + 1) * year / 600000 * 600000;
        m.to_ms = m.from_ms + 600000;
        cr_assert_eq(store(), i < 2 ? 1 : -1, "window %d", i);
    }
    cr_assert(err.code == EX_DATAERR && strstr(err.text, "too many windows") != NULL, "%s", err.text);
    m.from_ms -= year / 600000 * 600000;
    m.to_ms = m.from_ms + 600000;
    m.count--;
    cr_assert_eq(store(), 1, "one that is there");
    for (int i = 0; i < 3; i++) {
        snprintf(m.producer, sizeof m.producer, "made-up-%d", i);
        cr_assert_eq(store(), i < 1 ? 1 : -1, "producer %d", i);
    }
    cr_assert(strstr(err.text, "too many producers") != NULL, "%s", err.text);
    cr_assert_eq(number("SELECT count(*) FROM producer"), 2);
    snprintf(m.producer, sizeof m.producer, "made-up-0");
    m.type = MANIFEST_LOAD_BEGIN;
    for (int i = 0; i < 3; i++) {
        m.load[3] = (uint8_t)(i / 2);
        cr_assert_eq(store(), i == 0 ? 1 : i == 1 ? 0 : -1, "load %d", i);
    }
    cr_assert(strstr(err.text, "too many loads") != NULL, "%s", err.text);
    cr_assert_eq(number("SELECT count(*) FROM load"), 1);
}

Test(manifest, places_of_more_partitions_than_a_message_holds_come_before_the_end, .init = begin, .fini = end) {
    static const char one[] = "{\"type\":\"load_places\",\"load\":\"01020304-0506-0708-090a-0b0c0d0e0f10\","
                              "\"producer\":\"p1\",\"topic\":\"cards\",\"first_offsets\":{\"0\":17,\"3\":0}}";
    static const char none[] = "{\"type\":\"load_places\",\"producer\":\"p1\",\"topic\":\"cards\","
                               "\"first_offsets\":{\"0\":17}}";
    cr_assert_eq(manifest_parse(one, sizeof one - 1, &m, &err), 0, "%s", err.text);
    cr_assert(m.type == MANIFEST_LOAD_PLACES && m.places == 2);
    cr_assert_eq(store(), 1);
    m.place[0].partition = 90;
    cr_assert_eq(store(), 1);
    cr_assert_eq(number("SELECT count(*) FROM load_place"), 3);
    cr_assert_eq(manifest_parse(none, sizeof none - 1, &m, &err), -1, "of no load");
}

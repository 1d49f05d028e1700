/* What verify says of its findings. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/verify_report.h"

static char dir[64];
static struct verify v;
static struct config config;

/* A table of four keys of topic "cards", exported; the first two rows were met. */
static void prepare(void) {
    struct err err = {0};
    char table[80], copy[80];
    snprintf(dir, sizeof dir, "/tmp/millrace-report-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    snprintf(table, sizeof table, "%s/a", dir);
    snprintf(copy, sizeof copy, "%s/b", dir);
    struct live *l = live_open_writer(table, &err);
    for (uint8_t i = 0; i < 4; i++) {
        struct entry e = {.bytes = sizeof e, .outcome = ENTRY_APPLIED, .partition = 3, .offset = 40 + i};
        e.digest_key[0] = i;
        e.expire_at_ms = i == 3 ? 4102444800000 : 0; /* 2100 */
        const struct log_item item = {.entry = &e, .topic = "cards", .sequence = 1U + i};
        cr_assert_eq(live_apply(l, &item, &err), 0);
    }
    cr_assert_eq(live_export(l, copy, &err), 0, "%s", err.text);
    live_close(l);
    v = (struct verify){.config = &config, .options = {.sample = 100}};
    v.known.live = live_open_reader(copy, &err);
    v.known.rows = v.known.unseen = 4;
    v.known.seen = calloc(1, 1);
    known_see(&v.known, 0);
    known_see(&v.known, 1);
    v.right = 1;
}

static void clean(void) {
    char path[100];
    live_close(v.known.live);
    static const char *const files[] = {"a/MANIFEST", "a/LOCK", "a", "b/MANIFEST", "b/0000000000000001.run", "b", ""};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        remove(path);
    }
}
TestSuite(verify_report, .init = prepare, .fini = clean);

static struct candidate *add(const char *name, enum verify_class class) {
    uint8_t key[DIGEST_BYTES] = {1};
    verify_candidate(&v, name, strlen(name), key);
    struct candidate *c = &v.candidate[v.count - 1];
    c->class = (uint8_t) class;
    c->has_row = class != VERIFY_ORPHAN;
    c->row = (struct live_row){.partition = 3, .offset = 41};
    return c;
}

static char *printed(bool json) {
    struct verify_notes notes = {0};
    struct err err = {0};
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    v.options.json = json;
    verify_note(&notes, "it rests on %s", "this");
    cr_assert_geq(verify_count(&v, &err), 0);
    cr_assert_eq(verify_print(&v, &notes, 2, f, &err), 0);
    fclose(f);
    return text;
}

Test(verify_report, rows_that_no_key_was_met_for_are_missing_or_expired_early) {
    struct err err = {0};
    cr_assert_eq(verify_count(&v, &err), 2);
    cr_assert(v.tally[VERIFY_MISSING] == 1 && v.tally[VERIFY_EXPIRED_EARLY] == 1 && v.tally[VERIFY_RIGHT] == 1);
    v.evicting = EVICTING_TIMED;
    cr_assert_eq(verify_count(&v, &err), 2);
    cr_assert(v.tally[VERIFY_MISSING] == 1 && v.tally[VERIFY_EVICTED] == 1);
    v.evicting = EVICTING_ANY;
    cr_assert_eq(verify_count(&v, &err), 2);
    cr_assert_eq(v.tally[VERIFY_EVICTED], 2);
}

Test(verify_report, a_row_whose_partition_has_gone_on_elsewhere_is_no_finding) {
    struct err err = {0};
    struct verify_reach reach = {.topic = "cards", .partition = 3, .last = 43};
    v.reach = &reach;
    v.reach_count = 1;
    cr_assert_eq(verify_count(&v, &err), 1, "offset 43 is not followed by any of the other's");
    cr_assert(v.tally[VERIFY_ELSEWHERE] == 1 && v.tally[VERIFY_EXPIRED_EARLY] == 1);
}

Test(verify_report, counting_twice_counts_the_same) {
    struct err err = {0};
    add("a", VERIFY_RIGHT);
    add("b", VERIFY_ALTERED);
    add("c", VERIFY_MOVING);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(verify_count(&v, &err), 3);
        cr_assert(v.tally[VERIFY_RIGHT] == 2 && v.tally[VERIFY_MOVING] == 1);
    }
}

Test(verify_report, json_has_every_finding_and_is_valid_text_whatever_the_key) {
    struct candidate *c = add("a\"\xff", VERIFY_STALE);
    c->stale_offset = 17;
    c->has_id = true;
    add("nobody", VERIFY_ORPHAN)->was_deleted = true;
    char *text = printed(true);
    cr_assert_not_null(strstr(text, "\"stale\":1"));
    cr_assert_not_null(strstr(text, "{\"class\":\"stale\",\"key\":\"a\\\"\\ufffd\","));
    cr_assert_not_null(strstr(text, "\"topic\":\"cards\",\"partition\":3,\"offset\":41,\"id\":\"00000000-0000-"));
    cr_assert_not_null(strstr(text, "the value of offset 17"));
    cr_assert_not_null(strstr(text, "its record was deleted"));
    cr_assert_not_null(strstr(text, "\"class\":\"missing\",\"key\":null"));
    cr_assert_not_null(strstr(text, "it would expire at 2100-01-01T00:00:00.000Z"));
    cr_assert_not_null(strstr(text, "\"repaired\":2"));
    cr_assert_not_null(strstr(text, "\"notes\":[\"it rests on this\"]"));
    free(text);
}

Test(verify_report, a_table_shows_no_control_characters_and_says_when_there_is_more) {
    add("a\n\x1b[m", VERIFY_ALTERED)->decodes = true;
    char *text = printed(false);
    cr_assert_not_null(strstr(text, "a\\x0a\\x1b[m  from cards/3/41  no value this key is known to have had"));
    cr_assert_not_null(strstr(text, "note: it rests on this\n"));
    cr_assert_null(strstr(text, "--report"));
    free(text);
    for (int i = 0; i < REPORT_TABLE_MAX; i++) add("b", VERIFY_ALTERED);
    text = printed(false);
    cr_assert_not_null(strstr(text, "--report FILE has all of them"));
    free(text);
}

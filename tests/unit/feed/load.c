/* Whole loads, against a simulated broker. */
#include "feed/load.h"

#include <stdatomic.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/digest.h"
#include "tests/unit/feed/help.h"
#include "tests/unit/feed/mock.h"

static struct load_settings set;
static struct load_request ask;
static struct load_result result;
static struct err err;
static _Atomic int stop;

static void begin(void) {
    static char outbox[256];
    folder_make();
    snprintf(outbox, sizeof outbox, "%s", in_folder("outbox.db"));
    set = (struct load_settings){
        .config = mock_config(), .outbox = outbox, .attempts = 1, .attempt_ms = 5000, .stop = &stop};
    ask = (struct load_request){.path = in_folder("a.csv"), .topic = "cards", .max_message = 1000, .format = ROWS_CSV};
}

static int load_of(const char *text) {
    static char path[256];
    file_put("a.csv", text);
    snprintf(path, sizeof path, "%s", in_folder("a.csv"));
    ask.path = path;
    return load_run(&set, &ask, &result, &err);
}

static const char *keys_text(void) {
    static char text[256];
    FILE *f = fopen(in_folder("keys"), "r");
    text[f == NULL ? 0 : fread(text, 1, sizeof text - 1, f)] = 0;
    if (f != NULL) fclose(f);
    return text;
}

Test(load, a_file_is_carried_through, .init = begin, .fini = folder_remove) {
    char keys[256];
    snprintf(keys, sizeof keys, "%s", in_folder("keys"));
    ask.keys_out = keys;
    cr_assert_eq(load_of("no,x\n1,a\n\"2\n\\\",b\n"), 0, "%s", err.text);
    cr_assert_eq(result.load.state, OUTBOX_COMPLETE);
    cr_assert(result.rows == 2 && result.acknowledged == 2 && result.left == 0 && result.manifests);
    cr_assert(result.load.sum.first_sequence == 1 && result.load.sum.last_sequence == 2);
    cr_assert_eq(result.places, 1);
    cr_assert(result.place[0].partition == 0 && result.place[0].first_offset == 0);
    cr_assert_eq(strncmp(result.load.producer, "load-node-", 10), 0, "%s", result.load.producer);
    cr_assert_eq(result.load.algorithm, DIGEST_XXH3, "no key is configured");
    cr_assert_str_eq(keys_text(), "card:1\ncard:2\\n\\\\\n");
    cr_assert_eq(load_run(&set, &ask, &result, &err), 0, "%s", err.text);
    cr_assert(result.load.sum.first_sequence == 3 && result.load.number == 2);
    cr_assert_eq(load_resume(&set, NULL, 0, false, &result, &err), 0, "nothing is left");
}

Test(load, bad_rows_are_refused_before_anything_begins, .init = begin, .fini = folder_remove) {
    char keys[256];
    snprintf(keys, sizeof keys, "%s", in_folder("keys"));
    ask.keys_out = keys;
    cr_assert_eq(load_of("no,x\n1,a\n2\n"), -1);
    cr_assert_eq(err.code, EX_DATAERR);
    cr_assert_not_null(strstr(err.text, "1 of 2 rows cannot be used"), "%s", err.text);
    cr_assert_eq(result.load.number, 0);
    cr_assert_str_eq(keys_text(), "", "no half list of keys");
    ask.skip_bad = true;
    cr_assert_eq(load_run(&set, &ask, &result, &err), 0, "%s", err.text);
    cr_assert(result.load.sum.count == 1 && result.load.skipped == 1);
    cr_assert_str_eq(keys_text(), "card:1\n");
    ask.dry_run = true;
    cr_assert_eq(load_run(&set, &ask, &result, &err), 0);
    cr_assert(result.load.number == 0 && result.rows == 1 && result.load.sum.count == 0);
}

Test(load, mistakes_are_told_by_their_code, .init = begin, .fini = folder_remove) {
    cr_assert_eq(load_of(""), -1);
    cr_assert_eq(err.code, EX_DATAERR);
    ask.topic = "other";
    cr_assert_eq(load_of("no\n1\n"), -1);
    cr_assert_eq(err.code, EX_USAGE);
    ask.topic = "cards";
    ask.path = in_folder("nothing");
    cr_assert_eq(load_run(&set, &ask, &result, &err), -1);
    cr_assert_eq(err.code, EX_NOINPUT);
    set.outbox = "/nowhere/outbox.db";
    cr_assert_eq(load_of("no\n1\n"), -1);
    cr_assert_eq(err.code, EX_CANTCREAT);
}

Test(load, one_that_was_interrupted_goes_on_where_it_was, .init = begin, .fini = folder_remove) {
    uint8_t id[16];
    stop = 15;
    cr_assert_eq(load_of("no\n1\n2\n"), -1);
    cr_assert_eq(err.code, EX_TEMPFAIL);
    memcpy(id, result.load.id, 16);
    stop = 0;
    cr_assert_eq(load_resume(&set, id, 0, false, &result, &err), 1, "%s", err.text);
    cr_assert_arr_eq(result.load.id, id, 16);
    cr_assert(result.load.state == OUTBOX_COMPLETE && result.load.sum.count == 2);
    cr_assert_eq(load_resume(&set, id, 0, false, &result, &err), -1);
    cr_assert(err.code == EX_USAGE && strcmp(err.text, "this load is over") == 0);
    cr_assert_eq(load_resume(&set, (uint8_t[16]){1}, 0, false, &result, &err), 0);
}

Test(load, another_file_is_not_taken_for_the_one_before, .init = begin, .fini = folder_remove) {
    stop = 15;
    cr_assert_eq(load_of("no\n1\n2\n"), -1);
    stop = 0;
    file_put("a.csv", "no\n1\n3\n");
    cr_assert_eq(load_resume(&set, NULL, 0, false, &result, &err), -1);
    cr_assert_eq(err.code, EX_DATAERR);
    cr_assert_not_null(strstr(err.text, "is not what it was when the load began"), "%s", err.text);
    cr_assert_eq(load_resume(&set, result.load.id, 0, true, &result, &err), 1, "%s", err.text);
    cr_assert(result.load.state == OUTBOX_ABORTED && result.load.sum.count == 0);
}

Test(load, other_digests_than_it_began_with_are_refused, .init = begin, .fini = folder_remove) {
    static struct config other;
    stop = 15;
    cr_assert_eq(load_of("no\n1\n"), -1);
    stop = 0;
    other = *set.config;
    file_put("keys", "key 1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= 2026-01-01\ncurrent 1\n");
    chmod(in_folder("keys"), 0600);
    snprintf(other.recon.keys, sizeof other.recon.keys, "%s", in_folder("keys"));
    other.topic[0].reconcile = RECONCILE_DIGEST;
    set.config = &other;
    cr_assert_eq(load_resume(&set, NULL, 0, false, &result, &err), -1);
    cr_assert_eq(err.code, EX_CONFIG, "%s", err.text);
}

Test(load, its_rate_is_kept, .init = begin, .fini = folder_remove) {
    char text[2048] = "no\n";
    size_t n = 3;
    for (int i = 0; i < 100; i++) n += (size_t)snprintf(text + n, sizeof text - n, "%d\n", i);
    ask.rate = 100;
    uint64_t begin_ns = clock_real.monotonic_ns(NULL);
    cr_assert_eq(load_of(text), 0, "%s", err.text);
    uint64_t ms = (clock_real.monotonic_ns(NULL) - begin_ns) / 1000000;
    cr_assert(ms >= 1000 && ms < 5000, "%llu ms", (unsigned long long)ms);
}

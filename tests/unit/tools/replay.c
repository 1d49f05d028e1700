/* millrace replay: what its arguments mean, and what it would send, from a log that the test writes. Sending needs
 * Kafka: tests/pipeline/test_replay.py. */
#include <sysexits.h>

#include "base/audit_keys.h"
#include "base/digest.h"
#include "tests/unit/audit/help.h"
#define folder_remove command_folder_remove /* both helpers have these */
#define file_put command_file_put
#include "tests/unit/tools/command.h"
#undef folder_remove
#undef file_put

static struct bench *b;
static uint8_t key_digest[DIGEST_BYTES];

static const char *const config_text = "config_version: 1\n"
                                       "name: unit\n"
                                       "instance: n1\n"
                                       "run_dir: %s\n"
                                       "data_dir: %s\n"
                                       "audit: on\n"
                                       "recon: { keys: %s/keys }\n"
                                       "kafka: { bootstrap.servers: \"127.0.0.1:1\", group.id: g }\n"
                                       "redis: { url: \"redis://127.0.0.1:1/0\" }\n"
                                       "topics:\n"
                                       "  - { name: cards, mode: change, format: json, key: \"k:{id}\" }\n"
                                       "  - { name: limits, mode: change, format: json, key: \"k:{id}\" }\n";

static void add(uint16_t topic, int32_t partition, int64_t offset, uint64_t number, const char *load) {
    struct entry e = *entry_make(topic, partition, offset, 0);
    memcpy(e.digest_key, key_digest, sizeof key_digest);
    e.digest_key[0] ^= (uint8_t)(offset % 2); /* two keys, the even one is "k:7" */
    if (load != NULL) cr_assert_eq(record_id_parse(e.load, load, 36), 0);
    log_writer_add(&b->writer, 0, 77, number, &e);
}

#define LOAD "11111111-2222-4333-8444-555555555555"

static void start(void) {
    char text[2048];
    struct audit_keys keys;
    struct digest_key digest;
    struct err err = {0};
    folder_make();
    b = bench_make();
    snprintf(text, sizeof text, config_text, b->dir, b->dir, folder);
    command_file_put("m.yaml", text);
    command_file_put("keys", "key 1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8= 2026-01-01\ncurrent 1\n");
    cr_assert_eq(chmod(in_folder("keys"), 0600), 0);
    cr_assert_eq(audit_keys_load(in_folder("keys"), AUDIT_KEY_DIGEST, &keys, &err), 0, "%s", err.text);
    digest_key_init(&digest, keys.digest);
    digest_of(&digest, DIGEST_HMAC, "k:7", 3, key_digest);
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    for (int64_t i = 0; i < 6; i++) add(0, 1, i, (uint64_t)i + 1, i == 2 ? LOAD : NULL);
    add(1, 3, 100, 7, NULL);
    cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0);
}

static void stop(void) {
    bench_drop(b);
    command_folder_remove();
}

TestSuite(replay, .init = start, .fini = stop, .timeout = 60);

#define REPLAY(...)                                                                                                    \
    run_command(command_replay, (char *[]){"replay", __VA_ARGS__, "-c", (char *)(uintptr_t)in_folder("m.yaml"), NULL})

static bool says(const char *text) { return strstr(done.out, text) != NULL || strstr(done.err, text) != NULL; }

Test(replay, refuses_arguments_that_mean_nothing) {
    static const struct {
        char *argument[6];
        const char *why;
    } bad[] = {{{"--dry-run"}, "what is to be sent"},
               {{"--id", "no"}, "a UUID"},
               {{"--load", "no"}, "a UUID"},
               {{"--window", "yesterday"}, "--window"},
               {{"--window", "2026-03-14T22:20:00"}, "--window"},
               {{"--window", "2000/1000"}, "--window"},
               {{"--window", "1000/2000x"}, "--window"},
               {{"--offsets", "cards"}, "--offsets"},
               {{"--offsets", "cards/1"}, "--offsets"},
               {{"--offsets", "cards/1/5-4"}, "--offsets"},
               {{"--offsets", "cards/1/-4"}, "--offsets"},
               {{"--offsets", "cards/99999999999/4"}, "--offsets"},
               {{"--offsets", "cards/1/4-5x"}, "--offsets"},
               {{"--offsets", "other/1/4"}, "no topic other"},
               {{"--offsets", "cards/1/4", "--topic", "limits"}, "different topics"},
               {{"--key", "k:7", "--topic", "other"}, "no topic other"},
               {{"--key", "k:7", "--rate", "0"}, "--rate"},
               {{"--key", "k:7", "--from", "log"}, "goes with --to-topic"},
               {{"--key", "k:7", "--from", "disk"}, "--from"},
               {{"--key", "k:7", "--format", "xml"}, "--format"},
               {{"--key", "k:7", "--to-topic", "a b"}, "name of a topic"},
               {{"--key", "k:7", "more"}, "unexpected argument"},
               {{"--frobnicate"}, "unknown option"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char *const *a = bad[i].argument;
        char *argv[] = {"replay", "-c", (char *)(uintptr_t)in_folder("m.yaml"), a[0], a[1], a[2], a[3], a[4], NULL};
        cr_assert_eq(run_command(command_replay, argv), EX_USAGE, "%s %s: %s", a[0], a[1], done.err);
        cr_assert(says(bad[i].why), "%s %s: %s", a[0], a[1], done.err);
    }
    cr_assert_eq(REPLAY("--help"), 0);
    cr_assert(says("--to-topic"));
}

Test(replay, dry_run_tells_what_is_chosen_and_what_follows) {
    cr_assert_eq(REPLAY("--offsets", "cards/1/2", "--dry-run"), 0, "%s", done.err);
    cr_assert(says("1 chosen, 2 following; nothing was sent"), "%s", done.out);
    cr_assert(says("chosen") && says("applied") && says("2023-11-14T22:13:20Z  cards/1/2\n"), "%s", done.out);
    cr_assert(says("cards/1/4\n") && says("limits/3/100\n") && !says("cards/1/3"), "%s", done.out);
}

Test(replay, dry_run_has_json) {
    cr_assert_eq(REPLAY("--offsets", "cards/1/4-5", "--dry-run", "--format", "json"), 0, "%s", done.err);
    cr_assert(says("{\"records\":[{\"topic\":\"cards\",\"partition\":1,\"offset\":4,\"why\":\"chosen\","), "%s",
              done.out);
    cr_assert(says("\"offset\":100,\"why\":\"follows\"") && says("],\"chosen\":2,\"following\":1,\"left_out\":0}\n"),
              "%s", done.out);
}

Test(replay, records_are_chosen_by_key_load_id_and_time) {
    char id[37];
    cr_assert_eq(REPLAY("--key", "k:7", "--dry-run"), 0, "%s", done.err);
    cr_assert(says("4 chosen, 0 following"), "%s", done.out);
    cr_assert_eq(REPLAY("--key", "k:7", "--topic", "limits", "--dry-run"), 0, "%s", done.err);
    cr_assert(says("1 chosen, 0 following"), "%s", done.out);
    cr_assert_eq(REPLAY("--load", LOAD, "--dry-run"), 0, "%s", done.err);
    cr_assert(says("1 chosen, 2 following"), "%s", done.out);
    record_id_format(entry_make(0, 1, 3, 0)->id, id);
    cr_assert_eq(REPLAY("--id", id, "--dry-run"), 0, "%s", done.err);
    cr_assert(says("1 chosen, 1 following") && says(id), "%s", done.out);
    cr_assert_eq(REPLAY("--window", "2023-11-14T22:13:20.001Z/2023-11-14T22:13:20.003Z", "--dry-run"), 0);
    cr_assert(says("2 chosen, 4 following"), "%s", done.out);
    cr_assert_eq(REPLAY("--window", "2023-11-14T22:13Z", "--topic", "cards", "--dry-run"), 0, "%s", done.err);
    cr_assert(says("6 chosen, 1 following"), "as long as recon.window: %s", done.out);
    cr_assert_eq(REPLAY("--window", "2023-11-14T22:03Z", "--dry-run"), EX_NOINPUT, "%s", done.out);
}

Test(replay, what_is_not_there_is_told) {
    cr_assert_eq(REPLAY("--key", "k:8", "--dry-run"), EX_NOINPUT);
    cr_assert(says("nothing is chosen by that"));
    cr_assert_eq(REPLAY("--key", "k:7"), EX_UNAVAILABLE, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "4 records chosen, 0 that follow them; 0 fed again"), "%s", done.out);
}

#include "tests/unit/tools/command.h"

#include "base/keys.h"
#include "base/rejects_read.h"
#include "ingest/rejects.h"
#include "transform/seal.h"

static struct rejects_store store; /* the real writer: what ingest stores is what an operator must see */
static uint64_t incarnation = 77;

static void setup(void) {
    char text[1024];
    struct err err = {0};
    folder_make();
    snprintf(text, sizeof text,
             "config_version: 1\nname: test\ndata_dir: %s\nkafka:\n  bootstrap.servers: localhost:1\nredis:\n"
             "  url: redis://127.0.0.1:1/0\ncrypto:\n  keys: %s\n"
             "topics:\n  - name: t\n    mode: change\n    format: raw\n    key: \"{$key}\"\n",
             folder, in_folder("keys"));
    file_put("millrace.yaml", text);
    cr_assert_eq(rejects_store_open(&store, folder, 1 << 20, &incarnation, 1, &clock_real, &err), 0, "%s", err.text);
}
TestSuite(rejects, .init = setup, .fini = folder_remove);

static struct record_view view_of(int64_t offset, const char *key, const char *value) {
    struct record_view v = {.kafka_key = (const uint8_t *)key, .value = (const uint8_t *)value};
    v.head.op = RECORD_REJECT;
    v.head.reason = REASON_JSON_INVALID;
    v.head.partition = 3;
    v.head.offset = offset;
    v.head.timestamp_ms = 1767225600123; /* 2026-01-01 */
    v.head.flags = (uint16_t)((key == NULL ? RECORD_KEY_NULL : 0) | (value == NULL ? RECORD_VALUE_NULL : 0));
    v.head.kafka_key_bytes = key != NULL ? (uint32_t)strlen(key) : 0;
    v.head.value_bytes = value != NULL ? (uint32_t)strlen(value) : 0;
    record_id_derive(v.head.id, "t", 3, offset);
    return v;
}

static void append(struct record_view *v) {
    static uint64_t number;
    struct err err = {0};
    known_forget(&store.known); /* as if what was stored is long forgotten */
    cr_assert_eq(rejects_store_append(&store, 0, ++number, v, "t", &err), REJECTS_STORED, "%s", err.text);
    cr_assert_eq(rejects_store_sync(&store, &err), 0);
}

static char *config(void) { return (char *)(uintptr_t)in_folder("millrace.yaml"); }

static size_t count(const char *text, const char *part) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part)) n++;
    return n;
}

Test(rejects, nothing_is_an_empty_list) {
    cr_assert_eq(RUN(command_rejects, "list", "--json", "-c", config()), EX_OK, "%s", done.err);
    cr_assert_str_eq(done.out, "[]\n");
    cr_assert_eq(RUN(command_rejects, "export", "-c", config()), EX_OK);
    cr_assert_str_eq(done.out, "");
    cr_assert_eq(RUN(command_rejects, "list", "-c", config()), EX_OK);
    cr_assert_eq(count(done.out, "\n"), 1, "the heading");
}

Test(rejects, lists_what_is_stored_without_content) {
    struct record_view v = view_of(5, "the-key", "CANARY");
    append(&v);
    v = view_of(6, NULL, NULL);
    v.head.reason = REASON_KEY_NULL;
    append(&v);
    cr_assert_eq(RUN(command_rejects, "-c", config(), "list", "--json"), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "\"topic\":\"t\",\"partition\":3,\"offset\":5,\"timestamp_ms\":1767225600123,"),
                       "%s", done.out);
    cr_assert_not_null(strstr(done.out, "\"reason\":\"json_invalid\",\"size\":13,\"content\":\"plain\"}"), "%s",
                       done.out);
    cr_assert_not_null(strstr(done.out, "\"offset\":6,"));
    cr_assert_not_null(strstr(done.out, "\"reason\":\"key_null\",\"size\":0,"));
    cr_assert_null(strstr(done.out, "CANARY"));
    cr_assert_null(strstr(done.out, "Q0FOQVJZ"), "nor its base64");
    cr_assert_eq(RUN(command_rejects, "list", "-c", config()), EX_OK);
    cr_assert_not_null(strstr(done.out, "2026-01-01T00:00:00.123Z  t/3/5\n"), "%s", done.out);
    cr_assert_null(strstr(done.out, "CANARY"));
}

Test(rejects, shows_each_record_once) {
    struct record_view v = view_of(1, "a", "b");
    for (int i = 0; i < 3; i++) append(&v);
    for (int64_t i = 2; i <= 3000; i++) {
        v = view_of(i, "a", "b");
        append(&v);
    }
    v = view_of(2500, "a", "b");
    append(&v);
    cr_assert_eq(RUN(command_rejects, "list", "-c", config()), EX_OK);
    char command[512];
    snprintf(command, sizeof command, "%s", in_folder(".out"));
    FILE *f = fopen(command, "r");
    size_t lines = 0;
    for (int c; (c = fgetc(f)) != EOF;) lines += c == '\n';
    fclose(f);
    cr_assert_eq(lines, 3001);
}

Test(rejects, content_is_shown_only_when_asked_for) {
    cr_assert_eq(RUN(command_keygen, (char *)(uintptr_t)in_folder("keys")), EX_OK);
    uint8_t headers[64];
    size_t n = record_header_put(headers, "h\"1", 3, "v", 1);
    n += record_header_put(headers + n, "n", 1, NULL, 0);
    n += record_header_put(headers + n, "\xff", 1, "", 0);
    struct record_view v = view_of(5, "the-key", "CANARY");
    v.headers = headers;
    v.head.headers_bytes = (uint32_t)n;
    append(&v);
    v = view_of(6, "", NULL);
    append(&v);
    cr_assert_eq(RUN(command_rejects, "export", "-c", config()), EX_OK, "%s", done.err);
    cr_assert_eq(count(done.out, "\n"), 2);
    cr_assert_null(strstr(done.out, "\"key\""));
    cr_assert_null(strstr(done.out, "\"value\""));
    cr_assert_eq(RUN(command_rejects, "export", "--reveal", "-c", config()), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "\"key\":\"dGhlLWtleQ==\",\"value\":\"Q0FOQVJZ\",\"headers\":["
                                        "{\"name\":\"h\\\"1\",\"value\":\"dg==\"},{\"name\":\"n\",\"value\":null},"
                                        "{\"name\":\"\\ufffd\",\"value\":\"\"}]}\n"),
                       "%s", done.out);
    cr_assert_not_null(strstr(done.out, "\"key\":\"\",\"value\":null,\"headers\":[]}\n"), "%s", done.out);
}

static void append_sealed(int64_t offset, const struct keys *keys) {
    static const uint8_t prefix[XAES_PREFIX_BYTES] = "ABCDEFGHIJK";
    static uint8_t sealed[256];
    struct xaes_sealer sealer;
    struct err err = {0};
    struct record_view v = view_of(offset, NULL, NULL);
    struct seal_origin origin = {v.head.id, "t", 3, offset};
    struct seal_parts parts = {(const uint8_t *)"the-key", (const uint8_t *)"CANARY", (const uint8_t *)"", 7, 6, 0};
    cr_assert_eq(xaes_sealer_init(&sealer, keys_current(keys)->bytes, prefix, &err), 0);
    seal_write(&sealer, keys_current(keys)->id, &origin, &parts, sealed);
    xaes_sealer_free(&sealer);
    v.head.flags = RECORD_SEALED;
    v.value = sealed;
    v.head.value_bytes = (uint32_t)seal_bytes(&parts);
    append(&v);
}

Test(rejects, sealed_content_needs_the_key_file) {
    struct err err = {0};
    cr_assert_eq(RUN(command_keygen, (char *)(uintptr_t)in_folder("keys")), EX_OK);
    struct keys *keys = keys_load(in_folder("keys"), &err);
    cr_assert_not_null(keys, "%s", err.text);
    append_sealed(9, keys);
    keys_free(keys);
    cr_assert_eq(RUN(command_rejects, "export", "-c", config()), EX_OK);
    cr_assert_not_null(strstr(done.out, "\"size\":13,\"content\":\"sealed\"}\n"), "%s", done.out);
    cr_assert_eq(RUN(command_rejects, "export", "--reveal", "-c", config()), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "\"key\":\"dGhlLWtleQ==\",\"value\":\"Q0FOQVJZ\",\"headers\":[]"), "%s",
                       done.out);
    cr_assert_eq(unlink(in_folder("keys")), 0);
    cr_assert_eq(RUN(command_rejects, "export", "--reveal", "-c", config()), EX_CONFIG);
    cr_assert_eq(RUN(command_keygen, (char *)(uintptr_t)in_folder("keys")), EX_OK);
    cr_assert_eq(RUN(command_rejects, "export", "--reveal", "-c", config()), EX_DATAERR, "another key");
    cr_assert_not_null(strstr(done.err, "t/3/9"), "%s", done.err);
    cr_assert_eq(count(done.out, "\n"), 1, "it is still named");
    cr_assert_eq(RUN(command_rejects, "list", "-c", config()), EX_OK, "a list needs no key");
}

Test(rejects, absent_content_is_said_to_be_absent) {
    cr_assert_eq(RUN(command_keygen, (char *)(uintptr_t)in_folder("keys")), EX_OK);
    struct record_view v = view_of(5, "", "");
    v.head.flags = RECORD_CONTENT_ABSENT;
    v.head.reason = REASON_TOO_LARGE;
    append(&v);
    cr_assert_eq(RUN(command_rejects, "export", "--reveal", "-c", config()), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "\"reason\":\"too_large\",\"size\":0,\"content\":\"absent\"}\n"), "%s",
                       done.out);
}

Test(rejects, a_torn_end_is_passed_over_and_damage_is_reported) {
    struct record_view v = view_of(1, "a", "b");
    append(&v);
    append(&v);
    char path[256], name[REJECTS_NAME_BYTES];
    struct stat st;
    rejects_segment_name(name, 1);
    snprintf(path, sizeof path, "%s/rejects/%s", folder, name);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(truncate(path, st.st_size - 3), 0);
    cr_assert_eq(RUN(command_rejects, "list", "-c", config()), EX_OK, "ingest may be writing it just now");
    rejects_segment_name(name, 2);
    char next[256];
    snprintf(next, sizeof next, "%s/rejects/%s", folder, name);
    FILE *f = fopen(next, "w");
    struct rejects_segment head = {REJECTS_MAGIC, REJECTS_VERSION, sizeof head, 2, 0};
    fwrite(&head, sizeof head, 1, f);
    fclose(f);
    cr_assert_eq(RUN(command_rejects, "list", "-c", config()), EX_DATAERR, "in a segment that nobody writes any more");
    cr_assert_not_null(strstr(done.err, "damaged"), "%s", done.err);
    cr_assert_eq(count(done.out, "t/3/1"), 1);
}

Test(rejects, explains_itself) {
    cr_assert_eq(RUN(command_rejects, "--help"), EX_OK);
    cr_assert_not_null(strstr(done.out, "usage: millrace rejects"));
    cr_assert_eq(run_command(command_rejects, (char *[]){"rejects", NULL}), EX_USAGE);
    cr_assert_eq(RUN(command_rejects, "frob"), EX_USAGE);
    cr_assert_eq(RUN(command_rejects, "list", "--reveal"), EX_USAGE);
    cr_assert_eq(RUN(command_rejects, "export", "some-id"), EX_USAGE);
    cr_assert_not_null(strstr(done.err, "unexpected argument some-id"), "%s", done.err);
    cr_assert_eq(RUN(command_rejects, "list", "--frob"), EX_USAGE);
}

/* The reader in Python (tools/readers) against the C code, in both directions, and both against docs/formats.md. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/record.h"
#include "transform/seal.h"
#include "transform/value.h"

enum { CASES = 64, VALUE_MAX = 5000 };
static char folder[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *place) {
    (void)st;
    (void)type;
    (void)place;
    return remove(path);
}

static void setup(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-readers-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}
static void teardown(void) { nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS); }
TestSuite(readers, .init = setup, .fini = teardown, .timeout = 60);

static FILE *file(int number, const char *part, const char *mode) {
    char path[128];
    if (number < 0)
        snprintf(path, sizeof path, "%s/%s", folder, part);
    else
        snprintf(path, sizeof path, "%s/%d.%s", folder, number, part);
    FILE *f = fopen(path, mode);
    cr_assert_not_null(f, "%s", path);
    return f;
}

static void put(int number, const char *part, const void *bytes, size_t len) {
    FILE *f = file(number, part, "w");
    cr_assert_eq(fwrite(bytes, 1, len, f), len);
    fclose(f);
}

static struct keys *keys_of(const char *text) {
    char path[128];
    struct err err = {0};
    umask(077);
    put(-1, "keys", text, strlen(text));
    snprintf(path, sizeof path, "%s/keys", folder);
    struct keys *keys = keys_load(path, &err);
    cr_assert_not_null(keys, "%s", err.text);
    return keys;
}

static void python_run(void) {
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        execl("/usr/bin/python3", "python3", "tests/unit/readers_test.py", folder, (char *)NULL);
        _exit(127);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "readers_test.py says no");
}

/* A value that compresses more or less well, by its number. */
static size_t value_make(uint8_t value[VALUE_MAX], int number) {
    uint64_t s = (uint64_t)number * 0x9e3779b97f4a7c15ULL + 1;
    size_t len = number < 8 ? (size_t)number : (size_t)number * 77;
    for (size_t i = 0; i < len; i++) {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        value[i] = (uint8_t)(number % 3 == 0 ? s : s % 4);
    }
    return len;
}

static void decode_expect(const struct keys *keys, int number, const char *part, const char *key) {
    static uint8_t stored[2 * VALUE_MAX], value[VALUE_MAX];
    FILE *f = file(number, part, "r");
    size_t n = fread(stored, 1, sizeof stored, f), len = value_make(value, number), out_len;
    fclose(f);
    uint8_t *out;
    struct err err = {0};
    cr_assert_eq(value_decode(keys, key, strlen(key), stored, n, &out, &out_len, &err), 0, "%d.%s: %s", number, part,
                 err.text);
    cr_assert_eq(out_len, len);
    cr_assert_eq(memcmp(out, value, len), 0);
    free(out);
}

Test(readers, python_and_c_read_each_other) {
    struct keys *keys =
        keys_of("key 7 //////////////////////////////////////////8= 2026-01-31\n"
                "key 4294967295 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8= 2026-01-31\ncurrent 4294967295\n");
    static uint8_t value[VALUE_MAX], stored[2 * VALUE_MAX];
    static const uint8_t prefix[XAES_PREFIX_BYTES] = "a prefix...";
    struct xaes_sealer sealer;
    struct value_encoder encoder;
    struct err err = {0};
    cr_assert_eq(xaes_sealer_init(&sealer, keys_current(keys)->bytes, prefix, &err), 0);
    cr_assert_eq(value_encoder_init(&encoder, &sealer, keys_current(keys)->id, &err), 0);
    char key[32];
    for (int i = 0; i < CASES; i++) {
        size_t len = value_make(value, i);
        int key_bytes = snprintf(key, sizeof key, "key:%d:\xc3\xa9", i);
        size_t n = value_encode(&encoder, (unsigned)i % 4, key, (size_t)key_bytes, value, len, stored);
        put(i, "key", key, (size_t)key_bytes);
        put(i, "value", value, len);
        put(i, "stored", stored, n);
    }
    python_run();
    for (int i = 0; i < CASES; i++) {
        snprintf(key, sizeof key, "key:%d:\xc3\xa9", i);
        decode_expect(keys, i, "stored", key);
        decode_expect(keys, i, "python", key);
    }
    value_encoder_free(&encoder);
    xaes_sealer_free(&sealer);
    keys_free(keys);
}

/* -- the examples of the documentation --------------------------------------------------------- */

static char page[65536];

/* The text of the block ```name, which is ended with a NUL in place. */
static char *block(const char *name) {
    char head[64];
    FILE *f = fopen("docs/formats.md", "r");
    cr_assert_not_null(f, "tests run in the project's folder");
    page[fread(page, 1, sizeof page - 1, f)] = '\0';
    fclose(f);
    snprintf(head, sizeof head, "\n```%s\n", name);
    char *at = strstr(page, head);
    cr_assert_not_null(at, "no block %s", name);
    at += strlen(head);
    char *end = strstr(at, "\n```");
    cr_assert_not_null(end);
    end[1] = '\0';
    return at;
}

static size_t block_bytes(const char *name, uint8_t *out, size_t room) {
    size_t n = 0;
    for (char *at = block(name), *end; n < room; at = end) {
        unsigned long byte = strtoul(at, &end, 16);
        if (end == at) break;
        out[n++] = (uint8_t)byte;
    }
    return n;
}

Test(readers, examples_of_the_documentation_decode) {
    struct keys *keys = keys_of(block("keys"));
    static const char *const names[] = {"stored-lz4", "stored-both"};
    char value[256];
    snprintf(value, sizeof value, "%s", block("value"));
    value[strlen(value) - 1] = '\0'; /* the newline is the block's */
    cr_assert_eq(strlen(value), 73);
    for (size_t i = 0; i < 2; i++) {
        uint8_t stored[512], *out;
        size_t n = block_bytes(names[i], stored, sizeof stored), len;
        struct err err = {0};
        cr_assert_eq(value_decode(keys, "card:1001:7", 11, stored, n, &out, &len, &err), 0, "%s: %s", names[i],
                     err.text);
        cr_assert_eq(len, 73);
        cr_assert_eq(memcmp(out, value, len), 0);
        free(out);
    }
    keys_free(keys);
}

Test(readers, the_sealed_example_opens) {
    struct keys *keys = keys_of(block("keys"));
    uint8_t sealed[512], id[16], *buffer;
    size_t n = block_bytes("sealed", sealed, sizeof sealed);
    struct err err = {0};
    struct seal_parts parts;
    record_id_derive(id, "cards.change", 3, 42);
    struct seal_origin origin = {id, "cards.change", 3, 42};
    cr_assert_eq(seal_open(keys, &origin, sealed, n, &parts, &buffer, &err), 0, "%s", err.text);
    cr_assert_eq(parts.key_bytes, 4);
    cr_assert_eq(memcmp(parts.key, "1001", 4), 0);
    cr_assert_eq(memcmp(parts.value, "not JSON", parts.value_bytes), 0);
    struct record_header header;
    cr_assert_eq(record_header_last(parts.headers, parts.headers_bytes, "op", &header), 1);
    cr_assert_eq(memcmp(header.value, "update", 6), 0);
    char text[37];
    record_id_format(id, text);
    cr_assert_not_null(strstr(page, text), "the id on the page");
    free(buffer);
    keys_free(keys);
}

#include "base/audit_keys.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

/* Base64 of the bytes 0 to 31, and of 32 bytes 0xff. */
#define KEY_A "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define KEY_B "//////////////////////////////////////////8="

static char path[64];

static void setup(void) {
    snprintf(path, sizeof path, "/tmp/millrace-audit-keys-XXXXXX");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
}
static void teardown(void) { unlink(path); }
TestSuite(audit_keys, .init = setup, .fini = teardown);

static void file_write(const char *text) {
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

static void bytes_expect(const uint8_t got[AUDIT_KEY_BYTES], const char *hex) {
    char text[2 * AUDIT_KEY_BYTES + 1];
    for (int i = 0; i < AUDIT_KEY_BYTES; i++) snprintf(text + 2 * i, 3, "%02x", got[i]);
    cr_assert_str_eq(text, hex);
}

static bool blank(const uint8_t bytes[AUDIT_KEY_BYTES]) {
    static const uint8_t none[AUDIT_KEY_BYTES];
    return memcmp(bytes, none, sizeof none) == 0;
}

/* Made with another implementation of HKDF-SHA-256 (RFC 5869). */
Test(audit_keys, derives_three_keys_of_one) {
    struct audit_keys keys;
    struct err err = {0};
    file_write("key 7 " KEY_A " 2026-01-31\ncurrent 7\n");
    unsigned all = AUDIT_KEY_DIGEST | AUDIT_KEY_CHAIN | AUDIT_KEY_ANCHOR;
    cr_assert_eq(audit_keys_load(path, all, &keys, &err), 0, "%s", err.text);
    cr_assert_eq(keys.id, 7);
    bytes_expect(keys.digest, "133de34736d1b0e702eef716ee9985b1b5c47c50810dd4e6b70fe2f00ca0503c");
    bytes_expect(keys.chain, "db3f5807f33068b1252faf02e24a9d0477fe4d5f5d227abad50ef72dd9927fe3");
    bytes_expect(keys.anchor_seed, "e60f7d811c932d4d079121243be10385e312f7bf1d659218e4d8ba53a03f69f7");
}

Test(audit_keys, gives_only_what_is_asked_for) {
    struct audit_keys keys;
    struct err err = {0};
    file_write("key 1 " KEY_A " 2026-01-31\ncurrent 1\n");
    cr_assert_eq(audit_keys_load(path, AUDIT_KEY_DIGEST, &keys, &err), 0, "%s", err.text);
    cr_assert(!blank(keys.digest) && blank(keys.chain) && blank(keys.anchor_seed));
    cr_assert_eq(audit_keys_load(path, AUDIT_KEY_CHAIN | AUDIT_KEY_ANCHOR, &keys, &err), 0, "%s", err.text);
    cr_assert(blank(keys.digest) && !blank(keys.chain) && !blank(keys.anchor_seed));
}

Test(audit_keys, refuses_a_file_with_more_than_one_key_and_leaves_nothing_behind) {
    struct audit_keys keys;
    struct err err = {0};
    file_write("key 1 " KEY_A " 2026-01-31\nkey 2 " KEY_B " 2026-01-31\ncurrent 1\n");
    cr_assert_eq(audit_keys_load(path, AUDIT_KEY_DIGEST, &keys, &err), -1);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert_not_null(strstr(err.text, "2 keys"), "%s", err.text);
    cr_assert(blank(keys.digest) && keys.id == 0);
}

Test(audit_keys, says_what_is_wrong_with_the_file) {
    struct audit_keys keys;
    struct err err = {0};
    cr_assert_eq(audit_keys_load("/nonexistent/audit.keys", AUDIT_KEY_DIGEST, &keys, &err), -1);
    cr_assert_eq(err.code, EX_NOINPUT);
    file_write("key 1 " KEY_A " 2026-01-31\ncurrent 1\n");
    chmod(path, 0644);
    cr_assert_eq(audit_keys_load(path, AUDIT_KEY_DIGEST, &keys, &err), -1);
    cr_assert_eq(err.code, EX_NOPERM);
    chmod(path, 0600);
    file_write("nothing of ours\n");
    cr_assert_eq(audit_keys_load(path, AUDIT_KEY_DIGEST, &keys, &err), -1);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert(blank(keys.digest));
}

#include "base/keys.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

/* Base64 of the bytes 0 to 31, and of 32 bytes 0xff. */
#define KEY_A "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define KEY_B "//////////////////////////////////////////8="

static char path[64];

static void setup(void) {
    snprintf(path, sizeof path, "/tmp/millrace-keys-XXXXXX");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
}
static void teardown(void) { unlink(path); }
TestSuite(keys, .init = setup, .fini = teardown);

static void file_write(const char *text) {
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

static struct keys *load(const char *text) {
    struct err err = {0};
    file_write(text);
    struct keys *keys = keys_load(path, &err);
    cr_assert_not_null(keys, "%s", err.text);
    return keys;
}

static void refuse(const char *text, int line, const char *part) {
    struct err err = {0};
    char where[80];
    file_write(text);
    cr_assert_null(keys_load(path, &err), "%s", text);
    cr_assert_eq(err.code, EX_CONFIG);
    snprintf(where, sizeof where, "%s:%d: ", path, line);
    cr_assert_eq(strncmp(err.text, where, strlen(where)), 0, "%s does not begin with %s", err.text, where);
    cr_assert_not_null(strstr(err.text, part), "%s", err.text);
    cr_assert_null(strstr(err.text, "AAECAwQF"), "a message must not hold a key: %s", err.text);
}

Test(keys, reads_keys_and_the_current_one) {
    struct keys *keys =
        load("# comment\n\n  key 7 " KEY_A " 2026-01-31\r\n\tkey 4294967295 " KEY_B " 2026-02-01\ncurrent 7");
    cr_assert_eq(keys->count, 2);
    cr_assert_eq(keys_current(keys)->id, 7);
    for (int i = 0; i < KEY_BYTES; i++) {
        cr_assert_eq(keys_current(keys)->bytes[i], i);
        cr_assert_eq(keys_find(keys, 4294967295U)->bytes[i], 0xff);
    }
    cr_assert_str_eq(keys_current(keys)->created, "2026-01-31");
    cr_assert_null(keys_find(keys, 8));
    keys_free(keys);
}

Test(keys, takes_as_many_as_the_limit_says) {
    static char text[CRYPTO_KEYS_MAX * KEYS_LINE_BYTES + 256];
    size_t n = 0;
    for (int i = 1; i <= CRYPTO_KEYS_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "key %d " KEY_A " 2026-01-31\n", i);
    snprintf(text + n, sizeof text - n, "current 64\n");
    struct keys *keys = load(text);
    cr_assert_eq(keys->count, CRYPTO_KEYS_MAX);
    keys_free(keys);
    snprintf(text + n, sizeof text - n, "key 65 " KEY_A " 2026-01-31\ncurrent 64\n");
    refuse(text, CRYPTO_KEYS_MAX + 1, "too many");
}

Test(keys, says_line_and_mistake) {
    refuse("", 1, "no key");
    refuse("# nothing\n", 2, "no key");
    refuse("key 1 " KEY_A " 2026-01-31\n", 2, "current");
    refuse("key 1 " KEY_A " 2026-01-31\ncurrent 2\n", 2, "not in this file");
    refuse("key 1 " KEY_A " 2026-01-31\ncurrent 1\ncurrent 1\n", 3, "only one");
    refuse("key 1 " KEY_A " 2026-01-31\ncurrent\n", 2, "current ID");
    refuse("key 1 " KEY_A " 2026-01-31\ncurrent x\n", 2, "current ID");
    refuse("key 1 " KEY_A " 2026-01-31\nkey 1 " KEY_B " 2026-01-31\ncurrent 1\n", 2, "twice");
    refuse("# x\nkey 0 " KEY_A " 2026-01-31\ncurrent 0\n", 2, "from 1 to");
    refuse("key 4294967296 " KEY_A " 2026-01-31\n", 1, "from 1 to");
    refuse("key 18446744073709551617 " KEY_A " 2026-01-31\n", 1, "from 1 to");
    refuse("key -1 " KEY_A " 2026-01-31\n", 1, "from 1 to");
    refuse("key 1 " KEY_A "\n", 1, "key ID");
    refuse("key 1 " KEY_A " 2026-01-31 more\n", 1, "key ID");
    refuse("key 1 " KEY_A " 31.01.2026\n", 1, "YYYY-MM-DD");
    refuse("key 1 " KEY_A "= 2026-01-31\n", 1, "base64");
    refuse("key 1 AAECAwQF 2026-01-31\n", 1, "base64");
    refuse("key 1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9= 2026-01-31\n", 1, "base64"); /* stray bits */
    refuse("key 1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdH-8= 2026-01-31\n", 1, "base64");
    refuse("key 1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= 2026-01-31\n", 1, "zero");
    refuse("secret 1 " KEY_A " 2026-01-31\n", 1, "comment");
}

Test(keys, refuses_files_that_others_can_read) {
    struct err err = {0};
    file_write("key 1 " KEY_A " 2026-01-31\ncurrent 1\n");
    static const mode_t bad[] = {0644, 0604, 0620, 0660, 0601, 0610, 0602};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_eq(chmod(path, bad[i]), 0);
        cr_assert_null(keys_load(path, &err), "mode %o", bad[i]);
        cr_assert_eq(err.code, EX_NOPERM);
    }
    static const mode_t good[] = {0600, 0400, 0440, 0640};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_assert_eq(chmod(path, good[i]), 0);
        struct keys *keys = keys_load(path, &err);
        cr_assert_not_null(keys, "mode %o: %s", good[i], err.text);
        keys_free(keys);
    }
}

Test(keys, refuses_what_is_not_a_key_file) {
    struct err err = {0};
    cr_assert_null(keys_load("/nonexistent/keys", &err));
    cr_assert_eq(err.code, EX_NOINPUT);
    cr_assert_null(keys_load("/tmp", &err));
    cr_assert_eq(err.code, EX_NOINPUT);
    cr_assert_eq(truncate(path, KEYS_FILE_BYTES_MAX + 1), 0);
    cr_assert_null(keys_load(path, &err));
    cr_assert_eq(err.code, EX_CONFIG);
    unlink(path);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_null(keys_load(path, &err), "and does not hang");
    cr_assert_eq(err.code, EX_NOINPUT);
}

Test(keys, lines_read_back) {
    struct key key = {.id = 4000000000U, .created = "2026-12-31"};
    char line[KEYS_LINE_BYTES], text[KEYS_LINE_BYTES + 32];
    for (int i = 0; i < KEY_BYTES; i++) key.bytes[i] = (uint8_t)(251 - 7 * i);
    size_t n = keys_line(line, &key);
    cr_assert_eq(n, strlen(line));
    cr_assert_eq(line[n - 1], '\n');
    snprintf(text, sizeof text, "%scurrent 4000000000\n", line);
    struct keys *keys = load(text);
    cr_assert_arr_eq(keys_current(keys)->bytes, key.bytes, KEY_BYTES);
    cr_assert_str_eq(keys_current(keys)->created, "2026-12-31");
    keys_free(keys);
}

/* The memory is locked and left out of core dumps: the flags of its mapping say so. */
Test(keys, memory_is_locked_and_not_dumped) {
    struct keys *keys = load("key 1 " KEY_A " 2026-01-31\ncurrent 1\n");
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[512];
    bool inside = false, locked = false, undumped = false, wiped = false;
    cr_assert_not_null(maps);
    while (fgets(line, sizeof line, maps) != NULL) {
        unsigned long begin, end;
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2) inside = begin <= (uintptr_t)keys && (uintptr_t)keys < end;
        if (!inside || strncmp(line, "VmFlags:", 8) != 0) continue;
        locked = strstr(line, " lo") != NULL;
        undumped = strstr(line, " dd") != NULL;
        wiped = strstr(line, " wf") != NULL;
    }
    fclose(maps);
#ifndef __SANITIZE_ADDRESS__ /* which makes mlock do nothing */
    cr_assert(locked);
#endif
    cr_assert(undumped);
    cr_assert(wiped);
    keys_free(keys);
    keys_free(NULL);
}

#include "tests/unit/tools/command.h"

#include "base/keys.h"

TestSuite(keygen, .init = folder_make, .fini = folder_remove);

static struct keys *load(const char *path) {
    struct err err = {0};
    struct keys *keys = keys_load(path, &err);
    cr_assert_not_null(keys, "%s", err.text);
    return keys;
}

static char *path_of(const char *name) { return (char *)(uintptr_t)in_folder(name); }

Test(keygen, makes_a_file_that_only_its_owner_reads) {
    struct stat st;
    umask(0);
    cr_assert_eq(RUN(command_keygen, path_of("keys")), EX_OK, "%s", done.err);
    cr_assert_eq(stat(in_folder("keys"), &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0600);
    struct keys *keys = load(in_folder("keys"));
    cr_assert_eq(keys->count, 1);
    cr_assert_eq(keys_current(keys)->id, 1);
    char line[KEYS_LINE_BYTES];
    keys_line(line, keys_current(keys));
    line[6 + KEY_BASE64_CHARS] = '\0'; /* "key 1 " and the key */
    cr_assert_null(strstr(done.out, line + 6), "a key must not be printed");
    keys_free(keys);
}

Test(keygen, two_files_have_different_keys) {
    cr_assert_eq(RUN(command_keygen, path_of("a")), EX_OK);
    cr_assert_eq(RUN(command_keygen, path_of("b")), EX_OK);
    struct keys *a = load(in_folder("a")), *b = load(in_folder("b"));
    cr_assert_neq(memcmp(a->key[0].bytes, b->key[0].bytes, KEY_BYTES), 0);
    keys_free(a);
    keys_free(b);
}

Test(keygen, never_overwrites) {
    file_put("keys", "precious");
    cr_assert_eq(RUN(command_keygen, path_of("keys")), EX_CANTCREAT);
    cr_assert_not_null(strstr(done.err, "exists"), "%s", done.err);
    char text[64];
    file_get("keys", text, sizeof text);
    cr_assert_str_eq(text, "precious");
    cr_assert_eq(RUN(command_keygen, path_of("none/keys")), EX_CANTCREAT);
}

Test(keygen, adds_a_key_and_keeps_the_rest) {
    cr_assert_eq(RUN(command_keygen, path_of("keys")), EX_OK);
    struct keys *before = load(in_folder("keys"));
    FILE *f = fopen(in_folder("keys"), "a");
    fputs("# a comment of the operator's, without newline", f);
    fclose(f);
    cr_assert_eq(chmod(in_folder("keys"), 0640), 0);
    cr_assert_eq(RUN(command_keygen, "--add", path_of("keys")), EX_OK, "%s", done.err);
    cr_assert_eq(RUN(command_keygen, path_of("keys"), "--add"), EX_OK, "%s", done.err);
    struct keys *after = load(in_folder("keys"));
    cr_assert_eq(after->count, 3);
    cr_assert_eq(keys_current(after)->id, 3);
    cr_assert_arr_eq(keys_find(after, 1)->bytes, before->key[0].bytes, KEY_BYTES);
    cr_assert_neq(memcmp(keys_find(after, 2)->bytes, keys_find(after, 3)->bytes, KEY_BYTES), 0);
    char text[4096];
    struct stat st;
    file_get("keys", text, sizeof text);
    cr_assert_not_null(strstr(text, "# a comment of the operator's, without newline\n"));
    cr_assert_eq(stat(in_folder("keys"), &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0640, "the service that reads it still can");
    cr_assert_neq(access(in_folder("keys.new"), F_OK), 0);
    keys_free(before);
    keys_free(after);
}

Test(keygen, adds_through_a_link_to_the_file_itself) {
    cr_assert_eq(RUN(command_keygen, path_of("real")), EX_OK);
    cr_assert_eq(symlink(in_folder("real"), in_folder("link")), 0);
    cr_assert_eq(RUN(command_keygen, "--add", path_of("link")), EX_OK, "%s", done.err);
    struct stat st;
    cr_assert_eq(lstat(in_folder("link"), &st), 0);
    cr_assert(S_ISLNK(st.st_mode));
    struct keys *keys = load(in_folder("real"));
    cr_assert_eq(keys->count, 2);
    keys_free(keys);
}

Test(keygen, refuses_to_add_to_what_it_cannot_read) {
    cr_assert_eq(RUN(command_keygen, "--add", path_of("none")), EX_NOINPUT);
    file_put("bad", "key 1 short 2026-01-01\ncurrent 1\n");
    cr_assert_eq(chmod(in_folder("bad"), 0600), 0);
    cr_assert_eq(RUN(command_keygen, "--add", path_of("bad")), EX_CONFIG);
    cr_assert_not_null(strstr(done.err, "bad:1: "), "%s", done.err);
    cr_assert_eq(chmod(in_folder("bad"), 0644), 0);
    cr_assert_eq(RUN(command_keygen, "--add", path_of("bad")), EX_NOPERM);
    cr_assert_eq(RUN(command_keygen, path_of("keys")), EX_OK);
    file_put("keys.new", "left by somebody");
    cr_assert_eq(RUN(command_keygen, "--add", path_of("keys")), EX_CANTCREAT, "two at a time would lose a key");
    cr_assert_not_null(strstr(done.err, "keys.new"), "%s", done.err);
}

Test(keygen, lists_ids_and_never_keys) {
    cr_assert_eq(RUN(command_keygen, path_of("keys")), EX_OK);
    cr_assert_eq(RUN(command_keygen, "--add", path_of("keys")), EX_OK);
    struct keys *keys = load(in_folder("keys"));
    cr_assert_eq(RUN(command_keygen, "--list", path_of("keys")), EX_OK);
    cr_assert_not_null(strstr(done.out, "current"));
    cr_assert_not_null(strstr(done.out, keys->key[0].created));
    char line[KEYS_LINE_BYTES];
    for (uint32_t i = 0; i < 2; i++) {
        keys_line(line, &keys->key[i]);
        line[6 + KEY_BASE64_CHARS] = '\0';
        cr_assert_null(strstr(done.out, line + 6));
    }
    cr_assert_eq(RUN(command_keygen, "--list", "--json", path_of("keys")), EX_OK);
    cr_assert_not_null(strstr(done.out, "{\"id\":2,\"created\":\""), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "\"current\":true}]"), "%s", done.out);
    keys_free(keys);
}

Test(keygen, explains_itself) {
    cr_assert_eq(RUN(command_keygen, "--help"), EX_OK);
    cr_assert_not_null(strstr(done.out, "usage: millrace keygen"));
    cr_assert_eq(run_command(command_keygen, (char *[]){"keygen", NULL}), EX_USAGE);
    cr_assert_eq(RUN(command_keygen, "a", "b"), EX_USAGE);
    cr_assert_eq(RUN(command_keygen, "--frob", "a"), EX_USAGE);
    cr_assert_not_null(strstr(done.err, "--frob"), "%s", done.err);
    cr_assert_eq(RUN(command_keygen, "--add", "--list", "a"), EX_USAGE);
}

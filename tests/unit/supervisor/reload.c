/* What a reload makes of the file: the same, another one, or one that cannot be gone over to. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/reload.h"

static char folder[64], file[96], keys[96];
static struct config now, next;
static struct err err;
static uint64_t files;

static void put(const char *path, const char *text) {
    char draft[128];
    snprintf(draft, sizeof draft, "%s.new", path);
    FILE *f = fopen(draft, "we");
    cr_assert_not_null(f);
    fputs(text, f);
    cr_assert_eq(fclose(f), 0);
    cr_assert_eq(rename(draft, path), 0);
}

static void configure(const char *name, const char *instance, const char *run_dir, const char *data_dir,
                      const char *group, const char *more) {
    char text[2048];
    snprintf(text, sizeof text,
             "config_version: 1\nname: %s\ninstance: %s\nrun_dir: %s\ndata_dir: %s\nstart: earliest\nkafka:\n"
             "  bootstrap.servers: localhost:1\n  group.id: %s\nredis:\n  url: redis://localhost:1/0\n"
             "crypto:\n  keys: %s\n%s"
             "topics:\n  - name: t\n    mode: bulk\n    format: raw\n    key: \"{$key}\"\n",
             name, instance, run_dir, data_dir, group, keys, more);
    put(file, text);
}

static void begin(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/millrace.yaml", folder);
    snprintf(keys, sizeof keys, "%s/keys", folder);
    put(keys, "one\n");
    configure("a", "n", "/run/a", "/data/a", "g", "");
    cr_assert_eq(config_load(file, &now, &err), 0, "%s", err.text);
    files = reload_files(&now);
}

static void end(void) {
    unlink(file);
    unlink(keys);
    rmdir(folder);
}

TestSuite(reload, .init = begin, .fini = end);

static enum reload_verdict look(void) { return reload_look(file, &now, files, &next, &err); }

Test(reload, of_the_same_is_nothing_to_do) {
    cr_assert_eq(look(), RELOAD_UNCHANGED);
    configure("a", "n", "/run/a", "/data/a", "g", "# only a remark\n");
    cr_assert_eq(look(), RELOAD_UNCHANGED);
}

Test(reload, of_another_value_goes) {
    configure("a", "n", "/run/a", "/data/a", "g", "lanes: 3\n");
    cr_assert_eq(look(), RELOAD_GO);
    cr_assert_eq(next.lanes, 3);
}

Test(reload, notices_a_key_file_with_other_keys) {
    put(keys, "one\ntwo\n");
    cr_assert_eq(look(), RELOAD_GO);
    files = reload_files(&now);
    cr_assert_eq(look(), RELOAD_UNCHANGED);
    unlink(keys);
    cr_assert_eq(look(), RELOAD_GO, "whoever needs it will say that it is missing");
}

Test(reload, refuses_what_an_instance_keeps_for_life) {
    static const char *const key[] = {"`name`", "`instance`", "`run_dir`", "`data_dir`", "`kafka.group.id`"};
    for (int i = 0; i < 5; i++) {
        configure(i == 0 ? "b" : "a", i == 1 ? "m" : "n", i == 2 ? "/run/b" : "/run/a", i == 3 ? "/data/b" : "/data/a",
                  i == 4 ? "h" : "g", "");
        cr_assert_eq(look(), RELOAD_REFUSED);
        cr_assert_not_null(strstr(err.text, key[i]), "%s", err.text);
        cr_assert_not_null(strstr(err.text, file), "%s", err.text);
    }
}

Test(reload, says_where_a_bad_file_is_wrong) {
    configure("a", "n", "/run/a", "/data/a", "g", "lannes: 3\n");
    cr_assert_eq(look(), RELOAD_REFUSED);
    cr_assert_not_null(strstr(err.text, "millrace.yaml:14:1"), "%s", err.text);
    cr_assert_not_null(strstr(err.text, "lanes"), "%s", err.text);
    unlink(file);
    cr_assert_eq(look(), RELOAD_REFUSED);
    cr_assert_not_null(strstr(err.text, "No such file"), "%s", err.text);
}

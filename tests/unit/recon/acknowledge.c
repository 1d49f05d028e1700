#include "recon/acknowledge.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

static struct config config;
static struct err err;
static char seen[512];

static void make_folder(void) {
    char path[PATH_BYTES + 32];
    snprintf(config.data_dir, sizeof config.data_dir, "/tmp/millrace-acknowledge-XXXXXX");
    cr_assert_not_null(mkdtemp(config.data_dir));
    snprintf(path, sizeof path, "%s/recon", config.data_dir);
    mkdir(path, 0750);
}

static void remove_folder(void) {
    char path[PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/recon/acknowledged", config.data_dir);
    unlink(path);
    *strrchr(path, '/') = '\0';
    rmdir(path);
    rmdir(config.data_dir);
}

TestSuite(acknowledge, .init = make_folder, .fini = remove_folder);

static int note(void *context, const char *id) {
    snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%s ", id);
    return context != NULL;
}

Test(acknowledge, each_is_taken_once_and_in_order) {
    cr_assert_eq(acknowledge_take(&config, note, NULL), -1, "nothing there");
    cr_assert_eq(acknowledge_put(&config, "0198aaaa-0000-8000-8000-000000000001", &err), 0);
    cr_assert_eq(acknowledge_put(&config, "0198aaaa-0000-8000-8000-000000000002", &err), 0);
    cr_assert_eq(acknowledge_take(&config, note, NULL), 2);
    cr_assert_str_eq(seen, "0198aaaa-0000-8000-8000-000000000001 0198aaaa-0000-8000-8000-000000000002 ");
    cr_assert_eq(acknowledge_take(&config, note, NULL), -1);
}

Test(acknowledge, what_cannot_be_taken_stays) {
    cr_assert_eq(acknowledge_put(&config, "a", &err), 0);
    cr_assert_eq(acknowledge_take(&config, note, &err), -1);
    cr_assert_eq(acknowledge_take(&config, note, NULL), 1);
    cr_assert_str_eq(seen, "a a ");
}

Test(acknowledge, says_so_when_recon_has_never_run) {
    char path[PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/recon", config.data_dir);
    rmdir(path);
    cr_assert_eq(acknowledge_put(&config, "a", &err), -1);
    cr_assert_eq(err.code, EX_UNAVAILABLE);
}

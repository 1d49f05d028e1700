#include "tests/unit/tools/command.h"

#include "recon/db.h"
#include "recon/exception.h"

static struct config config;
static struct err err;
static sqlite3 *db;

static void setup(void) {
    char text[1024], path[PATH_BYTES + 32];
    folder_make();
    snprintf(text, sizeof text,
             "config_version: 1\nname: test\ndata_dir: %s\nkafka:\n  bootstrap.servers: localhost:1\nredis:\n"
             "  url: redis://127.0.0.1:1/0\n"
             "topics:\n  - name: cards.change\n    mode: change\n    format: raw\n    key: \"{$key}\"\n",
             folder);
    file_put("millrace.yaml", text);
    snprintf(config.data_dir, sizeof config.data_dir, "%s", folder);
    snprintf(config.name, sizeof config.name, "test");
    snprintf(config.recon.webhook, sizeof config.recon.webhook, "https://receiver.example/t0ken");
    db_path(&config, path);
    db = db_open(path, &err);
    cr_assert_not_null(db, "%s", err.text);
}

static void end(void) {
    sqlite3_close(db);
    folder_remove();
}
TestSuite(recon_exceptions, .init = setup, .fini = end);

static char *file(void) { return (char *)(uintptr_t)in_folder("millrace.yaml"); }

static const struct exception_about window = {EXCEPTION_UNEXPLAINED, "cards.change", 1773526800000, ""};
static const struct exception_about load = {EXCEPTION_LOAD_INCOMPLETE, "", -1, "a load"};

static char *id_of(const struct exception_about *about) {
    static char id[EXCEPTION_ID_BYTES];
    exception_current_id(db, &config, about, id);
    return id;
}

Test(recon_exceptions, lists_what_is_open_and_how_far_telling_has_come) {
    char wanted[256];
    cr_assert_eq(RUN(command_recon_exceptions, "-c", file()), EX_OK, "%s", done.err);
    cr_assert_str_eq(done.out, "no exceptions are open\n");
    exception_raise(db, &config, &window, 3, 1773527000000, &err, "3 records are missing");
    exception_raise(db, &config, &load, 0, 1773527001000, &err, "no end");
    cr_assert_eq(
        db_run(db, "UPDATE delivery SET attempts = 2, error = 'the receiver answered 500' WHERE channel = 'webhook'",
               &err),
        0);
    cr_assert_eq(db_run(db, "UPDATE delivery SET done_ms = 1 WHERE channel = 'log'", &err), 0);
    cr_assert_eq(RUN(command_recon_exceptions, "-c", file()), EX_OK, "%s", done.err);
    snprintf(wanted, sizeof wanted,
             "%s  2026-03-14T22:23:20Z  open  unexplained cards.change window 2026-03-14T22:20:00Z\n"
             "    3 records are missing\n    log sent, webhook failed 2 times: the receiver answered 500\n",
             id_of(&window));
    cr_assert_eq(strncmp(done.out, wanted, strlen(wanted)), 0, "%s\n%s", done.out, wanted);
    cr_assert_not_null(strstr(done.out, "load_incomplete a load\n"));
    exception_clear(db, &load, 1773527002000, &err);
    cr_assert_eq(RUN(command_recon_exceptions, "--format", "json", "-c", file()), EX_OK);
    cr_assert_null(strstr(done.out, "load_incomplete"));
    cr_assert_eq(strncmp(done.out, "{\"exceptions\":[{\"id\":", 21), 0, "%s", done.out);
    cr_assert_str_eq(done.out + strlen(done.out) - 3, "]}\n");
    cr_assert_not_null(strstr(done.out, "\"kind\":\"unexplained\",\"state\":\"open\",\"topic\":\"cards.change\","
                                        "\"window\":\"2026-03-14T22:20:00Z\",\"subject\":null,\"count\":3,"));
    cr_assert_eq(RUN(command_recon_exceptions, "--all", "--format", "json", "-c", file()), EX_OK);
    cr_assert_not_null(strstr(done.out, "\"kind\":\"load_incomplete\",\"state\":\"closed\""), "%s", done.out);
}

Test(recon_exceptions, acknowledges_what_there_is) {
    char line[64];
    exception_raise(db, &config, &window, 3, 1, &err, "x");
    cr_assert_eq(RUN(command_recon_exceptions, "--acknowledge", id_of(&load), "-c", file()), EX_NOINPUT);
    cr_assert_eq(RUN(command_recon_exceptions, "--acknowledge", "0123456789abcdef", "-c", file()), EX_USAGE);
    cr_assert_eq(RUN(command_recon_exceptions, "--acknowledge", id_of(&window), "-c", file()), EX_OK, "%s", done.err);
    file_get("recon/acknowledged", line, sizeof line);
    line[36] = '\0';
    cr_assert_str_eq(line, id_of(&window));
    exception_acknowledge(db, line, 2, &err); /* as recon does */
    cr_assert_eq(RUN(command_recon_exceptions, "-c", file()), EX_OK);
    cr_assert_str_eq(done.out, "no exceptions are open\n");
    cr_assert_eq(RUN(command_recon_exceptions, "--all", "-c", file()), EX_OK);
    cr_assert_not_null(strstr(done.out, "  acknowledged  "), "%s", done.out);
}

Test(recon_exceptions, refuses_what_cannot_be_meant) {
    cr_assert_eq(RUN(command_recon_exceptions, "--format", "xml", "-c", file()), EX_USAGE);
    cr_assert_eq(RUN(command_recon_exceptions, "more", "-c", file()), EX_USAGE);
    unlink(in_folder("recon/recon.db"));
    cr_assert_eq(RUN(command_recon_exceptions, "-c", file()), EX_NOINPUT);
}

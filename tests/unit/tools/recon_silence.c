#include "tests/unit/tools/command.h"

#include "base/clock.h"
#include "recon/silence.h"

static void setup(void) {
    char text[1024];
    folder_make();
    snprintf(text, sizeof text,
             "config_version: 1\nname: test\ndata_dir: %s\nkafka:\n  bootstrap.servers: localhost:1\nredis:\n"
             "  url: redis://127.0.0.1:1/0\nrecon:\n  window: 10m\n"
             "topics:\n  - name: cards.change\n    mode: change\n    format: raw\n    key: \"{$key}\"\n",
             folder);
    file_put("millrace.yaml", text);
    mkdir(in_folder("recon"), 0750);
}
TestSuite(recon_silence, .init = setup, .fini = folder_remove);

static char *config(void) { return (char *)(uintptr_t)in_folder("millrace.yaml"); }

static struct silences *silences(void) {
    static struct silences s;
    struct err err = {0};
    cr_assert_eq(silences_read(in_folder("recon/silences"), &s, &err), 0, "%s", err.text);
    return &s;
}

Test(recon_silence, holds_for_an_hour_and_every_topic_unless_told) {
    int64_t now = clock_wall_ms(&clock_real), window = 1773526800000; /* 2026-03-14T22:20:00Z */
    cr_assert_eq(RUN(command_recon_silence, "2026-03-14T22:20:00Z", "-c", config()), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "2026-03-14T22:20:00Z  is silent until "), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "  every topic\n"));
    int64_t until = silences_until(silences(), "cards.change", window, now);
    cr_assert(until >= now + 3600000 && until < now + 3660000);
    cr_assert_eq(RUN(command_recon_silence, "1773526800000", "--topic", "cards.change", "--for", "2d", "-c", config()),
                 EX_OK, "%s", done.err);
    until = silences_until(silences(), "cards.change", window, now);
    cr_assert(until >= now + 2 * 86400000LL);
    cr_assert_eq(RUN(command_recon_silence, "--list", "-c", config()), EX_OK);
    cr_assert_not_null(strstr(done.out, "2026-03-14T22:20:00Z  until "), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "every topic"));
    cr_assert_eq(RUN(command_recon_silence, "2026-03-14T22:20:00.000Z", "--for", "0", "-c", config()), EX_OK);
    cr_assert_str_eq(done.out, "2026-03-14T22:20:00Z  is not silent any more, every topic\n");
    cr_assert_eq(silences()->count, 1, "the other one is still there");
}

Test(recon_silence, refuses_what_cannot_be_meant) {
    static const char *const bad[] = {"2026-03-14", "2026-03-14T22:20:00", "2026-03-14T22:21:00Z", "-1", "now", "12x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(RUN(command_recon_silence, (char *)(uintptr_t)bad[i], "-c", config()), EX_USAGE, "%s", bad[i]);
    cr_assert_eq(RUN(command_recon_silence, "-c", config()), EX_USAGE);
    cr_assert_eq(RUN(command_recon_silence, "0", "--topic", "nobody", "-c", config()), EX_USAGE);
    cr_assert_eq(RUN(command_recon_silence, "0", "--for", "1y", "-c", config()), EX_USAGE);
    cr_assert_eq(RUN(command_recon_silence, "0", "--for", "-1h", "-c", config()), EX_USAGE);
    cr_assert_eq(silences()->count, 0);
}

Test(recon_silence, says_so_when_recon_has_never_run) {
    rmdir(in_folder("recon"));
    cr_assert_eq(RUN(command_recon_silence, "0", "-c", config()), EX_UNAVAILABLE);
    cr_assert_not_null(strstr(done.err, "recon: No such file"), "%s", done.err);
}

Test(recon_silence, does_not_overwrite_what_it_cannot_read) {
    file_put("recon/silences", "nonsense\n");
    cr_assert_eq(RUN(command_recon_silence, "0", "-c", config()), EX_DATAERR);
    char text[64];
    file_get("recon/silences", text, sizeof text);
    cr_assert_str_eq(text, "nonsense\n");
}

/* millrace tune check: what it prints and how it ends. */
#include "tests/unit/tools/command.h"

#define GOOD                                                                                                           \
    "config_version: 1\nname: cards\ninstance: node1\nkafka: {bootstrap.servers: a}\n"                                 \
    "redis: {url: 'redis://h:7'}\ntopics: [{name: t, mode: bulk, key: x}]\n"

static char *file(void) { return (char *)in_folder("m.yaml"); }

/* A host of which only these two files can be read. */
static void host(void) {
    folder_make();
    file_put("m.yaml", GOOD);
    mkdir(in_folder("proc"), 0700);
    mkdir(in_folder("proc/self"), 0700);
    file_put("proc/self/limits", "Max open files            300                  300                  files\n");
    file_put("proc/meminfo", "SwapTotal:       0 kB\nSwapFree:        0 kB\n");
}

TestSuite(tune, .init = host, .fini = folder_remove);

Test(tune, without_a_warning_the_status_is_0) {
    cr_assert_eq(RUN(command_tune, "check", "-c", file(), "--root", folder), EX_OK, "%s", done.out);
    cr_assert_str_eq(
        done.out, "unknown  governor       no processor says; on a virtual machine its host decides\n"
                  "unknown  clocksource    /sys/devices/system/clocksource/clocksource0/current_clocksource cannot be "
                  "read here\n"
                  "unknown  cpu_quota      the control group of this process cannot be read here\n"
                  "unknown  thp            /sys/kernel/mm/transparent_hugepage/enabled cannot be read here\n"
                  "ok       swap           none\n"
                  "ok       descriptors    300 may be open, 288 are enough\n"
                  "6 checks: 2 ok, 0 warnings, 4 unknown\n");
}

Test(tune, with_a_warning_the_status_is_1_and_the_command_stands_below) {
    file_put("proc/self/limits", "Max open files            100                  100                  files\n");
    cr_assert_eq(RUN(command_tune, "check", "-c", file(), "--root", folder), 1);
    cr_assert_not_null(
        strstr(done.out, "warning  descriptors    100 may be open, 288 are wanted\n"
                         "                        LimitNOFILE=288 in the service's unit; in a shell: ulimit -n 288\n"
                         "6 checks: 1 ok, 1 warning, 4 unknown\n"),
        "%s", done.out);
}

Test(tune, json_has_the_same) {
    file_put("proc/self/limits", "Max open files            100                  100                  files\n");
    cr_assert_eq(RUN(command_tune, "check", "-c", file(), "--root", folder, "--format", "json"), 1);
    cr_assert_eq(strstr(done.out, "{\"warnings\": 1, \"unknown\": 4, \"checks\": [\n  {\"check\": \"governor\", "),
                 done.out, "%s", done.out);
    cr_assert_not_null(strstr(done.out, "\n  {\"check\": \"swap\", \"status\": \"ok\", \"reason\": \"none\", "
                                        "\"command\": \"\"},\n"),
                       "%s", done.out);
    cr_assert_not_null(strstr(done.out, "ulimit -n 288\"}\n]}\n"), "%s", done.out);
}

Test(tune, misuse_is_status_64) {
    cr_assert_eq(RUN(command_tune, "-c", file()), EX_USAGE);
    cr_assert_eq(RUN(command_tune, "init", "-c", file()), EX_USAGE);
    cr_assert_eq(RUN(command_tune, "check", "more", "-c", file()), EX_USAGE);
    cr_assert_eq(RUN(command_tune, "check", "--format", "xml", "-c", file()), EX_USAGE);
    cr_assert_not_null(strstr(done.err, "unknown format xml: table or json"), "%s", done.err);
    cr_assert_eq(RUN(command_tune, "check", "--none"), EX_USAGE);
}

Test(tune, a_configuration_that_cannot_be_used_is_status_66_or_78) {
    cr_assert_eq(RUN(command_tune, "check", "-c", (char *)in_folder("none.yaml")), EX_NOINPUT);
    file_put("m.yaml", "config_version: 1\nlane: 2\n");
    cr_assert_eq(RUN(command_tune, "check", "-c", file()), EX_CONFIG);
}

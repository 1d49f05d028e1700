#include "tests/unit/tools/command.h"

#define GOOD                                                                                                           \
    "config_version: 1\nname: cards\ninstance: node1\nlanes: 2\nkafka: {bootstrap.servers: a}\n"                       \
    "redis: {url: 'redis://u:canary@h:7/1'}\ntopics: [{name: t, mode: bulk, key: x}]\n"

static const char *good(void) {
    file_put("m.yaml", GOOD);
    return in_folder("m.yaml");
}

static int contains(const char *text, const char *part) { return strstr(text, part) != NULL; }

Test(check, valid_file_is_printed_with_defaults_and_what_would_run, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_check, "-c", (char *)good()), EX_OK);
    cr_assert(contains(done.out, "\n  batch: 100 "), "%s", done.out);
    cr_assert(contains(done.out, "# `millrace run` would start cards/node1:\n"
                                 "#   processes  6: supervisor, ingest, transform[0-1], sink[0-1]\n"),
              "%s", done.out);
    cr_assert(contains(done.out, "#   memory     96 MiB of rings"), "%s", done.out);
    cr_assert(contains(done.out, "#   kafka      group millrace-cards, static member cards-node1\n"), "%s", done.out);
    cr_assert(contains(done.out, "#   redis      redis://h:7/1, 2 connections\n"), "%s", done.out);
    cr_assert(contains(done.out, "#   topic      t: inserts, raw\n"), "%s", done.out);
}

Test(check, says_what_audit_will_claim_of_each_topic_and_by_what_right, .init = folder_make, .fini = folder_remove) {
    char text[1024];
    snprintf(text, sizeof text,
             "config_version: 1\nname: cards\ndata_dir: %s\nkafka: {bootstrap.servers: a}\nredis: {url: 'redis://h'}\n"
             "audit: on\nrecon: {keys: /nonexistent/keys, retention_bytes: 8GiB, manifest_topic: m}\n"
             "topics: [{name: t, mode: bulk, key: x, evidence: manifest}, {name: u, mode: bulk, key: x},"
             " {name: v, mode: bulk, key: x, reconcile: off}]\n",
             folder);
    file_put("m.yaml", text);
    cr_assert_eq(RUN(command_check, "-c", (char *)in_folder("m.yaml")), EX_OK, "%s", done.err);
    snprintf(text, sizeof text, "#   audit      log in %s/audit, at most 8 GiB", folder);
    cr_assert(contains(done.out, text), "%s", done.out);
    cr_assert(contains(done.out, "#   evidence   manifests m, anchors and accounts stay here"), "%s", done.out);
    cr_assert(contains(done.out, "reconcile digest; evidence manifest: the producers say what they published\n") &&
                  contains(done.out, "reconcile digest; evidence offsets: its windows never read `matched`\n") &&
                  contains(done.out, "reconcile off: not in the audit log, nothing is claimed of it\n"),
              "%s", done.out);
    cr_assert_eq(RUN(command_check, "-c", (char *)good()), EX_OK);
    cr_assert(!contains(done.out, "reconcile digest;") && !contains(done.out, "#   audit"));
}

Test(check, secrets_are_warned_about_and_not_shown, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_check, "-c", (char *)good()), EX_OK);
    cr_assert(contains(done.err, "m.yaml:6:14: warning: the password of Redis stands in the file"), "%s", done.err);
    cr_assert(!contains(done.out, "canary") && !contains(done.err, "canary"));
    cr_assert(contains(done.out, "password: \"***\""));
}

Test(check, output_is_a_configuration_itself, .init = folder_make, .fini = folder_remove) {
    RUN(command_check, "-c", (char *)good());
    file_put("again.yaml", done.out);
    cr_assert_eq(RUN(command_check, "-c", (char *)in_folder("again.yaml")), EX_OK, "%s", done.err);
}

Test(check, mistake_is_status_78_with_its_place_and_nothing_on_standard_output, .init = folder_make,
     .fini = folder_remove) {
    file_put("m.yaml", "config_version: 1\nlane: 2\n");
    cr_assert_eq(RUN(command_check, "-c", (char *)in_folder("m.yaml")), EX_CONFIG);
    cr_assert(contains(done.err, "/m.yaml:2:1: unknown key lane; did you mean lanes?\n"), "%s", done.err);
    cr_assert_str_empty(done.out);
}

Test(check, missing_file_is_status_66, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_check, "-c", (char *)in_folder("none.yaml")), EX_NOINPUT);
    cr_assert(contains(done.err, "none.yaml: No such file or directory\n"), "%s", done.err);
}

Test(check, without_a_file_says_where_it_looked, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(chdir(folder), 0);
    if (config_find() != NULL) return; /* this machine has one under /etc */
    cr_assert_eq(RUN(command_check, NULL), EX_NOINPUT);
    cr_assert(contains(done.err, "neither ./millrace.yaml nor /etc/millrace/millrace.yaml"), "%s", done.err);
}

Test(check, key_file_is_looked_at_and_what_is_wrong_with_it_is_a_warning, .init = folder_make, .fini = folder_remove) {
    file_put("m.yaml", GOOD "crypto: {keys: /nonexistent/keys}\n");
    cr_assert_eq(RUN(command_check, "-c", (char *)in_folder("m.yaml")), EX_OK);
    cr_assert(contains(done.err, "warning: crypto.keys: /nonexistent/keys: No such file or directory\n"), "%s",
              done.err);
}

Test(check, files_for_tls_that_are_no_use_are_warned_about, .init = folder_make, .fini = folder_remove) {
    char text[1024];
    file_put("ca.crt", "no certificate\n");
    snprintf(text, sizeof text,
             "config_version: 1\nname: cards\nkafka: {bootstrap.servers: 'a:1'}\nredis:\n  url: rediss://h\n"
             "  tls: {ca_file: %s}\ntopics: [{name: t, mode: bulk, key: x}]\n",
             in_folder("ca.crt"));
    file_put("m.yaml", text);
    cr_assert_eq(RUN(command_check, "-c", (char *)in_folder("m.yaml")), EX_OK, "%s", done.err);
    cr_assert(contains(done.err, "warning: redis.tls.ca_file: ") &&
                  contains(done.err, "ca.crt: no certificate in PEM form in it\n"),
              "%s", done.err);
}

Test(check, quiet_says_what_is_wrong_and_nothing_else, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_check, "-q", "-c", (char *)good()), EX_OK);
    cr_assert_str_empty(done.out);
    file_put("m.yaml", "config_version: 1\nlane: 2\n");
    cr_assert_eq(RUN(command_check, "--quiet", "-c", (char *)in_folder("m.yaml")), EX_CONFIG);
    cr_assert_str_empty(done.out);
    cr_assert(contains(done.err, "did you mean lanes?"), "%s", done.err);
}

Test(check, wrong_arguments_are_status_64, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_check, "--nonsense"), EX_USAGE);
    cr_assert_eq(RUN(command_check, "-c"), EX_USAGE);
    cr_assert_eq(RUN(command_check, "extra"), EX_USAGE);
    cr_assert_str_empty(done.out);
}

Test(check, has_help, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_check, "--help"), EX_OK);
    cr_assert(contains(done.out, "usage: millrace check"));
}

Test(check, documentation_of_the_configuration_is_fresh, .init = folder_make, .fini = folder_remove) {
    static char page[sizeof done.out];
    FILE *f = fopen("docs/configuration.md", "r");
    cr_assert_not_null(f, "run the tests from the top folder");
    page[fread(page, 1, sizeof page - 1, f)] = 0;
    fclose(f);
    cr_assert_eq(RUN(command_check, "--reference"), EX_OK);
    cr_assert(strcmp(page, done.out) == 0, "millrace check --reference > docs/configuration.md");
}

Test(run, refuses_a_mistake_before_anything_starts, .init = folder_make, .fini = folder_remove) {
    file_put("m.yaml", "config_version: 1\nlane: 2\n");
    cr_assert_eq(RUN(command_run, "-c", (char *)in_folder("m.yaml")), EX_CONFIG);
    cr_assert(contains(done.err, "/m.yaml:2:1: unknown key lane; did you mean lanes?\n"), "%s", done.err);
    cr_assert_eq(RUN(command_run, "-c", (char *)in_folder("none.yaml")), EX_NOINPUT);
    cr_assert_eq(RUN(command_run, "--nonsense"), EX_USAGE);
}

Test(run, without_its_supervisor_says_where_it_looked, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_run, "-c", (char *)good()), EX_UNAVAILABLE); /* the test's folder has no programs */
    cr_assert(contains(done.err, "millrace-supervisor is neither beside this program nor in ../libexec/millrace\n"));
}

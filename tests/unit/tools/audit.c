#include "tests/unit/tools/command.h"

#include "audit/scribe.h"
#include "shm/record.h"

static struct scribe scribe; /* the real writer: what audit writes is what an auditor must see */
static struct config config;
static char dir[128], keys_path[128];

static void fill(uint64_t from, uint64_t to) {
    struct scribe_result r;
    for (uint64_t n = from; n <= to; n++) {
        struct entry e = {.bytes = sizeof e,
                          .partition = 3,
                          .epoch = 1,
                          .offset = (int64_t)n + 100,
                          .op = RECORD_ADD,
                          .outcome = n % 5 == 0 ? ENTRY_REJECTED : ENTRY_APPLIED,
                          .reason = n % 5 == 0 ? REASON_JSON_INVALID : REASON_NONE,
                          .flags = ENTRY_DECLARED,
                          .published_bytes = RECORD_BYTES_NULL};
        record_id_derive(e.id, "cards", 3, e.offset);
        e.digest_key[0] = (uint8_t)n;
        log_writer_add(&scribe.log, 0, 77, n, &e);
    }
    scribe_start(&scribe, true);
    cr_assert_eq(scribe_poll(&scribe, &r), SCRIBE_DONE);
    cr_assert_eq(r.failed, 0, "%s", r.err.text);
}

static void setup(void) {
    char text[1024];
    struct err err;
    struct audit_keys keys;
    struct scribe_result r;
    folder_make();
    snprintf(keys_path, sizeof keys_path, "%s", in_folder("audit.keys"));
    snprintf(dir, sizeof dir, "%s", in_folder("audit"));
    cr_assert_eq(RUN(command_keygen, keys_path), EX_OK, "%s", done.err);
    snprintf(text, sizeof text,
             "config_version: 1\nname: test\ninstance: n1\naudit: on\ndata_dir: %s\nkafka:\n"
             "  bootstrap.servers: localhost:1\nredis:\n  url: redis://127.0.0.1:1/0\nrecon:\n  keys: %s\n"
             "topics:\n  - name: cards\n    mode: change\n    format: raw\n    key: \"{$key}\"\n",
             folder, keys_path);
    file_put("millrace.yaml", text);
    cr_assert_eq(config_load(in_folder("millrace.yaml"), &config, &err), 0, "%s", err.text);
    cr_assert_eq(audit_keys_load(keys_path, AUDIT_KEY_CHAIN | AUDIT_KEY_ANCHOR, &keys, &err), 0);
    const struct log_writer_plan plan = {
        .dir = dir, .config = &config, .clock = &clock_real, .files = &log_files_real, .entry_bytes_max = 4096};
    cr_assert_eq(scribe_init(&scribe, &plan, &keys, false, &err), 0, "%s", err.text);
    scribe_start(&scribe, false);
    cr_assert_eq(scribe_poll(&scribe, &r), SCRIBE_DONE);
    cr_assert_eq(r.failed, 0, "%s", r.err.text);
    fill(1, 12);
}

static void teardown(void) {
    scribe_fini(&scribe);
    folder_remove();
}
TestSuite(audit, .init = setup, .fini = teardown);

static char *path_in(const char *name) { return (char *)(uintptr_t)in_folder(name); }
static char *config_file(void) { return path_in("millrace.yaml"); }

static size_t lines(const char *text) {
    size_t n = 0;
    for (; (text = strchr(text, '\n')) != NULL; text++) n++;
    return n;
}

Test(audit, wrong_arguments_are_told) {
    cr_assert_eq(RUN(command_audit, "--help"), EX_OK);
    cr_assert_not_null(strstr(done.out, "millrace audit verify [DIR]"));
    cr_assert_eq(RUN(command_audit, "verfy"), EX_USAGE);
    cr_assert_eq(RUN(command_audit, "show", "--format", "xml"), EX_USAGE);
    cr_assert_eq(RUN(command_audit, "show", "--from", "-1"), EX_USAGE);
    cr_assert_eq(RUN(command_audit, "show", "--nothing"), EX_USAGE);
    cr_assert_eq(RUN(command_audit, "show", "-c", config_file(), "--id", "zebra"), EX_USAGE);
    cr_assert_eq(RUN(command_audit, "show", "-c", config_file(), "--key-digest", "12"), EX_USAGE);
    cr_assert_eq(RUN(command_audit, "key", "somewhere"), EX_USAGE);
    cr_assert_eq(RUN(command_audit, "verify", "a", "b"), EX_USAGE);
    cr_assert_eq(RUN(command_audit, "verify", "/tmp/millrace-no-such", "--keys", keys_path), EX_NOINPUT);
    cr_assert_eq(RUN(command_audit, "verify", dir, "--keys", path_in("no.keys")), EX_NOINPUT);
    cr_assert_eq(RUN(command_audit, "verify", dir, "--keys", keys_path, "--anchors", path_in("none")), EX_NOINPUT);
    cr_assert_eq(RUN(command_audit, "verify", dir, "--pubkey", keys_path), EX_DATAERR);
}

Test(audit, show_prints_entries_as_a_table_and_as_json) {
    cr_assert_eq(RUN(command_audit, "show", "-c", config_file()), EX_OK, "%s", done.err);
    cr_assert_eq(lines(done.out), 13);
    cr_assert_eq(strncmp(done.out, "     entry  written                   outcome    op      id ", 60), 0, "%s",
                 done.out);
    cr_assert_not_null(strstr(done.out, "cards/3/105  json_invalid  declared\n"), "%s", done.out);
    cr_assert_eq(RUN(command_audit, "show", dir, "--format", "json", "--from", "3", "--count", "2"), EX_OK);
    cr_assert_eq(lines(done.out), 2);
    cr_assert_not_null(strstr(done.out, "{\"sequence\":3,"));
    cr_assert_not_null(strstr(done.out, "\"topic\":\"cards\",\"partition\":3,\"offset\":104,"), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "\"flags\":[\"declared\"]"));
    cr_assert_not_null(strstr(done.out, "\"published_bytes\":null"));
    cr_assert_not_null(strstr(done.out, "\"incarnation\":\"000000000000004d\""));
    cr_assert_eq(RUN(command_audit, "show", dir, "--to", "4"), EX_OK);
    cr_assert_eq(lines(done.out), 5);
}

Test(audit, show_finds_by_place_id_and_key) {
    char id[37];
    uint8_t raw[16];
    cr_assert_eq(RUN(command_audit, "show", dir, "--topic", "cards", "--partition", "3", "--offset", "107"), EX_OK);
    cr_assert_eq(lines(done.out), 2);
    record_id_derive(raw, "cards", 3, 111);
    record_id_format(raw, id);
    cr_assert_eq(RUN(command_audit, "show", dir, "--id", id), EX_OK);
    cr_assert_eq(lines(done.out), 2);
    cr_assert_not_null(strstr(done.out, "cards/3/111"));
    cr_assert_eq(RUN(command_audit, "show", dir, "--key-digest", "05000000000000000000000000000000"), EX_OK);
    cr_assert_eq(lines(done.out), 2);
    cr_assert_eq(RUN(command_audit, "show", "-c", config_file(), "--key", "never:seen"), EX_OK, "%s", done.err);
    cr_assert_eq(lines(done.out), 0);
    cr_assert_eq(RUN(command_audit, "show", dir, "--topic", "limits"), EX_OK);
    cr_assert_eq(lines(done.out), 0);
}

Test(audit, verify_says_whole_and_then_names_what_was_done) {
    cr_assert_eq(RUN(command_audit, "verify", "-c", config_file()), EX_OK, "%s%s", done.out, done.err);
    cr_assert_not_null(strstr(done.out, "12 entries (1 to 12)"), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "macs checked; 1 anchor, signatures checked, 1 confirmed, up to entry 12"));
    int fd = open(in_folder("audit/0000000000000001.log"), O_RDWR);
    cr_assert_eq(pwrite(fd, "zz", 2, lseek(fd, 0, SEEK_END) - 300), 2);
    close(fd);
    cr_assert_eq(RUN(command_audit, "verify", "-c", config_file()), 1);
    cr_assert_not_null(strstr(done.out, "changed  0000000000000001.log byte "), "%s", done.out);
    cr_assert_eq(RUN(command_audit, "verify", dir, "--keys", keys_path, "--format", "json"), 1);
    cr_assert_not_null(strstr(done.out, "{\"findings\":[{\"kind\":\"changed\","), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "\"whole\":false,"));
}

Test(audit, a_copy_is_verified_with_its_anchors_and_the_public_key_alone) {
    cr_assert_eq(RUN(command_audit, "key", "-c", config_file()), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "-----BEGIN PUBLIC KEY-----"));
    file_put("audit.pem", done.out);
    cr_assert_eq(RUN(command_audit, "key", "--keys", keys_path), EX_OK);
    fill(13, 20);
    cr_assert_eq(link(in_folder("audit/anchors"), in_folder("kept")), 0);
    cr_assert_eq(unlink(keys_path), 0);
    char anchors[128], pem[128];
    snprintf(anchors, sizeof anchors, "%s", in_folder("kept"));
    snprintf(pem, sizeof pem, "%s", in_folder("audit.pem"));
    cr_assert_eq(RUN(command_audit, "verify", dir, "--anchors", anchors, "--pubkey", pem), EX_OK, "%s%s", done.out,
                 done.err);
    cr_assert_not_null(strstr(done.out, "hashes checked; 2 anchors, signatures checked"));
    cr_assert_eq(truncate(in_folder("audit/0000000000000001.log"), (off_t)scribe.log.end - 8 * 200 - 128), 0);
    cr_assert_eq(unlink(in_folder("audit/durable")), 0);
    cr_assert_eq(RUN(command_audit, "verify", dir, "--anchors", anchors, "--pubkey", pem), 1, "%s", done.out);
    cr_assert_not_null(strstr(done.out, "entries 13 to 20 are gone"), "%s", done.out);
}

static int run_reader(const char *keys, const char *pem) {
    char command[512];
    snprintf(command, sizeof command,
             "/usr/bin/python3 -B tools/readers/millrace_audit.py %s --keys %s --pubkey %s >%s 2>%s", dir, keys, pem,
             in_folder(".out"), in_folder(".err"));
    FILE *f = popen(command, "r");
    int status = pclose(f);
    done.out_bytes = file_get(".out", done.out, sizeof done.out);
    file_get(".err", done.err, sizeof done.err);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(audit, the_python_reader_reads_the_same_and_checks_macs_and_anchors) {
    static char shown[sizeof done.out];
    char pem[128];
    snprintf(pem, sizeof pem, "%s", in_folder("audit.pem"));
    cr_assert_eq(RUN(command_audit, "key", "--keys", keys_path), EX_OK);
    file_put("audit.pem", done.out);
    config.recon.segment_bytes = 1;
    fill(13, 20);
    cr_assert_eq(scribe.log.closed_count, 1);
    cr_assert_eq(RUN(command_audit, "show", dir, "--format", "json"), EX_OK);
    cr_assert_eq(lines(done.out), 20);
    memcpy(shown, done.out, sizeof shown);
    cr_assert_eq(run_reader(keys_path, pem), 0, "%s", done.err);
    cr_assert_str_eq(done.out, shown);
    cr_assert_str_eq(done.err, "2 anchors hold\n");
    int fd = open(in_folder("audit/000000000000000d.log"), O_RDWR);
    cr_assert_eq(pwrite(fd, "z", 1, (off_t)scribe.log.end - 300), 1);
    cr_assert_eq(run_reader(keys_path, pem), 1);
    cr_assert_not_null(strstr(done.err, "the batch is not what was written"), "%s", done.err);
    cr_assert_eq(ftruncate(fd, 900), 0);
    close(fd);
    cr_assert_eq(run_reader(keys_path, pem), 1);
    cr_assert_not_null(strstr(done.err, "not the one that was signed for at entry 20"), "%s", done.err);
}

/* millrace ring on rings of this very process, which stands for the supervisor, and on files. */
#include <sys/prctl.h>
#include <yajl/yajl_tree.h>

#include "base/clock.h"
#include "shm/entry.h"
#include "shm/record.h"
#include "shm/stats.h"
#include "tests/unit/tools/command.h"
#include "tools/rings.h"

static struct config config; /* too large for a stack */
static struct stats s;
static struct ring_fds fds[3];
static struct ring_producer producer[3];

static void record_put(struct ring_producer *p, enum record_op op, int64_t offset, const char *key, const char *value) {
    struct record r = {.op = (uint8_t)op, .topic = 1, .partition = 3, .epoch = 7, .offset = offset, .timestamp_ms = 5};
    r.kafka_key_bytes = op == RECORD_RAW ? (uint32_t)strlen(key) : 0;
    r.redis_key_bytes = op == RECORD_RAW ? 0 : (uint32_t)strlen(key);
    r.value_bytes = (uint32_t)strlen(value);
    uint8_t *body = ring_reserve(p, (uint32_t)record_bytes(&r));
    cr_assert_not_null(body);
    memcpy(body, &r, sizeof r);
    memcpy(body + sizeof r, key, strlen(key));
    memcpy(body + sizeof r + strlen(key), value, strlen(value));
    ring_stage(p, (uint32_t)record_bytes(&r), RECORD_DATA);
    ring_publish(p);
}

/* An instance of one lane: twelve records wait for transform, one for the sink, none among the rejects. */
static void instance_make(void) {
    static const char *const names[] = {"ingest[0]", "transform[0]", "rejects[0]"};
    struct err err = {0};
    int fd;
    folder_make();
    snprintf(config.run_dir, sizeof config.run_dir, "%s", folder);
    snprintf(config.name, sizeof config.name, "cards");
    config.lanes = 1;
    config.topic_count = 2;
    snprintf(config.topic[0].name, TOPIC_BYTES, "cards.bulk");
    snprintf(config.topic[1].name, TOPIC_BYTES, "cards.change");
    cr_assert_eq(stats_create(&s, &config, &fd, &err), 0, "%s", err.text);
    close(fd);
    stats_block(&s, 0)->pid = (uint32_t)getpid();
    stats_block(&s, 0)->heartbeat_ns = clock_ns(&clock_real);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(ring_create(&fds[i], names[i], 1 << 16, 2, 0x77, &err), 0, "%s", err.text);
        cr_assert_eq(ring_producer_attach(&producer[i], &fds[i], -1, &err), RING_ATTACHED);
    }
    for (int i = 0; i < 12; i++)
        record_put(&producer[0], RECORD_RAW, 500 + i, "secret-key", "{\"secret\":\"va\x1b[2Jlue\"}");
    record_put(&producer[1], RECORD_UPDATE, 499, "card:4711-secret", "sealed");
}

#define LIVE "--name", "cards", "--run-dir", folder

static yajl_val json(const char *text) {
    char message[256] = "";
    yajl_val v = yajl_tree_parse(text, message, sizeof message);
    cr_assert_not_null(v, "%s\n%s", message, text);
    return v;
}

static yajl_val ring_at(yajl_val v, size_t i) {
    yajl_val rings = yajl_tree_get(v, (const char *[]){"rings", NULL}, yajl_t_array);
    cr_assert(rings != NULL && i < YAJL_GET_ARRAY(rings)->len);
    return YAJL_GET_ARRAY(rings)->values[i];
}

static const char *text_of(yajl_val v, const char *name) {
    yajl_val x = yajl_tree_get(v, (const char *[]){name, NULL}, yajl_t_string);
    cr_assert_not_null(x, "%s", name);
    return YAJL_GET_STRING(x);
}

static long long number_of(yajl_val v, const char *name) {
    yajl_val x = yajl_tree_get(v, (const char *[]){name, NULL}, yajl_t_number);
    cr_assert_not_null(x, "%s", name);
    return YAJL_GET_INTEGER(x);
}

Test(ring_command, list_says_how_far_both_ends_have_come, .init = instance_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_ring, "list", LIVE), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "ingest[0]                12            0         12"), "%s", done.out);
    cr_assert_lt(strstr(done.out, "ingest[0]"), strstr(done.out, "transform[0]"));
    cr_assert_lt(strstr(done.out, "transform[0]"), strstr(done.out, "rejects[0]"));
    cr_assert_eq(RUN(command_ring, "list", LIVE, "--format", "json"), EX_OK, "%s", done.err);
    yajl_val v = json(done.out);
    cr_assert_str_eq(text_of(ring_at(v, 1), "name"), "transform[0]");
    cr_assert_eq(number_of(ring_at(v, 1), "published"), 1);
    cr_assert_eq(number_of(ring_at(v, 0), "records"), 12);
    cr_assert_eq(number_of(ring_at(v, 0), "capacity"), 1 << 16);
    cr_assert_str_eq(text_of(ring_at(v, 2), "incarnation"), "0000000000000077");
    yajl_tree_free(v);
}

Test(ring_command, peek_shows_what_a_record_is_and_keeps_its_content, .init = instance_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_ring, "peek", "ingest", LIVE, "-n", "2"), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "ingest[0]: 12 records not released\n"), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "cards.change/3/500"), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "se*** (10)"), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "cards.change/3/501"));
    cr_assert_null(strstr(done.out, "cards.change/3/502"), "only two were asked for");
    cr_assert_null(strstr(done.out, "secret"));
    cr_assert_null(strstr(done.out, "transform[0]"));
    cr_assert_eq(RUN(command_ring, "peek", LIVE, "--format", "json"), EX_OK);
    cr_assert_null(strstr(done.out, "c2VjcmV0")); /* "secret" in base64 */
    yajl_val v = json(done.out), one;
    yajl_val records = yajl_tree_get(ring_at(v, 0), (const char *[]){"records", NULL}, yajl_t_array);
    cr_assert_eq(YAJL_GET_ARRAY(records)->len, 10);
    records = yajl_tree_get(ring_at(v, 1), (const char *[]){"records", NULL}, yajl_t_array);
    one = YAJL_GET_ARRAY(records)->values[0];
    cr_assert_str_eq(text_of(one, "op"), "update");
    cr_assert_str_eq(text_of(one, "topic"), "cards.change");
    cr_assert_eq(number_of(one, "offset"), 499);
    cr_assert_eq(number_of(one, "epoch"), 7);
    cr_assert_eq(number_of(one, "value_bytes"), 6);
    yajl_tree_free(v);
}

Test(ring_command, content_is_shown_when_asked_for_and_cannot_steer_the_terminal, .init = instance_make,
     .fini = folder_remove) {
    cr_assert_eq(RUN(command_ring, "peek", "ingest-0", LIVE, "-n", "1", "--reveal"), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "key   secret-key\n"), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "{\"secret\":\"va\\x1b[2Jlue\"}"), "%s", done.out);
    cr_assert_null(strchr(done.out, 0x1b));
    cr_assert_eq(RUN(command_ring, "peek", "ingest-0", LIVE, "--reveal", "--format", "json"), EX_OK);
    cr_assert_not_null(strstr(done.out, "\"key\":\"c2VjcmV0LWtleQ==\""), "%s", done.out);
    yajl_tree_free(json(done.out));
}

Test(ring_command, verify_says_where_a_ring_is_broken, .init = instance_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_ring, "verify", LIVE), EX_OK, "%s", done.out);
    cr_assert_not_null(strstr(done.out, "ingest[0]      good: 12 records\n"), "%s", done.out);
    /* The number of the fifth record. */
    uint64_t size = (uint64_t)producer[0].tail / 12, wrong = 77;
    off_t at = (off_t)(ring_control_bytes(2) + 4 * size + offsetof(struct ring_header, number));
    cr_assert_eq(pwrite(fds[0].producer, &wrong, 8, at), 8);
    cr_assert_eq(RUN(command_ring, "verify", LIVE), EX_DATAERR, "%s", done.out);
    char expected[128];
    snprintf(expected, sizeof expected, "CORRUPT: ring is corrupt at position %llu, after record 4: a number out of",
             (unsigned long long)(4 * size));
    cr_assert_not_null(strstr(done.out, expected), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "transform[0]   good: 1 records\n"), "%s", done.out);
    cr_assert_eq(RUN(command_ring, "verify", "transform", LIVE), EX_OK);
    cr_assert_eq(RUN(command_ring, "verify", "--format", "json", LIVE), EX_DATAERR);
    yajl_val v = json(done.out);
    cr_assert_str_eq(text_of(ring_at(v, 0), "state"), "corrupt");
    cr_assert_eq(number_of(ring_at(v, 0), "records"), 4);
    cr_assert_eq((uint64_t)number_of(ring_at(v, 0), "position"), 4 * size);
    yajl_tree_free(v);
}

Test(ring_command, verify_sees_bytes_that_are_not_a_record, .init = instance_make, .fini = folder_remove) {
    uint8_t op = 99;
    cr_assert_eq(pwrite(fds[1].producer, &op, 1, (off_t)ring_control_bytes(2) + RING_HEADER_BYTES), 1);
    cr_assert_eq(RUN(command_ring, "verify", LIVE), EX_DATAERR);
    cr_assert_not_null(strstr(done.out, "position 0, record 1: its bytes are not a record"), "%s", done.out);
    cr_assert_eq(RUN(command_ring, "peek", LIVE), EX_DATAERR);
}

Test(ring_command, verify_sees_a_last_record_that_is_not_the_producers, .init = instance_make, .fini = folder_remove) {
    uint64_t wrong = 13;
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pwrite(fds[0].producer, &wrong, 8,
                            (off_t)(offsetof(struct ring_producer_page, slot) + (size_t)i * sizeof(struct ring_slot) +
                                    offsetof(struct ring_slot, number))),
                     8);
    cr_assert_eq(RUN(command_ring, "verify", LIVE), EX_DATAERR);
    cr_assert_not_null(strstr(done.out, "the last record is 12, and the producer published up to 13"), "%s", done.out);
}

Test(ring_command, saved_rings_are_read_when_nothing_runs, .init = instance_make, .fini = folder_remove) {
    char dir[128];
    snprintf(dir, sizeof dir, "%s", in_folder("saved"));
    cr_assert_eq(RUN(command_ring, "save", dir, LIVE), EX_OK, "%s", done.err);
    struct stat st;
    cr_assert_eq(stat(in_folder("saved/ingest-0.ring"), &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert_eq(stat(in_folder("saved/cards.stats"), &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert_eq(RUN(command_ring, "save", dir, LIVE), EX_CANTCREAT, "an older one must stay");
    stats_block(&s, 0)->pid = 0; /* the instance is gone */
    cr_assert_eq(RUN(command_ring, "list", LIVE), EX_UNAVAILABLE);
    cr_assert_eq(RUN(command_ring, "verify", "--dir", dir), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "ingest[0]      good: 12 records\n"), "%s", done.out);
    cr_assert_eq(RUN(command_ring, "peek", "transform", "--dir", dir), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "cards.change/3/499"), "the saved statistics name the topic\n%s", done.out);
    unlink(in_folder("saved/cards.stats"));
    cr_assert_eq(RUN(command_ring, "peek", "transform", "--dir", dir), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "topic 1/3/499"), "%s", done.out);
}

Test(ring_command, a_file_that_is_no_ring_is_status_65, .init = instance_make, .fini = folder_remove) {
    mkdir(in_folder("saved"), 0700);
    file_put("saved/ingest-0.ring", "not a ring");
    cr_assert_eq(RUN(command_ring, "list", "--dir", (char *)in_folder("saved")), EX_DATAERR);
    cr_assert_not_null(strstr(done.out, "too short"), "%s", done.out);
    cr_assert_eq(RUN(command_ring, "verify", "--dir", (char *)in_folder("saved"), "--format", "json"), EX_DATAERR);
    yajl_tree_free(json(done.out));
    cr_assert_eq(RUN(command_ring, "peek", "--dir", (char *)in_folder("saved"), "--format", "json"), EX_DATAERR);
    yajl_tree_free(json(done.out));
}

Test(ring_command, rings_of_another_user_are_refused_with_the_reason, .init = instance_make, .fini = folder_remove) {
    struct rings rings;
    struct err err = {0};
    if (getuid() == 0) { /* as somebody else, look at ourselves as we were */
        pid_t parent = getpid(), child = fork();
        if (child == 0) {
            if (setuid(65534) != 0) _exit(9);
            _exit(rings_of_process(&rings, parent, &err) == -1 && err.code == EX_NOPERM ? 0 : 1);
        }
        int status;
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert_eq(status, 0);
    } else {
        cr_assert_eq(rings_of_process(&rings, 1, &err), -1);
        cr_assert_eq(err.code, EX_NOPERM);
        cr_assert_not_null(strstr(err.text, "another user"));
    }
}

Test(ring_command, wrong_arguments_are_status_64, .init = instance_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_ring, "smash", LIVE), EX_USAGE);
    cr_assert_eq(RUN(command_ring, LIVE), EX_USAGE);
    cr_assert_eq(RUN(command_ring, "list", "none", LIVE), EX_USAGE);
    cr_assert_eq(RUN(command_ring, "list", "ing", LIVE), EX_USAGE);
    cr_assert_eq(RUN(command_ring, "list", "--reveal", LIVE), EX_USAGE);
    cr_assert_eq(RUN(command_ring, "peek", "-n", "0", LIVE), EX_USAGE);
    cr_assert_eq(RUN(command_ring, "peek", "-n", "x", LIVE), EX_USAGE);
    cr_assert_eq(RUN(command_ring, "save", LIVE), EX_USAGE);
    cr_assert_eq(RUN(command_ring, "list", "--dir", folder, LIVE), EX_USAGE);
    cr_assert_eq(RUN(command_ring, "list", "--format", "xml", LIVE), EX_USAGE);
    cr_assert_str_empty(done.out);
    cr_assert_eq(RUN(command_ring, "list", "--dir", folder), EX_NOINPUT);
    cr_assert_eq(RUN(command_ring, "list", "--name", "none", "--run-dir", folder), EX_UNAVAILABLE);
}

/* -- with audit on ----------------------------------------------------------------------------- */

static struct ring_fds audit_fds;
static struct ring_producer audit_producer;

/* One traced record waits for the sink, two entries for audit. */
static void audited_make(void) {
    struct err err = {0};
    instance_make();
    cr_assert_eq(ring_create(&audit_fds, "sink[0]", 1 << 16, 0, 0x77, &err), 0, "%s", err.text);
    cr_assert_eq(ring_producer_attach(&audit_producer, &audit_fds, -1, &err), RING_ATTACHED);
    struct record r = {.op = RECORD_ADD, .flags = RECORD_TRACED, .topic = 1, .offset = 600, .redis_key_bytes = 3};
    struct record_trace t = {.created_ms = 17, .sequence = 4, .flags = TRACE_ALTERED, .content_bytes = 5};
    uint8_t *body = ring_reserve(&producer[1], sizeof r + sizeof t + 8);
    memcpy(body, &r, sizeof r);
    memcpy(body + sizeof r, &t, sizeof t);
    memcpy(body + sizeof r + sizeof t, "keyabcde", 8);
    ring_stage(&producer[1], sizeof r + sizeof t + 8, RECORD_DATA);
    ring_publish(&producer[1]);
    struct entry e = {.bytes = sizeof e, .topic = 1, .partition = 3, .epoch = 7, .offset = 497, .op = RECORD_ADD};
    e.outcome = ENTRY_APPLIED;
    e.stored_bytes = 33;
    memset(e.digest_key, 0xab, sizeof e.digest_key);
    for (int i = 0; i < 2; i++, e.outcome = ENTRY_REJECTED, e.reason = REASON_KEY_NULL, e.offset++) {
        memcpy(ring_reserve(&audit_producer, sizeof e), &e, sizeof e);
        ring_stage(&audit_producer, sizeof e, RECORD_ENTRY);
    }
    ring_publish(&audit_producer);
}

Test(ring_command, entries_and_traces_are_shown_for_what_they_are, .init = audited_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_ring, "peek", "sink", "transform", LIVE), EX_OK, "%s", done.err);
    cr_assert_lt(strstr(done.out, "transform[0]: 2 records"), strstr(done.out, "sink[0]: 2 records"));
    cr_assert_not_null(strstr(done.out, "           1 applied cards.change/3/497                    "
                                        "7  #abababababab         33\n"),
                       "%s", done.out);
    cr_assert_not_null(strstr(done.out, "rejected cards.change/3/498"), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "reason key_null"), "%s", done.out);
    cr_assert_not_null(strstr(done.out, " traced altered content 5\n"), "%s", done.out);
    cr_assert_eq(RUN(command_ring, "peek", "sink", "transform", LIVE, "--format", "json"), EX_OK, "%s", done.err);
    yajl_val v = json(done.out), list;
    list = yajl_tree_get(ring_at(v, 1), (const char *[]){"records", NULL}, yajl_t_array);
    yajl_val one = YAJL_GET_ARRAY(list)->values[1];
    cr_assert_str_eq(text_of(one, "outcome"), "rejected");
    cr_assert_str_eq(text_of(one, "reason"), "key_null");
    cr_assert_eq(number_of(one, "offset"), 498);
    cr_assert_str_eq(text_of(one, "digest_key"), "abababababababababababababababab");
    list = yajl_tree_get(ring_at(v, 0), (const char *[]){"records", NULL}, yajl_t_array);
    yajl_val trace = yajl_tree_get(YAJL_GET_ARRAY(list)->values[1], (const char *[]){"trace", NULL}, yajl_t_object);
    cr_assert_not_null(trace);
    cr_assert_eq(number_of(trace, "created_ms"), 17);
    cr_assert_eq(number_of(trace, "content_bytes"), 5);
    yajl_tree_free(v);
}

Test(ring_command, verify_looks_into_entries, .init = audited_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_ring, "verify", LIVE), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "sink[0]        good: 2 records"), "%s", done.out);
    struct entry e = {.bytes = sizeof e + 1};
    memcpy(ring_reserve(&audit_producer, sizeof e), &e, sizeof e);
    ring_stage(&audit_producer, sizeof e, RECORD_ENTRY);
    ring_publish(&audit_producer);
    cr_assert_eq(RUN(command_ring, "verify", LIVE), EX_DATAERR);
    cr_assert_not_null(strstr(done.out, "sink[0]        CORRUPT"), "%s", done.out);
}

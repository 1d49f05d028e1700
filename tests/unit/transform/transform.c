#include "transform/transform.h"

#include <signal.h>
#include <stdarg.h>
#include <sysexits.h>

#include "tests/unit/shm/help.h"
#include "tests/unit/transform/help.h"
#include "transform/seal.h"

/* -- the worker's side of the port, played by the test ----------------------------------------- */

static enum worker_state state_seen;
static char state_reason[STATS_TEXT_BYTES], failure[STATS_TEXT_BYTES];
static enum control_mode mode_now;
static uint64_t reject_now, time_now = 1;

void worker_state(struct worker *w, enum worker_state state, const char *format, ...) {
    (void)w;
    va_list args;
    va_start(args, format);
    vsnprintf(state_reason, sizeof state_reason, format, args);
    va_end(args);
    state_seen = state;
}

enum step worker_fail(struct worker *w, const char *event, const char *format, ...) {
    (void)w;
    (void)event;
    va_list args;
    va_start(args, format);
    vsnprintf(failure, sizeof failure, format, args);
    va_end(args);
    return STEP_FAILED;
}

enum step worker_broken(struct worker *w, const char *event, const char *format, ...) {
    (void)w;
    (void)event;
    va_list args;
    va_start(args, format);
    vsnprintf(failure, sizeof failure, format, args);
    va_end(args);
    return STEP_BROKEN;
}

enum control_mode worker_mode(const struct worker *w) {
    (void)w;
    return mode_now;
}

uint64_t worker_reject_number(const struct worker *w) {
    (void)w;
    return reject_now;
}

static uint64_t test_monotonic(void *context) {
    (void)context;
    return time_now;
}
static int64_t test_wall(void *context) {
    (void)context;
    return 0;
}
static void test_random(void *context, void *out, size_t len) {
    static uint8_t next = 1;
    (void)context;
    memset(out, next++, len);
}
static const struct clock_port test_clock = {test_monotonic, test_wall, test_monotonic, test_random, NULL};

/* -- one lane in one process ------------------------------------------------------------------- */

static struct ring_fds in_fds, out_fds, rejects_fds;
static struct ring_producer ingest;   /* the writing end of in */
static struct ring_consumer sink;     /* the reading end of out */
static struct ring_consumer rejected; /* the reading end of rejects */
static struct ring_consumer in;
static struct ring_producer out, rejects;
static struct ledger_ingest ledger;
static struct config config;
static struct stats_block block;
static struct worker worker;
static struct transform transform;
static struct keys keys;
static bool with_keys;
static struct audit_keys audit_keys = {.digest = {7}}; /* for tests with config.audit */

static void attach_neighbours(void) {
    struct err err = {0};
    cr_assert_eq(ring_producer_attach(&ingest, &in_fds, -1, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_eq(ring_consumer_attach(&sink, &out_fds, -1, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_eq(ring_consumer_attach(&rejected, &rejects_fds, -1, &err), RING_ATTACHED, "%s", err.text);
}

static void detach_neighbours(void) {
    ring_producer_detach(&ingest);
    ring_consumer_detach(&sink);
    ring_consumer_detach(&rejected);
}

static int transform_try(struct err *err) {
    cr_assert_eq(ring_consumer_attach(&in, &in_fds, -1, err), RING_ATTACHED, "%s", err->text);
    cr_assert_eq(ring_producer_attach(&out, &out_fds, -1, err), RING_ATTACHED, "%s", err->text);
    cr_assert_eq(ring_producer_attach(&rejects, &rejects_fds, -1, err), RING_ATTACHED, "%s", err->text);
    worker = (struct worker){.role = ROLE_TRANSFORM, .config = &config, .block = &block, .clock = &test_clock};
    stats_local_init(&worker.local, &block);
    struct transform_ports ports = {&worker, &in, &out, &rejects, &ledger};
    return transform_init(&transform, &ports, with_keys ? &keys : NULL, config.audit ? &audit_keys : NULL, err);
}

static void transform_start(void) {
    struct err err = {0};
    cr_assert_eq(transform_try(&err), 0, "%s", err.text);
}

/* The worker is gone without a word; what it had in private memory with it. */
static void transform_kill(void) {
    transform_fini(&transform);
    ring_consumer_detach(&in);
    ring_producer_detach(&out);
    ring_producer_detach(&rejects);
}

static void lane_make(uint64_t in_bytes, uint64_t out_bytes, uint64_t rejects_bytes) {
    in_fds = ring_make(in_bytes, 0);
    out_fds = ring_make(out_bytes, 0);
    rejects_fds = ring_make(rejects_bytes, 1);
    attach_neighbours();
    atomic_store(&ledger.slot[GIVEN_SLOT].epoch, 1);
    config.topic_count = 2;
    topic_set(&config.topic[0], "json", MODE_CHANGE, FORMAT_JSON, "k:{id}");
    topic_set(&config.topic[1], "raw", MODE_CHANGE, FORMAT_RAW, "{$key}");
    keys = (struct keys){.count = 1};
    keys.key[0].id = 9;
    memset(keys.key[0].bytes, 4, KEY_BYTES);
}

static bool give(const struct given *g) {
    void *body = ring_reserve(&ingest, (uint32_t)given_bytes(g));
    if (body == NULL) return false;
    given_write(g, body);
    ring_stage(&ingest, (uint32_t)given_bytes(g), RECORD_DATA);
    ring_publish(&ingest);
    return true;
}
#define give_of(...) cr_assert(give(&(struct given){__VA_ARGS__}))

struct taken {
    uint64_t number;
    struct record_view view;
};

static bool take_from(struct ring_consumer *c, struct taken *t) {
    struct err err = {0};
    struct ring_item item;
    enum ring_state state = ring_peek(c, &item, &err);
    cr_assert_neq(state, RING_BROKEN, "%s", err.text);
    if (state == RING_EMPTY) return false;
    t->number = item.number;
    cr_assert_eq(record_open(item.body, item.len, &t->view), 0);
    ring_release(c, item.end, item.number); /* the bytes stay readable: nobody writes meanwhile */
    return true;
}

static struct taken take(struct ring_consumer *c) {
    struct taken t;
    cr_assert(take_from(c, &t), "the ring is empty");
    return t;
}

static void part_expect(const uint8_t *at, uint32_t len, const char *text) {
    cr_assert_eq(len, strlen(text), "%.*s", (int)len, (const char *)at);
    cr_assert_eq(memcmp(at, text, len), 0, "%.*s", (int)len, (const char *)at);
}

/* A marker of a record that audit is told of. */
static struct record_view traced_marker_expect(uint64_t number, enum record_reason reason) {
    struct taken t = take(&sink);
    cr_assert_eq(t.number, number);
    cr_assert_eq(t.view.head.op, RECORD_REJECT);
    cr_assert_eq(t.view.head.reason, reason);
    cr_assert_eq(t.view.head.flags, RECORD_TRACED);
    cr_assert_eq(record_bytes(&t.view.head), sizeof t.view.head + sizeof t.view.trace);
    return t.view;
}

static void marker_expect(uint64_t number, enum record_op op, enum record_reason reason) {
    struct taken t = take(&sink);
    cr_assert_eq(t.number, number);
    cr_assert_eq(t.view.head.op, op);
    cr_assert_eq(t.view.head.reason, reason);
    cr_assert_eq(record_bytes(&t.view.head), sizeof t.view.head);
    cr_assert_eq(t.view.head.partition, GIVEN_PARTITION);
}

static uint64_t counted(enum metric m) { return worker.local.value[m]; }

/* -- what becomes of a record ------------------------------------------------------------------ */

Test(transform, passes_on_under_the_same_number) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    give_of(.key = "a", .value = "{\"id\":1,\"x\":\"y\"}", .offset = 10, .timestamp_ms = 77);
    give_of(.key = "a", .value = "{\"id\":2}", .offset = 12);
    cr_assert_eq(transform_step(&transform), STEP_BUSY);
    cr_assert_eq(state_seen, STATE_RUNNING);
    struct taken t = take(&sink);
    cr_assert_eq(t.number, 1);
    cr_assert_eq(t.view.head.op, RECORD_ADD);
    cr_assert_eq(t.view.head.offset, 10);
    cr_assert_eq(t.view.head.timestamp_ms, 77);
    cr_assert_eq(t.view.head.kafka_key_bytes + t.view.head.headers_bytes + t.view.head.flags, 0);
    part_expect(t.view.redis_key, t.view.head.redis_key_bytes, "k:1");
    part_expect(t.view.value, t.view.head.value_bytes, "{\"id\":1,\"x\":\"y\"}");
    t = take(&sink);
    cr_assert_eq(t.number, 2);
    part_expect(t.view.redis_key, t.view.head.redis_key_bytes, "k:2");
    cr_assert_eq(in.number_released, 2);
    cr_assert_eq(atomic_load(&in.page->in_hand), 0);
    cr_assert_eq(transform_step(&transform), STEP_IDLE);
    cr_assert_eq(counted(M_transform_record_in), 2);
    cr_assert_eq(counted(M_transform_record_add), 2);
    cr_assert_eq(counted(M_worker_ring_record_publish), 2);
    cr_assert_eq(atomic_load(&block.published), 2);
}

Test(transform, delete_has_a_key_and_no_value) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    give_of(.key = "gone", .topic = 1);
    transform_step(&transform);
    struct taken t = take(&sink);
    cr_assert_eq(t.view.head.op, RECORD_DELETE);
    part_expect(t.view.redis_key, t.view.head.redis_key_bytes, "gone");
    cr_assert_eq(t.view.head.value_bytes, 0);
    cr_assert_eq(counted(M_transform_record_delete), 1);
}

Test(transform, update_carries_the_old_key) {
    lane_make(SMALL, SMALL, SMALL);
    snprintf(config.topic[0].old_key, TEMPLATE_BYTES, "k:{old}");
    snprintf(config.topic[0].operation_header, NAME_BYTES, "op");
    transform_start();
    give_of(.value = "{\"id\":2,\"old\":1}", .op = "update");
    transform_step(&transform);
    struct taken t = take(&sink);
    cr_assert_eq(t.view.head.op, RECORD_UPDATE);
    part_expect(t.view.redis_key, t.view.head.redis_key_bytes, "k:2");
    part_expect(t.view.old_key, t.view.head.old_key_bytes, "k:1");
    part_expect(t.view.value, t.view.head.value_bytes, "{\"id\":2,\"old\":1}");
}

Test(transform, empty_raw_value_is_stored_empty) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    give_of(.key = "e", .value = "", .topic = 1);
    transform_step(&transform);
    struct taken t = take(&sink);
    cr_assert_eq(t.view.head.op, RECORD_ADD);
    cr_assert_eq(t.view.head.value_bytes, 0);
    cr_assert_eq(t.view.head.flags, 0);
}

Test(transform, records_of_another_epoch_are_skipped) {
    lane_make(SMALL, SMALL, SMALL);
    atomic_store(&ledger.slot[GIVEN_SLOT].epoch, 4);
    transform_start();
    give_of(.value = "not even JSON", .epoch = 3);
    give_of(.value = "{\"id\":1}", .epoch = 4);
    transform_step(&transform);
    marker_expect(1, RECORD_SKIP, REASON_NONE);
    cr_assert_eq(take(&sink).view.head.op, RECORD_ADD);
    cr_assert_eq(counted(M_transform_record_skip), 1);
    struct taken none;
    cr_assert_not(take_from(&rejected, &none));
}

Test(transform, rejects_go_back_with_their_original) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    give_of(.key = "first", .value = "{\"id\":1}");
    give_of(.key = "the key", .value = "not JSON", .op = "add", .offset = 44);
    give_of(.key = NULL, .value = NULL, .offset = 45);
    transform_step(&transform);
    cr_assert_eq(take(&sink).view.head.op, RECORD_ADD);
    marker_expect(2, RECORD_REJECT, REASON_JSON_INVALID);
    marker_expect(3, RECORD_REJECT, REASON_FIELD_MISSING);
    struct taken t = take(&rejected);
    cr_assert_eq(t.number, 1, "the rejects ring has numbers of its own");
    cr_assert_eq(t.view.head.number_origin, 2);
    cr_assert_eq(t.view.head.op, RECORD_REJECT);
    cr_assert_eq(t.view.head.reason, REASON_JSON_INVALID);
    cr_assert_eq(t.view.head.offset, 44);
    cr_assert_eq(t.view.head.flags, 0);
    part_expect(t.view.kafka_key, t.view.head.kafka_key_bytes, "the key");
    part_expect(t.view.value, t.view.head.value_bytes, "not JSON");
    struct record_header header;
    cr_assert_eq(record_header_last(t.view.headers, t.view.head.headers_bytes, "op", &header), 1);
    t = take(&rejected);
    cr_assert_eq(t.view.head.number_origin, 3);
    cr_assert_eq(t.view.head.flags, RECORD_KEY_NULL | RECORD_VALUE_NULL);
    cr_assert_eq(ring_aux_get(&rejects, 0), 3);
    cr_assert_eq(counted(M_transform_record_reject), 2);
    cr_assert_eq(counted(M_transform_reject_json_invalid), 1);
    cr_assert_eq(counted(M_transform_reject_field_missing), 1);
}

Test(transform, that_a_record_was_refed_goes_along_with_it_whatever_becomes_of_it) {
    lane_make(SMALL, SMALL, SMALL);
    with_keys = true;
    transform_start();
    static const struct given given[] = {{.key = "a", .value = "{\"id\":1}"},
                                         {.key = "a", .topic = 1, .op = NULL},
                                         {.key = "a", .value = "not JSON"},
                                         {.key = "a", .value = "{\"id\":1}", .epoch = 7}};
    for (size_t i = 0; i < 4; i++) {
        struct record *body = ring_reserve(&ingest, (uint32_t)given_bytes(&given[i]));
        given_write(&given[i], body);
        body->flags |= RECORD_REFED;
        ring_stage(&ingest, (uint32_t)given_bytes(&given[i]), RECORD_DATA);
    }
    ring_publish(&ingest);
    transform_step(&transform);
    cr_assert_eq(take(&sink).view.head.flags, RECORD_REFED);
    cr_assert_eq(take(&sink).view.head.flags, RECORD_REFED | RECORD_VALUE_NULL, "a delete");
    cr_assert_eq(take(&sink).view.head.flags, RECORD_REFED, "a marker");
    cr_assert_eq(take(&sink).view.head.flags, RECORD_REFED, "of an epoch that has passed");
    cr_assert_eq(take(&rejected).view.head.flags, RECORD_REFED | RECORD_SEALED);
}

Test(transform, every_reason_is_counted_under_its_name) {
    static const struct {
        struct given given;
        enum record_reason reason;
        enum metric metric;
    } cases[] = {{{.topic = 1, .value = "v"}, REASON_KEY_NULL, M_transform_reject_key_null},
                 {{.topic = 1, .key = "", .value = "v"}, REASON_KEY_EMPTY, M_transform_reject_key_empty},
                 {{.value = "{}"}, REASON_FIELD_MISSING, M_transform_reject_field_missing},
                 {{.value = ""}, REASON_JSON_INVALID, M_transform_reject_json_invalid},
                 {{.topic = 2, .key = "k"}, REASON_OPERATION, M_transform_reject_operation}};
    lane_make(SMALL, SMALL, SMALL);
    config.topic_count = 3;
    topic_set(&config.topic[2], "bulk", MODE_BULK, FORMAT_RAW, "{$key}");
    transform_start();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(give(&cases[i].given));
        transform_step(&transform);
        marker_expect(i + 1, RECORD_REJECT, cases[i].reason);
        cr_assert_eq(take(&rejected).view.head.reason, cases[i].reason);
        cr_assert_eq(counted(cases[i].metric), 1);
    }
}

Test(transform, long_keys_and_large_values_are_rejected) {
    static char key[REDIS_KEY_BYTES_MAX + 1], value[8192];
    lane_make(1 << 17, 1 << 16, 1 << 16);
    memset(key, 'k', sizeof key);
    memset(value, 'v', sizeof value);
    transform_start();
    give_of(.key = key, .key_bytes = sizeof key, .value = "v", .topic = 1);
    give_of(.key = "k", .value = value, .value_bytes = ring_record_max(1 << 16) - sizeof(struct record) - 1,
            .topic = 1);
    give_of(.key = "k", .value = value, .value_bytes = ring_record_max(1 << 16) - sizeof(struct record), .topic = 1);
    give_of(.key = "k", .value = value, .value_bytes = sizeof value, .topic = 1);
    transform_step(&transform);
    marker_expect(1, RECORD_REJECT, REASON_KEY_LONG);
    cr_assert_eq(take(&sink).view.head.op, RECORD_ADD, "the largest that fits");
    marker_expect(3, RECORD_REJECT, REASON_TOO_LARGE);
    marker_expect(4, RECORD_REJECT, REASON_TOO_LARGE);
    cr_assert_eq(take(&rejected).view.head.kafka_key_bytes, sizeof key);
    for (int i = 0; i < 2; i++) { /* neither fits the rejects ring, which is as small */
        struct taken t = take(&rejected);
        cr_assert_eq(t.view.head.flags, RECORD_CONTENT_ABSENT);
        cr_assert_eq(record_bytes(&t.view.head), sizeof t.view.head);
    }
    cr_assert_eq(counted(M_transform_reject_too_large), 2);
    cr_assert_eq(counted(M_transform_reject_key_long), 1);
}

Test(transform, markers_of_ingest_are_passed_on) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    struct given g = {.offset = 3};
    struct record *body = ring_reserve(&ingest, sizeof *body);
    given_write(&g, body);
    body->op = RECORD_REJECT;
    body->reason = REASON_TOO_LARGE;
    ring_stage(&ingest, sizeof *body, RECORD_DATA);
    ring_publish(&ingest);
    transform_step(&transform);
    marker_expect(1, RECORD_REJECT, REASON_TOO_LARGE);
    struct taken none;
    cr_assert_not(take_from(&rejected, &none), "ingest has kept it already");
}

/* -- stored forms ------------------------------------------------------------------------------ */

Test(transform, values_are_stored_as_the_topic_wants) {
    lane_make(1 << 16, 1 << 16, SMALL);
    config.topic[1].compress = COMPRESS_LZ4;
    config.topic[1].encrypt = 1;
    with_keys = true;
    transform_start();
    char value[500];
    memset(value, 'z', sizeof value);
    give_of(.key = "card:1", .value = value, .value_bytes = sizeof value, .topic = 1);
    transform_step(&transform);
    struct taken t = take(&sink);
    cr_assert_lt(t.view.head.value_bytes, 120);
    uint8_t *plain;
    size_t len;
    struct err err = {0};
    cr_assert_eq(value_decode(&keys, "card:1", 6, t.view.value, t.view.head.value_bytes, &plain, &len, &err), 0, "%s",
                 err.text);
    cr_assert_eq(len, sizeof value);
    cr_assert_arr_eq(plain, value, len);
    free(plain);
    cr_assert_eq(counted(M_transform_value_in), sizeof value);
    cr_assert_eq(counted(M_transform_value_out), t.view.head.value_bytes);
}

Test(transform, a_hash_goes_on_as_a_list_of_fields_and_is_rejected_as_it_came) {
    lane_make(1 << 16, 1 << 16, 1 << 16);
    config.topic[0].value_type = VALUE_TYPE_HASH;
    snprintf(config.topic[0].operation_header, sizeof config.topic[0].operation_header, "op");
    transform_start();
    give_of(.key = "k", .value = "{\"id\":1.0,\"x\":\"y\",\"n\":null}", .op = "add", .offset = 5);
    give_of(.key = "k", .value = "{\"id\":1.0}", .op = "delete", .offset = 6);
    give_of(.key = "k", .value = "{\"id\":1,\"s\":\"\\ud800\"}", .op = "add", .offset = 7);
    transform_step(&transform);
    struct taken t = take(&sink);
    struct record_field f;
    size_t at = RECORD_FIELDS_HEAD;
    cr_assert_eq(t.view.head.flags, RECORD_VALUE_FIELDS);
    cr_assert_eq(record_fields_count(t.view.value), 2);
    cr_assert_eq(record_field_next(t.view.value, t.view.head.value_bytes, &at, &f), 1);
    part_expect(f.value, f.value_bytes, "1.0");
    cr_assert_eq(counted(M_transform_value_out), t.view.head.value_bytes);
    t = take(&sink);
    cr_assert_eq(t.view.head.op, RECORD_DELETE);
    cr_assert_eq(t.view.head.flags, RECORD_VALUE_NULL);
    cr_assert_eq(t.view.head.value_bytes, 0);
    t = take(&sink);
    cr_assert_eq(t.view.head.reason, REASON_JSON_INVALID);
    t = take(&rejected);
    part_expect(t.view.value, t.view.head.value_bytes, "{\"id\":1,\"s\":\"\\ud800\"}");
}

Test(transform, rejected_originals_are_sealed_when_there_are_keys) {
    lane_make(SMALL, SMALL, SMALL);
    with_keys = true;
    transform_start();
    give_of(.key = "the key", .value = "not JSON", .op = "add", .offset = 44);
    transform_step(&transform);
    struct taken t = take(&rejected);
    cr_assert_eq(t.view.head.flags, RECORD_SEALED);
    cr_assert_eq(t.view.head.kafka_key_bytes + t.view.head.headers_bytes, 0);
    cr_assert_null(memmem(t.view.value, t.view.head.value_bytes, "not JSON", 8));
    struct seal_origin origin = {t.view.head.id, "json", t.view.head.partition, 44};
    struct seal_parts parts;
    uint8_t *buffer;
    struct err err = {0};
    cr_assert_eq(seal_open(&keys, &origin, t.view.value, t.view.head.value_bytes, &parts, &buffer, &err), 0, "%s",
                 err.text);
    part_expect(parts.key, (uint32_t)parts.key_bytes, "the key");
    part_expect(parts.value, (uint32_t)parts.value_bytes, "not JSON");
    cr_assert_gt(parts.headers_bytes, 0);
    free(buffer);
}

Test(transform, an_original_that_sealing_makes_too_large_is_left_to_kafka) {
    lane_make(SMALL, SMALL, SMALL);
    with_keys = true;
    transform_start();
    char value[SMALL / 8];
    memset(value, 'x', sizeof value);
    size_t largest = ring_record_max(SMALL) - sizeof(struct record) - SEAL_OVERHEAD;
    give_of(.value = value, .value_bytes = largest);
    give_of(.value = value, .value_bytes = largest + 1);
    transform_step(&transform);
    cr_assert_eq(take(&rejected).view.head.flags, RECORD_SEALED);
    struct taken t = take(&rejected);
    cr_assert_eq(t.view.head.flags, RECORD_KEY_NULL | RECORD_CONTENT_ABSENT);
    cr_assert_eq(t.view.head.value_bytes, 0);
}

Test(transform, encryption_without_keys_is_refused) {
    lane_make(SMALL, SMALL, SMALL);
    config.topic[1].encrypt = 1;
    struct err err = {0};
    cr_assert_eq(transform_try(&err), -1);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert_not_null(strstr(err.text, "raw"), "%s", err.text);
}

/* -- rings that are full ----------------------------------------------------------------------- */

Test(transform, waits_for_room_and_loses_nothing) {
    lane_make(1 << 16, SMALL, SMALL);
    transform_start();
    char value[300];
    memset(value, 'v', sizeof value);
    for (int i = 0; i < 40; i++)
        give_of(.key = "k", .value = value, .value_bytes = sizeof value, .topic = 1, .offset = i);
    cr_assert_eq(transform_step(&transform), STEP_BUSY);
    cr_assert_eq(transform_step(&transform), STEP_BLOCKED);
    cr_assert_eq(in.number_released, out.number_published, "what went out is released, the rest is not");
    cr_assert_lt(out.number_published, 40);
    cr_assert_not(transform_arm(&transform));
    transform_disarm(&transform);
    for (int64_t i = 0; i < 40; i++) {
        struct taken t = take(&sink);
        cr_assert_eq(t.view.head.offset, i);
        cr_assert_eq(t.number, (uint64_t)i + 1);
        transform_step(&transform);
    }
    cr_assert_eq(transform_step(&transform), STEP_IDLE);
    cr_assert_eq(state_seen, STATE_RUNNING, "a full ring to the sink is flow control, not a state");
    cr_assert_gt(counted(M_worker_ring_full), 0);
}

Test(transform, a_full_rejects_ring_becomes_a_state_with_its_reason) {
    lane_make(1 << 16, 1 << 16, SMALL);
    transform_start();
    for (int i = 0; i < 40; i++) give_of(.key = "k", .value = "not JSON", .offset = i);
    cr_assert_eq(transform_step(&transform), STEP_BUSY);
    cr_assert_eq(transform_step(&transform), STEP_BLOCKED);
    cr_assert_eq(state_seen, STATE_RUNNING);
    time_now += 2 * NS_PER_S;
    cr_assert_eq(transform_step(&transform), STEP_BLOCKED);
    cr_assert_eq(state_seen, STATE_BLOCKED);
    cr_assert_str_eq(state_reason, "rejects ring full");
    cr_assert_not(transform_arm(&transform));
    transform_disarm(&transform);
    uint64_t origin = 0;
    struct taken t;
    for (int round = 0; round < 100; round++) {
        while (take_from(&rejected, &t)) cr_assert_eq(t.view.head.number_origin, ++origin);
        if (transform_step(&transform) == STEP_IDLE) break;
    }
    cr_assert_eq(origin, 40);
    cr_assert_eq(state_seen, STATE_RUNNING);
    cr_assert_str_eq(state_reason, "");
    for (uint64_t i = 1; i <= 40; i++) marker_expect(i, RECORD_REJECT, REASON_JSON_INVALID);
}

Test(transform, sleeps_only_when_there_is_nothing) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    cr_assert_not(transform_arm(&transform));
    transform_disarm(&transform);
    give_of(.value = "{\"id\":1}");
    cr_assert(transform_arm(&transform));
    transform_disarm(&transform);
}

/* -- successors -------------------------------------------------------------------------------- */

Test(transform, leaves_only_when_asked_to) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    mode_now = CONTROL_DRAIN;
    give_of(.value = "{\"id\":1}");
    cr_assert_eq(transform_step(&transform), STEP_BUSY);
    cr_assert_eq(state_seen, STATE_RUNNING);
    cr_assert_eq(transform_step(&transform), STEP_IDLE, "ingest may still have something");
    mode_now = CONTROL_LEAVE;
    cr_assert_eq(transform_step(&transform), STEP_DONE);
}

struct rings {
    struct ring_fds in, out, rejects;
};

static struct rings snapshot(void) {
    return (struct rings){ring_copy(&in_fds), ring_copy(&out_fds), ring_copy(&rejects_fds)};
}

static const struct given mixed[] = {{.value = "{\"id\":1}", .offset = 1}, {.value = "bad", .offset = 2, .op = "a"},
                                     {.value = "{\"id\":3}", .offset = 3}, {.key = "k", .value = "{}", .offset = 4},
                                     {.value = "bad", .offset = 5},        {.value = "{\"id\":6}", .offset = 6}};
enum { MIXED = sizeof mixed / sizeof mixed[0] };

/* What must be there in the end, however often the worker died: every record once, every reject once, in order. */
static void mixed_expect(void) {
    struct taken t;
    for (uint64_t i = 0; i < MIXED; i++) {
        t = take(&sink);
        cr_assert_eq(t.number, i + 1);
        cr_assert_eq(t.view.head.offset, mixed[i].offset);
        bool bad = i == 1 || i == 3 || i == 4;
        cr_assert_eq(t.view.head.op, bad ? RECORD_REJECT : RECORD_ADD);
        if (!bad) part_expect(t.view.value, t.view.head.value_bytes, mixed[i].value);
    }
    cr_assert_not(take_from(&sink, &t));
    cr_assert_eq(take(&rejected).view.head.number_origin, 2);
    cr_assert_eq(take(&rejected).view.head.number_origin, 4);
    cr_assert_eq(take(&rejected).view.head.number_origin, 5);
    cr_assert_not(take_from(&rejected, &t));
}

/* A worker that has dealt with `records` of the mixed ones dies at one of the moments of its last publication, taken
 * apart: 0 before anything, 1 after the rejects, 2 after the records too, 3 after the release. A successor ends the
 * work. */
static void die_and_succeed(int records, int moment) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    for (int i = 0; i < records; i++) cr_assert(give(&mixed[i]));
    struct rings before = snapshot();
    transform_step(&transform);
    struct rings after = snapshot();
    transform_kill();
    detach_neighbours();
    rejects_fds = moment >= 1 ? after.rejects : before.rejects;
    out_fds = moment >= 2 ? after.out : before.out;
    in_fds = moment >= 3 ? after.in : before.in;
    attach_neighbours();
    transform_start();
    for (int i = records; i < MIXED; i++) cr_assert(give(&mixed[i]));
    while (transform_step(&transform) == STEP_BUSY) continue;
    cr_assert_eq(in.number_released, MIXED);
    mixed_expect();
    transform_kill();
    detach_neighbours();
}

Test(transform, a_successor_repeats_nothing_and_loses_nothing) {
    for (int records = 0; records <= MIXED; records++)
        for (int moment = 0; moment <= 3; moment++) die_and_succeed(records, moment);
}

/* The doorbell of the sink is a pipe without reader here: the signal arrives in the middle of the publication, and
 * looks at what is visible then. */
static uint64_t rejects_tail_then, in_head_then;
static void look(int signal_number) {
    (void)signal_number;
    rejects_tail_then = atomic_load(&rejects.page->tail);
    in_head_then = atomic_load(&in.page->head);
}

Test(transform, originals_come_before_their_markers_and_the_release_last) {
    int ends[2];
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    cr_assert_eq(pipe(ends), 0);
    close(ends[0]);
    signal(SIGPIPE, look);
    out.peer_doorbell = ends[1];
    cr_assert_not(ring_consumer_arm(&sink));
    uint64_t before = atomic_load(&rejects.page->tail);
    in_head_then = 1;
    give_of(.value = "bad");
    transform_step(&transform);
    cr_assert_neq(rejects_tail_then, before, "the marker was visible before its original");
    cr_assert_eq(in_head_then, 0, "the input was released before the marker was visible");
    cr_assert_neq(atomic_load(&in.page->head), 0);
}

Test(transform, a_successor_counts_only_its_own) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    for (int i = 0; i < MIXED; i++) cr_assert(give(&mixed[i]));
    struct rings before = snapshot();
    transform_step(&transform);
    in_fds = before.in;
    transform_kill();
    transform_start();
    cr_assert_eq(transform_step(&transform), STEP_BUSY);
    cr_assert_eq(counted(M_transform_record_in), 0, "all of it was passed on before");
    cr_assert_eq(in.number_released, MIXED);
}

/* -- poison ------------------------------------------------------------------------------------ */

Test(transform, the_number_that_crashed_workers_is_rejected_unread) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    reject_now = 2;
    give_of(.key = "k", .value = "{\"id\":1}", .offset = 1);
    give_of(.key = "poison", .value = "{\"id\":2}", .offset = 2);
    give_of(.key = "k", .value = "{\"id\":3}", .offset = 3);
    transform_step(&transform);
    cr_assert_eq(take(&sink).view.head.op, RECORD_ADD);
    marker_expect(2, RECORD_REJECT, REASON_CRASH);
    struct taken t;
    cr_assert_not(take_from(&sink, &t), "published at once, before the next record is looked at");
    transform_step(&transform);
    cr_assert_eq(take(&sink).view.head.op, RECORD_ADD);
    t = take(&rejected);
    cr_assert_eq(t.view.head.reason, REASON_CRASH);
    part_expect(t.view.kafka_key, t.view.head.kafka_key_bytes, "poison");
    part_expect(t.view.value, t.view.head.value_bytes, "{\"id\":2}");
    cr_assert_eq(counted(M_transform_reject_crash), 1);
}

Test(transform, a_record_that_crashed_the_sink_is_rejected_unread) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    give_of(.key = "poison", .value = "{\"id\":1}", .offset = 1, .reason = REASON_CRASH);
    transform_step(&transform);
    marker_expect(1, RECORD_REJECT, REASON_CRASH);
    struct taken t = take(&rejected);
    cr_assert_eq(t.view.head.reason, REASON_CRASH);
    part_expect(t.view.value, t.view.head.value_bytes, "{\"id\":1}");
    cr_assert_eq(counted(M_transform_reject_crash), 1);
}

#ifdef MILLRACE_FAULT
#include <sys/wait.h>
Test(transform, a_record_that_kills_its_worker_is_in_hand_when_it_dies) {
    setenv("MILLRACE_FAULT", "transform:parse=DEADLY", 1);
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    give_of(.value = "{\"id\":1}");
    give_of(.value = "{\"id\":2,\"x\":\"DEADLY\"}");
    int status;
    pid_t child = fork();
    if (child == 0) {
        transform_step(&transform);
        _exit(0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    cr_assert_eq(atomic_load(&in.page->in_hand), 2);
    transform_kill();
    transform_start();
    reject_now = 2;
    transform_step(&transform);
    cr_assert_eq(take(&sink).number, 1);
    marker_expect(2, RECORD_REJECT, REASON_CRASH);
}
#endif

/* -- what ingest never writes ------------------------------------------------------------------ */

static void broken_input(void (*spoil)(struct record *), uint32_t len, uint16_t type) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    give_of(.value = "{\"id\":1}");
    struct given g = {.value = "{\"id\":2}"};
    struct record *body = ring_reserve(&ingest, (uint32_t)given_bytes(&g) + 8);
    given_write(&g, body);
    if (spoil != NULL) spoil(body);
    ring_stage(&ingest, len != 0 ? len : (uint32_t)given_bytes(&g), type);
    ring_publish(&ingest);
    cr_assert_eq(transform_step(&transform), STEP_BROKEN);
    cr_assert_neq(failure[0], '\0');
    cr_assert_eq(take(&sink).number, 1, "what came before it goes out");
    cr_assert_eq(in.number_released, 1);
}

static void spoil_topic(struct record *r) { r->topic = 2; }
static void spoil_slot(struct record *r) { r->slot = PARTITIONS_MAX; }
static void spoil_op(struct record *r) { r->op = RECORD_ADD; }
static void spoil_length(struct record *r) { r->value_bytes++; }

Test(transform, stops_at_an_unknown_topic) { broken_input(spoil_topic, 0, RECORD_DATA); }
Test(transform, stops_at_an_unknown_partition) { broken_input(spoil_slot, 0, RECORD_DATA); }
Test(transform, stops_at_an_operation_that_is_not_ingests) { broken_input(spoil_op, 0, RECORD_DATA); }
Test(transform, stops_at_lengths_that_do_not_add_up) { broken_input(spoil_length, 0, RECORD_DATA); }
Test(transform, stops_at_a_short_item) { broken_input(NULL, 12, RECORD_DATA); }
Test(transform, stops_at_an_unknown_type) { broken_input(NULL, 0, RECORD_DATA + 1); }

Test(transform, stops_when_numbers_do_not_follow) {
    lane_make(SMALL, SMALL, SMALL);
    transform_start();
    for (int i = 0; i < 3; i++) give_of(.value = "{\"id\":1}", .offset = i);
    struct rings fresh = snapshot();
    transform_step(&transform); /* releases 1 to 3 */
    transform_kill();
    out_fds = fresh.out; /* a ring that knows nothing of them */
    give_of(.value = "{\"id\":4}", .offset = 4);
    transform_start();
    cr_assert_eq(transform_step(&transform), STEP_BROKEN);
    cr_assert_not_null(strstr(failure, "4"), "%s", failure);
}

/* -- with audit on ----------------------------------------------------------------------------- */

static void audited_make(uint64_t bytes) {
    lane_make(bytes, bytes, bytes);
    config.audit = 1;
    config.topic[0].reconcile = config.topic[1].reconcile = RECONCILE_DIGEST;
}

static void digest_expect(const uint8_t got[DIGEST_BYTES], enum digest_algorithm algorithm, const char *text) {
    uint8_t want[DIGEST_BYTES];
    struct digest_key key;
    digest_key_init(&key, audit_keys.digest);
    digest_of(&key, algorithm, text, strlen(text), want);
    cr_assert_eq(memcmp(got, want, sizeof want), 0, "not the digest of %s", text);
}

Test(transform_audit, record_goes_on_with_its_trace) {
    audited_make(SMALL);
    transform_start();
    time_now = 4242;
    give_of(.key = "a", .value = "{\"id\":1}", .offset = 10, .timestamp_ms = 77);
    transform_step(&transform);
    struct taken t = take(&sink);
    cr_assert_eq(t.view.head.flags, RECORD_TRACED);
    part_expect(t.view.redis_key, t.view.head.redis_key_bytes, "k:1");
    part_expect(t.view.value, t.view.head.value_bytes, "{\"id\":1}");
    digest_expect(t.view.trace.digest_key, DIGEST_HMAC, "k:1");
    digest_expect(t.view.head.digest_published, DIGEST_HMAC, "{\"id\":1}");
    digest_expect(t.view.head.digest_stored, DIGEST_HMAC, "{\"id\":1}");
    cr_assert_eq(t.view.head.digest_algorithm, DIGEST_HMAC);
    cr_assert(t.view.trace.created_ms == 77 && t.view.trace.transform_ns == 4242);
    cr_assert_eq(t.view.trace.content_bytes, 0);
    cr_assert_eq(counted(M_transform_content_absent) + counted(M_transform_header_malformed), 0);
}

Test(transform_audit, what_is_stored_is_digested_before_it_is_compressed_and_encrypted) {
    const char *value =
        "{\"id\":1,\"text\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}";
    audited_make(SMALL);
    with_keys = true;
    config.topic[0].compress = COMPRESS_LZ4;
    config.topic[0].encrypt = 1;
    transform_start();
    give_of(.value = value);
    transform_step(&transform);
    struct taken t = take(&sink);
    cr_assert(value_is_encoded(t.view.value, t.view.head.value_bytes));
    digest_expect(t.view.head.digest_stored, DIGEST_HMAC, value);
    cr_assert_eq(t.view.trace.stored_bytes, strlen(value));
    cr_assert_eq(t.view.trace.published_bytes, strlen(value));
}

Test(transform_audit, markers_of_records_have_a_trace_and_others_none) {
    audited_make(SMALL);
    transform_start();
    give_of(.value = "not JSON", .offset = 1, .timestamp_ms = 5);
    give_of(.value = "{\"id\":1}", .offset = 2, .epoch = 7);
    struct record end = {.op = RECORD_SKIP, .slot = GIVEN_SLOT, .partition = GIVEN_PARTITION, .epoch = 1, .offset = 9};
    memcpy(ring_reserve(&ingest, sizeof end), &end, sizeof end);
    ring_stage(&ingest, sizeof end, RECORD_DATA);
    struct record large = end;
    large.op = RECORD_REJECT;
    large.reason = REASON_TOO_LARGE;
    large.flags = RECORD_CONTENT_ABSENT;
    large.timestamp_ms = 6;
    memcpy(ring_reserve(&ingest, sizeof large), &large, sizeof large);
    ring_stage(&ingest, sizeof large, RECORD_DATA);
    ring_publish(&ingest);
    transform_step(&transform);
    struct record_view v = traced_marker_expect(1, REASON_JSON_INVALID);
    digest_expect(v.head.digest_published, DIGEST_HMAC, "not JSON");
    cr_assert(v.trace.created_ms == 5 && v.trace.published_bytes == 8 && v.trace.stored_bytes == 0);
    static const uint8_t none[DIGEST_BYTES];
    cr_assert_eq(memcmp(v.trace.digest_key, none, sizeof none), 0);
    marker_expect(2, RECORD_SKIP, REASON_NONE);
    marker_expect(3, RECORD_SKIP, REASON_NONE);
    v = traced_marker_expect(4, REASON_TOO_LARGE);
    cr_assert(v.head.digest_algorithm == DIGEST_NONE && v.trace.created_ms == 6);
    cr_assert_eq(memcmp(v.head.digest_published, none, sizeof none), 0);
}

Test(transform_audit, topic_that_is_not_reconciled_gets_no_trace) {
    audited_make(SMALL);
    config.topic[0].reconcile = RECONCILE_OFF;
    transform_start();
    give_of(.value = "{\"id\":1}");
    give_of(.value = "not JSON");
    transform_step(&transform);
    struct taken t = take(&sink);
    cr_assert_eq(t.view.head.flags, 0);
    marker_expect(2, RECORD_REJECT, REASON_JSON_INVALID);
}

Test(transform_audit, altered_values_and_malformed_headers_are_counted) {
    static const char *const wrong[] = {"millrace-digest", "hmac:00000000000000000000000000000000", NULL};
    static const char *const bad[] = {"millrace-digest", "md5:00", "millrace-created", "soon", NULL};
    audited_make(SMALL);
    transform_start();
    give_of(.value = "{\"id\":1}", .headers = wrong);
    give_of(.value = "{\"id\":1}", .headers = bad);
    transform_step(&transform);
    cr_assert_eq(take(&sink).view.trace.flags, TRACE_DECLARED | TRACE_ALTERED);
    cr_assert_eq(take(&sink).view.trace.flags, 0);
    cr_assert_eq(counted(M_transform_record_altered), 1);
    cr_assert_eq(counted(M_transform_header_malformed), 2);
}

static void content_expect(const struct record_view *v, const char *topic, const char *key, const char *value,
                           size_t headers_bytes) {
    struct seal_origin origin = {v->head.id, topic, v->head.partition, v->head.offset};
    struct seal_parts parts;
    uint8_t *buffer;
    struct err err = {0};
    cr_assert_eq(seal_open(&keys, &origin, v->content, v->trace.content_bytes, &parts, &buffer, &err), 0, "%s",
                 err.text);
    cr_assert_eq(parts.key == NULL, key == NULL);
    cr_assert_eq(parts.value == NULL, value == NULL);
    if (key != NULL) part_expect(parts.key, (uint32_t)parts.key_bytes, key);
    if (value != NULL) part_expect(parts.value, (uint32_t)parts.value_bytes, value);
    cr_assert_eq(parts.headers_bytes, headers_bytes);
    free(buffer);
}

Test(transform_audit, full_carries_the_sealed_original_of_records_and_rejects) {
    audited_make(SMALL);
    with_keys = true;
    config.topic[0].reconcile = config.topic[1].reconcile = RECONCILE_FULL;
    transform_start();
    give_of(.key = "a", .value = "{\"id\":1}", .op = "add");
    give_of(.value = "not JSON");
    give_of(.key = "gone", .topic = 1);
    transform_step(&transform);
    struct taken t = take(&sink);
    content_expect(&t.view, "json", "a", "{\"id\":1}", record_header_bytes(2, 3));
    part_expect(t.view.value, t.view.head.value_bytes, "{\"id\":1}");
    struct record_view v = traced_marker_expect(2, REASON_JSON_INVALID);
    content_expect(&v, "json", NULL, "not JSON", 0);
    t = take(&sink);
    cr_assert_eq(t.view.head.op, RECORD_DELETE);
    content_expect(&t.view, "raw", "gone", NULL, 0);
    cr_assert_eq(counted(M_transform_content_absent), 0);
}

/* The record is stored; only the log goes without its content. */
Test(transform_audit, content_that_does_not_fit_is_left_out_and_counted) {
    static char value[SMALL];
    audited_make(SMALL);
    with_keys = true;
    config.topic[1].reconcile = RECONCILE_FULL;
    transform_start();
    size_t room = ring_record_max(SMALL) - sizeof(struct record) - sizeof(struct record_trace) - 1;
    memset(value, 'x', room);
    give_of(.key = "k", .value = value, .value_bytes = room - sizeof(struct record_trace), .topic = 1);
    transform_step(&transform);
    struct taken t = take(&sink);
    cr_assert(t.view.head.op == RECORD_ADD && t.view.trace.content_bytes == 0);
    cr_assert_eq(counted(M_transform_content_absent), 1);
}

Test(transform_audit, a_step_that_found_no_room_counts_nothing_twice) {
    static const char *const bad[] = {"millrace-created", "soon", NULL};
    audited_make(SMALL);
    transform_start();
    uint64_t given_count = 0, taken_count = 0;
    for (int i = 0; i < 200; i++) {
        while (give(&(struct given){.value = "{\"id\":1}", .headers = bad})) given_count++;
        transform_step(&transform);
        struct taken t;
        if (i % 3 == 0)
            while (take_from(&sink, &t)) taken_count++;
    }
    while (taken_count < given_count) {
        struct taken t;
        transform_step(&transform);
        while (take_from(&sink, &t)) taken_count++;
    }
    cr_assert_eq(counted(M_transform_header_malformed), given_count);
    cr_assert_gt(counted(M_worker_ring_full), 0);
}

Test(transform_audit, needs_its_keys) {
    struct err err = {0};
    audited_make(SMALL);
    config.topic[0].reconcile = RECONCILE_FULL;
    cr_assert_eq(transform_try(&err), -1);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert_not_null(strstr(err.text, "crypto.keys"), "%s", err.text);
}

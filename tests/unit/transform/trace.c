/* What audit is told of a record: headers of its producer, hostile ones too, and digests by the topic's method. */
#include "transform/trace.h"

#include <stdlib.h>
#include <sysexits.h>

#include "tests/unit/transform/help.h"

static struct config config;
static struct audit_keys keys = {.digest = {1, 2, 3}};
static struct tracer tracer;

static void start(void) {
    struct err err = {0};
    config.audit = 1;
    config.topic_count = 1;
    topic_set(&config.topic[0], "t", MODE_CHANGE, FORMAT_RAW, "{$key}");
    config.topic[0].reconcile = RECONCILE_DIGEST;
    cr_assert_eq(tracer_init(&tracer, &config, &keys, &err), 0, "%s", err.text);
}
static void stop(void) { tracer_free(&tracer); }
TestSuite(trace, .init = start, .fini = stop);

struct told {
    struct record head;
    struct record_trace trace;
    uint32_t malformed;
};

static uint8_t body[70000];

static struct record_view view_of(const struct given *g) {
    struct record_view v;
    given_write(g, body);
    cr_assert_eq(record_open(body, given_bytes(g), &v), 0);
    return v;
}

static struct told tell(const struct given *g) {
    struct record_view v = view_of(g);
    struct told t = {.head = v.head};
    memset(&t.trace, 0xee, sizeof t.trace);
    t.malformed = trace_original(&tracer, &v, &t.head, &t.trace);
    uint32_t altered = tracer_settle(&tracer);
    cr_assert_eq(altered, (t.trace.flags & TRACE_ALTERED) != 0);
    return t;
}
#define tell_of(...) tell(&(struct given){__VA_ARGS__})
#define HEADERS(...) ((const char *const[]){__VA_ARGS__, NULL})

static const uint8_t zeros[16];

static bool is_digest(const uint8_t got[DIGEST_BYTES], enum digest_algorithm algorithm, const char *text) {
    uint8_t want[DIGEST_BYTES];
    digest_of(&tracer.key, algorithm, text, strlen(text), want);
    return memcmp(got, want, sizeof want) == 0;
}

/* The header a producer would write of text. */
static const char *declared(enum digest_algorithm algorithm, const char *text) {
    static char header[5 + DIGEST_HEX_BYTES];
    uint8_t d[DIGEST_BYTES];
    digest_of(&tracer.key, algorithm, text, strlen(text), d);
    memcpy(header, algorithm == DIGEST_HMAC ? "hmac:" : "xxh3:", 5);
    digest_hex(d, header + 5);
    return header;
}

/* -- headers ----------------------------------------------------------------------------------- */

Test(trace, record_without_headers_has_its_kafka_time_and_nothing_else) {
    struct told t = tell_of(.key = "k", .value = "v", .timestamp_ms = 77);
    struct record_trace expected = {.created_ms = 77, .published_bytes = 1};
    cr_assert_eq(memcmp(&t.trace, &expected, sizeof expected), 0);
    cr_assert_eq(t.malformed, 0);
    t = tell_of(.value = "v", .timestamp_ms = -1);
    cr_assert_eq(t.trace.created_ms, -1);
}

Test(trace, headers_of_a_producer_are_taken_over) {
    struct told t = tell_of(.value = "v", .timestamp_ms = 77,
                            .headers = HEADERS("other", "x", "millrace-created", "1700000000123", "millrace-load",
                                               "00112233-4455-6677-8899-aabbccddeeff", "millrace-producer", "db2 north",
                                               "millrace-sequence", "18446744073709551615", "millrace-id",
                                               "00112233-4455-6677-8899-aabbccddeeff", "millrace-digest",
                                               declared(DIGEST_HMAC, "v")));
    cr_assert_eq(t.malformed, 0);
    cr_assert_eq(t.trace.created_ms, 1700000000123);
    cr_assert(t.trace.load[0] == 0 && t.trace.load[1] == 0x11 && t.trace.load[15] == 0xff);
    cr_assert_eq(t.trace.producer, record_producer_hash("db2 north", 9));
    cr_assert_eq(t.trace.sequence, UINT64_MAX);
    cr_assert_eq(t.trace.flags, TRACE_CREATED | TRACE_DECLARED);
}

static void malformed_expect(const char *name, const char *value) {
    struct told t = tell_of(.value = "v", .timestamp_ms = 77, .headers = HEADERS(name, value));
    struct record_trace expected = {.created_ms = 77, .published_bytes = 1};
    cr_assert_eq(t.malformed, 1, "%s: %s", name, value != NULL ? value : "null");
    cr_assert_eq(memcmp(&t.trace, &expected, sizeof expected), 0, "%s: %s counts as absent", name,
                 value != NULL ? value : "null");
}

Test(trace, malformed_headers_count_as_absent) {
    static const char *const names[] = {HEADER_ID,   HEADER_DIGEST,   HEADER_CREATED,
                                        HEADER_LOAD, HEADER_PRODUCER, HEADER_SEQUENCE};
    char producer[65];
    memset(producer, 'p', 64);
    producer[64] = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        malformed_expect(names[i], NULL);
        malformed_expect(names[i], "");
    }
    malformed_expect(HEADER_ID, "00112233-4455-6677-8899-aabbccddeef");
    malformed_expect(HEADER_DIGEST, "hmac:0011");
    malformed_expect(HEADER_DIGEST, "sha1:00112233445566778899aabbccddeeff");
    malformed_expect(HEADER_CREATED, "-1");
    malformed_expect(HEADER_CREATED, "+1");
    malformed_expect(HEADER_CREATED, " 1");
    malformed_expect(HEADER_CREATED, "1.5");
    malformed_expect(HEADER_CREATED, "0x10");
    malformed_expect(HEADER_CREATED, "253402300800000"); /* the year 10000 */
    malformed_expect(HEADER_CREATED, "99999999999999999999");
    malformed_expect(HEADER_CREATED, "100000000000000000000000000000");
    malformed_expect(HEADER_LOAD, "00000000-0000-0000-0000-000000000000");
    malformed_expect(HEADER_LOAD, "load 7");
    malformed_expect(HEADER_PRODUCER, producer);
    malformed_expect(HEADER_PRODUCER, "a\nb");
    malformed_expect(HEADER_PRODUCER, "a\x7f");
    malformed_expect(HEADER_SEQUENCE, "0");
    malformed_expect(HEADER_SEQUENCE, "18446744073709551616");
    malformed_expect(HEADER_SEQUENCE, "18446744073709551617");
    malformed_expect(HEADER_SEQUENCE, "1,000");
}

Test(trace, borders_of_what_is_well_formed) {
    char producer[64];
    memset(producer, 'p', 63);
    producer[63] = 0;
    struct told t = tell_of(.value = "v", .headers = HEADERS(HEADER_PRODUCER, producer, HEADER_CREATED, "0",
                                                             HEADER_SEQUENCE, "00000000000000000001"));
    cr_assert_eq(t.malformed, 0);
    cr_assert(t.trace.producer != 0 && t.trace.created_ms == 0 && t.trace.sequence == 1);
    cr_assert_eq(t.trace.flags, TRACE_CREATED);
    t = tell_of(.value = "v", .headers = HEADERS(HEADER_CREATED, "253402300799999"));
    cr_assert(t.malformed == 0 && t.trace.created_ms == CREATED_MS_MAX);
}

/* … whether it is right or wrong. */
Test(trace, last_header_of_a_name_counts) {
    struct told t =
        tell_of(.value = "v", .timestamp_ms = 5,
                .headers = HEADERS(HEADER_CREATED, "1", HEADER_CREATED, "2", HEADER_SEQUENCE, "x", HEADER_SEQUENCE, "9",
                                   HEADER_DIGEST, "no", HEADER_DIGEST, declared(DIGEST_HMAC, "v")));
    cr_assert(t.malformed == 2 && t.trace.created_ms == 2 && t.trace.sequence == 9);
    cr_assert_eq(t.trace.flags, TRACE_CREATED | TRACE_DECLARED);
    t = tell_of(.value = "v", .timestamp_ms = 5,
                .headers =
                    HEADERS(HEADER_CREATED, "1", HEADER_CREATED, "", HEADER_SEQUENCE, "9", HEADER_SEQUENCE, "0",
                            HEADER_LOAD, "00112233-4455-6677-8899-aabbccddeeff", HEADER_LOAD, "?", HEADER_PRODUCER, "p",
                            HEADER_PRODUCER, "", HEADER_DIGEST, declared(DIGEST_HMAC, "x"), HEADER_DIGEST, "?"));
    struct record_trace expected = {.created_ms = 5, .published_bytes = 1};
    cr_assert_eq(t.malformed, 5);
    cr_assert_eq(memcmp(&t.trace, &expected, sizeof expected), 0);
}

/* Random bytes in the values of known names: nothing is read beyond them, and what is taken over is well-formed. */
Test(trace, random_headers_do_no_harm) {
    static const char *const names[] = {HEADER_ID,       HEADER_DIGEST,   HEADER_CREATED, HEADER_LOAD,
                                        HEADER_PRODUCER, HEADER_SEQUENCE, "millrace-",    "x"};
    srand(4);
    for (int round = 0; round < 20000; round++) {
        char values[4][48];
        const char *list[9] = {0};
        for (int i = 0; i < 4; i++) {
            int len = rand() % 47;
            for (int k = 0; k < len; k++) values[i][k] = (char)(rand() % 3 == 0 ? 1 + rand() % 255 : '0' + rand() % 10);
            values[i][len] = 0;
            list[2 * i] = names[rand() % 8];
            list[2 * i + 1] = rand() % 10 == 0 ? NULL : values[i];
        }
        struct told t = tell_of(.value = "v", .timestamp_ms = 5, .headers = list);
        cr_assert_leq(t.malformed, 4);
        cr_assert(t.trace.created_ms >= 0 && t.trace.created_ms <= CREATED_MS_MAX);
        cr_assert((t.trace.flags & TRACE_CREATED) != 0 || t.trace.created_ms == 5);
        cr_assert((t.trace.flags & TRACE_ALTERED) == 0 || (t.trace.flags & TRACE_DECLARED) != 0);
    }
}

/* A marker of ingest's: nothing can be said of a value that is not there. */
Test(trace, record_too_large_for_a_ring_has_its_headers_and_no_digest) {
    struct given g = {.timestamp_ms = 5,
                      .value = "",
                      .headers = HEADERS(HEADER_PRODUCER, "p", HEADER_SEQUENCE, "7", HEADER_DIGEST,
                                         "hmac:00112233445566778899aabbccddeeff")};
    struct record_view v = view_of(&g);
    struct told t = {.head = v.head};
    v.head.flags |= RECORD_CONTENT_ABSENT;
    cr_assert_eq(trace_original(&tracer, &v, &t.head, &t.trace), 0);
    cr_assert_eq(tracer_settle(&tracer), 0);
    cr_assert(t.trace.sequence == 7 && t.trace.producer == record_producer_hash("p", 1) && t.trace.created_ms == 5);
    cr_assert_eq(t.trace.flags, TRACE_DECLARED);
    cr_assert(t.head.digest_algorithm == DIGEST_NONE && memcmp(t.head.digest_published, zeros, sizeof zeros) == 0);
}

/* -- digests ----------------------------------------------------------------------------------- */

Test(trace, value_has_the_digest_of_its_topics_method) {
    static const enum digest_algorithm algorithms[] = {[RECONCILE_COUNTS] = DIGEST_NONE,
                                                       [RECONCILE_CHECKSUM] = DIGEST_XXH3,
                                                       [RECONCILE_DIGEST] = DIGEST_HMAC,
                                                       [RECONCILE_FULL] = DIGEST_HMAC};
    for (uint32_t r = RECONCILE_COUNTS; r <= RECONCILE_FULL; r++) {
        config.topic[0].reconcile = r;
        struct told t = tell_of(.value = "value");
        cr_assert_eq(t.head.digest_algorithm, algorithms[r]);
        cr_assert(is_digest(t.head.digest_published, algorithms[r], "value"));
        cr_assert_eq(memcmp(t.head.digest_stored, zeros, sizeof zeros), 0, "nothing is stored yet");
    }
}

Test(trace, null_value_has_no_digest_and_an_empty_one_has) {
    struct told t = tell_of(.key = "k");
    cr_assert_eq(memcmp(t.head.digest_published, zeros, sizeof zeros), 0);
    cr_assert_eq(t.trace.published_bytes, RECORD_BYTES_NULL);
    t = tell_of(.key = "k", .value = "");
    cr_assert(is_digest(t.head.digest_published, DIGEST_HMAC, ""));
    cr_assert_eq(t.trace.published_bytes, 0);
}

Test(trace, declared_digest_is_compared_whatever_the_method) {
    for (uint32_t r = RECONCILE_COUNTS; r <= RECONCILE_FULL; r++)
        for (int algorithm = DIGEST_HMAC; algorithm <= DIGEST_XXH3; algorithm++) {
            config.topic[0].reconcile = r;
            const char *right = declared(algorithm, "value");
            struct told t = tell_of(.value = "value", .headers = HEADERS(HEADER_DIGEST, right));
            cr_assert_eq(t.trace.flags, TRACE_DECLARED, "method %u, algorithm %d", r, algorithm);
            t = tell_of(.value = "valuf", .headers = HEADERS(HEADER_DIGEST, right));
            cr_assert_eq(t.trace.flags, TRACE_DECLARED | TRACE_ALTERED, "method %u, algorithm %d", r, algorithm);
            t = tell_of(.key = "k", .headers = HEADERS(HEADER_DIGEST, right));
            cr_assert_eq(t.trace.flags, TRACE_DECLARED | TRACE_ALTERED, "a value that is gone");
        }
    struct told t = tell_of(.key = "k", .headers = HEADERS(HEADER_DIGEST, "hmac:00000000000000000000000000000000"));
    cr_assert_eq(t.trace.flags, TRACE_DECLARED, "the digest of no value is declared as zeros");
}

static struct told tell_converted(const struct given *g, const struct converted *c, bool list) {
    struct record_view v = view_of(g);
    struct told t = {.head = v.head};
    struct converted copy = *c;
    if (copy.value == NULL) copy.value = v.value;
    uint8_t written[2 * REDIS_KEY_BYTES_MAX];
    memcpy(written, copy.key, copy.key_bytes);
    memcpy(written + copy.key_bytes, copy.old_key, copy.old_key_bytes);
    trace_original(&tracer, &v, &t.head, &t.trace);
    trace_converted(&tracer, &v, &copy, list, written, &t.head, &t.trace);
    tracer_settle(&tracer);
    return t;
}

Test(trace, keys_are_digested_with_the_key_whatever_the_method) {
    struct converted c = {
        .op = RECORD_UPDATE, .key = "new", .key_bytes = 3, .old_key = "before", .old_key_bytes = 6, .value_bytes = 5};
    for (uint32_t r = RECONCILE_COUNTS; r <= RECONCILE_FULL; r++) {
        config.topic[0].reconcile = r;
        struct told t = tell_converted(&(struct given){.value = "value"}, &c, false);
        cr_assert(is_digest(t.trace.digest_key, DIGEST_HMAC, "new"));
        cr_assert(is_digest(t.trace.digest_old_key, DIGEST_HMAC, "before"));
    }
    c.old_key_bytes = 0;
    struct told t = tell_converted(&(struct given){.value = "value"}, &c, false);
    cr_assert_eq(memcmp(t.trace.digest_old_key, zeros, sizeof zeros), 0);
}

Test(trace, stored_value_is_that_before_encoding) {
    struct converted c = {.op = RECORD_ADD, .key = "k", .key_bytes = 1, .value_bytes = 5};
    struct told t = tell_converted(&(struct given){.value = "value"}, &c, false);
    cr_assert(is_digest(t.head.digest_stored, DIGEST_HMAC, "value"));
    cr_assert_eq(t.trace.stored_bytes, 5);
    c.value = (const uint8_t *)"other!";
    c.value_bytes = 6;
    t = tell_converted(&(struct given){.value = "value"}, &c, false);
    cr_assert(is_digest(t.head.digest_published, DIGEST_HMAC, "value"));
    cr_assert(is_digest(t.head.digest_stored, DIGEST_HMAC, "other!"));
    c.op = RECORD_DELETE;
    t = tell_converted(&(struct given){.value = "value"}, &c, false);
    cr_assert_eq(memcmp(t.head.digest_stored, zeros, sizeof zeros), 0);
    cr_assert_eq(t.trace.stored_bytes, 0);
}

static size_t list_put(uint8_t *list, size_t at, const char *name, const char *value) {
    uint32_t lens[2] = {(uint32_t)strlen(name), (uint32_t)strlen(value)}, count;
    memcpy(&count, list, 4);
    count++;
    memcpy(list, &count, 4);
    memcpy(list + at, lens, 8);
    memcpy(list + at + 8, name, lens[0]);
    memcpy(list + at + 8 + lens[0], value, lens[1]);
    return at + 8 + lens[0] + lens[1];
}

Test(trace, hash_has_the_digest_of_its_fields_of_which_the_last_of_a_name_counts) {
    uint8_t a[256] = {0}, b[256] = {0}, want[DIGEST_BYTES];
    size_t a_bytes = list_put(a, list_put(a, list_put(a, RECORD_FIELDS_HEAD, "x", "1"), "y", "2"), "x", "3");
    size_t b_bytes = list_put(b, list_put(b, RECORD_FIELDS_HEAD, "y", "2"), "x", "3");
    struct converted c = {.op = RECORD_ADD, .key = "k", .key_bytes = 1, .value = a, .value_bytes = (uint32_t)a_bytes};
    struct told one = tell_converted(&(struct given){.value = "{}"}, &c, true);
    c.value = b;
    c.value_bytes = (uint32_t)b_bytes;
    struct told other = tell_converted(&(struct given){.value = "{}"}, &c, true);
    struct digest_field fields[] = {{(const uint8_t *)"x", (const uint8_t *)"3", 1, 1},
                                    {(const uint8_t *)"y", (const uint8_t *)"2", 1, 1}};
    digest_of_fields(&tracer.key, DIGEST_HMAC, fields, 2, want);
    cr_assert_eq(memcmp(one.head.digest_stored, want, sizeof want), 0);
    cr_assert_eq(memcmp(other.head.digest_stored, want, sizeof want), 0);
    cr_assert(is_digest(one.head.digest_published, DIGEST_HMAC, "{}"));
}

/* Records settled together, of every length, against each by itself. */
Test(trace, digests_settled_together_are_those_of_each_record) {
    static struct record_view views[TRACE_UNSETTLED_MAX];
    static struct told told[TRACE_UNSETTLED_MAX];
    static uint8_t bytes[1024];
    uint8_t want[DIGEST_BYTES];
    srand(9);
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)rand();
    for (int round = 0; round < 40; round++) {
        int n = 1 + rand() % TRACE_UNSETTLED_MAX;
        struct converted c = {.op = RECORD_UPDATE, .old_key_bytes = (uint32_t)rand() % 200};
        for (int i = 0; i < n; i++) {
            views[i].head = (struct record){.value_bytes = (uint32_t)rand() % 800};
            views[i].value = bytes + rand() % 200;
            views[i].headers = views[i].value;
            told[i].head = views[i].head;
            c.key_bytes = (uint32_t)i;
            c.value = views[i].value;
            c.value_bytes = views[i].head.value_bytes;
            trace_original(&tracer, &views[i], &told[i].head, &told[i].trace);
            trace_converted(&tracer, &views[i], &c, false, bytes, &told[i].head, &told[i].trace);
        }
        cr_assert_eq(tracer_settle(&tracer), 0);
        for (int i = 0; i < n; i++) {
            digest_of(&tracer.key, DIGEST_HMAC, views[i].value, views[i].head.value_bytes, want);
            cr_assert_eq(memcmp(told[i].head.digest_published, want, sizeof want), 0, "%d of %d", i, n);
            cr_assert_eq(memcmp(told[i].head.digest_stored, want, sizeof want), 0, "%d of %d", i, n);
            digest_of(&tracer.key, DIGEST_HMAC, bytes, (size_t)i, want);
            cr_assert_eq(memcmp(told[i].trace.digest_key, want, sizeof want), 0, "%d of %d", i, n);
            digest_of(&tracer.key, DIGEST_HMAC, bytes + i, c.old_key_bytes, want);
            cr_assert_eq(memcmp(told[i].trace.digest_old_key, c.old_key_bytes > 0 ? want : zeros, sizeof want), 0);
        }
    }
}

/* -- life -------------------------------------------------------------------------------------- */

Test(trace, audit_needs_keys_and_topics_may_stay_out) {
    struct err err = {0};
    struct tracer t;
    cr_assert_eq(tracer_init(&t, &config, NULL, &err), -1);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert(tracer_wants(&tracer, 0));
    config.topic[0].reconcile = RECONCILE_OFF;
    cr_assert_not(tracer_wants(&tracer, 0));
    config.topic[0].reconcile = RECONCILE_DIGEST;
    config.audit = 0;
    cr_assert_eq(tracer_init(&t, &config, NULL, &err), 0);
    cr_assert_not(tracer_wants(&t, 0));
    tracer_free(&t);
}

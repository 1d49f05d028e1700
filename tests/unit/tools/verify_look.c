/* What a value found in Redis is worth against a row. */
#include <criterion/criterion.h>
#include <hiredis/hiredis.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "tools/verify.h"
#include "transform/value.h"

static struct verify v;

static void prepare(void) {
    uint8_t key[DIGEST_KEY_BYTES] = {1, 2, 3};
    digest_key_init(&v.digest, key);
}
TestSuite(verify_look, .init = prepare);

static redisReply text(const char *bytes, size_t len) {
    return (redisReply){.type = REDIS_REPLY_STRING, .str = (char *)(uintptr_t)bytes, .len = len};
}

Test(verify_look, a_string_has_the_digest_of_its_bytes_under_the_rows_algorithm) {
    struct live_row row = {.algorithm = DIGEST_HMAC};
    uint8_t found[DIGEST_BYTES], wanted[DIGEST_BYTES];
    bool decodes;
    redisReply value = text("abc", 3);
    digest_of(&v.digest, DIGEST_HMAC, "abc", 3, wanted);
    cr_assert_eq(verify_value(&v, "k", 1, &row, &value, found, &decodes), 0);
    cr_assert_arr_eq(found, wanted, DIGEST_BYTES);
    row.algorithm = DIGEST_XXH3;
    digest_of(NULL, DIGEST_XXH3, "abc", 3, wanted);
    cr_assert_eq(verify_value(&v, "k", 1, &row, &value, found, &decodes), 0);
    cr_assert_arr_eq(found, wanted, DIGEST_BYTES);
    value.type = REDIS_REPLY_NIL;
    cr_assert_eq(verify_value(&v, "k", 1, &row, &value, found, &decodes), -1);
}

/* A table with the topic 0, "cards". */
static struct live *table_make(char dir[64]) {
    struct err err = {0};
    struct entry e = {.bytes = sizeof e, .outcome = ENTRY_APPLIED};
    const struct log_item item = {.entry = &e, .topic = "cards", .sequence = 1};
    snprintf(dir, 64, "/tmp/millrace-look-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    struct live *l = live_open_writer(dir, &err);
    cr_assert(l != NULL && live_apply(l, &item, &err) == 0, "%s", err.text);
    return l;
}

static void table_remove(struct live *l, const char *dir) {
    char path[100];
    live_close(l);
    for (const char *const *name = (const char *[]){"MANIFEST", "LOCK", NULL}; *name != NULL; name++) {
        snprintf(path, sizeof path, "%s/%s", dir, *name);
        remove(path);
    }
    remove(dir);
}

/* An encoded value is decoded, and one that only looks so is taken as it stands when that is what the row says. */
Test(verify_look, a_value_that_looks_encoded_is_what_the_row_says) {
    static struct value_encoder encoder;
    struct err err;
    uint8_t stored[200], found[DIGEST_BYTES];
    struct live_row row = {.algorithm = DIGEST_HMAC};
    bool decodes;
    cr_assert_eq(value_encoder_init(&encoder, NULL, 0, &err), 0);
    const char plain[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    size_t len = value_encode(&encoder, VALUE_LZ4, "k", 1, (const uint8_t *)plain, sizeof plain, stored);
    redisReply value = text((const char *)stored, len);
    static struct config config;
    char dir[64];
    v.config = &config;
    v.known.live = table_make(dir);
    config.topic_count = 1;
    snprintf(config.topic[0].name, TOPIC_BYTES, "cards");
    for (int as_it_stands = 0; as_it_stands < 2; as_it_stands++) {
        digest_of(&v.digest, DIGEST_HMAC, as_it_stands ? (const void *)stored : plain,
                  as_it_stands ? len : sizeof plain, row.value);
        cr_assert_eq(verify_value(&v, "k", 1, &row, &value, found, &decodes), 0);
        cr_assert(decodes && memcmp(found, row.value, DIGEST_BYTES) == 0);
    }
    config.topic[0].compress = COMPRESS_LZ4;
    cr_assert_eq(verify_value(&v, "k", 1, &row, &value, found, &decodes), 0, "the topic encodes: it is decoded");
    digest_of(&v.digest, DIGEST_HMAC, plain, sizeof plain, row.value);
    cr_assert_arr_eq(found, row.value, DIGEST_BYTES);
    stored[len - 1] ^= 1;
    stored[13] ^= 1; /* the original length */
    cr_assert_eq(verify_value(&v, "k", 1, &row, &value, found, &decodes), -1);
    cr_assert_not(decodes);
    table_remove(v.known.live, dir);
    value_encoder_free(&encoder);
}

Test(verify_look, a_hash_has_the_digest_of_its_fields_whatever_their_order) {
    struct live_row row = {.algorithm = DIGEST_HMAC, .flags = LIVE_HASH};
    redisReply a = text("a", 1), one = text("1", 1), b = text("b", 1), two = text("2", 1);
    redisReply *ab[] = {&a, &one, &b, &two}, *ba[] = {&b, &two, &a, &one};
    redisReply fields = {.type = REDIS_REPLY_ARRAY, .elements = 4, .element = ab};
    uint8_t x[DIGEST_BYTES], y[DIGEST_BYTES];
    bool decodes;
    cr_assert_eq(verify_value(&v, "k", 1, &row, &fields, x, &decodes), 0);
    fields.element = ba;
    cr_assert_eq(verify_value(&v, "k", 1, &row, &fields, y, &decodes), 0);
    cr_assert_arr_eq(x, y, DIGEST_BYTES);
    fields.elements = 2;
    cr_assert_eq(verify_value(&v, "k", 1, &row, &fields, y, &decodes), 0);
    cr_assert_arr_neq(x, y, DIGEST_BYTES);
    fields.elements = 0;
    cr_assert_eq(verify_value(&v, "k", 1, &row, &fields, y, &decodes), -1, "there is no empty hash");
    cr_assert_eq(verify_value(&v, "k", 1, &row, &one, y, &decodes), -1);
}

Test(verify_look, an_expiry_is_compared_as_exactly_as_redis_tells_it) {
    redisReply n = {.type = REDIS_REPLY_INTEGER, .integer = 5000};
    v.counts_expiry = true;
    cr_assert_eq(verify_expiry(&v, &n), 5000);
    cr_assert(verify_same_expiry(&v, 5000, 5000) && !verify_same_expiry(&v, 5000, 5001));
    n.integer = -1;
    cr_assert_eq(verify_expiry(&v, &n), 0);
    n.integer = -2;
    cr_assert_eq(verify_expiry(&v, &n), -1);
    v.counts_expiry = false;
    n.integer = 5000;
    int64_t at = verify_expiry(&v, &n), now = clock_wall_ms(&clock_real);
    cr_assert(at >= now + 4000 && at <= now + 5000);
    cr_assert(verify_same_expiry(&v, 5000, 6999) && !verify_same_expiry(&v, 5000, 8000));
    cr_assert(!verify_same_expiry(&v, 0, 1000) && verify_same_expiry(&v, 0, 0));
}

Test(verify_look, an_error_of_redis_ends_with_the_right_status) {
    struct err err = {0};
    redisReply e = {.type = REDIS_REPLY_ERROR, .str = (char *)(uintptr_t) "NOPERM no"};
    cr_assert_eq(verify_reply_check(&e, "SCAN", &err), -1);
    cr_assert(err.code == EX_NOPERM && strcmp(err.text, "SCAN: NOPERM no") == 0);
    e.str = (char *)(uintptr_t) "LOADING x";
    cr_assert_eq(verify_reply_check(&e, "SCAN", &err), -1);
    cr_assert_eq(err.code, EX_UNAVAILABLE);
    cr_assert_eq(verify_reply_check(NULL, "SCAN", &err), -1);
    redisReply fine = text("", 0);
    cr_assert_eq(verify_reply_check(&fine, "SCAN", &err), 0);
}

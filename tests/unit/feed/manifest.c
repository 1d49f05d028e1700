#include "feed/manifest.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

static char text[MANIFEST_BYTES_MAX];
static const struct manifest_load names = {.producer = "p1",
                                           .topic = "cards",
                                           .algorithm = DIGEST_HMAC,
                                           .id = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
                                           .created_ms = 1700000000123,
                                           .snapshot = true};

Test(manifest, windows_begin_at_multiples_of_their_length) {
    struct manifest m = {0};
    static const uint8_t digest[16] = {1};
    cr_assert(manifest_has(&m, 7));
    manifest_add(&m, 1700000123456, 600000, 5, 100, digest);
    cr_assert_eq(m.from_ms, 1699999800000);
    cr_assert_eq(m.to_ms, 1700000400000);
    cr_assert(manifest_has(&m, 1700000399999) && manifest_has(&m, 1699999800000));
    cr_assert(!manifest_has(&m, 1700000400000) && !manifest_has(&m, 1699999799999));
}

Test(manifest, sums_are_of_counts_bytes_and_digests_in_any_order) {
    static const uint8_t one[16] = {[15] = 0xff}, other[16] = {[0] = 0x80, [15] = 2};
    struct manifest a = {0}, b = {0};
    manifest_add(&a, 5, 10, 1, 3, one);
    manifest_add(&a, 6, 10, 2, 4, other);
    manifest_add(&b, 6, 10, 1, 4, other);
    manifest_add(&b, 5, 10, 2, 3, one);
    cr_assert_arr_eq(a.digest_sum, b.digest_sum, 16);
    cr_assert_eq(a.digest_sum[15], 1);
    cr_assert_eq(a.digest_sum[14], 1);
    cr_assert_eq(a.count, 2);
    cr_assert_eq(a.bytes, 7);
    cr_assert(a.first_sequence == 1 && a.last_sequence == 2);
}

Test(manifest, a_record_of_another_window_is_refused, .signal = SIGABRT) {
    struct manifest m = {0};
    static const uint8_t digest[16];
    manifest_add(&m, 5, 10, 1, 0, digest);
    manifest_add(&m, 10, 10, 2, 0, digest);
}

Test(manifest, texts_are_as_documented) {
    struct manifest m = {.from_ms = 10, .to_ms = 20, .first_sequence = 3, .last_sequence = 5, .count = 3, .bytes = 99};
    static const struct manifest_place places[] = {{0, 17}, {3, 0}};
    m.digest_sum[0] = 0xab;
    size_t len = manifest_window(&names, &m, text);
    cr_assert_eq(len, strlen(text));
    cr_assert_str_eq(text, "{\"type\":\"window\",\"producer\":\"p1\",\"topic\":\"cards\",\"from_ms\":10,\"to_ms\":20,"
                           "\"first_sequence\":3,\"last_sequence\":5,\"count\":3,\"bytes\":99,\"digest\":\"hmac\","
                           "\"digest_sum\":\"ab000000000000000000000000000000\"}");
    manifest_begin(&names, text);
    cr_assert_str_eq(text, "{\"type\":\"load_begin\",\"load\":\"01020304-0506-0708-090a-0b0c0d0e0f10\",\"producer\":"
                           "\"p1\",\"topic\":\"cards\",\"created_ms\":1700000000123,\"snapshot\":true}");
    len = manifest_end(&names, &m, true, places, 2, text);
    cr_assert_eq(len, strlen(text));
    cr_assert_str_eq(text, "{\"type\":\"load_end\",\"load\":\"01020304-0506-0708-090a-0b0c0d0e0f10\",\"producer\":"
                           "\"p1\",\"topic\":\"cards\",\"first_sequence\":3,\"last_sequence\":5,\"count\":3,"
                           "\"bytes\":99,\"digest\":\"hmac\",\"digest_sum\":\"ab000000000000000000000000000000\","
                           "\"state\":\"complete\",\"snapshot\":true,\"first_offsets\":{\"0\":17,\"3\":0}}");
    manifest_end(&names, &m, false, NULL, 0, text);
    cr_assert_not_null(strstr(text, "\"state\":\"aborted\""));
    char key[MANIFEST_KEY_BYTES];
    cr_assert_eq(manifest_key(&names, key), 8);
    cr_assert_str_eq(key, "p1|cards");
}

Test(manifest, the_longest_fits) {
    static char producer[NAME_BYTES], topic[TOPIC_BYTES];
    static struct manifest_place places[PARTITIONS_MAX + 5];
    memset(producer, '"', sizeof producer - 1);
    memset(topic, '\\', sizeof topic - 1);
    struct manifest_load l = {.producer = producer, .topic = topic, .algorithm = DIGEST_XXH3, .created_ms = INT64_MAX};
    struct manifest m = {
        .first_sequence = UINT64_MAX, .last_sequence = UINT64_MAX, .count = UINT64_MAX, .bytes = UINT64_MAX};
    for (int i = 0; i < PARTITIONS_MAX + 5; i++) places[i] = (struct manifest_place){INT32_MAX, INT64_MAX};
    cr_assert_lt(manifest_end(&l, &m, true, places, MANIFEST_PLACES_MAX, text), sizeof text);
    cr_assert_not_null(strstr(text, "first_offsets"));
    cr_assert_lt(manifest_places(&l, places, MANIFEST_PLACES_MAX, text), sizeof text);
    cr_assert_not_null(strstr(text, "load_places"));
}

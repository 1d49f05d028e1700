/* Any bytes as the body of a record on a ring, as a worker gets it: what record_open accepts has all its parts within
 * the body, and its lists can be walked to their ends. */
#include "tests/fuzz/fuzz.h"

#include "shm/record.h"

uint64_t read_sum;

static void headers_walk(const uint8_t *headers, size_t len) {
    struct record_header h;
    size_t at = 0;
    int more;
    while ((more = record_header_next(headers, len, &at, &h)) == 1) {
        WRONG_UNLESS(at <= len);
        read_all((const uint8_t *)h.name, h.name_bytes);
        if (h.value != NULL) read_all(h.value, h.value_bytes);
    }
    if (record_header_last(headers, len, "id", &h) == 1 && h.value != NULL) read_all(h.value, h.value_bytes);
}

static void fields_walk(const uint8_t *value, size_t len) {
    struct record_field f;
    size_t at = RECORD_FIELDS_HEAD;
    uint32_t n = 0;
    while (record_field_next(value, len, &at, &f) == 1) {
        read_all(f.name, f.name_bytes);
        read_all(f.value, f.value_bytes);
        n++;
    }
    WRONG_UNLESS(n == record_fields_count(value));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    struct record_view v;
    headers_walk(bytes, len);
    if (record_open(bytes, len, &v) != 0) return 0;
    read_all(v.kafka_key, v.head.kafka_key_bytes);
    read_all(v.redis_key, v.head.redis_key_bytes);
    read_all(v.old_key, v.head.old_key_bytes);
    read_all(v.value, v.head.value_bytes);
    headers_walk(v.headers, v.head.headers_bytes);
    if (v.head.flags & RECORD_VALUE_FIELDS) fields_walk(v.value, v.head.value_bytes);
    WRONG_UNLESS(v.kafka_key >= bytes && v.headers + v.head.headers_bytes <= bytes + len);
    return 0;
}

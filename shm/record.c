#include "shm/record.h"

#include <string.h>

#include "base/hex.h"

uint32_t record_fields_count(const uint8_t *value) {
    uint32_t count;
    memcpy(&count, value, sizeof count);
    return count;
}

int record_field_next(const uint8_t *value, size_t len, size_t *at, struct record_field *out) {
    if (*at == len) return 0;
    if (*at > len || len - *at < RECORD_FIELD_HEAD) return -1;
    memcpy(&out->name_bytes, value + *at, 4);
    memcpy(&out->value_bytes, value + *at + 4, 4);
    size_t rest = len - *at - RECORD_FIELD_HEAD;
    if (out->name_bytes > rest || out->value_bytes > rest - out->name_bytes) return -1;
    out->name = value + *at + RECORD_FIELD_HEAD;
    out->value = out->name + out->name_bytes;
    *at += RECORD_FIELD_HEAD + (size_t)out->name_bytes + out->value_bytes;
    return 1;
}

static int fields_check(const struct record *h, const uint8_t *value) {
    struct record_field field;
    size_t at = RECORD_FIELDS_HEAD;
    uint32_t count = 0;
    int more;
    if ((h->op != RECORD_ADD && h->op != RECORD_UPDATE) || h->value_bytes < RECORD_FIELDS_HEAD) return -1;
    while ((more = record_field_next(value, h->value_bytes, &at, &field)) == 1) count++;
    return more == 0 && count == record_fields_count(value) && count >= 1 && count <= HASH_FIELDS_MAX ? 0 : -1;
}

int record_open(const void *body, size_t len, struct record_view *view) {
    struct record *h = &view->head;
    if (len < sizeof *h) return -1;
    memcpy(h, body, sizeof *h);
    if (h->op >= RECORD_OP_COUNT || h->reason >= REASON_COUNT) return -1;
    const uint8_t *at = (const uint8_t *)body + sizeof *h;
    view->trace = (struct record_trace){0};
    if (h->flags & RECORD_TRACED) {
        if (len < sizeof *h + sizeof view->trace) return -1;
        memcpy(&view->trace, at, sizeof view->trace);
        at += sizeof view->trace;
    }
    /* Six 32-bit lengths cannot overflow a size_t of 64 bits. */
    if (record_bytes(h) + view->trace.content_bytes != len) return -1;
    view->kafka_key = at;
    view->redis_key = at += h->kafka_key_bytes;
    view->old_key = at += h->redis_key_bytes;
    view->value = at += h->old_key_bytes;
    view->headers = at += h->value_bytes;
    view->content = at + h->headers_bytes;
    return (h->flags & RECORD_VALUE_FIELDS) != 0 ? fields_check(h, view->value) : 0;
}

/* -- ids --------------------------------------------------------------------------------------- */

/* FNV-1a, 64 bits (draft-eastlake-fnv). */
static uint64_t hash64(const void *bytes, size_t len) {
    uint64_t h = 0xcbf29ce484222325ULL;
    for (const uint8_t *p = bytes; len > 0; len--) h = (h ^ *p++) * 0x100000001b3ULL;
    return h;
}

uint64_t record_producer_hash(const void *name, size_t len) {
    uint64_t h = hash64(name, len);
    return h != 0 ? h : 1;
}

/* Folded to 48 bits: enough to tell the topics of one installation apart. */
static uint64_t topic_hash48(const char *topic) {
    uint64_t h = hash64(topic, strlen(topic));
    return (h ^ (h >> 48)) & 0xffffffffffffULL;
}

void record_id_derive(uint8_t id[16], const char *topic, int32_t partition, int64_t offset) {
    uint64_t p = (uint64_t)(uint32_t)partition & 0x3ffffff; /* 26 bits: 12 in the middle field, 14 in the last */
    uint64_t high = topic_hash48(topic) << 16 | 0x8000 | (p >> 14);
    uint64_t low = 0x8000000000000000ULL | (p & 0x3fff) << 48 | ((uint64_t)offset & 0xffffffffffffULL);
    for (int i = 0; i < 8; i++) {
        id[i] = (uint8_t)(high >> (56 - 8 * i));
        id[8 + i] = (uint8_t)(low >> (56 - 8 * i));
    }
}

int record_id_parse(uint8_t id[16], const void *text, size_t len) {
    const char *s = text;
    if (len == 16) {
        memcpy(id, text, 16);
        return 0;
    }
    if (len != 36) return -1;
    uint8_t out[16];
    size_t n = 0;
    for (size_t i = 0; i < 36;) {
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (s[i++] != '-') return -1;
            continue;
        }
        int a = hex_digit(s[i]), b = hex_digit(s[i + 1]);
        if (a < 0 || b < 0) return -1;
        out[n++] = (uint8_t)(a << 4 | b);
        i += 2;
    }
    memcpy(id, out, 16);
    return 0;
}

void record_id_format(const uint8_t id[16], char out[37]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) *out++ = '-';
        *out++ = digits[id[i] >> 4];
        *out++ = digits[id[i] & 15];
    }
    *out = 0;
}

/* -- headers ----------------------------------------------------------------------------------- */

static const uint32_t header_null = UINT32_MAX;

size_t record_header_put(uint8_t *out, const char *name, size_t name_bytes, const void *value, size_t value_bytes) {
    uint16_t n = (uint16_t)name_bytes;
    uint32_t v = value == NULL ? header_null : (uint32_t)value_bytes;
    memcpy(out, &n, 2);
    memcpy(out + 2, &v, 4);
    memcpy(out + 6, name, n);
    if (value == NULL) return 6 + (size_t)n;
    memcpy(out + 6 + n, value, value_bytes);
    return 6 + (size_t)n + value_bytes;
}

int record_header_next(const uint8_t *headers, size_t len, size_t *at, struct record_header *out) {
    if (*at == len) return 0;
    if (*at > len || len - *at < 6) return -1;
    uint16_t n;
    uint32_t v;
    memcpy(&n, headers + *at, 2);
    memcpy(&v, headers + *at + 2, 4);
    size_t value_bytes = v == header_null ? 0 : v;
    if (len - *at - 6 < n + value_bytes) return -1;
    const uint8_t *name = headers + *at + 6;
    *out = (struct record_header){.name = (const char *)name,
                                  .value = v == header_null ? NULL : name + n,
                                  .name_bytes = n,
                                  .value_bytes = (uint32_t)value_bytes};
    *at += 6 + n + value_bytes;
    return 1;
}

int record_header_last(const uint8_t *headers, size_t len, const char *name, struct record_header *out) {
    size_t at = 0, name_bytes = strlen(name);
    int found = 0, r;
    struct record_header h;
    while ((r = record_header_next(headers, len, &at, &h)) == 1)
        if (h.name_bytes == name_bytes && memcmp(h.name, name, name_bytes) == 0) {
            *out = h;
            found = 1;
        }
    return r < 0 ? -1 : found;
}

/* -- names ------------------------------------------------------------------------------------- */

const char *record_reason_name(enum record_reason reason) {
    static const char *const names[] = {"none",         "key_null",  "key_empty", "key_long", "field_missing",
                                        "json_invalid", "operation", "too_large", "crash"};
    static_assert(sizeof names / sizeof names[0] == REASON_COUNT, "a name per reason");
    return (unsigned)reason < REASON_COUNT ? names[reason] : "unknown";
}

const char *record_op_name(enum record_op op) {
    static const char *const names[] = {"raw", "add", "update", "delete", "skip", "reject"};
    static_assert(sizeof names / sizeof names[0] == RECORD_OP_COUNT, "a name per operation");
    return (unsigned)op < RECORD_OP_COUNT ? names[op] : "unknown";
}

/* What the tests of transform/ share: records as ingest would publish them. */
#ifndef MILLRACE_TESTS_UNIT_TRANSFORM_HELP_H
#define MILLRACE_TESTS_UNIT_TRANSFORM_HELP_H

#include <criterion/criterion.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "shm/record.h"

struct given {                     /* a record from Kafka; NULL: null */
    const char *key, *value, *op;  /* op: the header `op`; NULL: there is none */
    size_t key_bytes, value_bytes; /* 0: the length of the text */
    uint16_t topic;
    int64_t offset, timestamp_ms;
    uint32_t epoch;             /* 0: 1 */
    enum record_reason reason;  /* REASON_CRASH: it has crashed the sink */
    const char *const *headers; /* name, value (NULL: null), name, value, …, NULL; NULL: none */
};

enum { GIVEN_PARTITION = 3, GIVEN_SLOT = 5 };

static inline size_t given_len(const char *text, size_t bytes) {
    return text == NULL ? 0 : bytes != 0 ? bytes : strlen(text);
}

static inline size_t given_bytes(const struct given *g) {
    size_t headers = g->op != NULL ? record_header_bytes(2, strlen(g->op)) : 0;
    for (const char *const *h = g->headers; h != NULL && h[0] != NULL; h += 2)
        headers += record_header_bytes(strlen(h[0]), given_len(h[1], 0));
    return sizeof(struct record) + given_len(g->key, g->key_bytes) + given_len(g->value, g->value_bytes) + headers;
}

/* Writes the record as ingest does. Room: given_bytes. */
static inline void given_write(const struct given *g, void *out) {
    struct record h = {.op = RECORD_RAW, .topic = g->topic, .slot = GIVEN_SLOT, .partition = GIVEN_PARTITION};
    uint8_t *at = (uint8_t *)out + sizeof h;
    h.epoch = g->epoch != 0 ? g->epoch : 1;
    h.offset = g->offset;
    h.reason = (uint8_t)g->reason;
    h.timestamp_ms = g->timestamp_ms;
    h.flags = (uint16_t)((g->key == NULL ? RECORD_KEY_NULL : 0) | (g->value == NULL ? RECORD_VALUE_NULL : 0));
    h.kafka_key_bytes = (uint32_t)given_len(g->key, g->key_bytes);
    h.value_bytes = (uint32_t)given_len(g->value, g->value_bytes);
    record_id_derive(h.id, "topic", h.partition, h.offset);
    if (g->key != NULL) memcpy(at, g->key, h.kafka_key_bytes);
    at += h.kafka_key_bytes;
    if (g->value != NULL) memcpy(at, g->value, h.value_bytes);
    at += h.value_bytes;
    if (g->op != NULL) h.headers_bytes = (uint32_t)record_header_put(at, "op", 2, g->op, strlen(g->op));
    for (const char *const *p = g->headers; p != NULL && p[0] != NULL; p += 2)
        h.headers_bytes +=
            (uint32_t)record_header_put(at + h.headers_bytes, p[0], strlen(p[0]), p[1], given_len(p[1], 0));
    memcpy(out, &h, sizeof h);
}

static inline void topic_set(struct config_topic *t, const char *name, uint32_t mode, uint32_t format,
                             const char *key) {
    memset(t, 0, sizeof *t);
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(t->key, sizeof t->key, "%s", key);
    t->mode = mode;
    t->format = format;
}

#endif

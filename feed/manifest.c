#include "feed/manifest.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "shm/record.h"

bool manifest_has(const struct manifest *m, int64_t created_ms) {
    return m->count == 0 || (created_ms >= m->from_ms && created_ms < m->to_ms);
}

void manifest_add(struct manifest *m, int64_t created_ms, uint64_t window_ms, uint64_t sequence, uint64_t bytes,
                  const uint8_t digest[DIGEST_BYTES]) {
    CHECK(manifest_has(m, created_ms) && created_ms >= 0);
    if (m->count == 0) {
        m->from_ms = created_ms - created_ms % (int64_t)window_ms;
        m->to_ms = m->from_ms + (int64_t)window_ms;
        m->first_sequence = sequence;
    }
    m->last_sequence = sequence;
    m->count++;
    m->bytes += bytes;
    digest_sum_add(m->digest_sum, digest);
}

/* -- texts ------------------------------------------------------------------------------------- */

struct text {
    char *at;
    size_t len;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->at + t->len, MANIFEST_BYTES_MAX - t->len, format, args);
    va_end(args);
    CHECK(n >= 0 && (size_t)n < MANIFEST_BYTES_MAX - t->len); /* names and numbers are bounded */
    t->len += (size_t)n;
}

/* Names of producers and topics are of letters that need no escape but these. */
static void put_name(struct text *t, const char *name, const char *value) {
    put(t, ",\"%s\":\"", name);
    for (; *value != 0; value++) put(t, *value == '"' || *value == '\\' ? "\\%c" : "%c", *value);
    put(t, "\"");
}

static void put_load(struct text *t, const struct manifest_load *l, const char *type, bool with_id) {
    char id[37];
    record_id_format(l->id, id);
    put(t, "{\"type\":\"%s\"", type);
    if (with_id) put(t, ",\"load\":\"%s\"", id);
    put_name(t, "producer", l->producer);
    put_name(t, "topic", l->topic);
}

static void put_sums(struct text *t, const struct manifest_load *l, const struct manifest *m) {
    static const char *const names[] = {[DIGEST_NONE] = "none", [DIGEST_HMAC] = "hmac", [DIGEST_XXH3] = "xxh3"};
    char sum[DIGEST_HEX_BYTES];
    digest_hex(m->digest_sum, sum);
    put(t, ",\"first_sequence\":%" PRIu64 ",\"last_sequence\":%" PRIu64 ",\"count\":%" PRIu64 ",\"bytes\":%" PRIu64,
        m->first_sequence, m->last_sequence, m->count, m->bytes);
    put(t, ",\"digest\":\"%s\",\"digest_sum\":\"%s\"", names[l->algorithm], sum);
}

size_t manifest_window(const struct manifest_load *l, const struct manifest *m, char out[MANIFEST_BYTES_MAX]) {
    struct text t = {out, 0};
    put_load(&t, l, "window", false);
    put(&t, ",\"from_ms\":%" PRId64 ",\"to_ms\":%" PRId64, m->from_ms, m->to_ms);
    put_sums(&t, l, m);
    put(&t, "}");
    return t.len;
}

size_t manifest_begin(const struct manifest_load *l, char out[MANIFEST_BYTES_MAX]) {
    struct text t = {out, 0};
    put_load(&t, l, "load_begin", true);
    put(&t, ",\"created_ms\":%" PRId64 ",\"snapshot\":%s}", l->created_ms, l->snapshot ? "true" : "false");
    return t.len;
}

static void put_places(struct text *t, const struct manifest_place *place, size_t places) {
    CHECK(places <= MANIFEST_PLACES_MAX);
    put(t, ",\"first_offsets\":{");
    for (size_t i = 0; i < places; i++)
        put(t, "%s\"%" PRId32 "\":%" PRId64, i > 0 ? "," : "", place[i].partition, place[i].first_offset);
    put(t, "}}");
}

size_t manifest_places(const struct manifest_load *l, const struct manifest_place *place, size_t places,
                       char out[MANIFEST_BYTES_MAX]) {
    struct text t = {out, 0};
    put_load(&t, l, "load_places", true);
    put_places(&t, place, places);
    return t.len;
}

size_t manifest_end(const struct manifest_load *l, const struct manifest *sum, bool complete,
                    const struct manifest_place *place, size_t places, char out[MANIFEST_BYTES_MAX]) {
    struct text t = {out, 0};
    put_load(&t, l, "load_end", true);
    put_sums(&t, l, sum);
    put(&t, ",\"state\":\"%s\",\"snapshot\":%s", complete ? "complete" : "aborted", l->snapshot ? "true" : "false");
    put_places(&t, place, places);
    return t.len;
}

size_t manifest_key(const struct manifest_load *l, char out[MANIFEST_KEY_BYTES]) {
    return (size_t)snprintf(out, MANIFEST_KEY_BYTES, "%s|%s", l->producer, l->topic);
}

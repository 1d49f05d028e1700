#include "recon/account_text.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/json_text.h"
#include "recon/json_member.h"
#include "shm/record.h"

static const char *const type_names[] = {"tally", "origin", "load", "offsets", "sequences", "retracted", "beat"};
static const char mac_name[] = ",\"mac\":\"";
enum { MAC_TAIL_BYTES = sizeof mac_name - 1 + 2 * DIGEST_BYTES + 2 };

/* -- writing ----------------------------------------------------------------------------------- */

static void put_text(FILE *f, const char *name, const char *text) {
    fprintf(f, ",\"%s\":", name);
    json_text_put(text, strlen(text), f);
}

static void put_rows(const struct account *a, FILE *f) {
    char hex[DIGEST_HEX_BYTES];
    fputs(",\"counts\":[", f);
    for (size_t i = 0; i < a->counts; i++) fprintf(f, "%s%" PRId64, i > 0 ? "," : "", a->count[i]);
    fputs("],\"digests\":[", f);
    for (size_t i = 0; i < a->digests; i++) {
        digest_hex(a->digest[i], hex);
        fprintf(f, "%s\"%s\"", i > 0 ? "," : "", hex);
    }
    putc(']', f);
    if (a->type != ACCOUNT_LOAD) fprintf(f, ",\"start_ms\":%" PRId64, a->start_ms);
}

static void put_body(const struct account *a, FILE *f) {
    char id[37];
    if (a->type == ACCOUNT_BEAT) {
        fprintf(f, ",\"number\":%" PRId64 ",\"left\":%s,\"seen\":[", a->number, a->left ? "true" : "false");
        for (size_t i = 0; i < a->seens; i++) {
            fprintf(f, "%s{\"beat\":%" PRId64, i > 0 ? "," : "", a->seen[i].beat);
            put_text(f, "instance", a->seen[i].instance);
            put_text(f, "log", a->seen[i].log);
            putc('}', f);
        }
        putc(']', f);
        return;
    }
    put_text(f, "topic", a->topic);
    fprintf(f, ",\"where\":%" PRId64, a->where);
    if (a->type <= ACCOUNT_LOAD) put_rows(a, f);
    if (a->type == ACCOUNT_LOAD) {
        record_id_format(a->load, id);
        put_text(f, "load", id);
    }
    if (a->type < ACCOUNT_OFFSETS) return;
    fputs(",\"ranges\":[", f);
    for (size_t i = 0; i < a->ranges; i++)
        fprintf(f, "%s[%" PRId64 ",%" PRId64 "]", i > 0 ? "," : "", a->range[i][0], a->range[i][1]);
    putc(']', f);
}

size_t account_write(const struct account *a, const struct digest_key *key, char out[ACCOUNT_MESSAGE_BYTES]) {
    uint8_t mac[DIGEST_BYTES];
    char hex[DIGEST_HEX_BYTES];
    FILE *f = fmemopen(out, ACCOUNT_MESSAGE_BYTES - MAC_TAIL_BYTES - 1, "w");
    CHECK(f != NULL);
    fprintf(f, "{\"type\":\"%s\"", type_names[a->type]);
    put_text(f, "group", a->group);
    put_text(f, "instance", a->instance);
    put_text(f, "log", a->log);
    fprintf(f, ",\"order\":%" PRId64, a->order);
    put_body(a, f);
    long len = ftell(f);
    CHECK(fclose(f) == 0 && len > 0 && len < ACCOUNT_MESSAGE_BYTES - MAC_TAIL_BYTES - 1);
    digest_of(key, DIGEST_HMAC, out, (size_t)len, mac);
    digest_hex(mac, hex);
    return (size_t)len + (size_t)snprintf(out + len, MAC_TAIL_BYTES + 1, "%s%s\"}", mac_name, hex);
}

/* -- reading ----------------------------------------------------------------------------------- */

static int text_get(yajl_val o, const char *name, char *out, size_t room) {
    const char *text = YAJL_GET_STRING(json_member(o, name, yajl_t_string));
    if (text == NULL || text[0] == '\0' || strlen(text) >= room) return -1;
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

static int number_get(yajl_val o, const char *name, int64_t *out) {
    yajl_val v = json_member(o, name, yajl_t_number);
    if (v == NULL || !YAJL_IS_INTEGER(v)) return -1;
    *out = YAJL_GET_INTEGER(v);
    return 0;
}

static yajl_val array_get(yajl_val o, const char *name, size_t max) {
    yajl_val v = json_member(o, name, yajl_t_array);
    return v != NULL && YAJL_GET_ARRAY(v)->len <= max ? v : NULL;
}

static int rows_get(yajl_val o, struct account *a) {
    yajl_val counts = array_get(o, "counts", ACCOUNT_COUNTS_MAX), digests = array_get(o, "digests", 2);
    char load[40];
    if (counts == NULL || digests == NULL) return -1;
    a->counts = YAJL_GET_ARRAY(counts)->len;
    for (size_t i = 0; i < a->counts; i++) {
        yajl_val v = YAJL_GET_ARRAY(counts)->values[i];
        if (!YAJL_IS_INTEGER(v)) return -1;
        a->count[i] = YAJL_GET_INTEGER(v);
    }
    a->digests = YAJL_GET_ARRAY(digests)->len;
    for (size_t i = 0; i < a->digests; i++) {
        const char *hex = YAJL_GET_STRING(YAJL_GET_ARRAY(digests)->values[i]);
        if (hex == NULL || digest_parse(a->digest[i], hex, strlen(hex)) != 0) return -1;
    }
    if (a->type != ACCOUNT_LOAD) return number_get(o, "start_ms", &a->start_ms);
    if (text_get(o, "load", load, sizeof load) != 0) return -1;
    return record_id_parse(a->load, load, strlen(load));
}

static int ranges_get(yajl_val o, struct account *a) {
    yajl_val ranges = array_get(o, "ranges", ACCOUNT_RANGES_MAX);
    if (ranges == NULL) return -1;
    a->ranges = YAJL_GET_ARRAY(ranges)->len;
    for (size_t i = 0; i < a->ranges; i++) {
        yajl_val pair = YAJL_GET_ARRAY(ranges)->values[i];
        if (!YAJL_IS_ARRAY(pair) || YAJL_GET_ARRAY(pair)->len != 2) return -1;
        for (int end = 0; end < 2; end++) {
            yajl_val v = YAJL_GET_ARRAY(pair)->values[end];
            if (!YAJL_IS_INTEGER(v) || YAJL_GET_INTEGER(v) < 0 || YAJL_GET_INTEGER(v) == INT64_MAX) return -1;
            a->range[i][end] = YAJL_GET_INTEGER(v);
        }
        if (a->range[i][0] > a->range[i][1]) return -1;
    }
    return 0;
}

static int beat_get(yajl_val o, struct account *a) {
    yajl_val seen = array_get(o, "seen", ACCOUNT_SEEN_MAX);
    if (seen == NULL || number_get(o, "number", &a->number) != 0) return -1;
    a->left = YAJL_IS_TRUE(json_member(o, "left", yajl_t_any));
    a->seens = YAJL_GET_ARRAY(seen)->len;
    for (size_t i = 0; i < a->seens; i++) {
        yajl_val v = YAJL_GET_ARRAY(seen)->values[i];
        struct account_seen *s = &a->seen[i];
        if (!YAJL_IS_OBJECT(v) || number_get(v, "beat", &s->beat) != 0 ||
            text_get(v, "instance", s->instance, sizeof s->instance) != 0 ||
            text_get(v, "log", s->log, sizeof s->log) != 0)
            return -1;
    }
    return 0;
}

static int type_get(yajl_val o, enum account_type *out) {
    const char *name = YAJL_GET_STRING(json_member(o, "type", yajl_t_string));
    for (size_t i = 0; name != NULL && i < sizeof type_names / sizeof type_names[0]; i++)
        if (strcmp(name, type_names[i]) == 0) {
            *out = (enum account_type)i;
            return 0;
        }
    return -1;
}

static int object_get(yajl_val o, struct account *a) {
    if (type_get(o, &a->type) != 0 || text_get(o, "group", a->group, sizeof a->group) != 0 ||
        text_get(o, "instance", a->instance, sizeof a->instance) != 0 || text_get(o, "log", a->log, sizeof a->log) != 0)
        return -1;
    if (json_member(o, "order", yajl_t_any) != NULL && (number_get(o, "order", &a->order) != 0 || a->order < 0))
        return -1;
    if (a->type == ACCOUNT_BEAT) return beat_get(o, a);
    if (text_get(o, "topic", a->topic, sizeof a->topic) != 0 || number_get(o, "where", &a->where) != 0) return -1;
    return a->type <= ACCOUNT_LOAD ? rows_get(o, a) : ranges_get(o, a);
}

static bool mac_good(const struct digest_key *key, const char *text, size_t len) {
    uint8_t told[DIGEST_BYTES], right[DIGEST_BYTES];
    if (len <= MAC_TAIL_BYTES || len >= ACCOUNT_MESSAGE_BYTES) return false;
    const char *tail = text + len - MAC_TAIL_BYTES;
    if (memcmp(tail, mac_name, sizeof mac_name - 1) != 0 || memcmp(text + len - 2, "\"}", 2) != 0 ||
        digest_parse(told, tail + sizeof mac_name - 1, 2 * DIGEST_BYTES) != 0)
        return false;
    digest_of(key, DIGEST_HMAC, text, len - MAC_TAIL_BYTES, right);
    return CRYPTO_memcmp(told, right, sizeof told) == 0;
}

int account_parse(struct account *out, const struct digest_key *key, const char *text, size_t len) {
    char copy[ACCOUNT_MESSAGE_BYTES];
    if (!mac_good(key, text, len)) return -1;
    memcpy(copy, text, len);
    copy[len] = '\0';
    yajl_val o = yajl_tree_parse(copy, NULL, 0);
    if (o == NULL) return -1;
    memset(out, 0, sizeof *out);
    int r = object_get(o, out);
    yajl_tree_free(o);
    return r;
}

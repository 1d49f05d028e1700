#include "ingest/known.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"

/* FNV-1a. */
static uint64_t digest_of(const struct rejects_entry *e) {
    struct {
        int64_t timestamp_ms;
        uint8_t id[16];
        uint32_t lengths[4];
    } what = {.timestamp_ms = e->timestamp_ms, .lengths = {e->key_bytes, e->value_bytes, e->headers_bytes, 0}};
    memcpy(what.id, e->id, sizeof what.id);
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (size_t i = 0; i < sizeof what; i++) hash = (hash ^ ((const uint8_t *)&what)[i]) * 0x100000001b3ULL;
    return hash;
}

bool known_same(const struct rejects_entry *a, const struct rejects_entry *b) {
    return a->partition == b->partition && a->offset == b->offset && digest_of(a) == digest_of(b);
}

static struct known_partition *find(struct known *k, const char *topic, int32_t partition) {
    for (uint32_t i = 0; i < k->count; i++) {
        uint32_t at = (k->last + i) % k->count;
        struct known_partition *p = &k->partition[at];
        if (p->partition != partition || strcmp(p->topic, topic) != 0) continue;
        k->last = at;
        return p;
    }
    return NULL;
}

/* Place of the first entry whose offset is not below. */
static size_t place_of(const struct known_partition *p, int64_t offset) {
    size_t low = 0, high = p->count;
    if (high > 0 && p->entry[high - 1].offset < offset) return high; /* nearly always */
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (p->entry[mid].offset < offset)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool has(const struct known_partition *p, size_t at, int64_t offset, uint64_t digest) {
    for (; at < p->count && p->entry[at].offset == offset; at++)
        if (p->entry[at].digest == digest) return true;
    return false;
}

bool known_has(struct known *k, const char *topic, const struct rejects_entry *e) {
    const struct known_partition *p = find(k, topic, e->partition);
    return p != NULL && has(p, place_of(p, e->offset), e->offset, digest_of(e));
}

static void *grown(void *array, size_t count, size_t bytes) {
    array = realloc(array, count * bytes);
    CHECK(array != NULL);
    return array;
}

static struct known_partition *find_or_add(struct known *k, const char *topic, int32_t partition) {
    struct known_partition *p = find(k, topic, partition);
    if (p != NULL) return p;
    if (k->count == k->room) {
        k->room = k->room > 0 ? 2 * k->room : 16;
        k->partition = grown(k->partition, k->room, sizeof *k->partition);
    }
    p = &k->partition[k->last = k->count++];
    *p = (struct known_partition){.partition = partition};
    CHECK(strlen(topic) < sizeof p->topic);
    memcpy(p->topic, topic, strlen(topic));
    return p;
}

void known_add(struct known *k, const char *topic, const struct rejects_entry *e) {
    struct known_partition *p = find_or_add(k, topic, e->partition);
    struct known_entry entry = {e->offset, digest_of(e)};
    size_t at = place_of(p, entry.offset);
    if (has(p, at, entry.offset, entry.digest)) return;
    if (p->count == p->room) {
        p->room = p->room > 0 ? 2 * p->room : 64;
        p->entry = grown(p->entry, p->room, sizeof *p->entry);
    }
    memmove(&p->entry[at + 1], &p->entry[at], (p->count - at) * sizeof entry);
    p->entry[at] = entry;
    p->count++;
    k->total++;
}

void known_forget(struct known *k) {
    for (uint32_t i = 0; i < k->count; i++) free(k->partition[i].entry);
    free(k->partition);
    *k = (struct known){0};
}

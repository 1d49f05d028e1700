#include "audit/index.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "audit/segment.h"
#include "base/audit_keys.h"

enum { BUCKET_SLOTS = 8, BITS_MAX = 26 };

static struct {
    struct digest_key digest;
    bool there;
} secret; /* of the macs; one log a process */

void index_key(const uint8_t key[DIGEST_KEY_BYTES]) {
    digest_key_init(&secret.digest, key);
    secret.there = true;
}

int index_key_load(const char *path, struct err *err) {
    struct audit_keys keys;
    if (audit_keys_load(path, AUDIT_KEY_INDEX, &keys, err) != 0) return -1;
    index_key(keys.index);
    explicit_bzero(&keys, sizeof keys);
    return 0;
}

/* -- hashes ------------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t x) { /* the finalizer of MurmurHash3 */
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdULL;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}

uint64_t index_hash(const uint8_t digest[16]) {
    uint64_t half[2];
    memcpy(half, digest, sizeof half);
    return mix(half[0] ^ mix(half[1]));
}

uint64_t index_hash_place(const char *topic, int32_t partition, int64_t offset) {
    uint64_t h = 0xcbf29ce484222325ULL; /* FNV-1a */
    for (const char *p = topic; *p != '\0'; p++) h = (h ^ (uint8_t)*p) * 0x100000001b3ULL;
    return mix((uint64_t)offset ^ mix(h ^ (uint64_t)(uint32_t)partition << 32));
}

/* -- building ---------------------------------------------------------------------------------- */

struct pair {
    uint64_t hash;
    uint32_t ordinal;
};

struct building {
    struct segment segment;
    enum index_table table; /* being collected */
    uint64_t topic_hash_of[TOPICS_MAX];
    struct pair *pair;
    size_t pairs, room;
    struct index_block *block;
    size_t blocks, block_room;
    uint64_t entries;
    int fd;
    uint64_t at; /* in the index */
};

static void pair_add(struct building *b, uint64_t hash, uint64_t ordinal) {
    if (b->pairs == b->room) {
        b->room = b->room * 2 + 4096;
        b->pair = reallocarray(b->pair, b->room, sizeof *b->pair);
        CHECK(b->pair != NULL);
    }
    b->pair[b->pairs++] = (struct pair){hash, (uint32_t)ordinal};
}

static void entry_collect(struct building *b, const struct entry *e, uint64_t ordinal) {
    static const uint8_t none[16];
    if (b->table == INDEX_ID) pair_add(b, index_hash(e->id), ordinal);
    if (b->table == INDEX_PLACE)
        pair_add(b, index_hash_place(b->segment.topic[e->topic], e->partition, e->offset), ordinal);
    if (b->table != INDEX_KEY) return;
    if (memcmp(e->digest_key, none, sizeof none) != 0) pair_add(b, index_hash(e->digest_key), ordinal);
    if ((e->flags & ENTRY_KEY_CHANGED) != 0) pair_add(b, index_hash(e->digest_old_key), ordinal);
}

static struct index_block *block_of(struct building *b, const struct segment_batch *batch) {
    if (b->blocks > 0 && batch->at - b->block[b->blocks - 1].at < INDEX_BLOCK_BYTES) return &b->block[b->blocks - 1];
    if (b->blocks == b->block_room) {
        b->block_room = b->block_room * 2 + 256;
        b->block = reallocarray(b->block, b->block_room, sizeof *b->block);
        CHECK(b->block != NULL);
    }
    struct index_block *k = &b->block[b->blocks++];
    *k = (struct index_block){batch->at, batch->head.first, INT64_MAX, INT64_MIN, batch->head.written_us};
    return k;
}

static void block_note(struct index_block *k, const struct entry *e) {
    if (e->created_ms < k->created_min_ms) k->created_min_ms = e->created_ms;
    if (e->created_ms > k->created_max_ms) k->created_max_ms = e->created_ms;
}

/* Collects what belongs into one table; with the first one the blocks, too. */
static int segment_collect(struct building *b, struct err *err) {
    struct segment_batch batch;
    uint64_t at = b->segment.body, ordinal = 0;
    enum segment_read r;
    b->pairs = 0;
    while ((r = segment_batch_at(&b->segment, at, &batch, err)) == SEGMENT_BATCH) {
        if (batch.head.first != b->segment.first + ordinal || ordinal + batch.head.count > UINT32_MAX)
            return err_set(err, EX_DATAERR, "%016" PRIx64 ".log, byte %" PRIu64 ": not the batch that comes next",
                           b->segment.first, at);
        struct index_block *k = b->table == INDEX_ID ? block_of(b, &batch) : NULL;
        const uint8_t *p = batch.entries;
        for (uint32_t i = 0; i < batch.head.count; i++) {
            const struct entry *e = (const struct entry *)(const void *)p;
            entry_collect(b, e, ordinal++);
            if (k != NULL) block_note(k, e);
            p += e->bytes;
        }
        at += batch.head.bytes;
    }
    b->entries = ordinal;
    if (r == SEGMENT_TORN) return err_set(err, EX_DATAERR, "%016" PRIx64 ".log is cut off", b->segment.first);
    return r == SEGMENT_END ? 0 : -1;
}

static int put(struct building *b, const void *bytes, size_t len, uint64_t at, struct err *err) {
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(b->fd, (const char *)bytes + done, len - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(err, errno, "writing an index of the audit log: %s", strerror(errno));
        done += (size_t)n;
    }
    return 0;
}

/* Counts, then places: the slots of a bucket keep the order of their ordinals. */
static int table_put(struct building *b, struct index_head *h, struct err *err) {
    uint32_t bits = 1;
    while (bits < BITS_MAX && b->pairs >> bits > BUCKET_SLOTS) bits++;
    size_t buckets = (size_t)1 << bits, starts_bytes = (buckets + 1) * sizeof(uint32_t);
    uint32_t *start = calloc(buckets + 2, sizeof *start);
    struct index_slot *slot = calloc(b->pairs + 1, sizeof *slot);
    CHECK(start != NULL && slot != NULL);
    for (size_t i = 0; i < b->pairs; i++) start[(b->pair[i].hash >> (64 - bits)) + 2]++;
    for (size_t i = 2; i < buckets + 2; i++) start[i] += start[i - 1];
    for (size_t i = 0; i < b->pairs; i++)
        slot[start[(b->pair[i].hash >> (64 - bits)) + 1]++] =
            (struct index_slot){(uint32_t)b->pair[i].hash, b->pair[i].ordinal};
    h->table[b->table].bits = bits;
    h->table[b->table].items = (uint32_t)b->pairs;
    h->table[b->table].at = b->at;
    int bad = put(b, start, starts_bytes, b->at, err);
    if (bad == 0) bad = put(b, slot, b->pairs * sizeof *slot, b->at + starts_bytes, err);
    b->at += (starts_bytes + b->pairs * sizeof *slot + 7) / 8 * 8;
    free(start);
    free(slot);
    return bad;
}

/* -- macs -------------------------------------------------------------------------------------- */

static uint64_t pieces(const struct index_head *h) {
    return (h->macs_at - sizeof *h + INDEX_PIECE_BYTES - 1) / INDEX_PIECE_BYTES;
}

static void piece_mac(const struct index *x, uint64_t piece, uint8_t out[DIGEST_BYTES]) {
    uint64_t at = sizeof *x->head + piece * INDEX_PIECE_BYTES, end = at + INDEX_PIECE_BYTES;
    if (end > x->head->macs_at) end = x->head->macs_at;
    digest_of(&secret.digest, DIGEST_HMAC, (const char *)x->head + at, end - at, out);
}

/* Of the head and the macs of the pieces. */
static void own_mac(const struct index_head *h, const uint8_t *macs, uint8_t out[DIGEST_BYTES]) {
    size_t len = pieces(h) * DIGEST_BYTES;
    struct index_head *copy = malloc(sizeof *copy + len);
    CHECK(copy != NULL);
    *copy = *h;
    memset(copy->own_mac, 0, sizeof copy->own_mac);
    memcpy(copy + 1, macs, len);
    digest_of(&secret.digest, DIGEST_HMAC, copy, sizeof *copy + len, out);
    free(copy);
}

/* Whether the bytes at a place are what was written there. */
static bool unchanged(const struct index *x, uint64_t at, uint64_t len) {
    const uint8_t *macs = (const uint8_t *)x->head + x->head->macs_at;
    uint8_t mac[DIGEST_BYTES];
    if (at < sizeof *x->head || at + len > x->head->macs_at) return false;
    if (len == 0) return true;
    for (uint64_t i = (at - sizeof *x->head) / INDEX_PIECE_BYTES;
         i <= (at + len - 1 - sizeof *x->head) / INDEX_PIECE_BYTES; i++) {
        piece_mac(x, i, mac);
        if (CRYPTO_memcmp(mac, macs + i * DIGEST_BYTES, sizeof mac) != 0) return false;
    }
    return true;
}

/* Puts the macs behind what is written, and the head before it. */
static int macs_put(struct building *b, struct index_head *h, struct err *err) {
    h->macs_at = b->at;
    uint64_t n = pieces(h);
    uint8_t *macs = calloc(n + 1, DIGEST_BYTES);
    CHECK(macs != NULL);
    int bad = put(b, h, sizeof *h, 0, err);
    void *map = bad == 0 ? mmap(NULL, h->macs_at, PROT_READ, MAP_SHARED, b->fd, 0) : MAP_FAILED;
    if (bad == 0 && map == MAP_FAILED) bad = err_set(err, errno, "reading an index: %s", strerror(errno));
    const struct index x = {map, h->macs_at};
    for (uint64_t i = 0; bad == 0 && i < n; i++) piece_mac(&x, i, macs + i * DIGEST_BYTES);
    if (map != MAP_FAILED) munmap(map, h->macs_at);
    if (bad == 0) own_mac(h, macs, h->own_mac);
    if (bad == 0) bad = put(b, macs, n * DIGEST_BYTES, h->macs_at, err);
    if (bad == 0) bad = put(b, h, sizeof *h, 0, err);
    free(macs);
    return bad;
}

static int build(struct building *b, struct err *err) {
    struct index_head h = {.magic = INDEX_MAGIC,
                           .version = INDEX_VERSION,
                           .first = b->segment.first,
                           .segment_bytes = segment_bytes(&b->segment)};
    memcpy(h.mac, b->segment.mac, sizeof h.mac);
    b->at = sizeof h;
    for (int t = 0; t < INDEX_TABLES; t++) {
        b->table = (enum index_table)t;
        if (segment_collect(b, err) != 0 || table_put(b, &h, err) != 0) return -1;
    }
    h.entries = b->entries;
    h.block_count = (uint32_t)b->blocks;
    h.blocks_at = b->at;
    if (put(b, b->block, b->blocks * sizeof *b->block, b->at, err) != 0) return -1;
    b->at += b->blocks * sizeof *b->block;
    if (macs_put(b, &h, err) != 0) return -1;
    return fdatasync(b->fd) == 0 ? 0 : err_set(err, errno, "fdatasync of an index: %s", strerror(errno));
}

static void index_name(char out[INDEX_NAME_BYTES], uint64_t first) {
    snprintf(out, INDEX_NAME_BYTES, "%016" PRIx64 ".index", first);
}

#define INDEX_NEW "index.new"

int index_build(int folder_fd, uint64_t first, struct err *err) {
    char name[INDEX_NAME_BYTES];
    struct building *b = calloc(1, sizeof *b);
    CHECK(b != NULL);
    segment_init(&b->segment);
    b->fd = openat(folder_fd, INDEX_NEW, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int bad = b->fd < 0 ? err_set(err, errno, INDEX_NEW ": %s", strerror(errno)) : 0;
    if (bad == 0) bad = segment_open(&b->segment, folder_fd, first, err);
    if (bad == 0) bad = build(b, err);
    index_name(name, first);
    if (bad == 0 && renameat(folder_fd, INDEX_NEW, folder_fd, name) != 0)
        bad = err_set(err, errno, "%s: %s", name, strerror(errno));
    if (bad != 0 && b->fd >= 0) (void)unlinkat(folder_fd, INDEX_NEW, 0);
    if (b->fd >= 0) close(b->fd);
    segment_free(&b->segment);
    free(b->pair);
    free(b->block);
    free(b);
    return bad;
}

int index_build_next(const char *dir, struct err *err) {
    char segment[LOG_NAME_BYTES];
    struct stat st;
    struct index x;
    size_t count;
    if (!secret.there) return 0;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), made = 0;
    if (fd < 0) return errno == ENOENT ? 0 : err_set(err, errno, "%s: %s", dir, strerror(errno));
    uint64_t *list = segment_list(fd, &count, err);
    if (list == NULL) made = -1;
    for (size_t i = 0; made == 0 && i + 1 < count; i++) {
        if (index_open(&x, fd, list[i], NULL) == 0) {
            index_close(&x);
            continue;
        }
        segment_name(segment, list[i]);
        if (fstatat(fd, segment, &st, 0) != 0 || (uint64_t)st.st_size > INDEX_SEGMENT_BYTES_MAX) continue;
        made = index_build(fd, list[i], err) == 0 ? 1 : -1;
    }
    free(list);
    close(fd);
    return made;
}

/* -- looking up -------------------------------------------------------------------------------- */

static bool within(const struct index *x, uint64_t at, uint64_t len) { return at <= x->bytes && len <= x->bytes - at; }

static bool fits(const struct index *x, const struct segment *s) {
    const struct index_head *h = x->head;
    if (x->bytes < sizeof *h || h->magic != INDEX_MAGIC || h->version != INDEX_VERSION || h->first != s->first ||
        h->segment_bytes != segment_bytes(s) || memcmp(h->mac, s->mac, sizeof h->mac) != 0 || h->block_count == 0)
        return false;
    for (int t = 0; t < INDEX_TABLES; t++) {
        if (h->table[t].bits < 1 || h->table[t].bits > BITS_MAX || h->table[t].at % 8 != 0) return false;
        uint64_t starts = (((uint64_t)1 << h->table[t].bits) + 1) * sizeof(uint32_t);
        if (!within(x, h->table[t].at, starts + h->table[t].items * sizeof(struct index_slot))) return false;
    }
    return h->blocks_at % 8 == 0 && within(x, h->blocks_at, (uint64_t)h->block_count * sizeof(struct index_block)) &&
           h->macs_at >= sizeof *h && within(x, h->macs_at, pieces(h) * DIGEST_BYTES);
}

/* Whether the head and the macs are those that were written, and the blocks, which are few. */
static bool believed(const struct index *x) {
    const struct index_head *h = x->head;
    uint8_t mac[DIGEST_BYTES];
    own_mac(h, (const uint8_t *)h + h->macs_at, mac);
    return CRYPTO_memcmp(mac, h->own_mac, sizeof mac) == 0 &&
           unchanged(x, h->blocks_at, (uint64_t)h->block_count * sizeof(struct index_block));
}

int index_open(struct index *x, int folder_fd, uint64_t first, bool *forged) {
    char name[INDEX_NAME_BYTES];
    struct segment s;
    struct stat st;
    void *map = MAP_FAILED;
    *x = (struct index){0};
    if (forged != NULL) *forged = false;
    if (!secret.there) return -1;
    index_name(name, first);
    int fd = openat(folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return -1;
    if (fstat(fd, &st) == 0 && st.st_size >= (off_t)sizeof *x->head)
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return -1;
    *x = (struct index){map, (size_t)st.st_size};
    segment_init(&s);
    bool good = segment_open(&s, folder_fd, first, NULL) == 0 && fits(x, &s);
    segment_free(&s);
    if (good && believed(x)) return 0;
    if (good && forged != NULL) *forged = true;
    index_close(x);
    return -1;
}

void index_close(struct index *x) {
    if (x->head != NULL) munmap((void *)(uintptr_t)x->head, x->bytes);
    *x = (struct index){0};
}

int index_find(const struct index *x, enum index_table table, uint64_t hash,
               void (*found)(void *context, uint32_t ordinal), void *context) {
    uint32_t bits = x->head->table[table].bits, items = x->head->table[table].items;
    uint64_t at = x->head->table[table].at, bucket = hash >> (64 - bits), slots = ((uint64_t)1 << bits) + 1;
    const uint32_t *start = (const uint32_t *)(const void *)((const char *)x->head + at);
    const struct index_slot *slot = (const struct index_slot *)(const void *)(start + slots);
    if (!unchanged(x, at + bucket * sizeof *start, 2 * sizeof *start)) return -1;
    uint32_t from = start[bucket], to = start[bucket + 1];
    if (from > to || to > items) return -1;
    if (!unchanged(x, at + slots * sizeof *start + from * sizeof *slot, (to - from) * sizeof *slot)) return -1;
    for (uint32_t i = from; i < to; i++)
        if (slot[i].tag == (uint32_t)hash) found(context, slot[i].ordinal);
    return 0;
}

const struct index_block *index_block_of(const struct index *x, uint64_t sequence) {
    const struct index_block *k = index_blocks(x);
    uint32_t low = 0, high = x->head->block_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (k[middle].first <= sequence)
            low = middle;
        else
            high = middle;
    }
    return &k[low];
}

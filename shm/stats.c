#include "shm/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "version.h"

static const struct stats_metric rows[] = {
#define TYPE_COUNTER "counter"
#define TYPE_GAUGE "gauge"
#define UNIT_NONE "none"
#define UNIT_BYTES "bytes"
#define UNIT_SECONDS "seconds"
#define METRIC(r, n, t, u, h) {#r, #n, TYPE_##t, UNIT_##u, h, M_##r##_##n, 0},
#define HISTOGRAM(r, n, h) {#r, #n, "histogram", "seconds", h, H_##r##_##n, 0},
#define REASON_METRIC(r)                                                                                               \
    {"transform", "reject_" #r, "counter", "none", "Records rejected with reason " #r ".", M_transform_reject_##r, 0},
#include "shm/metrics.def"
#undef METRIC
#undef HISTOGRAM
#undef REASON_METRIC
};
enum { ROWS = sizeof rows / sizeof rows[0] };

const char *worker_state_name(enum worker_state state) {
    static const char *const names[] = {"down",     "starting", "connecting", "running",   "blocked",
                                        "draining", "backoff",  "failed",     "recovering"};
    static_assert(sizeof names / sizeof names[0] == STATE_COUNT, "a name per state");
    return (unsigned)state < STATE_COUNT ? names[state] : "unknown";
}

/* FNV-1a over the rows and the sizes: two builds with the same hash agree on every place in the segment. */
static uint64_t layout_hash(void) {
    const size_t sizes[] = {sizeof(struct stats_header), sizeof(struct stats_block), sizeof(struct stats_partition)};
    uint64_t h = 0xcbf29ce484222325ULL;
    const uint8_t *p = (const uint8_t *)rows;
    for (size_t i = 0; i < sizeof rows; i++) h = (h ^ p[i]) * 0x100000001b3ULL;
    p = (const uint8_t *)sizes;
    for (size_t i = 0; i < sizeof sizes; i++) h = (h ^ p[i]) * 0x100000001b3ULL;
    return h;
}

static uint32_t align_page(size_t n) { return (uint32_t)((n + 4095) & ~(size_t)4095); }

static void layout_fill(struct stats_header *h, const struct config *c) {
    h->version = STATS_VERSION;
    h->layout_hash = layout_hash();
    memcpy(h->name, c->name, sizeof h->name);
    memcpy(h->instance, c->instance, sizeof h->instance);
    memcpy(h->group, c->kafka.group_id, sizeof h->group);
    snprintf(h->build, sizeof h->build, "%s", MILLRACE_VERSION);
    h->lanes = c->lanes;
    h->topic_count = c->topic_count;
    h->metric_count = ROWS;
    h->metric_stride = sizeof(struct stats_metric);
    h->metric_at = align_page(sizeof *h);
    h->topic_stride = TOPIC_BYTES;
    h->topic_at = align_page(h->metric_at + ROWS * sizeof(struct stats_metric));
    h->block_count = stats_block_count(c->lanes, c->audit);
    h->block_stride = align_page(sizeof(struct stats_block));
    h->block_at = align_page(h->topic_at + (size_t)c->topic_count * TOPIC_BYTES);
    h->partition_stride = sizeof(struct stats_partition);
    h->partition_at = h->block_at + h->block_count * h->block_stride;
    h->total_bytes = align_page(h->partition_at + PARTITIONS_MAX * sizeof(struct stats_partition));
    h->value_offset = offsetof(struct stats_block, value);
    h->histogram_offset = offsetof(struct stats_block, histogram);
    h->histogram_sum_offset = offsetof(struct stats_block, histogram_sum_ns);
    h->started_wall_ms = clock_wall_ms(&clock_real);
}

static void contents_fill(struct stats *s, const struct config *c) {
    struct stats_header *h = s->header;
    memcpy((char *)h + h->metric_at, rows, sizeof rows);
    for (uint32_t i = 0; i < c->topic_count; i++)
        memcpy((char *)h + h->topic_at + (size_t)i * TOPIC_BYTES, c->topic[i].name, TOPIC_BYTES);
    for (uint32_t i = 0; i < h->block_count; i++) {
        struct stats_block *b = stats_block(s, i);
        bool of_lane = i >= 2 && i < stats_block_count(c->lanes, false);
        if (of_lane)
            b->role = i % 2 == 0 ? ROLE_TRANSFORM : ROLE_SINK;
        else
            b->role = i == 0 ? ROLE_SUPERVISOR : i == 1 ? ROLE_INGEST : i % 2 == 0 ? ROLE_AUDIT : ROLE_RECON;
        b->lane = of_lane ? (int32_t)(i - 2) / 2 : -1;
    }
    for (uint32_t i = 0; i < PARTITIONS_MAX; i++) {
        struct stats_partition *p = stats_partition(s, i);
        p->position = p->released = p->committed = p->low = p->high = -1;
    }
}

static int path_of(char out[PATH_BYTES], const char *run_dir, const char *name, const char *suffix, struct err *err) {
    int n = snprintf(out, PATH_BYTES, "%s/%s.stats%s", run_dir, name, suffix);
    return n < PATH_BYTES ? 0 : err_set(err, EX_CONFIG, "the path %s/%s.stats is too long", run_dir, name);
}

static int map_fd(struct stats *s, int fd, size_t bytes, int protection, struct err *err) {
    void *p = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return err_set(err, EX_OSERR, "mapping the stats segment: %s", strerror(errno));
    s->header = p;
    s->bytes = bytes;
    return 0;
}

static const struct stats_block *block_like(const struct stats *s, const struct stats_block *b) {
    for (uint32_t i = 0; i < s->header->block_count; i++)
        if (stats_block(s, i)->role == b->role && stats_block(s, i)->lane == b->lane) return stats_block(s, i);
    return NULL;
}

static void adopt(struct stats *s, const struct stats *old) {
    s->header->started_wall_ms = old->header->started_wall_ms;
    for (uint32_t i = 0; i < s->header->block_count; i++) {
        struct stats_block *b = stats_block(s, i);
        const struct stats_block *from = block_like(old, b);
        struct stats_local local;
        if (from == NULL) continue;
        stats_local_init(&local, (struct stats_block *)(uintptr_t)from);
        local.block = b;
        local.histogram_changed = (1U << HISTOGRAM_COUNT) - 1;
        stats_flush(&local);
        atomic_store_explicit(&b->starts, atomic_load_explicit(&from->starts, memory_order_relaxed),
                              memory_order_relaxed);
        atomic_store_explicit(&b->deaths, atomic_load_explicit(&from->deaths, memory_order_relaxed),
                              memory_order_relaxed);
    }
}

static int create(struct stats *s, const struct stats *old, const struct config *config, int *fd, struct err *err) {
    char path[PATH_BYTES], draft[PATH_BYTES];
    if (path_of(path, config->run_dir, config->name, "", err) != 0 ||
        path_of(draft, config->run_dir, config->name, ".new", err) != 0)
        return -1;
    struct stats_header layout = {0};
    layout_fill(&layout, config);
    unlink(draft);
    *fd = open(draft, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (*fd < 0 || ftruncate(*fd, layout.total_bytes) != 0) {
        err_set(err, EX_CANTCREAT, "%s: %s", draft, strerror(errno));
    } else if (map_fd(s, *fd, layout.total_bytes, PROT_READ | PROT_WRITE, err) == 0) {
        memcpy(s->header, &layout, sizeof layout);
        contents_fill(s, config);
        if (old != NULL) adopt(s, old);
        atomic_store_explicit(&s->header->magic, STATS_MAGIC, memory_order_release); /* last, as everywhere */
        if (!FAULT_FAILS("supervisor:stats") && rename(draft, path) == 0) return 0;
        err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
        stats_close(s);
    }
    if (*fd >= 0) close(*fd);
    *fd = -1;
    return -1;
}

int stats_create(struct stats *s, const struct config *config, int *fd, struct err *err) {
    return create(s, NULL, config, fd, err);
}

int stats_replace(struct stats *s, const struct stats *old, const struct config *config, int *fd, struct err *err) {
    if (create(s, old, config, fd, err) != 0) return -1;
    atomic_store_explicit(&old->header->superseded, 1, memory_order_release);
    return 0;
}

/* The parts that a header points to must lie within the file. */
static bool header_sane(const struct stats_header *h, size_t bytes) {
    uint64_t blocks_end = (uint64_t)h->block_at + (uint64_t)h->block_count * h->block_stride;
    uint64_t metrics_end = (uint64_t)h->metric_at + (uint64_t)h->metric_count * h->metric_stride;
    uint64_t topics_end = (uint64_t)h->topic_at + (uint64_t)h->topic_count * h->topic_stride;
    uint64_t partitions_end = (uint64_t)h->partition_at + (uint64_t)PARTITIONS_MAX * h->partition_stride;
    return h->total_bytes <= bytes && blocks_end <= bytes && metrics_end <= bytes && topics_end <= bytes &&
           partitions_end <= bytes && h->metric_stride >= sizeof(struct stats_metric) &&
           h->topic_stride == TOPIC_BYTES && h->partition_stride >= sizeof(struct stats_partition) &&
           h->block_stride >= offsetof(struct stats_block, value) && h->value_offset < h->block_stride &&
           h->histogram_offset < h->block_stride && h->histogram_sum_offset < h->block_stride &&
           h->partition_count <= PARTITIONS_MAX && h->lanes <= LANES_MAX &&
           (h->block_count == stats_block_count(h->lanes, false) ||
            h->block_count == stats_block_count(h->lanes, true)) &&
           (h->block_at | h->block_stride | h->partition_at | h->partition_stride | h->value_offset |
            h->histogram_offset | h->histogram_sum_offset) %
                   sizeof(uint64_t) ==
               0;
}

static int header_check(struct stats *s, struct err *err) {
    const struct stats_header *h = s->header;
    if (atomic_load_explicit(&h->magic, memory_order_acquire) != STATS_MAGIC)
        return err_set(err, EX_DATAERR, "this is not a stats segment");
    if (h->version != STATS_VERSION)
        return err_set(err, EX_DATAERR, "stats segment of version %u, this program reads %d", h->version,
                       STATS_VERSION);
    if (!header_sane(h, s->bytes)) return err_set(err, EX_DATAERR, "the stats segment is damaged");
    return 0;
}

static int map_checked(struct stats *s, int fd, int protection, struct err *err) {
    struct stat st;
    if (fstat(fd, &st) != 0) return err_set(err, EX_OSERR, "stats segment: %s", strerror(errno));
    if (st.st_size < (off_t)sizeof(struct stats_header)) return err_set(err, EX_DATAERR, "this is not a stats segment");
    if (map_fd(s, fd, (size_t)st.st_size, protection, err) != 0) return -1;
    if (header_check(s, err) == 0) return 0;
    stats_close(s);
    return -1;
}

int stats_map(struct stats *s, int fd, struct err *err) {
    if (map_checked(s, fd, PROT_READ | PROT_WRITE, err) != 0) return -1;
    if (s->header->layout_hash == layout_hash()) return 0;
    stats_close(s);
    return err_set(err, EX_DATAERR, "the stats segment was made by another build");
}

int stats_open(struct stats *s, const char *run_dir, const char *name, struct err *err) {
    char path[PATH_BYTES];
    if (path_of(path, run_dir, name, "", err) != 0) return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(err, EX_UNAVAILABLE, "%s: %s (is millrace running?)", path, strerror(errno));
    int r = map_checked(s, fd, PROT_READ, err);
    close(fd);
    if (r != 0) err_prefix(err, "%s", path);
    return r;
}

void stats_close(struct stats *s) {
    if (s->header != NULL) munmap(s->header, s->bytes);
    *s = (struct stats){0};
}

/* -- texts ------------------------------------------------------------------------------------- */

/* Word by word, with the orders of shm/twin.h: stores release, loads acquire, so that a reader that saw a word of a
 * later text also sees that the generation moved. */
void stats_text_set(struct stats_text *t, const char *text) {
    uint64_t next = atomic_load_explicit(&t->generation, memory_order_relaxed) + 1;
    uint64_t words[STATS_TEXT_WORDS] = {0};
    snprintf((char *)words, sizeof words, "%s", text);
    for (uint32_t i = 0; i < STATS_TEXT_WORDS; i++)
        atomic_store_explicit(&t->copy[next & 1][i], words[i], memory_order_release);
    atomic_store_explicit(&t->generation, next, memory_order_release);
}

/* Bounded: a writer that never rests must not hold a reader, who then gets an empty text. */
void stats_text_get(const struct stats_text *t, char out[STATS_TEXT_BYTES]) {
    uint64_t words[STATS_TEXT_WORDS];
    for (int tries = 0; tries < 1000; tries++) {
        uint64_t g = atomic_load_explicit(&t->generation, memory_order_acquire);
        for (uint32_t i = 0; i < STATS_TEXT_WORDS; i++)
            words[i] = atomic_load_explicit(&t->copy[g & 1][i], memory_order_acquire);
        if (atomic_load_explicit(&t->generation, memory_order_relaxed) != g) continue;
        memcpy(out, words, sizeof words);
        out[STATS_TEXT_BYTES - 1] = 0;
        return;
    }
    out[0] = 0;
}

/* -- counters of one worker -------------------------------------------------------------------- */

void stats_local_init(struct stats_local *l, struct stats_block *block) {
    *l = (struct stats_local){.block = block};
    for (uint32_t i = 0; i < METRIC_COUNT; i++)
        l->value[i] = atomic_load_explicit(&block->value[i], memory_order_relaxed);
    for (uint32_t h = 0; h < HISTOGRAM_COUNT; h++) {
        l->histogram_sum_ns[h] = atomic_load_explicit(&block->histogram_sum_ns[h], memory_order_relaxed);
        for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
            l->histogram[h][i] = atomic_load_explicit(&block->histogram[h][i], memory_order_relaxed);
    }
}

void stats_flush(struct stats_local *l) {
    struct stats_block *b = l->block;
    for (uint32_t i = 0; i < METRIC_COUNT; i++) atomic_store_explicit(&b->value[i], l->value[i], memory_order_relaxed);
    for (uint32_t h = 0; l->histogram_changed != 0; h++, l->histogram_changed >>= 1) {
        if ((l->histogram_changed & 1) == 0) continue;
        for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
            atomic_store_explicit(&b->histogram[h][i], l->histogram[h][i], memory_order_relaxed);
        atomic_store_explicit(&b->histogram_sum_ns[h], l->histogram_sum_ns[h], memory_order_relaxed);
    }
}

uint32_t histogram_bucket(uint64_t ns) {
    if (ns < 1ULL << HISTOGRAM_LOW_BITS) return 0;
    if (ns >= 1ULL << HISTOGRAM_HIGH_BITS) return HISTOGRAM_BUCKETS - 1;
    uint32_t log2 = 63 - (uint32_t)__builtin_clzll(ns);
    uint32_t sub = (uint32_t)(ns >> (log2 - HISTOGRAM_SUB_BITS)) & ((1 << HISTOGRAM_SUB_BITS) - 1);
    return 1 + (log2 - HISTOGRAM_LOW_BITS) * (1 << HISTOGRAM_SUB_BITS) + sub;
}

uint64_t histogram_bound_ns(uint32_t bucket) {
    if (bucket == 0) return 1ULL << HISTOGRAM_LOW_BITS;
    if (bucket >= HISTOGRAM_BUCKETS - 1) return UINT64_MAX;
    uint32_t log2 = HISTOGRAM_LOW_BITS + (bucket - 1) / (1 << HISTOGRAM_SUB_BITS);
    uint64_t sub = (bucket - 1) % (1 << HISTOGRAM_SUB_BITS);
    return (1ULL << log2) + ((sub + 1) << (log2 - HISTOGRAM_SUB_BITS));
}

void stats_observe(struct stats_local *l, enum histogram h, uint64_t ns) {
    l->histogram[h][histogram_bucket(ns)]++;
    l->histogram_sum_ns[h] += ns;
    l->histogram_changed |= 1u << h;
}

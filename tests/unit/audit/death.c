/* Deaths of audit at any point: before every store to shared memory, and before, within and after every call to files;
 * then a successor. Calls fail now and then, and now and then the whole machine goes down: the rings and the ledger are
 * gone, of the files there is what was made durable and some of the rest, and Kafka delivers again what was not
 * committed. A model follows what was put on the rings: every record is in the log once for each time it was delivered
 * after that, nothing is released or committed that is not durable, and at the end the log verifies.
 *
 * The sources of the ring and of audit belong to this program, with a place to die before each store. */
#include <openssl/evp.h>
#include <setjmp.h>
#include <signal.h>

#include "audit/verify.h"
#include "tests/unit/audit/rig.h"

static struct {
    bool armed;        /* only while audit runs, not while the test plays the other ends */
    int64_t countdown; /* places passed before it dies */
    uint64_t places, deaths;
    jmp_buf end;
} life;

static void place_to_die(void) {
    if (!life.armed) return;
    life.places++;
    if (life.countdown-- > 0) return;
    life.armed = false;
    life.deaths++;
    longjmp(life.end, 1);
}

#undef atomic_store_explicit
#define atomic_store_explicit(object, value, order)                                                                    \
    __extension__({                                                                                                    \
        place_to_die();                                                                                                \
        __auto_type object_ = (object);                                                                                \
        __typeof__((void)0, *object_) value_ = (value);                                                                \
        __atomic_store(object_, &value_, order);                                                                       \
    })
#define twin_store death_twin_store /* shm/twin.h has been read already: the same, with places to die */
static inline void death_twin_store(struct twin *t, uint64_t a, uint64_t b) {
    uint64_t next = atomic_load_explicit(&t->generation, memory_order_relaxed) + 1;
    atomic_store_explicit(&t->copy[next & 1][0], a, memory_order_release);
    atomic_store_explicit(&t->copy[next & 1][1], b, memory_order_release);
    atomic_store_explicit(&t->generation, next, memory_order_release);
}
#include "shm/ring.c"
#undef failed
#define failed writer_failed
#include "audit/writer.c"
#undef failed
#define failed recover_failed
#include "audit/recover.c"
#undef failed
#include "audit/audit.c"

enum { RING = 32768, PARTS = 4, RECORDS_MAX = 60000, FILES_MAX = 4000 };

/* -- the disk ---------------------------------------------------------------------------------- */

struct durable {
    ino_t file;
    off_t bytes;    /* durable, */
    off_t from, to; /* but for what a sync that failed has lost: nobody writes it back, until it is written again */
    off_t over;     /* a block that was durable, and was written over since then: */
    size_t old_bytes;
    bool old_stays; /* what was written over it is lost in the same way */
    uint8_t old[LOG_BLOCK_BYTES];
};

static struct {
    uint64_t seed;
    uint32_t fail; /* one call in so many fails; 0: none does */
    struct durable file[FILES_MAX];
    size_t count;
    char renamed[LOG_NAME_BYTES]; /* a name that is not durable yet; "" none */
} disk;

static uint32_t dice(uint32_t n) { return random_below(&disk.seed, n); }

static bool failing(void) {
    if (!life.armed || disk.fail == 0 || dice(disk.fail) != 0) return false;
    errno = dice(2) == 0 ? EIO : ENOSPC;
    return true;
}

static struct durable *durable_of(ino_t file) {
    for (size_t i = disk.count; i > 0; i--)
        if (disk.file[i - 1].file == file) return &disk.file[i - 1];
    cr_assert_lt(disk.count, (size_t)FILES_MAX);
    disk.file[disk.count] = (struct durable){.file = file};
    return &disk.file[disk.count++];
}

static struct durable *durable_fd(int fd, off_t *size) {
    struct stat st;
    cr_assert_eq(fstat(fd, &st), 0);
    *size = st.st_size;
    return durable_of(st.st_ino);
}

static int disk_open(void *c, int folder, const char *name, int flags) {
    off_t size;
    place_to_die();
    if (failing()) return -1;
    int fd = log_files_real.open(c, folder, name, flags);
    if (fd >= 0) {
        struct durable *d = durable_fd(fd, &size);
        /* Nothing of an empty file is durable; its inode may have been another's. */
        if (size == 0) *d = (struct durable){.file = d->file};
    }
    place_to_die();
    return fd;
}

/* Before a write of whole blocks that begins within what is durable: its last block gets other content. (A last batch
 * that is written once more is the same bytes.) */
static void old_keep(int fd, off_t at, size_t total) {
    off_t size;
    struct durable *d = durable_fd(fd, &size);
    d->old_stays = false;
    if (d->old_bytes > 0 || at >= d->bytes || total % LOG_BLOCK_BYTES != 0) return;
    off_t last = (off_t)log_block_down((uint64_t)d->bytes - 1);
    d->over = at > last ? at : last;
    d->old_bytes = (size_t)(d->bytes - d->over);
    cr_assert_eq(pread(fd, d->old, d->old_bytes, d->over), (ssize_t)d->old_bytes);
}

static ssize_t disk_write(void *c, int fd, const struct iovec *part, int parts, off_t at) {
    size_t total = 0;
    place_to_die();
    for (int i = 0; i < parts; i++) total += part[i].iov_len;
    bool fails = failing();
    if (fails && dice(2) == 0) return -1;
    old_keep(fd, at, total);
    if (fails || dice(2) == 0) { /* a part of it is there first: it dies with that, or the disk is full */
        char *whole = malloc(total);
        size_t len = 0, some = dice((uint32_t)total);
        for (int i = 0; i < parts; len += part[i++].iov_len) memcpy(whole + len, part[i].iov_base, part[i].iov_len);
        const struct iovec first = {whole, some};
        ssize_t n = log_files_real.write(c, fd, &first, 1, at);
        free(whole);
        if (fails) return n;
        place_to_die();
    }
    ssize_t n = log_files_real.write(c, fd, part, parts, at);
    off_t size;
    struct durable *d = durable_fd(fd, &size);
    if (at <= d->from && at + (off_t)total >= d->to) d->from = d->to = 0;
    place_to_die();
    return n;
}

static int disk_truncate(void *c, int fd, off_t bytes) {
    off_t size;
    place_to_die();
    if (failing()) return -1;
    int r = log_files_real.truncate(c, fd, bytes);
    struct durable *d = durable_fd(fd, &size);
    if (d->bytes > bytes) d->bytes = bytes;
    if (d->old_bytes > 0 && d->over + (off_t)d->old_bytes > bytes)
        d->old_bytes = d->over < bytes ? (size_t)(bytes - d->over) : 0;
    if (d->to > bytes) d->to = bytes;
    if (d->from >= d->to) d->from = d->to = 0;
    place_to_die();
    return r;
}

static int disk_sync(void *c, int fd) {
    struct stat st;
    off_t size;
    (void)c;
    place_to_die();
    cr_assert_eq(fstat(fd, &st), 0);
    bool fails = failing(), folder = S_ISDIR(st.st_mode);
    struct durable *d = durable_fd(fd, &size);
    if (fails && !folder && d->from == d->to && size > d->bytes) {
        d->from = d->bytes;
        d->to = size;
    }
    if (fails) d->old_stays = true;
    if (fails) return -1;
    if (!d->old_stays) d->old_bytes = 0;
    if (folder)
        disk.renamed[0] = '\0';
    else
        d->bytes = size;
    place_to_die();
    return 0;
}

static int disk_rename(void *c, int folder, const char *from, const char *to) {
    place_to_die();
    if (failing()) return -1;
    int r = log_files_real.rename(c, folder, from, to);
    snprintf(disk.renamed, sizeof disk.renamed, "%s", to);
    place_to_die();
    return r;
}

/* The inode of a file that is removed may be another one's next. */
static void durable_forget(ino_t file) { *durable_of(file) = (struct durable){0}; }

static int disk_unlink(void *c, int folder, const char *name) {
    struct stat st;
    place_to_die();
    if (failing()) return -1;
    bool there = fstatat(folder, name, &st, 0) == 0;
    int r = log_files_real.unlink(c, folder, name);
    if (there) durable_forget(st.st_ino);
    place_to_die();
    return r;
}

static int disk_direct(void *c, int fd, bool on) { /* it cuts writes anywhere */
    (void)c, (void)fd, (void)on;
    return -1;
}

static void hole_make(const char *path, off_t from, off_t to) {
    char *zeros = calloc(1, (size_t)(to - from) + 1);
    int fd = open(path, O_WRONLY);
    cr_assert_eq(pwrite(fd, zeros, (size_t)(to - from), from), to - from);
    close(fd);
    free(zeros);
}

/* The block as it was, with nothing behind that. */
static void old_restore(const char *path, const struct durable *f) {
    static const char zeros[LOG_BLOCK_BYTES];
    struct stat st;
    off_t end = f->over + (off_t)f->old_bytes, block = (off_t)log_block_up((uint64_t)end);
    int fd = open(path, O_WRONLY);
    cr_assert(fd >= 0 && fstat(fd, &st) == 0);
    cr_assert_eq(pwrite(fd, f->old, f->old_bytes, f->over), (ssize_t)f->old_bytes);
    if (block > st.st_size) block = st.st_size;
    if (block > end) cr_assert_eq(pwrite(fd, zeros, (size_t)(block - end), end), block - end);
    close(fd);
}

/* What the power left of the files: what is durable, and of what was written behind it nothing, some, or all. */
static void power_lost(struct bench *b) {
    char *path;
    struct stat st;
    DIR *d = opendir(b->log);
    if (d == NULL) return;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        cr_assert_gt(asprintf(&path, "%s/%s", b->log, e->d_name), 0);
        if (e->d_name[0] == '.' || stat(path, &st) != 0) {
            free(path);
            continue;
        }
        if (strcmp(e->d_name, LOG_MARK_NAME) == 0) {
            if (dice(2) == 0) { /* it was never written back; else it was, at the right moment */
                unlink(path);
                durable_forget(st.st_ino);
            }
        } else if (strcmp(e->d_name, disk.renamed) == 0 && dice(2) == 0) {
            unlink(path);
            durable_forget(st.st_ino);
        } else {
            struct durable *f = durable_of(st.st_ino);
            off_t extra = st.st_size - f->bytes;
            cr_assert_geq(extra, 0);
            if (f->from < f->to) hole_make(path, f->from, f->to < st.st_size ? f->to : st.st_size);
            cr_assert_eq(truncate(path, f->bytes + (extra > 0 ? dice((uint32_t)extra + 1) : 0)), 0);
            if (f->old_bytes > 0 && (f->old_stays || dice(2) == 0)) old_restore(path, f);
            f->from = f->to = 0;
            f->old_bytes = 0;
        }
        free(path);
    }
    closedir(d);
    disk.renamed[0] = '\0';
}

/* -- the records ------------------------------------------------------------------------------- */

struct delivered { /* one that was put on a ring */
    uint32_t part;
    int64_t offset;
    bool wanted; /* has to be logged */
};

static struct {
    struct rig *r;
    uint32_t epoch;
    uint64_t incarnation;
    int64_t next[PARTS];                           /* to be put on a ring */
    int64_t committed[PARTS];                      /* what the broker was told */
    struct delivered lane[RIG_LANES][RECORDS_MAX]; /* by number, since the rings were made */
    uint64_t logged_before[RIG_LANES];
    uint64_t machines, records;
} w;

static uint16_t topic_of(uint32_t part) { return part == 3 ? 2 : part < 2 ? 0 : 1; } /* the last one is not logged */

static bool is_wanted(uint32_t part, int64_t offset) { return part != 3 && offset % 7 != 6; }

static void put_some(void) {
    for (uint32_t n = dice(40); n > 0; n--) {
        uint32_t part = dice(PARTS), lane = part % RIG_LANES;
        struct entry *e = (struct entry *)(uintptr_t)entry_make(topic_of(part), (int32_t)part, w.next[part], dice(60));
        e->slot = (uint16_t)part;
        e->epoch = w.epoch;
        if (w.next[part] % 7 == 6) {
            e->outcome = ENTRY_NOTHING;
            e->op = RECORD_SKIP;
        }
        if (w.r->out[lane].number + 1 >= RECORDS_MAX || !rig_put(w.r, lane, e)) continue;
        w.lane[lane][w.r->out[lane].number] = (struct delivered){part, w.next[part], is_wanted(part, w.next[part])};
        w.next[part]++;
        w.records++;
    }
    for (uint32_t l = 0; l < RIG_LANES; l++) ring_publish(&w.r->out[l]);
}

/* How far the log is in every lane's ring, by what is durable; checks that each number that has to be there is there
 * once, in order. Calls with the machine running count what is in its memory as well. */
static void log_check(uint64_t upto[RIG_LANES]) {
    struct bench *b = w.r->b;
    struct log_item item;
    int64_t top[PARTS] = {-1, -1, -1, -1};
    uint64_t at[RIG_LANES] = {0};
    const struct durable *durable = NULL;
    uint64_t segment = 0;
    for (uint32_t l = 0; l < RIG_LANES; l++) upto[l] = 0;
    struct log_reader *r = log_reader_open(b->log, 0, &b->err);
    if (r == NULL) return;
    enum log_read what;
    while ((what = log_reader_next(r, &item, &b->err)) == LOG_ITEM) {
        const struct entry *e = item.entry;
        uint32_t part = (uint32_t)e->partition, lane = e->slot;
        bool repeat = e->offset <= top[part];
        cr_assert_eq((e->flags & ENTRY_REPEAT) != 0, repeat, "partition %u, offset %d", part, (int)e->offset);
        if (!repeat) top[part] = e->offset;
        if (item.segment != segment) {
            struct stat st;
            char path[128];
            segment = item.segment;
            snprintf(path, sizeof path, "%s/%016" PRIx64 ".log", b->log, segment);
            cr_assert_eq(stat(path, &st), 0);
            durable = durable_of(st.st_ino);
        }
        off_t end = (off_t)(item.at + e->bytes);
        cr_assert(end <= durable->bytes && (end <= durable->from || (off_t)item.at >= durable->to),
                  "shown and not durable");
        if (item.incarnation != w.incarnation + lane) continue;
        uint64_t n = at[lane] + 1;
        while (n <= w.r->out[lane].number && !w.lane[lane][n].wanted) n++;
        cr_assert_leq(n, w.r->out[lane].number, "more in the log than was delivered");
        cr_assert(w.lane[lane][n].part == part && w.lane[lane][n].offset == e->offset,
                  "lane %u: %u/%d where %u/%d belongs", lane, part, (int)e->offset, w.lane[lane][n].part,
                  (int)w.lane[lane][n].offset);
        at[lane] = n;
    }
    cr_assert_eq(what, LOG_END, "%s", b->err.text);
    log_reader_close(r);
    for (uint32_t l = 0; l < RIG_LANES; l++) upto[l] = at[l];
}

/* Nothing is released that is not durable; what is released may be committed. */
static void released_check(void) {
    uint64_t upto[RIG_LANES], epoch, next;
    log_check(upto);
    for (uint32_t part = 0; part < PARTS; part++) {
        uint32_t lane = part % RIG_LANES;
        twin_load(&w.r->ledger->slot[part].released, &epoch, &next);
        if (epoch != w.epoch) continue;
        cr_assert_leq(next, (uint64_t)w.next[part]);
        for (uint64_t n = upto[lane] + 1; n <= w.r->out[lane].number; n++)
            cr_assert(
                !w.lane[lane][n].wanted || w.lane[lane][n].part != part || w.lane[lane][n].offset >= (int64_t)next,
                "partition %u: %d is released, %d is not in the log", part, (int)next, (int)w.lane[lane][n].offset);
        if (dice(3) == 0 && (int64_t)next > w.committed[part]) w.committed[part] = (int64_t)next;
    }
    for (uint32_t l = 0; l < RIG_LANES; l++) {
        struct ring_snapshot s;
        cr_assert_eq(ring_observe(&w.r->fds[l], &s, &w.r->b->err), RING_ATTACHED);
        for (uint64_t n = upto[l] + 1; n <= s.released; n++)
            cr_assert_not(w.lane[l][n].wanted, "number %d is released and not in the log", (int)n);
    }
}

/* -- lives ------------------------------------------------------------------------------------- */

/* Who dies in the middle of a call gives back nothing of what he has there: that is no leak. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; }

/* What a process has open goes with it, */
static void descriptors_close(void) {
    char link[64], path[256];
    for (int fd = 3; fd < 256; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, path, sizeof path - 1);
        if (n <= 0) continue;
        path[n] = '\0';
        if (strstr(path, w.r->b->dir) == path) close(fd);
    }
}

/* … and its memory, as far as it is large. */
static void memory_free(struct scribe *s) {
    if (s->log.mark != NULL) munmap(s->log.mark, sizeof *s->log.mark);
    free(s->log.area);
    free(s->log.closed);
    EVP_PKEY_free(s->anchor_key);
}

static void live(void) {
    life.countdown = dice(4) == 0 ? dice(30) : dice(1500);
    if (setjmp(life.end) == 0) {
        life.armed = true;
        rig_start(w.r);
        for (;;) {
            audit_step(w.r->audit);
            life.armed = false;
            w.r->b->wall_ms += dice(90);
            put_some();
            life.armed = true;
        }
    }
    for (uint32_t i = 0; i < RIG_LANES; i++) ring_consumer_detach(&w.r->in[i]);
    memory_free(&w.r->audit->scribe);
    free(w.r->audit);
    w.r->audit = NULL;
    descriptors_close();
}

static void machine_down(void) {
    w.machines++;
    power_lost(w.r->b);
    rig_rings_drop(w.r);
    w.incarnation += 10;
    w.epoch++;
    rig_rings(w.r, RING, w.incarnation);
    memset(w.r->ledger, 0, sizeof *w.r->ledger);
    for (uint32_t p = 0; p < PARTS; p++) w.next[p] = w.committed[p];
}

/* Without deaths and failures everything comes through. */
static void drain(void) {
    disk.fail = 0;
    rig_start(w.r);
    for (int i = 0; i < 10000; i++) {
        cr_assert_neq(audit_step(w.r->audit), STEP_FAILED, "%s", rig_reason(w.r));
        w.r->b->wall_ms += 10;
    }
    for (uint32_t l = 0; l < RIG_LANES; l++) cr_assert_eq(rig_released(w.r, l), w.r->out[l].number);
    for (uint32_t p = 0; p < PARTS; p++)
        if (rig_next(w.r, p) >= 0) cr_assert_eq(rig_next(w.r, p), w.next[p]);
}

static void finding(void *context, const struct verify_finding *f) {
    (void)context;
    cr_assert_fail("%s: %s", verify_kind_name(f->kind), f->text);
}

static void verified(void) {
    struct log_mac_key key;
    struct verify_result result;
    log_mac_key_init(&key, w.r->b->keys.chain);
    EVP_PKEY *anchor_key = anchor_key_make(w.r->b->keys.anchor_seed, &w.r->b->err);
    const struct verify_plan plan = {
        .dir = w.r->b->log, .key = &key, .key_id = w.r->b->keys.id, .anchor_key = anchor_key, .found = finding};
    cr_assert_eq(log_verify(&plan, &result, &w.r->b->err), 0, "%s", w.r->b->err.text);
    cr_assert_gt(result.anchors_confirmed, 0);
    EVP_PKEY_free(anchor_key);
}

static void world_make(uint64_t seed) {
    disk.seed = seed;
    disk.count = 0;
    disk.fail = seed % 3 == 0 ? 0 : 40;
    w.r = rig_make(RING);
    w.r->b->files = (struct log_files){disk_open,   disk_write,  disk_truncate, disk_sync,
                                       disk_rename, disk_unlink, disk_direct,   NULL};
    w.r->b->config.recon.commit_records = 60;
    w.r->b->config.recon.segment_bytes = 30000;
    w.epoch = 1;
    w.incarnation = 1000;
    memset(w.next, 0, sizeof w.next);
    memset(w.committed, 0, sizeof w.committed);
}

Test(audit_death, killed_anywhere_every_record_is_logged_once_and_nothing_is_released_before, .timeout = 300) {
    const char *asked = getenv("SEED");
    uint64_t first = asked != NULL ? strtoull(asked, NULL, 10) : 1;
    for (uint64_t seed = first; seed < first + 12; seed++) {
        world_make(seed);
        for (int i = 0; i < 60; i++) {
            live();
            released_check();
            if (dice(6) == 0) machine_down();
        }
        drain();
        released_check();
        verified();
        rig_drop(w.r);
    }
    cr_log_info("%llu deaths, %llu machines, %llu records, %llu places", (unsigned long long)life.deaths,
                (unsigned long long)w.machines, (unsigned long long)w.records, (unsigned long long)life.places);
    cr_assert_gt(life.deaths, 500);
    cr_assert_gt(w.machines, 50);
}

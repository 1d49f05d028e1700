#include "tools/verify_known.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/grouped.h"
#include "shm/stats_view.h"

#define FOLDER_NAME "verify-"

enum {
    DELTA_ROWS_MAX = 1 << 20, /* in memory before they are put on the disk */
    FOLDER_BYTES = PATH_BYTES + 80,
    STEP_MS = 50,
    SAY_AFTER_MS = 2000,
};

/* -- folders ----------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}
static void remove_folder(const char *folder) { nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

void known_remove(const char *folder) { remove_folder(folder); }

static int lock_of(const char *folder) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

/* What runs that were killed have left. */
static void remove_forgotten(const char *parent) {
    char folder[FOLDER_BYTES];
    DIR *d = opendir(parent);
    for (const struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (strncmp(e->d_name, FOLDER_NAME, sizeof FOLDER_NAME - 1) != 0) continue;
        snprintf(folder, sizeof folder, "%s/%.32s", parent, e->d_name);
        int lock = lock_of(folder);
        if (lock >= 0) {
            remove_folder(folder);
            close(lock);
        }
    }
    if (d != NULL) closedir(d);
}

/* Beside the table, where there is room for such things; or where everybody may write. */
static int make_folder(struct known *k, struct err *err) {
    char parent[PATH_BYTES + 8];
    snprintf(parent, sizeof parent, "%s/recon", k->config->data_dir);
    remove_forgotten(parent);
    snprintf(k->folder, sizeof k->folder, "%s/" FOLDER_NAME "XXXXXX", parent);
    if (mkdtemp(k->folder) == NULL) {
        snprintf(k->folder, sizeof k->folder, "/var/tmp/millrace-" FOLDER_NAME "XXXXXX");
        if (mkdtemp(k->folder) == NULL) return err_set(err, EX_CANTCREAT, "%s: %s", k->folder, strerror(errno));
    }
    k->lock = lock_of(k->folder);
    return 0;
}

/* -- the export -------------------------------------------------------------------------------- */

/* A table without rows, for a log that recon has not come to yet. */
static int make_empty(const char *folder, struct err *err) {
    struct live *l = live_open_writer(folder, err);
    live_close(l);
    return l != NULL ? 0 : -1;
}

static bool has_segment(const char *dir) {
    DIR *d = opendir(dir);
    bool found = false;
    for (const struct dirent *e; !found && d != NULL && (e = readdir(d)) != NULL;) {
        size_t len = strlen(e->d_name);
        found = len > 4 && strcmp(e->d_name + len - 4, ".log") == 0;
    }
    if (d != NULL) closedir(d);
    return found;
}

/* A log whose segments were all removed tells nothing, and what the table says is all there is. */
static int open_log(struct known *k, struct err *err) {
    char dir[PATH_BYTES + 16];
    struct err own = {0};
    log_dir(k->config, dir);
    if (live_sequence(k->live) > 0 && !has_segment(dir)) return 0;
    k->log = log_reader_open(dir, live_sequence(k->live), &own);
    if (k->log != NULL || own.code == EX_NOINPUT) return 0;
    *err = own;
    return -1;
}

/* k->live goes on as an export of itself in the folder's part n: what was in memory is on the disk. */
static int export(struct known *k, int n, struct err *err) {
    char part[FOLDER_BYTES], before[FOLDER_BYTES];
    snprintf(part, sizeof part, "%s/%d", k->folder, n);
    snprintf(before, sizeof before, "%s/%d", k->folder, n - 1);
    if (live_export(k->live, part, err) != 0) return -1;
    live_close(k->live);
    k->live = live_open_reader(part, err);
    remove_folder(before);
    return k->live != NULL ? 0 : -1;
}

/* Applies at most `most` entries of the log. Their number; less: its end; -1 with err. */
static int64_t follow(struct known *k, int64_t most, struct err *err) {
    struct log_item item;
    int64_t n = 0;
    while (k->log != NULL && n < most) switch (log_reader_next(k->log, &item, err)) {
        case LOG_ITEM:
            if (live_apply(k->live, &item, err) != 0) return -1;
            n++;
            break;
        case LOG_GONE: break; /* the table counts what it has missed */
        case LOG_END: return n;
        case LOG_BAD: return -1;
        }
    return n;
}

int64_t known_follow(struct known *k, struct err *err) { return follow(k, INT64_MAX, err); }

/* Reads the log to its end. Where recon is far behind, what is not in the table is more than memory should hold. */
static int catch_up(struct known *k, int *part, struct err *err) {
    enum { PIECE = 100000 };
    struct live_size size;
    uint64_t total = 0;
    for (;;) {
        int64_t n = follow(k, PIECE, err);
        if (n < 0) return -1;
        total += (uint64_t)n;
        live_measure(k->live, &size);
        if (size.delta_rows >= DELTA_ROWS_MAX) {
            char number[GROUPED_BYTES];
            fprintf(stderr, "millrace verify: the table of live keys is behind the log; %s entries read\n",
                    grouped(total, number));
            if (export(k, ++*part, err) != 0) return -1;
        }
        if (n < PIECE) return 0;
    }
}

/* The table as it is; where there is a log and no table yet, an empty one, made in the folder when there is one. */
static int open_table(struct known *k, struct err *err) {
    char table[PATH_BYTES + 16], none[FOLDER_BYTES], audit[PATH_BYTES + 16];
    live_dir(k->config, table);
    log_dir(k->config, audit);
    k->live = live_open_reader(table, err);
    if (k->live == NULL && err->code == EX_NOINPUT && k->folder[0] != '\0' && access(audit, F_OK) == 0) {
        *err = (struct err){0};
        snprintf(none, sizeof none, "%s/0", k->folder);
        if (make_empty(none, err) != 0) return -1;
        k->live = live_open_reader(none, err);
    }
    return k->live != NULL && open_log(k, err) == 0 ? 0 : -1;
}

/* The table, read up to the end of the log and exported. */
static int make(struct known *k, struct err *err) {
    char made[FOLDER_BYTES], table[FOLDER_BYTES];
    int part = 1;
    if (open_table(k, err) != 0 || catch_up(k, &part, err) != 0 || export(k, ++part, err) != 0) return -1;
    snprintf(made, sizeof made, "%s/%d", k->folder, part);
    snprintf(table, sizeof table, "%s/table", k->folder);
    if (rename(made, table) != 0) return err_set(err, EX_IOERR, "%s: %s", made, strerror(errno));
    return 0;
}

static int open_kept(struct known *k, struct err *err) {
    char table[FOLDER_BYTES];
    snprintf(table, sizeof table, "%s/table", k->folder);
    k->live = live_open_reader(table, err);
    return k->live != NULL && open_log(k, err) == 0 ? 0 : -1;
}

static int open_in(struct known *k, const char *folder, struct err *err) {
    k->kept = folder != NULL;
    if (folder == NULL) {
        if (make_folder(k, err) != 0) return -1;
        return make(k, err);
    }
    snprintf(k->folder, sizeof k->folder, "%s", folder);
    if (open_kept(k, err) == 0) return 0;
    remove_folder(k->folder); /* what a death has left half made */
    *err = (struct err){0};
    if (mkdir(k->folder, 0700) != 0) return err_set(err, EX_CANTCREAT, "%s: %s", k->folder, strerror(errno));
    return make(k, err);
}

int known_open(struct known *k, const struct config *config, const char *folder, struct err *err) {
    *k = (struct known){.config = config, .lock = -1};
    if (open_in(k, folder, err) == 0) {
        const struct run *base = live_base(k->live);
        k->rows = k->unseen = base == NULL ? 0 : base->rows;
        k->as_of = live_sequence(k->live);
        k->seen = calloc(k->rows / 8 + 1, 1);
        if (k->seen != NULL) return 0;
        err_set(err, EX_OSERR, "no memory");
    }
    k->kept = false;
    known_close(k);
    return -1;
}

int known_open_for_keys(struct known *k, const struct config *config, struct err *err) {
    *k = (struct known){.config = config, .lock = -1};
    if (open_table(k, err) != 0 || known_follow(k, err) < 0) {
        known_close(k);
        return -1;
    }
    k->as_of = live_sequence(k->live);
    return 0;
}

void known_discard(struct known *k) { k->kept = false; }

void known_close(struct known *k) {
    live_close(k->live);
    log_reader_close(k->log);
    free(k->seen);
    if (!k->kept && k->folder[0] != '\0') remove_folder(k->folder);
    if (k->lock > 0) close(k->lock);
    *k = (struct known){.lock = -1};
}

void known_see(struct known *k, uint64_t index) {
    if (known_seen(k, index)) return;
    k->seen[index / 8] |= (uint8_t)(1 << (index % 8));
    k->unseen--;
}

/* -- settling ---------------------------------------------------------------------------------- */

struct settling {
    struct stats stats;
    uint64_t number[LANES_MAX]; /* of the last record that ingest had passed on, when it began */
    uint64_t left, left_before; /* records that are waited for */
    uint64_t progress_ns, said_ns;
};

/* Records that were read and are not logged. Rings that were made anew count from 1 again. */
static uint64_t unlogged(struct settling *s) {
    uint64_t left = 0;
    for (uint32_t i = 0; i < view_lane_count(&s->stats) && i < LANES_MAX; i++) {
        struct lane_numbers n = view_lane(&s->stats, i);
        if (n.ingest < s->number[i]) s->number[i] = n.ingest;
        if (n.audit < s->number[i]) left += s->number[i] - n.audit;
    }
    return left;
}

/* Records that are in the log, as far as it was read, and that the pipeline has before it again. */
static uint64_t repeated(const struct settling *s, const struct live *live) {
    uint64_t left = 0;
    for (uint32_t i = 0; i < view_partition_count(&s->stats); i++) {
        const struct stats_partition *p = stats_partition(&s->stats, i);
        struct partition_numbers n = view_partition(p);
        int64_t next = live_next(live, view_topic(&s->stats, p->topic), p->partition);
        int64_t at = n.released >= 0 ? n.released : n.position;
        if (n.lost_to > n.lost_from) continue; /* it waits for an operator; what is missing is missing */
        if (n.assigned && at >= 0 && at < next) left += (uint64_t)(next - at);
    }
    return left;
}

/* A reload has put another segment in this one's place. False: there is none any more. */
static bool current(struct known *k, struct settling *s) {
    struct err none;
    if (atomic_load_explicit(&s->stats.header->superseded, memory_order_relaxed) == 0) return true;
    stats_close(&s->stats);
    if (stats_open(&s->stats, k->config->run_dir, k->config->name, &none) == 0) return true;
    return false;
}

/* Nobody runs. What was read and not logged may be in Redis or not, and no entry tells which: nothing can be
 * called wrong before an instance has read it again. */
static int dead(struct known *k, struct settling *s, struct err *err) {
    char number[GROUPED_BYTES];
    uint64_t left = unlogged(s);
    if (left > 0)
        return err_set(err, EX_TEMPFAIL,
                       "the instance ended before %s records that it had read were in the log: start it first",
                       grouped(left, number));
    return known_follow(k, err) < 0 ? -1 : 0;
}

static int wait_on(struct known *k, struct settling *s, struct err *err) {
    enum { STEP_NS = STEP_MS * 1000000 };
    for (;;) {
        char number[GROUPED_BYTES];
        if (!current(k, s)) return known_follow(k, err) < 0 ? -1 : 0;
        if (!view_supervisor_alive(&s->stats)) return dead(k, s, err);
        uint64_t now = clock_ns(&clock_real), again = repeated(s, k->live);
        s->left = unlogged(s) + again;
        if (s->left == 0) return known_follow(k, err) < 0 ? -1 : 0;
        if (s->progress_ns == 0 || s->left != s->left_before) s->progress_ns = now;
        s->left_before = s->left;
        if (now - s->progress_ns > KNOWN_PATIENCE_MS * NS_PER_MS)
            return err_set(err, EX_TEMPFAIL, "the pipeline does not go on: %s records are not in Redis and in the log",
                           grouped(s->left, number));
        if (s->said_ns == 0) s->said_ns = now;
        if (now - s->said_ns > SAY_AFTER_MS * NS_PER_MS) {
            fprintf(stderr, "millrace verify: waiting for the pipeline: %s records to be written%s\n",
                    grouped(s->left, number), again > 0 ? " again" : "");
            s->said_ns = now;
        }
        nanosleep(&(struct timespec){.tv_nsec = STEP_NS}, NULL);
    }
}

int known_settle(struct known *k, struct err *err) {
    struct settling s = {0};
    struct err none;
    if (known_follow(k, err) < 0) return -1;
    if (stats_open(&s.stats, k->config->run_dir, k->config->name, &none) != 0) return 0;
    for (uint32_t i = 0; i < view_lane_count(&s.stats) && i < LANES_MAX; i++)
        s.number[i] = view_lane(&s.stats, i).ingest;
    int r = wait_on(k, &s, err);
    stats_close(&s.stats);
    return r;
}

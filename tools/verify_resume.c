#include "tools/verify_resume.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "tools/verify_walk.h"

#define RESUME_MAGIC 0x3179667265766c6dULL /* "mlverfy1" */
enum { SAVE_EVERY_MS = 5000 };

/* The file: this head, then for each candidate its name (length, bytes), then a bit for each row: a key was met. Of
 * this machine and build only. */
struct resume_head {
    uint64_t magic, head_bytes;
    uint64_t as_of, rows, unseen, looked_at, right, unlogged, marks, count;
    double sample;
    int64_t from_ms, to_ms;
    char topic[TOPIC_BYTES], pattern[TOPIC_BYTES], run_id[48], cursor[CURSOR_BYTES];
    uint32_t db, reserved;
};

static void path_of(const struct verify *v, const char *suffix, char out[PATH_BYTES + 64]) {
    snprintf(out, PATH_BYTES + 64, "%s%s", v->options.resume, suffix);
}

/* The head as it would be written now. */
static void head_fill(const struct verify *v, const char *cursor, struct resume_head *h) {
    const struct verify_options *o = &v->options;
    *h = (struct resume_head){.magic = RESUME_MAGIC,
                              .head_bytes = sizeof *h,
                              .as_of = v->known.as_of,
                              .rows = v->known.rows,
                              .unseen = v->known.unseen,
                              .looked_at = v->looked_at,
                              .right = v->right,
                              .unlogged = v->unlogged,
                              .marks = v->marks,
                              .count = v->count,
                              .sample = o->sample,
                              .from_ms = o->from_ms,
                              .to_ms = o->to_ms,
                              .db = v->config->redis.db};
    snprintf(h->topic, sizeof h->topic, "%s", o->topic != NULL ? o->topic : "");
    snprintf(h->pattern, sizeof h->pattern, "%s", o->pattern != NULL ? o->pattern : "");
    snprintf(h->run_id, sizeof h->run_id, "%s", v->run_id);
    snprintf(h->cursor, sizeof h->cursor, "%s", cursor);
}

/* -- writing ----------------------------------------------------------------------------------- */

static int save(struct verify *v, const char *cursor, void *context, struct err *err) {
    char path[PATH_BYTES + 64], new[PATH_BYTES + 64];
    struct resume_head h;
    (void)context;
    path_of(v, "", path);
    path_of(v, ".new", new);
    head_fill(v, cursor, &h);
    FILE *f = fopen(new, "we");
    if (f == NULL) return err_set(err, EX_CANTCREAT, "%s: %s", new, strerror(errno));
    fwrite(&h, sizeof h, 1, f);
    for (uint64_t i = 0; i < v->count; i++) {
        fwrite(&v->candidate[i].name_bytes, sizeof v->candidate[i].name_bytes, 1, f);
        fwrite(v->candidate[i].name, 1, v->candidate[i].name_bytes, f);
    }
    fwrite(v->known.seen, 1, v->known.rows / 8 + 1, f);
    bool failed = fflush(f) != 0 || ferror(f) != 0 || fdatasync(fileno(f)) != 0;
    failed = fclose(f) != 0 || failed;
    if (failed || rename(new, path) != 0) return err_set(err, EX_IOERR, "%s: %s", path, strerror(errno));
    return 0;
}

/* -- reading ----------------------------------------------------------------------------------- */

static bool fits(const struct verify *v, const struct resume_head *h) {
    struct resume_head now;
    head_fill(v, h->cursor, &now);
    return h->magic == RESUME_MAGIC && h->head_bytes == sizeof *h && h->sample == now.sample &&
           h->from_ms == now.from_ms && h->to_ms == now.to_ms && h->db == now.db &&
           memcmp(h->topic, now.topic, sizeof h->topic) == 0 &&
           memcmp(h->pattern, now.pattern, sizeof h->pattern) == 0 &&
           memcmp(h->run_id, now.run_id, sizeof h->run_id) == 0 && h->cursor[CURSOR_BYTES - 1] == '\0';
}

static int read_rest(struct verify *v, FILE *f, const struct resume_head *h) {
    char name[REDIS_KEY_BYTES_MAX * 4];
    for (uint64_t i = 0; i < h->count; i++) {
        uint8_t key[DIGEST_BYTES];
        uint32_t len;
        if (fread(&len, sizeof len, 1, f) != 1 || len > sizeof name || fread(name, 1, len, f) != len) return -1;
        digest_of(&v->digest, DIGEST_HMAC, name, len, key);
        verify_candidate(v, name, len, key);
    }
    if (fread(v->known.seen, 1, v->known.rows / 8 + 1, f) != v->known.rows / 8 + 1) return -1;
    v->known.unseen = h->unseen;
    v->looked_at = h->looked_at;
    v->right = h->right;
    v->unlogged = h->unlogged;
    v->marks = h->marks;
    return 0;
}

int verify_resume_open(struct verify *v, struct err *err) {
    char path[PATH_BYTES + 64], rows[PATH_BYTES + 64];
    struct resume_head h;
    snprintf(v->cursor, sizeof v->cursor, "0");
    if (v->options.key_count > 0) return known_open_for_keys(&v->known, v->config, err);
    if (v->options.resume == NULL) return known_open(&v->known, v->config, NULL, err);
    path_of(v, "", path);
    path_of(v, ".rows", rows);
    FILE *f = fopen(path, "re");
    bool good = f != NULL && fread(&h, sizeof h, 1, f) == 1 && fits(v, &h);
    if (!good) known_remove(rows);
    int r = known_open(&v->known, v->config, rows, err);
    good = good && r == 0 && v->known.as_of == h.as_of && v->known.rows == h.rows;
    if (good && read_rest(v, f, &h) != 0) r = err_set(err, EX_DATAERR, "%s is cut short: remove it", path);
    if (f != NULL) fclose(f);
    if (good && r == 0) {
        snprintf(v->cursor, sizeof v->cursor, "%s", h.cursor);
        fprintf(stderr, "millrace verify: goes on where it was\n");
    }
    return r;
}

int verify_resume_walk(struct verify *v, struct err *err) {
    const struct walk_hook hook = {.every_ms = SAVE_EVERY_MS, .between = save};
    return verify_walk_all(v, WALK_COMPARE, v->cursor, v->options.resume != NULL ? &hook : NULL, err);
}

void verify_resume_done(struct verify *v) {
    char path[PATH_BYTES + 64];
    if (v->options.resume == NULL) return;
    path_of(v, "", path);
    unlink(path);
    known_discard(&v->known);
}

#include "tools/recon_find.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "audit/search.h"
#include "shm/stats_view.h"
#include "tools/command.h"

static const uint8_t zeros[16];

static void *grow(void *old, size_t bytes) {
    void *p = realloc(old, bytes);
    CHECK(p != NULL);
    return p;
}

/* -- the log ----------------------------------------------------------------------------------- */

static bool known(const struct find *f, uint64_t sequence) {
    for (size_t i = 0; i < f->entries; i++)
        if (f->entry[i].sequence == sequence) return true;
    return false;
}

static void add(struct find *f, const struct log_item *item) {
    if (known(f, item->sequence)) return;
    if (f->entries == FIND_ENTRIES_MAX) { /* the oldest has to go */
        memmove(f->entry, f->entry + 1, (f->entries - 1) * sizeof *f->entry);
        f->entries--;
        f->more++;
    }
    if (f->entry == NULL) f->entry = grow(NULL, FIND_ENTRIES_MAX * sizeof *f->entry);
    struct find_entry *e = &f->entry[f->entries++];
    *e = (struct find_entry){
        .e = *item->entry, .sequence = item->sequence, .written_us = item->written_us, .committed = -1};
    snprintf(e->topic, sizeof e->topic, "%s", item->topic);
}

static int search(struct find *f, const char *dir, const struct log_query *q, struct err *err) {
    struct log_item item;
    enum log_read got;
    struct log_search *s = log_search_open(dir, q, err);
    if (s == NULL) return -1;
    while ((got = log_search_next(s, &item, err)) == LOG_ITEM) add(f, &item);
    command_forged("recon record", s);
    log_search_close(s);
    return got == LOG_BAD ? -1 : 0;
}

static int by_sequence(const void *a, const void *b) {
    uint64_t x = ((const struct find_entry *)a)->sequence, y = ((const struct find_entry *)b)->sequence;
    return x < y ? -1 : x > y;
}

static int log_look(struct find *f, const char *dir, struct err *err) {
    struct log_query q = LOG_QUERY_ANY;
    q.id = f->id;
    q.key = f->key;
    if (f->topic != NULL) {
        q.topic = f->topic;
        q.partition = f->partition;
        q.offset_from = f->offset;
        q.offset_to = f->offset + 1;
    }
    if (search(f, dir, &q, err) != 0) return -1;
    if (f->topic == NULL || f->entries == 0) return 0;
    /* The same record may stand at other places: its duplicates. */
    uint8_t id[16];
    memcpy(id, f->entry[0].e.id, sizeof id);
    q = LOG_QUERY_ANY;
    q.id = id;
    if (search(f, dir, &q, err) != 0) return -1;
    qsort(f->entry, f->entries, sizeof *f->entry, by_sequence);
    return 0;
}

/* -- the running instance ---------------------------------------------------------------------- */

static void commits_look(struct find *f, const struct config *c) {
    struct stats s;
    struct err ignored;
    if (stats_open(&s, c->run_dir, c->name, &ignored) != 0) return;
    for (uint32_t i = 0; view_supervisor_alive(&s) && i < view_partition_count(&s); i++) {
        const struct stats_partition *p = stats_partition(&s, i);
        for (size_t k = 0; k < f->entries; k++)
            if (f->entry[k].e.partition == p->partition && strcmp(f->entry[k].topic, view_topic(&s, p->topic)) == 0)
                f->entry[k].committed = view_partition(p).committed;
    }
    stats_close(&s);
}

/* -- the database ------------------------------------------------------------------------------ */

static int window_state(sqlite3 *db, int64_t topic, int64_t start_ms) {
    sqlite3_stmt *s;
    int state = -1;
    if (db_prepare(db, "SELECT state FROM window WHERE topic = ? AND start_ms = ?", &s, NULL) != 0) return -1;
    sqlite3_bind_int64(s, 1, topic);
    sqlite3_bind_int64(s, 2, start_ms);
    if (sqlite3_step(s) == SQLITE_ROW) state = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return state;
}

/* db may be NULL. */
static void producer_name(sqlite3 *db, uint64_t hash, char out[FIND_PRODUCER_BYTES]) {
    sqlite3_stmt *s;
    out[0] = 0;
    if (hash == 0) return;
    snprintf(out, FIND_PRODUCER_BYTES, "%016" PRIx64, hash);
    if (db == NULL || db_prepare(db, "SELECT name FROM producer WHERE hash = ?", &s, NULL) != 0) return;
    sqlite3_bind_int64(s, 1, (int64_t)hash);
    if (sqlite3_step(s) == SQLITE_ROW)
        snprintf(out, FIND_PRODUCER_BYTES, "%s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
}

static bool note_known(const struct find *f, const struct find_note *n) {
    for (size_t i = 0; i < f->notes; i++)
        if (f->note[i].kind == n->kind && f->note[i].partition == n->partition && f->note[i].offset == n->offset &&
            f->note[i].sequence == n->sequence && strcmp(f->note[i].topic, n->topic) == 0)
            return true;
    return false;
}

static void notes_take(struct find *f, sqlite3 *db, sqlite3_stmt *s) {
    while (sqlite3_step(s) == SQLITE_ROW && f->notes < FIND_NOTES_MAX) {
        struct find_note *n = &f->note[f->notes];
        *n = (struct find_note){.kind = (enum db_record)sqlite3_column_int(s, 1),
                                .partition = sqlite3_column_int(s, 2),
                                .offset = sqlite3_column_int64(s, 3),
                                .start_ms = sqlite3_column_int64(s, 4),
                                .sequence = sqlite3_column_int64(s, 6)};
        producer_name(db, (uint64_t)sqlite3_column_int64(s, 5), n->producer);
        snprintf(n->topic, sizeof n->topic, "%s", (const char *)sqlite3_column_text(s, 0));
        n->window = window_state(db, sqlite3_column_int64(s, 7), n->start_ms);
        if (!note_known(f, n)) f->notes++;
    }
    sqlite3_finalize(s);
}

#define NOTE_COLUMNS                                                                                                   \
    "SELECT t.name, r.kind, r.partition, r.\"offset\", r.start_ms, r.producer, r.sequence, r.topic FROM record r "     \
    "JOIN topic t ON t.id = r.topic WHERE "

static void notes_at(struct find *f, sqlite3 *db, const char *topic, int32_t partition, int64_t offset) {
    sqlite3_stmt *s;
    if (db_prepare(db, NOTE_COLUMNS "t.name = ? AND r.partition = ? AND r.\"offset\" = ?", &s, NULL) != 0) return;
    sqlite3_bind_text(s, 1, topic, -1, SQLITE_STATIC);
    sqlite3_bind_int(s, 2, partition);
    sqlite3_bind_int64(s, 3, offset);
    notes_take(f, db, s);
}

static void notes_look(struct find *f, const struct config *c) {
    char path[PATH_BYTES + 32];
    struct err ignored;
    sqlite3_stmt *s;
    db_path(c, path);
    sqlite3 *db = db_open_read(path, &ignored);
    for (size_t i = 0; i < f->entries; i++) producer_name(db, f->entry[i].e.producer, f->entry[i].producer);
    if (db == NULL) return;
    if (f->topic != NULL) notes_at(f, db, f->topic, f->partition, f->offset);
    if (f->id != NULL && db_prepare(db, NOTE_COLUMNS "r.id = ?", &s, NULL) == 0) {
        sqlite3_bind_blob(s, 1, f->id, 16, SQLITE_STATIC);
        notes_take(f, db, s);
    }
    for (size_t i = 0; i < f->entries; i++)
        notes_at(f, db, f->entry[i].topic, f->entry[i].e.partition, f->entry[i].e.offset);
    sqlite3_close(db);
}

/* -- the table of live keys -------------------------------------------------------------------- */

/* The table is as of the last time it was written: what came since is applied here. */
static void live_catch_up(struct live *l, const struct config *c) {
    char dir[PATH_BYTES + 16];
    struct log_item item;
    struct err ignored;
    log_dir(c, dir);
    struct log_reader *r = log_reader_open(dir, live_sequence(l), &ignored);
    if (r == NULL) return;
    while (log_reader_next(r, &item, &ignored) == LOG_ITEM && live_apply(l, &item, &ignored) == 0) {
    }
    log_reader_close(r);
}

/* Before the table has been written for the first time, all there is of a key is in the log: what the table's rules
 * (recon/live.h) make of that. */
static void live_from_entries(struct find *f) {
    const struct find_entry *last = NULL;
    for (size_t i = 0; i < f->entries; i++) {
        const struct find_entry *e = &f->entry[i];
        bool same = last != NULL && last->e.partition == e->e.partition && strcmp(last->topic, e->topic) == 0;
        bool counts = e->e.outcome == ENTRY_APPLIED || e->e.outcome == ENTRY_SUPERSEDED ||
                      e->e.outcome == ENTRY_DELETED || e->e.outcome == ENTRY_EXPIRED;
        if (counts && !(same && e->e.offset < last->e.offset)) last = e;
    }
    f->live_known = true;
    f->live_there = last != NULL && memcmp(last->e.digest_key, f->key, sizeof last->e.digest_key) == 0 &&
                    (last->e.outcome == ENTRY_APPLIED || last->e.outcome == ENTRY_SUPERSEDED);
    if (!f->live_there) return;
    f->live = (struct live_row){.offset = last->e.offset,
                                .event_ms = last->e.created_ms,
                                .expire_at_ms = last->e.expire_at_ms,
                                .partition = last->e.partition,
                                .algorithm = last->e.digest_algorithm,
                                .flags = last->e.flags & ENTRY_HASH ? LIVE_HASH : 0};
    memcpy(f->live.value, last->e.digest_stored, sizeof f->live.value);
    snprintf(f->live_topic, sizeof f->live_topic, "%s", last->topic);
}

static void live_look(struct find *f, const struct config *c) {
    char dir[PATH_BYTES + 16];
    struct err ignored;
    const uint8_t *key = f->key;
    for (size_t i = f->entries; i-- > 0 && key == NULL;)
        if (memcmp(f->entry[i].e.digest_key, zeros, sizeof zeros) != 0) key = f->entry[i].e.digest_key;
    if (key == NULL) return;
    live_dir(c, dir);
    struct live *l = live_open_reader(dir, &ignored);
    if (l == NULL && ignored.code == EX_NOINPUT && f->key != NULL && f->more == 0) live_from_entries(f);
    if (l == NULL) return;
    live_catch_up(l, c);
    int r = live_find(l, key, &f->live, &ignored);
    f->live_known = r >= 0;
    f->live_there = r == 1;
    if (r == 1) snprintf(f->live_topic, sizeof f->live_topic, "%s", live_topic(l, f->live.topic));
    live_close(l);
}

int find_run(struct find *f, const struct config *c, struct err *err) {
    char dir[PATH_BYTES + 16];
    log_dir(c, dir);
    if (log_look(f, dir, err) != 0) return -1;
    commits_look(f, c);
    notes_look(f, c);
    live_look(f, c);
    return 0;
}

void find_free(struct find *f) {
    free(f->entry);
    f->entry = NULL;
}

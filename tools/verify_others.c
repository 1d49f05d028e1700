#include "tools/verify_others.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "recon/db.h"

static const char query[] =
    "SELECT t.name, o.partition, min(o.first), max(o.last), i.name FROM offset_range o"
    " JOIN topic t ON t.id = o.topic JOIN instance i ON i.id = o.instance"
    " WHERE o.instance <> 0 AND o.kind = 0 AND NOT EXISTS (SELECT 1 FROM offset_range m WHERE m.instance = 0"
    "  AND m.kind = 0 AND m.topic = o.topic AND m.partition = o.partition AND m.first <= o.first AND m.last >= o.last)"
    " GROUP BY t.name, o.partition ORDER BY t.name, o.partition";

static void take(struct verify *v, sqlite3_stmt *s, struct verify_notes *notes) {
    v->reach = realloc(v->reach, (v->reach_count + 1) * sizeof *v->reach);
    CHECK(v->reach != NULL);
    struct verify_reach *r = &v->reach[v->reach_count++];
    snprintf(r->topic, sizeof r->topic, "%s", (const char *)sqlite3_column_text(s, 0));
    r->partition = sqlite3_column_int(s, 1);
    r->last = sqlite3_column_int64(s, 3);
    verify_note(notes,
                "offsets %" PRId64 " to %" PRId64 " of %s/%d, or some of them, are in the log of %s only: keys "
                "written before are not called wrong here",
                (int64_t)sqlite3_column_int64(s, 2), r->last, r->topic, r->partition,
                (const char *)sqlite3_column_text(s, 4));
}

int verify_others(struct verify *v, struct verify_notes *notes, struct err *err) {
    char path[PATH_BYTES + 32];
    sqlite3_stmt *s = NULL;
    struct err own = {0};
    v->reach_count = 0;
    db_path(v->config, path);
    sqlite3 *db = db_open_read(path, &own);
    if (db == NULL && own.code == EX_NOINPUT) return 0;
    v->untold = db != NULL && v->config->recon.anchor_topic[0] == '\0' && db_meta_get(db, "shared", 0) != 0;
    int r = db == NULL ? -1 : db_prepare(db, query, &s, &own);
    while (r == 0 && (r = db_step(s, &own)) == 1) {
        take(v, s, notes);
        r = 0;
        if (v->reach_count == PARTITIONS_MAX) break;
    }
    sqlite3_finalize(s);
    sqlite3_close(db);
    return r < 0 ? err_set(err, EX_DATAERR, "%s", own.text) : 0;
}

bool verify_gone_on(const struct verify *v, const struct live_row *row) {
    const char *topic = live_topic(v->known.live, row->topic);
    for (uint32_t i = 0; i < v->reach_count; i++) {
        const struct verify_reach *r = &v->reach[i];
        if (r->partition == row->partition && r->last > row->offset && strcmp(r->topic, topic) == 0) return true;
    }
    return false;
}

bool verify_shared(const struct verify *v, const char *topic) {
    for (uint32_t i = 0; i < v->reach_count; i++)
        if (strcmp(v->reach[i].topic, topic) == 0) return true;
    return false;
}

#include "tools/verify_report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "base/grouped.h"
#include "base/json_text.h"
#include "shm/record.h"
#include "tools/verify_others.h"

void verify_note(struct verify_notes *n, const char *format, ...) {
    va_list args;
    if (n == NULL || n->count == VERIFY_NOTES_MAX) return;
    va_start(args, format);
    vsnprintf(n->text[n->count++], VERIFY_NOTE_BYTES, format, args);
    va_end(args);
}

/* -- findings ---------------------------------------------------------------------------------- */

struct each {
    int (*what)(struct verify *v, const struct finding *f, void *context);
    void *context;
};

static enum verify_class unseen_class(const struct verify *v, const struct live_row *row, bool moving) {
    if (moving) return VERIFY_MOVING;
    if (verify_gone_on(v, row)) return VERIFY_ELSEWHERE;
    if (verify_evicted(v, row)) return VERIFY_EVICTED;
    return row->expire_at_ms != 0 ? VERIFY_EXPIRED_EARLY : VERIFY_MISSING;
}

static int unseen_is_finding(struct verify *v, const struct live_row *row, bool moving, void *context) {
    const struct each *e = context;
    const struct finding f = {.class = unseen_class(v, row, moving), .row = row};
    return e->what(v, &f, e->context);
}

int verify_findings(struct verify *v, int (*what)(struct verify *v, const struct finding *f, void *context),
                    void *context, struct err *err) {
    struct each e = {what, context};
    for (uint64_t i = 0; i < v->count; i++) {
        const struct candidate *c = &v->candidate[i];
        const struct finding f = {.class = c->class, .c = c, .row = c->has_row ? &c->row : NULL};
        int r = c->class == VERIFY_RIGHT ? 0 : what(v, &f, context);
        if (r != 0) return r;
    }
    /* Without a walk nobody has looked for the other rows; by a pattern they cannot be told, having no names. */
    if (v->options.key_count > 0 || v->options.pattern != NULL) return 0;
    return verify_unseen(v, unseen_is_finding, &e, err);
}

static int count_one(struct verify *v, const struct finding *f, void *context) {
    (void)context;
    v->tally[f->class]++;
    return 0;
}

int64_t verify_count(struct verify *v, struct err *err) {
    int64_t n = 0;
    uint64_t right = v->right;
    for (uint64_t i = 0; i < v->count; i++) right += v->candidate[i].class == VERIFY_RIGHT;
    memset(v->tally, 0, sizeof v->tally);
    if (verify_findings(v, count_one, NULL, err) != 0) return -1;
    v->tally[VERIFY_RIGHT] = right;
    for (int c = 0; c < VERIFY_CLASS_COUNT; c++)
        if (verify_is_finding(c)) n += (int64_t)v->tally[c];
    return n;
}

/* -- text -------------------------------------------------------------------------------------- */

static const char *type_name(enum verify_type t) {
    static const char *const names[] = {"none", "string", "hash", "of another type"};
    return names[t];
}

static void time_text(int64_t ms, char out[32]) {
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    size_t n = gmtime_r(&s, &tm) == NULL ? 0 : strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 32 - n, n == 0 ? "%" PRId64 " ms" : ".%03" PRId64 "Z", n == 0 ? ms : ms % 1000);
}

static void expiry_text(int64_t at_ms, char out[48]) {
    char at[32];
    if (at_ms <= 0)
        snprintf(out, 48, "never");
    else {
        time_text(at_ms, at);
        snprintf(out, 48, "at %s", at);
    }
}

static void detail(const struct finding *f, char out[VERIFY_DETAIL_BYTES]) {
    char is[48], should[48];
    const struct candidate *c = f->c;
    out[0] = '\0';
    switch (f->class) {
    case VERIFY_EXPIRED_EARLY:
        expiry_text(f->row->expire_at_ms, should);
        snprintf(out, VERIFY_DETAIL_BYTES, "it would expire %s", should);
        break;
    case VERIFY_ALTERED:
        snprintf(out, VERIFY_DETAIL_BYTES, "%s",
                 c->decodes ? "no value this key is known to have had" : "does not decode");
        break;
    case VERIFY_STALE: snprintf(out, VERIFY_DETAIL_BYTES, "the value of offset %" PRId64, c->stale_offset); break;
    case VERIFY_WRONG_TYPE:
        snprintf(out, VERIFY_DETAIL_BYTES, "is %s, was stored as %s", type_name(c->type),
                 type_name((c->row.flags & LIVE_HASH) != 0 ? TYPE_HASH : TYPE_STRING));
        break;
    case VERIFY_EXPIRY:
        expiry_text(c->expire_at_ms, is);
        expiry_text(c->row.expire_at_ms, should);
        snprintf(out, VERIFY_DETAIL_BYTES, "expires %s, should expire %s", is, should);
        break;
    case VERIFY_ORPHAN:
        snprintf(out, VERIFY_DETAIL_BYTES, "%s",
                 c->was_deleted ? "its record was deleted" : "no record is known to have written it");
        break;
    default: break;
    }
}

/* -- JSON -------------------------------------------------------------------------------------- */

static void put_text(const char *name, const char *text, FILE *out) {
    fprintf(out, ",\"%s\":", name);
    json_text_put(text, strlen(text), out);
}

static void finding_json(const struct verify *v, const struct finding *f, FILE *out) {
    char text[VERIFY_DETAIL_BYTES], hex[DIGEST_HEX_BYTES], id[37];
    fprintf(out, "{\"class\":\"%s\",\"key\":", verify_class_name(f->class));
    if (f->c != NULL)
        json_text_put(f->c->name, f->c->name_bytes, out);
    else
        fputs("null", out);
    digest_hex(f->c != NULL ? f->c->key : f->row->key, hex);
    put_text("key_digest", hex, out);
    if (f->row != NULL) {
        put_text("topic", live_topic(v->known.live, f->row->topic), out);
        fprintf(out, ",\"partition\":%d,\"offset\":%" PRId64, f->row->partition, f->row->offset);
    }
    if (f->c != NULL && f->c->has_id) {
        record_id_format(f->c->id, id);
        put_text("id", id, out);
    }
    detail(f, text);
    if (text[0] != '\0') put_text("detail", text, out);
    fputc('}', out);
}

struct listing {
    FILE *out;
    uint64_t count, most;
    bool lines;
};

static int list_json(struct verify *v, const struct finding *f, void *context) {
    struct listing *l = context;
    if (!verify_is_finding(f->class)) return 0;
    if (l->count == l->most) return 1;
    if (!l->lines && l->count > 0) fputc(',', l->out);
    l->count++;
    finding_json(v, f, l->out);
    if (l->lines) fputc('\n', l->out);
    return 0;
}

static int print_json(struct verify *v, const struct verify_notes *notes, uint64_t repaired, FILE *out,
                      struct err *err) {
    struct listing l = {.out = out, .most = REPORT_JSON_MAX};
    fprintf(out,
            "{\"as_of\":%" PRIu64 ",\"rows\":%" PRIu64 ",\"keys\":%" PRIu64 ",\"rounds\":%" PRIu64
            ",\"unlogged\":%" PRIu64 ",\"repaired\":%" PRIu64 ",\"classes\":{",
            v->known.as_of, v->known.rows, v->looked_at, v->rounds_done, v->unlogged, repaired);
    for (int c = 0; c < VERIFY_CLASS_COUNT; c++)
        fprintf(out, "%s\"%s\":%" PRIu64, c > 0 ? "," : "", verify_class_name(c), v->tally[c]);
    fputs("},\"findings\":[", out);
    int r = verify_findings(v, list_json, &l, err);
    fputs("],\"notes\":[", out);
    for (uint32_t i = 0; i < notes->count; i++) {
        if (i > 0) fputc(',', out);
        json_text_put(notes->text[i], strlen(notes->text[i]), out);
    }
    fputs("]}\n", out);
    return r < 0 ? -1 : 0;
}

int verify_list(struct verify *v, const char *path, struct err *err) {
    FILE *out = fopen(path, "we");
    if (out == NULL) return err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
    struct listing l = {.out = out, .most = UINT64_MAX, .lines = true};
    int r = verify_findings(v, list_json, &l, err) < 0 ? -1 : 0;
    bool failed = ferror(out) != 0;
    if ((fclose(out) != 0 || failed) && r == 0) r = err_set(err, EX_IOERR, "%s: %s", path, strerror(errno));
    return r;
}

/* -- table ------------------------------------------------------------------------------------- */

static void put_name(const struct candidate *c, FILE *out) {
    for (uint32_t i = 0; i < c->name_bytes; i++)
        if ((unsigned char)c->name[i] < ' ' || (unsigned char)c->name[i] == 127)
            fprintf(out, "\\x%02x", (unsigned char)c->name[i]);
        else
            fputc(c->name[i], out);
}

static int list_line(struct verify *v, const struct finding *f, void *context) {
    struct listing *l = context;
    char text[VERIFY_DETAIL_BYTES];
    if (!verify_is_finding(f->class)) return 0;
    if (l->count++ == l->most) return 1;
    fprintf(l->out, "  %-13s ", verify_class_name(f->class));
    if (f->c != NULL)
        put_name(f->c, l->out);
    else
        fputs("(name unknown)", l->out);
    if (f->row != NULL)
        fprintf(l->out, "  from %s/%d/%" PRId64, live_topic(v->known.live, f->row->topic), f->row->partition,
                f->row->offset);
    detail(f, text);
    fprintf(l->out, "%s%s\n", text[0] != '\0' ? "  " : "", text);
    return 0;
}

static int print_table(struct verify *v, const struct verify_notes *notes, uint64_t repaired, FILE *out,
                       struct err *err) {
    struct listing l = {.out = out, .most = REPORT_TABLE_MAX};
    char number[GROUPED_BYTES];
    fprintf(out, "Redis against the log up to entry %s", grouped(v->known.as_of > 0 ? v->known.as_of - 1 : 0, number));
    fprintf(out, ": %s keys looked at\n", grouped(v->looked_at, number));
    for (int c = 0; c < VERIFY_CLASS_COUNT; c++)
        if (v->tally[c] > 0 || c == VERIFY_RIGHT)
            fprintf(out, "  %-13s %15s\n", verify_class_name(c), grouped(v->tally[c], number));
    if (repaired > 0) fprintf(out, "  %-13s %15s\n", "repaired", grouped(repaired, number));
    int r = verify_findings(v, list_line, &l, err);
    if (r > 0) fprintf(out, "  … --report FILE has all of them\n");
    for (uint32_t i = 0; i < notes->count; i++) fprintf(out, "note: %s\n", notes->text[i]);
    return r < 0 ? -1 : 0;
}

int verify_print(struct verify *v, const struct verify_notes *notes, uint64_t repaired, FILE *out, struct err *err) {
    int r = v->options.json ? print_json(v, notes, repaired, out, err) : print_table(v, notes, repaired, out, err);
    if (r == 0 && fflush(out) != 0) r = err_set(err, EX_IOERR, "standard output: %s", strerror(errno));
    return r;
}

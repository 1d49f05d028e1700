#include "tools/top_layout.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MARGIN = 1, SILENT_MS = 3000, LATE_MS = 60000, TALL = 20, WIDE = 100, NARROW = 76 };

const char *top_view_name(enum top_view view) {
    static const char *const names[VIEW_COUNT] = {"overview", "lanes", "workers", "partitions"};
    return names[view];
}

/* -- states ------------------------------------------------------------------------------------ */

static enum style state_style(const char *state) {
    static const char *const bad[] = {"blocked", "failed", "stopped", "down"};
    if (strcmp(state, "running") == 0) return STYLE_GOOD;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (strcmp(state, bad[i]) == 0) return STYLE_BAD;
    return STYLE_WARN;
}

static const char *worker_name(const struct sample_worker *w, char out[32]) {
    snprintf(out, 32, w->lane >= 0 ? "%s[%d]" : "%s", role_name(w->role), w->lane);
    return out;
}

static const char *worker_state_text(const struct sample_worker *w) {
    return worker_state_name((enum worker_state)w->state);
}

static bool silent(const struct sample_worker *w) { return w->pid != 0 && w->silent_ms >= SILENT_MS; }
static bool troubled(const struct sample_worker *w) { return w->state != STATE_RUNNING || w->deaths > 0 || silent(w); }

/* -- complaints -------------------------------------------------------------------------------- */

enum { COMPLAINTS_MAX = 64, COMPLAINT_BYTES = FRAME_COLUMNS_MAX };
struct complaints {
    int count;
    enum style style[COMPLAINTS_MAX];
    char text[COMPLAINTS_MAX][COMPLAINT_BYTES];
};

__attribute__((format(printf, 3, 4))) static void complain(struct complaints *c, enum style style, const char *format,
                                                           ...) {
    va_list args;
    if (c->count == COMPLAINTS_MAX) return;
    va_start(args, format);
    vsnprintf(c->text[c->count], COMPLAINT_BYTES, format, args);
    va_end(args);
    c->style[c->count++] = style;
}

static bool same_complaint(const struct sample_worker *a, const struct sample_worker *b) {
    return a->role == b->role && a->state == b->state && strcmp(a->reason, b->reason) == 0;
}

/* Workers of one role with the same state and reason are one complaint: sixteen lanes lose their Redis together. */
static void workers_complain(struct complaints *c, const struct sample *s) {
    for (uint32_t i = 0; i < s->worker_count; i++) {
        const struct sample_worker *w = &s->worker[i];
        char name[32], more[32] = "";
        uint32_t before = 0, others = 0;
        if (w->state == STATE_RUNNING || (w->reason[0] == 0 && state_style(worker_state_text(w)) == STYLE_WARN))
            continue;
        for (uint32_t k = 0; k < s->worker_count; k++) {
            if (k == i || !same_complaint(w, &s->worker[k])) continue;
            before += k < i;
            others++;
        }
        if (before > 0) continue;
        if (others > 0) snprintf(more, sizeof more, " and %" PRIu32 " more", others);
        complain(c, state_style(worker_state_text(w)), "%s%s %s%s%s", worker_name(w, name), more, worker_state_text(w),
                 w->reason[0] != 0 ? ": " : "", w->reason);
    }
    for (uint32_t i = 0; i < s->worker_count; i++) {
        char name[32], since[FRAME_NUMBER_BYTES];
        if (silent(&s->worker[i]) && strcmp(s->state, "stopped") != 0)
            complain(c, STYLE_BAD, "%s has not been heard of for %s", worker_name(&s->worker[i], name),
                     frame_duration((int64_t)s->worker[i].silent_ms, since));
    }
}

static void complaints_make(struct complaints *c, const struct top_picture *p) {
    const struct sample *s = p->now;
    c->count = 0;
    if (!s->present) {
        complain(c, STYLE_BAD, "no instance of this name has left its statistics here; waiting for one");
        complain(c, STYLE_DIM, "%s", s->missing);
        return;
    }
    if (strcmp(s->state, "stopped") == 0)
        complain(c, STYLE_BAD, "its supervisor does not run; what follows is what it left");
    bool told = false;
    for (uint32_t i = 0; i < s->worker_count; i++) told |= strcmp(s->worker[i].reason, s->reason) == 0;
    if (s->reason[0] != 0 && !told) complain(c, state_style(s->state), "%s", s->reason);
    workers_complain(c, s);
    for (uint32_t i = 0; i < s->lost_count; i++) {
        const struct sample_partition *l = &s->partition[i];
        complain(c, STYLE_BAD, "offsets [%" PRId64 ",%" PRId64 ") lost: %s[%" PRId32 "]", l->numbers.lost_from,
                 l->numbers.lost_to, s->topic[l->topic % TOPICS_MAX], l->partition);
    }
    if (p->change->rejected > 0)
        complain(c, STYLE_WARN, "%" PRIu64 " records rejected just now (millrace rejects list)", p->change->rejected);
}

/* At most `room` rows; the last one says how many more there are. */
static int complaints_draw(struct frame *f, int row, int room, const struct complaints *c) {
    int shown = c->count <= room ? c->count : room > 1 ? room - 1 : 1;
    for (int i = 0; i < shown; i++) {
        frame_put(f, row + i, MARGIN, c->style[i], "%s", c->text[i]);
        if ((int)strlen(c->text[i]) > f->columns - MARGIN) frame_put(f, row + i, f->columns - 2, c->style[i], "..");
    }
    if (shown == c->count || shown == room) return row + shown;
    frame_put(f, row + shown, MARGIN, STYLE_WARN, "... and %d more complaints", c->count - shown);
    return row + shown + 1;
}

/* -- head and totals --------------------------------------------------------------------------- */

static void head_draw(struct frame *f, int width, const struct top_picture *p) {
    const struct sample *s = p->now;
    char up[FRAME_NUMBER_BYTES], state[32], clock[32] = "";
    time_t seconds = (time_t)(s->wall_ms / 1000);
    struct tm local;
    if (localtime_r(&seconds, &local) != NULL) strftime(clock, sizeof clock, "%H:%M:%S", &local);
    frame_put(f, 0, MARGIN, STYLE_BOLD, "%s%s%s", s->name, s->instance[0] != 0 ? "/" : "", s->instance);
    int at = MARGIN + (int)(strlen(s->name) + strlen(s->instance)) + (s->instance[0] != 0) + 2;
    snprintf(state, sizeof state, " %s ", s->state);
    frame_put(f, 0, at, state_style(s->state), "%s", state);
    at += (int)strlen(state) + 1;
    if (s->present && strcmp(s->state, "stopped") != 0)
        frame_put(f, 0, at, STYLE_DIM, "up %s", frame_duration((int64_t)s->up_ms, up));
    frame_right(f, 0, width, p->paused ? STYLE_WARN : STYLE_DIM, "  %s%s", p->paused ? "paused " : "", clock);
}

static const char *rate(const struct change *c, double value, int width, char out[FRAME_NUMBER_BYTES]) {
    return c->known ? frame_number(value, width, out) : "-";
}

static const char *byte_rate(const struct change *c, double value, char out[FRAME_NUMBER_BYTES]) {
    return c->known ? frame_bytes(value, out) : "-";
}

static int totals_draw(struct frame *f, int row, int width, const struct top_picture *p) {
    const struct change *c = p->change;
    const struct sample *s = p->now;
    bool narrow = width < NARROW;
    int label = narrow ? 32 : 36, value = narrow ? 41 : 46;
    char a[FRAME_NUMBER_BYTES], b[FRAME_NUMBER_BYTES];
    frame_put(f, row, MARGIN, STYLE_DIM, "read");
    frame_right(f, row, 19, STYLE_BOLD, "%s/s", rate(c, c->read, 7, a));
    frame_right(f, row, 30, STYLE_PLAIN, "%s/s", byte_rate(c, c->read_bytes, b));
    frame_put(f, row, label, STYLE_DIM, "lag");
    enum style late = c->behind_most_ms > LATE_MS ? STYLE_WARN : STYLE_BOLD;
    snprintf(a, sizeof a, "-");
    if (s->lag >= 0) frame_number((double)s->lag, narrow ? 7 : 11, a);
    frame_put(f, row, value, late, "%s", a);
    if (s->lag > 0 && c->behind_most_ms >= 0)
        frame_put(f, row, value + (int)strlen(a) + 1, late, "%s%s", frame_duration(c->behind_most_ms, b),
                  narrow ? "" : " behind");
    frame_put(f, row + 1, MARGIN, STYLE_DIM, "to Redis");
    frame_right(f, row + 1, 19, STYLE_BOLD, "%s/s", rate(c, c->applied, 7, a));
    frame_right(f, row + 1, 30, STYLE_PLAIN, "%s/s", byte_rate(c, c->sent_bytes, b));
    frame_put(f, row + 1, label, STYLE_DIM, "deaths");
    frame_put(f, row + 1, value, s->deaths > 0 ? STYLE_WARN : STYLE_PLAIN, "%" PRIu64, s->deaths);
    frame_put(f, row + 1, value + 5, STYLE_DIM, "rejected");
    frame_put(f, row + 1, value + 14, s->rejected > 0 ? STYLE_WARN : STYLE_PLAIN, "%s",
              frame_number((double)s->rejected, 5, a));
    return row + 2;
}

/* -- lanes ------------------------------------------------------------------------------------- */

static void bar_draw(struct frame *f, int row, int at, int width, const struct sample_ring *r) {
    char bar[64];
    double full = r->capacity == 0 ? 0 : (double)r->bytes / (double)r->capacity;
    int inside = width - 2, filled = (int)(full * inside + 0.5);
    if (filled == 0 && r->bytes > 0) filled = 1;
    if (filled > inside) filled = inside;
    memset(bar, '.', sizeof bar);
    memset(bar, '|', (size_t)filled);
    bar[inside] = 0;
    frame_put(f, row, at, STYLE_DIM, "[%s]", bar);
    frame_style(f, row, at + 1, at + 1 + filled, full > 0.9 ? STYLE_BAD : full > 0.5 ? STYLE_WARN : STYLE_GOOD);
}

/* Columns of the lanes' table for a width: where each ends. */
struct lane_columns {
    int in, applied, bytes, lag, behind, ring[RING_COUNT], bar; /* bytes, bar 0: not shown */
    bool named;                                                 /* there is room for what the rings are called */
};

static struct lane_columns lane_columns(int width, int rings) {
    struct lane_columns c = {.in = 15, .applied = 25, .lag = 37, .behind = 46};
    if (width >= WIDE) {
        c.bytes = 37;
        c.lag += 12;
        c.behind += 13;
    }
    int left = width - c.behind, each = left / rings;
    c.bar = width < NARROW ? 0 : each - 8 > 30 ? 30 : each - 8;
    c.named = c.bar > 0 && each > 13;
    int ring = c.bar == 0 ? 7 : 8 + c.bar;
    for (int i = 0; i < rings; i++) c.ring[i] = c.behind + (i + 1) * ring;
    return c;
}

static void lanes_head(struct frame *f, int row, int width, int rings) {
    struct lane_columns c = lane_columns(width, rings);
    frame_put(f, row, MARGIN, STYLE_HEAD, "%-*s", width - MARGIN, "LANE");
    frame_right(f, row, c.in, STYLE_HEAD, "READ/s");
    frame_right(f, row, c.applied, STYLE_HEAD, "REDIS/s");
    if (c.bytes > 0) frame_right(f, row, c.bytes, STYLE_HEAD, "BYTES/s");
    frame_right(f, row, c.lag, STYLE_HEAD, "LAG");
    frame_right(f, row, c.behind, STYLE_HEAD, "BEHIND");
    for (int i = 0; i < rings; i++) {
        static const char *const to[RING_COUNT] = {"TO TRANSFORM", "TO SINK", "TO AUDIT"};
        static const char *const narrow[RING_COUNT] = {"RING 1", "RING 2", "RING 3"};
        frame_right(f, row, c.ring[i], STYLE_HEAD, "%s", c.named ? to[i] : narrow[i]);
    }
}

static void lane_draw(struct frame *f, int row, int width, const struct top_picture *p, uint32_t i) {
    const struct sample_lane *l = &p->now->lane[i];
    const struct change *ch = p->change;
    const int rings = (int)p->now->ring_count;
    struct lane_columns c = lane_columns(width, rings);
    char a[FRAME_NUMBER_BYTES];
    frame_put(f, row, MARGIN, STYLE_PLAIN, "%" PRIu32, i);
    frame_right(f, row, c.in, STYLE_PLAIN, "%s", rate(ch, ch->lane_in[i], 9, a));
    frame_right(f, row, c.applied, STYLE_PLAIN, "%s", rate(ch, ch->lane_applied[i], 9, a));
    if (c.bytes > 0) frame_right(f, row, c.bytes, STYLE_PLAIN, "%s", byte_rate(ch, ch->lane_bytes[i], a));
    frame_right(f, row, c.lag, STYLE_BOLD, "%s", l->lag < 0 ? "-" : frame_number((double)l->lag, 11, a));
    frame_right(f, row, c.behind, ch->behind_ms[i] > LATE_MS ? STYLE_WARN : STYLE_PLAIN, "%s",
                frame_duration(ch->behind_ms[i], a));
    for (int r = 0; r < rings; r++) {
        int end = c.ring[r] - c.bar;
        frame_right(f, row, end - (c.bar > 0), STYLE_PLAIN, "%s", frame_number((double)l->ring[r].records, 6, a));
        if (c.bar > 2 && l->ring[r].capacity > 0) bar_draw(f, row, end, c.bar, &l->ring[r]);
    }
}

/* Which lanes to show first when not all fit. */
static void lanes_by_lag(const struct sample *s, uint32_t order[LANES_MAX]) {
    for (uint32_t i = 0; i < s->lane_count; i++) {
        uint32_t k = i;
        for (; k > 0 && s->lane[order[k - 1]].lag < s->lane[i].lag; k--) order[k] = order[k - 1];
        order[k] = i;
    }
}

static void lanes_draw(struct frame *f, int row, int rows, int width, const struct top_picture *p) {
    uint32_t order[LANES_MAX], n = p->now->lane_count, room = (uint32_t)rows - 1;
    lanes_head(f, row++, width, (int)p->now->ring_count);
    lanes_by_lag(p->now, order);
    for (uint32_t i = 0; i < n && i < (n <= room ? n : room - 1); i++)
        lane_draw(f, row++, width, p, n <= room ? i : order[i]);
    if (n > room) frame_put(f, row, MARGIN, STYLE_DIM, "... %" PRIu32 " more lanes", n - room + 1);
}

/* -- latency ----------------------------------------------------------------------------------- */

static void latency_draw(struct frame *f, int row, int rows, int width, const struct top_picture *p) {
    static const char *const names[LATENCY_COUNT] = {"Kafka to ring", "ring to Redis", "Kafka to Redis"};
    const struct change *c = p->change;
    char a[FRAME_NUMBER_BYTES];
    (void)rows;
    frame_put(f, row, MARGIN, STYLE_HEAD, "%-*s", width - MARGIN, "LATENCY");
    frame_right(f, row, 28, STYLE_HEAD, "P50");
    frame_right(f, row, 40, STYLE_HEAD, "P99");
    frame_right(f, row, 54, STYLE_HEAD, "RECORDS/s");
    for (int i = 0; i < LATENCY_COUNT; i++) {
        const struct merged *m = &c->latency[i];
        row++;
        frame_put(f, row, MARGIN, STYLE_PLAIN, "%s", names[i]);
        frame_right(f, row, 28, STYLE_BOLD, "%s", frame_latency(view_quantile_ms(m, 0.5), a));
        frame_right(f, row, 40, STYLE_BOLD, "%s", frame_latency(view_quantile_ms(m, 0.99), a));
        frame_right(f, row, 54, STYLE_PLAIN, "%s", rate(c, sample_rate(0, m->count, c->interval_ns), 9, a));
    }
}

/* -- workers ----------------------------------------------------------------------------------- */

static void workers_head(struct frame *f, int row, int width) {
    frame_put(f, row, MARGIN, STYLE_HEAD, "%-*s", width - MARGIN, "WORKER");
    frame_put(f, row, 16, STYLE_HEAD, "STATE");
    frame_right(f, row, 37, STYLE_HEAD, "DEATHS");
    frame_right(f, row, 44, STYLE_HEAD, "CPU");
    frame_right(f, row, 54, STYLE_HEAD, "MEMORY");
    frame_right(f, row, 65, STYLE_HEAD, "PID");
    if (width >= WIDE) frame_put(f, row, 68, STYLE_HEAD, "REASON");
}

static void worker_draw(struct frame *f, int row, int width, const struct top_picture *p, uint32_t i) {
    const struct sample_worker *w = &p->now->worker[i];
    char name[32], memory[FRAME_NUMBER_BYTES];
    frame_put(f, row, MARGIN, STYLE_PLAIN, "%s", worker_name(w, name));
    frame_put(f, row, 16, state_style(worker_state_text(w)), "%s", worker_state_text(w));
    frame_right(f, row, 37, w->deaths > 0 ? STYLE_WARN : STYLE_PLAIN, "%" PRIu64, w->deaths);
    if (p->change->known)
        frame_right(f, row, 44, STYLE_PLAIN, "%.0f%%", 100 * p->change->cpu[i]);
    else
        frame_right(f, row, 44, STYLE_PLAIN, "-");
    frame_right(f, row, 54, STYLE_PLAIN, "%s", frame_bytes((double)w->memory, memory));
    if (w->pid != 0) frame_right(f, row, 65, STYLE_DIM, "%" PRIu32, w->pid);
    if (width < WIDE || w->reason[0] == 0) return;
    frame_put(f, row, 68, STYLE_PLAIN, "%.*s", width - 68, w->reason);
}

/* All when they fit; else those with something to say, and how many there are besides. */
static void workers_draw(struct frame *f, int row, int rows, int width, const struct top_picture *p) {
    uint32_t n = p->now->worker_count, room = (uint32_t)rows - 1, shown = 0, running = 0;
    double cpu = 0, memory = 0; /* of those that are not shown */
    char text[FRAME_NUMBER_BYTES];
    workers_head(f, row++, width);
    for (uint32_t i = 0; i < n; i++) {
        bool show = n <= room || (troubled(&p->now->worker[i]) && shown + 1 < room);
        running += !show && p->now->worker[i].state == STATE_RUNNING;
        shown += show;
        cpu += show ? 0 : p->change->cpu[i];
        memory += show ? 0 : (double)p->now->worker[i].memory;
        if (show) worker_draw(f, row++, width, p, i);
    }
    if (shown == n) return;
    frame_put(f, row, MARGIN, STYLE_DIM, "%s%" PRIu32 "%s workers, %s", shown > 0 ? "... " : "", n - shown,
              shown > 0 ? " more" : "", running == n - shown ? "all running" : "not all running");
    if (p->change->known) frame_right(f, row, 44, STYLE_DIM, "%.0f%%", 100 * cpu);
    frame_right(f, row, 54, STYLE_DIM, "%s", frame_bytes(memory, text));
}

/* -- partitions -------------------------------------------------------------------------------- */

static void partition_draw(struct frame *f, int row, int width, const struct sample *s, uint32_t i) {
    const struct sample_partition *one = &s->partition[i];
    const struct partition_numbers *n = &one->numbers;
    char a[FRAME_NUMBER_BYTES], number[16];
    int room = width - 46;
    const char *topic = s->topic[one->topic % TOPICS_MAX];
    snprintf(number, sizeof number, "[%" PRId32 "]", one->partition);
    int most = room - (int)strlen(number), length = (int)strlen(topic);
    if (length <= most)
        frame_put(f, row, MARGIN, STYLE_PLAIN, "%s%s", topic, number);
    else /* the end of a topic's name tells more than its beginning */
        frame_put(f, row, MARGIN, STYLE_PLAIN, "..%s%s", topic + (length - most + 2), number);
    frame_right(f, row, width - 32, n->lag > 0 ? STYLE_BOLD : STYLE_PLAIN, "%s",
                n->lag < 0 ? "-" : frame_number((double)n->lag, 11, a));
    if (n->lost_to != 0)
        frame_right(f, row, width, STYLE_BAD, "lost [%" PRId64 ",%" PRId64 ")", n->lost_from, n->lost_to);
    else {
        frame_right(f, row, width - 16, STYLE_PLAIN, "%" PRId64, n->released < 0 ? n->committed : n->released);
        frame_right(f, row, width, STYLE_PLAIN, "%" PRId64, n->high > n->position ? n->high : n->position);
    }
}

static void partitions_draw(struct frame *f, int row, int rows, int width, const struct top_picture *p) {
    uint32_t n = p->now->partition_count, room = (uint32_t)rows - 1;
    uint32_t shown = n <= room ? n : room - 1;
    frame_put(f, row, MARGIN, STYLE_HEAD, "%-*s", width - MARGIN, "PARTITION");
    frame_right(f, row, width - 32, STYLE_HEAD, "LAG");
    frame_right(f, row, width - 16, STYLE_HEAD, "IN REDIS TO");
    frame_right(f, row, width, STYLE_HEAD, "END");
    for (uint32_t i = 0; i < shown; i++) partition_draw(f, ++row, width, p->now, i);
    if (n == 0)
        frame_put(f, row + 1, MARGIN, STYLE_DIM, "none assigned");
    else if (shown < n)
        frame_put(f, row + 1, MARGIN, STYLE_DIM, "... %" PRIu32 " more", n - shown);
}

/* -- room -------------------------------------------------------------------------------------- */

enum { LANES, WORKERS, PARTITIONS, LATENCY, SECTIONS };
struct section {
    int least, most, given; /* rows, the head of the table included; given 0: not shown */
    int enough;             /* rows beyond which only `most` shows more */
    void (*draw)(struct frame *f, int row, int rows, int width, const struct top_picture *p);
};

static int least(int a, int b) { return a < b ? a : b; }

static void sections_want(struct section t[SECTIONS], const struct top_picture *p) {
    const struct sample *s = p->now;
    int lanes = (int)s->lane_count, workers = (int)s->worker_count, partitions = (int)s->partition_count, trouble = 0;
    for (int i = 0; i < workers; i++) trouble += troubled(&s->worker[i]);
    t[LANES] = (struct section){1 + least(lanes, 2), 1 + lanes, 0, lanes, lanes_draw};
    t[WORKERS] = (struct section){1 + least(workers, least(trouble, 3) + 1), 1 + workers, 0, 2 + trouble, workers_draw};
    t[PARTITIONS] = (struct section){1 + least(partitions, 2), 1 + (partitions > 0 ? partitions : 1), 0, partitions,
                                     partitions_draw};
    if (t[PARTITIONS].least == 1) t[PARTITIONS].least = 2;
    t[LATENCY] = (struct section){1 + LATENCY_COUNT, 1 + LATENCY_COUNT, 0, LATENCY_COUNT, latency_draw};
    if (p->view == VIEW_OVERVIEW) return;
    int only = p->view == VIEW_LANES ? LANES : p->view == VIEW_WORKERS ? WORKERS : PARTITIONS;
    for (int i = 0; i < SECTIONS; i++)
        if (i != only) t[i].least = t[i].most = FRAME_ROWS_MAX + 1; /* fits nowhere */
}

/* First the least of each, in the order of what an operator needs; then more for the same, as long as there is room.
 * The partitions, of which there may be a thousand, take what is left. */
static void rows_give(struct section t[SECTIONS], int left, int gap) {
    for (int i = 0; i < SECTIONS; i++) {
        if (t[i].least + gap > left) continue;
        t[i].given = t[i].least;
        left -= t[i].least + gap;
    }
    const int more[SECTIONS] = {LANES, WORKERS, LATENCY, PARTITIONS};
    for (int k = 0; k < SECTIONS; k++) {
        struct section *one = &t[more[k]];
        if (one->given == 0) continue;
        int extra = least(left, one->most - one->given);
        if (one->given + extra < one->most && one->given + extra > one->enough) extra = one->enough - one->given;
        if (extra < 0) extra = 0;
        one->given += extra;
        left -= extra;
    }
}

void top_layout(struct frame *f, int width, const struct top_picture *p) {
    static struct complaints complaints; /* large */
    const int order[SECTIONS] = {LANES, LATENCY, WORKERS, PARTITIONS};
    struct section t[SECTIONS];
    int bottom = f->rows - (p->footer != NULL), gap = f->rows >= TALL, row = 1;
    head_draw(f, width, p);
    complaints_make(&complaints, p);
    int room = bottom / 4 > 1 ? bottom / 4 : 1;
    row = complaints_draw(f, row, room, &complaints);
    if (p->now->present && bottom - row >= 2 + gap) {
        row = totals_draw(f, row + gap, width, p);
        sections_want(t, p);
        rows_give(t, bottom - row, gap);
        for (int k = 0; k < SECTIONS; k++) {
            const struct section *one = &t[order[k]];
            if (one->given == 0) continue;
            one->draw(f, row + gap, one->given, width, p);
            row += one->given + gap;
        }
    }
    if (p->footer != NULL) frame_put(f, f->rows - 1, MARGIN, STYLE_DIM, "%s", p->footer);
}

#include "recon/merge.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

/* Takes the next row of source i into head[i]. 0, or -1 with err. */
static int advance(struct merge *m, uint32_t i, struct err *err) {
    if (i == m->count) {
        m->head[i] = m->sorted_at < m->sorted_count ? m->sorted[m->sorted_at++] : NULL;
        return 0;
    }
    struct err own = {0};
    m->head[i] = run_cursor_next(&m->cursor[i], &own);
    if (own.code == 0) return 0;
    *err = own;
    return -1;
}

int merge_begin(struct merge *m, const struct run *const *runs, uint32_t count, const struct delta *delta,
                struct err *err) {
    CHECK(count <= MERGE_RUNS_MAX);
    memset(m, 0, sizeof *m);
    m->count = count;
    m->cursor = calloc(count + 1, sizeof *m->cursor);
    if (m->cursor == NULL) return err_set(err, EX_OSERR, "no memory for merging %u runs", count);
    if (delta != NULL) {
        m->sorted = delta_sorted(delta, err);
        m->sorted_count = delta->count;
        if (m->sorted == NULL) {
            merge_end(m);
            return -1;
        }
    }
    for (uint32_t i = 0; i < count; i++) run_cursor_init(&m->cursor[i], runs[i], 0);
    for (uint32_t i = 0; i <= count; i++)
        if (advance(m, i, err) != 0) {
            merge_end(m);
            return -1;
        }
    return 0;
}

const struct live_row *merge_next(struct merge *m, struct err *err) {
    const struct live_row *least = NULL;
    for (uint32_t i = 0; i <= m->count; i++)
        if (m->head[i] != NULL && (least == NULL || memcmp(m->head[i]->key, least->key, DIGEST_BYTES) < 0))
            least = m->head[i];
    if (least == NULL) return NULL;
    m->row = *least;
    for (uint32_t i = 0; i <= m->count; i++) {
        if (m->head[i] == NULL || memcmp(m->head[i]->key, m->row.key, DIGEST_BYTES) != 0) continue;
        if (live_replaces(m->head[i], &m->row)) m->row = *m->head[i];
        if (advance(m, i, err) != 0) return NULL;
    }
    return &m->row;
}

void merge_end(struct merge *m) {
    free(m->cursor);
    free(m->sorted);
    m->cursor = NULL;
    m->sorted = NULL;
}

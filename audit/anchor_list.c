#include "audit/anchor_list.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_text.h"

/* How the lines of this log name it. */
static char *names_of(const struct log_head *head) {
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    CHECK(f != NULL);
    fputs(",\"name\":", f);
    json_text_put(head->name, strlen(head->name), f);
    fputs(",\"instance\":", f);
    json_text_put(head->instance, strlen(head->instance), f);
    fputs(",\"group\":", f);
    json_text_put(head->group, strlen(head->group), f);
    fputs(",\"signature\":", f);
    CHECK(fclose(f) == 0);
    return text;
}

static int by_sequence(const void *a, const void *b) {
    const struct anchor_row *x = a, *y = b;
    if (x->anchor.sequence != y->anchor.sequence) return x->anchor.sequence > y->anchor.sequence ? 1 : -1;
    return (x->line > y->line) - (x->line < y->line);
}

static bool known(const struct anchor_list *l, const struct anchor *a) {
    for (size_t i = l->count; i > 0 && i + 64 > l->count; i--) /* delivered twice: not far apart */
        if (memcmp(l->row[i - 1].anchor.signature, a->signature, sizeof a->signature) == 0) return true;
    return false;
}

static void row_add(struct anchor_list *l, const struct anchor *a, uint64_t line) {
    if (l->count == l->room) {
        l->room = l->room * 2 + 64;
        l->row = reallocarray(l->row, l->room, sizeof *l->row);
        CHECK(l->row != NULL);
    }
    l->row[l->count++] = (struct anchor_row){.anchor = *a, .line = line};
}

int anchor_list_load(struct anchor_list *l, const char *path, const struct log_head *head, EVP_PKEY *key, bool whole,
                     void (*fault)(void *context, uint64_t line, enum anchor_fault fault), void *context,
                     struct err *err) {
    static const uint8_t zeros[ANCHOR_SIGNATURE_BYTES];
    struct anchor a;
    char *text = NULL;
    size_t room = 0;
    ssize_t len;
    uint64_t line = 0;
    *l = (struct anchor_list){0};
    FILE *f = fopen(path, "re");
    if (f == NULL) return err_set(err, errno, "%s: %s", path, strerror(errno));
    char *names = head != NULL ? names_of(head) : NULL;
    while ((len = getline(&text, &room, f)) >= 0) {
        line++;
        if (text[len - 1] != '\n') break; /* is being written */
        if (anchor_parse(&a, text, (size_t)len) != 0) {
            fault(context, line, ANCHOR_NONE);
            continue;
        }
        if (names != NULL && strstr(text, names) == NULL) {
            l->foreign++;
            continue;
        }
        if (known(l, &a)) continue;
        if (key != NULL && !anchor_signed(text, (size_t)len, key)) {
            fault(context, line, ANCHOR_UNSIGNED);
            continue;
        }
        const uint8_t *before = l->count > 0 ? l->row[l->count - 1].anchor.signature : whole ? zeros : a.previous;
        if (memcmp(a.previous, before, sizeof a.previous) != 0) fault(context, line, ANCHOR_GAP);
        row_add(l, &a, line);
    }
    int code = ferror(f) != 0 ? EIO : 0;
    fclose(f);
    free(text);
    free(names);
    if (l->count > 0) qsort(l->row, l->count, sizeof *l->row, by_sequence);
    return code == 0 ? 0 : err_set(err, code, "%s: %s", path, strerror(code));
}

void anchor_list_free(struct anchor_list *l) {
    free(l->row);
    *l = (struct anchor_list){0};
}

/* The first row of this sequence number, or where it would be. */
static size_t row_find(const struct anchor_list *l, uint64_t sequence) {
    size_t low = 0, high = l->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (l->row[middle].anchor.sequence < sequence)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void anchor_list_meet(struct anchor_list *l, uint64_t segment, uint64_t sequence, const uint8_t mac[LOG_MAC_BYTES]) {
    for (size_t i = row_find(l, sequence); i < l->count && l->row[i].anchor.sequence == sequence; i++) {
        struct anchor_row *r = &l->row[i];
        r->seen = true;
        r->met |= r->anchor.segment == segment && memcmp(r->anchor.mac, mac, LOG_MAC_BYTES) == 0;
    }
}

const struct anchor *anchor_list_removed(const struct anchor_list *l, uint64_t sequence) {
    for (size_t i = row_find(l, sequence); i < l->count && l->row[i].anchor.sequence == sequence; i++)
        if (l->row[i].anchor.removed) return &l->row[i].anchor;
    return NULL;
}

#include "recon/silence.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

void silences_path(const struct config *c, char out[PATH_BYTES + 32]) {
    snprintf(out, PATH_BYTES + 32, "%s/recon/silences", c->data_dir);
}

/* "UNTIL_MS WINDOW_MS TOPIC\n" */
static int line_parse(const char *line, struct silence *out) {
    char *end;
    errno = 0;
    out->until_ms = strtoll(line, &end, 10);
    if (end == line || *end != ' ' || errno != 0) return -1;
    const char *window = end + 1;
    out->window_ms = strtoll(window, &end, 10);
    if (end == window || *end != ' ' || errno != 0) return -1;
    size_t len = strcspn(end + 1, "\n");
    if (len == 0 || len >= sizeof out->topic || end[1 + len] != '\n') return -1;
    memcpy(out->topic, end + 1, len);
    out->topic[len] = '\0';
    return 0;
}

int silences_read(const char *path, struct silences *out, struct err *err) {
    char line[TOPIC_BYTES + 64];
    out->count = 0;
    FILE *f = fopen(path, "re");
    if (f == NULL && errno == ENOENT) return 0;
    if (f == NULL) return err_set(err, EX_NOINPUT, "%s: %s", path, strerror(errno));
    for (int n = 1; fgets(line, sizeof line, f) != NULL; n++) {
        if (out->count < SILENCES_MAX && line_parse(line, &out->item[out->count]) == 0) {
            out->count++;
            continue;
        }
        fclose(f);
        out->count = 0;
        return err_set(err, EX_DATAERR, "%s:%d: not a silence", path, n);
    }
    bool bad = ferror(f);
    fclose(f);
    return bad ? err_set(err, EX_NOINPUT, "%s: cannot be read", path) : 0;
}

int silences_write(const char *path, const struct silences *s, struct err *err) {
    char temporary[PATH_BYTES + 64];
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (f == NULL) return err_set(err, EX_CANTCREAT, "%s: %s", temporary, strerror(errno));
    for (size_t i = 0; i < s->count; i++)
        fprintf(f, "%" PRId64 " %" PRId64 " %s\n", s->item[i].until_ms, s->item[i].window_ms, s->item[i].topic);
    bool bad = fflush(f) != 0 || fdatasync(fd) != 0;
    bad |= fclose(f) != 0;
    if (!bad && rename(temporary, path) == 0) return 0;
    err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
    unlink(temporary);
    return -1;
}

int silences_put(struct silences *s, const struct silence *item, int64_t now_ms) {
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++) {
        const struct silence *old = &s->item[i];
        bool same = old->window_ms == item->window_ms && strcmp(old->topic, item->topic) == 0;
        if (!same && old->until_ms > now_ms) s->item[kept++] = *old;
    }
    s->count = kept;
    if (item->until_ms <= now_ms) return 0;
    if (s->count == SILENCES_MAX) return -1;
    s->item[s->count++] = *item;
    return 0;
}

int64_t silences_until(const struct silences *s, const char *topic, int64_t window_ms, int64_t now_ms) {
    int64_t until = 0;
    for (size_t i = 0; i < s->count; i++) {
        const struct silence *item = &s->item[i];
        if (item->window_ms != window_ms || item->until_ms <= now_ms || item->until_ms <= until) continue;
        if (strcmp(item->topic, "*") == 0 || strcmp(item->topic, topic) == 0) until = item->until_ms;
    }
    return until;
}

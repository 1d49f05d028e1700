#include "ingest/subscription.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_BYTES = (TOPICS_MAX + 2) * TOPIC_BYTES };

static int name_compare(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Group and member, then the topics, a line each and in order: another order in the file is no other subscription. */
static size_t text_make(const struct config *c, char text[TEXT_BYTES]) {
    const char *name[TOPICS_MAX];
    for (uint32_t i = 0; i < c->topic_count; i++) name[i] = c->topic[i].name;
    qsort(name, c->topic_count, sizeof name[0], name_compare);
    size_t n = (size_t)snprintf(text, TEXT_BYTES, "%s %s-%s\n", c->kafka.group_id, c->name, c->instance);
    for (uint32_t i = 0; i < c->topic_count; i++) n += (size_t)snprintf(text + n, TEXT_BYTES - n, "%s\n", name[i]);
    return n;
}

static void path_make(const struct config *c, const char *suffix, char path[PATH_BYTES + 32]) {
    snprintf(path, PATH_BYTES + 32, "%s/subscription%s", c->data_dir, suffix);
}

bool subscription_changed(const struct config *c) {
    char path[PATH_BYTES + 32], told[TEXT_BYTES], now[TEXT_BYTES];
    path_make(c, "", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, told, sizeof told);
    close(fd);
    size_t wanted = text_make(c, now);
    return n < 0 || (size_t)n != wanted || memcmp(told, now, wanted) != 0;
}

int subscription_note(const struct config *c, struct err *err) {
    char path[PATH_BYTES + 32], draft[PATH_BYTES + 32], text[TEXT_BYTES];
    path_make(c, "", path);
    path_make(c, ".new", draft);
    size_t len = text_make(c, text);
    int fd = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    bool written = fd >= 0 && write(fd, text, len) == (ssize_t)len;
    if (fd >= 0 && close(fd) != 0) written = false;
    if (written && rename(draft, path) == 0) return 0;
    return err_set(err, errno, "%s: %s", draft, strerror(errno));
}

#include "base/refeed_request.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/write_all.h"

#define OFFSET_MAX ((1LL << 62) - 1)
#define FILE_BYTES_MAX                                                                                                 \
    (sizeof(struct refeed_head) + PARTITIONS_MAX * sizeof(struct refeed_partition) +                                   \
     REFEED_OFFSETS_MAX * sizeof(int64_t))

static_assert(sizeof(struct refeed_head) == 24 && sizeof(struct refeed_partition) == 272, "format of the request");

static const char *const state_names[] = {"done", "elsewhere", "unknown", "ended"};

const char *refeed_state_name(enum refeed_state state) { return state_names[state]; }

void refeed_path(char out[PATH_BYTES + 64], const char *data_dir, const char *id, const char *suffix) {
    if (id == NULL)
        snprintf(out, PATH_BYTES + 64, "%.500s/refeed", data_dir);
    else
        snprintf(out, PATH_BYTES + 64, "%.500s/refeed/%.16s.%.16s", data_dir, id, suffix);
}

bool refeed_id_valid(const char *id) {
    return strlen(id) == REFEED_ID_BYTES - 1 && strspn(id, "0123456789abcdef") == REFEED_ID_BYTES - 1;
}

/* -- making one -------------------------------------------------------------------------------- */

struct chosen {
    struct refeed_partition head;
    int64_t *offset;
    size_t room;
};

struct refeed_request {
    struct chosen *part; /* PARTITIONS_MAX */
    uint32_t parts, offsets;
    uint32_t last; /* the one found last: offsets mostly come partition by partition */
};

struct refeed_request *refeed_request_new(void) {
    struct refeed_request *r = calloc(1, sizeof *r);
    if (r == NULL) return NULL;
    r->part = calloc(PARTITIONS_MAX, sizeof *r->part);
    if (r->part != NULL) return r;
    free(r);
    return NULL;
}

void refeed_request_free(struct refeed_request *r) {
    if (r == NULL) return;
    for (uint32_t i = 0; i < r->parts; i++) free(r->part[i].offset);
    free(r->part);
    free(r);
}

uint32_t refeed_request_count(const struct refeed_request *r) { return r->offsets; }

static struct chosen *chosen_find(struct refeed_request *r, const char *topic, int32_t partition) {
    for (uint32_t k = 0; k < r->parts; k++) {
        uint32_t i = (r->last + k) % r->parts;
        if (r->part[i].head.partition != partition || strcmp(r->part[i].head.topic, topic) != 0) continue;
        r->last = i;
        return &r->part[i];
    }
    return NULL;
}

static bool topic_fits(const char *topic) {
    size_t len = strlen(topic);
    return len > 0 && len < TOPIC_BYTES && strpbrk(topic, " \t\r\n/") == NULL;
}

int refeed_request_until(struct refeed_request *r, const char *topic, int32_t partition, int64_t until,
                         struct err *err) {
    if (!topic_fits(topic) || partition < 0 || until < 0 || until > OFFSET_MAX)
        return err_set(err, EX_USAGE, "%s[%d] up to %lld cannot be refed", topic, partition, (long long)until);
    struct chosen *c = chosen_find(r, topic, partition);
    if (c == NULL && r->parts == PARTITIONS_MAX)
        return err_set(err, EX_USAGE, "a request has at most %d partitions", PARTITIONS_MAX);
    if (c == NULL) {
        c = &r->part[r->parts++];
        memcpy(c->head.topic, topic, strlen(topic) + 1);
        c->head.partition = partition;
    }
    c->head.until = until;
    return 0;
}

int refeed_request_add(struct refeed_request *r, const char *topic, int32_t partition, int64_t offset,
                       struct err *err) {
    struct chosen *c = chosen_find(r, topic, partition);
    if (c == NULL) return err_set(err, EX_USAGE, "%s[%d] is not in the request", topic, partition);
    if (offset < 0 || offset >= c->head.until)
        return err_set(err, EX_USAGE, "offset %lld of %s[%d] is not below %lld", (long long)offset, topic, partition,
                       (long long)c->head.until);
    if (r->offsets == REFEED_OFFSETS_MAX)
        return err_set(err, EX_USAGE, "a request has at most %d offsets", REFEED_OFFSETS_MAX);
    if (c->head.count == c->room) {
        size_t room = c->room == 0 ? 64 : 2 * c->room;
        int64_t *bigger = realloc(c->offset, room * sizeof *bigger);
        if (bigger == NULL) return err_set(err, EX_OSERR, "no memory");
        c->offset = bigger;
        c->room = room;
    }
    c->offset[c->head.count++] = offset;
    r->offsets++;
    return 0;
}

static int by_offset(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Ascending, each once, below `until`, which may have been lowered since. Returns how many were dropped. */
static uint32_t chosen_sort(struct chosen *c) {
    uint32_t n = 0, before = c->head.count;
    if (before > 0) qsort(c->offset, before, sizeof *c->offset, by_offset);
    for (uint32_t i = 0; i < before; i++)
        if (c->offset[i] < c->head.until && (n == 0 || c->offset[i] != c->offset[n - 1])) c->offset[n++] = c->offset[i];
    c->head.count = n;
    return before - n;
}

static void *request_encode(struct refeed_request *r, size_t *len) {
    for (uint32_t i = 0; i < r->parts; i++) r->offsets -= chosen_sort(&r->part[i]);
    *len = sizeof(struct refeed_head) + r->parts * sizeof(struct refeed_partition) + r->offsets * sizeof(int64_t);
    uint8_t *bytes = malloc(*len), *at = bytes;
    if (bytes == NULL) return NULL;
    struct refeed_head head = {REFEED_MAGIC, REFEED_VERSION, r->parts, r->offsets};
    memcpy(at, &head, sizeof head);
    at += sizeof head;
    for (uint32_t i = 0; i < r->parts; i++) {
        const struct chosen *c = &r->part[i];
        memcpy(at, &c->head, sizeof c->head);
        at += sizeof c->head;
        if (c->head.count > 0) memcpy(at, c->offset, c->head.count * sizeof *c->offset);
        at += c->head.count * sizeof *c->offset;
    }
    return bytes;
}

/* A file that is there whole or not at all, in the folder of refeeds, which is made when it is missing. */
static int file_put(const char *data_dir, const char *id, const char *suffix, const void *bytes, size_t len,
                    struct err *err) {
    char folder[PATH_BYTES + 64], path[PATH_BYTES + 64], made[PATH_BYTES + 64];
    refeed_path(folder, data_dir, NULL, NULL);
    refeed_path(path, data_dir, id, suffix);
    refeed_path(made, data_dir, id, "new");
    if (mkdir(folder, 0700) != 0 && errno != EEXIST)
        return err_set(err, EX_CANTCREAT, "%s: %s", folder, strerror(errno));
    int at = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = open(made, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int r = at >= 0 && fd >= 0 && write_all(fd, bytes, len) == 0 && fsync(fd) == 0 && rename(made, path) == 0 &&
                    fsync(at) == 0
                ? 0
                : -1;
    if (r != 0) err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    if (at >= 0) close(at);
    if (r != 0) unlink(made);
    return r;
}

/* Names sort by time, so that requests are carried out in the order in which they were made; the last digits are
 * random. */
static int id_make(char id[REFEED_ID_BYTES]) {
    struct timespec now;
    uint16_t random;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0 || getrandom(&random, sizeof random, 0) != sizeof random) return -1;
    uint64_t ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    snprintf(id, REFEED_ID_BYTES, "%012" PRIx64 "%04x", ms & 0xffffffffffff, (unsigned)random);
    return 0;
}

int refeed_request_write(struct refeed_request *r, const char *data_dir, char id[REFEED_ID_BYTES], struct err *err) {
    size_t len;
    if (r->parts == 0) return err_set(err, EX_USAGE, "a request needs a partition");
    if (id_make(id) != 0) return err_set(err, EX_CANTCREAT, "no random number: %s", strerror(errno));
    void *bytes = request_encode(r, &len);
    if (bytes == NULL) return err_set(err, EX_CANTCREAT, "no memory");
    int result = file_put(data_dir, id, "refeed", bytes, len, err);
    free(bytes);
    return result;
}

bool refeed_request_remove(const char *data_dir, const char *id) {
    char path[PATH_BYTES + 64];
    refeed_path(path, data_dir, id, "done");
    bool done = access(path, F_OK) == 0;
    refeed_path(path, data_dir, id, "begun");
    if (!done && access(path, F_OK) == 0) return false;
    static const char *const suffix[] = {"refeed", "begun", "done"}; /* the result last: nothing begins again */
    for (size_t i = 0; i < sizeof suffix / sizeof suffix[0]; i++) {
        refeed_path(path, data_dir, id, suffix[i]);
        unlink(path);
    }
    return true;
}

/* -- reading one ------------------------------------------------------------------------------- */

static void *file_get(const char *path, size_t max, size_t *len, struct err *err) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        err_set(err, EX_NOINPUT, "%s: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return NULL;
    }
    char *bytes = NULL;
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > max)
        err_set(err, EX_DATAERR, "%s: not a file of at most %zu bytes", path, max);
    else if ((bytes = malloc((size_t)st.st_size + 1)) == NULL)
        err_set(err, EX_OSERR, "no memory");
    *len = 0;
    for (ssize_t n = 1; bytes != NULL && n > 0 && *len<(size_t)st.st_size; *len += n> 0 ? (size_t)n : 0)
        n = read(fd, bytes + *len, (size_t)st.st_size - *len);
    close(fd);
    if (bytes != NULL) bytes[*len] = 0;
    return bytes;
}

/* One partition and its offsets at *at. 0, or -1 when it is not one. */
static int part_check(const uint8_t *bytes, size_t len, size_t *at, struct refeed_wanted *out) {
    const struct refeed_partition *p = (const struct refeed_partition *)(const void *)(bytes + *at);
    if (len - *at < sizeof *p) return -1;
    *at += sizeof *p;
    if (memchr(p->topic, 0, sizeof p->topic) == NULL || !topic_fits(p->topic) || p->partition < 0 || p->until < 0 ||
        p->until > OFFSET_MAX || (len - *at) / sizeof(int64_t) < p->count)
        return -1;
    const int64_t *offset = (const int64_t *)(const void *)(bytes + *at);
    *at += p->count * sizeof *offset;
    for (uint32_t i = 0; i < p->count; i++)
        if (offset[i] < 0 || offset[i] >= p->until || (i > 0 && offset[i] <= offset[i - 1])) return -1;
    for (uint32_t i = 0; i < out->count; i++)
        if (out->part[i]->partition == p->partition && strcmp(out->part[i]->topic, p->topic) == 0) return -1;
    out->part[out->count] = p;
    out->offset[out->count++] = offset;
    return 0;
}

int refeed_request_read(const char *path, struct refeed_wanted *out, struct err *err) {
    size_t len, at = sizeof(struct refeed_head);
    uint64_t offsets = 0;
    *out = (struct refeed_wanted){.memory = file_get(path, FILE_BYTES_MAX, &len, err)};
    if (out->memory == NULL) return -1;
    const uint8_t *bytes = out->memory;
    const struct refeed_head *head = out->memory;
    bool ok = len >= sizeof *head && head->magic == REFEED_MAGIC && head->version == REFEED_VERSION &&
              head->partitions >= 1 && head->partitions <= PARTITIONS_MAX && head->offsets <= REFEED_OFFSETS_MAX;
    for (uint32_t i = 0; ok && i < head->partitions; i++) {
        ok = part_check(bytes, len, &at, out) == 0;
        if (ok) offsets += out->part[i]->count;
    }
    if (ok && at == len && offsets == head->offsets) return 0;
    free(out->memory);
    out->memory = NULL;
    return err_set(err, EX_DATAERR, "%s is not a refeed request of this version", path);
}

/* -- what became of it ------------------------------------------------------------------------- */

int refeed_result_write(const char *data_dir, const char *id, const struct refeed_result *r, struct err *err) {
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    if (f == NULL) return err_set(err, EX_OSERR, "no memory");
    fputs("millrace refeed 1\n", f);
    for (uint32_t i = 0; i < r->partitions; i++) {
        const struct refeed_outcome *o = &r->partition[i];
        fprintf(f, "partition %s %d %s asked=%" PRIu64 " fed=%" PRIu64 " covered=%" PRIu64 " from=%" PRId64 "\n",
                o->topic, o->partition, refeed_state_name(o->state), o->asked, o->fed, o->covered, o->from);
    }
    for (uint32_t i = 0; i < r->missing; i++)
        fprintf(f, "missing %s %d %" PRId64 " %s\n", r->miss[i].topic, r->miss[i].partition, r->miss[i].offset,
                r->miss[i].gone ? "gone" : "absent");
    fprintf(f, "end %s\n", r->reason);
    bool bad = ferror(f) != 0;
    if (fclose(f) != 0 || bad) {
        free(text);
        return err_set(err, EX_OSERR, "no memory");
    }
    int result = file_put(data_dir, id, "done", text, len, err);
    free(text);
    return result;
}

static int state_of(const char *word) {
    for (int i = 0; i <= REFEED_ENDED; i++)
        if (strcmp(state_names[i], word) == 0) return i;
    return -1;
}

/* One line of a result. 0, 1 the last, -1 not one. */
static int line_read(const char *line, struct refeed_result *out) {
    char word[16];
    int end = 0;
    if (strncmp(line, "end", 3) == 0 && (line[3] == ' ' || line[3] == 0)) {
        snprintf(out->reason, sizeof out->reason, "%.*s", REFEED_TEXT_BYTES - 1, line[3] == 0 ? "" : line + 4);
        return 1;
    }
    if (strncmp(line, "partition ", 10) == 0) {
        struct refeed_outcome *o = &out->partition[out->partitions++];
        int n = sscanf(line,
                       "partition %255s %" SCNd32 " %15s asked=%" SCNu64 " fed=%" SCNu64 " covered=%" SCNu64
                       " from=%" SCNd64 "%n",
                       o->topic, &o->partition, word, &o->asked, &o->fed, &o->covered, &o->from, &end);
        int state = n == 7 ? state_of(word) : -1;
        o->state = state < 0 ? REFEED_ENDED : (enum refeed_state)state;
        return state < 0 || line[end] != 0 ? -1 : 0;
    }
    struct refeed_missing *m = &out->miss[out->missing++];
    int n =
        sscanf(line, "missing %255s %" SCNd32 " %" SCNd64 " %15s%n", m->topic, &m->partition, &m->offset, word, &end);
    m->gone = n == 4 && strcmp(word, "gone") == 0;
    return n == 4 && line[end] == 0 && (m->gone || strcmp(word, "absent") == 0) ? 0 : -1;
}

static int lines_read(char *text, struct refeed_result *out) {
    char *rest = NULL;
    int r = 0;
    size_t lines = 1;
    for (const char *c = text; *c != 0; c++) lines += *c == '\n';
    out->partition = calloc(lines, sizeof *out->partition);
    out->miss = calloc(lines, sizeof *out->miss);
    if (out->partition == NULL || out->miss == NULL) return -1;
    char *line = strtok_r(text, "\n", &rest);
    if (line == NULL || strcmp(line, "millrace refeed 1") != 0) return -1;
    while (r == 0 && (line = strtok_r(NULL, "\n", &rest)) != NULL) r = line_read(line, out);
    return r == 1 ? 0 : -1;
}

int refeed_result_read(const char *data_dir, const char *id, struct refeed_result *out, struct err *err) {
    enum { LINE_BYTES_MAX = TOPIC_BYTES + 160 };
    char path[PATH_BYTES + 64];
    size_t len;
    *out = (struct refeed_result){0};
    refeed_path(path, data_dir, id, "done");
    if (access(path, F_OK) != 0 && errno == ENOENT) return 0;
    char *text = file_get(path, (size_t)LINE_BYTES_MAX * (PARTITIONS_MAX + REFEED_OFFSETS_MAX), &len, err);
    if (text == NULL) return -1;
    int r = lines_read(text, out);
    free(text);
    if (r == 0) return 1;
    refeed_result_free(out);
    return err_set(err, EX_DATAERR, "%s is not the result of a refeed", path);
}

void refeed_result_free(struct refeed_result *r) {
    free(r->partition);
    free(r->miss);
    *r = (struct refeed_result){0};
}

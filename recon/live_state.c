#include "recon/live_state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#define XXH_INLINE_ALL /* the whole of it is in the header: the size of its state is not ABI */
#include <xxhash.h>

#include "base/fault.h"

#define FIRST_LINE "millrace live keys 1"
enum { PLACES_AT_FIRST = 64, MANIFEST_BYTES_MAX = 16 << 20 };

static int no_memory(struct err *err) { return err_set(err, EX_OSERR, "no memory for the table of live keys"); }
static int io_failed(struct err *err) { return err_set(err, EX_IOERR, "MANIFEST: %s", strerror(errno)); }

int live_state_init(struct live_state *s, struct err *err) {
    memset(s, 0, sizeof *s);
    s->next_run = 1;
    s->place_room = PLACES_AT_FIRST;
    s->place = malloc(s->place_room * sizeof *s->place);
    return s->place != NULL ? 0 : no_memory(err);
}

void live_state_free(struct live_state *s) {
    free(s->topic);
    free(s->place);
    memset(s, 0, sizeof *s);
}

int live_state_topic(struct live_state *s, const char *name, struct err *err) {
    for (uint32_t i = 0; i < s->topic_count; i++)
        if (strcmp(s->topic[i], name) == 0) return (int)i;
    if (s->topic_count == LIVE_TOPICS_MAX)
        return err_set(err, EX_UNAVAILABLE, "more than %d topics in the table of live keys", LIVE_TOPICS_MAX);
    void *more = realloc(s->topic, (s->topic_count + 1) * sizeof *s->topic);
    if (more == NULL) return no_memory(err);
    s->topic = more;
    snprintf(s->topic[s->topic_count], TOPIC_BYTES, "%s", name);
    return (int)s->topic_count++;
}

static bool place_is(const struct live_place *p, uint16_t topic, int32_t partition) {
    return p->topic == topic && p->partition == partition;
}

struct live_place *live_state_place(struct live_state *s, uint16_t topic, int32_t partition, struct err *err) {
    uint32_t *cached = &s->cache[(topic * 31U + (uint32_t)partition) % LIVE_PLACE_CACHE];
    if (*cached < s->place_count && place_is(&s->place[*cached], topic, partition)) return &s->place[*cached];
    uint32_t i = 0;
    while (i < s->place_count && !place_is(&s->place[i], topic, partition)) i++;
    if (i == LIVE_PLACES_MAX) {
        err_set(err, EX_UNAVAILABLE, "more than %d partitions in the table of live keys", LIVE_PLACES_MAX);
        return NULL;
    }
    if (i == s->place_count) {
        if (i == s->place_room) {
            void *more = realloc(s->place, 2 * s->place_room * sizeof *s->place);
            if (more == NULL) {
                no_memory(err);
                return NULL;
            }
            s->place = more;
            s->place_room *= 2;
        }
        s->place[s->place_count++] = (struct live_place){.topic = topic, .partition = partition, .next = 0};
    }
    *cached = i;
    return &s->place[i];
}

void live_run_name(uint64_t run, char out[RUN_NAME_BYTES]) { snprintf(out, RUN_NAME_BYTES, "%016" PRIx64 ".run", run); }

/* -- the file ---------------------------------------------------------------------------------- */

static void format(const struct live_state *s, FILE *out) {
    fprintf(out, FIRST_LINE "\nnext %" PRIu64 "\nsince %" PRIu64 "\ngaps %" PRIu64 "\nnext_run %" PRIx64 "\n", s->next,
            s->since, s->gaps, s->next_run);
    for (uint32_t i = 0; i < s->topic_count; i++) fprintf(out, "topic %s\n", s->topic[i]);
    for (uint32_t i = 0; i < s->place_count; i++)
        fprintf(out, "place %u %d %" PRId64 "\n", s->place[i].topic, s->place[i].partition, s->place[i].next);
    for (uint32_t i = 0; i < s->run_count; i++) fprintf(out, "run %" PRIx64 "\n", s->run[i]);
}

static int write_synced(int dir, const char *text, size_t len, struct err *err) {
    int fd = FAULT_FAILS("recon:manifest_open")
                 ? -1
                 : openat(dir, "MANIFEST.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0) return io_failed(err);
    ssize_t n = FAULT_FAILS("recon:manifest_write") ? -1 : write(fd, text, len);
    if (n >= 0 && (size_t)n != len) errno = ENOSPC;
    bool well = n == (ssize_t)len && !(FAULT_FAILS("recon:manifest_sync") || fdatasync(fd) != 0);
    if (!well) io_failed(err);
    close(fd);
    return well ? 0 : -1;
}

int live_state_write(const struct live_state *s, int dir, struct err *err) {
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (out == NULL) return no_memory(err);
    format(s, out);
    fflush(out);
    fprintf(out, "check %016" PRIx64 "\n", XXH3_64bits(text, len));
    if (fclose(out) != 0) {
        free(text);
        return no_memory(err);
    }
    int r = write_synced(dir, text, len, err);
    free(text);
    /* The names of the runs are on the disk before the manifest that refers to them. */
    if (r == 0 && (FAULT_FAILS("recon:manifest_rename") || fsync(dir) != 0 ||
                   renameat(dir, "MANIFEST.new", dir, "MANIFEST") != 0))
        r = io_failed(err);
    if (r != 0 || fsync(dir) == 0) return r;
    io_failed(err);
    return LIVE_STATE_DOUBT;
}

static int parse_line(struct live_state *s, const char *line, struct err *err) {
    unsigned topic;
    int partition;
    int64_t next;
    uint64_t run;
    if (sscanf(line, "next %" SCNu64, &s->next) == 1 || sscanf(line, "since %" SCNu64, &s->since) == 1 ||
        sscanf(line, "gaps %" SCNu64, &s->gaps) == 1 || sscanf(line, "next_run %" SCNx64, &s->next_run) == 1)
        return 0;
    if (strncmp(line, "topic ", 6) == 0) return live_state_topic(s, line + 6, err) < 0 ? -1 : 0;
    if (sscanf(line, "place %u %d %" SCNd64, &topic, &partition, &next) == 3 && topic < s->topic_count) {
        struct live_place *p = live_state_place(s, (uint16_t)topic, partition, err);
        if (p == NULL) return -1;
        p->next = next;
        return 0;
    }
    if (sscanf(line, "run %" SCNx64, &run) == 1 && s->run_count < MERGE_RUNS_MAX) {
        s->run[s->run_count++] = run;
        return 0;
    }
    return err_set(err, EX_DATAERR, "MANIFEST: a line that is none: %.60s", line);
}

/* text[0, len): the whole file, its last line the checksum of what comes before. */
static int parse(struct live_state *s, char *text, size_t len, struct err *err) {
    enum { CHECK_LINE = 6 + 16 + 1 };
    uint64_t hash;
    if (len < CHECK_LINE || text[len - 1] != '\n' || sscanf(text + len - CHECK_LINE, "check %" SCNx64, &hash) != 1 ||
        hash != XXH3_64bits(text, len - CHECK_LINE))
        return err_set(err, EX_DATAERR, "MANIFEST is damaged");
    text[len - CHECK_LINE] = '\0';
    char *rest = text, *line = strsep(&rest, "\n");
    if (strcmp(line, FIRST_LINE) != 0) return err_set(err, EX_DATAERR, "MANIFEST was written by another version");
    while ((line = strsep(&rest, "\n")) != NULL)
        if (line[0] != '\0' && parse_line(s, line, err) != 0) return -1;
    return 0;
}

static int slurp(int dir, char **text, size_t *len, struct err *err) {
    struct stat st;
    int fd = openat(dir, "MANIFEST", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? err_set(err, EX_NOINPUT, "there is no MANIFEST") : io_failed(err);
    int r = -1;
    ssize_t n;
    if (fstat(fd, &st) != 0)
        io_failed(err);
    else if (st.st_size > MANIFEST_BYTES_MAX)
        err_set(err, EX_DATAERR, "MANIFEST is damaged");
    else if ((*text = malloc((size_t)st.st_size + 1)) == NULL)
        no_memory(err);
    else if ((n = read(fd, *text, (size_t)st.st_size)) < 0)
        io_failed(err);
    else {
        *len = (size_t)n;
        (*text)[n] = '\0';
        r = 0;
    }
    close(fd);
    return r;
}

int live_state_read(struct live_state *s, int dir, struct err *err) {
    char *text = NULL;
    size_t len = 0;
    int r = slurp(dir, &text, &len, err);
    if (r == 0) r = parse(s, text, len, err);
    free(text);
    return r;
}

#include "recon/cover.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "recon/db.h"
#include "shm/record.h"

enum { AGAIN_MS = 60000, REPLY_BYTES = 4096, CLOCKS_MS = 300000 };

struct waiting { /* what is known of a partition, by its place in the stats */
    bool lost, known;
    int64_t seen_ms;    /* when the loss was first seen */
    int64_t asked_ms;   /* 0 never */
    uint8_t load[16];   /* that was told of then */
    int64_t refused_ms; /* when it was said last that one proves nothing; 0 never */
};

struct cover {
    sqlite3 *db;
    const struct config *config;
    const struct stats *stats;
    cover_ask *ask;
    struct waiting partition[PARTITIONS_MAX];
};

struct load { /* that makes up for a loss */
    uint8_t id[16];
    int64_t first; /* -1: it has nothing in the partition */
};

struct cover *cover_new(sqlite3 *db, const struct config *c, const struct stats *stats, cover_ask *ask) {
    struct cover *out = calloc(1, sizeof *out);
    CHECK(out != NULL);
    *out = (struct cover){.db = db, .config = c, .stats = stats, .ask = ask};
    return out;
}

void cover_free(struct cover *c) { free(c); }

/* -- asking ------------------------------------------------------------------------------------ */

/* The path of a unix socket is short, that of a folder may be long: the folder goes by its descriptor. */
static int dial(const struct config *c, struct err *err) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 1};
    int folder = open(c->run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "/proc/self/fd/%d/%.63s.sock", folder, c->name);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    bool there = folder >= 0 && fd >= 0 && connect(fd, (const struct sockaddr *)&at, sizeof at) == 0;
    if (!there) err_set(err, EX_UNAVAILABLE, "%.300s/%s.sock: %s", c->run_dir, c->name, strerror(errno));
    if (folder >= 0) close(folder);
    if (!there && fd >= 0) close(fd);
    return there ? fd : -1;
}

int cover_ask_supervisor(const struct config *c, const char *request, struct err *err) {
    char reply[REPLY_BYTES];
    size_t len = 0;
    int fd = dial(c, err);
    if (fd < 0) return -1;
    bool sent = send(fd, request, strlen(request), MSG_NOSIGNAL) == (ssize_t)strlen(request);
    for (ssize_t n = 1; sent && n > 0 && len < sizeof reply - 1 && memchr(reply, '\n', len) == NULL;) {
        n = recv(fd, reply + len, sizeof reply - 1 - len, 0);
        if (n > 0) len += (size_t)n;
    }
    close(fd);
    reply[len] = 0;
    if (strstr(reply, "\"ok\":true") != NULL) return 0;
    return err_set(err, EX_TEMPFAIL, "%.300s", len > 0 ? reply : "the supervisor does not answer");
}

/* -- looking ----------------------------------------------------------------------------------- */

/* When a loss was first seen, in `meta`; 0: there is none now. */
static void seen_name(char out[TOPIC_BYTES + 32], const char *topic, int32_t partition) {
    snprintf(out, TOPIC_BYTES + 32, "lost:%s:%" PRId32, topic, partition);
}

struct candidate {
    struct load load;
    int64_t created_ms, begun_ms; /* by the clock of the load; when its begin was read, 0 never */
    int64_t count;
    bool matched;
};

/* Why a load of all keys proves nothing, though it says that it began after the loss; NULL: it may. Its time alone is
 * what whoever writes the manifest says. */
static const char *refusal(const struct candidate *l, int64_t seen_ms) {
    if (l->count == 0) return "it declares no records";
    if (l->begun_ms < seen_ms) return "its begin was not seen after the loss";
    if (l->created_ms - l->begun_ms > CLOCKS_MS) return "it says that it began later than its begin was seen";
    return NULL;
}

static void refuse(struct waiting *w, const struct candidate *l, const char *why, const struct log_at *at,
                   int64_t now_ms) {
    char id[37];
    if (w->refused_ms != 0 && now_ms - w->refused_ms < AGAIN_MS) return;
    w->refused_ms = now_ms;
    record_id_format(l->load.id, id);
    log_warn_at("recon.load_refused", at, "load %s does not make up for lost offsets: %s", id, why);
}

static void candidate_take(sqlite3_stmt *s, struct candidate *out) {
    *out = (struct candidate){.load.first = sqlite3_column_int64(s, 1),
                              .created_ms = sqlite3_column_int64(s, 2),
                              .begun_ms = sqlite3_column_int64(s, 3),
                              .count = sqlite3_column_int64(s, 4),
                              .matched = sqlite3_column_int64(s, 5) == LOAD_MATCHED};
    if (sqlite3_column_bytes(s, 0) == 16) memcpy(out->load.id, sqlite3_column_blob(s, 0), 16);
}

/* The newest load of all keys of the topic that is complete and began after the loss was seen. One that says it has
 * nothing in the partition is believed when all that it declares is in the log. 1 found, 0 none, -1. */
static int load_find(struct cover *c, struct waiting *w, const struct log_at *at, int64_t now_ms, struct load *out,
                     struct err *err) {
    struct candidate l;
    sqlite3_stmt *s;
    int r, found = 0;
    if (db_prepare(c->db,
                   "SELECT l.id, coalesce((SELECT first_offset FROM load_place p WHERE p.load = l.id AND "
                   "p.topic = l.topic AND p.partition = ?2), -1), l.created_ms, coalesce((SELECT noted_ms FROM "
                   "load_begun b WHERE b.load = l.id AND b.topic = l.topic), 0), l.count, l.state "
                   "FROM load l JOIN topic t ON t.id = l.topic "
                   "WHERE t.name = ?1 AND l.snapshot AND NOT l.aborted AND l.ended_ms IS NOT NULL AND "
                   "l.created_ms >= ?3 AND EXISTS(SELECT 1 FROM load_place p WHERE p.load = l.id AND "
                   "p.topic = l.topic) ORDER BY l.created_ms DESC",
                   &s, err) != 0)
        return -1;
    sqlite3_bind_text(s, 1, at->topic, -1, SQLITE_STATIC);
    sqlite3_bind_int(s, 2, at->partition);
    sqlite3_bind_int64(s, 3, w->seen_ms);
    while (found == 0 && (r = db_step(s, err)) != 0) {
        if (r < 0) found = -1;
        if (r < 0) break;
        candidate_take(s, &l);
        const char *why = refusal(&l, w->seen_ms);
        if (why != NULL) refuse(w, &l, why, at, now_ms);
        if (why != NULL || (l.load.first < 0 && !l.matched)) continue;
        *out = l.load;
        found = 1;
    }
    sqlite3_finalize(s);
    return found;
}

static int tell(struct cover *c, struct waiting *w, const char *topic, int32_t partition, int64_t now_ms,
                struct err *err) {
    struct load load;
    struct err why = {0};
    char request[TOPIC_BYTES + 128], id[37];
    struct log_at at = {.topic = topic, .partition = partition, .offset = -1};
    int found = load_find(c, w, &at, now_ms, &load, err);
    if (found != 1) return found;
    if (w->asked_ms != 0 && memcmp(load.id, w->load, 16) == 0 && now_ms - w->asked_ms < AGAIN_MS) return 0;
    w->asked_ms = now_ms;
    memcpy(w->load, load.id, 16);
    record_id_format(load.id, id);
    snprintf(request, sizeof request, "accept-loss %s %" PRId32 " %s %" PRId64 "\n", topic, partition, id, load.first);
    at.offset = load.first;
    if (c->ask(c->config, request, &why) != 0)
        log_warn_at("recon.cover_failed", &at, "load %s: %s", id, why.text);
    else
        log_info_at("recon.loss_covered", &at, "load %s has published every key since offsets were lost", id);
    return 0;
}

static int look(struct cover *c, const struct stats_partition *p, struct waiting *w, int64_t now_ms, struct err *err) {
    char name[TOPIC_BYTES + 32];
    const char *topic = c->config->topic[p->topic].name;
    bool lost = atomic_load_explicit(&p->lost_from, memory_order_acquire) <
                atomic_load_explicit(&p->lost_to, memory_order_acquire);
    if (!lost && !w->lost && w->known) return 0;
    seen_name(name, topic, p->partition);
    int64_t seen_ms = w->known ? w->seen_ms : db_meta_get(c->db, name, 0);
    if (lost && seen_ms == 0) seen_ms = now_ms;
    if (!lost) seen_ms = 0;
    if (db_meta_get(c->db, name, 0) != seen_ms && db_meta_set(c->db, name, seen_ms, err) != 0) return -1;
    w->lost = lost;
    w->known = true;
    w->seen_ms = seen_ms;
    if (!lost) w->asked_ms = w->refused_ms = 0;
    return 0;
}

int cover_step(struct cover *c, int64_t now_ms, struct err *err) {
    uint32_t n = atomic_load_explicit(&c->stats->header->partition_count, memory_order_acquire);
    for (uint32_t i = 0; i < n && i < PARTITIONS_MAX; i++) {
        const struct stats_partition *p = stats_partition(c->stats, i);
        struct waiting *w = &c->partition[i];
        if (p->topic >= c->config->topic_count) continue;
        if (look(c, p, w, now_ms, err) != 0) return -1;
        if (w->lost && tell(c, w, c->config->topic[p->topic].name, p->partition, now_ms, err) < 0) return -1;
    }
    return 0;
}

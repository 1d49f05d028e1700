#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/utc.h"
#include "ingest/ingest.h"

enum { ACCEPT_AGAIN_MS = 1000, ACCEPT_MS = 1000 };

static int64_t number_of(const _Atomic int64_t *n) { return atomic_load_explicit(n, memory_order_relaxed); }

/* In an order in which no death leaves a range that was never found: what is not a range (to not above from) is none.
 */
void loss_store(struct ingest *g, uint32_t slot, int64_t from, int64_t to) {
    struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    if (to == 0) atomic_store_explicit(&s->lost_to, 0, memory_order_release);
    atomic_store_explicit(&s->lost_from, from, memory_order_release);
    if (to != 0) atomic_store_explicit(&s->lost_to, to, memory_order_release);
}

void loss_show(struct ingest *g) {
    uint32_t others = 0;
    g->lost_text[0] = 0;
    for (uint32_t i = 0; i < g->partition_count; i++) {
        const struct ledger_ingest_slot *s = &g->ledger->slot[i];
        if (!g->partition[i].assigned || !loss_stands(g, i)) continue;
        if (g->lost_text[0] != 0 && ++others) continue;
        snprintf(g->lost_text, sizeof g->lost_text, "offsets [%lld,%lld) lost: %.120s[%d]",
                 (long long)number_of(&s->lost_from), (long long)number_of(&s->lost_to),
                 g->config->topic[g->partition[i].topic].name, g->partition[i].partition);
    }
    size_t n = strlen(g->lost_text);
    if (others > 0) snprintf(g->lost_text + n, sizeof g->lost_text - n, " and %u more", others);
}

void loss_note(struct ingest *g, uint32_t slot, int64_t from, int64_t to) {
    const struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    if (loss_stands(g, slot)) { /* both are lost */
        int64_t known_from = number_of(&s->lost_from), known_to = number_of(&s->lost_to);
        if (known_from < from) from = known_from;
        if (known_to > to) to = known_to;
        if (from == known_from && to == known_to) return;
    }
    struct log_at at = ingest_at(g, g->partition[slot].topic, g->partition[slot].partition, from);
    loss_store(g, slot, from, to);
    log_warn_at("ingest.offset_lost", &at,
                "offsets [%lld,%lld) are needed and no longer in Kafka: the partition waits for a new load of "
                "everything, or millrace ctl accept-loss",
                (long long)from, (long long)to);
    loss_show(g);
}

/* -- acceptance -------------------------------------------------------------------------------- */

/* Every record that was read and is not lost is in Redis, and every reject is durable: raising the epoch skips nothing
 * that cannot be read again. Where the sink has found a loss, the lost range begins at what Redis has. */
static bool settled(struct ingest *g, uint32_t slot) {
    const struct partition *p = &g->partition[slot];
    int64_t released = commit_released(g, slot);
    bool nothing_read = released < 0 && p->next == number_of(&g->ledger->slot[slot].start);
    return (released == p->next || nothing_read) && commit_cap(g, slot) == INT64_MAX;
}

/* A line that a crash has cut short is ended first. */
static int line_append(int fd, const char *line, size_t len) {
    char last = '\n';
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0 || (end > 0 && pread(fd, &last, 1, end - 1) != 1)) return -1;
    if (last != '\n' && write(fd, "\n", 1) != 1) return -1;
    ssize_t n = write(fd, line, len);
    if (n >= 0 && n != (ssize_t)len) errno = ENOSPC;
    return n == (ssize_t)len && fsync(fd) == 0 ? 0 : -1;
}

struct acceptance { /* what was asked for: struct control_accept, as it is now */
    uint64_t what;
    int64_t first;
    uint8_t load[16];
    bool by_load;
};

static struct acceptance acceptance_get(const struct control *c, uint64_t asked) {
    const struct control_accept *a = &c->accept[asked % CONTROL_ACCEPTS];
    struct acceptance out = {.what = atomic_load_explicit(&a->what, memory_order_relaxed),
                             .first = atomic_load_explicit(&a->first, memory_order_relaxed)};
    uint64_t load[2] = {atomic_load_explicit(&a->load[0], memory_order_relaxed),
                        atomic_load_explicit(&a->load[1], memory_order_relaxed)};
    memcpy(out.load, load, sizeof load);
    out.by_load = (load[0] | load[1]) != 0;
    return out;
}

/* On record before it takes effect. A crash in between leaves the same line twice. */
static int record_acceptance(const struct ingest *g, uint32_t slot, int64_t from, int64_t to,
                             const struct acceptance *a, struct err *err) {
    const struct partition *p = &g->partition[slot];
    char path[PATH_BYTES + 32], line[TOPIC_BYTES + CLUSTER_BYTES + 240], cluster[CLUSTER_BYTES], when[UTC_BYTES];
    char load[37], by[64] = "";
    utc_text_ms(when, clock_wall_ms(g->clock), 0);
    memcpy(cluster, g->ledger->cluster, sizeof cluster);
    for (char *c = cluster; *c != 0; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < 0x20) *c = '?';
    record_id_format(a->load, load);
    if (a->by_load) snprintf(by, sizeof by, ", \"load\": \"%s\"", load);
    int n = snprintf(line, sizeof line,
                     "{\"time\": \"%s\", \"topic\": \"%s\", \"partition\": %d, \"from\": %lld, \"to\": %lld, "
                     "\"cluster\": \"%s\"%s}\n",
                     when, g->config->topic[p->topic].name, p->partition, (long long)from, (long long)to, cluster, by);
    snprintf(path, sizeof path, "%s/accepted-losses", g->config->data_dir);
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0) return err_set(err, errno, "%s: %s", path, strerror(errno));
    int r = line_append(fd, line, (size_t)n);
    if (r != 0) err_set(err, errno, "%s: %s", path, strerror(errno));
    close(fd);
    int folder = open(g->config->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r == 0 && (folder < 0 || fsync(folder) != 0))
        r = err_set(err, errno, "%s: %s", g->config->data_dir, strerror(errno));
    if (folder >= 0) close(folder);
    return r;
}

/* What a rebuild has to reach from now on: not what was accepted as lost, and nothing that a load of all keys replaces.
 */
static void origin_move(struct ingest *g, uint32_t slot, int64_t from, int64_t target, bool by_load) {
    struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    int64_t origin = number_of(&s->origin);
    if (by_load || target <= origin || from <= origin) atomic_store_explicit(&s->origin, target, memory_order_release);
}

/* The partition goes on with the oldest record that Kafka has; with another cluster, where the group stands there. The
 * range is cleared last: a successor of a process that died in here does it all again. False: not now. */
static bool accept_one(struct ingest *g, uint32_t slot, const struct acceptance *a) {
    struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    struct partition *p = &g->partition[slot];
    struct kafka_partition at = {p->topic, p->partition, -1, {0}};
    struct err err;
    uint64_t what;
    int64_t low, high, from = number_of(&s->lost_from), to = number_of(&s->lost_to);
    bool found = commit_lost_found(g, slot, &what), other = found && (what & LEDGER_LOST_OTHER) != 0;
    if (found ? !commit_logged(g, slot) : !settled(g, slot)) return false;
    if (g->kafka.watermarks(g->kafka.self, &at, &low, &high, &err) != 0) return false;
    int64_t target = other ? number_of(&s->start) : low;
    if (!other && low > to) to = low; /* more has gone since */
    struct log_at where = ingest_at(g, p->topic, p->partition, from);
    if (a->by_load && a->first >= 0 && (a->first < target || a->first >= high)) {
        log_warn_at("ingest.loss_uncovered", &where,
                    "the load begins at %lld, and Kafka has the records from %lld up to %lld: it "
                    "does not make up for the offsets that are lost",
                    (long long)a->first, (long long)target, (long long)high);
        return true;
    }
    if (record_acceptance(g, slot, from, to, a, &err) != 0) {
        log_warn("ingest.accept_failed", "%s; trying again", err.text);
        return false;
    }
    log_warn_at("ingest.loss_accepted", &where, "offsets [%lld,%lld) are %s; goes on at %lld", (long long)from,
                (long long)to, a->by_load ? "made up for by a new load" : "given up", (long long)target);
    if (g->audited != NULL && !found && target < p->next)
        log_warn_at(
            "ingest.offsets_restarted", &where,
            "the offsets from %lld on were other records before: reconciliation has counted them, and takes these "
            "for repeats",
            (long long)target);
    stats_add(g->stats, M_ingest_offset_lost, (uint64_t)(to - from));
    origin_move(g, slot, from, target, a->by_load);
    /* Not a first start: a Redis that has nothing at all is another matter, unless the origin has moved. */
    rewind_to(g, slot, target, LEDGER_ACCEPTED);
    loss_store(g, slot, 0, 0);
    return true;
}

static bool selected(const struct ingest *g, uint32_t slot, uint64_t what) {
    const struct partition *p = &g->partition[slot];
    uint32_t topic = (uint32_t)(what >> 32), partition = (uint32_t)what;
    return p->assigned && loss_stands(g, slot) && (topic == UINT32_MAX || topic == p->topic) &&
           (partition == UINT32_MAX || partition == (uint32_t)p->partition);
}

/* Carries out what can be, for a bounded time and in turns: each partition asks Kafka and syncs a file. False: not all
 * is done. */
static bool accept_some(struct ingest *g, const struct acceptance *a, uint64_t until, uint32_t *accepted) {
    uint32_t n = g->partition_count, from = g->accept_turn;
    bool all = true;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = (from + k) % n;
        if (!selected(g, i, a->what)) continue;
        if (clock_ns(g->clock) >= until) {
            g->accept_ns = 0; /* at once */
            return false;
        }
        g->accept_turn = (i + 1) % n;
        bool done = accept_one(g, i, a);
        *accepted += done;
        all &= done;
    }
    return all;
}

void loss_step(struct ingest *g) {
    uint64_t asked = atomic_load_explicit(&g->worker->control->accept_loss, memory_order_acquire);
    uint64_t now = clock_ns(g->clock);
    if (asked <= atomic_load_explicit(&g->ledger->accepted, memory_order_relaxed) || now < g->accept_ns) return;
    if (g->membership != MEMBER_READING && (g->membership != MEMBER_WAITING || g->first_assignment)) return;
    g->accept_ns = now + ACCEPT_AGAIN_MS * NS_PER_MS;
    struct acceptance a = acceptance_get(g->worker->control, asked);
    uint32_t accepted = 0;
    bool all = accept_some(g, &a, now + ACCEPT_MS * NS_PER_MS, &accepted);
    loss_show(g);
    if (accepted > 0) g->commit_due_ns = 0;
    if (!all) return;
    g->accept_ns = 0;
    if (accepted == 0) log_info("ingest.loss_none", "no offsets are lost here: nothing to accept");
    atomic_store_explicit(&g->ledger->accepted, asked, memory_order_release);
}

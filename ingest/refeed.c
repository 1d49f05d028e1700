#include "ingest/refeed.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "ingest/ingest.h"

enum {
    AGAIN_MS = 500,        /* between attempts at the broker, or the disk */
    LOOK_MS = 60000,       /* so long the broker may take to say what it has */
    LOOK_STEP_MS = 500,    /* and so long a step may ask it */
    QUIET_MS = 10000,      /* so long partitions are held while what was read of them is on its way; */
    QUIET_AGAIN_MS = 5000, /* then they are let go for a while */
    TRIES = 10,
    JUMP = 20000,   /* offsets to be left out that are worth a seek */
    KEPT_S = 86400, /* results that nobody has fetched are removed at a start when they are older */
};

static const int64_t *offsets_of(const struct ingest *g, const struct refeed_part *part) {
    return g->refeed.wanted.offset[part - g->refeed.part];
}
static struct refeed_outcome *outcome_of(struct ingest *g, const struct refeed_part *part) {
    return &g->refeed.result.partition[part - g->refeed.part];
}

static void phase_begin(struct ingest *g, enum refeed_phase phase) {
    g->refeed.phase = phase;
    g->refeed.since_ns = clock_ns(g->clock);
    g->refeed.due_ns = 0;
}

static void missing(struct ingest *g, const struct refeed_part *part, int64_t offset, bool gone) {
    struct refeed_result *result = &g->refeed.result;
    struct refeed_missing *m = &result->miss[result->missing++];
    const struct refeed_outcome *o = outcome_of(g, part);
    m->partition = o->partition;
    m->offset = offset;
    m->gone = gone;
    memcpy(m->topic, o->topic, sizeof m->topic);
}

/* -- letting go -------------------------------------------------------------------------------- */

/* The partition is read as ever again. The one whose epoch has passed was let go by that. */
static void let_go(struct ingest *g, struct refeed_part *part) {
    if (!part->mine) return;
    struct partition *p = &g->partition[part->slot];
    if (p->refeed != part) return;
    p->refeed = NULL;
    if (part->moved) p->refetch_ns = clock_ns(g->clock); /* a seek first */
    part->moved = false;
}

static void let_all_go(struct ingest *g) {
    for (uint32_t i = 0; i < g->refeed.wanted.count; i++) let_go(g, &g->refeed.part[i]);
}

static void part_end(struct ingest *g, struct refeed_part *part, const char *why) {
    struct refeed_outcome *o = outcome_of(g, part);
    if (g->refeed.result.reason[0] == 0)
        snprintf(g->refeed.result.reason, REFEED_TEXT_BYTES, "%.90s[%d]: %s", o->topic, o->partition, why);
    o->state = REFEED_ENDED;
}

static void end_all(struct ingest *g, const char *why) {
    let_all_go(g);
    for (uint32_t i = 0; i < g->refeed.wanted.count; i++)
        if (g->refeed.part[i].mine) part_end(g, &g->refeed.part[i], why);
    phase_begin(g, REFEED_TELL);
}

/* -- a request --------------------------------------------------------------------------------- */

static uint32_t slot_find(const struct ingest *g, uint32_t topic, int32_t partition) {
    for (uint32_t i = 0; i < g->partition_count; i++)
        if (g->partition[i].topic == topic && g->partition[i].partition == partition) return i;
    return UINT32_MAX;
}

/* Everything as before the first look at the brokers. */
static void begin(struct ingest *g) {
    struct refeed *r = &g->refeed;
    uint32_t mine = 0;
    r->result.missing = 0;
    r->result.reason[0] = 0;
    memset(r->number, 0, sizeof r->number);
    for (uint32_t i = 0; i < r->wanted.count; i++) {
        const struct refeed_partition *w = r->wanted.part[i];
        struct refeed_outcome *o = &r->result.partition[i];
        int topic = config_topic_index(g->config, w->topic);
        uint32_t slot = topic < 0 ? UINT32_MAX : slot_find(g, (uint32_t)topic, w->partition);
        *o = (struct refeed_outcome){.partition = w->partition, .asked = w->count, .from = -1};
        memcpy(o->topic, w->topic, sizeof o->topic);
        o->state = topic < 0 ? REFEED_UNKNOWN : REFEED_ELSEWHERE;
        r->part[i] = (struct refeed_part){.mine = slot != UINT32_MAX && g->partition[slot].assigned, .slot = slot};
        if (!r->part[i].mine) continue;
        r->part[i].epoch = g->partition[slot].epoch;
        o->state = REFEED_DONE; /* unless something comes between */
        mine++;
    }
    phase_begin(g, mine > 0 ? REFEED_LOOK : REFEED_TELL);
}

static int open_request(struct ingest *g, struct err *err) {
    struct refeed *r = &g->refeed;
    char path[PATH_BYTES + 64];
    uint64_t offsets = 0;
    refeed_path(path, g->config->data_dir, r->id, "refeed");
    if (refeed_request_read(path, &r->wanted, err) != 0) return -1;
    for (uint32_t i = 0; i < r->wanted.count; i++) offsets += r->wanted.part[i]->count;
    r->result = (struct refeed_result){.partitions = r->wanted.count,
                                       .partition = calloc(r->wanted.count, sizeof *r->result.partition),
                                       .miss = calloc(offsets + 1, sizeof *r->result.miss)};
    if (r->result.partition != NULL && r->result.miss != NULL) return 0;
    return err_set(err, ENOMEM, "no memory for %llu offsets", (unsigned long long)offsets);
}

static void take_request(struct ingest *g) {
    struct refeed *r = &g->refeed;
    struct err err = {0};
    r->tries = 0;
    if (open_request(g, &err) == 0) {
        begin(g);
        log_info("ingest.refeed", "%s: %u partitions", r->id, r->wanted.count);
        return;
    }
    log_warn("ingest.refeed_refused", "%s", err.text);
    refeed_result_free(&r->result);
    free(r->wanted.memory);
    r->wanted = (struct refeed_wanted){0};
    snprintf(r->result.reason, REFEED_TEXT_BYTES, "%.150s", err.text);
    phase_begin(g, REFEED_TELL);
}

/* Whether the folder's entry is a request without a result. Removes what nobody has fetched for long, at a start. */
static bool request_open(const struct ingest *g, const char *name, bool first_look) {
    char id[REFEED_ID_BYTES] = "", path[PATH_BYTES + 64];
    struct stat st;
    if (strlen(name) <= REFEED_ID_BYTES || name[REFEED_ID_BYTES - 1] != '.') return false;
    memcpy(id, name, REFEED_ID_BYTES - 1);
    if (!refeed_id_valid(id)) return false;
    refeed_path(path, g->config->data_dir, id, "done");
    bool done = stat(path, &st) == 0;
    if (done && first_look && clock_wall_ms(g->clock) / 1000 - st.st_mtime > KEPT_S)
        refeed_request_remove(g->config->data_dir, id);
    return !done && strcmp(name + REFEED_ID_BYTES, "refeed") == 0;
}

/* The oldest request that has no result, into id. False: there is none. */
static bool request_next(struct ingest *g) {
    struct refeed *r = &g->refeed;
    char folder[PATH_BYTES + 64];
    struct dirent *e;
    bool found = false;
    refeed_path(folder, g->config->data_dir, NULL, NULL);
    DIR *d = opendir(folder);
    while (d != NULL && (e = readdir(d)) != NULL) {
        if (!request_open(g, e->d_name, !r->started)) continue;
        if (found && strncmp(e->d_name, r->id, REFEED_ID_BYTES - 1) >= 0) continue;
        memcpy(r->id, e->d_name, REFEED_ID_BYTES - 1);
        r->id[REFEED_ID_BYTES - 1] = 0;
        found = true;
    }
    if (d != NULL) closedir(d);
    r->started = true;
    return found;
}

static void find_request(struct ingest *g) {
    struct refeed *r = &g->refeed;
    uint64_t asked = atomic_load_explicit(&g->worker->control->refeed, memory_order_acquire);
    if (r->started && asked == r->asked && !r->look) return;
    r->asked = asked;
    r->look = request_next(g); /* and perhaps there is another one behind it */
    if (r->look) take_request(g);
}

/* -- what Kafka has ---------------------------------------------------------------------------- */

static uint32_t first_from(const int64_t *offset, uint32_t count, int64_t at) {
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (offset[mid] < at)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* False: the broker has not answered. What is below its oldest record is gone for good: the answer names each. Should
 * even `until` be below, then nobody knows what came between. */
static bool part_look(struct ingest *g, uint32_t i) {
    struct refeed_part *part = &g->refeed.part[i];
    const struct refeed_partition *w = g->refeed.wanted.part[i];
    const struct partition *p = &g->partition[part->slot];
    struct kafka_partition at = {p->topic, p->partition, -1, {0}};
    int64_t low, high;
    struct err err;
    if (g->kafka.watermarks(g->kafka.self, &at, &low, &high, &err) != 0) {
        if (clock_ns(g->clock) - g->refeed.since_ns > LOOK_MS * NS_PER_MS) end_all(g, err.text);
        return false;
    }
    part->gone = first_from(offsets_of(g, part), w->count, low);
    part->last = first_from(offsets_of(g, part), w->count, high);
    if (w->until < low && w->until < p->next) {
        part_end(g, part, "Kafka no longer has what follows the request's `until`");
        part->mine = false;
    }
    part->told = true;
    return true;
}

static void look(struct ingest *g) {
    struct refeed *r = &g->refeed;
    uint64_t now = clock_ns(g->clock), until = now + LOOK_STEP_MS * NS_PER_MS;
    if (now < r->due_ns) return;
    for (uint32_t i = 0; i < r->wanted.count; i++) {
        if (!r->part[i].mine || r->part[i].told) continue;
        if (!part_look(g, i)) {
            r->due_ns = clock_ns(g->clock) + AGAIN_MS * NS_PER_MS;
            return;
        }
        if (clock_ns(g->clock) >= until) return;
    }
    phase_begin(g, REFEED_QUIET);
}

/* -- holding ----------------------------------------------------------------------------------- */

/* Everything that was read of it is in Redis (and logged), nothing of it is lost, and every reject is durable. NULL, or
 * what it waits for. */
static const char *unquiet(struct ingest *g, const struct refeed_part *part) {
    const struct partition *p = &g->partition[part->slot];
    const struct ledger_sink_slot *sink = &g->lane[p->lane].sink->slot[part->slot];
    uint64_t what;
    if (loss_stands(g, part->slot) || p->gone || commit_lost_found(g, part->slot, &what) ||
        atomic_load_explicit(&sink->lost_next, memory_order_relaxed) != 0)
        return "writes that Redis has lost are to be mended first";
    if (commit_released(g, part->slot) != p->next) return "what was read is not applied yet";
    return commit_cap(g, part->slot) != INT64_MAX ? "a reject is not durable yet" : NULL;
}

/* On the disk before the first record is passed on: whoever dies, the request is carried out to its end. */
static int begun_note(const struct ingest *g, struct err *err) {
    char path[PATH_BYTES + 64], folder[PATH_BYTES + 64];
    refeed_path(path, g->config->data_dir, g->refeed.id, "begun");
    refeed_path(folder, g->config->data_dir, NULL, NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    int at = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd >= 0 && at >= 0 && fsync(fd) == 0 && fsync(at) == 0 ? 0 : -1;
    if (r != 0) err_set(err, errno, "%s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    if (at >= 0) close(at);
    return r;
}

/* A new epoch that begins at `from`, as that of a rewind; but nothing is lost, and a mark behind `from` would say that
 * something is: so LEDGER_REWOUND is not for it. `start` is lowered first: a successor that still finds the old epoch
 * reads more than it needs to. */
static void go_back(struct ingest *g, struct refeed_part *part, int64_t from) {
    struct ledger_ingest_slot *s = &g->ledger->slot[part->slot];
    struct partition *p = &g->partition[part->slot];
    struct log_at at = ingest_at(g, p->topic, p->partition, from);
    log_info_at("ingest.refeed_back", &at, "goes on here after the refeed; %lld was next", (long long)p->next);
    atomic_store_explicit(&s->flags, LEDGER_ASSIGNED | LEDGER_MARKED | LEDGER_REFEED, memory_order_release);
    atomic_store_explicit(&s->start, from, memory_order_release);
    p->epoch++;
    atomic_store_explicit(&s->epoch, p->epoch, memory_order_release); /* E1, pairs with the loads in transform, sink */
    read_from(p, from);
    p->refeed = part;
    part->epoch = p->epoch;
    part->moved = true;
}

static void part_back(struct ingest *g, uint32_t i) {
    struct refeed_part *part = &g->refeed.part[i];
    const struct refeed_partition *w = g->refeed.wanted.part[i];
    int64_t next = g->partition[part->slot].next, from = w->until < next ? w->until : next;
    struct refeed_outcome *o = outcome_of(g, part);
    if (from < next) go_back(g, part, from);
    part->end = first_from(offsets_of(g, part), w->count, from);
    part->first = part->at = part->gone < part->end ? part->gone : part->end;
    part->read = part->at == part->end;
    o->from = from;
    o->covered = part->last - part->end;
    for (uint32_t k = 0; k < part->first; k++) missing(g, part, offsets_of(g, part)[k], true);
    for (uint32_t k = part->last; k < w->count; k++) missing(g, part, offsets_of(g, part)[k], false);
}

static void quiet_again(struct ingest *g, const char *why) {
    let_all_go(g);
    log_info("ingest.refeed_waits", "%s: %s", g->refeed.id, why);
    if (++g->refeed.tries >= TRIES) {
        end_all(g, why);
        return;
    }
    begin(g);
    g->refeed.due_ns = clock_ns(g->clock) + QUIET_AGAIN_MS * NS_PER_MS;
}

static void quiet(struct ingest *g) {
    struct refeed *r = &g->refeed;
    const char *why = NULL;
    struct err err = {0};
    for (uint32_t i = 0; i < r->wanted.count; i++)
        if (r->part[i].mine) g->partition[r->part[i].slot].refeed = &r->part[i];
    for (uint32_t i = 0; i < r->wanted.count && why == NULL; i++)
        if (r->part[i].mine) why = unquiet(g, &r->part[i]);
    if (g->broken) return;
    if (why != NULL) {
        if (clock_ns(g->clock) - r->since_ns > QUIET_MS * NS_PER_MS) quiet_again(g, why);
        return;
    }
    if (begun_note(g, &err) != 0) {
        quiet_again(g, err.text);
        return;
    }
    for (uint32_t i = 0; i < r->wanted.count; i++)
        if (r->part[i].mine) part_back(g, i);
    r->committing = false;
    phase_begin(g, REFEED_COMMIT);
}

/* -- passing on -------------------------------------------------------------------------------- */

/* Were the commit still ahead, and everything dead: what follows the chosen records would not be written again. */
static void commit_back(struct ingest *g) {
    struct refeed *r = &g->refeed;
    if (!r->committing) {
        r->committing = !g->committing;
        commit_step(g, true); /* nothing, while an earlier one is on its way */
        return;
    }
    if (g->committing) return;
    for (uint32_t i = 0; i < r->wanted.count; i++) {
        if (!r->part[i].mine) continue;
        const struct partition *p = &g->partition[r->part[i].slot];
        if (p->committed < 0 || p->committed > p->next) return; /* the timer commits again */
    }
    for (uint32_t i = 0; i < r->wanted.count; i++) {
        if (!r->part[i].mine || r->part[i].read) continue;
        r->part[i].moved = true;
        g->partition[r->part[i].slot].refetch_ns = clock_ns(g->clock);
    }
    phase_begin(g, REFEED_READ);
}

bool refeed_waits(const struct ingest *g, const struct partition *p) {
    return g->refeed.phase != REFEED_READ || p->refeed->read;
}

int64_t refeed_position(const struct ingest *g, const struct partition *p) {
    const struct refeed_part *part = p->refeed;
    bool reading = g->refeed.phase == REFEED_READ && !part->read;
    return reading ? offsets_of(g, part)[part->at] : p->next;
}

bool refeed_wants(struct ingest *g, struct partition *p, int64_t offset, uint64_t now) {
    struct refeed_part *part = p->refeed;
    const int64_t *wanted = offsets_of(g, part);
    while (part->at < part->end && wanted[part->at] < offset) missing(g, part, wanted[part->at++], false);
    part->read = part->at == part->end;
    if (part->read || wanted[part->at] == offset) return !part->read;
    if (wanted[part->at] - offset > JUMP) p->refetch_ns = now;
    return false;
}

void refeed_passed(struct ingest *g, struct partition *p) {
    struct refeed_part *part = p->refeed;
    g->refeed.number[p->lane] = g->lane[p->lane].out.number;
    outcome_of(g, part)->fed++;
    stats_add(g->stats, M_ingest_record_refeed, 1);
    part->read = ++part->at == part->end;
}

void refeed_ends(struct ingest *g, struct partition *p, const char *why) {
    struct refeed_part *part = p->refeed;
    if (why != NULL)
        part_end(g, part, why);
    else
        while (part->at < part->end) missing(g, part, offsets_of(g, part)[part->at++], false);
    part->read = true;
}

static void reading(struct ingest *g) {
    for (uint32_t i = 0; i < g->refeed.wanted.count; i++)
        if (g->refeed.part[i].mine && !g->refeed.part[i].read) return;
    phase_begin(g, REFEED_SETTLE);
}

static void settle_down(struct ingest *g) {
    struct refeed *r = &g->refeed;
    for (uint32_t lane = 0; lane < g->config->lanes; lane++)
        if (stats_released(&g->worker->stats, lane) < r->number[lane]) return;
    let_all_go(g);
    phase_begin(g, REFEED_TELL);
}

static void tell(struct ingest *g) {
    struct refeed *r = &g->refeed;
    struct err err = {0};
    uint64_t fed = 0, now = clock_ns(g->clock);
    if (now < r->due_ns) return;
    r->due_ns = now + AGAIN_MS * NS_PER_MS;
    if (refeed_result_write(g->config->data_dir, r->id, &r->result, &err) != 0) {
        log_warn("ingest.refeed_untold", "%s", err.text);
        return;
    }
    for (uint32_t i = 0; i < r->result.partitions; i++) fed += r->result.partition[i].fed;
    log_info("ingest.refeed_over", "%s: %llu records passed on once more, %u are not in Kafka%s%s", r->id,
             (unsigned long long)fed, r->result.missing, r->result.reason[0] != 0 ? "; " : "", r->result.reason);
    stats_add(g->stats, M_ingest_refeed, 1);
    refeed_result_free(&r->result);
    free(r->wanted.memory);
    r->wanted = (struct refeed_wanted){0};
    phase_begin(g, REFEED_NONE);
}

/* -- the step ---------------------------------------------------------------------------------- */

/* A partition that was given up is another's business. One that has begun another epoch meanwhile (Redis had lost
 * something, it came back) begins again with the others: nothing that was passed on does any harm twice. */
static void check_epochs(struct ingest *g) {
    struct refeed *r = &g->refeed;
    bool anew = false;
    for (uint32_t i = 0; i < r->wanted.count; i++) {
        struct refeed_part *part = &r->part[i];
        const struct partition *p = part->mine ? &g->partition[part->slot] : NULL;
        if (p == NULL || (p->assigned && p->epoch == part->epoch)) continue;
        anew |= p->assigned;
        if (p->assigned) continue;
        part_end(g, part, "the partition was given up meanwhile");
        part->mine = false;
        part->read = true;
    }
    if (!anew) return;
    let_all_go(g);
    if (++r->tries >= TRIES)
        end_all(g, "Redis loses writes, or partitions come and go, again and again");
    else
        begin(g);
}

bool refeed_step(struct ingest *g) {
    struct refeed *r = &g->refeed;
    enum refeed_phase before = r->phase;
    if (g->membership != MEMBER_READING) return false;
    if (r->phase == REFEED_NONE) find_request(g);
    if (r->phase != REFEED_NONE && r->phase != REFEED_TELL) check_epochs(g);
    switch (r->phase) {
    case REFEED_NONE: break;
    case REFEED_LOOK: look(g); break;
    case REFEED_QUIET: quiet(g); break;
    case REFEED_COMMIT: commit_back(g); break;
    case REFEED_READ: reading(g); break;
    case REFEED_SETTLE: settle_down(g); break;
    case REFEED_TELL: tell(g); break;
    }
    return r->phase != before;
}

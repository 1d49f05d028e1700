/* What has to hold. The model of a partition is one number, `at`: Redis has what every message before it says, and what
 * it says last of each key; a write moves it behind itself, forth by one message or back. So nothing is skipped when no
 * write leaps, and nothing is promised too early when marks, ledgers and commits never pass it. */
#include <stdlib.h>
#include <string.h>

#include "audit/log.h"
#include "base/rejects_read.h"
#include "shm/entry.h"
#include "shm/workspace.h"
#include "tests/sim/redis.h"

static const char letters[] = "rch"; /* of the keys of a topic */
enum { PART_KEYS = 6, OVERSIZE = 2600 };

/* -- what is published ------------------------------------------------------------------------- */

static void text_set(uint8_t **at, uint32_t *len, const char *text, size_t n) {
    *at = malloc(n + 1);
    memcpy(*at, text, n);
    *len = (uint32_t)n;
}

static void pad(char *out, uint32_t n) {
    memset(out, 'x', n);
    out[n] = 0;
}

static void header(struct sim_message *m, const char *word) {
    m->header_bytes = (uint32_t)record_header_put(m->headers, "op", 2, word, strlen(word));
}

/* A topic of records as they are: adds alone, the key is Kafka's. */
static void publish_plain(struct part *p, struct sim_message *m, struct message *out, const char *extra) {
    char text[4096], padding[3072];
    bool huge = dice(60) == 0, tombstone = dice(25) == 0;
    pad(padding, huge ? OVERSIZE : dice(90));
    int n = snprintf(text, sizeof text, "id=%u:%d:%lld;%s%s", p->kafka->topic, p->kafka->partition,
                     (long long)m->offset, extra, padding);
    if (!tombstone) text_set(&m->value, &m->value_bytes, text, (size_t)n);
    snprintf(out->key, sizeof out->key, "r:%d:%u", p->kafka->partition, dice(PART_KEYS));
    if (dice(40) != 0)
        text_set(&m->key, &m->key_bytes, out->key, strlen(out->key));
    else
        out->effect = EFFECT_REJECT;
    if (huge || tombstone || extra[0] != 0) out->effect = EFFECT_REJECT;
}

/* A topic of changes: adds, updates whose key may change, deletes. */
static void publish_change(struct part *p, struct sim_message *m, struct message *out, const char *extra) {
    char text[4096], padding[3072];
    uint32_t key = dice(PART_KEYS), old = dice(3) == 0 ? dice(PART_KEYS) : key, what = dice(12);
    char letter = letters[p->kafka->topic];
    pad(padding, dice(60) == 0 ? OVERSIZE : dice(90));
    int n = snprintf(text, sizeof text, "{\"id\":\"id=%u:%d:%lld;%s\",\"k\":\"%d:%u\",\"o\":\"%d:%u\",\"pad\":\"%s\"}",
                     p->kafka->topic, p->kafka->partition, (long long)m->offset, extra, p->kafka->partition, key,
                     p->kafka->partition, old, padding);
    snprintf(out->key, sizeof out->key, "%c:%d:%u", letter, p->kafka->partition, key);
    if (what == 0) n -= 3; /* not JSON any more */
    text_set(&m->value, &m->value_bytes, text, (size_t)n);
    header(m, what == 1 ? "upsert" : what < 4 ? "delete" : what < 8 ? "update" : "add");
    out->effect = what < 2 ? EFFECT_REJECT : what < 4 ? EFFECT_DELETE : EFFECT_SET;
    if (n > OVERSIZE || extra[0] != 0) out->effect = EFFECT_REJECT;
    bool moves = what >= 4 && what < 8 && old != key;
    if (moves) snprintf(out->old, sizeof out->old, "%c:%d:%u", letter, p->kafka->partition, old);
}

void oracle_publish(uint32_t part) {
    struct part *p = &sim.part[part];
    struct sim_message *m = sim_put(p->kafka, p->kafka->end + (dice(8) == 0 ? dice(4) : 0), -1, -1);
    const char *extra = sim.poisons_left > 0 && dice(30) == 0 ? "poison" : "";
    uint32_t i = p->kafka->count - 1;
    if (extra[0] != 0) sim.poisons_left--;
    if (i >= p->room) {
        p->room = p->room > 0 ? 2 * p->room : 256;
        p->message = realloc(p->message, p->room * sizeof *p->message);
    }
    p->message[i] = (struct message){.effect = EFFECT_SET};
    if (p->kafka->topic == 0)
        publish_plain(p, m, &p->message[i], extra);
    else
        publish_change(p, m, &p->message[i], extra);
    if (dice(12) == 0) sim_gap(p->kafka, 1 + dice(3));
    sim.count.messages++;
}

/* -- whose is what ----------------------------------------------------------------------------- */

static int part_of(uint32_t topic, int32_t partition) {
    for (uint32_t i = 0; i < sim.parts; i++)
        if (sim.part[i].kafka->topic == topic && sim.part[i].kafka->partition == partition) return (int)i;
    return -1;
}

int oracle_part(const char *key) {
    const char *letter = key[0] != 0 && key[1] == ':' ? strchr(letters, key[0]) : NULL;
    return letter != NULL && *letter != 0 ? part_of((uint32_t)(letter - letters), atoi(key + 2)) : -1;
}

bool oracle_id(const char *value, size_t len, uint32_t *part, int64_t *offset) {
    const char *at = memmem(value, len, "id=", 3);
    unsigned topic;
    int partition;
    long long n;
    while (at != NULL && sscanf(at, "id=%u:%d:%lld;", &topic, &partition, &n) != 3)
        at = memmem(at + 1, len - (size_t)(at + 1 - value), "id=", 3);
    int found = at != NULL ? part_of(topic, partition) : -1;
    if (found < 0) return false;
    *part = (uint32_t)found;
    *offset = n;
    return true;
}

/* Index of the first message from an offset on. */
static uint32_t index_from(const struct part *p, int64_t offset) {
    uint32_t low = 0, high = p->kafka->count;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (p->kafka->log[mid]->offset < offset)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The first offset in [from, to) that Redis has to have; -1: there is none. */
static int64_t missing(const struct part *p, int64_t from, int64_t to) {
    for (uint32_t i = index_from(p, from); i < p->kafka->count && p->kafka->log[i]->offset < to; i++)
        if (p->message[i].effect != EFFECT_REJECT) return p->kafka->log[i]->offset;
    return -1;
}

static const char *part_name(const struct part *p) {
    static char text[32];
    snprintf(text, sizeof text, "%u[%d]", p->kafka->topic, p->kafka->partition);
    return text;
}

/* -- what Redis is told ------------------------------------------------------------------------ */

static void moved(struct part *p, int64_t offset) {
    int64_t skipped = missing(p, p->at, offset);
    if (skipped >= 0 && p->refused) return; /* it comes again, and everything behind it */
    SIM_REQUIRE(skipped < 0, "%s: %lld is written and %lld was skipped", part_name(p), (long long)offset,
                (long long)skipped);
    SIM_REQUIRE(offset >= p->kafka->committed || p->ever_forgot, "%s: %lld is written and %lld is committed",
                part_name(p), (long long)offset, (long long)p->kafka->committed);
    p->at = offset + 1;
    sim.count.records++;
}

void oracle_wrote(uint32_t part, int64_t offset, const char *key) {
    struct part *p = &sim.part[part];
    uint32_t i = index_from(p, offset);
    SIM_REQUIRE(i < p->kafka->count && p->kafka->log[i]->offset == offset, "%s: %lld was never published", part_name(p),
                (long long)offset);
    SIM_REQUIRE(p->message[i].effect == EFFECT_SET && strcmp(p->message[i].key, key) == 0, "%s: %lld is written to %s",
                part_name(p), (long long)offset, key);
    if (p->flushed) return;
    moved(p, offset);
    if (p->at == offset + 1) p->refused = false; /* a deletion could be another one than the one that was refused */
}

/* A deletion does not say of which message it is: the next one that has to come, or one that came before. */
void oracle_deleted(const char *key) {
    struct part *p = &sim.part[oracle_part(key)];
    int64_t next = missing(p, p->at, INT64_MAX);
    if (p->flushed) return;
    for (uint32_t i = next >= 0 ? index_from(p, next) + 1 : p->kafka->count; i > 0; i--) {
        bool is_next = p->kafka->log[i - 1]->offset == next;
        if (p->message[i - 1].effect != EFFECT_DELETE || strcmp(p->message[i - 1].key, key) != 0) continue;
        if (p->refused && !is_next) break; /* it may be one that has overtaken what was refused */
        moved(p, p->kafka->log[i - 1]->offset);
        return;
    }
    SIM_REQUIRE(p->refused, "%s is deleted, which nobody asked for before offset %lld", key, (long long)next);
}

void oracle_mark(const char *key, int64_t next) {
    const char *at = strstr(key, ":topic");
    SIM_REQUIRE(at != NULL, "a mark under %s", key);
    struct part *p = &sim.part[part_of((uint32_t)(at[6] - '0'), atoi(at + 8))];
    int64_t skipped = missing(p, p->at, next);
    SIM_REQUIRE(skipped < 0 || p->refused, "%s: the mark says %lld, and %lld is not in Redis", part_name(p),
                (long long)next, (long long)skipped);
    p->marked = true;
    p->flushed = false;
}

/* Whether no mark says more than there is: it does in the middle of records that are sent again. */
bool oracle_marks_fit(void) {
    for (uint32_t i = 0; i < sim.parts; i++) {
        char key[64];
        size_t len;
        snprintf(key, sizeof key, "millrace:mark:g:topic%u:%d", sim.part[i].kafka->topic, sim.part[i].kafka->partition);
        const char *mark = redis_value(key, &len);
        if (mark != NULL && missing(&sim.part[i], sim.part[i].at, strtoll(mark + 2, NULL, 10)) >= 0) return false;
    }
    return true;
}

/* What was acknowledged before may still be released and committed, until the mark tells of it. */
void oracle_forgot(uint32_t part) {
    struct part *p = &sim.part[part];
    p->forgot = p->ever_forgot = true;
    p->marked = false;
}

/* -- shared memory, after every turn ----------------------------------------------------------- */

struct eye { /* on one ring */
    const struct ring_producer_page *producer;
    const struct ring_consumer_page *consumer;
    uint64_t capacity;
};

static struct {
    const struct plumbing *plumbing;
    uint64_t incarnation; /* of what is looked at, by a descriptor that is closed when it goes */
    struct eye eye[SIM_LANES][4];
    const struct ledger_sink *sink[SIM_LANES];
    const struct ledger_audit *audited;
} look;

static void eye_open(struct eye *e, const struct plumbing_ring *ring) {
    struct err err;
    *e = (struct eye){0};
    if (ring->ro.producer < 0) return;
    e->producer = workspace_map(ring->ro.producer, RING_PAGE, false, NULL, &err);
    e->consumer = workspace_map(ring->ro.consumer, RING_PAGE, false, NULL, &err);
    e->capacity = sim.supervisor->config.ring_bytes;
    SIM_REQUIRE(e->producer != NULL && e->consumer != NULL, "a ring cannot be looked at");
}

void oracle_attach(void) {
    struct err err;
    struct plumbing *p = &sim.supervisor->plumbing;
    for (uint32_t i = 0; i < p->lanes; i++) {
        eye_open(&look.eye[i][0], &p->lane[i].to_transform);
        eye_open(&look.eye[i][1], &p->lane[i].to_sink);
        eye_open(&look.eye[i][2], &p->lane[i].to_audit);
        eye_open(&look.eye[i][3], &p->lane[i].rejects);
        look.sink[i] = ledger_sink_map(p->lane[i].sink_ledger_ro, false, &err);
    }
    look.audited = ledger_audit_map(p->audited_ro, false, &err);
}

static uint64_t number_at(const struct ring_slot slot[2], uint64_t position, const char *what) {
    bool m0 = atomic_load(&slot[0].position) == position, m1 = atomic_load(&slot[1].position) == position;
    SIM_REQUIRE(m0 != m1, "%s: %s slot matches", what, m0 ? "more than one" : "no");
    return slot[m1].number;
}

static void ring_look(const struct eye *e, const char *what, uint64_t *published, uint64_t *released) {
    uint64_t head = atomic_load(&e->consumer->head), tail = atomic_load(&e->producer->tail);
    SIM_REQUIRE(tail - head <= e->capacity && head % RING_ALIGN == 0 && tail % RING_ALIGN == 0, "%s: positions", what);
    *published = number_at(e->producer->slot, tail, what);
    *released = number_at(e->consumer->slot, head, what);
    SIM_REQUIRE(*released <= *published, "%s: released %lld, published %lld", what, (long long)*released,
                (long long)*published);
}

static void lane_look(uint32_t lane) {
    const struct eye *e = look.eye[lane];
    uint64_t published[4], released[4];
    ring_look(&e[0], "ring to transform", &published[0], &released[0]);
    ring_look(&e[1], "ring to the sink", &published[1], &released[1]);
    ring_look(&e[3], "rejects ring", &published[3], &released[3]);
    SIM_REQUIRE(published[1] <= published[0] && released[0] <= published[1], "transform is ahead of ingest");
    if (e[2].producer == NULL) return;
    ring_look(&e[2], "audit ring", &published[2], &released[2]);
    SIM_REQUIRE(published[2] <= published[1] && released[1] <= published[2], "the sink is ahead of transform");
}

static void slot_look(uint32_t slot) {
    const struct ledger_ingest_slot *s = &sim.supervisor->plumbing.ledger->slot[slot];
    struct part *p = &sim.part[part_of(s->topic, s->partition)];
    uint64_t epoch, next;
    twin_load(&look.sink[ledger_lane(s->partition, sim.supervisor->config.lanes)]->slot[slot].released, &epoch, &next);
    if (epoch == 0 || epoch != atomic_load(&s->epoch) || !p->kafka->assigned) return;
    int64_t skipped = missing(p, p->at, (int64_t)next);
    if (p->marked && skipped < 0 && missing(p, p->at, p->kafka->committed) < 0) p->forgot = false;
    SIM_REQUIRE(skipped < 0 || p->forgot, "%s: released %lld, and %lld is not in Redis", part_name(p), (long long)next,
                (long long)skipped);
}

void oracle_look(void) {
    if (sim.supervisor == NULL || sim.supervisor->plumbing.ledger == NULL) return;
    for (uint32_t i = 0; i < sim.supervisor->plumbing.lanes; i++) lane_look(i);
    uint32_t slots = atomic_load(&sim.supervisor->plumbing.ledger->count);
    for (uint32_t i = 0; i < slots; i++) slot_look(i);
}

static void rejects_compare(bool committed);

/* -- what Kafka is told ------------------------------------------------------------------------ */

static struct part *part_of_kafka(const struct sim_partition *k) { return &sim.part[k - sim.kafka.partition]; }

/* What audit says of a partition's epoch is behind what is committed under it. */
static void commit_logged_check(const struct part *p, int64_t offset) {
    const struct ledger_ingest *l = sim.supervisor->plumbing.ledger;
    uint64_t epoch, next;
    for (uint32_t i = 0; i < atomic_load(&l->count); i++) {
        const struct ledger_ingest_slot *s = &l->slot[i];
        if (s->topic != p->kafka->topic || s->partition != p->kafka->partition) continue;
        twin_load(&look.audited->slot[i].released, &epoch, &next);
        int64_t logged = epoch == atomic_load(&s->epoch) ? (int64_t)next : atomic_load(&s->start);
        SIM_REQUIRE(offset <= logged || offset <= p->kafka->committed,
                    "%s: committed %lld, audit has logged up to %lld", part_name(p), (long long)offset,
                    (long long)logged);
    }
}

void oracle_commit(void *context, struct sim_partition *k, int64_t offset) {
    (void)context;
    struct part *p = part_of_kafka(k);
    int64_t skipped = missing(p, p->at, offset);
    sim_note((uint64_t)offset);
    sim_trace("kafka: %s committed %lld", part_name(p), (long long)offset);
    SIM_REQUIRE(offset <= k->end, "%s: committed %lld beyond its end", part_name(p), (long long)offset);
    SIM_REQUIRE(offset >= k->committed || p->ever_forgot, "%s: committed %lld, it was %lld", part_name(p),
                (long long)offset, (long long)k->committed);
    if (sim.supervisor->config.audit) commit_logged_check(p, offset);
    if (sim.turns % 8 == 0) rejects_compare(true);
    SIM_REQUIRE(skipped < 0 || p->forgot, "%s: committed %lld, and %lld is not in Redis", part_name(p),
                (long long)offset, (long long)skipped);
}

/* -- the end ----------------------------------------------------------------------------------- */

bool oracle_quiet(void) {
    for (uint32_t i = 0; i < sim.parts; i++)
        if (sim.part[i].kafka->committed != sim.part[i].kafka->end) return false;
    return true;
}

const char *oracle_waits(void) {
    static char text[128];
    for (uint32_t i = 0; i < sim.parts; i++) {
        const struct part *p = &sim.part[i];
        if (p->kafka->committed == p->kafka->end) continue;
        snprintf(text, sizeof text, "%s ends at %lld, written up to %lld, committed %lld", part_name(p),
                 (long long)p->kafka->end, (long long)p->at, (long long)p->kafka->committed);
    }
    return text;
}

/* A value as Redis has to have it: of a hash, its fields. */
static size_t wanted(const struct part *p, const struct sim_message *m, char *out, size_t room) {
    if (p->kafka->topic != 2) {
        memcpy(out, m->value, m->value_bytes);
        return m->value_bytes;
    }
    char text[4096], id[64], k[24], o[24], padding[3072] = "";
    snprintf(text, sizeof text, "%.*s", (int)m->value_bytes, (const char *)m->value);
    int n = sscanf(text, "{\"id\":\"%63[^\"]\",\"k\":\"%23[^\"]\",\"o\":\"%23[^\"]\",\"pad\":\"%3071[^\"]", id, k, o,
                   padding);
    SIM_REQUIRE(n >= 3, "a message cannot be read: %s", text);
    return (size_t)snprintf(out, room, "id=%s\nk=%s\no=%s\npad=%s\n", id, k, o, padding);
}

static void key_compare(const struct part *p, const char *key, const struct sim_message *m) {
    char want[4096];
    size_t len, n;
    const char *has = redis_value(key, &len);
    if (m == NULL) {
        SIM_REQUIRE(has == NULL, "%s is there, and was deleted: %.60s", key, has);
        return;
    }
    SIM_REQUIRE(has != NULL, "%s is not there, %s has it at %lld", key, part_name(p), (long long)m->offset);
    n = wanted(p, m, want, sizeof want);
    SIM_REQUIRE(n == len && memcmp(has, want, n) == 0, "%s has %.60s, it should be %.60s", key, has, want);
}

/* What a partition's messages come to, and what Redis has. Returns how many keys that are. */
static uint32_t part_compare(const struct part *p) {
    uint32_t n = 0;
    for (uint32_t k = 0; k < PART_KEYS; k++) {
        char key[24];
        const struct sim_message *last = NULL;
        snprintf(key, sizeof key, "%c:%d:%u", letters[p->kafka->topic], p->kafka->partition, k);
        for (uint32_t i = 0; i < p->kafka->count; i++) {
            const struct message *m = &p->message[i];
            if (m->effect == EFFECT_REJECT) continue;
            if (strcmp(m->old, key) == 0) last = NULL;
            if (strcmp(m->key, key) == 0) last = m->effect == EFFECT_SET ? p->kafka->log[i] : NULL;
        }
        key_compare(p, key, last);
        n += last != NULL;
    }
    return n;
}

static void mark_compare(const struct part *p) {
    char key[64];
    size_t len;
    snprintf(key, sizeof key, "millrace:mark:g:topic%u:%d", p->kafka->topic, p->kafka->partition);
    const char *mark = redis_value(key, &len);
    SIM_REQUIRE(mark != NULL, "%s has no mark", part_name(p));
    SIM_REQUIRE(strtoll(mark + 2, NULL, 10) == p->kafka->end, "%s ends at %lld, its mark says %s", part_name(p),
                (long long)p->kafka->end, mark);
}

/* Every message that cannot be stored is in the rejects folder, once. upto: offsets below; INT64_MAX all. */
static void rejects_compare(bool committed) {
    struct rejects_reader r;
    struct rejects_record e;
    struct err err = {0};
    char folder[96];
    static uint8_t seen[SIM_PARTS][1 << 14];
    int more;
    memset(seen, 0, sizeof seen);
    snprintf(folder, sizeof folder, "%s/rejects", sim.folder);
    SIM_REQUIRE(rejects_open(&r, folder, &err) == 0, "%s", err.text);
    while ((more = rejects_next(&r, &e, &err)) == 1) {
        int part = part_of((uint32_t)(e.topic[5] - '0'), e.head.partition);
        SIM_REQUIRE(part >= 0 && e.head.offset < (int64_t)sizeof seen[0], "a reject of %s[%d]", e.topic,
                    e.head.partition);
        seen[part][e.head.offset]++;
    }
    SIM_REQUIRE(more == 0, "%s", err.text);
    rejects_close(&r);
    for (uint32_t i = 0; i < sim.parts; i++) {
        const struct part *p = &sim.part[i];
        for (uint32_t k = 0; k < p->kafka->count; k++) {
            int64_t offset = p->kafka->log[k]->offset;
            bool wanted_here = p->message[k].effect == EFFECT_REJECT;
            SIM_REQUIRE(seen[i][offset] <= (wanted_here ? 1 : 0), "%s: %lld is in the rejects folder %u times",
                        part_name(p), (long long)offset, seen[i][offset]);
            SIM_REQUIRE(!wanted_here || seen[i][offset] == 1 || (committed && offset >= p->kafka->committed),
                        "%s: %lld was rejected and is not in the folder", part_name(p), (long long)offset);
        }
    }
}

static bool outcome_fits(const struct message *m, const struct entry *e) {
    if (m->effect == EFFECT_REJECT) return e->outcome == ENTRY_REJECTED;
    return e->outcome == (m->effect == EFFECT_DELETE ? ENTRY_DELETED : ENTRY_APPLIED);
}

/* The log has every message, in order, and once but for what was delivered again. */
static void log_compare(bool committed) {
    char folder[96];
    struct err err = {0};
    struct log_item item;
    enum log_read what;
    int64_t next[SIM_PARTS] = {0};
    snprintf(folder, sizeof folder, "%s/audit", sim.folder);
    struct log_reader *r = log_reader_open(folder, 0, &err);
    if (r == NULL && committed) return; /* it was not begun yet: then nothing is committed, which is looked at below */
    SIM_REQUIRE(r != NULL, "%s", err.text);
    while ((what = log_reader_next(r, &item, &err)) == LOG_ITEM) {
        const struct entry *e = item.entry;
        int part = part_of((uint32_t)(item.topic[5] - '0'), e->partition);
        SIM_REQUIRE(part >= 0, "an entry of %s[%d]", item.topic, e->partition);
        const struct part *p = &sim.part[part];
        uint32_t i = index_from(p, e->offset), expected = index_from(p, next[part]);
        SIM_REQUIRE(i < p->kafka->count && p->kafka->log[i]->offset == e->offset && outcome_fits(&p->message[i], e),
                    "%s: an entry of %lld says %s", part_name(p), (long long)e->offset,
                    entry_outcome_name((enum entry_outcome)e->outcome));
        bool repeat = e->offset < next[part];
        SIM_REQUIRE(((e->flags & ENTRY_REPEAT) != 0) == repeat, "%s: %lld is%s flagged as a repeat", part_name(p),
                    (long long)e->offset, repeat ? " not" : "");
        SIM_REQUIRE(!repeat || sim.again, "%s: %lld is logged twice, and nothing was delivered again", part_name(p),
                    (long long)e->offset);
        SIM_REQUIRE(repeat || i == expected, "%s: %lld is logged, %lld is missing", part_name(p), (long long)e->offset,
                    (long long)p->kafka->log[expected]->offset);
        if (!repeat) next[part] = e->offset + 1;
    }
    SIM_REQUIRE(what == LOG_END, "%s", err.text);
    log_reader_close(r);
    for (uint32_t i = 0; i < sim.parts; i++) {
        const struct part *p = &sim.part[i];
        uint32_t at = index_from(p, next[i]);
        bool all = at == p->kafka->count || (committed && p->kafka->log[at]->offset >= p->kafka->committed);
        SIM_REQUIRE(all, "%s: %lld is not in the audit log", part_name(p), (long long)p->kafka->log[at]->offset);
    }
}

void oracle_committed(void) {
    if (sim.supervisor->config.audit) log_compare(true);
    rejects_compare(true);
}

void oracle_end(void) {
    uint32_t keys = sim.parts;
    for (uint32_t i = 0; i < sim.parts; i++) {
        keys += part_compare(&sim.part[i]);
        mark_compare(&sim.part[i]);
    }
    SIM_REQUIRE(redis_keys() == keys, "Redis has %u keys, it should be %u", redis_keys(), keys);
    if (sim.supervisor->config.audit) log_compare(false);
    rejects_compare(false);
}

/* millrace ring: what is in the rings of an instance, without disturbing it, and in rings that were saved. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/json_text.h"
#include "shm/entry.h"
#include "shm/record.h"
#include "shm/stats_view.h"
#include "tools/command.h"
#include "tools/rings.h"

static const char help[] =
    "usage: millrace ring list   [RING]... [WHERE] [--format json]\n"
    "       millrace ring peek   [RING]... [WHERE] [-n COUNT] [--reveal] [--format json]\n"
    "       millrace ring verify [RING]... [WHERE] [--format json]\n"
    "       millrace ring save DIR [-c FILE | --name NAME [--run-dir DIR]]\n"
    "\n"
    "Looks into the rings between the processes of an instance. Nothing is changed, and nobody is stopped meanwhile.\n"
    "\n"
    "  list     how full every ring is, and how far both its ends have come\n"
    "  peek     the next COUNT (default 10) records that were not released: number, operation, topic, partition,\n"
    "           offset, epoch, lengths; keys masked. Of the audit ring: what became of each record\n"
    "  verify   the checks that the reader makes, on every record that was not released\n"
    "  save     copies the rings and the statistics to files in DIR (made when it is not there), for later\n"
    "\n"
    "RING is ingest, transform, sink (with audit on: to audit) or rejects, of every lane, or of one lane: ingest-0.\n"
    "Without it: all.\n"
    "WHERE is -c FILE, or --name NAME with --run-dir DIR, as for `millrace stats`; or --dir DIR: the files of\n"
    "`millrace ring save`, which need nothing that runs.\n"
    "\n"
    "  --reveal   keys and the first 200 bytes of values, as they stand in the ring (JSON: base64)\n"
    "\n"
    "The rings of a running instance are its supervisor's memory: this needs the same user, or root. Saved files hold\n"
    "records; they are for their owner alone (mode 0600).\n"
    "exit status: 0; 65 a ring fails its checks; 66 no files in DIR; 69 no such instance; 73 DIR cannot be written;\n"
    "77 another user's instance\n";

enum { REVEAL_BYTES = 200 };

struct request {
    const char *file, *name, *run_dir, *dir, *count_text;
    bool json, reveal;
    uint64_t count;
    char *const *wanted; /* names of rings, or none: all */
    int wanted_count;
};

struct subject {
    struct rings rings;
    struct stats stats; /* header NULL when there is none: topics have numbers then */
};

/* -- text that cannot steer a terminal or break JSON ------------------------------------------- */

static void text_put(const uint8_t *bytes, size_t len) {
    for (size_t i = 0; i < len && i < REVEAL_BYTES; i++) {
        if (bytes[i] == '\\')
            fputs("\\\\", stdout);
        else if (bytes[i] >= 0x20 && bytes[i] < 0x7f)
            putchar(bytes[i]);
        else
            printf("\\x%02x", bytes[i]);
    }
    if (len > REVEAL_BYTES) printf(" (cut, %zu bytes)", len);
}

static void json_string(const char *text) { json_text_put(text, strlen(text), stdout); }

static void json_base64(const char *name, const uint8_t *bytes, size_t len) {
    unsigned char out[(REVEAL_BYTES + 2) / 3 * 4 + 1];
    EVP_EncodeBlock(out, bytes, (int)(len < REVEAL_BYTES ? len : REVEAL_BYTES));
    printf(",\"%s\":\"%s\"", name, out);
}

/* -- list -------------------------------------------------------------------------------------- */

/* Opens what the rings of a lane are called on both sides of a comma in JSON. */
static void json_ring_begin(bool *first, const struct rings_one *one) {
    fputs(*first ? "{\"rings\":[{\"name\":" : ",{\"name\":", stdout);
    *first = false;
    json_string(one->name);
}

static void list_json(const struct ring_snapshot *s, enum ring_grade grade, const struct err *err) {
    printf(",\"state\":\"%s\"", grade == RING_ATTACHED ? "good" : ring_grade_name(grade));
    if (grade != RING_ATTACHED) {
        fputs(",\"why\":", stdout);
        json_string(err->text);
        putchar('}');
        return;
    }
    printf(",\"capacity\":%" PRIu64 ",\"incarnation\":\"%016" PRIx64 "\",\"published\":%" PRIu64
           ",\"released\":%" PRIu64 ",\"records\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"head\":%" PRIu64
           ",\"tail\":%" PRIu64 ",\"in_hand\":%" PRIu64 "}",
           s->capacity, s->incarnation, s->published, s->released, s->published - s->released, s->tail - s->head,
           s->head, s->tail, s->in_hand);
}

static void list_row(const char *name, const struct ring_snapshot *s, enum ring_grade grade, const struct err *err) {
    if (grade != RING_ATTACHED)
        printf("%-14s %s\n", name, err->text);
    else
        printf("%-14s %12" PRIu64 " %12" PRIu64 " %10" PRIu64 " %12" PRIu64 " %9" PRIu64 "K %4.0f%%\n", name,
               s->published, s->released, s->published - s->released, s->tail - s->head, s->capacity >> 10,
               100.0 * (double)(s->tail - s->head) / (double)s->capacity);
}

static int list_one(const struct subject *u, uint32_t i, const struct request *q, bool *first) {
    struct err err = {0};
    struct ring_fds copy;
    struct ring_snapshot s = {0};
    enum ring_grade grade = RING_TOO_SHORT;
    if (rings_take(&u->rings, i, RING_FILE_CONTROL, &copy, &err) == 0) {
        grade = ring_observe(&copy, &s, &err);
        ring_file_drop(&copy);
    }
    if (q->json) {
        json_ring_begin(first, &u->rings.one[i]);
        list_json(&s, grade, &err);
    } else {
        if (*first)
            printf("%-14s %12s %12s %10s %12s %10s %5s\n", "RING", "PUBLISHED", "RELEASED", "RECORDS", "BYTES",
                   "CAPACITY", "FULL");
        *first = false;
        list_row(u->rings.one[i].name, &s, grade, &err);
    }
    return grade == RING_ATTACHED ? EX_OK : EX_DATAERR;
}

/* -- walking ----------------------------------------------------------------------------------- */

/* Both ends of a private copy. */
struct walk {
    struct ring_fds copy;
    struct ring_producer producer;
    struct ring_consumer consumer;
    uint64_t records, position; /* seen so far; where the last look began */
};

static void walk_end(struct walk *w) {
    ring_producer_detach(&w->producer);
    ring_consumer_detach(&w->consumer);
    ring_file_drop(&w->copy);
}

/* Takes the copy and attaches to both its ends, with all their checks. False with err when one fails. */
static bool walk_begin(struct walk *w, const struct subject *u, uint32_t i, struct err *err) {
    *w = (struct walk){.copy = {-1, -1, -1}};
    return rings_take(&u->rings, i, RING_FILE_UNRELEASED, &w->copy, err) == 0 &&
           ring_consumer_attach(&w->consumer, &w->copy, -1, err) == RING_ATTACHED &&
           ring_producer_attach(&w->producer, &w->copy, -1, err) == RING_ATTACHED;
}

/* What stands in a ring: a record, or on the audit ring the entry that tells what became of one. */
struct content {
    bool is_entry;
    struct record_view record;
    struct entry entry;
};

static int content_open(const struct ring_item *item, struct content *c) {
    c->is_entry = item->type == RECORD_ENTRY;
    if (!c->is_entry) return item->type == RECORD_DATA ? record_open(item->body, item->len, &c->record) : -1;
    if (entry_check(item->body, item->len) != 0) return -1;
    memcpy(&c->entry, item->body, sizeof c->entry);
    return 0;
}

/* RING_OK with the next record or entry, RING_EMPTY after the last one, RING_BROKEN with err. */
static enum ring_state walk_next(struct walk *w, struct ring_item *item, struct content *content, struct err *err) {
    w->position = w->consumer.cursor;
    enum ring_state state = ring_peek(&w->consumer, item, err);
    if (state == RING_EMPTY && w->consumer.number != w->producer.number_published) {
        err_set(err, EINVAL, "the last record is %" PRIu64 ", and the producer published up to %" PRIu64,
                w->consumer.number, w->producer.number_published);
        return RING_BROKEN;
    }
    if (state != RING_OK) return state;
    if (content_open(item, content) != 0) {
        err_set(err, EINVAL, "at position %" PRIu64 ", record %" PRIu64 ": its bytes are not a record", w->position,
                item->number);
        return RING_BROKEN;
    }
    w->records++;
    return RING_OK;
}

/* -- verify ------------------------------------------------------------------------------------ */

static int verify_one(const struct subject *u, uint32_t i, const struct request *q, bool *first) {
    struct err err = {0};
    struct walk w;
    struct ring_item item;
    struct content content;
    enum ring_state state = RING_BROKEN;
    if (walk_begin(&w, u, i, &err))
        while ((state = walk_next(&w, &item, &content, &err)) == RING_OK) continue;
    bool good = state == RING_EMPTY;
    if (q->json) {
        json_ring_begin(first, &u->rings.one[i]);
        printf(",\"state\":\"%s\",\"records\":%" PRIu64 ",\"position\":%" PRIu64, good ? "good" : "corrupt", w.records,
               w.position);
        if (!good) {
            fputs(",\"why\":", stdout);
            json_string(err.text);
        }
        putchar('}');
    } else {
        *first = false;
        printf("%-14s %s%s: %" PRIu64 " records\n", u->rings.one[i].name,
               good ? "good" : "CORRUPT: ", good ? "" : err.text, w.records);
    }
    walk_end(&w);
    return good ? EX_OK : EX_DATAERR;
}

/* -- peek -------------------------------------------------------------------------------------- */

static const char *topic_name(const struct subject *u, uint32_t topic, char out[TOPIC_BYTES]) {
    if (u->stats.header != NULL && topic < u->stats.header->topic_count)
        snprintf(out, TOPIC_BYTES, "%s", view_topic(&u->stats, topic));
    else
        snprintf(out, TOPIC_BYTES, "topic %" PRIu32, topic);
    return out;
}

/* Enough to recognise a prefix, not enough to know whose record it is. */
static void mask(const uint8_t *key, size_t len, char out[40]) {
    char lead[3] = "";
    for (size_t i = 0; i < 2 && len >= 8; i++) lead[i] = key[i] > 0x20 && key[i] < 0x7f ? (char)key[i] : '?';
    if (len == 0)
        snprintf(out, 40, "-");
    else
        snprintf(out, 40, "%s*** (%zu)", lead, len);
}

/* The Redis key where transform has made one, else Kafka's. */
static const uint8_t *key_of(const struct record_view *v, size_t *len) {
    *len = v->head.redis_key_bytes > 0 ? v->head.redis_key_bytes : v->head.kafka_key_bytes;
    return v->head.redis_key_bytes > 0 ? v->redis_key : v->kafka_key;
}

static void tail_put(bool altered, uint32_t content_bytes) {
    if (altered) fputs(" altered", stdout);
    if (content_bytes > 0) printf(" content %" PRIu32, content_bytes);
    putchar('\n');
}

/* The key's place holds the beginning of its digest, by which the record's other entries are found. */
static void entry_row(const struct subject *u, const struct ring_item *item, const struct entry *e) {
    char topic[TOPIC_BYTES], place[TOPIC_BYTES + 40], key[DIGEST_HEX_BYTES];
    snprintf(place, sizeof place, "%s/%" PRId32 "/%" PRId64, topic_name(u, e->topic, topic), e->partition, e->offset);
    digest_hex(e->digest_key, key);
    printf("%12" PRIu64 " %-7s %-32s %6" PRIu32 "  #%-13.12s %9" PRIu32, item->number,
           entry_outcome_name((enum entry_outcome)e->outcome), place, e->epoch, key, e->stored_bytes);
    tail_put((e->flags & ENTRY_ALTERED) != 0, e->content_bytes);
    if (e->reason != REASON_NONE) printf("%20s reason %s\n", "", record_reason_name((enum record_reason)e->reason));
}

static void peek_row(const struct subject *u, const struct ring_item *item, const struct record_view *v, bool reveal) {
    const struct record *r = &v->head;
    char topic[TOPIC_BYTES], place[TOPIC_BYTES + 40], masked[40];
    size_t key_bytes;
    const uint8_t *key = key_of(v, &key_bytes);
    snprintf(place, sizeof place, "%s/%" PRId32 "/%" PRId64, topic_name(u, r->topic, topic), r->partition, r->offset);
    mask(key, key_bytes, masked);
    printf("%12" PRIu64 " %-7s %-32s %6" PRIu32 "  %-14s %9" PRIu32 "%s%s%s", item->number,
           record_op_name((enum record_op)r->op), place, r->epoch, masked, r->value_bytes,
           r->flags & RECORD_SEALED         ? " sealed"
           : r->flags & RECORD_VALUE_FIELDS ? " fields"
                                            : "",
           r->flags & RECORD_VALUE_NULL ? " null" : "", r->flags & RECORD_TRACED ? " traced" : "");
    tail_put((v->trace.flags & TRACE_ALTERED) != 0, v->trace.content_bytes);
    if (r->reason != REASON_NONE) printf("%20s reason %s\n", "", record_reason_name((enum record_reason)r->reason));
    if (!reveal) return;
    printf("%20s key   ", "");
    text_put(key, key_bytes);
    printf("\n%20s value ", "");
    text_put(v->value, r->value_bytes);
    putchar('\n');
}

static void json_digest(const char *name, const uint8_t digest[DIGEST_BYTES]) {
    char hex[DIGEST_HEX_BYTES];
    digest_hex(digest, hex);
    printf(",\"%s\":\"%s\"", name, hex);
}

static void peek_json(const struct subject *u, const struct ring_item *item, const struct record_view *v, bool reveal) {
    const struct record *r = &v->head;
    char topic[TOPIC_BYTES], id[37];
    size_t key_bytes;
    const uint8_t *key = key_of(v, &key_bytes);
    record_id_format(r->id, id);
    printf("{\"number\":%" PRIu64 ",\"op\":\"%s\",\"reason\":\"%s\",\"id\":\"%s\",\"topic\":", item->number,
           record_op_name((enum record_op)r->op), record_reason_name((enum record_reason)r->reason), id);
    json_string(topic_name(u, r->topic, topic));
    printf(",\"partition\":%" PRId32 ",\"offset\":%" PRId64 ",\"epoch\":%" PRIu32 ",\"timestamp_ms\":%" PRId64
           ",\"flags\":%" PRIu16 ",\"kafka_key_bytes\":%" PRIu32 ",\"redis_key_bytes\":%" PRIu32
           ",\"old_key_bytes\":%" PRIu32 ",\"value_bytes\":%" PRIu32 ",\"headers_bytes\":%" PRIu32,
           r->partition, r->offset, r->epoch, r->timestamp_ms, r->flags, r->kafka_key_bytes, r->redis_key_bytes,
           r->old_key_bytes, r->value_bytes, r->headers_bytes);
    if ((r->flags & RECORD_TRACED) != 0) {
        printf(",\"trace\":{\"created_ms\":%" PRId64 ",\"sequence\":%" PRIu64 ",\"flags\":%" PRIu32
               ",\"stored_bytes\":%" PRIu32 ",\"content_bytes\":%" PRIu32,
               v->trace.created_ms, v->trace.sequence, v->trace.flags, v->trace.stored_bytes, v->trace.content_bytes);
        json_digest("digest_key", v->trace.digest_key);
        json_digest("digest_published", r->digest_published);
        json_digest("digest_stored", r->digest_stored);
        putchar('}');
    }
    if (reveal) {
        json_base64("key", key, key_bytes);
        json_base64("value", v->value, r->value_bytes);
    }
    putchar('}');
}

static void entry_json(const struct subject *u, const struct ring_item *item, const struct entry *e) {
    char topic[TOPIC_BYTES], id[37];
    record_id_format(e->id, id);
    printf("{\"number\":%" PRIu64 ",\"outcome\":\"%s\",\"op\":\"%s\",\"reason\":\"%s\",\"id\":\"%s\",\"topic\":",
           item->number, entry_outcome_name((enum entry_outcome)e->outcome), record_op_name((enum record_op)e->op),
           record_reason_name((enum record_reason)e->reason), id);
    json_string(topic_name(u, e->topic, topic));
    printf(",\"partition\":%" PRId32 ",\"offset\":%" PRId64 ",\"epoch\":%" PRIu32 ",\"timestamp_ms\":%" PRId64
           ",\"created_ms\":%" PRId64 ",\"flags\":%" PRIu32 ",\"stored_bytes\":%" PRIu32 ",\"content_bytes\":%" PRIu32,
           e->partition, e->offset, e->epoch, e->timestamp_ms, e->created_ms, e->flags, e->stored_bytes,
           e->content_bytes);
    json_digest("digest_key", e->digest_key);
    json_digest("digest_published", e->digest_published);
    json_digest("digest_stored", e->digest_stored);
    putchar('}');
}

static void peek_content(const struct subject *u, const struct ring_item *item, const struct content *c,
                         const struct request *q) {
    if (c->is_entry)
        (q->json ? entry_json : entry_row)(u, item, &c->entry);
    else
        (q->json ? peek_json : peek_row)(u, item, &c->record, q->reveal);
}

static int peek_one(const struct subject *u, uint32_t i, const struct request *q, bool *first) {
    struct err err = {0};
    struct walk w;
    struct ring_item item;
    struct content content;
    enum ring_state state = RING_BROKEN;
    bool whole = walk_begin(&w, u, i, &err);
    uint64_t waiting = whole ? w.producer.number_published - w.consumer.number_released : 0;
    if (q->json) {
        json_ring_begin(first, &u->rings.one[i]);
        printf(",\"waiting\":%" PRIu64 ",\"records\":[", waiting);
    } else {
        printf("%s%s: %" PRIu64 " records not released\n", *first ? "" : "\n", u->rings.one[i].name, waiting);
        if (waiting > 0)
            printf("%12s %-7s %-32s %6s  %-14s %9s\n", "NUMBER", "OP", "TOPIC/PARTITION/OFFSET", "EPOCH", "KEY",
                   "VALUE");
        *first = false;
    }
    while (whole && w.records < q->count && (state = walk_next(&w, &item, &content, &err)) == RING_OK) {
        if (q->json && w.records > 1) putchar(',');
        peek_content(u, &item, &content, q);
    }
    if (q->json) {
        fputs(state == RING_BROKEN ? "],\"why\":" : "]", stdout);
        if (state == RING_BROKEN) json_string(err.text);
        putchar('}');
    } else if (state == RING_BROKEN)
        printf("CORRUPT: %s\n", err.text);
    walk_end(&w);
    return state == RING_BROKEN ? EX_DATAERR : EX_OK;
}

/* -- save -------------------------------------------------------------------------------------- */

/* The statistics beside the rings: names of topics, and what the workers said last. */
static int stats_save(const struct stats *s, int folder, struct err *err) {
    char name[NAME_BYTES + 8];
    snprintf(name, sizeof name, "%.*s.stats", NAME_BYTES - 1, s->header->name);
    int file = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return err_set(err, EX_CANTCREAT, "%s: %s", name, strerror(errno));
    size_t put = 0;
    while (put < s->bytes) {
        ssize_t w = write(file, (const char *)s->header + put, s->bytes - put);
        if (w < 0) break;
        put += (size_t)w;
    }
    int r = put == s->bytes ? 0 : err_set(err, EX_CANTCREAT, "%s: %s", name, strerror(errno));
    close(file);
    return r;
}

static int save(const struct subject *u, const char *dir) {
    struct err err = {0};
    uint32_t saved = 0;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        fprintf(stderr, "millrace ring: %s: %s\n", dir, strerror(errno));
        return EX_CANTCREAT;
    }
    int folder = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 || stats_save(&u->stats, folder, &err) != 0) {
        fprintf(stderr, "millrace ring: %s: %s\n", dir, folder < 0 ? strerror(errno) : err.text);
        if (folder >= 0) close(folder);
        return EX_CANTCREAT;
    }
    for (uint32_t i = 0; i < u->rings.count; i++) {
        char name[40];
        rings_file_name(u->rings.one[i].name, name);
        if (ring_file_save(&u->rings.one[i].fds, folder, name, &err) == 0)
            saved++;
        else
            fprintf(stderr, "millrace ring: %s: %s\n", dir, err.text);
    }
    close(folder);
    printf("%" PRIu32 " of %" PRIu32 " rings saved to %s; look into them with `millrace ring list --dir %s`\n", saved,
           u->rings.count, dir, dir);
    return saved == u->rings.count ? EX_OK : EX_CANTCREAT;
}

/* -- finding ----------------------------------------------------------------------------------- */

/* The statistics that were saved with the rings; without them topics have numbers. */
static void stats_find(struct stats *s, const char *folder) {
    DIR *dir = opendir(folder);
    if (dir == NULL) return;
    for (struct dirent *e; s->header == NULL && (e = readdir(dir)) != NULL;) {
        char *dot = strstr(e->d_name, ".stats");
        struct err err;
        if (dot == NULL || dot[6] != 0) continue;
        *dot = 0;
        if (stats_open(s, folder, e->d_name, &err) != 0) *s = (struct stats){0};
    }
    closedir(dir);
}

static int subject_of_instance(struct subject *u, const struct request *q) {
    struct command_place place;
    struct err err = {0};
    int status = command_place("ring", q->file, q->name, q->run_dir, &place);
    if (status != 0) return status;
    if (stats_open(&u->stats, place.run_dir, place.name, &err) == 0) {
        if (!view_supervisor_alive(&u->stats))
            err_set(&err, EX_UNAVAILABLE, "%s does not run; its rings are gone with it", place.name);
        else if (rings_of_process(&u->rings, (pid_t)view_pid(stats_block(&u->stats, 0)), &err) == 0)
            return 0;
    }
    fprintf(stderr, "millrace ring: %s\n", err.text);
    return err.code;
}

static int subject_find(struct subject *u, const struct request *q) {
    struct err err = {0};
    u->rings.folder = -1;
    if (q->dir == NULL) return subject_of_instance(u, q);
    if (q->file != NULL || q->name != NULL || q->run_dir != NULL)
        return command_misuse("ring", "--dir stands alone: the files need no instance");
    if (rings_of_folder(&u->rings, q->dir, &err) != 0) {
        fprintf(stderr, "millrace ring: %s\n", err.text);
        return err.code;
    }
    stats_find(&u->stats, q->dir);
    return 0;
}

/* -- command ----------------------------------------------------------------------------------- */

static bool wanted(const struct request *q, const struct rings_one *one) {
    for (int i = 0; i < q->wanted_count; i++)
        if (rings_called(one, q->wanted[i])) return true;
    return q->wanted_count == 0;
}

/* Every ring's answer; the worst status. */
static int each(const struct subject *u, const struct request *q,
                int (*show)(const struct subject *, uint32_t, const struct request *, bool *)) {
    int status = EX_OK;
    bool first = true;
    for (int k = 0; k < q->wanted_count; k++) {
        uint32_t i = 0;
        while (i < u->rings.count && !rings_called(&u->rings.one[i], q->wanted[k])) i++;
        if (i == u->rings.count) return command_misuse("ring", "there is no ring called %s", q->wanted[k]);
    }
    for (uint32_t i = 0; i < u->rings.count; i++) {
        if (!wanted(q, &u->rings.one[i])) continue;
        int s = show(u, i, q, &first);
        if (s != EX_OK) status = s;
    }
    if (q->json) fputs("]}\n", stdout);
    return fflush(stdout) == 0 ? status : EX_IOERR;
}

static int carry_out(const char *what, struct request *q) {
    static struct subject u; /* zeroed */
    int (*const shows[])(const struct subject *, uint32_t, const struct request *, bool *) = {list_one, peek_one,
                                                                                              verify_one};
    static const char *const names[] = {"list", "peek", "verify", "save"};
    int k = 0;
    while (k < 4 && strcmp(what, names[k]) != 0) k++;
    if (k == 4) return command_misuse("ring", "unknown command %s: list, peek, verify or save", what);
    if (k != 1 && (q->reveal || q->count_text != NULL)) return command_misuse("ring", "-n and --reveal go with peek");
    if (k == 3 && (q->wanted_count != 1 || q->dir != NULL || q->json))
        return command_misuse("ring", "save takes one folder, and an instance");
    int status = subject_find(&u, q);
    if (status == 0) status = k == 3 ? save(&u, q->wanted[0]) : each(&u, q, shows[k]);
    rings_close(&u.rings);
    if (u.stats.header != NULL) stats_close(&u.stats);
    return status;
}

int command_ring(int argc, char **argv) {
    enum { OPTION_REVEAL = 256 };
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},  {"name", required_argument, NULL, 'N'},
        {"run-dir", required_argument, NULL, 'r'}, {"dir", required_argument, NULL, 'd'},
        {"format", required_argument, NULL, 'f'},  {"reveal", no_argument, NULL, OPTION_REVEAL},
        {"help", no_argument, NULL, 'h'},          {0}};
    struct request q = {.count = 10};
    const char *format = "table";
    char *end = NULL;
    int o;
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:n:h", options, NULL)) != -1) switch (o) {
        case 'c': q.file = optarg; break;
        case 'N': q.name = optarg; break;
        case 'r': q.run_dir = optarg; break;
        case 'd': q.dir = optarg; break;
        case 'f': format = optarg; break;
        case 'n': q.count_text = optarg; break;
        case OPTION_REVEAL: q.reveal = true; break;
        case 'h': return fputs(help, stdout) < 0 ? EX_IOERR : EX_OK;
        default: return command_misuse("ring", "unknown option or missing argument: %s", argv[optind - 1]);
        }
    if (optind == argc) return command_misuse("ring", "list, peek, verify or save?");
    q.json = strcmp(format, "json") == 0;
    if (!q.json && strcmp(format, "table") != 0)
        return command_misuse("ring", "unknown format %s: table or json", format);
    if (q.count_text != NULL) q.count = strtoull(q.count_text, &end, 10);
    if (q.count_text != NULL && (*end != 0 || q.count == 0 || q.count_text[0] == '-'))
        return command_misuse("ring", "-n %s: a number of records is needed", q.count_text);
    q.wanted = argv + optind + 1;
    q.wanted_count = argc - optind - 1;
    prctl(PR_SET_DUMPABLE, 0); /* what it holds in memory must not end in a core dump */
    return carry_out(argv[optind], &q);
}

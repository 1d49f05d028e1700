/* millrace recon record: one record's whole life. */
#include <getopt.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sysexits.h>
#include <time.h>

#include "base/audit_keys.h"
#include "base/digest.h"
#include "base/json_text.h"
#include "base/keys.h"
#include "base/utc.h"
#include "shm/record.h"
#include "tools/command.h"
#include "tools/recon_find.h"
#include "tools/redis_client.h"
#include "transform/value.h"

static const char help[] =
    "usage: millrace recon record (--id UUID | --key REDISKEY | --at TOPIC/PARTITION/OFFSET)\n"
    "                             [--redis] [--format table|json] [-c FILE]\n"
    "\n"
    "Everything that is known of a record, stage by stage: when it was created, reached Kafka, was read, transformed,\n"
    "sent to Redis, acknowledged, logged and committed; what became of it; every other time it came (repeats of its\n"
    "offset, duplicates of its id); and which record its key should hold now. --key shows all records of that key,\n"
    "oldest first, at most the newest 1,000.\n"
    "  --redis     with --key: also what Redis holds now, compared by digest\n"
    "Exit status: 0 found, 66 nothing is known of it, 69 Redis was not reached, 65 the log is damaged, 78 "
    "configuration.\n";

enum held {
    HELD_NOT_ASKED,
    HELD_NOTHING,
    HELD_SAME,
    HELD_OTHER,
    HELD_TYPE,
    HELD_UNREADABLE,
    HELD_UNKNOWN, /* a value, and it is not known what it should be */
    HELD_COUNT
};
static const char *const held_names[] = {"not asked",    "nothing",     "what it should", "something else",
                                         "another type", "undecodable", "a value"};
static_assert(sizeof held_names / sizeof held_names[0] == HELD_COUNT, "a name each");

struct request {
    const char *key_text; /* of --key */
    bool json, redis;
    uint8_t id[16], key[DIGEST_BYTES];
    char topic[TOPIC_BYTES];
    struct find find;
    enum held held;
};

/* -- texts ------------------------------------------------------------------------------------- */

static const char *time_text(int64_t us, char out[UTC_BYTES]) {
    utc_text(out, us, 6);
    return out;
}

static bool given(const uint8_t bytes[16]) {
    static const uint8_t zeros[16];
    return memcmp(bytes, zeros, sizeof zeros) != 0;
}

static const char *digest_text(enum digest_algorithm algorithm, const uint8_t digest[DIGEST_BYTES], char out[48]) {
    char hex[DIGEST_HEX_BYTES];
    digest_hex(digest, hex);
    if (algorithm == DIGEST_NONE || !given(digest))
        snprintf(out, 48, "-");
    else
        snprintf(out, 48, "%s:%s", algorithm == DIGEST_HMAC ? "hmac" : "xxh3", hex);
    return out;
}

static const char *committed_text(const struct find_entry *f) {
    return f->committed < 0 ? "unknown" : f->committed > f->e.offset ? "yes" : "no";
}

static const char *declared_text(const struct entry *e) {
    return e->flags & ENTRY_ALTERED ? "altered" : e->flags & ENTRY_DECLARED ? "as declared" : "not declared";
}

/* -- as a table -------------------------------------------------------------------------------- */

static void stage(const char *name, int64_t us, int64_t before_us) {
    char text[40];
    printf("  %-12s %s", name, time_text(us, text));
    if (us >= 0 && before_us >= 0) printf("  %+.3f ms", (double)(us - before_us) / 1000);
    putchar('\n');
}

static void stages(const struct find_entry *f) {
    const struct entry *e = &f->e;
    int64_t created = e->created_ms < 0 ? -1 : e->created_ms * 1000;
    int64_t kafka = e->timestamp_ms < 0 ? -1 : e->timestamp_ms * 1000, in = e->ingested_us;
    stage(e->flags & ENTRY_CREATED ? "created" : "event time", created, -1);
    stage("Kafka", kafka, created);
    stage("ingested", in, kafka);
    stage("transformed", in + e->transformed_us, in);
    stage("sent", in + e->sent_us, in + e->transformed_us);
    stage("answered", in + e->answered_us, in + e->sent_us);
    stage("logged", f->written_us, in + e->answered_us);
    printf("  %-12s %s\n", "committed", committed_text(f));
}

static void value_row(const char *name, uint32_t bytes, enum digest_algorithm algorithm, const uint8_t digest[16],
                      const char *more) {
    char text[48];
    if (bytes == RECORD_BYTES_NULL)
        printf("  %-12s no value\n", name);
    else
        printf("  %-12s %" PRIu32 " bytes  %s%s%s\n", name, bytes, digest_text(algorithm, digest, text),
               more[0] != '\0' ? "  " : "", more);
}

static void origin_row(const struct find_entry *f) {
    const struct entry *e = &f->e;
    char load[37];
    if (e->producer == 0 && !given(e->load)) return;
    printf("  %-12s", "producer");
    if (e->producer != 0) printf(" %s number %" PRIu64, f->producer, e->sequence);
    record_id_format(e->load, load);
    if (given(e->load)) printf("%s load %s", e->producer != 0 ? " " : "", load);
    putchar('\n');
}

static void entry_table(const struct find_entry *f) {
    const struct entry *e = &f->e;
    char id[37], key[48];
    record_id_format(e->id, id);
    printf("%s/%" PRId32 "/%" PRId64 "  id %s  %s, %s%s%s%s%s\n", f->topic, e->partition, e->offset, id,
           record_op_name(e->op), entry_outcome_name(e->outcome), e->outcome == ENTRY_REJECTED ? " as " : "",
           e->outcome == ENTRY_REJECTED ? record_reason_name(e->reason) : "",
           e->flags & ENTRY_REPEAT ? ", delivered again" : "", e->flags & ENTRY_REFED ? ", asked for again" : "");
    stages(f);
    printf("  %-12s entry %" PRIu64 "%s\n", "log", f->sequence, e->content_bytes > 0 ? ", with its content" : "");
    origin_row(f);
    value_row("published", e->published_bytes, e->digest_algorithm, e->digest_published, declared_text(e));
    if (e->outcome == ENTRY_APPLIED || e->outcome == ENTRY_SUPERSEDED)
        value_row("stored", e->stored_bytes, e->digest_algorithm, e->digest_stored,
                  e->flags & ENTRY_HASH ? "hash" : "");
    if (given(e->digest_key)) printf("  %-12s %s\n", "key", digest_text(DIGEST_HMAC, e->digest_key, key));
    if (e->flags & ENTRY_KEY_CHANGED)
        printf("  %-12s %s\n", "old key", digest_text(DIGEST_HMAC, e->digest_old_key, key));
    putchar('\n');
}

static void notes_table(const struct find *f) {
    for (size_t i = 0; i < f->notes; i++) {
        const struct find_note *n = &f->note[i];
        char start[40];
        printf("finding: %s", db_record_name(n->kind));
        if (n->offset >= 0) printf(", %s/%" PRId32 "/%" PRId64, n->topic, n->partition, n->offset);
        if (n->producer[0] != 0) printf(", producer %s number %" PRId64, n->producer, n->sequence);
        printf(", window %s", time_text(n->start_ms * 1000, start));
        printf("%s%s\n", n->window >= 0 ? " " : "", n->window >= 0 ? db_window_name((enum db_window)n->window) : "");
    }
}

static void live_table(const struct request *r) {
    const struct find *f = &r->find;
    char digest[48], until[40];
    if (f->live_known && !f->live_there) puts("its key: should not be in Redis");
    if (f->live_there) {
        printf("its key: should hold the value of %s/%" PRId32 "/%" PRId64 ", %s", f->live_topic, f->live.partition,
               f->live.offset, digest_text(f->live.algorithm, f->live.value, digest));
        if (f->live.expire_at_ms > 0) printf(", until %s", time_text(f->live.expire_at_ms * 1000, until));
        putchar('\n');
    }
    if (r->redis) printf("Redis holds: %s\n", held_names[r->held]);
}

static void table(const struct request *r) {
    const struct find *f = &r->find;
    if (f->more > 0) printf("(%zu older entries are left out)\n\n", f->more);
    for (size_t i = 0; i < f->entries; i++) entry_table(&f->entry[i]);
    notes_table(f);
    live_table(r);
}

/* -- as JSON ----------------------------------------------------------------------------------- */

static void json_time(const char *name, int64_t us) {
    char text[40];
    if (us < 0)
        printf(",\"%s\":null", name);
    else
        printf(",\"%s\":\"%s\"", name, time_text(us, text));
}

static void json_digest(const char *name, enum digest_algorithm algorithm, const uint8_t digest[16]) {
    char text[48];
    digest_text(algorithm, digest, text);
    if (text[0] == '-')
        printf(",\"%s\":null", name);
    else
        printf(",\"%s\":\"%s\"", name, text);
}

static void json_text(const char *name, const char *text) {
    printf(",\"%s\":", name);
    json_text_put(text, strlen(text), stdout);
}

static void json_bytes(const char *name, uint32_t bytes) {
    if (bytes == RECORD_BYTES_NULL)
        printf(",\"%s\":null", name);
    else
        printf(",\"%s\":%" PRIu32, name, bytes);
}

static void entry_json(const struct find_entry *f) {
    const struct entry *e = &f->e;
    char id[37];
    record_id_format(e->id, id);
    printf("{\"id\":\"%s\"", id);
    json_text("topic", f->topic);
    printf(",\"partition\":%" PRId32 ",\"offset\":%" PRId64 ",\"entry\":%" PRIu64, e->partition, e->offset,
           f->sequence);
    json_text("operation", record_op_name(e->op));
    json_text("outcome", entry_outcome_name(e->outcome));
    json_text("reason", record_reason_name(e->reason));
    json_time("created", e->created_ms < 0 ? -1 : e->created_ms * 1000);
    json_time("kafka", e->timestamp_ms < 0 ? -1 : e->timestamp_ms * 1000);
    json_time("ingested", e->ingested_us);
    json_time("transformed", e->ingested_us + e->transformed_us);
    json_time("sent", e->ingested_us + e->sent_us);
    json_time("answered", e->ingested_us + e->answered_us);
    json_time("logged", f->written_us);
    json_text("committed", committed_text(f));
    printf(",\"repeat\":%s,\"refed\":%s,\"hash\":%s", e->flags & ENTRY_REPEAT ? "true" : "false",
           e->flags & ENTRY_REFED ? "true" : "false", e->flags & ENTRY_HASH ? "true" : "false");
    json_text("declared", declared_text(e));
    json_bytes("published_bytes", e->published_bytes);
    json_digest("published_digest", e->digest_algorithm, e->digest_published);
    json_bytes("stored_bytes", e->stored_bytes);
    json_digest("stored_digest", e->digest_algorithm, e->digest_stored);
    json_digest("key_digest", DIGEST_HMAC, e->digest_key);
    json_digest("old_key_digest", DIGEST_HMAC, e->digest_old_key);
    record_id_format(e->load, id);
    if (given(e->load)) json_text("load", id);
    if (e->producer != 0) {
        json_text("producer", f->producer);
        printf(",\"sequence\":%" PRIu64, e->sequence);
    }
    putchar('}');
}

static void note_json(const struct find_note *n) {
    printf("{\"finding\":\"%s\"", db_record_name(n->kind));
    json_text("topic", n->topic);
    if (n->offset >= 0) printf(",\"partition\":%" PRId32 ",\"offset\":%" PRId64, n->partition, n->offset);
    if (n->producer[0] != 0) {
        json_text("producer", n->producer);
        printf(",\"sequence\":%" PRId64, n->sequence);
    }
    json_time("window", n->start_ms * 1000);
    if (n->window >= 0) json_text("window_state", db_window_name((enum db_window)n->window));
    putchar('}');
}

static void json(const struct request *r) {
    const struct find *f = &r->find;
    printf("{\"left_out\":%zu,\"entries\":[", f->more);
    for (size_t i = 0; i < f->entries; i++) {
        if (i > 0) fputs(",\n ", stdout);
        entry_json(&f->entry[i]);
    }
    fputs("],\"findings\":[", stdout);
    for (size_t i = 0; i < f->notes; i++) {
        if (i > 0) putchar(',');
        note_json(&f->note[i]);
    }
    fputs("],\"live\":", stdout);
    if (!f->live_known) {
        fputs("null", stdout);
    } else {
        printf("{\"there\":%s", f->live_there ? "true" : "false");
        if (f->live_there) {
            json_text("topic", f->live_topic);
            printf(",\"partition\":%" PRId32 ",\"offset\":%" PRId64, f->live.partition, f->live.offset);
            json_digest("digest", f->live.algorithm, f->live.value);
            json_time("expires", f->live.expire_at_ms > 0 ? f->live.expire_at_ms * 1000 : -1);
        }
        putchar('}');
    }
    if (r->redis) json_text("redis", held_names[r->held]);
    puts("}");
}

/* -- Redis ------------------------------------------------------------------------------------- */

static enum held compare(const struct request *r, const uint8_t digest[DIGEST_BYTES]) {
    if (!r->find.live_known) return HELD_UNKNOWN;
    return r->find.live_there && memcmp(digest, r->find.live.value, DIGEST_BYTES) == 0 ? HELD_SAME : HELD_OTHER;
}

static enum held held_string(const struct request *r, const struct config *c, const struct digest_key *k,
                             const redisReply *reply) {
    struct err err = {0};
    struct keys *keys = c->crypto.keys[0] != '\0' ? keys_load(c->crypto.keys, &err) : NULL;
    uint8_t *value, digest[DIGEST_BYTES];
    size_t len;
    int bad = value_decode(keys, r->key_text, strlen(r->key_text), (const uint8_t *)reply->str, (size_t)reply->len,
                           &value, &len, &err);
    keys_free(keys);
    if (bad != 0) return HELD_UNREADABLE;
    digest_of(k, r->find.live.algorithm, value, len, digest);
    explicit_bzero(value, len);
    free(value);
    return r->find.live.flags & LIVE_HASH ? HELD_TYPE : compare(r, digest);
}

static enum held held_hash(const struct request *r, const struct digest_key *k, const redisReply *reply) {
    uint8_t digest[DIGEST_BYTES];
    size_t n = reply->elements / 2;
    struct digest_field *field = calloc(n + 1, sizeof *field);
    CHECK(field != NULL);
    for (size_t i = 0; i < n; i++) {
        const redisReply *name = reply->element[2 * i], *value = reply->element[2 * i + 1];
        field[i] = (struct digest_field){.name = (const uint8_t *)name->str,
                                         .value = (const uint8_t *)value->str,
                                         .name_bytes = (uint32_t)name->len,
                                         .value_bytes = (uint32_t)value->len};
    }
    digest_of_fields(k, r->find.live.algorithm, field, n, digest);
    free(field);
    return r->find.live_there && !(r->find.live.flags & LIVE_HASH) ? HELD_TYPE : compare(r, digest);
}

static int redis_look(struct request *r, const struct config *c, const struct digest_key *k, struct err *err) {
    struct redis_client *redis = redis_open(c, err);
    redisReply *reply = redis == NULL ? NULL : redis_ask(redis, 2, (const char *[]){"GET", r->key_text}, NULL, err);
    if (reply != NULL && reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "WRONGTYPE", 9) == 0) {
        freeReplyObject(reply);
        reply = redis_ask(redis, 2, (const char *[]){"HGETALL", r->key_text}, NULL, err);
    }
    int failed = reply == NULL ? -1 : 0;
    if (reply != NULL && reply->type == REDIS_REPLY_STRING)
        r->held = held_string(r, c, k, reply);
    else if (reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->elements > 0)
        r->held = held_hash(r, k, reply);
    else if (reply != NULL && reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "WRONGTYPE", 9) != 0)
        failed = err_set(err, EX_UNAVAILABLE, "%s", reply->str);
    else
        r->held = reply != NULL && reply->type == REDIS_REPLY_ERROR ? HELD_TYPE : HELD_NOTHING;
    if (reply != NULL) freeReplyObject(reply);
    redis_close(redis);
    return failed;
}

/* -- the command ------------------------------------------------------------------------------- */

static int complain(const struct err *err) {
    fprintf(stderr, "millrace recon record: %s\n", err->text);
    return err->code;
}

static int run(struct request *r, const struct config *c) {
    struct audit_keys keys;
    struct digest_key k;
    struct err err = {0};
    if (c->recon.keys[0] == '\0') {
        err_set(&err, EX_CONFIG, "the configuration has no recon.keys: nothing is logged");
        return complain(&err);
    }
    if (r->key_text != NULL) {
        prctl(PR_SET_DUMPABLE, 0); /* what it holds in memory must not end in a core dump */
        if (audit_keys_load(c->recon.keys, AUDIT_KEY_DIGEST, &keys, &err) != 0) return complain(&err);
        digest_key_init(&k, keys.digest);
        explicit_bzero(&keys, sizeof keys);
        digest_of(&k, DIGEST_HMAC, r->key_text, strlen(r->key_text), r->key);
        r->find.key = r->key;
    }
    command_index_key(c->recon.keys);
    int failed = find_run(&r->find, c, &err);
    if (failed == 0 && r->redis) failed = redis_look(r, c, &k, &err);
    if (r->key_text != NULL) digest_key_clear(&k);
    if (failed != 0) {
        find_free(&r->find);
        return complain(&err);
    }
    bool known = r->find.entries > 0 || r->find.notes > 0 || r->find.live_there;
    if (r->json)
        json(r);
    else if (known || r->redis)
        table(r);
    if (!known) fputs("millrace recon record: nothing is known of it here\n", stderr);
    find_free(&r->find);
    return known ? EX_OK : EX_NOINPUT;
}

/* TOPIC/PARTITION/OFFSET */
static int place_parse(struct request *r, const char *text) {
    char end;
    const char *offset = strrchr(text, '@'); /* as places are printed, too */
    if (offset == NULL) offset = strrchr(text, '/');
    const char *partition = offset == NULL ? NULL : memrchr(text, '/', (size_t)(offset - text));
    if (partition == NULL || partition == text || (size_t)(partition - text) >= sizeof r->topic) return -1;
    memcpy(r->topic, text, (size_t)(partition - text));
    r->topic[partition - text] = '\0';
    r->find.topic = r->topic;
    return sscanf(partition, "/%" SCNd32 "%*1[/@]%" SCNd64 "%c", &r->find.partition, &r->find.offset, &end) == 2 &&
                   r->find.partition >= 0 && r->find.offset >= 0
               ? 0
               : -1;
}

int command_recon_record(int argc, char **argv) {
    enum { OPTION_ID = 256, OPTION_KEY, OPTION_AT, OPTION_REDIS, OPTION_FORMAT };
    static const struct option options[] = {{"id", required_argument, NULL, OPTION_ID},
                                            {"key", required_argument, NULL, OPTION_KEY},
                                            {"at", required_argument, NULL, OPTION_AT},
                                            {"redis", no_argument, NULL, OPTION_REDIS},
                                            {"format", required_argument, NULL, OPTION_FORMAT},
                                            {"config", required_argument, NULL, 'c'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    static struct request r; /* too large for a stack */
    const char *file = NULL, *bad = NULL;
    int o, status = EX_OK, asked = 0;
    r = (struct request){0};
    optind = 0; /* the whole scan anew: main may have looked at its own options */
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) switch (o) {
        case OPTION_ID:
            if (record_id_parse(r.id, optarg, strlen(optarg)) != 0 || strlen(optarg) != 36) bad = "--id is not a UUID";
            r.find.id = r.id;
            asked++;
            break;
        case OPTION_KEY:
            r.key_text = optarg;
            asked++;
            break;
        case OPTION_AT:
            if (place_parse(&r, optarg) != 0) bad = "--at is not TOPIC/PARTITION/OFFSET";
            asked++;
            break;
        case OPTION_REDIS: r.redis = true; break;
        case OPTION_FORMAT:
            r.json = strcmp(optarg, "json") == 0;
            if (!r.json && strcmp(optarg, "table") != 0) bad = "--format is table or json";
            break;
        case 'c': file = optarg; break;
        case 'h': fputs(help, stdout); return EX_OK;
        default: return command_misuse("recon", "unknown option or missing argument: %s", argv[optind - 1]);
        }
    if (bad != NULL) return command_misuse("recon", "%s", bad);
    if (asked != 1 || optind != argc) return command_misuse("recon", "record needs one of --id, --key and --at");
    if (r.redis && r.key_text == NULL)
        return command_misuse("recon", "--redis needs --key: the log knows keys by their digests only");
    const struct config *config = command_config(file, &status);
    return config != NULL ? run(&r, config) : status;
}

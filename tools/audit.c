/* millrace audit: the audit log, for people and auditors. Reads only; works on a copy, on another machine. */
#include <getopt.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "audit/anchor.h"
#include "audit/log.h"
#include "audit/search.h"
#include "audit/verify.h"
#include "base/audit_keys.h"
#include "base/digest.h"
#include "base/json_text.h"
#include "base/utc.h"
#include "shm/record.h"
#include "tools/command.h"

enum { EXIT_FOUND = 1 };

static const char help[] =
    "usage: millrace audit verify [DIR] [-c FILE] [--keys FILE] [--anchors FILE] [--pubkey FILE] [--format "
    "table|json]\n"
    "       millrace audit show [DIR] [-c FILE] [--from N] [--to N] [--count N] [--topic T] [--partition P]\n"
    "                           [--offset O] [--id UUID] [--key KEY] [--key-digest HEX] [--load UUID]\n"
    "                           [--format table|json]\n"
    "       millrace audit key [-c FILE] [--keys FILE]\n"
    "\n"
    "verify  whether any entry was changed, put in, taken out or moved, and, by the anchors, whether the end of the "
    "log\n"
    "        was cut off or its past rewritten. DIR: the folder of the log (default: DATA_DIR/audit of the "
    "configuration).\n"
    "        --keys: the audit key file (default: recon.keys), which the macs need; with --pubkey alone the log is "
    "held\n"
    "        against the signed anchors only. --anchors: a copy of them that was kept elsewhere.\n"
    "show    entries, oldest first. --key takes the key of the configuration to find the digest of a Redis key.\n"
    "key     the public key of the anchors' signatures, as PEM.\n"
    "\n"
    "Exit status of verify: 0 nothing was found, 1 something was.\n";

struct options {
    const char *file, *dir, *keys, *anchors, *pubkey, *topic, *id, *key, *key_digest, *load;
    bool json;
    int64_t partition, offset;
    uint64_t from, to, count;
};

/* -- keys -------------------------------------------------------------------------------------- */

static int complain(const char *verb, const struct err *err) {
    fprintf(stderr, "millrace audit %s: %s\n", verb, err->text);
    return err->code;
}

static EVP_PKEY *pubkey_read(const char *path, struct err *err) {
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        err_set(err, EX_NOINPUT, "%s: %m", path);
        return NULL;
    }
    EVP_PKEY *key = PEM_read_PUBKEY(f, NULL, NULL, NULL);
    fclose(f);
    if (key == NULL || EVP_PKEY_id(key) != EVP_PKEY_ED25519) {
        err_set(err, EX_DATAERR, "%s: no public key of Ed25519 (`millrace audit key` prints one)", path);
        EVP_PKEY_free(key);
        return NULL;
    }
    return key;
}

/* The configuration where it is needed. *config stays NULL where it is not. Returns the exit status. */
static int config_get(struct options *o, bool wanted, char dir[PATH_BYTES + 16], const struct config **config) {
    int status = EX_OK;
    *config = NULL;
    if (!wanted && o->dir != NULL && o->file == NULL) return EX_OK;
    *config = command_config(o->file, &status);
    if (*config == NULL) return status;
    if (o->dir == NULL) {
        log_dir(*config, dir);
        o->dir = dir;
    }
    if (o->keys == NULL && (*config)->recon.keys[0] != '\0') o->keys = (*config)->recon.keys;
    return EX_OK;
}

static int key_print(struct options *o) {
    char dir[PATH_BYTES + 16];
    const struct config *config;
    struct audit_keys keys;
    struct err err;
    if (o->keys != NULL) o->dir = "";
    int status = config_get(o, o->keys == NULL, dir, &config);
    if (status != EX_OK) return status;
    if (o->keys == NULL) return complain("key", (err_set(&err, EX_CONFIG, "recon.keys is not set"), &err));
    if (audit_keys_load(o->keys, AUDIT_KEY_ANCHOR, &keys, &err) != 0) return complain("key", &err);
    EVP_PKEY *key = anchor_key_make(keys.anchor_seed, &err);
    explicit_bzero(&keys, sizeof keys);
    if (key == NULL) return complain("key", &err);
    status = PEM_write_PUBKEY(stdout, key) == 1 && fflush(stdout) == 0 ? EX_OK : EX_IOERR;
    EVP_PKEY_free(key);
    return status;
}

/* -- verify ------------------------------------------------------------------------------------ */

struct report {
    bool json;
    uint64_t shown;
};

static void finding_print(void *context, const struct verify_finding *f) {
    struct report *r = context;
    if (r->json) {
        printf("%s{\"kind\":\"%s\",\"segment\":\"%016" PRIx64 "\",\"at\":%" PRIu64 ",\"batch\":%" PRIu64
               ",\"first\":%" PRIu64 ",\"last\":%" PRIu64 ",\"text\":",
               r->shown++ > 0 ? "," : "", verify_kind_name(f->kind), f->segment, f->at, f->batch, f->first, f->last);
        json_text_put(f->text, strlen(f->text), stdout);
        putchar('}');
        return;
    }
    if (f->segment == 0)
        printf("%-8s line %" PRIu64 " of the anchors: %s\n", verify_kind_name(f->kind), f->at, f->text);
    else
        printf("%-8s %016" PRIx64 ".log byte %" PRIu64 " (batch %" PRIu64 "): %s\n", verify_kind_name(f->kind),
               f->segment, f->at, f->batch, f->text);
    r->shown++;
}

static void result_print(const struct report *report, const struct verify_plan *plan, const struct verify_result *r) {
    if (report->json) {
        printf("],\"whole\":%s,\"segments\":%" PRIu64 ",\"batches\":%" PRIu64 ",\"entries\":%" PRIu64
               ",\"bytes\":%" PRIu64 ",\"first\":%" PRIu64 ",\"last\":%" PRIu64 ",\"macs\":%s,\"signatures\":%s"
               ",\"anchors\":%" PRIu64 ",\"anchors_confirmed\":%" PRIu64 ",\"anchored\":%" PRIu64
               ",\"unfinished_bytes\":%" PRIu64 "}\n",
               r->findings == 0 ? "true" : "false", r->segments, r->batches, r->entries, r->bytes, r->first, r->last,
               plan->key != NULL ? "true" : "false", plan->anchor_key != NULL ? "true" : "false", r->anchors,
               r->anchors_confirmed, r->anchored, r->unfinished_bytes);
        return;
    }
    printf("%s: %" PRIu64 " segment%s, %" PRIu64 " batch%s, %" PRIu64 " entr%s (%" PRIu64 " to %" PRIu64 ")\n",
           plan->dir, r->segments, r->segments == 1 ? "" : "s", r->batches, r->batches == 1 ? "" : "es", r->entries,
           r->entries == 1 ? "y" : "ies", r->first, r->last);
    printf("%s checked; %" PRIu64 " anchor%s, signatures %s, %" PRIu64 " confirmed, up to entry %" PRIu64 "\n",
           plan->key != NULL ? "macs" : "hashes", r->anchors, r->anchors == 1 ? "" : "s",
           plan->anchor_key != NULL ? "checked" : "not checked", r->anchors_confirmed, r->anchored);
    if (r->unfinished_bytes > 0) printf("%" PRIu64 " bytes behind the end are being written\n", r->unfinished_bytes);
    if (r->findings == 0 && plan->key != NULL)
        puts("nothing was found: every entry is as it was written");
    else if (r->findings == 0 && plan->anchor_key != NULL)
        printf("nothing was found: up to entry %" PRIu64 " all is as it was signed; what follows, only the audit key "
               "shows\n",
               r->anchored);
    else if (r->findings == 0)
        puts("nothing was found; but without a key, somebody may have made all of it anew");
    else
        printf("%" PRIu64 " findings\n", r->findings);
}

static int verify_keys(const struct options *o, struct log_mac_key *mac_key, struct verify_plan *plan,
                       struct err *err) {
    struct audit_keys keys;
    if (o->keys != NULL) {
        if (audit_keys_load(o->keys, AUDIT_KEY_CHAIN | AUDIT_KEY_ANCHOR, &keys, err) != 0) return -1;
        log_mac_key_init(mac_key, keys.chain);
        plan->key = mac_key;
        plan->key_id = keys.id;
        if (o->pubkey == NULL) plan->anchor_key = anchor_key_make(keys.anchor_seed, err);
        explicit_bzero(&keys, sizeof keys);
        if (o->pubkey == NULL) return plan->anchor_key != NULL ? 0 : -1;
    }
    if (o->pubkey == NULL) return 0;
    plan->anchor_key = pubkey_read(o->pubkey, err);
    return plan->anchor_key != NULL ? 0 : -1;
}

static int verify(struct options *o) {
    char dir[PATH_BYTES + 16];
    const struct config *config;
    struct log_mac_key mac_key;
    struct report report = {.json = o->json};
    struct verify_plan plan = {.anchors = o->anchors, .found = finding_print, .context = &report};
    struct verify_result result;
    struct err err;
    int status = config_get(o, o->keys == NULL && o->pubkey == NULL, dir, &config);
    if (status != EX_OK) return status;
    plan.dir = o->dir;
    if (verify_keys(o, &mac_key, &plan, &err) != 0) return complain("verify", &err);
    if (report.json) fputs("{\"findings\":[", stdout);
    int bad = log_verify(&plan, &result, &err);
    EVP_PKEY_free(plan.anchor_key);
    explicit_bzero(&mac_key, sizeof mac_key);
    if (bad != 0) {
        if (report.json) puts("]}");
        return complain("verify", &err);
    }
    result_print(&report, &plan, &result);
    return result.findings == 0 ? EX_OK : EXIT_FOUND;
}

/* -- show -------------------------------------------------------------------------------------- */

static const struct {
    uint32_t flag;
    const char *name;
} flag_names[] = {{ENTRY_DECLARED, "declared"}, {ENTRY_ALTERED, "altered"},         {ENTRY_CREATED, "created"},
                  {ENTRY_REPEAT, "repeat"},     {ENTRY_KEY_CHANGED, "key_changed"}, {ENTRY_HASH, "hash"},
                  {ENTRY_REFED, "refed"}};

static void flags_print(uint32_t flags, const char *between, const char *quote) {
    bool any = false;
    for (size_t i = 0; i < sizeof flag_names / sizeof flag_names[0]; i++) {
        if ((flags & flag_names[i].flag) == 0) continue;
        printf("%s%s%s%s", any ? between : "", quote, flag_names[i].name, quote);
        any = true;
    }
}

static void digest_field(const char *name, const uint8_t digest[16]) {
    static const uint8_t none[16];
    char hex[DIGEST_HEX_BYTES];
    digest_hex(digest, hex);
    if (memcmp(digest, none, sizeof none) == 0)
        printf(",\"%s\":null", name);
    else
        printf(",\"%s\":\"%s\"", name, hex);
}

static void item_json(const struct log_item *item) {
    static const char *const algorithm[] = {"none", "hmac", "xxh3"};
    static const uint8_t none[16];
    const struct entry *e = item->entry;
    char id[37], load[37];
    record_id_format(e->id, id);
    record_id_format(e->load, load);
    printf("{\"sequence\":%" PRIu64 ",\"written_us\":%" PRId64 ",\"id\":\"%s\",\"topic\":", item->sequence,
           item->written_us, id);
    json_text_put(item->topic, strlen(item->topic), stdout);
    printf(",\"partition\":%" PRId32 ",\"offset\":%" PRId64 ",\"epoch\":%" PRIu32
           ",\"lane\":%u,\"incarnation\":\"%016" PRIx64
           "\",\"op\":\"%s\",\"outcome\":\"%s\",\"reason\":\"%s\",\"flags\":[",
           e->partition, e->offset, e->epoch, e->slot, item->incarnation, record_op_name(e->op),
           entry_outcome_name(e->outcome), record_reason_name(e->reason));
    flags_print(e->flags, ",", "\"");
    printf("],\"timestamp_ms\":%" PRId64 ",\"created_ms\":%" PRId64 ",\"ingested_us\":%" PRId64
           ",\"transformed_us\":%" PRIu32 ",\"sent_us\":%" PRIu32 ",\"answered_us\":%" PRIu32 ",\"algorithm\":\"%s\"",
           e->timestamp_ms, e->created_ms, e->ingested_us, e->transformed_us, e->sent_us, e->answered_us,
           e->digest_algorithm < 3 ? algorithm[e->digest_algorithm] : "unknown");
    digest_field("key", e->digest_key);
    digest_field("old_key", e->digest_old_key);
    digest_field("published", e->digest_published);
    digest_field("stored", e->digest_stored);
    if (e->published_bytes == RECORD_BYTES_NULL)
        fputs(",\"published_bytes\":null", stdout);
    else
        printf(",\"published_bytes\":%" PRIu32, e->published_bytes);
    printf(",\"stored_bytes\":%" PRIu32 ",\"content_bytes\":%" PRIu32 ",\"expire_at_ms\":%" PRId64, e->stored_bytes,
           e->content_bytes, e->expire_at_ms);
    if (memcmp(e->load, none, sizeof none) == 0)
        fputs(",\"load\":null", stdout);
    else
        printf(",\"load\":\"%s\"", load);
    printf(",\"producer\":\"%016" PRIx64 "\",\"producer_sequence\":%" PRIu64 ",\"segment\":\"%016" PRIx64
           "\",\"at\":%" PRIu64 "}\n",
           e->producer, e->sequence, item->segment, item->at);
}

static void item_row(const struct log_item *item) {
    const struct entry *e = item->entry;
    char id[37], time[32];
    record_id_format(e->id, id);
    utc_text(time, item->written_us, 3);
    printf("%10" PRIu64 "  %s  %-10s %-7s %s  %s/%" PRId32 "/%" PRId64, item->sequence, time,
           entry_outcome_name(e->outcome), record_op_name(e->op), id, item->topic, e->partition, e->offset);
    if (e->reason != REASON_NONE) printf("  %s", record_reason_name(e->reason));
    if (e->flags != 0) {
        fputs("  ", stdout);
        flags_print(e->flags, " ", "");
    }
    putchar('\n');
}

static int key_digest(const struct options *o, uint8_t out[DIGEST_BYTES], struct err *err) {
    struct audit_keys keys;
    struct digest_key key;
    if (o->key == NULL)
        return digest_parse(out, o->key_digest, strlen(o->key_digest)) == 0
                   ? 0
                   : err_set(err, EX_USAGE, "--key-digest: 32 hexadecimal digits are expected");
    if (o->keys == NULL) return err_set(err, EX_CONFIG, "--key needs recon.keys of the configuration");
    if (audit_keys_load(o->keys, AUDIT_KEY_DIGEST, &keys, err) != 0) return -1;
    digest_key_init(&key, keys.digest);
    digest_of(&key, DIGEST_HMAC, o->key, strlen(o->key), out);
    digest_key_clear(&key);
    explicit_bzero(&keys, sizeof keys);
    return 0;
}

struct asked { /* what a query points to */
    uint8_t id[16], load[16], key[DIGEST_BYTES];
};

static int query_make(const struct options *o, struct asked *a, struct log_query *q, struct err *err) {
    *q = LOG_QUERY_ANY;
    q->topic = o->topic;
    q->partition = (int32_t)o->partition;
    q->from = o->from;
    q->to = o->to;
    if (o->offset >= 0) {
        q->offset_from = o->offset;
        q->offset_to = o->offset + 1;
    }
    if (o->id != NULL && record_id_parse(a->id, o->id, strlen(o->id)) != 0)
        return err_set(err, EX_USAGE, "--id: a UUID is expected");
    if (o->load != NULL && record_id_parse(a->load, o->load, strlen(o->load)) != 0)
        return err_set(err, EX_USAGE, "--load: a UUID is expected");
    if (o->id != NULL) q->id = a->id;
    if (o->load != NULL) q->load = a->load;
    if (o->key == NULL && o->key_digest == NULL) return 0;
    q->key = a->key;
    return key_digest(o, a->key, err);
}

static int show(struct options *o) {
    char dir[PATH_BYTES + 16];
    const struct config *config;
    struct log_query q;
    struct asked asked;
    struct log_item item;
    struct err err;
    enum log_read what = LOG_END;
    int status = config_get(o, o->key != NULL && o->keys == NULL, dir, &config);
    if (status != EX_OK) return status;
    if (query_make(o, &asked, &q, &err) != 0) return complain("show", &err);
    command_index_key(o->keys);
    struct log_search *s = log_search_open(o->dir, &q, &err);
    if (s == NULL) return complain("show", &err);
    for (uint64_t n = 0; o->count == 0 || n < o->count; n++) {
        if ((what = log_search_next(s, &item, &err)) != LOG_ITEM) break;
        if (n == 0 && !o->json)
            printf("%10s  %-24s  %-10s %-7s %-36s  %s\n", "entry", "written", "outcome", "op", "id", "place");
        if (o->json)
            item_json(&item);
        else
            item_row(&item);
    }
    command_forged("audit show", s);
    log_search_close(s);
    return what == LOG_BAD ? complain("show", &err) : EX_OK;
}

/* -- arguments --------------------------------------------------------------------------------- */

static bool number(const char *text, uint64_t max, uint64_t *out) {
    char *end;
    if (text[0] < '0' || text[0] > '9') return false;
    *out = strtoull(text, &end, 10);
    return *end == '\0' && *out <= max;
}

enum {
    OPTION_ANCHORS = 256,
    OPTION_PUBKEY,
    OPTION_KEYS,
    OPTION_TOPIC,
    OPTION_ID,
    OPTION_KEY,
    OPTION_KEY_DIGEST,
    OPTION_LOAD,
    OPTION_FORMAT,
    OPTION_PARTITION,
    OPTION_OFFSET,
    OPTION_FROM,
    OPTION_TO,
    OPTION_COUNT
};

static int option_number(struct options *o, int option, const char *text) {
    uint64_t n, max = option == OPTION_PARTITION ? INT32_MAX : INT64_MAX - 1;
    if (!number(text, max, &n)) return command_misuse("audit", "%s is no number that fits", text);
    if (option == OPTION_PARTITION) o->partition = (int64_t)n;
    if (option == OPTION_OFFSET) o->offset = (int64_t)n;
    if (option == OPTION_FROM) o->from = n;
    if (option == OPTION_TO) o->to = n + 1;
    if (option == OPTION_COUNT) o->count = n;
    return EX_OK;
}

static int option_take(struct options *o, int option, const char *text) {
    switch (option) {
    case 'c': o->file = text; return EX_OK;
    case OPTION_ANCHORS: o->anchors = text; return EX_OK;
    case OPTION_PUBKEY: o->pubkey = text; return EX_OK;
    case OPTION_KEYS: o->keys = text; return EX_OK;
    case OPTION_TOPIC: o->topic = text; return EX_OK;
    case OPTION_ID: o->id = text; return EX_OK;
    case OPTION_KEY: o->key = text; return EX_OK;
    case OPTION_KEY_DIGEST: o->key_digest = text; return EX_OK;
    case OPTION_LOAD: o->load = text; return EX_OK;
    case OPTION_FORMAT:
        o->json = strcmp(text, "json") == 0;
        return o->json || strcmp(text, "table") == 0
                   ? EX_OK
                   : command_misuse("audit", "--format is `table` or `json`, not `%s`", text);
    default: return option_number(o, option, text);
    }
}

int command_audit(int argc, char **argv) {
    static const struct option options[] = {{"help", no_argument, NULL, 'h'},
                                            {"anchors", required_argument, NULL, OPTION_ANCHORS},
                                            {"pubkey", required_argument, NULL, OPTION_PUBKEY},
                                            {"keys", required_argument, NULL, OPTION_KEYS},
                                            {"topic", required_argument, NULL, OPTION_TOPIC},
                                            {"id", required_argument, NULL, OPTION_ID},
                                            {"key", required_argument, NULL, OPTION_KEY},
                                            {"key-digest", required_argument, NULL, OPTION_KEY_DIGEST},
                                            {"load", required_argument, NULL, OPTION_LOAD},
                                            {"format", required_argument, NULL, OPTION_FORMAT},
                                            {"partition", required_argument, NULL, OPTION_PARTITION},
                                            {"offset", required_argument, NULL, OPTION_OFFSET},
                                            {"from", required_argument, NULL, OPTION_FROM},
                                            {"to", required_argument, NULL, OPTION_TO},
                                            {"count", required_argument, NULL, OPTION_COUNT},
                                            {NULL, 0, NULL, 0}};
    struct options o = {.partition = -1, .offset = -1};
    int option, status;
    optind = 1;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "hc:", options, NULL)) != -1) {
        if (option == 'h') return fputs(help, stdout), EX_OK;
        if (option == '?')
            return command_misuse("audit", "unknown option, or one without its value: %s", argv[optind - 1]);
        if ((status = option_take(&o, option, optarg)) != EX_OK) return status;
    }
    const char *verb = optind < argc ? argv[optind++] : "";
    if (optind < argc) o.dir = argv[optind++];
    if (optind < argc) return command_misuse("audit", "too many arguments: %s", argv[optind]);
    if (strcmp(verb, "verify") == 0) return verify(&o);
    if (strcmp(verb, "show") == 0) return show(&o);
    if (strcmp(verb, "key") == 0 && o.dir == NULL) return key_print(&o);
    return command_misuse("audit", "`verify`, `show` or `key` is expected");
}

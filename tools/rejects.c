/* millrace rejects: what ingest keeps of records that could not be handled (base/rejects_format.h). */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sysexits.h>

#include "base/json_text.h"
#include "base/keys.h"
#include "base/rejects_read.h"
#include "base/utc.h"
#include "shm/record.h"
#include "tools/command.h"
#include "transform/seal.h"

static_assert((int)REJECT_KEY_NULL == (int)RECORD_KEY_NULL && (int)REJECT_VALUE_NULL == (int)RECORD_VALUE_NULL &&
                  (int)REJECT_SEALED == (int)RECORD_SEALED && (int)REJECT_CONTENT_ABSENT == (int)RECORD_CONTENT_ABSENT,
              "flags of the files are those of records");

static const char help[] =
    "usage: millrace rejects list [-c FILE] [--json]        what was rejected, without content\n"
    "       millrace rejects export [-c FILE] [--reveal]    the same as JSON, a line each\n"
    "\n"
    "--reveal adds key, value and headers (base64), decrypted with the key file of the configuration where they are\n"
    "sealed. A record is identified by topic, partition and offset and shown once.\n";

struct options {
    bool export, json, reveal;
};

/* -- each record once -------------------------------------------------------------------------- */

struct place {
    uint64_t topic; /* number of the topic's name in the order of appearance, from 1; 0: an unused slot */
    int64_t offset;
    int32_t partition;
};

struct seen {
    char (*topic)[TOPIC_BYTES];
    size_t topic_count;
    struct place *slot; /* open addressing; a power of two, at most half full */
    size_t slots, used;
};

static void *grow(void *old, size_t bytes) {
    void *p = realloc(old, bytes);
    if (p != NULL) return p;
    fputs("millrace rejects: no memory\n", stderr);
    exit(EX_OSERR);
}

static uint64_t topic_number(struct seen *s, const char *name) {
    for (size_t i = 0; i < s->topic_count; i++)
        if (strcmp(s->topic[i], name) == 0) return i + 1;
    s->topic = grow(s->topic, (s->topic_count + 1) * sizeof *s->topic);
    memcpy(s->topic[s->topic_count], name, strlen(name) + 1);
    return ++s->topic_count;
}

/* Where the place is, or would be. */
static struct place *place_find(const struct seen *s, const struct place *p) {
    uint64_t h =
        (p->topic * 0x9e3779b97f4a7c15ULL ^ (uint64_t)p->partition) * 0x9e3779b97f4a7c15ULL ^ (uint64_t)p->offset;
    h = (h ^ h >> 32) * 0x9e3779b97f4a7c15ULL;
    for (size_t i = (size_t)(h >> 20);; i++) {
        struct place *slot = &s->slot[i & (s->slots - 1)];
        if (slot->topic == 0) return slot;
        if (slot->topic == p->topic && slot->partition == p->partition && slot->offset == p->offset) return slot;
    }
}

static void seen_double(struct seen *s) {
    struct seen bigger = {.slots = s->slots == 0 ? 1024 : s->slots * 2};
    bigger.slot = grow(NULL, bigger.slots * sizeof *bigger.slot);
    memset(bigger.slot, 0, bigger.slots * sizeof *bigger.slot);
    for (size_t i = 0; i < s->slots; i++)
        if (s->slot[i].topic != 0) *place_find(&bigger, &s->slot[i]) = s->slot[i];
    free(s->slot);
    s->slot = bigger.slot;
    s->slots = bigger.slots;
}

/* Notes the record's place. Returns true when it was noted before. */
static bool seen_before(struct seen *s, const struct rejects_record *r) {
    if (s->used * 2 >= s->slots) seen_double(s);
    struct place p = {topic_number(s, r->topic), r->head.offset, r->head.partition};
    struct place *slot = place_find(s, &p);
    if (slot->topic != 0) return true;
    *slot = p;
    s->used++;
    return false;
}

/* -- printing ---------------------------------------------------------------------------------- */

static void json_base64(const uint8_t *bytes, size_t len) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (bytes == NULL) {
        fputs("null", stdout);
        return;
    }
    putchar('"');
    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t bits =
            (uint32_t)bytes[i] << 16 | (n > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) | (n > 2 ? bytes[i + 2] : 0);
        putchar(digits[bits >> 18]);
        putchar(digits[bits >> 12 & 63]);
        putchar(n > 1 ? digits[bits >> 6 & 63] : '=');
        putchar(n > 2 ? digits[bits & 63] : '=');
    }
    putchar('"');
}

static void json_headers(const uint8_t *headers, size_t len) {
    size_t at = 0;
    struct record_header h;
    putchar('[');
    for (int n = 0; record_header_next(headers, len, &at, &h) == 1; n++) {
        fputs(n > 0 ? ",{\"name\":" : "{\"name\":", stdout);
        json_text_put(h.name, h.name_bytes, stdout);
        fputs(",\"value\":", stdout);
        json_base64(h.value, h.value_bytes);
        putchar('}');
    }
    putchar(']');
}

static const char *content_kind(const struct rejects_entry *e) {
    return e->flags & REJECT_CONTENT_ABSENT ? "absent" : e->flags & REJECT_SEALED ? "sealed" : "plain";
}

/* Bytes of the original's key, value and headers, as far as they are kept. */
static size_t content_bytes(const struct rejects_entry *e) {
    size_t n = (size_t)e->key_bytes + e->value_bytes + e->headers_bytes;
    return e->flags & REJECT_SEALED && n >= SEAL_OVERHEAD ? n - SEAL_OVERHEAD : n;
}

static void row_print(const struct rejects_record *r) {
    char id[37], time[32];
    record_id_format(r->head.id, id);
    utc_text_ms(time, r->head.timestamp_ms, 3);
    printf("%s  %-13s %10zu %-6s  %-24s  %s/%" PRId32 "/%" PRId64 "\n", id, record_reason_name(r->head.reason),
           content_bytes(&r->head), content_kind(&r->head), time, r->topic, r->head.partition, r->head.offset);
}

static void metadata_print(const struct rejects_record *r) {
    char id[37], stored[32];
    record_id_format(r->head.id, id);
    utc_text_ms(stored, r->head.stored_ms, 3);
    printf("{\"id\":\"%s\",\"topic\":", id);
    json_text_put(r->topic, strlen(r->topic), stdout);
    printf(",\"partition\":%" PRId32 ",\"offset\":%" PRId64 ",\"timestamp_ms\":%" PRId64 ",\"stored\":\"%s\","
           "\"reason\":\"%s\",\"size\":%zu,\"content\":\"%s\"",
           r->head.partition, r->head.offset, r->head.timestamp_ms, stored, record_reason_name(r->head.reason),
           content_bytes(&r->head), content_kind(&r->head));
}

/* Adds key, value and headers to the line begun. Returns 0, or -1 with err when they cannot be decrypted. */
static int content_print(const struct rejects_record *r, const struct keys *keys, struct err *err) {
    const struct rejects_entry *e = &r->head;
    struct seal_parts parts = {.key = e->flags & REJECT_KEY_NULL ? NULL : r->key,
                               .value = e->flags & REJECT_VALUE_NULL ? NULL : r->value,
                               .headers = r->headers,
                               .key_bytes = e->key_bytes,
                               .value_bytes = e->value_bytes,
                               .headers_bytes = e->headers_bytes};
    uint8_t *buffer = NULL;
    if (e->flags & REJECT_CONTENT_ABSENT) return 0;
    if (e->flags & REJECT_SEALED) {
        struct seal_origin origin = {e->id, r->topic, e->partition, e->offset};
        if (seal_open(keys, &origin, r->value, e->value_bytes, &parts, &buffer, err) != 0) return -1;
    }
    fputs(",\"key\":", stdout);
    json_base64(parts.key, parts.key_bytes);
    fputs(",\"value\":", stdout);
    json_base64(parts.value, parts.value_bytes);
    fputs(",\"headers\":", stdout);
    json_headers(parts.headers, parts.headers_bytes);
    free(buffer);
    return 0;
}

/* -- reading ----------------------------------------------------------------------------------- */

struct run {
    struct options options;
    struct keys *keys;
    struct seen seen;
    size_t shown, undecrypted;
};

static void record_show(struct run *run, const struct rejects_record *r) {
    struct err err = {0};
    if (seen_before(&run->seen, r)) return;
    if (!run->options.export && !run->options.json) {
        row_print(r);
    } else {
        if (!run->options.export) fputs(run->shown == 0 ? "[" : ",\n ", stdout);
        metadata_print(r);
        if (run->options.reveal && content_print(r, run->keys, &err) != 0) {
            fprintf(stderr, "millrace rejects: %s/%" PRId32 "/%" PRId64 ": %s\n", r->topic, r->head.partition,
                    r->head.offset, err.text);
            run->undecrypted++;
        }
        fputs(run->options.export ? "}\n" : "}", stdout);
    }
    run->shown++;
}

static int folder_show(struct run *run, const char *folder) {
    struct rejects_reader reader;
    struct rejects_record record;
    struct err err = {0};
    if (!run->options.export && !run->options.json)
        printf("%-36s  %-13s %10s %-6s  %-24s  %s\n", "ID", "REASON", "SIZE", "KEPT", "KAFKA TIME", "PLACE");
    int more = rejects_open(&reader, folder, &err) == 0 ? 1 : -1;
    while (more == 1 && (more = rejects_next(&reader, &record, &err)) == 1) record_show(run, &record);
    /* The end of the last segment may be an entry that ingest is writing just now. */
    uint64_t tail = reader.segment_bytes > reader.position ? reader.segment_bytes - reader.position : 0;
    uint64_t damaged = reader.damaged_bytes > tail ? reader.damaged_bytes - tail : 0;
    rejects_close(&reader);
    if (run->options.json) fputs(run->shown == 0 ? "[]\n" : "]\n", stdout);
    if (more < 0) {
        fprintf(stderr, "millrace rejects: %s\n", err.text);
        return err.code;
    }
    if (damaged > 0) {
        fprintf(stderr, "millrace rejects: %s: %" PRIu64 " bytes are damaged and were left out\n", folder, damaged);
        return EX_DATAERR;
    }
    if (run->undecrypted > 0) return EX_DATAERR;
    if (fflush(stdout) == 0) return EX_OK;
    fprintf(stderr, "millrace rejects: standard output: %s\n", strerror(errno));
    return EX_IOERR;
}

static int rejects(const struct config *config, struct options options) {
    char folder[PATH_BYTES + 16];
    struct run run = {.options = options};
    struct err err = {0};
    snprintf(folder, sizeof folder, "%s/rejects", config->data_dir);
    if (options.reveal && config->crypto.keys[0] != '\0') {
        prctl(PR_SET_DUMPABLE, 0); /* what it holds in memory must not end in a core dump */
        run.keys = keys_load(config->crypto.keys, &err);
        if (run.keys == NULL) {
            fprintf(stderr, "millrace rejects: %s\n", err.text);
            return err.code == EX_NOINPUT ? EX_CONFIG : err.code;
        }
    }
    int status = folder_show(&run, folder);
    keys_free(run.keys);
    free(run.seen.slot);
    free(run.seen.topic);
    return status;
}

int command_rejects(int argc, char **argv) {
    enum { OPTION_JSON = 256, OPTION_REVEAL };
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"json", no_argument, NULL, OPTION_JSON},
                                            {"reveal", no_argument, NULL, OPTION_REVEAL},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct options wanted = {0};
    const char *file = NULL;
    int o, status = EX_OK;
    optind = 0; /* the whole scan anew: main may have looked at its own options */
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) switch (o) {
        case 'c': file = optarg; break;
        case OPTION_JSON: wanted.json = true; break;
        case OPTION_REVEAL: wanted.reveal = true; break;
        case 'h': fputs(help, stdout); return EX_OK;
        default: return command_misuse("rejects", "unknown option or missing argument: %s", argv[optind - 1]);
        }
    const char *what = optind < argc ? argv[optind] : "";
    wanted.export = strcmp(what, "export") == 0;
    if (!wanted.export && strcmp(what, "list") != 0) return command_misuse("rejects", "say `list` or `export`");
    if (optind + 1 < argc) return command_misuse("rejects", "unexpected argument %s", argv[optind + 1]);
    if (wanted.reveal && !wanted.export) return command_misuse("rejects", "--reveal goes with export");
    if (wanted.export) wanted.json = false; /* it is JSON anyway */
    const struct config *config = command_config(file, &status);
    return config != NULL ? rejects(config, wanted) : status;
}

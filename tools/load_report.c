#include "tools/load_report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/grouped.h"
#include "base/json_text.h"
#include "shm/record.h"

static const char *state_name(const struct load_result *r, bool dry_run) {
    static const char *const names[] = {[OUTBOX_READING] = "interrupted",
                                        [OUTBOX_SENDING] = "interrupted",
                                        [OUTBOX_ENDING] = "interrupted",
                                        [OUTBOX_COMPLETE] = "complete",
                                        [OUTBOX_ABORTED] = "aborted"};
    return dry_run ? "dry_run" : names[r->load.state];
}

static const char *list_state(uint32_t state) {
    static const char *const names[OUTBOX_STATE_COUNT] = {"reading", "sending", "ending", "complete", "aborted"};
    return state < OUTBOX_STATE_COUNT ? names[state] : "unknown";
}

static void text_field(const char *name, const char *value, size_t len) {
    printf(",\"%s\":", name);
    json_text_put(value, len, stdout);
}

static void report_json(const struct load_result *r, const struct load_cover *cover, bool dry_run, uint64_t elapsed_ns,
                        uint64_t rate) {
    const struct outbox_load *o = &r->load;
    char id[37];
    record_id_format(o->id, id);
    printf("{\"load\":\"%s\",\"state\":\"%s\"", id, state_name(r, dry_run));
    text_field("topic", o->topic, strlen(o->topic));
    text_field("producer", o->producer, strlen(o->producer));
    printf(",\"snapshot\":%s,\"rows\":%" PRIu64 ",\"records\":%" PRIu64 ",\"bytes\":%" PRIu64
           ",\"first_sequence\":%" PRIu64 ",\"last_sequence\":%" PRIu64,
           o->snapshot ? "true" : "false", r->rows, o->sum.count, o->sum.bytes, o->sum.first_sequence,
           o->sum.last_sequence);
    if (cover != NULL) printf(",\"made_up\":%" PRIu32 ",\"still_lost\":%" PRIu32, cover->made_up, cover->waiting);
    printf(",\"unacknowledged\":%" PRIu64 ",\"skipped\":%" PRIu64 ",\"oversized\":%" PRIu64 ",\"reconnects\":%" PRIu32
           ",\"seconds\":%.3f,\"records_per_second\":%" PRIu64 "}\n",
           r->left, o->skipped, o->oversized, r->reconnects, (double)elapsed_ns / NS_PER_S, rate);
}

static void report_text(const struct load_result *r, const struct load_cover *cover, bool dry_run, uint64_t elapsed_ns,
                        uint64_t rate) {
    const struct outbox_load *o = &r->load;
    char id[37], a[GROUPED_BYTES], b[GROUPED_BYTES], c[GROUPED_BYTES], d[GROUPED_BYTES];
    record_id_format(o->id, id);
    if (dry_run) {
        printf("%s rows of %s can be published to %s; nothing was\n", grouped(r->rows, a), o->source.path, o->topic);
        return;
    }
    printf("load %s: %s, %s records of %s (%s bytes)\n", id, state_name(r, false), grouped(o->sum.count, a), o->topic,
           grouped(o->sum.bytes, b));
    if (o->sum.count > 0)
        printf("  sequences %s to %s of producer %s\n", grouped(o->sum.first_sequence, a),
               grouped(o->sum.last_sequence, b), o->producer);
    if (o->skipped + o->oversized > 0)
        printf("  left out: %s rows that cannot be used, %s too large\n", grouped(o->skipped, a),
               grouped(o->oversized, b));
    printf("  %s acknowledged now in %.1f s, %s/s", grouped(r->acknowledged, c), (double)elapsed_ns / NS_PER_S,
           grouped(rate, d));
    if (r->reconnects > 0) printf(", connected anew %u times", r->reconnects);
    putchar('\n');
    if (cover != NULL && cover->made_up > 0)
        printf("  it makes up for lost offsets: %u partitions that waited go on\n", cover->made_up);
    if (o->state < OUTBOX_COMPLETE)
        printf("  %s records wait in the outbox: millrace load --resume %s\n", grouped(r->left, a), id);
    else if (!r->manifests)
        puts("  no manifests were sent: the configuration has no recon.manifest_topic");
}

void load_report(const struct load_result *r, const struct load_cover *cover, bool dry_run, bool json,
                 uint64_t elapsed_ns) {
    uint64_t rate = elapsed_ns > 0 ? (uint64_t)((__uint128_t)r->acknowledged * NS_PER_S / elapsed_ns) : 0;
    if (json)
        report_json(r, cover, dry_run, elapsed_ns, rate);
    else
        report_text(r, cover, dry_run, elapsed_ns, rate);
    fflush(stdout);
}

static void list_json(const struct outbox_load *l, uint64_t waiting, const struct outbox_attempts *a) {
    char id[37];
    record_id_format(l->id, id);
    printf("{\"load\":\"%s\",\"state\":\"%s\"", id, list_state(l->state));
    text_field("topic", l->topic, strlen(l->topic));
    text_field("producer", l->producer, strlen(l->producer));
    text_field("file", l->source.path, strlen(l->source.path));
    printf(",\"records\":%" PRIu64 ",\"waiting\":%" PRIu64 ",\"attempts\":%" PRIu32 ",\"next_ms\":%" PRId64,
           l->sum.count, waiting, a->count, a->next_ms);
    text_field("error", a->why, strlen(a->why));
    puts("}");
}

static void list_text(const struct outbox_load *l, uint64_t waiting, const struct outbox_attempts *a) {
    char id[37], records[GROUPED_BYTES], left[GROUPED_BYTES];
    record_id_format(l->id, id);
    printf("%s  %-8s  %s: %s records, %s waiting", id, list_state(l->state), l->topic, grouped(l->sum.count, records),
           grouped(waiting, left));
    if (a->count > 0) printf("; tried %u times in vain: %s", a->count, a->why);
    putchar('\n');
}

int load_list(const char *path, bool json, bool all) {
    struct err err = {0};
    struct outbox_load l = {0};
    struct outbox_attempts attempts;
    uint64_t waiting, bytes, listed = 0;
    int got = -1;
    struct outbox *o = access(path, F_OK) == 0 || errno != ENOENT ? outbox_open_read(path, &err) : NULL;
    if (o == NULL && err.code == 0) got = 0; /* nothing was ever loaded */
    while (o != NULL && (got = outbox_load_next(o, l.number, &l, &err)) == 1) {
        if (l.state >= OUTBOX_COMPLETE && !all) continue;
        if (outbox_count(o, l.number, &waiting, &bytes, &err) != 0 ||
            outbox_attempts(o, l.number, &attempts, &err) != 0)
            break;
        (json ? list_json : list_text)(&l, waiting, &attempts);
        listed++;
    }
    if (got == 0 && listed == 0 && !json) puts(all ? "nothing was loaded yet" : "nothing waits");
    outbox_close(o);
    if (got == 0) return 0;
    fprintf(stderr, "millrace load: %s\n", err.text);
    return err.code;
}

#include "tools/refeed.h"

#include <inttypes.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "base/clock.h"
#include "base/json_text.h"
#include "tools/control_client.h"

enum { POLL_MS = 5 };

/* The instance that does not answer any more may have carried it out: the result is looked for once more. */
static int wait_done(const char *data_dir, const char *id, uint64_t until, struct refeed_result *out, struct err *err) {
    for (;;) {
        uint64_t now = clock_ns(&clock_real);
        int r = refeed_result_read(data_dir, id, out, err);
        if (r != 0) return r;
        if (now >= until) return 0;
        nanosleep(&(struct timespec){0, POLL_MS * 1000000L}, NULL);
    }
}

int refeed_await(const struct command_place *at, const char *data_dir, const char *id, unsigned timeout_s,
                 struct refeed_result *out, struct err *err) {
    char reply[REPLY_BYTES], text[REPLY_BYTES];
    uint64_t until = clock_ns(&clock_real) + timeout_s * NS_PER_S;
    *out = (struct refeed_result){0};
    int status = control_ask(at, "refeed\n", reply);
    if (status == 0 && !reply_ok(reply)) {
        status = EX_TEMPFAIL;
        snprintf(reply, sizeof reply, "%s", reply_text(reply, "message", text));
    }
    if (status != 0) {
        refeed_request_remove(data_dir, id);
        return err_set(err, status, "%s", reply);
    }
    int r = wait_done(data_dir, id, until, out, err);
    if (r > 0) refeed_request_remove(data_dir, id);
    if (r != 0) return r > 0 ? 0 : -1;
    return refeed_request_remove(data_dir, id)
               ? err_set(err, EX_TEMPFAIL, "the instance has not begun in time; withdrawn")
               : err_set(err, EX_TEMPFAIL, "not done in time; it is carried out all the same, request %s", id);
}

int refeed_send(const struct command_place *at, const char *data_dir, struct refeed_request *r, unsigned timeout_s,
                struct refeed_result *out, struct err *err) {
    char id[REFEED_ID_BYTES];
    if (refeed_request_write(r, data_dir, id, err) != 0) return -1;
    return refeed_await(at, data_dir, id, timeout_s, out, err);
}

/* -- telling ----------------------------------------------------------------------------------- */

void refeed_missing_print(FILE *f, const struct refeed_missing *m, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        fprintf(f, "%s{\"topic\":\"%s\",\"partition\":%" PRId32 ",\"offset\":%" PRId64 ",\"why\":\"%s\"}",
                i > 0 ? "," : "", m[i].topic, m[i].partition, m[i].offset, m[i].gone ? "gone" : "absent");
}

static void print_json(FILE *f, const struct refeed_result *r) {
    fputs("{\"partitions\":[", f);
    for (uint32_t i = 0; i < r->partitions; i++) {
        const struct refeed_outcome *o = &r->partition[i];
        fprintf(f,
                "%s{\"topic\":\"%s\",\"partition\":%" PRId32 ",\"state\":\"%s\",\"asked\":%" PRIu64 ",\"fed\":%" PRIu64
                ",\"covered\":%" PRIu64 ",\"from\":%" PRId64 "}",
                i > 0 ? "," : "", o->topic, o->partition, refeed_state_name(o->state), o->asked, o->fed, o->covered,
                o->from);
    }
    fputs("],\"missing\":[", f);
    refeed_missing_print(f, r->miss, r->missing);
    fputs("],\"reason\":", f);
    json_text_put(r->reason, strlen(r->reason), f);
    fputs("}", f);
}

static void print_text(FILE *f, const struct refeed_result *r) {
    static const char *const told[] = {[REFEED_DONE] = "done",
                                       [REFEED_ELSEWHERE] = "read by another instance: ask that one",
                                       [REFEED_UNKNOWN] = "not a topic of this instance",
                                       [REFEED_ENDED] = "given up: ask again"};
    for (uint32_t i = 0; i < r->partitions; i++) {
        const struct refeed_outcome *o = &r->partition[i];
        fprintf(f, "%s[%" PRId32 "]: %s", o->topic, o->partition, told[o->state]);
        if (o->from >= 0)
            fprintf(f,
                    "; %" PRIu64 " of %" PRIu64 " records fed again, %" PRIu64
                    " more with all that follows offset %" PRId64,
                    o->fed, o->asked, o->covered, o->from);
        fputc('\n', f);
    }
    for (uint32_t i = 0; i < r->missing; i++)
        fprintf(
            f, "%s[%" PRId32 "]: offset %" PRId64 " %s\n", r->miss[i].topic, r->miss[i].partition, r->miss[i].offset,
            r->miss[i].gone ? "is no longer in Kafka (retention)" : "holds no record (compaction, or no such offset)");
    if (r->reason[0] != 0) fprintf(f, "%s\n", r->reason);
}

void refeed_print(FILE *f, const struct refeed_result *r, bool json) {
    if (json)
        print_json(f, r);
    else
        print_text(f, r);
}

int refeed_status(const struct refeed_result *r) {
    int status = r->partitions == 0 || r->missing > 0 ? 1 : EX_OK;
    for (uint32_t i = 0; i < r->partitions; i++) {
        if (r->partition[i].state == REFEED_ENDED) return EX_TEMPFAIL;
        if (r->partition[i].state != REFEED_DONE) status = 1;
    }
    return status;
}

#include "feed/feed.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tests/unit/feed/help.h"

/* -- a broker that does as it is told ---------------------------------------------------------- */

enum { LOG_MAX = 60000 };

struct entry { /* of the log of both topics */
    char topic[16], id[37], digest[40], created[24], load[37], producer[16], sequence[24], op[8], key[16], value[600];
    int64_t timestamp_ms;
    uint64_t tag;
    bool value_null, acknowledged;
    bool lost; /* it never arrived */
};

static struct broker {
    struct entry log[LOG_MAX];
    int count, opened, acked_upto;
    bool lag;                      /* one partition's acknowledgements come much later */
    int lagging;                   /* where they begin */
    bool open, mute;               /* mute: acknowledges nothing */
    int break_after, refuse_after; /* messages from now on; 0 never */
    int down_opens;                /* so many connects fail */
    struct feed *feed;
    uint64_t ns;
    int64_t wall_ms;
} broker;

static uint64_t fake_ns(void *context) {
    (void)context;
    return broker.ns += broker.open ? 1000 : 300 * NS_PER_MS; /* nobody really waits for the next attempt */
}

static int64_t fake_wall(void *context) {
    (void)context;
    return broker.wall_ms;
}

static void fake_random(void *context, void *out, size_t len) {
    (void)context;
    for (size_t i = 0; i < len; i++) ((uint8_t *)out)[i] = (uint8_t)rand();
}

static const struct clock_port fake_clock = {fake_ns, fake_wall, fake_ns, fake_random, NULL};

static enum kafka_out_result fake_open(void *self, const char *const *topics, uint32_t n, struct err *err) {
    (void)self;
    cr_assert(n == 2 && strcmp(topics[1], "manifests") == 0);
    cr_assert(!broker.open);
    if (broker.down_opens > 0) {
        broker.down_opens--;
        err_set(err, EX_UNAVAILABLE, "no broker");
        return KAFKA_OUT_BROKEN;
    }
    for (int i = 0; i < broker.count; i++) /* half of what was on its way */
        if (!broker.log[i].acknowledged && rand() % 2 == 0) broker.log[i].lost = true;
    broker.open = true;
    broker.opened++;
    broker.acked_upto = broker.lagging = broker.count;
    return KAFKA_OUT_OK;
}

static void copy(char *to, size_t room, const struct kafka_out_message *m, const char *name) {
    for (uint32_t i = 0; i < m->header_count; i++)
        if (strcmp(m->header[i].name, name) == 0)
            snprintf(to, room, "%.*s", (int)m->header[i].bytes, (const char *)m->header[i].value);
}

static enum kafka_out_result fake_send(void *self, const struct kafka_out_message *m, struct err *err) {
    (void)self;
    cr_assert(broker.open);
    if (broker.refuse_after > 0 && --broker.refuse_after == 0) {
        err_set(err, EX_UNAVAILABLE, "too large");
        return KAFKA_OUT_REFUSED;
    }
    if (broker.break_after > 0 && --broker.break_after == 0) {
        err_set(err, EX_UNAVAILABLE, "connection reset");
        return KAFKA_OUT_BROKEN;
    }
    if (broker.count - broker.acked_upto > 500) return KAFKA_OUT_FULL;
    cr_assert_lt(broker.count, LOG_MAX);
    struct entry *e = &broker.log[broker.count++];
    *e = (struct entry){.timestamp_ms = m->timestamp_ms, .tag = m->tag, .value_null = m->value == NULL};
    snprintf(e->topic, sizeof e->topic, "%s", m->topic);
    snprintf(e->key, sizeof e->key, "%.*s", (int)m->key_bytes, (const char *)m->key);
    snprintf(e->value, sizeof e->value, "%.*s", (int)m->value_bytes, (const char *)m->value);
    copy(e->id, sizeof e->id, m, HEADER_ID);
    copy(e->digest, sizeof e->digest, m, HEADER_DIGEST);
    copy(e->created, sizeof e->created, m, HEADER_CREATED);
    copy(e->load, sizeof e->load, m, HEADER_LOAD);
    copy(e->producer, sizeof e->producer, m, HEADER_PRODUCER);
    copy(e->sequence, sizeof e->sequence, m, HEADER_SEQUENCE);
    copy(e->op, sizeof e->op, m, "op");
    return KAFKA_OUT_OK;
}

static void acknowledge(int i) {
    broker.log[i].acknowledged = true;
    feed_delivered(broker.feed, broker.log[i].tag, i % 3, i);
}

static enum kafka_out_result fake_poll(void *self, int ms, struct err *err) {
    (void)self, (void)err;
    broker.ns += (uint64_t)ms * NS_PER_MS;
    for (; broker.acked_upto < broker.count && !broker.mute; broker.acked_upto++)
        if (broker.acked_upto % 3 != 2) acknowledge(broker.acked_upto);
    for (; broker.lagging < broker.acked_upto && !broker.lag; broker.lagging++)
        if (broker.lagging % 3 == 2) acknowledge(broker.lagging);
    return KAFKA_OUT_OK;
}

static void fake_close(void *self) {
    (void)self;
    cr_assert(broker.open);
    broker.open = false;
}

static const struct kafka_out fake_kafka = {NULL, fake_open, fake_send, fake_poll, fake_close, fake_close};

/* -- a load ------------------------------------------------------------------------------------ */

static struct err err;
static struct outbox *o;
static struct outbox_load load;
static struct feed_settings set;
static _Atomic int stop;

static void begin(void) {
    folder_make();
    broker.wall_ms = 1700000000000;
    o = outbox_open(in_folder("outbox.db"), &err);
    cr_assert_not_null(o, "%s", err.text);
    load = (struct outbox_load){.id = {7}, .topic = "cards", .producer = "p", .created_ms = broker.wall_ms};
    cr_assert_eq(outbox_load_insert(o, &load, &err), 0);
    set = (struct feed_settings){.clock = &fake_clock,
                                 .kafka = &fake_kafka,
                                 .outbox = o,
                                 .operation_header = "op",
                                 .manifest_topic = "manifests",
                                 .algorithm = DIGEST_XXH3,
                                 .window_ms = 60000,
                                 .attempts = 3,
                                 .attempt_ms = 1000,
                                 .stop = &stop};
    broker.feed = feed_new(&set);
}

static void end(void) {
    feed_free(broker.feed);
    outbox_close(o);
    folder_remove();
}

/* As after a death: nothing in memory counts any more. */
static void die(void) {
    feed_free(broker.feed);
    outbox_close(o);
    broker.open = false;
    o = outbox_open(in_folder("outbox.db"), &err);
    cr_assert_not_null(o, "%s", err.text);
    cr_assert_eq(outbox_load_find(o, (uint8_t[16]){7}, 0, &load, &err), 1);
    set.outbox = o;
    broker.feed = feed_new(&set);
}

static int put(int i) {
    char key[16], value[32];
    struct feed_record r = {.key = key, .value = value, .operation = RECORD_UPDATE};
    r.key_bytes = (size_t)snprintf(key, sizeof key, "k%d", i);
    r.value_bytes = (size_t)snprintf(value, sizeof value, "value %d", i);
    return feed_put(broker.feed, &r);
}

/* Records [*at, to), with the load's position as a source has it. */
static int put_all(int *at, int to) {
    while (*at < to) {
        load.position = (uint64_t)*at;
        if (put(*at) == 0) {
            if (feed_commit(broker.feed, &err) != 0) return -1;
            cr_assert_eq(put(*at), 1);
        }
        load.position = (uint64_t)++ * at;
    }
    return 0;
}

static const struct entry *last_of(const char *type) {
    const struct entry *found = NULL;
    for (int i = 0; i < broker.count; i++)
        if (strcmp(broker.log[i].topic, "manifests") == 0 && !broker.log[i].lost &&
            strstr(broker.log[i].value, type) != NULL)
            found = &broker.log[i];
    cr_assert_not_null(found, "%s", type);
    return found;
}

static unsigned long long number_in(const struct entry *e, const char *name) {
    char wanted[40];
    snprintf(wanted, sizeof wanted, "\"%s\":", name);
    const char *at = strstr(e->value, wanted);
    cr_assert_not_null(at, "%s in %s", name, e->value);
    return strtoull(at + strlen(wanted), NULL, 10);
}

/* Every sequence [1, n] is there, under one id and with one value however often. Manifests say the same. */
static void check(int n) {
    static char id[LOG_MAX][37], value[LOG_MAX][32];
    uint8_t sum[16] = {0}, digest[16];
    char hex[DIGEST_HEX_BYTES];
    memset(id, 0, sizeof id);
    int distinct = 0;
    unsigned long long declared = 0, first_next = 1;
    for (int i = 0; i < broker.count; i++) {
        const struct entry *e = &broker.log[i];
        if (strcmp(e->topic, "cards") != 0 || e->lost) continue;
        long s = strtol(e->sequence, NULL, 10);
        cr_assert(s >= 1 && s <= n, "%s", e->sequence);
        if (id[s][0] == 0) {
            distinct++;
            memcpy(id[s], e->id, 37);
            memcpy(value[s], e->value, 32);
            digest_of(NULL, DIGEST_XXH3, e->value, strlen(e->value), digest);
            digest_sum_add(sum, digest);
            digest_hex(digest, hex);
            cr_assert_str_eq(e->digest + 5, hex);
        }
        cr_assert_str_eq(id[s], e->id);
        cr_assert_str_eq(value[s], e->value);
        cr_assert_eq(strtoll(e->created, NULL, 10), e->timestamp_ms);
    }
    cr_assert_eq(distinct, n);
    for (int i = 0; i < broker.count; i++) {
        const struct entry *e = &broker.log[i];
        if (e->lost || strstr(e->value, "\"window\"") == NULL || number_in(e, "first_sequence") < first_next) continue;
        cr_assert_eq(number_in(e, "first_sequence"), first_next);
        first_next = number_in(e, "last_sequence") + 1;
        declared += number_in(e, "count");
    }
    cr_assert_eq(declared, (unsigned long long)n);
    digest_hex(sum, hex);
    const struct entry *e = last_of("load_end");
    cr_assert_not_null(strstr(e->value, hex), "%s in %s", hex, e->value);
    cr_assert_eq(number_in(e, "count"), (unsigned long long)n);
}

Test(feed, records_have_all_their_headers, .init = begin, .fini = end) {
    int at = 0;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0, "%s", err.text);
    cr_assert_eq(put_all(&at, 2), 0);
    cr_assert_eq(feed_finish(broker.feed, true, &err), 0, "%s", err.text);
    const struct entry *e = &broker.log[2];
    cr_assert_str_eq(e->topic, "cards");
    cr_assert_str_eq(e->key, "k1");
    cr_assert_str_eq(e->value, "value 1");
    cr_assert_str_eq(e->sequence, "2");
    cr_assert_str_eq(e->producer, "p");
    cr_assert_str_eq(e->created, "1700000000000");
    cr_assert_str_eq(e->load, "07000000-0000-0000-0000-000000000000");
    cr_assert_str_eq(e->op, "update");
    cr_assert_eq(strncmp(e->digest, "xxh3:", 5), 0);
    cr_assert_eq(e->id[14], '7');
    cr_assert_not_null(strstr(broker.log[0].value, "load_begin"), "it comes first");
    cr_assert_not_null(strstr(broker.log[4].value, "load_end"), "and that last");
    cr_assert_str_eq(broker.log[0].key, "p|cards");
    cr_assert_eq(load.state, OUTBOX_COMPLETE);
    uint64_t records, bytes;
    outbox_count(o, load.number, &records, &bytes, &err);
    cr_assert_eq(records, 0);
    check(2);
}

Test(feed, windows_have_manifests_of_their_own, .init = begin, .fini = end) {
    int at = 0;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    for (int w = 0; w < 5; w++) {
        cr_assert_eq(put_all(&at, at + 1000), 0);
        broker.wall_ms += 60000;
    }
    broker.wall_ms -= 600000; /* a clock that is set back: time stands still */
    cr_assert_eq(put_all(&at, at + 10), 0);
    cr_assert_eq(feed_finish(broker.feed, true, &err), 0, "%s", err.text);
    check(5010);
    int windows = 0;
    for (int i = 0; i < broker.count; i++) windows += strstr(broker.log[i].value, "\"window\"") != NULL;
    cr_assert_eq(windows, 5);
    cr_assert_eq(number_in(last_of("\"window\""), "count"), 1010);
}

Test(feed, a_manifest_is_sent_only_when_its_records_are_acknowledged, .init = begin, .fini = end) {
    int at = 0;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    broker.mute = true;
    put_all(&at, 100);
    feed_commit(broker.feed, &err);
    broker.wall_ms += 60000;
    put_all(&at, 200);
    feed_commit(broker.feed, &err);
    cr_assert_eq(feed_wait(broker.feed, 100, &err), 0);
    for (int i = 0; i < broker.count; i++) cr_assert_null(strstr(broker.log[i].value, "\"window\""));
    broker.mute = false;
    cr_assert_eq(feed_wait(broker.feed, 100, &err), 0);
    cr_assert_eq(feed_wait(broker.feed, 100, &err), 0);
    cr_assert_eq(number_in(last_of("\"window\""), "last_sequence"), 100);
    cr_assert_eq(feed_finish(broker.feed, true, &err), 0);
    check(200);
}

Test(feed, a_manifest_that_is_lost_on_its_way_is_sent_again, .init = begin, .fini = end) {
    int at = 0;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    for (int i = 0; i < 8; i++) {
        put_all(&at, at + 10);
        feed_commit(broker.feed, &err);
        feed_wait(broker.feed, 50, &err);
        broker.wall_ms += 60000;
        put_all(&at, at + 10);
        feed_commit(broker.feed, &err); /* closes the window */
        broker.mute = true;
        feed_wait(broker.feed, 50, &err);
        broker.break_after = 1;
        put_all(&at, at + 10);
        cr_assert_eq(feed_commit(broker.feed, &err), 0);
        broker.mute = false;
    }
    cr_assert_eq(feed_finish(broker.feed, true, &err), 0, "%s", err.text);
    cr_assert_eq(feed_reconnects(broker.feed), 8);
    check(at);
}

Test(feed, a_connection_that_breaks_is_made_anew_and_nothing_is_missing, .init = begin, .fini = end) {
    int at = 0;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    for (int i = 0; i < 8; i++) {
        broker.break_after = 700 + 311 * i;
        cr_assert_eq(put_all(&at, at + 3000), 0, "%s", err.text);
    }
    cr_assert_eq(feed_finish(broker.feed, true, &err), 0, "%s", err.text);
    cr_assert_geq(feed_reconnects(broker.feed), 5);
    check(at);
}

Test(feed, it_gives_up_after_so_many_attempts_and_can_be_resumed, .init = begin, .fini = end) {
    int at = 0;
    struct outbox_attempts attempts;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    put_all(&at, 5000);
    broker.break_after = 10;
    broker.down_opens = 2;
    cr_assert_eq(feed_commit(broker.feed, &err), -1);
    cr_assert_eq(err.code, EX_TEMPFAIL);
    cr_assert_str_eq(err.text, "given up after 3 attempts: no broker");
    outbox_attempts(o, load.number, &attempts, &err);
    cr_assert_eq(attempts.count, 3);
    die();
    at = (int)load.position;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    cr_assert_eq(put_all(&at, 6000), 0);
    cr_assert_eq(feed_finish(broker.feed, true, &err), 0);
    check(6000);
}

Test(feed, a_broker_that_acknowledges_nothing_is_an_attempt_that_failed, .init = begin, .fini = end) {
    int at = 0;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    put_all(&at, 10);
    broker.mute = true;
    cr_assert_eq(feed_finish(broker.feed, true, &err), -1);
    cr_assert_eq(err.code, EX_TEMPFAIL);
    cr_assert_str_eq(err.text, "given up after 3 attempts: the broker acknowledges nothing");
    cr_assert_eq(broker.opened, 3);
}

Test(feed, what_cannot_be_mended_ends_it_at_once, .init = begin, .fini = end) {
    int at = 0;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    put_all(&at, 10);
    broker.refuse_after = 5;
    cr_assert_eq(feed_commit(broker.feed, &err), -1);
    cr_assert_eq(err.code, EX_UNAVAILABLE);
    cr_assert_str_eq(err.text, "too large");
    cr_assert_eq(broker.opened, 1);
}

Test(feed, it_stops_when_it_is_asked_to, .init = begin, .fini = end) {
    int at = 0;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    put_all(&at, 10);
    broker.mute = true;
    atomic_store(&stop, 15);
    cr_assert_eq(feed_finish(broker.feed, true, &err), -1);
    cr_assert(err.code == EX_TEMPFAIL && strcmp(err.text, "interrupted") == 0);
}

/* It dies anywhere, again and again; the source goes on at the position that the outbox has. */
Test(feed, it_may_die_at_any_moment, .init = begin, .fini = end) {
    enum { ALL = 20000 };
    int deaths = 0, at = 0;
    srand(20261121);
    for (;;) {
        broker.mute = rand() % 4 == 0;
        broker.lag = rand() % 2 == 0;
        broker.break_after = rand() % 9000 + 1;
        stop = 0;
        if (feed_begin(broker.feed, &load, &err) == 0) {
            at = (int)load.position;
            int to = deaths < 40 && rand() % 3 != 0 ? at + rand() % 6000 : ALL;
            if (to > ALL) to = ALL;
            int r = put_all(&at, to);
            if (r == 0 && rand() % 2 != 0) r = feed_commit(broker.feed, &err);
            if (r == 0 && to == ALL && deaths >= 15) {
                broker.mute = broker.lag = false;
                if (feed_finish(broker.feed, true, &err) == 0) break;
            }
        }
        broker.wall_ms += rand() % 30000;
        die();
        deaths++;
    }
    cr_assert_geq(deaths, 15);
    check(ALL);
    cr_assert_eq(load.sum.last_sequence, ALL);
    uint64_t records, bytes;
    outbox_count(o, load.number, &records, &bytes, &err);
    cr_assert_eq(records, 0);
}

Test(feed, given_up_loads_end_as_aborted_with_what_was_taken, .init = begin, .fini = end) {
    int at = 0;
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    put_all(&at, 100);
    feed_commit(broker.feed, &err);
    put_all(&at, 150); /* these never got as far as the outbox */
    die();
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    cr_assert_eq(feed_finish(broker.feed, false, &err), 0);
    cr_assert_eq(load.state, OUTBOX_ABORTED);
    cr_assert_not_null(strstr(last_of("load_end")->value, "\"state\":\"aborted\""));
    check(100);
}

Test(feed, null_values_have_no_digest, .init = begin, .fini = end) {
    struct feed_record r = {.key = "k", .key_bytes = 1, .operation = RECORD_DELETE};
    cr_assert_eq(feed_begin(broker.feed, &load, &err), 0);
    cr_assert_eq(feed_put(broker.feed, &r), 1);
    cr_assert_eq(feed_finish(broker.feed, true, &err), 0);
    cr_assert(broker.log[1].value_null);
    cr_assert_str_eq(broker.log[1].digest, "xxh3:00000000000000000000000000000000");
    cr_assert_str_eq(broker.log[1].op, "delete");
    cr_assert_eq(number_in(last_of("\"window\""), "bytes"), 0);
}

#include "recon/accounts.h"

#include "recon/account_text.h"
#include "tests/unit/recon/rig.h"

enum { BUS_MESSAGES = 4096, INSTANCES = 2 };

/* The topic: one partition, which keeps everything. */
static struct {
    char *text[BUS_MESSAGES];
    size_t len[BUS_MESSAGES];
    size_t count;
} bus;

struct tap { /* one instance's end of it */
    size_t at;
    bool full, lose, deaf;
    bool lost;
};

static bool tap_next(void *self, struct account_message *out) {
    struct tap *t = self;
    if (t->deaf || t->at == bus.count) return false;
    out->partition = 0;
    out->offset = (int64_t)t->at;
    out->len = bus.len[t->at];
    memcpy(out->text, bus.text[t->at++], out->len + 1);
    return true;
}

static bool tap_send(void *self, const char *text, size_t len) {
    struct tap *t = self;
    if (t->full) return false;
    if (t->lose) {
        t->lost = true;
        return true;
    }
    cr_assert_lt(bus.count, (size_t)BUS_MESSAGES);
    cr_assert_eq(strlen(text), len);
    bus.text[bus.count] = strdup(text);
    bus.len[bus.count++] = len;
    return true;
}

static uint64_t tap_unsent(void *self) { return self == NULL; }
static bool tap_lost(void *self) {
    struct tap *t = self;
    bool lost = t->lost;
    t->lost = false;
    return lost;
}
static void tap_rewind(void *self) { ((struct tap *)self)->at = 0; }
static void tap_seek(void *self, int32_t partition, int64_t offset) {
    cr_assert_eq(partition, 0);
    ((struct tap *)self)->at = (size_t)offset;
}

static const uint8_t key[DIGEST_KEY_BYTES] = {1, 2, 3};
static struct rig *rig[INSTANCES];
static struct tap tap[INSTANCES];
static struct account_port port[INSTANCES];

static void share(int i) {
    struct err err = {0};
    port[i] = (struct account_port){&tap[i], tap_next, tap_send, tap_unsent, tap_lost, tap_rewind, tap_seek};
    cr_assert_eq(recon_share(rig[i]->recon, &port[i], key, &err), 0, "%s", err.text);
}

static void make(int i, enum config_evidence evidence) {
    rig[i] = rig_make(evidence);
    snprintf(rig[i]->b->config.instance, sizeof rig[i]->b->config.instance, "node%d", i + 1);
    rig[i]->members = 2;
    rig[i]->b->config.recon.late_after_ms = 20000;
    share(i);
}

static void make_both(enum config_evidence evidence) {
    for (int i = 0; i < INSTANCES; i++) make(i, evidence);
}

static void drop_both(void) {
    for (int i = 0; i < INSTANCES; i++) rig_drop(rig[i]);
}

/* What one producer publishes is there for both. */
static void publish(uint64_t sequence, int n) {
    for (int k = 0; k < n; k++)
        for (int i = 0; i < INSTANCES; i++) rig_publish(rig[i], sequence + (uint64_t)k, RIG_START + k);
}

static void log_at(int i, int64_t from, int64_t to) {
    for (int64_t o = from; o < to; o++) rig_log(rig[i], o);
}

static void manifest(uint64_t first, uint64_t last) {
    for (int i = 0; i < INSTANCES; i++) rig_manifest(rig[i], first, last, RIG_START);
}

static void pass(int seconds) {
    int64_t committed = rig[0]->committed > rig[1]->committed ? rig[0]->committed : rig[1]->committed;
    for (int i = 0; i < INSTANCES; i++) {
        rig[i]->committed = committed;
        rig_commit(rig[i]);
    }
    for (int s = 0; s < seconds; s++)
        for (int i = 0; i < INSTANCES; i++) {
            rig[i]->b->wall_ms += 1000;
            for (int k = 0; k < 3; k++) {
                rig[i]->b->wall_ms += 60;
                rig_steps(rig[i]);
            }
            rig[i]->b->wall_ms -= 180;
        }
}

#define WINDOW "SELECT state, published, seen, in_flight, unexplained, unpublished FROM window ORDER BY start_ms"
#define OPEN "SELECT kind || ' ' || subject || ' ' || count FROM exception WHERE cleared_ms = 0 ORDER BY kind, subject"

static void both_say(const char *sql, const char *expected) {
    for (int i = 0; i < INSTANCES; i++) rig_says(rig[i], sql, expected);
}

TestSuite(accounts, .timeout = 60);

static size_t told(const char *part) {
    size_t n = 0;
    for (size_t i = 0; i < bus.count; i++) n += strstr(bus.text[i], part) != NULL;
    return n;
}

/* Whoever may read the topic and write it publishes a message again: its mac is good. */
static void again(const char *text) {
    bus.text[bus.count] = strdup(text);
    bus.len[bus.count++] = strlen(text);
}

static const char *first_of(const char *type, const char *instance) {
    char who[64], what[64];
    snprintf(what, sizeof what, "{\"type\":\"%s\"", type);
    snprintf(who, sizeof who, "\"instance\":\"%s\"", instance);
    for (size_t i = 0; i < bus.count; i++)
        if (strstr(bus.text[i], what) != NULL && strstr(bus.text[i], who) != NULL) return bus.text[i];
    cr_assert(false, "no %s of %s", type, instance);
    return NULL;
}

Test(accounts, what_was_told_before_changes_nothing_when_it_is_told_again) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 40);
    log_at(0, 0, 10);
    pass(3);
    log_at(0, 10, 20);
    log_at(1, 20, 40);
    manifest(1, 40);
    pass(14);
    both_say(WINDOW, "1|40|40|0|0|0");
    static const char *const types[] = {"tally", "origin", "beat"};
    for (size_t i = 0; i < 3; i++) again(first_of(types[i], "node1"));
    pass(2);
    rig_says(rig[1], "SELECT seen FROM tally WHERE instance <> 0", "20");
    cr_assert_eq(rig[1]->worker.local.value[M_recon_account_refuse], 3);
    cr_assert_eq(rig[0]->worker.local.value[M_recon_account_refuse], 0, "its own are no copies");
    recon_close(rig[1]->recon); /* known after a restart, and by who reads the topic from its beginning */
    rig_open(rig[1]);
    share(1);
    again(first_of("tally", "node1"));
    pass(2);
    rig_says(rig[1], "SELECT seen FROM tally WHERE instance <> 0", "20");
    both_say(WINDOW, "1|40|40|0|0|0");
    drop_both();
}

Test(accounts, of_two_logs_of_an_instance_the_one_that_was_told_of_last_is_there) {
    struct account old = {.type = ACCOUNT_BEAT, .order = 5, .number = 7};
    struct digest_key k;
    char text[ACCOUNT_MESSAGE_BYTES];
    make_both(EVIDENCE_MANIFEST);
    pass(3);
    rig_says(rig[1], "SELECT instance, gone FROM account_member", "node1|0");
    digest_key_init(&k, key);
    snprintf(old.group, sizeof old.group, "%s", rig[0]->b->config.kafka.group_id);
    snprintf(old.instance, sizeof old.instance, "node1");
    snprintf(old.log, sizeof old.log, "%032d", 4711);
    account_write(&old, &k, text);
    again(text);
    pass(3);
    rig_says(rig[1], "SELECT gone FROM account_member ORDER BY id", "0\n1");
    drop_both();
}

Test(accounts, anchors_are_told_once_and_whole) {
    char path[128];
    make_both(EVIDENCE_MANIFEST);
    snprintf(path, sizeof path, "%s/anchors", rig[0]->b->log);
    FILE *f = fopen(path, "w");
    fputs("{\"type\":\"anchor\",\"n\":1}\n{\"type\":\"anchor\",\"n\":2}\n{\"type\":\"anch", f);
    fflush(f);
    pass(3);
    cr_assert_eq(told("\"anchor\""), 2);
    cr_assert_eq(told("\"n\":2}\n"), 0, "without the newline");
    fputs("or\",\"n\":3}\n", f);
    fclose(f);
    recon_close(rig[0]->recon);
    rig_open(rig[0]);
    share(0);
    tap[0].lose = true;
    pass(1);
    tap[0].lose = false;
    pass(3);
    cr_assert_eq(told("\"anchor\""), 3);
    cr_assert_eq(told("{\"type\":\"anchor\",\"n\":3}"), 1);
    drop_both();
}

Test(accounts, each_instance_answers_for_both) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    log_at(0, 0, 25);
    rig[1]->epoch = 2;
    log_at(1, 25, 60);
    manifest(1, 60);
    pass(16);
    both_say(WINDOW, "1|60|60|0|0|0");
    both_say("SELECT count(*) FROM exception", "0");
    both_say("SELECT count(*) FROM record", "0");
    drop_both();
}

Test(accounts, what_is_missing_is_missing_for_both_and_named) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    log_at(0, 0, 25);
    log_at(1, 26, 60); /* the record with sequence number 26 is nowhere */
    manifest(1, 60);
    pass(16);
    both_say(WINDOW, "3|60|59|0|1|0");
    both_say("SELECT kind, sequence FROM record", "0|26");
    drop_both();
}

Test(accounts, nothing_is_missing_before_the_other_has_told) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    pass(2); /* they know each other */
    log_at(0, 0, 25);
    log_at(1, 25, 60);
    manifest(1, 60);
    tap[1].full = true;
    rig[0]->b->config.recon.late_after_ms = 3600000;
    pass(30);
    rig_says(rig[0], WINDOW, "0|60|25|35|0|0");
    rig_says(rig[0], "SELECT count(*) FROM exception", "0");
    tap[1].full = false;
    pass(10);
    both_say(WINDOW, "1|60|60|0|0|0");
    drop_both();
}

Test(accounts, one_that_says_nothing_is_waited_for_only_so_long) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    pass(2);
    log_at(0, 0, 25);
    log_at(1, 25, 60);
    manifest(1, 60);
    tap[1].full = true;
    pass(30); /* late_after is 20 s */
    rig_says(rig[0], WINDOW, "3|60|25|0|35|0");
    tap[1].full = false; /* it was only cut off */
    pass(8);
    both_say(WINDOW, "1|60|60|0|0|0");
    both_say("SELECT count(*) FROM exception WHERE cleared_ms = 0", "0");
    drop_both();
}

Test(accounts, records_that_both_have_logged_count_once) {
    static const enum config_evidence kinds[] = {EVIDENCE_MANIFEST, EVIDENCE_SCAN};
    for (size_t k = 0; k < 2; k++) {
        while (bus.count > 0) free(bus.text[--bus.count]);
        make_both(kinds[k]);
        publish(1, 60);
        log_at(0, 0, 35); /* it died before it could commit the last ten */
        rig[1]->epoch = 2;
        log_at(1, 25, 60);
        manifest(1, 60);
        pass(16);
        if (kinds[k] == EVIDENCE_MANIFEST) both_say(WINDOW, "1|60|60|0|0|0");
        both_say("SELECT total(seen), total(applied), total(bytes), total(repeat) FROM tally", "60.0|60.0|6000.0|10.0");
        both_say("SELECT seen FROM tally ORDER BY seen", "25\n35");
        both_say("SELECT total(seen), total(bytes) FROM origin", "60.0|6000.0");
        if (kinds[k] == EVIDENCE_SCAN) rig_says(rig[1], "SELECT published FROM tally WHERE instance = 0", "25");
        both_say("SELECT count(*) FROM exception", "0");
        drop_both();
    }
}

Test(accounts, nothing_is_judged_while_records_count_twice) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    log_at(0, 0, 35);
    log_at(1, 25, 60);
    manifest(1, 60);
    tap[1].deaf = true; /* it tells, and does not hear that it would have to retract ten */
    rig[0]->b->config.recon.late_after_ms = 3000;
    pass(18);
    rig_says(rig[0], "SELECT total(seen) FROM tally", "70.0");
    rig_says(rig[0], "SELECT count(*) FROM exception", "0");
    rig_says(rig[0], "SELECT count(*) FROM window WHERE state <> 0", "0");
    rig[0]->b->config.recon.late_after_ms = 3600000;
    tap[1].deaf = false;
    pass(10);
    both_say(WINDOW, "1|60|60|0|0|0");
    drop_both();
}

Test(accounts, restarts_change_nothing) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    log_at(0, 0, 35);
    log_at(1, 25, 60);
    manifest(1, 60);
    for (int n = 0; n < 8; n++) {
        pass(2);
        int i = n % 2;
        recon_close(rig[i]->recon);
        rig_open(rig[i]);
        tap[i].at = 0;
        share(i);
        if (n < 2) manifest(1, 60);
    }
    pass(16);
    both_say(WINDOW, "1|60|60|0|0|0");
    both_say("SELECT total(seen) FROM tally", "60.0");
    drop_both();
}

Test(accounts, database_that_was_lost_is_made_again_from_log_and_topic) {
    char command[256];
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    log_at(0, 0, 35);
    log_at(1, 25, 60);
    manifest(1, 60);
    pass(16);
    for (int i = 0; i < INSTANCES; i++) {
        recon_close(rig[i]->recon);
        snprintf(command, sizeof command, "rm -r %s/recon", rig[i]->b->dir);
        cr_assert_eq(system(command), 0);
        rig_open(rig[i]);
        share(i);
    }
    manifest(1, 60);
    pass(16);
    both_say(WINDOW, "1|60|60|0|0|0");
    both_say("SELECT total(seen), count(*) FROM tally", "60.0|2");
    both_say("SELECT count(*) FROM exception", "0");
    drop_both();
}

Test(accounts, disk_that_was_lost_leaves_its_account_and_a_word_about_it) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    log_at(0, 0, 25);
    rig[1]->epoch = 2;
    log_at(1, 25, 60);
    manifest(1, 60);
    pass(16);
    int64_t now = rig[0]->b->wall_ms;
    rig_drop(rig[0]);
    make(0, EVIDENCE_MANIFEST); /* the same instance, with nothing */
    rig[0]->b->wall_ms = now;
    for (int k = 0; k < 60; k++) rig_publish(rig[0], (uint64_t)k + 1, RIG_START + k);
    rig[0]->committed = 60;
    rig_manifest(rig[0], 1, 60, RIG_START);
    pass(16);
    both_say(WINDOW, "1|60|60|0|0|0");
    for (int i = 0; i < INSTANCES; i++) {
        const char *said = rig_ask(rig[i], "SELECT kind, topic, count, text FROM exception");
        cr_assert_eq(
            strncmp(said, "evidence_lost|cards|25|the log of node1 that had partition 0, offsets [0, 25), is gone", 80),
            0, "%s", said);
    }
    drop_both();
}

Test(accounts, what_a_lost_disk_had_not_told_is_named_too) {
    make_both(EVIDENCE_OFFSETS);
    publish(1, 60);
    log_at(0, 0, 25);
    pass(3);
    tap[0].full = true; /* what it logs now is never told */
    log_at(0, 25, 31);
    pass(1);
    rig[1]->epoch = 2;
    log_at(1, 31, 60);
    int64_t now = rig[0]->b->wall_ms;
    rig_drop(rig[0]);
    tap[0].full = false;
    make(0, EVIDENCE_OFFSETS);
    rig[0]->b->wall_ms = now;
    for (int k = 0; k < 60; k++) rig_publish(rig[0], (uint64_t)k + 1, RIG_START + k);
    rig[0]->committed = 60;
    pass(20);
    for (int i = 0; i < INSTANCES; i++) {
        const char *said = rig_ask(rig[i], "SELECT count, text FROM exception WHERE kind = 'evidence_lost'");
        cr_assert_str_eq(said,
                         "31|the log of node1 that had partition 0, offsets [0, 25), is gone: its account stands, "
                         "its entries cannot be shown; of offsets [25, 31) nobody tells anything");
    }
    drop_both();
}

Test(accounts, message_that_is_lost_on_its_way_is_told_again) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    log_at(0, 0, 25);
    log_at(1, 25, 60);
    manifest(1, 60);
    tap[1].lose = true;
    pass(3);
    tap[1].lose = false;
    pass(13);
    both_say(WINDOW, "1|60|60|0|0|0");
    drop_both();
}

Test(accounts, strangers_are_not_believed) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    log_at(0, 0, 60);
    manifest(1, 60);
    pass(3);
    size_t told = bus.count;
    for (size_t i = 0; i < told; i++) { /* everything that was told, once more and changed by a character */
        char *copy = strdup(bus.text[i]), *count = strstr(copy, "\"counts\":[");
        if (count != NULL) count[10] = count[10] == '9' ? '8' : '9';
        bus.text[bus.count] = copy;
        bus.len[bus.count++] = bus.len[i];
    }
    static const char *const junk[] = {"", "{}", "null", "{\"type\":\"tally\"}", "\xff\xfe", "[1,2"};
    for (size_t i = 0; i < sizeof junk / sizeof junk[0]; i++) {
        bus.text[bus.count] = strdup(junk[i]);
        bus.len[bus.count++] = strlen(junk[i]);
    }
    pass(13);
    both_say(WINDOW, "1|60|60|0|0|0");
    both_say("SELECT total(seen) FROM tally", "60.0");
    drop_both();
}

Test(accounts, one_that_leaves_is_not_waited_for) {
    make_both(EVIDENCE_MANIFEST);
    publish(1, 60);
    log_at(0, 0, 25);
    log_at(1, 25, 60);
    pass(3);
    atomic_store(&rig[1]->control.mode[rig[1]->worker.block_index], CONTROL_DRAIN);
    enum step s = STEP_IDLE;
    for (int i = 0; i < 200 && s != STEP_DONE; i++) {
        rig[1]->b->wall_ms += 100;
        s = recon_step(rig[1]->recon);
        rig[0]->b->wall_ms += 100;
        recon_step(rig[0]->recon);
    }
    cr_assert_eq(s, STEP_DONE);
    rig_manifest(rig[0], 1, 60, RIG_START);
    for (int i = 0; i < 16; i++) {
        rig[0]->b->wall_ms += 1000;
        rig[0]->committed = 60;
        rig_steps(rig[0]);
    }
    rig_says(rig[0], WINDOW, "1|60|60|0|0|0");
    rig_says(rig[0], "SELECT left FROM account_member", "1");
    drop_both();
}

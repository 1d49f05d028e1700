#include "recon/vigil.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/unit/recon/receiver.h"

static struct config config;
static struct control control;
static struct worker worker;
static struct receiver receiver;
static struct vigil vigil;
static struct err err;
static char folder[64];
static uint64_t now_ns = NS_PER_S;

static uint64_t test_ns(void *context) { return context == NULL ? now_ns : 0; }
static int64_t test_wall(void *context) { return context == NULL ? 1700000000000 + (int64_t)(now_ns / NS_PER_MS) : 0; }
static const struct clock_port test_clock = {test_ns, test_wall, test_ns, NULL, NULL};

static struct stats_block *block_of(enum role role) {
    return stats_block(&worker.stats, stats_block_index(role, config.lanes));
}

static void begin(void) {
    int fd;
    snprintf(folder, sizeof folder, "/tmp/millrace-vigil-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(config.data_dir, sizeof config.data_dir, "%s", folder);
    snprintf(config.run_dir, sizeof config.run_dir, "%s", folder);
    snprintf(config.name, sizeof config.name, "cards");
    snprintf(config.instance, sizeof config.instance, "node1");
    snprintf(config.kafka.group_id, sizeof config.kafka.group_id, "millrace-cards");
    config.lanes = config.topic_count = 1;
    config.audit = true;
    config.recon.window_ms = 600000;
    receiver_start(&receiver, 200);
    snprintf(config.recon.webhook, sizeof config.recon.webhook, "%s", receiver.url);
    log_init("cards", "recon", -1, 0, LOG_ERROR);
    cr_assert_eq(stats_create(&worker.stats, &config, &fd, &err), 0, "%s", err.text);
    worker.role = ROLE_RECON;
    worker.config = &config;
    worker.control = &control;
    worker.clock = &test_clock;
    worker.attention = -1;
    worker.block_index = stats_block_index(ROLE_RECON, config.lanes);
    worker.block = block_of(ROLE_RECON);
    stats_local_init(&worker.local, worker.block);
    struct err why = {EX_IOERR, "the disk is full"};
    cr_assert_eq(vigil_open(&vigil, &worker, NULL, &why, &err), 0, "%s", err.text);
}

static void end(void) {
    char command[128];
    vigil_close(&vigil);
    snprintf(command, sizeof command, "rm -r %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(vigil, .init = begin, .fini = end, .timeout = 60);

/* A store that cannot be made: its folder is a file. */
static void store_block(void) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/recon", folder);
    fclose(fopen(path, "w"));
}

static void store_clear(void) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/recon", folder);
    unlink(path);
}

static void run_for(uint64_t ms) {
    for (uint64_t t = 0; t < ms; t += 10) {
        now_ns += 10 * NS_PER_MS;
        enum step s = vigil_step(&vigil);
        cr_assert(s == STEP_BLOCKED || s == STEP_BUSY, "step %d: %s", s, vigil.err.text);
    }
}

Test(vigil, tells_that_the_audit_cannot_write_though_nothing_can_be_stored) {
    char reason[STATS_TEXT_BYTES];
    store_block();
    struct stats_block *audit = block_of(ROLE_AUDIT);
    stats_text_set(&audit->reason, "the audit log cannot be written: No space left on device");
    atomic_store(&audit->state, STATE_BLOCKED);
    for (int i = 0; i < 500 && atomic_load(&receiver.count) == 0; i++) {
        run_for(10);
        usleep(2000);
    }
    cr_assert_eq(atomic_load(&receiver.count), 1);
    cr_assert_not_null(strstr(receiver.body, "\"kind\":\"audit_cannot_write\""), "%s", receiver.body);
    cr_assert_not_null(strstr(receiver.body, "No space left on device"), "%s", receiver.body);
    cr_assert_geq(now_ns, 3 * NS_PER_S, "it has some patience with a disk that is slow");
    cr_assert_eq(atomic_load(&worker.block->state), STATE_BLOCKED);
    stats_text_get(&worker.block->reason, reason);
    cr_assert_not_null(strstr(reason, "/recon"), "%s", reason);
}

Test(vigil, goes_on_with_the_store_as_soon_as_it_can_be_opened) {
    store_block();
    run_for(3000);
    store_clear();
    enum step s = STEP_BLOCKED;
    for (int i = 0; i < 200 && s != STEP_DONE; i++) {
        now_ns += 10 * NS_PER_MS;
        s = vigil_step(&vigil);
    }
    cr_assert_eq(s, STEP_DONE);
    cr_assert_not_null(vigil.recon, "%s", vigil.err.text);
    recon_close(vigil.recon);
}

Test(vigil, leaves_when_asked_to) {
    store_block();
    run_for(50);
    atomic_store(&control.mode[worker.block_index], CONTROL_LEAVE);
    cr_assert_eq(vigil_step(&vigil), STEP_DONE);
    cr_assert_null(vigil.recon);
    atomic_store(&control.mode[worker.block_index], CONTROL_DRAIN);
    cr_assert_eq(vigil_step(&vigil), STEP_DONE);
}

Test(vigil, what_will_never_be_opened_ends_it) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/recon", folder);
    cr_assert_eq(mkdir(path, 0750), 0);
    snprintf(path, sizeof path, "%s/recon/recon.db", folder);
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 300; i++) fputs("this is no database ", f);
    fclose(f);
    now_ns += 2 * NS_PER_S;
    cr_assert_eq(vigil_step(&vigil), STEP_DONE);
    cr_assert_null(vigil.recon);
    cr_assert_eq(vigil.err.code, EX_DATAERR);
}

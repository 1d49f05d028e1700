/* Requests: what the control socket's lines do to a supervisor, without a socket. */
#include "supervisor/requests.h"

#include "supervisor/supervisor.h"
#include "tests/unit/supervisor/help.h"

static struct supervisor s;
static struct control_reply reply;
static struct ledger_ingest *ledger; /* as ingest */

static void begin(void) {
    struct err err = {0};
    char folder[64];
    folder_make(folder);
    config_small(&s.config, folder);
    s.config.topic_count = 2;
    snprintf(s.config.topic[1].name, TOPIC_BYTES, "cards.change");
    log_init("node", "supervisor", -1, 0, LOG_ERROR);
    cr_assert_eq(plumbing_create(&s.plumbing, &s.config, &err), 0, "%s", err.text);
    stats_local_init(&s.local, stats_block(&s.plumbing.stats, 0));
    s.context = (struct child_context){&s.plumbing, &clock_real, folder, &s.local};
    child_init(&s.child[s.child_count++], &s.plumbing, ROLE_INGEST, 0);
    s.phase = PHASE_RUNNING;
    s.reload.result = "none";
    s.notify.fd = -1;
    ledger = ledger_ingest_map(s.plumbing.ledger_rw, true, &err);
}

static void end(void) { folder_remove(s.config.run_dir); }

TestSuite(requests, .init = begin, .fini = end);

static const char *ask(const char *text) {
    char line[CONTROL_LINE_BYTES];
    snprintf(line, sizeof line, "%s", text);
    requests_answer(&s, line, 1000, &reply);
    return reply.text;
}

static bool good(const char *text) { return strncmp(ask(text), "{\"ok\":true", 10) == 0; }
static bool says(const char *text) { return strstr(reply.text, text) != NULL; }

Test(requests, status_says_how_it_is) {
    stats_text_set(&stats_block(&s.plumbing.stats, 0)->reason, "a \"reason\"");
    cr_assert(good("status"));
    cr_assert(says("\"phase\":\"running\"") && says("\"reason\":\"a \\\"reason\\\"\"") && says("\"reload_done\":0"));
    s.phase = PHASE_LEAVING;
    cr_assert(good("  status\t\r") && says("\"phase\":\"leaving\""));
    s.after = AFTER_RELOAD;
    cr_assert(good("status") && says("\"phase\":\"reloading\""));
    s.after = AFTER_RESET;
    cr_assert(good("status") && says("\"phase\":\"resetting\""));
}

Test(requests, what_is_unknown_or_has_too_many_words_does_nothing) {
    static const char *const lines[] = {"",
                                        " ",
                                        "frobnicate",
                                        "statusx",
                                        "status now",
                                        "stop now",
                                        "STOP",
                                        "accept-loss t 0 1",
                                        "refeed 0123456789abcdef",
                                        "accept-loss a b c d e f"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        cr_assert_not(good(lines[i]), "%s", lines[i]);
        cr_assert_eq(s.phase, PHASE_RUNNING);
    }
    cr_assert_eq(atomic_load(&s.plumbing.control->accept_loss), 0);
}

Test(requests, stop_drains) {
    cr_assert(good("stop"));
    cr_assert_eq(s.phase, PHASE_DRAINING);
    cr_assert_eq(atomic_load(&s.plumbing.control->mode[1]), CONTROL_DRAIN);
    cr_assert_not(good("reload"));
    cr_assert(says("stopping"));
}

Test(requests, reload_of_no_file_is_refused) {
    cr_assert_not(good("reload"));
    cr_assert(says("\"result\":\"refused\"") && says("\"reload\":1"));
    cr_assert_eq(s.local.value[M_supervisor_reload_refuse], 1);
    cr_assert_eq(s.phase, PHASE_RUNNING);
}

Test(requests, reload_during_another_follows_it_and_says_where_the_outcome_stands) {
    s.phase = PHASE_LEAVING;
    s.after = AFTER_RELOAD;
    cr_assert(good("reload"));
    cr_assert(says("\"result\":\"queued\"") && says("millrace ctl status tells the outcome"));
}

Test(requests, accept_loss_names_what_is_meant_before_it_is_raised) {
    const struct control *c = s.plumbing.control;
    cr_assert(good("accept-loss"));
    cr_assert_eq(atomic_load(&c->accept[c->accept_loss % CONTROL_ACCEPTS].what), control_accept_what(UINT32_MAX, -1));
    cr_assert_eq(atomic_load(&c->accept_loss), 1);
    atomic_store(&ledger->accepted, 1);
    cr_assert(good("accept-loss cards.change") && says("\"asked\""));
    cr_assert_eq(atomic_load(&c->accept[c->accept_loss % CONTROL_ACCEPTS].what), control_accept_what(1, -1));
    atomic_store(&ledger->accepted, 2);
    cr_assert(good("accept-loss t 7") && says("\"asked\""));
    cr_assert_eq(atomic_load(&c->accept[c->accept_loss % CONTROL_ACCEPTS].what), control_accept_what(0, 7));
    cr_assert_eq(atomic_load(&c->accept_loss), 3);
}

Test(requests, accept_loss_may_name_the_load_that_makes_up_for_it) {
    const struct control *c = s.plumbing.control;
    cr_assert(good("accept-loss t 7 01a1ffbf-4631-7a72-bf7f-eec0d7af0f26 500"));
    cr_assert_eq(atomic_load(&c->accept[1].what), control_accept_what(0, 7));
    cr_assert_eq(atomic_load(&c->accept[1].first), 500);
    cr_assert_arr_eq((const void *)&c->accept[1].load, "\x01\xa1\xff\xbf\x46\x31\x7a\x72", 8);
    cr_assert(good("accept-loss t 7"));
    cr_assert_eq(atomic_load(&c->accept[2].load[0]), 0);
    cr_assert_not(good("accept-loss t 7 01a1ffbf-4631-7a72-bf7f-eec0d7af0f26"));
    cr_assert_not(good("accept-loss t 7 01a1ffbf-4631-7a72-bf7f-eec0d7af0f26 x"));
    cr_assert_not(good("accept-loss t 7 01a1ffbf-4631-7a72-bf7f-eec0d7af0f26 -2"));
    cr_assert_not(good("accept-loss t 7 load 5"));
    cr_assert_eq(atomic_load(&c->accept_loss), 2);
}

Test(requests, accept_loss_takes_the_place_of_one_that_waits) {
    cr_assert(good("accept-loss t 1") && says("\"asked\""));
    cr_assert(good("accept-loss t 2") && says("in place of the one before"));
    cr_assert_eq(atomic_load(&s.plumbing.control->accept[2].what), control_accept_what(0, 2));
    cr_assert_eq(atomic_load(&s.plumbing.control->accept_loss), 2);
}

Test(requests, refeed_has_ingest_look_into_its_folder) {
    cr_assert(good("refeed") && good("refeed"));
    cr_assert_eq(atomic_load(&s.plumbing.control->refeed), 2);
    s.phase = PHASE_DRAINING;
    cr_assert_not(good("refeed"));
    cr_assert_eq(atomic_load(&s.plumbing.control->refeed), 2);
}

Test(requests, accept_loss_of_what_is_not_there_is_refused) {
    cr_assert_not(good("accept-loss another"));
    cr_assert_not(good("accept-loss t x"));
    cr_assert_not(good("accept-loss t -1"));
    cr_assert_not(good("accept-loss t 99999999999"));
    s.phase = PHASE_DRAINING;
    cr_assert_not(good("accept-loss"));
    cr_assert_eq(atomic_load(&s.plumbing.control->accept_loss), 0);
}

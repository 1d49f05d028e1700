#include "recon/webhook.h"

#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#include "tests/unit/recon/receiver.h"

static struct receiver receiver;
static struct err err;

TestSuite(webhook, .timeout = 30);

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static enum sending post(struct webhook *w, const char *body) {
    enum sending s;
    struct pollfd fds[8];
    memset(&err, 0, sizeof err);
    cr_assert_eq(webhook_start(w, "0198-an-id", body, strlen(body), &err), 0);
    while ((s = webhook_step(w, &err)) == SENDING) {
        int timeout_ms = 100;
        int n = webhook_wants(w, fds, 8, &timeout_ms);
        double before = seconds();
        poll(fds, (nfds_t)n, timeout_ms);
        cr_assert_lt(seconds() - before, 0.5);
    }
    cr_assert_eq(webhook_wants(w, fds, 8, &(int){100}), 0);
    return s;
}

static struct webhook *hook(const char *url) {
    struct webhook *w = webhook_open(url, "", &err);
    cr_assert_not_null(w, "%s", err.text);
    return w;
}

Test(webhook, posts_json_with_its_id) {
    receiver_start(&receiver, 204);
    struct webhook *w = hook(receiver.url);
    for (int i = 0; i < 3; i++) cr_assert_eq(post(w, "{\"a\":1}"), SENT, "%s", err.text);
    webhook_close(w);
    cr_assert_eq(receiver.count, 3);
    cr_assert_str_eq(receiver.id[0], "0198-an-id");
    cr_assert_str_eq(receiver.body, "{\"a\":1}");
    cr_assert_eq(strncmp(receiver.request, "POST /hook/secret-token HTTP/1.1\r\n", 34), 0, "%s", receiver.request);
    cr_assert_not_null(strstr(receiver.request, "\r\nContent-Type: application/json\r\n"));
}

Test(webhook, any_other_answer_is_a_failure_that_names_no_secret) {
    static const int answers[] = {301, 302, 307, 400, 403, 404, 429, 500, 503};
    receiver_start(&receiver, 200);
    struct webhook *w = hook(receiver.url);
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        atomic_store(&receiver.answer, answers[i]);
        int before = receiver.count;
        cr_assert_eq(post(w, "{}"), SEND_FAILED, "%d", answers[i]);
        char wanted[64];
        snprintf(wanted, sizeof wanted, "the receiver answered %d", answers[i]);
        cr_assert_str_eq(err.text, wanted);
        cr_assert_eq(receiver.count, before + 1, "no redirect was followed");
    }
    webhook_close(w);
}

Test(webhook, receiver_that_cuts_floods_or_is_not_there) {
    receiver_start(&receiver, RECEIVER_CUT);
    struct webhook *w = hook(receiver.url);
    cr_assert_eq(post(w, "{}"), SEND_FAILED);
    cr_assert_null(strstr(err.text, "secret-token"), "%s", err.text);
    atomic_store(&receiver.answer, RECEIVER_FLOOD);
    double before = seconds();
    cr_assert_eq(post(w, "{}"), SENT, "it has taken it: %s", err.text);
    cr_assert_lt(seconds() - before, 5);
    webhook_close(w);
    w = hook("http://127.0.0.1:1/secret-token");
    cr_assert_eq(post(w, "{}"), SEND_FAILED);
    cr_assert_null(strstr(err.text, "secret-token"), "%s", err.text);
    webhook_close(w);
}

Test(webhook, receiver_that_hangs_costs_its_time_limit_and_no_waiting) {
    receiver_start(&receiver, RECEIVER_HANG);
    struct webhook *w = hook(receiver.url);
    double before = seconds();
    cr_assert_eq(post(w, "{}"), SEND_FAILED);
    cr_assert(seconds() - before >= WEBHOOK_TOTAL_MS / 1000.0 - 0.1 && seconds() - before < WEBHOOK_TOTAL_MS / 500.0,
              "%f", seconds() - before);
    atomic_store(&receiver.answer, 200);
    cr_assert_eq(post(w, "{}"), SENT, "the next one works: %s", err.text);
    webhook_close(w);
}

Test(webhook, closing_breaks_off) {
    receiver_start(&receiver, RECEIVER_HANG);
    struct webhook *w = hook(receiver.url);
    cr_assert_eq(webhook_start(w, "id", "{}", 2, &err), 0);
    while (receiver.count == 0) webhook_step(w, &err);
    webhook_close(w);
}

Test(webhook, no_proxy_of_the_environment_is_asked) {
    receiver_start(&receiver, 200);
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("all_proxy", "http://127.0.0.1:1", 1);
    struct webhook *w = hook(receiver.url);
    cr_assert_eq(post(w, "{}"), SENT, "%s", err.text);
    webhook_close(w);
}

Test(webhook, other_protocols_are_not_spoken) {
    struct webhook *w = hook("file:///etc/hostname");
    cr_assert_eq(post(w, "{}"), SEND_FAILED);
    webhook_close(w);
}

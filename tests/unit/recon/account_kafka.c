/* The link by which instances tell each other what they have logged, as far as a simulated broker shows it. */
#include "recon/account_kafka.h"

#include <unistd.h>

#include "tests/unit/feed/mock.h"

static struct account_port port;
static struct err err;

static void begin(void) {
    struct config *c = mock_config();
    snprintf(c->recon.anchor_topic, sizeof c->recon.anchor_topic, "cards");
    cr_assert_eq(account_kafka_open(&port, c, &err), 0, "%s", err.text);
}

static void wait_sent(void) {
    for (int i = 0; i < 500 && port.unsent(port.self) > 0; i++) usleep(20000);
    cr_assert_eq(port.unsent(port.self), 0);
}

TestSuite(account_kafka, .init = begin, .timeout = 60);

Test(account_kafka, what_is_sent_comes_back_in_its_order) {
    struct account_message m;
    cr_assert(port.send(port.self, "a", 1) && port.send(port.self, "b", 1));
    wait_sent();
    cr_assert(!port.lost(port.self));
    for (int n = 0, i = 0; n < 2; i++) {
        cr_assert_lt(i, 1000);
        if (!port.next(port.self, &m)) {
            usleep(20000);
            continue;
        }
        cr_assert_str_eq(m.text, n == 0 ? "a" : "b");
        cr_assert_eq(m.offset, n++);
    }
}

Test(account_kafka, a_message_that_is_refused_for_good_is_lost_and_said_once) {
    rd_kafka_mock_push_request_errors(mock, 0 /* Produce */, 1, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    port.send(port.self, "a", 1);
    wait_sent();
    cr_assert(port.lost(port.self));
    cr_assert(!port.lost(port.self));
}

/* As in tests/unit/feed/kafka_out.c: the first batch is refused, the next one taken, and both are called delivered. */
Test(account_kafka, a_message_that_may_not_have_been_written_is_lost) {
    port.send(port.self, "connected", 9);
    wait_sent();
    rd_kafka_mock_broker_set_rtt(mock, 1, 500);
    rd_kafka_mock_push_request_errors(mock, 0, 1, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION);
    port.send(port.self, "a", 1);
    usleep(200000); /* it is on its way */
    port.send(port.self, "b", 1);
    wait_sent();
    cr_assert(port.lost(port.self));
}

/* The real way to Kafka, as far as a simulated broker shows it. */
#include "feed/kafka_out.h"

#include <sysexits.h>

#include "tests/unit/feed/mock.h"

static struct kafka_out out;
static struct err err;
static uint64_t tags;
static int count;
static int64_t highest = -1;

static int64_t offsets[3];

static void delivered_at(void *context, uint64_t tag, int32_t partition, int64_t offset) {
    (void)context, (void)partition;
    offsets[tag] = offset;
    count++;
}

static void delivered(void *context, uint64_t tag, int32_t partition, int64_t offset) {
    cr_assert_eq(context, &out);
    cr_assert_eq(partition, 0);
    tags += tag;
    count++;
    if (offset > highest) highest = offset;
}

static const char *const topics[] = {"cards", "manifests"};

static enum kafka_out_result send_one(uint64_t tag, size_t bytes) {
    static char value[2000000];
    struct kafka_out_message m = {.topic = "cards",
                                  .key = "k",
                                  .key_bytes = 1,
                                  .value = value,
                                  .value_bytes = bytes,
                                  .timestamp_ms = 1700000000000,
                                  .tag = tag,
                                  .header_count = 1,
                                  .header = {{"h", "v", 1}}};
    return out.send(out.self, &m, &err);
}

static void poll_until(int n) {
    for (int i = 0; i < 500 && count < n; i++) cr_assert_eq(out.poll(out.self, 20, &err), KAFKA_OUT_OK, "%s", err.text);
    cr_assert_eq(count, n);
}

Test(kafka_out, messages_are_acknowledged_with_their_tags) {
    kafka_out_new(&out, mock_config(), 10000, 5000, delivered, &out);
    cr_assert_eq(out.open(out.self, topics, 2, &err), KAFKA_OUT_OK, "%s", err.text);
    for (uint64_t i = 1; i <= 100; i++) cr_assert_eq(send_one(i, 100), KAFKA_OUT_OK);
    poll_until(100);
    cr_assert_eq(tags, 5050);
    cr_assert_eq(highest, 99);
    out.close(out.self);
    cr_assert_eq(out.open(out.self, topics, 2, &err), KAFKA_OUT_OK, "and once more");
    send_one(1, 100);
    poll_until(101);
    out.free(out.self);
}

Test(kafka_out, a_message_that_is_too_large_is_refused) {
    kafka_out_new(&out, mock_config(), 10000, 5000, delivered, &out);
    cr_assert_eq(out.open(out.self, topics, 2, &err), KAFKA_OUT_OK);
    cr_assert_eq(send_one(1, 1500000), KAFKA_OUT_REFUSED);
    cr_assert_eq(err.code, EX_UNAVAILABLE);
    out.free(out.self);
    kafka_out_new(&out, mock_config(), 1600000, 5000, delivered, &out);
    cr_assert_eq(out.open(out.self, topics, 2, &err), KAFKA_OUT_OK);
    cr_assert_eq(send_one(1, 1500000), KAFKA_OUT_OK, "%s", err.text);
    out.free(out.self);
}

Test(kafka_out, batches_that_are_refused_get_smaller_until_they_cannot) {
    kafka_out_new(&out, mock_config(), 10000, 5000, delivered, &out);
    int broken = 0;
    enum kafka_out_result r = KAFKA_OUT_OK;
    for (; broken < 10; broken++) {
        rd_kafka_mock_push_request_errors(mock, 0 /* Produce */, 1, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
        cr_assert_eq(out.open(out.self, topics, 2, &err), KAFKA_OUT_OK, "%s", err.text);
        cr_assert_eq(send_one(1, 100), KAFKA_OUT_OK);
        for (int i = 0; i < 500 && (r = out.poll(out.self, 20, &err)) == KAFKA_OUT_OK && count == 0; i++) {
        }
        if (r != KAFKA_OUT_BROKEN) break;
        out.close(out.self);
    }
    cr_assert_eq(r, KAFKA_OUT_REFUSED);
    cr_assert_eq(broken, 3, "a million, 125,000, 15,625: %d", broken);
    cr_assert_not_null(strstr(err.text, "too large"), "%s", err.text);
}

Test(kafka_out, what_may_not_be_written_to_is_refused) {
    kafka_out_new(&out, mock_config(), 10000, 5000, delivered, &out);
    rd_kafka_mock_topic_set_error(mock, "manifests", RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    cr_assert_eq(out.open(out.self, topics, 2, &err), KAFKA_OUT_REFUSED);
    cr_assert_not_null(strstr(err.text, "topic manifests: "), "%s", err.text);
    cr_assert_eq(err.code, EX_UNAVAILABLE);
    cr_assert_eq(out.open(out.self, topics, 1, &err), KAFKA_OUT_OK, "nobody needs it");
    rd_kafka_mock_push_request_errors(mock, 0, 1, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    send_one(1, 100);
    enum kafka_out_result r = KAFKA_OUT_OK;
    for (int i = 0; i < 500 && r == KAFKA_OUT_OK; i++) r = out.poll(out.self, 20, &err);
    cr_assert_eq(r, KAFKA_OUT_REFUSED);
    cr_assert_eq(count, 0);
}

Test(kafka_out, a_broker_that_is_not_there_is_broken_and_the_reason_is_told) {
    struct config *c = mock_config();
    snprintf(c->kafka.property[0].value, sizeof c->kafka.property[0].value, "127.0.0.1:1");
    kafka_out_new(&out, c, 10000, 300, delivered, &out);
    cr_assert_eq(out.open(out.self, topics, 2, &err), KAFKA_OUT_BROKEN);
    cr_assert_not_null(strstr(err.text, "Connection refused"), "%s", err.text);
}

Test(kafka_out, a_property_that_is_not_accepted_is_named_and_a_secret_is_not) {
    struct config *c = mock_config();
    property(c, "socket.timeout.ms", "hunter2");
    c->kafka.property[c->kafka.property_count - 1].secret = true;
    kafka_out_new(&out, c, 10000, 300, delivered, &out);
    cr_assert_eq(out.open(out.self, topics, 2, &err), KAFKA_OUT_REFUSED);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert_str_eq(err.text, "kafka.socket.timeout.ms: not accepted");
}

/* A broker that begins to lead refuses the first batch of a partition and takes the second: it knows nothing of the
 * producer yet, and so misses nothing. The library takes the first one for written, too. */
Test(kafka_out, a_batch_that_was_refused_is_not_taken_for_written_when_the_next_one_is) {
    enum kafka_out_result r = KAFKA_OUT_OK;
    kafka_out_new(&out, mock_config(), 10000, 5000, delivered_at, &out);
    cr_assert_eq(out.open(out.self, topics, 2, &err), KAFKA_OUT_OK, "%s", err.text);
    send_one(0, 100);
    poll_until(1); /* connected */
    rd_kafka_mock_broker_set_rtt(mock, 1, 500);
    rd_kafka_mock_push_request_errors(mock, 0 /* Produce */, 1, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION);
    send_one(1, 100);
    for (int i = 0; i < 10; i++) out.poll(out.self, 20, &err); /* it is on its way */
    send_one(2, 100);
    for (int i = 0; i < 500 && r == KAFKA_OUT_OK && count < 3; i++) r = out.poll(out.self, 20, &err);
    cr_assert_eq(r, KAFKA_OUT_BROKEN);
    cr_assert_not_null(strstr(err.text, "not known whether"), "%s", err.text);
    cr_assert_eq(count, 1, "nor is the one behind it delivered: it has to come after the first");
    out.close(out.self);
    cr_assert_eq(out.open(out.self, topics, 2, &err), KAFKA_OUT_OK, "%s", err.text);
    send_one(1, 100);
    send_one(2, 100);
    poll_until(3);
    cr_assert_eq(offsets[1], 2, "the second is there already");
    cr_assert_eq(offsets[2], 3);
    out.free(out.self);
}

/* The demo's Kafka: librdkafka's mock cluster in a process of its own, and a producer that publishes to it.
 *
 * The mock keeps at most 5 MiB of a partition and drops the oldest data beyond without a word: broker_check asks it
 * afterwards whether everything is still there, so that a loss of its own is not taken for one of the pipeline. */
#ifndef MILLRACE_TOOLS_DEMO_BROKER_H
#define MILLRACE_TOOLS_DEMO_BROKER_H

#include <stdint.h>

#include "base/err.h"
#include "tools/demo/cards.h"
#include "tools/demo/process.h"

#define BROKER_TOPIC_BULK "cards.bulk"
#define BROKER_TOPIC_CHANGE "cards.change"

enum { BROKER_ADDRESS_BYTES = 256 };

/* broker_main is the process itself: prints its address and serves until it is ended. */
int broker_main(void);

/* broker_start runs this executable again with the argument that leads to broker_main, and reads its address. */
int broker_start(struct process *p, const char *executable, const char *log, char address[BROKER_ADDRESS_BYTES],
                 struct err *err);

struct producer {
    void *kafka;    /* rd_kafka_t */
    void *topic[2]; /* rd_kafka_topic_t */
    uint64_t delivered, failed;
    uint64_t sent[2][CARDS_PARTITIONS]; /* by topic (bulk, change) and partition */
};

int producer_init(struct producer *p, const char *address, struct err *err);

/* producer_send hands the record over; waits while the client's queue is full. */
int producer_send(struct producer *p, const struct card_record *r, struct err *err);

/* producer_poll serves delivery reports for at most timeout_ms; producer_flush until all have come, -1 with err when
 * they did not in timeout_ms or one says that a record failed. */
void producer_poll(struct producer *p, int timeout_ms);
int producer_flush(struct producer *p, int timeout_ms, struct err *err);

/* broker_check: whether every partition begins at 0 and ends at what was sent to it. */
int broker_check(struct producer *p, struct err *err);
void producer_free(struct producer *p);

#endif

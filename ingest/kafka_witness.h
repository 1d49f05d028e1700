/* Kafka witness: what stands at some offsets, read by a consumer of its own beside the one that reads the partitions.
 */
#ifndef MILLRACE_INGEST_KAFKA_WITNESS_H
#define MILLRACE_INGEST_KAFKA_WITNESS_H

#include <librdkafka/rdkafka.h>

#include "base/err.h"

/* kafka_witness reads the first record from the offset of each partition of `at` on, with a consumer made from conf,
 * which is no member of the group. timestamp_ms[i]: that of the record, when it stands at the offset itself;
 * KAFKA_WITNESS_NONE when none does (it is gone, or the partition is another one, or the record has no timestamp);
 * KAFKA_WITNESS_LATE when nothing came within KAFKA_CALL_MS, for which it blocks at most. The consumer ends on a thread
 * of its own, for that may take as long as the resolver of host names. 0, or -1 with err. */
int kafka_witness(const rd_kafka_conf_t *conf, const rd_kafka_topic_partition_list_t *at, int64_t *timestamp_ms,
                  struct err *err);

#endif

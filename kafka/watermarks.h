/* Where a partition begins and ends, as its leader says. */
#ifndef MILLRACE_KAFKA_WATERMARKS_H
#define MILLRACE_KAFKA_WATERMARKS_H

#include <librdkafka/rdkafka.h>

/* kafka_watermarks asks for the oldest and the next offset of a partition, each by itself and in this order. Not by
 * rd_kafka_query_watermark_offsets(): where one of its two requests fails and the other is answered at the same moment,
 * librdkafka 2.0.2 returns what it has as both of them, and no error; a group would begin at the end of what it was to
 * read from the beginning. Blocks at most timeout_ms (1 or more). Both are set when it returns
 * RD_KAFKA_RESP_ERR_NO_ERROR; else nothing is said of them. */
rd_kafka_resp_err_t kafka_watermarks(rd_kafka_t *rk, const char *topic, int32_t partition, int64_t *low, int64_t *high,
                                     int timeout_ms);

#endif

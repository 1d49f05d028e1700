#include "kafka/watermarks.h"

/* which: RD_KAFKA_OFFSET_BEGINNING or _END, the "times" of the two. */
static rd_kafka_resp_err_t ask(rd_kafka_t *rk, const char *topic, int32_t partition, int64_t which, int64_t *offset,
                               int timeout_ms) {
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(l, topic, partition)->offset = which;
    rd_kafka_resp_err_t e = rd_kafka_offsets_for_times(rk, l, timeout_ms);
    if (e == RD_KAFKA_RESP_ERR_NO_ERROR) e = l->elems[0].err;
    *offset = l->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(l);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR && *offset < 0 ? RD_KAFKA_RESP_ERR__BAD_MSG : e;
}

rd_kafka_resp_err_t kafka_watermarks(rd_kafka_t *rk, const char *topic, int32_t partition, int64_t *low, int64_t *high,
                                     int timeout_ms) {
    int half = timeout_ms > 1 ? timeout_ms / 2 : 1;
    rd_kafka_resp_err_t e = ask(rk, topic, partition, RD_KAFKA_OFFSET_BEGINNING, low, half);
    return e != RD_KAFKA_RESP_ERR_NO_ERROR ? e : ask(rk, topic, partition, RD_KAFKA_OFFSET_END, high, half);
}

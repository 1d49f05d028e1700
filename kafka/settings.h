/* Settings for a client of librdkafka from the configuration: the same way for every process that speaks to Kafka. */
#ifndef MILLRACE_KAFKA_SETTINGS_H
#define MILLRACE_KAFKA_SETTINGS_H

#include <librdkafka/rdkafka.h>

#include "base/config.h"
#include "base/err.h"

struct kafka_setting { /* a table of them ends with {NULL, NULL} */
    const char *name, *value;
};

/* What is fixed for a consumer that keeps its own positions: nothing is committed, left out or made by the library. The
 * promises of the pipeline rest on it, so no configuration changes it. */
extern const struct kafka_setting kafka_settings_reader[];

/* kafka_settings_fill sets the defaults, over them what the configuration says under `kafka`, and over that what is
 * fixed: what the caller's promises rest on. type: of the client; a producer is spared what only consumers understand.
 * Neither group.id nor session.timeout.ms is set: the configuration keeps them apart. Returns 0, or -1 with err
 * (EX_CONFIG), which never has the value of a secret. conf stays the caller's. */
int kafka_settings_fill(rd_kafka_conf_t *conf, rd_kafka_type_t type, const struct config *c,
                        const struct kafka_setting *defaults, const struct kafka_setting *fixed, struct err *err);

/* kafka_settings_set sets one property. 0, or -1 with err (EX_CONFIG). */
int kafka_settings_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct err *err);

/* kafka_settings_open makes the client. It takes conf, also on failure. NULL with err (EX_CONFIG). */
rd_kafka_t *kafka_settings_open(rd_kafka_conf_t *conf, rd_kafka_type_t type, struct err *err);

#endif

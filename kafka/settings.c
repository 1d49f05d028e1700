#include "kafka/settings.h"

#include <string.h>
#include <sysexits.h>

/* A name, or what names begin with. The configuration allows no property that only producers understand. */
static const char *const consumer_only[] = {
    "group.",          "session.timeout.ms",
    "heartbeat.",      "max.poll.interval.ms",
    "coordinator.",    "fetch.",
    "queued.",         "partition.assignment.strategy",
    "check.crcs",      "enable.auto.",
    "isolation.level", "auto.offset.reset",
};

const struct kafka_setting kafka_settings_reader[] = {
    {"enable.auto.commit", "false"},
    {"enable.auto.offset.store", "false"},
    {"auto.offset.reset", "error"},
    {"enable.partition.eof", "true"},
    {"check.crcs", "true"},
    {"allow.auto.create.topics", "false"},
    {"log.connection.close", "false"},
    {NULL, NULL},
};

static bool for_consumers(const char *name) {
    for (size_t i = 0; i < sizeof consumer_only / sizeof consumer_only[0]; i++)
        if (strncmp(name, consumer_only[i], strlen(consumer_only[i])) == 0) return true;
    return false;
}

int kafka_settings_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct err *err) {
    char text[256];
    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) == RD_KAFKA_CONF_OK) return 0;
    return err_set(err, EX_CONFIG, "kafka.%s: %s", name, text);
}

static int table_set(rd_kafka_conf_t *conf, const struct kafka_setting *s, struct err *err) {
    for (; s->name != NULL; s++)
        if (kafka_settings_set(conf, s->name, s->value, err) != 0) return -1;
    return 0;
}

int kafka_settings_fill(rd_kafka_conf_t *conf, rd_kafka_type_t type, const struct config *c,
                        const struct kafka_setting *defaults, const struct kafka_setting *fixed, struct err *err) {
    if (table_set(conf, defaults, err) != 0) return -1;
    for (uint32_t i = 0; i < c->kafka.property_count; i++) {
        const struct config_property *p = &c->kafka.property[i];
        if (type == RD_KAFKA_PRODUCER && for_consumers(p->name)) continue;
        if (kafka_settings_set(conf, p->name, p->value, err) == 0) continue;
        return p->secret ? err_set(err, EX_CONFIG, "kafka.%s: not accepted", p->name) : -1;
    }
    return table_set(conf, fixed, err);
}

rd_kafka_t *kafka_settings_open(rd_kafka_conf_t *conf, rd_kafka_type_t type, struct err *err) {
    char text[256];
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof text);
    if (rk != NULL) return rk;
    bool resources = rd_kafka_last_error() == RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE; /* a thread, say */
    rd_kafka_conf_destroy(conf);
    err_set(err, resources ? EX_OSERR : EX_CONFIG, "Kafka client: %s", text);
    return NULL;
}

/* Kafka error: what an error of librdkafka means to an operator. */
#ifndef MILLRACE_INGEST_KAFKA_ERROR_H
#define MILLRACE_INGEST_KAFKA_ERROR_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stddef.h>

struct kafka_error {
    rd_kafka_resp_err_t code;
    const char *said; /* by librdkafka */
    int certificate;  /* why a broker's certificate was refused last: an X509_V_ERR_… of OpenSSL; 0 none was */
    bool scram;       /* the mechanism is one of SCRAM */
    int version;      /* rd_kafka_version() */
};

/* kafka_error_explain writes a sentence into out (size at least 256): who said it, what it is, what to do. What changes
 * from try to try (durations, repeats) is left out, so that the same trouble is the same text. "" when other errors say
 * it better. Returns true when only a person can mend it: credentials, certificates, permissions. */
bool kafka_error_explain(const struct kafka_error *e, char *out, size_t size);

#endif

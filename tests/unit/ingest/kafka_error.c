/* What the operator reads when Kafka says no: librdkafka's words as they were seen, and what is made of them. */
#include "ingest/kafka_error.h"

#include <criterion/criterion.h>
#include <openssl/x509_vfy.h>
#include <string.h>

static char text[256];

static bool explain(rd_kafka_resp_err_t code, const char *said, int certificate, bool scram, int version) {
    const struct kafka_error e = {code, said, certificate, scram, version};
    memset(text, 'x', sizeof text);
    return kafka_error_explain(&e, text, sizeof text);
}

#define HANDSHAKE                                                                                                      \
    "ssl://k:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker "    \
    "certificate could not be verified, verify that ssl.ca.location is correctly configured (after 11ms in state "     \
    "SSL_HANDSHAKE)"

Test(kafka_error, refused_certificate_says_why) {
    cr_assert(explain(RD_KAFKA_RESP_ERR__SSL, HANDSHAKE, X509_V_ERR_CERT_HAS_EXPIRED, false, 0));
    cr_assert_str_eq(text, "ssl://k:9093/bootstrap: its certificate has expired (or that of its issuer): renew it");
    cr_assert(explain(RD_KAFKA_RESP_ERR__SSL, HANDSHAKE, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, false, 0));
    cr_assert_str_eq(text, "ssl://k:9093/bootstrap: its certificate comes from an authority that is not trusted: see "
                           "kafka.ssl.ca.location");
    cr_assert(explain(RD_KAFKA_RESP_ERR__SSL, HANDSHAKE, X509_V_ERR_HOSTNAME_MISMATCH, false, 0));
    cr_assert_str_eq(text, "ssl://k:9093/bootstrap: its certificate is for another name than this");
    cr_assert(explain(RD_KAFKA_RESP_ERR__SSL, HANDSHAKE, X509_V_ERR_CERT_NOT_YET_VALID, false, 0));
    cr_assert_not_null(strstr(text, "is not valid yet"));
    cr_assert(explain(RD_KAFKA_RESP_ERR__SSL, HANDSHAKE, X509_V_ERR_INVALID_PURPOSE, false, 0));
    cr_assert_str_eq(text, "ssl://k:9093/bootstrap: its certificate is refused");
}

Test(kafka_error, trouble_of_tls_without_a_verdict_keeps_the_librarys_words) {
    cr_assert(explain(RD_KAFKA_RESP_ERR__SSL, HANDSHAKE, 0, false, 0));
    cr_assert_not_null(strstr(text, "certificate verify failed"));
    cr_assert_null(strstr(text, "(after"));
    cr_assert(explain(RD_KAFKA_RESP_ERR__SSL, "k: SSL handshake failed: wrong version number", 10, false, 0));
    cr_assert_str_eq(text, "k: SSL handshake failed: wrong version number");
}

Test(kafka_error, broker_that_hangs_up_in_the_handshake_may_just_be_starting) {
    cr_assert(!explain(RD_KAFKA_RESP_ERR__SSL,
                       "sasl_ssl://k:9093/1: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker "
                       "listener? (after 4ms in state SSL_HANDSHAKE)",
                       0, false, 0));
    cr_assert_not_null(strstr(text, "connecting to a PLAINTEXT broker listener?"));
}

Test(kafka_error, refused_password_is_for_a_person_and_the_same_text_every_time) {
    static const char first[] = "sasl_ssl://k:9093/bootstrap: SASL authentication error: Authentication failed during "
                                "authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512 (after "
                                "302ms in state AUTH_REQ)";
    static const char second[] = "sasl_ssl://k:9093/bootstrap: SASL authentication error: Authentication failed during "
                                 "authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512 (after "
                                 "7ms in state AUTH_REQ, 4 identical error(s) suppressed)";
    char before[256];
    cr_assert(explain(RD_KAFKA_RESP_ERR__AUTHENTICATION, first, 0, true, 0x020601ff));
    memcpy(before, text, sizeof before);
    cr_assert_not_null(strstr(text, "invalid credentials with SASL mechanism SCRAM-SHA-512"));
    cr_assert_null(strstr(text, "302ms"));
    cr_assert(explain(RD_KAFKA_RESP_ERR__AUTHENTICATION, second, 0, true, 0x020601ff));
    cr_assert_str_eq(text, before);
}

Test(kafka_error, scram_of_an_old_library_and_kafka_4_is_named_as_a_cause) {
    static const char said[] = "sasl_ssl://k:9093/bootstrap: SASL authentication error: Authentication failed during "
                               "authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512";
    cr_assert(explain(RD_KAFKA_RESP_ERR__AUTHENTICATION, said, 0, true, 0x020002ff));
    cr_assert_not_null(strstr(text, "Kafka 4, which refuses SCRAM of librdkafka before 2.6.1"), "%s", text);
    cr_assert(explain(RD_KAFKA_RESP_ERR__AUTHENTICATION, said, 0, true, 0x020601ff));
    cr_assert_null(strstr(text, "Kafka 4"), "mended in 2.6.1");
    cr_assert(explain(RD_KAFKA_RESP_ERR__AUTHENTICATION, said, 0, false, 0x020002ff));
    cr_assert_null(strstr(text, "Kafka 4"), "PLAIN has not the fault");
}

Test(kafka_error, missing_permission_is_for_a_person) {
    cr_assert(explain(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                      "Subscribed topic not available: t: Broker: Topic authorization failed", 0, false, 0));
    cr_assert_str_eq(text, "Subscribed topic not available: t: Broker: Topic authorization failed: the user lacks a "
                           "permission, see docs/kafka.md");
    cr_assert(explain(RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
                      "FindCoordinator response error: Group authorization failed.", 0, false, 0));
    cr_assert_str_eq(text, "FindCoordinator response error: Group authorization failed: the user lacks a permission, "
                           "see docs/kafka.md");
}

Test(kafka_error, certificate_that_the_broker_refuses_or_misses) {
    cr_assert(explain(RD_KAFKA_RESP_ERR__TRANSPORT,
                      "ssl://k:9093/bootstrap: Receive failed: error:0A000412:SSL routines::sslv3 alert bad "
                      "certificate: SSL alert number 42 (after 2ms in state APIVERSION_QUERY)",
                      0, false, 0));
    cr_assert_str_eq(text, "ssl://k:9093/bootstrap: the broker refuses our certificate, or demands one (alert bad "
                           "certificate): see kafka.ssl.certificate.location");
}

Test(kafka_error, broker_that_is_away_is_nobodys_fault) {
    cr_assert(!explain(RD_KAFKA_RESP_ERR__TRANSPORT,
                       "k:9092/1: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state "
                       "CONNECT)",
                       0, false, 0));
    cr_assert_str_eq(text, "k:9092/1: Connect to ipv4#127.0.0.1:9092 failed: Connection refused");
    cr_assert(!explain(RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, "1/1 brokers are down", 0, false, 0));
    cr_assert_str_eq(text, "", "what each of them said is more");
}

/* As much as librdkafka ever says, without an end of its own. */
Test(kafka_error, long_texts_are_cut) {
    char said[600];
    memset(said, 'a', sizeof said - 1);
    said[sizeof said - 1] = 0;
    static const rd_kafka_resp_err_t codes[] = {RD_KAFKA_RESP_ERR__SSL, RD_KAFKA_RESP_ERR__AUTHENTICATION,
                                                RD_KAFKA_RESP_ERR__TRANSPORT,
                                                RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        explain(codes[i], said, 10, true, 0);
        cr_assert_eq(strlen(text), sizeof text - 1);
    }
    explain(RD_KAFKA_RESP_ERR__SSL, "", 10, false, 0);
    cr_assert_str_eq(text, "");
}

Test(kafka_error, end_of_a_connection_says_nothing_that_is_worth_a_line) {
    cr_assert_not(
        explain(RD_KAFKA_RESP_ERR__TRANSPORT, "k:9092/1: Disconnected (after 7301ms in state UP)", 0, false, 0));
    cr_assert_str_eq(text, "");
    cr_assert_not(explain(RD_KAFKA_RESP_ERR__TRANSPORT, "k:9092/1: Disconnected while requesting ApiVersion: might be",
                          0, false, 0));
    cr_assert_not_null(strstr(text, "while requesting"));
}

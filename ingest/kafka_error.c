#include "ingest/kafka_error.h"

#include <openssl/x509_vfy.h> /* numbers only: the library is librdkafka's */
#include <stdio.h>
#include <string.h>

enum { SCRAM_FIXED = 0x020601ff }; /* librdkafka 2.6.1 */

static const char *certificate_meaning(int verdict) {
    switch (verdict) {
    case X509_V_ERR_CERT_HAS_EXPIRED: return "has expired (or that of its issuer): renew it";
    case X509_V_ERR_CERT_NOT_YET_VALID: return "is not valid yet: is the clock of this machine right?";
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH: return "is for another name than this";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        return "comes from an authority that is not trusted: see kafka.ssl.ca.location";
    case X509_V_ERR_CERT_REVOKED: return "is revoked";
    default: return "is refused";
    }
}

/* Bytes of `said` without what differs from try to try: " (after 3ms in state CONNECT, 2 identical errors …)". */
static int lasting_part(const char *said) {
    const char *end = strstr(said, " (after ");
    size_t len = end != NULL ? (size_t)(end - said) : strlen(said);
    return (int)(len > 0 && said[len - 1] == '.' ? len - 1 : len);
}

bool kafka_error_explain(const struct kafka_error *e, char *out, size_t size) {
    const char *said = e->said, *handshake = strstr(said, "SSL handshake failed");
    int part = lasting_part(said);
    switch (e->code) {
    case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN: /* what each of them said is more */ out[0] = 0; return false;
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
    case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
        snprintf(out, size, "%.*s%s", part, said,
                 e->scram && e->version < SCRAM_FIXED
                     ? " (or the broker is Kafka 4, which refuses SCRAM of librdkafka before 2.6.1)"
                     : "");
        return true;
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
        snprintf(out, size, "%.*s: the user lacks a permission, see docs/kafka.md", part, said);
        return true;
    case RD_KAFKA_RESP_ERR__SSL:
        if (handshake != NULL && strstr(handshake, "certificate verify failed") != NULL && e->certificate != 0)
            snprintf(out, size, "%.*sits certificate %s", (int)(handshake - said), said,
                     certificate_meaning(e->certificate));
        else
            snprintf(out, size, "%.*s", part, said);
        return strstr(said, "Disconnected") == NULL; /* as a broker does that is being started */
    case RD_KAFKA_RESP_ERR__TRANSPORT: /* the end of a connection: what follows says why, or it is there again */
        if (part >= 12 && strncmp(said + part - 12, "Disconnected", 12) == 0) {
            out[0] = 0;
            return false;
        }
        break;
    default: break;
    }
    if (strstr(said, "SSL alert number") != NULL) { /* the other side's word on our certificate, or on its absence */
        const char *alert = strstr(said, "alert ");
        snprintf(out, size,
                 "%.*s: the broker refuses our certificate, or demands one (%.*s): see "
                 "kafka.ssl.certificate.location",
                 (int)strcspn(said, " ") - 1, said, (int)strcspn(alert, ":"), alert);
        return true;
    }
    snprintf(out, size, "%.*s", part, said);
    return false;
}

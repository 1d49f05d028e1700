/* Certificates for tests of TLS: authorities, servers, clients, made on the spot into files of a folder. */
#ifndef MILLRACE_TESTS_SINK_CERTIFICATES_H
#define MILLRACE_TESTS_SINK_CERTIFICATES_H

#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

struct certificate {
    EVP_PKEY *key;
    X509 *x509;
};

#define DAYS(n) ((n)*86400L)

__attribute__((unused)) static void certificate_extend(X509 *x, int nid, const char *value) {
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    cr_assert(e != NULL && X509_add_ext(x, e, -1) == 1, "%s", value);
    X509_EXTENSION_free(e);
}

/* A certificate for `name`, with names such as "DNS:a,IP:127.0.0.1" ("" : an authority), signed by issuer (NULL: by
 * itself), valid from `from` seconds from now for `seconds`. */
__attribute__((unused)) static struct certificate
certificate_make(const char *name, const char *names, const struct certificate *issuer, long from, long seconds) {
    static long serial = 1;
    struct certificate c = {.key = EVP_EC_gen("P-256"), .x509 = X509_new()};
    cr_assert(c.key != NULL && c.x509 != NULL);
    X509_set_version(c.x509, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(c.x509), serial++);
    X509_gmtime_adj(X509_getm_notBefore(c.x509), from);
    X509_gmtime_adj(X509_getm_notAfter(c.x509), from + seconds);
    X509_set_pubkey(c.x509, c.key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(c.x509), "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1,
                               0);
    X509_set_issuer_name(c.x509, X509_get_subject_name(issuer != NULL ? issuer->x509 : c.x509));
    if (names[0] != 0)
        certificate_extend(c.x509, NID_subject_alt_name, names);
    else
        certificate_extend(c.x509, NID_basic_constraints, "critical,CA:TRUE");
    cr_assert_gt(X509_sign(c.x509, issuer != NULL ? issuer->key : c.key, EVP_sha256()), 0);
    return c;
}

__attribute__((unused)) static void certificate_free(struct certificate *c) {
    EVP_PKEY_free(c->key);
    X509_free(c->x509);
}

/* Writes WHERE/NAME.crt and, readable by the owner only, WHERE/NAME.key. */
__attribute__((unused)) static void certificate_write(const struct certificate *c, const char *where,
                                                      const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s.crt", where, name);
    FILE *f = fopen(path, "w");
    cr_assert(f != NULL && PEM_write_X509(f, c->x509) == 1);
    fclose(f);
    snprintf(path, sizeof path, "%s/%s.key", where, name);
    f = fopen(path, "w");
    cr_assert(f != NULL && PEM_write_PKCS8PrivateKey(f, c->key, NULL, NULL, 0, NULL, NULL) == 1);
    fclose(f);
    chmod(path, 0600);
}

__attribute__((unused)) static void certificate_put(const char *where, const char *name, const char *names,
                                                    const struct certificate *issuer, long from, long seconds) {
    struct certificate c = certificate_make(name, names, issuer, from, seconds);
    certificate_write(&c, where, name);
    certificate_free(&c);
}

/* What the tests have in a folder: ca and other-ca, and, signed by ca unless the name says otherwise: server (localhost
 * and 127.0.0.1), expired, early, wrong-name, wildcard
 * (*.wild.test), foreign (by other-ca), client, client-expired, client-foreign. */
__attribute__((unused)) static void certificates_make(const char *where) {
    static const char here[] = "DNS:localhost,DNS:redis.test,IP:127.0.0.1";
    struct certificate ca = certificate_make("ca", "", NULL, -DAYS(400), DAYS(800)),
                       other = certificate_make("other-ca", "", NULL, -DAYS(400), DAYS(800));
    certificate_write(&ca, where, "ca");
    certificate_write(&other, where, "other-ca");
    certificate_put(where, "server", here, &ca, -60, DAYS(1));
    certificate_put(where, "expired", here, &ca, -DAYS(30), DAYS(29));
    certificate_put(where, "early", here, &ca, DAYS(1), DAYS(29));
    certificate_put(where, "wrong-name", "DNS:elsewhere.test", &ca, -60, DAYS(1));
    certificate_put(where, "wildcard", "DNS:*.wild.test,DNS:r*.partial.test", &ca, -60, DAYS(1));
    certificate_put(where, "foreign", here, &other, -60, DAYS(1));
    certificate_put(where, "client", "DNS:client.test", &ca, -60, DAYS(1));
    certificate_put(where, "client-expired", "DNS:client.test", &ca, -DAYS(30), DAYS(29));
    certificate_put(where, "client-foreign", "DNS:client.test", &other, -60, DAYS(1));
    certificate_free(&ca);
    certificate_free(&other);
}

#endif

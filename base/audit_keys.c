#include "base/audit_keys.h"

#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <stdbool.h>
#include <string.h>
#include <sysexits.h>

#include "base/keys.h"

static int derive(const struct key *key, const char *label, uint8_t out[AUDIT_KEY_BYTES]) {
    size_t len = AUDIT_KEY_BYTES;
    EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, NULL);
    bool good = c != NULL && EVP_PKEY_derive_init(c) == 1 && EVP_PKEY_CTX_set_hkdf_md(c, EVP_sha256()) == 1 &&
                EVP_PKEY_CTX_set1_hkdf_key(c, key->bytes, KEY_BYTES) == 1 &&
                EVP_PKEY_CTX_add1_hkdf_info(c, (const unsigned char *)label, (int)strlen(label)) == 1 &&
                EVP_PKEY_derive(c, out, &len) == 1 && len == AUDIT_KEY_BYTES;
    EVP_PKEY_CTX_free(c);
    return good ? 0 : -1;
}

int audit_keys_load(const char *path, unsigned parts, struct audit_keys *out, struct err *err) {
    struct keys *keys = keys_load(path, err);
    *out = (struct audit_keys){0};
    if (keys == NULL) return -1;
    const struct key *key = keys_current(keys);
    const struct {
        unsigned part;
        const char *label;
        uint8_t *bytes;
    } rows[] = {{AUDIT_KEY_DIGEST, "millrace digest", out->digest},
                {AUDIT_KEY_CHAIN, "millrace chain", out->chain},
                {AUDIT_KEY_ANCHOR, "millrace anchor", out->anchor_seed},
                {AUDIT_KEY_ACCOUNT, "millrace account", out->account},
                {AUDIT_KEY_INDEX, "millrace index", out->index}};
    int failed = 0;
    out->id = key->id;
    if (keys->count != 1)
        failed =
            err_set(err, EX_CONFIG, "%s: %u keys; the keys of the audit log come from exactly one", path, keys->count);
    for (size_t i = 0; failed == 0 && i < sizeof rows / sizeof rows[0]; i++)
        if ((parts & rows[i].part) != 0 && derive(key, rows[i].label, rows[i].bytes) != 0)
            failed = err_set(err, EX_OSERR, "OpenSSL cannot derive the key \"%s\"", rows[i].label); /* no memory */
    keys_free(keys);
    if (failed != 0) explicit_bzero(out, sizeof *out);
    return failed;
}

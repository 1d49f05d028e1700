#include "audit/mac.h"

#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

/* The hash of the previous hash and those of the halves, and its HMAC, by OpenSSL's own. */
static void reference(const uint8_t key[AUDIT_KEY_BYTES], const uint8_t previous[LOG_MAC_BYTES], const uint8_t *data,
                      size_t len, uint8_t out[LOG_MAC_BYTES]) {
    uint8_t whole[3 * LOG_HASH_BYTES];
    size_t half = len / 2 / 64 * 64;
    unsigned n;
    memcpy(whole, previous, LOG_HASH_BYTES);
    cr_assert_eq(EVP_Digest(data, half, whole + LOG_HASH_BYTES, &n, EVP_sha256(), NULL), 1);
    cr_assert_eq(EVP_Digest(data + half, len - half, whole + 2 * LOG_HASH_BYTES, &n, EVP_sha256(), NULL), 1);
    cr_assert_eq(EVP_Digest(whole, sizeof whole, out, &n, EVP_sha256(), NULL), 1);
    cr_assert_not_null(HMAC(EVP_sha256(), key, AUDIT_KEY_BYTES, out, LOG_HASH_BYTES, out + LOG_HASH_BYTES, &n));
    cr_assert_eq(n, LOG_MAC_BYTES - LOG_HASH_BYTES);
}

Test(log_mac, is_a_hash_over_the_one_before_and_the_bytes_since_and_its_hmac) {
    uint8_t key[AUDIT_KEY_BYTES], mac[LOG_MAC_BYTES] = {0}, data[1024], expected[LOG_MAC_BYTES];
    struct log_mac_key k;
    for (size_t i = 0; i < sizeof key; i++) key[i] = (uint8_t)(i * 11);
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7);
    log_mac_key_init(&k, key);
    for (size_t len = 0; len < sizeof data; len += 61) {
        reference(key, mac, data, len, expected);
        log_mac_make(&k, mac, data, len, mac);
        cr_assert_eq(memcmp(mac, expected, sizeof mac), 0, "%d bytes", (int)len);
    }
}

#include "transform/xaes.h"

#include <limits.h>
#include <openssl/evp.h>
#include <string.h>
#include <sysexits.h>

enum { BLOCK = 16 };

/* The derived key: CMAC with the two inputs of the specification, written out, since both are one whole block. */
static int derive(const uint8_t key[XAES_KEY_BYTES], const uint8_t prefix[XAES_PREFIX_BYTES],
                  uint8_t out[XAES_KEY_BYTES]) {
    uint8_t k1[BLOCK] = {0}, m[2 * BLOCK];
    int n = 0;
    EVP_CIPHER_CTX *ecb = EVP_CIPHER_CTX_new();
    int ok = ecb != NULL && EVP_EncryptInit_ex(ecb, EVP_aes_256_ecb(), NULL, key, NULL) == 1 &&
             EVP_CIPHER_CTX_set_padding(ecb, 0) == 1 && EVP_EncryptUpdate(ecb, k1, &n, k1, BLOCK) == 1;
    uint8_t carry = (uint8_t)(0x87 & -(k1[0] >> 7)); /* without a branch on key material */
    for (int i = 0; i < BLOCK; i++) k1[i] = (uint8_t)(k1[i] << 1 | (i + 1 < BLOCK ? k1[i + 1] >> 7 : 0));
    k1[BLOCK - 1] ^= carry;
    for (uint8_t half = 0; half < 2; half++) {
        uint8_t *block = m + half * BLOCK;
        block[0] = 0;
        block[1] = (uint8_t)(half + 1);
        block[2] = 'X';
        block[3] = 0;
        memcpy(block + 4, prefix, XAES_PREFIX_BYTES);
        for (int i = 0; i < BLOCK; i++) block[i] ^= k1[i];
    }
    ok = ok && EVP_EncryptUpdate(ecb, out, &n, m, sizeof m) == 1;
    EVP_CIPHER_CTX_free(ecb);
    explicit_bzero(k1, sizeof k1);
    explicit_bzero(m, sizeof m);
    return ok ? 0 : -1;
}

static EVP_CIPHER_CTX *gcm_new(const uint8_t key[XAES_KEY_BYTES], const uint8_t prefix[XAES_PREFIX_BYTES],
                               int encrypt) {
    uint8_t derived[XAES_KEY_BYTES];
    EVP_CIPHER_CTX *gcm = derive(key, prefix, derived) == 0 ? EVP_CIPHER_CTX_new() : NULL;
    if (gcm != NULL && EVP_CipherInit_ex(gcm, EVP_aes_256_gcm(), NULL, derived, NULL, encrypt) != 1) {
        EVP_CIPHER_CTX_free(gcm);
        gcm = NULL;
    }
    explicit_bzero(derived, sizeof derived);
    return gcm;
}

/* Associated data, then the text, through a context whose nonce is set. Returns 1 when all went through. */
static int gcm_run(EVP_CIPHER_CTX *gcm, const struct xaes_data *data, const uint8_t *in, size_t len, uint8_t *out) {
    int n = 0;
    for (int i = 0; i < 2; i++)
        if (data->len[i] > 0 && EVP_CipherUpdate(gcm, NULL, &n, data->at[i], (int)data->len[i]) != 1) return 0;
    return len == 0 || EVP_CipherUpdate(gcm, out, &n, in, (int)len) == 1;
}

static void lengths_check(const struct xaes_data *data, size_t len) {
    CHECK(len <= INT_MAX && data->len[0] <= INT_MAX && data->len[1] <= INT_MAX); /* OpenSSL counts in int */
}

int xaes_sealer_init(struct xaes_sealer *s, const uint8_t key[XAES_KEY_BYTES], const uint8_t prefix[XAES_PREFIX_BYTES],
                     struct err *err) {
    *s = (struct xaes_sealer){.cipher = gcm_new(key, prefix, 1)};
    if (s->cipher == NULL) return err_set(err, EX_SOFTWARE, "AES-256-GCM is not available in libcrypto");
    memcpy(s->prefix, prefix, XAES_PREFIX_BYTES);
    return 0;
}

void xaes_nonce_next(struct xaes_sealer *s, uint8_t nonce[XAES_NONCE_BYTES]) {
    memcpy(nonce, s->prefix, XAES_PREFIX_BYTES);
    memset(nonce + XAES_PREFIX_BYTES, 0, 4);
    for (int i = 0; i < 8; i++) nonce[16 + i] = (uint8_t)(s->counter >> (56 - 8 * i));
    s->counter++; /* 2^64 records are never reached, and GCM's own bound of 2^32 random nonces is not for counters */
}

void xaes_seal(struct xaes_sealer *s, const uint8_t nonce[XAES_NONCE_BYTES], const struct xaes_data *data,
               const uint8_t *in, size_t len, uint8_t *out, uint8_t tag[XAES_TAG_BYTES]) {
    EVP_CIPHER_CTX *gcm = s->cipher;
    uint8_t rest[BLOCK];
    int n = 0;
    lengths_check(data, len);
    CHECK(EVP_EncryptInit_ex(gcm, NULL, NULL, NULL, nonce + XAES_PREFIX_BYTES) == 1);
    CHECK(gcm_run(gcm, data, in, len, out));
    CHECK(EVP_EncryptFinal_ex(gcm, rest, &n) == 1 && n == 0);
    CHECK(EVP_CIPHER_CTX_ctrl(gcm, EVP_CTRL_AEAD_GET_TAG, XAES_TAG_BYTES, tag) == 1);
}

void xaes_sealer_free(struct xaes_sealer *s) {
    EVP_CIPHER_CTX_free(s->cipher); /* cleanses the key schedule */
    *s = (struct xaes_sealer){0};
}

int xaes_open(const uint8_t key[XAES_KEY_BYTES], const uint8_t nonce[XAES_NONCE_BYTES], const struct xaes_data *data,
              const uint8_t *in, size_t len, uint8_t *out, const uint8_t tag[XAES_TAG_BYTES]) {
    uint8_t rest[BLOCK], expected[XAES_TAG_BYTES];
    int n = 0;
    lengths_check(data, len);
    memcpy(expected, tag, sizeof expected);
    EVP_CIPHER_CTX *gcm = gcm_new(key, nonce, 0);
    CHECK(gcm != NULL);
    int ok = EVP_DecryptInit_ex(gcm, NULL, NULL, NULL, nonce + XAES_PREFIX_BYTES) == 1 &&
             gcm_run(gcm, data, in, len, out) &&
             EVP_CIPHER_CTX_ctrl(gcm, EVP_CTRL_AEAD_SET_TAG, XAES_TAG_BYTES, expected) == 1 &&
             EVP_DecryptFinal_ex(gcm, rest, &n) == 1;
    EVP_CIPHER_CTX_free(gcm);
    if (!ok && len > 0) explicit_bzero(out, len);
    return ok ? 0 : -1;
}

/* One known answer of C2SP's XAES-256-GCM. */
static int answer_matches(uint8_t key_byte, const char *data_text, const char *answer) {
    static const uint8_t nonce[XAES_NONCE_BYTES + 1] = "ABCDEFGHIJKLMNOPQRSTUVWX", text[] = "XAES-256-GCM";
    enum { TEXT_BYTES = sizeof text - 1, ANSWER_BYTES = TEXT_BYTES + XAES_TAG_BYTES };
    uint8_t key[XAES_KEY_BYTES], sealed[ANSWER_BYTES], opened[TEXT_BYTES];
    struct xaes_data data = {{data_text, NULL}, {strlen(data_text), 0}};
    struct xaes_sealer s;
    memset(key, key_byte, sizeof key);
    if (xaes_sealer_init(&s, key, nonce, NULL) != 0) return 0;
    xaes_seal(&s, nonce, &data, text, TEXT_BYTES, sealed, sealed + TEXT_BYTES);
    xaes_sealer_free(&s);
    return memcmp(sealed, answer, ANSWER_BYTES) == 0 &&
           xaes_open(key, nonce, &data, sealed, TEXT_BYTES, opened, sealed + TEXT_BYTES) == 0 &&
           memcmp(opened, text, TEXT_BYTES) == 0;
}

int xaes_self_test(struct err *err) {
    if (answer_matches(1, "",
                       "\xce\x54\x6e\xf6\x3c\x9c\xc6\x07\x65\x92\x36\x09\xb3\x3a"
                       "\x9a\x19\x74\xe9\x6e\x52\xda\xf2\xfc\xf7\x07\x5e\x22\x71") &&
        answer_matches(3, "c2sp.org/XAES-256-GCM",
                       "\x98\x6e\xc1\x83\x25\x93\xdf\x54\x43\xa1\x79\x43\x7f\xd0"
                       "\x83\xbf\x3f\xdb\x41\xab\xd7\x40\xa2\x1f\x71\xeb\x76\x9d"))
        return 0;
    return err_set(err, EX_SOFTWARE, "libcrypto does not give the known answers of XAES-256-GCM");
}

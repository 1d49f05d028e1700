#include "base/sha256_pair.h"

#include <stdatomic.h>

#include "base/err.h"

#ifdef __x86_64__

#include <cpuid.h>
#include <immintrin.h>

static bool asked(void) {
    unsigned a, b, c, d, features;
    if (!__get_cpuid(1, &a, &b, &features, &d) || (features & bit_SSSE3) == 0 || (features & bit_SSE4_1) == 0)
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA) != 0;
}

bool sha256_pair_there(void) {
    enum { UNKNOWN, NO, YES };
    static _Atomic(int) known;
    int k = atomic_load_explicit(&known, memory_order_relaxed);
    if (k == UNKNOWN) {
        k = asked() ? YES : NO;
        atomic_store_explicit(&known, k, memory_order_relaxed);
    }
    return k == YES;
}

static const uint32_t constants[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

#define PAIR __attribute__((target("sha,sse4.1,ssse3")))

struct half {           /* one message's state, as the instructions want it */
    __m128i abef, cdgh; /* words a, b, e, f and c, d, g, h */
    __m128i w[4];       /* the next sixteen words of its schedule */
};

PAIR static inline void half_load(struct half *h, const uint32_t state[SHA256_WORDS]) {
    __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)state), 0xb1);
    __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)(state + 4)), 0x1b);
    h->abef = _mm_alignr_epi8(cdab, efgh, 8);
    h->cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
}

PAIR static inline void half_store(const struct half *h, uint32_t state[SHA256_WORDS]) {
    __m128i feba = _mm_shuffle_epi32(h->abef, 0x1b), dchg = _mm_shuffle_epi32(h->cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)(void *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(void *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

PAIR static inline void half_take(struct half *h, const uint8_t *block) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    for (int i = 0; i < 4; i++)
        h->w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(block + 16 * i)), big_endian);
}

/* Four of the 64 rounds, group in [0, 16), and the schedule's words that take the place of those used up. */
PAIR static inline void half_rounds(struct half *h, int group) {
    __m128i *w0 = &h->w[group & 3], w1 = h->w[(group + 1) & 3], w2 = h->w[(group + 2) & 3], w3 = h->w[(group + 3) & 3];
    __m128i k = _mm_load_si128((const __m128i *)(const void *)&constants[4 * group]), sum = _mm_add_epi32(*w0, k);
    h->cdgh = _mm_sha256rnds2_epu32(h->cdgh, h->abef, sum);
    if (group < 12) {
        __m128i part = _mm_add_epi32(_mm_sha256msg1_epu32(*w0, w1), _mm_alignr_epi8(w3, w2, 4));
        *w0 = _mm_sha256msg2_epu32(part, w3);
    }
    h->abef = _mm_sha256rnds2_epu32(h->abef, h->cdgh, _mm_shuffle_epi32(sum, 0x0e));
}

PAIR void sha256_pair(uint32_t state[2][SHA256_WORDS], const uint8_t *const data[2], size_t blocks) {
    struct half x, y;
    half_load(&x, state[0]);
    half_load(&y, state[1]);
    for (size_t i = 0; i < blocks; i++) {
        struct half x0 = x, y0 = y;
        half_take(&x, data[0] + SHA256_BLOCK_BYTES * i);
        half_take(&y, data[1] + SHA256_BLOCK_BYTES * i);
#pragma GCC unroll 16
        for (int group = 0; group < 16; group++) {
            half_rounds(&x, group);
            half_rounds(&y, group);
        }
        x.abef = _mm_add_epi32(x.abef, x0.abef);
        x.cdgh = _mm_add_epi32(x.cdgh, x0.cdgh);
        y.abef = _mm_add_epi32(y.abef, y0.abef);
        y.cdgh = _mm_add_epi32(y.cdgh, y0.cdgh);
    }
    half_store(&x, state[0]);
    half_store(&y, state[1]);
}

#else

bool sha256_pair_there(void) { return false; }

void sha256_pair(uint32_t state[2][SHA256_WORDS], const uint8_t *const data[2], size_t blocks) {
    (void)state, (void)data, (void)blocks;
    CHECK(!"this processor can");
}

#endif

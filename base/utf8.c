#include "base/utf8.h"

#include <string.h>

size_t utf8_bytes(const uint8_t *p, size_t len) {
    uint8_t a = p[0], low = 0x80, high = 0xbf;
    size_t n = a < 0x80 ? 1 : a >= 0xc2 && a <= 0xdf ? 2 : (a & 0xf0) == 0xe0 ? 3 : a >= 0xf0 && a <= 0xf4 ? 4 : 0;
    if (n == 0 || n > len) return 0;
    if (a == 0xe0) low = 0xa0;  /* overlong */
    if (a == 0xed) high = 0x9f; /* surrogates */
    if (a == 0xf0) low = 0x90;  /* overlong */
    if (a == 0xf4) high = 0x8f; /* beyond U+10FFFF */
    for (size_t i = 1; i < n; i++) {
        if (p[i] < low || p[i] > high) return 0;
        low = 0x80;
        high = 0xbf;
    }
    return n;
}

bool utf8_valid(const uint8_t *text, size_t len) {
    for (size_t i = 0; i < len;) {
        uint64_t word;
        if (len - i >= sizeof word) { /* eight ASCII characters at a time */
            memcpy(&word, text + i, sizeof word);
            if ((word & 0x8080808080808080ULL) == 0) {
                i += sizeof word;
                continue;
            }
        }
        size_t n = utf8_bytes(text + i, len - i);
        if (n == 0) return false;
        i += n;
    }
    return true;
}

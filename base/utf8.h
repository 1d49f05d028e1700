/* UTF-8, strictly: no overlong forms, no surrogates, nothing beyond U+10FFFF (the Unicode standard's table 3-7). */
#ifndef MILLRACE_BASE_UTF8_H
#define MILLRACE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* utf8_bytes returns the length in bytes of the character at p, [1, 4]; 0 when none begins there that is whole within
 * len. len > 0. */
size_t utf8_bytes(const uint8_t *p, size_t len);

/* utf8_valid tells whether text[0, len) is UTF-8. Any bytes; nothing is UTF-8 too. */
bool utf8_valid(const uint8_t *text, size_t len);

#endif

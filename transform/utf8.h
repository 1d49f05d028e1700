/* UTF-8, strictly: no overlong forms, no surrogates, nothing beyond U+10FFFF (the Unicode standard's table 3-7). */
#ifndef MILLRACE_TRANSFORM_UTF8_H
#define MILLRACE_TRANSFORM_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* utf8_valid tells whether text[0, len) is UTF-8. Any bytes; nothing is UTF-8 too. */
bool utf8_valid(const uint8_t *text, size_t len);

#endif

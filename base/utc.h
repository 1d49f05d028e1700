/* Moments as people and machines read them: RFC 3339, in UTC. */
#ifndef MILLRACE_BASE_UTC_H
#define MILLRACE_BASE_UTC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { UTC_BYTES = 32 };

/* utc_text writes "2026-03-14T22:20:00Z", with `decimals` (0, 3 or 6) digits of the second, cut off; "-" and false when
 * us (microseconds since 1970) is negative or beyond the year 9999. */
bool utc_text(char out[UTC_BYTES], int64_t us, int decimals);

/* utc_text_ms is the same for milliseconds since 1970; decimals 0 or 3. */
bool utc_text_ms(char out[UTC_BYTES], int64_t ms, int decimals);

/* utc_read reads text[0, len) as a command gets it: "2026-03-14T22:20Z", "2026-03-14T22:20:00Z", the same with 3 or 6
 * digits of the second, or milliseconds since 1970. Returns milliseconds since 1970, up to the year 9999, or -1: it is
 * no such moment. A time without Z is none: nobody knows which zone is meant. */
int64_t utc_read(const char *text, size_t len);

#endif

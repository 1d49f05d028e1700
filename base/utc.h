/* Moments as people and machines read them: RFC 3339, in UTC. */
#ifndef MILLRACE_BASE_UTC_H
#define MILLRACE_BASE_UTC_H

#include <stdbool.h>
#include <stdint.h>

enum { UTC_BYTES = 32 };

/* utc_text writes "2026-03-14T22:20:00Z", with `decimals` (0, 3 or 6) digits of the second, cut off; "-" and false when
 * us (microseconds since 1970) is negative or beyond the year 9999. */
bool utc_text(char out[UTC_BYTES], int64_t us, int decimals);

/* utc_text_ms is the same for milliseconds since 1970; decimals 0 or 3. */
bool utc_text_ms(char out[UTC_BYTES], int64_t ms, int decimals);

#endif

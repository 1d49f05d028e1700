#include "feed/uuid7.h"

#include <string.h>

enum { RANDOM_BYTES = 10 };

void uuid7_make(struct uuid7 *u, int64_t wall_ms, uint8_t out[16]) {
    if (u->left < RANDOM_BYTES) {
        u->clock->random(u->clock->context, u->pool, sizeof u->pool);
        u->left = sizeof u->pool;
    }
    for (int i = 0; i < 6; i++) out[i] = (uint8_t)((uint64_t)wall_ms >> (40 - 8 * i));
    u->left -= RANDOM_BYTES;
    memcpy(out + 6, u->pool + u->left, RANDOM_BYTES);
    out[6] = (uint8_t)(0x70 | (out[6] & 0x0f)); /* version 7 */
    out[8] = (uint8_t)(0x80 | (out[8] & 0x3f)); /* the variant of RFC 9562 */
}

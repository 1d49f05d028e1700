#include "base/grouped.h"

#include <inttypes.h>
#include <stdio.h>

const char *grouped(uint64_t value, char out[GROUPED_BYTES]) {
    char digits[GROUPED_BYTES];
    int n = snprintf(digits, sizeof digits, "%" PRIu64, value), k = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) out[k++] = ',';
        out[k++] = digits[i];
    }
    out[k] = 0;
    return out;
}

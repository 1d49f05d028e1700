#include "base/utc.h"

#include <stdio.h>
#include <time.h>

bool utc_text(char out[UTC_BYTES], int64_t us, int decimals) {
    enum { US_PER_S = 1000000, YEARS_MAX = 8099 };
    time_t seconds = (time_t)(us / US_PER_S);
    int fraction = (int)(us % US_PER_S);
    struct tm utc;
    snprintf(out, UTC_BYTES, "-");
    if (us < 0 || gmtime_r(&seconds, &utc) == NULL || utc.tm_year > YEARS_MAX) return false;
    size_t n = strftime(out, UTC_BYTES, "%Y-%m-%dT%H:%M:%S", &utc);
    if (decimals == 0)
        snprintf(out + n, UTC_BYTES - n, "Z");
    else
        snprintf(out + n, UTC_BYTES - n, ".%0*dZ", decimals, decimals == 3 ? fraction / 1000 : fraction);
    return true;
}

bool utc_text_ms(char out[UTC_BYTES], int64_t ms, int decimals) {
    bool fits = ms >= 0 && ms <= INT64_MAX / 1000;
    return utc_text(out, fits ? ms * 1000 : -1, decimals);
}

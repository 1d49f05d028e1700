#include "base/utc.h"

#include <stdio.h>
#include <string.h>
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

/* -- reading ----------------------------------------------------------------------------------- */

#define READ_MS_MAX 253402300799999LL

/* Exactly n digits at *at, which moves behind them; -1: they are not there. */
static int digits(const char **at, const char *end, int n) {
    int value = 0;
    if (end - *at < n) return -1;
    for (int i = 0; i < n; i++, ++*at) {
        if (**at < '0' || **at > '9') return -1;
        value = value * 10 + (**at - '0');
    }
    return value;
}

static bool is(const char **at, const char *end, char c) {
    if (*at == end || **at != c) return false;
    ++*at;
    return true;
}

static int64_t milliseconds_read(const char *text, size_t len) {
    int64_t ms = 0;
    if (len == 0) return -1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9' || ms > READ_MS_MAX / 10) return -1;
        ms = ms * 10 + (text[i] - '0');
    }
    return ms <= READ_MS_MAX ? ms : -1;
}

/* The fraction of a second, in milliseconds. */
static int fraction_read(const char **at, const char *end) {
    int ms = 0;
    if (!is(at, end, '.')) return 0;
    if ((ms = digits(at, end, 3)) < 0) return -1;
    if (*at < end && **at != 'Z' && digits(at, end, 3) < 0) return -1;
    return ms;
}

int64_t utc_read(const char *text, size_t len) {
    const char *at = text, *end = text + len;
    struct tm tm = {.tm_isdst = 0}, again;
    int fraction = 0;
    if (memchr(text, 'T', len) == NULL) return milliseconds_read(text, len);
    tm.tm_year = digits(&at, end, 4) - 1900;
    if (!is(&at, end, '-')) return -1;
    tm.tm_mon = digits(&at, end, 2) - 1;
    if (!is(&at, end, '-')) return -1;
    tm.tm_mday = digits(&at, end, 2);
    if (!is(&at, end, 'T')) return -1;
    tm.tm_hour = digits(&at, end, 2);
    if (!is(&at, end, ':')) return -1;
    tm.tm_min = digits(&at, end, 2);
    if (is(&at, end, ':')) {
        tm.tm_sec = digits(&at, end, 2);
        fraction = fraction_read(&at, end);
    }
    if (!is(&at, end, 'Z') || at != end || fraction < 0) return -1;
    again = tm;
    time_t seconds = timegm(&again); /* which takes the 31st of February for the 3rd of March */
    if (seconds < 0 || again.tm_mon != tm.tm_mon || again.tm_mday != tm.tm_mday || again.tm_hour != tm.tm_hour ||
        again.tm_min != tm.tm_min || again.tm_sec != tm.tm_sec)
        return -1;
    return (int64_t)seconds * 1000 + fraction;
}

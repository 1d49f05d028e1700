#include "base/cpus.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

static_assert(CPUS_MAX == CPU_SETSIZE, "what sched_setaffinity takes");

/* Digits at *p; false when there are none or the number is beyond every processor. */
static bool number_read(const char **p, uint32_t *out) {
    const char *start = *p;
    for (*out = 0; **p >= '0' && **p <= '9' && *out < CPUS_MAX; ++*p) *out = *out * 10 + (uint32_t)(**p - '0');
    return *p > start && *out < CPUS_MAX;
}

int cpus_parse(const char *text, struct cpus *out, struct err *err) {
    const char *p = text;
    *out = (struct cpus){0};
    for (;;) {
        uint32_t first, last;
        if (!number_read(&p, &first)) break;
        last = first;
        if (*p == '-') {
            p++;
            if (!number_read(&p, &last) || last < first) break;
        }
        for (uint32_t n = first; n <= last; n++) cpus_add(out, n);
        if (*p == 0 || strcmp(p, "\n") == 0) return 0;
        if (*p++ != ',') break;
    }
    return err_set(err, EINVAL, "expected processors such as 0 or 2-3,8, below %d", CPUS_MAX);
}

const char *cpus_format(const struct cpus *c, char *out, size_t size) {
    size_t at = 0;
    out[0] = 0;
    for (uint32_t first = 0; first < CPUS_MAX; first++) {
        char entry[24];
        uint32_t last = first;
        if (!cpus_has(c, first)) continue;
        while (last + 1 < CPUS_MAX && cpus_has(c, last + 1)) last++;
        int n = last == first ? snprintf(entry, sizeof entry, "%s%u", at > 0 ? "," : "", first)
                              : snprintf(entry, sizeof entry, "%s%u-%u", at > 0 ? "," : "", first, last);
        if (at + (size_t)n >= size) break;
        memcpy(out + at, entry, (size_t)n + 1);
        at += (size_t)n;
        first = last;
    }
    return out;
}

uint32_t cpus_count(const struct cpus *c) {
    uint32_t n = 0;
    for (size_t i = 0; i < CPUS_MAX / 64; i++) n += (uint32_t)__builtin_popcountll(c->word[i]);
    return n;
}

struct cpus cpus_without(const struct cpus *a, const struct cpus *b) {
    struct cpus rest;
    for (size_t i = 0; i < CPUS_MAX / 64; i++) rest.word[i] = a->word[i] & ~b->word[i];
    return rest;
}

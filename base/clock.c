#include "base/clock.h"

#include <sys/random.h>
#include <time.h>

#include "base/err.h"

static uint64_t real_monotonic_ns(void *context) {
    (void)context;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static int64_t real_wall_ms(void *context) {
    (void)context;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint64_t real_boottime_ns(void *context) {
    (void)context;
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void real_random(void *context, void *out, size_t len) {
    (void)context;
    uint8_t *p = out;
    while (len > 0) { /* up to 256 bytes are never cut short once the kernel's pool is ready (getrandom(2)) */
        ssize_t n = getrandom(p, len < 256 ? len : 256, 0);
        CHECK(n > 0);
        p += n;
        len -= (size_t)n;
    }
}

const struct clock_port clock_real = {real_monotonic_ns, real_wall_ms, real_boottime_ns, real_random, NULL};

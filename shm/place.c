#include "shm/place.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static void from_kernel(const cpu_set_t *set, struct cpus *out) {
    *out = (struct cpus){0};
    for (uint32_t n = 0; n < CPUS_MAX; n++)
        if (CPU_ISSET(n, set)) cpus_add(out, n);
}

int place_pin(const struct cpus *wanted, struct cpus *got, struct err *err) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (uint32_t n = 0; n < CPUS_MAX; n++)
        if (cpus_has(wanted, n)) CPU_SET(n, &set);
    int failed = sched_setaffinity(0, sizeof set, &set) != 0 ? errno : 0;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set); /* the kernel has left out what cannot be had */
    from_kernel(&set, got);
    return failed == 0 ? 0 : err_set(err, failed, "%s", strerror(failed));
}

/* Whom the limit does not bind. */
static bool lock_privileged(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    return syscall(SYS_capget, &header, data) == 0 && (data[0].effective & 1U << CAP_IPC_LOCK) != 0;
}

/* A finite limit counts address space, not pages in use, and once it is reached new mappings fail: what is still to
 * come is only locked when there is no limit. */
enum place_locked place_lock(struct err *err) {
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 && getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_MEMLOCK, &limit);
    }
    bool unlimited = limit.rlim_cur == RLIM_INFINITY || lock_privileged();
    if (mlockall(MCL_CURRENT | MCL_ONFAULT | (unlimited ? MCL_FUTURE : 0)) == 0)
        return unlimited ? PLACE_LOCKED : PLACE_LOCKED_NOW;
    err_set(err, errno,
            "%s; RLIMIT_MEMLOCK is %llu KiB: raise it with LimitMEMLOCK=infinity in the service's unit, or `ulimit -l "
            "unlimited`",
            strerror(errno), (unsigned long long)limit.rlim_cur / 1024);
    return PLACE_UNLOCKED;
}

uint64_t place_locked_bytes(void) {
    char line[128];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    if (f == NULL) return 0;
    while (fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "VmLck: %llu kB", &kib) == 1) break;
    fclose(f);
    return kib * 1024;
}

#include "base/tune.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_TEXT_BYTES = 8192, CPU_LIST_BYTES = 256, HUGE_KIB = 2048 };

const char *tune_status_name(enum tune_status status) {
    static const char *const names[] = {"ok", "warning", "unknown"};
    static_assert(sizeof names / sizeof names[0] == TUNE_STATUSES, "a name per status");
    return (unsigned)status < TUNE_STATUSES ? names[status] : "unknown";
}

/* -- findings ---------------------------------------------------------------------------------- */

/* The next finding, with its reason; tune_mend adds the command to a warning. */
__attribute__((format(printf, 4, 5))) static void found(struct tune *t, const char *check, enum tune_status status,
                                                        const char *reason, ...) {
    CHECK(t->count < TUNE_FINDINGS_MAX);
    struct tune_finding *f = &t->finding[t->count++];
    va_list args;
    f->check = check;
    f->status = status;
    f->command[0] = 0;
    va_start(args, reason);
    vsnprintf(f->reason, sizeof f->reason, reason, args);
    va_end(args);
}

__attribute__((format(printf, 2, 3))) static void mend(struct tune *t, const char *command, ...) {
    struct tune_finding *f = &t->finding[t->count - 1];
    va_list args;
    va_start(args, command);
    vsnprintf(f->command, sizeof f->command, command, args);
    va_end(args);
}

static void unreadable(struct tune *t, const char *check, const char *path) {
    found(t, check, TUNE_UNKNOWN, "%s cannot be read here", path);
}

uint32_t tune_count(const struct tune *t, enum tune_status status) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->count; i++) n += t->finding[i].status == status;
    return n;
}

const char *tune_summary(const struct tune *t, char *out, size_t size) {
    uint32_t warnings = tune_count(t, TUNE_WARNING), listed = 0;
    size_t at = (size_t)snprintf(out, size, "%u of %u checks warn%s", warnings, t->count, warnings > 0 ? ": " : "");
    for (uint32_t i = 0; i < t->count && at < size; i++)
        if (t->finding[i].status == TUNE_WARNING)
            at += (size_t)snprintf(out + at, size - at, "%s%s", listed++ > 0 ? ", " : "", t->finding[i].check);
    if (tune_count(t, TUNE_UNKNOWN) > 0 && at < size)
        snprintf(out + at, size - at, "; %u unknown", tune_count(t, TUNE_UNKNOWN));
    return out;
}

/* -- files of the kernel ----------------------------------------------------------------------- */

/* The text of a file, without the line feed at its end. False when it is not there or not for us to read. */
static bool text_read(const struct tune *t, const char *path, char out[FILE_TEXT_BYTES]) {
    char whole[2 * PATH_BYTES];
    out[0] = 0;
    if (snprintf(whole, sizeof whole, "%s%s", t->root, path) >= (int)sizeof whole) return false;
    int fd = open(whole, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return false;
    size_t len = 0;
    ssize_t n;
    while (len < FILE_TEXT_BYTES - 1 && (n = read(fd, out + len, FILE_TEXT_BYTES - 1 - len)) > 0) len += (size_t)n;
    close(fd);
    out[len] = 0;
    if (len > 0 && out[len - 1] == '\n') out[len - 1] = 0;
    return true;
}

static bool exists(const struct tune *t, const char *path) {
    char whole[2 * PATH_BYTES];
    return snprintf(whole, sizeof whole, "%s%s", t->root, path) < (int)sizeof whole && access(whole, F_OK) == 0;
}

static bool number_read(const struct tune *t, const char *path, uint64_t *out) {
    char text[FILE_TEXT_BYTES];
    if (!text_read(t, path, text) || !isdigit((unsigned char)text[0])) return false;
    *out = strtoull(text, NULL, 10);
    return true;
}

/* The word that follows `name` at the beginning of a line; false when there is no such line. */
static bool field_find(const char *text, const char *name, char out[64]) {
    size_t len = strlen(name);
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, len) == 0) return sscanf(line + len, " %63s", out) == 1;
        if (strchr(line, '\n') == NULL) return false;
    }
    return false;
}

static bool cpus_read(const struct tune *t, const char *path, struct cpus *out) {
    char text[FILE_TEXT_BYTES];
    struct err err;
    *out = (struct cpus){0};
    return text_read(t, path, text) && (text[0] == 0 || cpus_parse(text, out, &err) == 0); /* none is an empty line */
}

/* -- processors -------------------------------------------------------------------------------- */

static void pinned_collect(struct tune *t) {
    for (enum role role = ROLE_INGEST; role < ROLE_COUNT; role++)
        for (uint32_t lane = 0; lane < t->config->lanes; lane++) {
            const struct cpus *c = config_cpus_of(t->config, role, lane);
            for (uint32_t n = 0; c != NULL && n < CPUS_MAX; n++)
                if (cpus_has(c, n)) cpus_add(&t->pinned, n);
        }
}

static void governor_check(struct tune *t) {
    char path[128], text[FILE_TEXT_BYTES], other[32] = "";
    uint32_t fast = 0, slow = 0;
    for (uint32_t n = 0; n < CPUS_MAX; n++) {
        if (!cpus_has(&t->online, n)) continue;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/cpufreq/scaling_governor", n);
        if (!text_read(t, path, text)) continue;
        if (strcmp(text, "performance") == 0) {
            fast++;
            continue;
        }
        if (slow++ == 0) snprintf(other, sizeof other, "%.31s", text);
    }
    if (slow > 0) {
        found(t, "governor", TUNE_WARNING, "%u of %u processors are governed by %s: they slow down between records",
              slow, slow + fast, other);
        mend(t, "cpupower frequency-set --governor performance");
    } else if (fast > 0) {
        found(t, "governor", TUNE_OK, "performance on %u processors", fast);
    } else {
        found(t, "governor", TUNE_UNKNOWN, "no processor says; on a virtual machine its host decides");
    }
}

static void clocksource_check(struct tune *t) {
    /* Read without a system call; of the others each reading of the clock is one. */
    static const char *const fast[] = {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"};
    static const char folder[] = "/sys/devices/system/clocksource/clocksource0";
    char path[128], text[FILE_TEXT_BYTES], available[FILE_TEXT_BYTES];
    snprintf(path, sizeof path, "%s/current_clocksource", folder);
    if (!text_read(t, path, text)) {
        unreadable(t, "clocksource", path);
        return;
    }
    for (size_t i = 0; i < sizeof fast / sizeof fast[0]; i++)
        if (strcmp(text, fast[i]) == 0) {
            found(t, "clocksource", TUNE_OK, "%s", fast[i]);
            return;
        }
    found(t, "clocksource", TUNE_WARNING, "%.40s: reading the clock is a system call", text);
    snprintf(path, sizeof path, "%s/available_clocksource", folder);
    if (text_read(t, path, available) && strstr(available, "tsc") != NULL)
        mend(t, "echo tsc > %s/current_clocksource", folder);
    else
        mend(t, "tsc=reliable on the kernel's command line, where the processor has one");
}

static void spin_check(struct tune *t) {
    uint32_t workers = 1 + 2 * t->config->lanes, online = cpus_count(&t->online);
    if (t->config->spin_us == 0) return;
    if (online == 0)
        unreadable(t, "spin", "/sys/devices/system/cpu/online");
    else if (online > workers)
        found(t, "spin", TUNE_OK, "%u workers that spin on %u processors", workers, online);
    else {
        found(t, "spin", TUNE_WARNING, "%u workers spin on %u processors and take the time of each other", workers,
              online);
        mend(t, "spin_us: 0 in the configuration");
    }
}

/* What else runs where workers are pinned. */
static void pinned_check(struct tune *t) {
    char list[CPU_LIST_BYTES];
    struct cpus isolated, rest = cpus_without(&t->pinned, &t->online);
    if (cpus_count(&t->online) == 0) {
        unreadable(t, "cpus", "/sys/devices/system/cpu/online");
        return;
    }
    if (cpus_count(&rest) > 0) {
        found(t, "cpus", TUNE_WARNING, "workers are to run on processors %s, which are not there",
              cpus_format(&rest, list, sizeof list));
        mend(t, "cpus: in the configuration, of %s", cpus_format(&t->online, list, sizeof list));
        return;
    }
    if (!cpus_read(t, "/sys/devices/system/cpu/isolated", &isolated)) {
        unreadable(t, "cpus", "/sys/devices/system/cpu/isolated");
        return;
    }
    rest = cpus_without(&t->pinned, &isolated);
    cpus_format(&rest, list, sizeof list);
    if (cpus_count(&rest) == 0) {
        found(t, "cpus", TUNE_OK, "the workers' processors are isolated from other work");
        return;
    }
    found(t, "cpus", TUNE_WARNING, "other work may run on processors %s, where workers are pinned", list);
    mend(t, "isolcpus=%s on the kernel's command line", list);
}

/* A mask as the kernel writes it: groups of eight hexadecimal digits, the highest first. */
static bool mask_parse(const char *text, struct cpus *out) {
    size_t len = strlen(text);
    uint32_t bit = 0;
    *out = (struct cpus){0};
    for (size_t i = len; i > 0; i--) {
        char c = text[i - 1];
        if (c == ',') continue;
        if (!isxdigit((unsigned char)c)) return false;
        unsigned digit = (unsigned)(isdigit((unsigned char)c) ? c - '0' : tolower(c) - 'a' + 10);
        for (uint32_t k = 0; k < 4; k++, bit++)
            if ((digit >> k & 1) != 0 && bit < CPUS_MAX) cpus_add(out, bit);
    }
    return len > 0;
}

static bool process_runs(const struct tune *t, const char *name) {
    char path[PATH_BYTES], text[FILE_TEXT_BYTES];
    bool runs = false;
    snprintf(path, sizeof path, "%s/proc", t->root);
    DIR *d = opendir(path);
    if (d == NULL) return false;
    for (struct dirent *e; !runs && (e = readdir(d)) != NULL;) {
        if (!isdigit((unsigned char)e->d_name[0])) continue;
        snprintf(path, sizeof path, "/proc/%.32s/comm", e->d_name);
        runs = text_read(t, path, text) && strcmp(text, name) == 0;
    }
    closedir(d);
    return runs;
}

static void interrupts_check(struct tune *t) {
    char text[FILE_TEXT_BYTES], list[CPU_LIST_BYTES];
    struct cpus irq;
    cpus_format(&t->pinned, list, sizeof list);
    if (process_runs(t, "irqbalance")) {
        found(t, "interrupts", TUNE_WARNING, "irqbalance runs and may send interrupts to processors %s", list);
        mend(t, "IRQBALANCE_BANNED_CPULIST=%s in /etc/default/irqbalance, then systemctl restart irqbalance", list);
        return;
    }
    if (!text_read(t, "/proc/irq/default_smp_affinity", text) || !mask_parse(text, &irq)) {
        unreadable(t, "interrupts", "/proc/irq/default_smp_affinity");
        return;
    }
    struct cpus free_of = cpus_without(&t->pinned, &irq);
    if (memcmp(&free_of, &t->pinned, sizeof free_of) == 0) {
        found(t, "interrupts", TUNE_OK, "new ones stay away from the workers' processors");
        return;
    }
    found(t, "interrupts", TUNE_WARNING, "devices may interrupt processors %s, where workers are pinned", list);
    mend(t, "irqaffinity= on the kernel's command line, with the other processors");
}

/* -- memory ------------------------------------------------------------------------------------ */

static void thp_check(struct tune *t) {
    static const char path[] = "/sys/kernel/mm/transparent_hugepage/enabled";
    char text[FILE_TEXT_BYTES];
    if (!text_read(t, path, text)) {
        unreadable(t, "thp", path);
    } else if (strstr(text, "[always]") != NULL) {
        found(t, "thp", TUNE_WARNING,
              "always: memory is compacted at bad moments, and a Redis that saves copies 2 MiB for each write");
        mend(t, "echo madvise > %s", path);
    } else if (strstr(text, "[madvise]") != NULL || strstr(text, "[never]") != NULL) {
        found(t, "thp", TUNE_OK, "%s", strstr(text, "[never]") != NULL ? "never" : "madvise");
    } else {
        found(t, "thp", TUNE_UNKNOWN, "%s is not understood", path);
    }
}

static void swap_check(struct tune *t) {
    enum { SWAPPINESS_MAX = 10 };
    char text[FILE_TEXT_BYTES], total_text[64], free_text[64];
    uint64_t swappiness;
    if (!text_read(t, "/proc/meminfo", text) || !field_find(text, "SwapTotal:", total_text) ||
        !field_find(text, "SwapFree:", free_text)) {
        unreadable(t, "swap", "/proc/meminfo");
        return;
    }
    uint64_t total = strtoull(total_text, NULL, 10), left = strtoull(free_text, NULL, 10);
    if (total == 0) {
        found(t, "swap", TUNE_OK, "none");
    } else if (left < total) {
        found(t, "swap", TUNE_WARNING, "%llu MiB are swapped out; touched again, they are read from disk",
              (unsigned long long)(total - left + 1023) / 1024);
        mend(t, "swapoff -a && swapon -a");
    } else if (!number_read(t, "/proc/sys/vm/swappiness", &swappiness)) {
        unreadable(t, "swap", "/proc/sys/vm/swappiness");
    } else if (swappiness > SWAPPINESS_MAX) {
        found(t, "swap", TUNE_WARNING, "vm.swappiness is %llu: memory is swapped out in favour of files",
              (unsigned long long)swappiness);
        mend(t, "sysctl -w vm.swappiness=1");
    } else {
        found(t, "swap", TUNE_OK, "not in use, vm.swappiness is %llu", (unsigned long long)swappiness);
    }
}

/* The soft limit from /proc/self/limits; UINT64_MAX: none. */
static bool limit_read(const struct tune *t, const char *name, uint64_t *out) {
    char text[FILE_TEXT_BYTES], word[64];
    if (!text_read(t, "/proc/self/limits", text) || !field_find(text, name, word)) return false;
    *out = strcmp(word, "unlimited") == 0 ? UINT64_MAX : strtoull(word, NULL, 10);
    return true;
}

static void locked_memory_check(struct tune *t) {
    enum { CAP_IPC_LOCK_BIT = 14 };
    char text[FILE_TEXT_BYTES], word[64];
    uint64_t limit;
    if (!t->config->memory.lock) return;
    bool privileged = text_read(t, "/proc/self/status", text) && field_find(text, "CapEff:", word) &&
                      (strtoull(word, NULL, 16) >> CAP_IPC_LOCK_BIT & 1) != 0;
    if (privileged) {
        found(t, "locked_memory", TUNE_OK, "this process is privileged (CAP_IPC_LOCK)");
    } else if (!limit_read(t, "Max locked memory", &limit)) {
        unreadable(t, "locked_memory", "/proc/self/limits");
    } else if (limit == UINT64_MAX) {
        found(t, "locked_memory", TUNE_OK, "unlimited");
    } else {
        found(t, "locked_memory", TUNE_WARNING, "memory.lock is set and the limit is %llu KiB",
              (unsigned long long)limit / 1024);
        mend(t, "LimitMEMLOCK=infinity in the service's unit; in a shell: ulimit -l unlimited");
    }
}

/* Three rings a lane, each with its positions rounded up to one page more. */
static uint64_t huge_pages_wanted(const struct config *c) {
    uint64_t of_ring = c->ring_bytes / 1024 / HUGE_KIB;
    return 3ULL * c->lanes * (of_ring + 1);
}

static void huge_pages_check(struct tune *t) {
    static const char folder[] = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    char path[128];
    uint64_t wanted = huge_pages_wanted(t->config), total, left;
    if (t->config->memory.huge_pages == HUGE_PAGES_OFF) return;
    snprintf(path, sizeof path, "%s/nr_hugepages", folder);
    bool known = number_read(t, path, &total);
    snprintf(path, sizeof path, "%s/free_hugepages", folder);
    known = known && number_read(t, path, &left);
    if (!known) {
        unreadable(t, "huge_pages", folder);
    } else if (left >= wanted) {
        found(t, "huge_pages", TUNE_OK, "%llu of 2 MiB are free, the rings take %llu", (unsigned long long)left,
              (unsigned long long)wanted);
    } else if (total >= wanted) {
        found(t, "huge_pages", TUNE_UNKNOWN,
              "%llu of %llu are free and the rings take %llu: right if it is this instance that has the others",
              (unsigned long long)left, (unsigned long long)total, (unsigned long long)wanted);
    } else {
        found(t, "huge_pages", TUNE_WARNING, "%llu of 2 MiB are reserved, the rings take %llu",
              (unsigned long long)total, (unsigned long long)wanted);
        mend(t, "echo %llu > %s/nr_hugepages", (unsigned long long)(total - left + wanted), folder);
    }
}

/* A Redis on this host forks to save: the kernel must not refuse that for the size of its memory. */
static void overcommit_check(struct tune *t) {
    static const char path[] = "/proc/sys/vm/overcommit_memory";
    const char *host = t->config->redis.host;
    uint64_t mode;
    bool local = t->config->redis.scheme == REDIS_UNIX || strcmp(host, "localhost") == 0 ||
                 strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
    if (!local) return;
    if (!number_read(t, path, &mode)) {
        unreadable(t, "overcommit", path);
    } else if (mode == 1) {
        found(t, "overcommit", TUNE_OK, "vm.overcommit_memory is 1");
    } else {
        found(t, "overcommit", TUNE_WARNING,
              "vm.overcommit_memory is %llu: Redis on this host may be refused the fork that saves",
              (unsigned long long)mode);
        mend(t, "sysctl -w vm.overcommit_memory=1");
    }
}

/* -- limits ------------------------------------------------------------------------------------ */

/* The supervisor holds 24 a lane, ingest 8 more while it is started; the rest is for it and for the Kafka client. */
static void descriptors_check(struct tune *t) {
    uint64_t wanted = 256 + 32ULL * t->config->lanes, limit;
    if (!limit_read(t, "Max open files", &limit)) {
        unreadable(t, "descriptors", "/proc/self/limits");
    } else if (limit >= wanted) {
        found(t, "descriptors", TUNE_OK, "%llu may be open, %llu are enough", (unsigned long long)limit,
              (unsigned long long)wanted);
    } else {
        found(t, "descriptors", TUNE_WARNING, "%llu may be open, %llu are wanted", (unsigned long long)limit,
              (unsigned long long)wanted);
        mend(t, "LimitNOFILE=%llu in the service's unit; in a shell: ulimit -n %llu", (unsigned long long)wanted,
             (unsigned long long)wanted);
    }
}

/* Reads quota and period of one control group: of version 2 in one file, "max" for none; of version 1 in two, -1 for
 * none. False when the group has no such file, as the uppermost one. */
static bool quota_read(const struct tune *t, const char *folder, bool v2, double *processors) {
    char path[PATH_BYTES], text[FILE_TEXT_BYTES], quota[64] = "";
    uint64_t period = 0;
    *processors = 0;
    snprintf(path, sizeof path, "%s/%s", folder, v2 ? "cpu.max" : "cpu.cfs_quota_us");
    if (!text_read(t, path, text)) return false;
    unsigned long long of_line = 0;
    if (sscanf(text, "%63s %llu", quota, &of_line) < 1) return false;
    period = of_line;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!v2 && !number_read(t, path, &period)) return false;
    if (isdigit((unsigned char)quota[0]) && period > 0) *processors = strtod(quota, NULL) / (double)period;
    return true;
}

/* This process's folder of the controller: of "0::/path", or of "5:cpu,cpuacct:/path" where there is no version 2. */
static bool cgroup_find(const struct tune *t, char out[PATH_BYTES], size_t *mount, bool *v2) {
    char text[FILE_TEXT_BYTES];
    const char *path = NULL;
    if (!text_read(t, "/proc/self/cgroup", text)) return false;
    *v2 = exists(t, "/sys/fs/cgroup/cgroup.controllers");
    for (char *save, *line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
        char *names = strchr(line, ':'), *at = names == NULL ? NULL : strchr(names + 1, ':');
        if (at == NULL) continue;
        *at++ = 0;
        bool cpu = false;
        for (char *rest, *n = strtok_r(names + 1, ",", &rest); n != NULL; n = strtok_r(NULL, ",", &rest))
            cpu = cpu || strcmp(n, "cpu") == 0;
        if (*v2 ? names[1] == 0 : cpu) path = at;
    }
    const char *root = *v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    if (path == NULL || !exists(t, root)) return false;
    *mount = strlen(root);
    return snprintf(out, PATH_BYTES, "%s%s", root, strcmp(path, "/") == 0 ? "" : path) < PATH_BYTES;
}

/* The least quota of the group and those above it. */
static void quota_check(struct tune *t) {
    char folder[PATH_BYTES];
    size_t mount;
    bool v2;
    double least = 0, one;
    if (!cgroup_find(t, folder, &mount, &v2)) {
        unreadable(t, "cpu_quota", "the control group of this process");
        return;
    }
    bool known = strlen(folder) == mount; /* nothing bounds the uppermost group */
    for (;;) {
        if (quota_read(t, folder, v2, &one)) {
            known = true;
            if (one > 0 && (least == 0 || one < least)) least = one;
        }
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= mount || slash == NULL) break;
        *slash = 0;
    }
    if (least > 0) {
        found(t, "cpu_quota", TUNE_WARNING,
              "the control group has the time of %.2f processors and stands still when it is used up", least);
        mend(t, "CPUQuota= (empty) in the service's unit, or no CPU limit of the container");
    } else if (known) {
        found(t, "cpu_quota", TUNE_OK, "none");
    } else {
        unreadable(t, "cpu_quota", "the control group of this process");
    }
}

/* -- all --------------------------------------------------------------------------------------- */

void tune_check(struct tune *t, const char *root, const struct config *config) {
    *t = (struct tune){.root = root, .config = config};
    cpus_read(t, "/sys/devices/system/cpu/online", &t->online);
    pinned_collect(t);
    governor_check(t);
    clocksource_check(t);
    quota_check(t);
    spin_check(t);
    if (cpus_count(&t->pinned) > 0) {
        pinned_check(t);
        interrupts_check(t);
    }
    thp_check(t);
    swap_check(t);
    locked_memory_check(t);
    huge_pages_check(t);
    overcommit_check(t);
    descriptors_check(t);
}

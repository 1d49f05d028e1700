/* What on a host costs speed: on made-up hosts, each a folder with proc/ and sys/ in it. */
#include "base/tune.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[64];
static struct config config;
static struct tune t;

/* Writes a file of the host, its folders with it. text NULL: takes it away. */
static void put(const char *path, const char *text) {
    char whole[512];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    for (char *p = whole + strlen(root) + 1; (p = strchr(p, '/')) != NULL; p++) {
        *p = 0;
        mkdir(whole, 0700);
        *p = '/';
    }
    if (text == NULL) {
        cr_assert_eq(unlink(whole), 0, "%s", whole);
        return;
    }
    FILE *f = fopen(whole, "w");
    cr_assert_not_null(f, "%s", whole);
    fputs(text, f);
    fclose(f);
}

#define GOVERNOR(n) "/sys/devices/system/cpu/cpu" #n "/cpufreq/scaling_governor"
#define CLOCKSOURCE "/sys/devices/system/clocksource/clocksource0/"
#define HUGE "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define THP "/sys/kernel/mm/transparent_hugepage/enabled"
#define LIMITS(files, locked)                                                                                          \
    "Limit                     Soft Limit           Hard Limit           Units     \n"                                 \
    "Max open files            " files "                 524288               files     \n"                            \
    "Max locked memory         " locked "              8388608              bytes     \n"

/* A host on which everything is as it should be, with everything asked for. */
static void good_host(void) {
    snprintf(root, sizeof root, "/tmp/millrace-test-XXXXXX");
    cr_assert_not_null(mkdtemp(root));
    config = (struct config){.lanes = 2, .spin_us = 50, .ring_bytes = 16 << 20};
    config.memory.huge_pages = HUGE_PAGES_TRY;
    config.memory.lock = 1;
    config.redis.scheme = REDIS_UNIX;
    config.cpus.ingest.count = config.cpus.transform.count = 1;
    cpus_add(&config.cpus.ingest.set[0], 4);
    cpus_add(&config.cpus.transform.set[0], 5);
    put("/sys/devices/system/cpu/online", "0-7\n");
    put("/sys/devices/system/cpu/isolated", "4-5\n");
    put(GOVERNOR(0), "performance\n");
    put(GOVERNOR(7), "performance\n");
    put(CLOCKSOURCE "current_clocksource", "tsc\n");
    put(CLOCKSOURCE "available_clocksource", "tsc hpet acpi_pm \n");
    put("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    put("/sys/fs/cgroup/system.slice/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/system.slice/millrace.service/cpu.max", "max 100000\n");
    put("/proc/self/cgroup", "0::/system.slice/millrace.service\n");
    put("/proc/self/limits", LIMITS("1024", "unlimited"));
    put("/proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\n");
    put("/proc/1/comm", "systemd\n");
    put("/proc/irq/default_smp_affinity", "cf\n");
    put("/proc/meminfo", "MemTotal:  100 kB\nSwapTotal:       4096 kB\nSwapFree:        4096 kB\n");
    put("/proc/sys/vm/swappiness", "1\n");
    put("/proc/sys/vm/overcommit_memory", "1\n");
    put(THP, "always [madvise] never\n");
    put(HUGE "nr_hugepages", "60\n");
    put(HUGE "free_hugepages", "54\n");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *place) {
    (void)st;
    (void)type;
    (void)place;
    return remove(path);
}

static void host_remove(void) { nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static const struct tune_finding *look(const char *check) {
    tune_check(&t, root, &config);
    for (uint32_t i = 0; i < t.count; i++)
        if (strcmp(t.finding[i].check, check) == 0) return &t.finding[i];
    return NULL;
}

static void expect(const char *check, enum tune_status status, const char *reason, const char *command) {
    const struct tune_finding *f = look(check);
    cr_assert_not_null(f, "no check %s", check);
    cr_assert_str_eq(tune_status_name(f->status), tune_status_name(status), "%s: %s", check, f->reason);
    cr_assert_str_eq(f->reason, reason);
    cr_assert_str_eq(f->command, command);
    for (uint32_t i = 0; i < t.count; i++)
        cr_assert(t.finding[i].status != TUNE_WARNING || &t.finding[i] == f, "%s warns too: %s", t.finding[i].check,
                  t.finding[i].reason);
}
#define OK(check, reason) expect(check, TUNE_OK, reason, "")
#define WARNS(check, reason, command) expect(check, TUNE_WARNING, reason, command)
#define UNKNOWN(check, reason) expect(check, TUNE_UNKNOWN, reason, "")

TestSuite(tune, .init = good_host, .fini = host_remove);

/* -- the whole --------------------------------------------------------------------------------- */

Test(tune, a_host_that_is_in_order_is_ok_in_all) {
    char text[256];
    tune_check(&t, root, &config);
    for (uint32_t i = 0; i < t.count; i++)
        cr_assert_eq(t.finding[i].status, TUNE_OK, "%s: %s", t.finding[i].check, t.finding[i].reason);
    cr_assert_eq(t.count, 12);
    cr_assert_str_eq(tune_summary(&t, text, sizeof text), "0 of 12 checks warn");
}

Test(tune, a_host_that_shows_nothing_is_unknown_in_all) {
    char empty[128];
    snprintf(empty, sizeof empty, "%s/sys/devices/none", root);
    tune_check(&t, empty, &config);
    for (uint32_t i = 0; i < t.count; i++)
        cr_assert_eq(t.finding[i].status, TUNE_UNKNOWN, "%s: %s", t.finding[i].check, t.finding[i].reason);
    cr_assert_eq(tune_count(&t, TUNE_UNKNOWN), 12);
}

Test(tune, what_the_configuration_does_not_concern_is_left_out) {
    config = (struct config){.lanes = 1, .ring_bytes = 1 << 20};
    snprintf(config.redis.host, sizeof config.redis.host, "redis.example.com");
    static const char *const out[] = {"spin", "cpus", "interrupts", "locked_memory", "huge_pages", "overcommit"};
    for (size_t i = 0; i < sizeof out / sizeof out[0]; i++) cr_assert_null(look(out[i]), "%s", out[i]);
    cr_assert_eq(t.count, 6);
}

Test(tune, the_summary_names_what_warns_and_stays_in_its_room) {
    char text[64];
    put(THP, "[always] madvise never\n");
    put("/proc/sys/vm/swappiness", "60\n");
    tune_check(&t, root, &config);
    cr_assert_str_eq(tune_summary(&t, text, sizeof text), "2 of 12 checks warn: thp, swap");
    put("/proc/self/limits", NULL);
    tune_check(&t, root, &config);
    cr_assert_str_eq(tune_summary(&t, text, sizeof text), "2 of 12 checks warn: thp, swap; 2 unknown");
    cr_assert_str_eq(tune_summary(&t, text, 26), "2 of 12 checks warn: thp,");
    cr_assert_str_eq(tune_summary(&t, text, 5), "2 of");
}

Test(tune, this_host_can_be_looked_at) {
    tune_check(&t, "", &config);
    cr_assert_eq(t.count, 12);
    for (uint32_t i = 0; i < t.count; i++)
        cr_assert_eq(t.finding[i].command[0] != 0, t.finding[i].status == TUNE_WARNING, "%s", t.finding[i].check);
}

/* -- processors -------------------------------------------------------------------------------- */

Test(tune, governor) {
    OK("governor", "performance on 2 processors");
    put(GOVERNOR(7), "powersave\n");
    WARNS("governor", "1 of 2 processors are governed by powersave: they slow down between records",
          "cpupower frequency-set --governor performance");
    put(GOVERNOR(0), NULL);
    put(GOVERNOR(7), NULL);
    UNKNOWN("governor", "no processor says; on a virtual machine its host decides");
}

Test(tune, clocksource) {
    static const char *const fast[] = {"tsc\n", "kvm-clock\n", "arch_sys_counter\n", "hyperv_clocksource_tsc_page\n"};
    for (size_t i = 0; i < 4; i++) {
        put(CLOCKSOURCE "current_clocksource", fast[i]);
        cr_assert_eq(look("clocksource")->status, TUNE_OK, "%s", fast[i]);
    }
    put(CLOCKSOURCE "current_clocksource", "hpet\n");
    WARNS("clocksource", "hpet: reading the clock is a system call", "echo tsc > " CLOCKSOURCE "current_clocksource");
    put(CLOCKSOURCE "available_clocksource", "hpet acpi_pm\n");
    WARNS("clocksource", "hpet: reading the clock is a system call",
          "tsc=reliable on the kernel's command line, where the processor has one");
    put(CLOCKSOURCE "current_clocksource", NULL);
    UNKNOWN("clocksource", CLOCKSOURCE "current_clocksource cannot be read here");
}

Test(tune, cpu_quota_of_version_2_is_the_least_on_the_way_up) {
    OK("cpu_quota", "none");
    put("/sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n");
    WARNS("cpu_quota", "the control group has the time of 1.50 processors and stands still when it is used up",
          "CPUQuota= (empty) in the service's unit, or no CPU limit of the container");
    put("/sys/fs/cgroup/system.slice/millrace.service/cpu.max", "50000 100000\n");
    WARNS("cpu_quota", "the control group has the time of 0.50 processors and stands still when it is used up",
          "CPUQuota= (empty) in the service's unit, or no CPU limit of the container");
    put("/proc/self/cgroup", "0::/\n");
    OK("cpu_quota", "none");
    put("/sys/fs/cgroup/cpu.max", "200000 100000\n"); /* a container sees its own group as the uppermost */
    cr_assert_eq(look("cpu_quota")->status, TUNE_WARNING);
    put("/sys/fs/cgroup/cpu.max", NULL);
    put("/proc/self/cgroup", "0::/not/there\n");
    UNKNOWN("cpu_quota", "the control group of this process cannot be read here");
    put("/proc/self/cgroup", NULL);
    UNKNOWN("cpu_quota", "the control group of this process cannot be read here");
}

Test(tune, cpu_quota_of_version_1) {
    put("/sys/fs/cgroup/cgroup.controllers", NULL);
    put("/proc/self/cgroup", "9:name=systemd:/a\n3:cpuset:/b\n2:cpu,cpuacct:/c\n1:memory:/d\n");
    UNKNOWN("cpu_quota", "the control group of this process cannot be read here");
    put("/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000\n");
    OK("cpu_quota", "none");
    put("/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "225000\n");
    WARNS("cpu_quota", "the control group has the time of 2.25 processors and stands still when it is used up",
          "CPUQuota= (empty) in the service's unit, or no CPU limit of the container");
}

Test(tune, spinning_needs_a_processor_more_than_there_are_workers) {
    OK("spin", "5 workers that spin on 8 processors");
    config.lanes = 4;
    config.memory.huge_pages = HUGE_PAGES_OFF;
    WARNS("spin", "9 workers spin on 8 processors and take the time of each other", "spin_us: 0 in the configuration");
    put("/sys/devices/system/cpu/online", NULL);
    UNKNOWN("spin", "/sys/devices/system/cpu/online cannot be read here");
}

Test(tune, pinned_processors_are_there_and_nobody_elses) {
    OK("cpus", "the workers' processors are isolated from other work");
    put("/sys/devices/system/cpu/isolated", "4\n");
    WARNS("cpus", "other work may run on processors 5, where workers are pinned",
          "isolcpus=5 on the kernel's command line");
    put("/sys/devices/system/cpu/isolated", "\n");
    cr_assert_eq(look("cpus")->status, TUNE_WARNING);
    put("/sys/devices/system/cpu/isolated", NULL);
    UNKNOWN("cpus", "/sys/devices/system/cpu/isolated cannot be read here");
    cpus_add(&config.cpus.transform.set[0], 9);
    WARNS("cpus", "workers are to run on processors 9, which are not there", "cpus: in the configuration, of 0-7");
}

Test(tune, interrupts_stay_away_from_pinned_processors) {
    OK("interrupts", "new ones stay away from the workers' processors");
    put("/proc/irq/default_smp_affinity", "00000000,000000df\n");
    WARNS("interrupts", "devices may interrupt processors 4-5, where workers are pinned",
          "irqaffinity= on the kernel's command line, with the other processors");
    put("/proc/irq/default_smp_affinity", "ffffffff,ffffffcf\n");
    OK("interrupts", "new ones stay away from the workers' processors");
    put("/proc/irq/default_smp_affinity", "zz\n");
    UNKNOWN("interrupts", "/proc/irq/default_smp_affinity cannot be read here");
    put("/proc/77/comm", "irqbalance\n");
    WARNS("interrupts", "irqbalance runs and may send interrupts to processors 4-5",
          "IRQBALANCE_BANNED_CPULIST=4-5 in /etc/default/irqbalance, then systemctl restart irqbalance");
}

/* -- memory ------------------------------------------------------------------------------------ */

Test(tune, transparent_huge_pages) {
    OK("thp", "madvise");
    put(THP, "always madvise [never]\n");
    OK("thp", "never");
    put(THP, "[always] madvise never\n");
    WARNS("thp", "always: memory is compacted at bad moments, and a Redis that saves copies 2 MiB for each write",
          "echo madvise > " THP);
    put(THP, "something else\n");
    UNKNOWN("thp", THP " is not understood");
    put(THP, NULL);
    UNKNOWN("thp", THP " cannot be read here");
}

Test(tune, swap) {
    OK("swap", "not in use, vm.swappiness is 1");
    put("/proc/sys/vm/swappiness", "60\n");
    WARNS("swap", "vm.swappiness is 60: memory is swapped out in favour of files", "sysctl -w vm.swappiness=1");
    put("/proc/sys/vm/swappiness", NULL);
    UNKNOWN("swap", "/proc/sys/vm/swappiness cannot be read here");
    put("/proc/meminfo", "SwapTotal:       4096 kB\nSwapFree:        1000 kB\n");
    WARNS("swap", "4 MiB are swapped out; touched again, they are read from disk", "swapoff -a && swapon -a");
    put("/proc/meminfo", "SwapTotal:       0 kB\nSwapFree:        0 kB\n");
    OK("swap", "none");
    put("/proc/meminfo", "SwapTotal:       0 kB\n");
    UNKNOWN("swap", "/proc/meminfo cannot be read here");
}

Test(tune, locked_memory) {
    OK("locked_memory", "unlimited");
    put("/proc/self/limits", LIMITS("1024", "8388608"));
    WARNS("locked_memory", "memory.lock is set and the limit is 8192 KiB",
          "LimitMEMLOCK=infinity in the service's unit; in a shell: ulimit -l unlimited");
    put("/proc/self/status", "Name:\tx\nCapEff:\t000001fffeffffff\n");
    OK("locked_memory", "this process is privileged (CAP_IPC_LOCK)");
    put("/proc/self/status", "Name:\tx\nCapEff:\t000001fffeffbfff\n");
    cr_assert_eq(look("locked_memory")->status, TUNE_WARNING);
    put("/proc/self/limits", NULL);
    UNKNOWN("locked_memory", "/proc/self/limits cannot be read here");
}

Test(tune, huge_pages_are_enough_for_every_ring) {
    OK("huge_pages", "54 of 2 MiB are free, the rings take 54");
    put(HUGE "free_hugepages", "53\n");
    UNKNOWN("huge_pages", "53 of 60 are free and the rings take 54: right if it is this instance that has the others");
    put(HUGE "nr_hugepages", "53\n");
    put(HUGE "free_hugepages", "3\n");
    WARNS("huge_pages", "53 of 2 MiB are reserved, the rings take 54", "echo 104 > " HUGE "nr_hugepages");
    config.ring_bytes = 1 << 20; /* a ring takes one page, positions and all */
    config.lanes = 1;
    OK("huge_pages", "3 of 2 MiB are free, the rings take 3");
    put(HUGE "free_hugepages", NULL);
    UNKNOWN("huge_pages", "/sys/kernel/mm/hugepages/hugepages-2048kB cannot be read here");
}

Test(tune, overcommit_matters_where_redis_is_on_this_host) {
    OK("overcommit", "vm.overcommit_memory is 1");
    put("/proc/sys/vm/overcommit_memory", "0\n");
    WARNS("overcommit", "vm.overcommit_memory is 0: Redis on this host may be refused the fork that saves",
          "sysctl -w vm.overcommit_memory=1");
    config.redis.scheme = REDIS_TCP;
    snprintf(config.redis.host, sizeof config.redis.host, "127.0.0.2");
    cr_assert_eq(look("overcommit")->status, TUNE_WARNING);
    snprintf(config.redis.host, sizeof config.redis.host, "10.0.0.2");
    cr_assert_null(look("overcommit"));
}

Test(tune, descriptors_are_enough_for_the_lanes) {
    OK("descriptors", "1024 may be open, 320 are enough");
    put("/proc/self/limits", LIMITS("256 ", "unlimited"));
    WARNS("descriptors", "256 may be open, 320 are wanted",
          "LimitNOFILE=320 in the service's unit; in a shell: ulimit -n 320");
}

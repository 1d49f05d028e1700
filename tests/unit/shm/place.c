/* Where a process runs and how its memory is held. */
#include "shm/place.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static struct cpus all, got;
static struct err err;

static void here(struct cpus *out) {
    cpu_set_t set;
    cr_assert_eq(sched_getaffinity(0, sizeof set, &set), 0);
    *out = (struct cpus){0};
    for (uint32_t n = 0; n < CPUS_MAX; n++)
        if (CPU_ISSET(n, &set)) cpus_add(out, n);
}

static uint32_t last_of(const struct cpus *c) {
    uint32_t last = 0;
    for (uint32_t n = 0; n < CPUS_MAX; n++)
        if (cpus_has(c, n)) last = n;
    return last;
}

static void *thread_place(void *out) {
    here(out);
    return NULL;
}

Test(place, pins_to_one_processor_and_threads_made_later_inherit_it) {
    struct cpus one = {0}, of_thread;
    pthread_t thread;
    here(&all);
    cpus_add(&one, last_of(&all));
    cr_assert_eq(place_pin(&one, &got, &err), 0, "%s", err.text);
    cr_assert_arr_eq(&got, &one, sizeof one);
    cr_assert_eq(pthread_create(&thread, NULL, thread_place, &of_thread), 0);
    pthread_join(thread, NULL);
    cr_assert_arr_eq(&of_thread, &one, sizeof one);
}

Test(place, of_what_is_wanted_it_takes_what_there_is) {
    struct cpus wanted = {0}, want_got = {0};
    here(&all);
    cpus_add(&wanted, last_of(&all));
    cpus_add(&wanted, CPUS_MAX - 1);
    cpus_add(&want_got, last_of(&all));
    cr_assert_eq(place_pin(&wanted, &got, &err), 0, "%s", err.text);
    cr_assert_arr_eq(&got, &want_got, sizeof got);
}

Test(place, what_is_not_there_at_all_changes_nothing) {
    struct cpus wanted = {0}, after;
    here(&all);
    cpus_add(&wanted, CPUS_MAX - 1);
    cr_assert_eq(place_pin(&wanted, &got, &err), -1);
    cr_assert_eq(err.code, EINVAL);
    cr_assert_arr_eq(&got, &all, sizeof got);
    here(&after);
    cr_assert_arr_eq(&after, &all, sizeof all);
}

/* -- locked memory ----------------------------------------------------------------------------- */

static bool lock_privileged(void) {
    char line[128];
    unsigned long long caps = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) sscanf(line, "CapEff: %llx", &caps);
    if (f != NULL) fclose(f);
    return (caps >> 14 & 1) != 0; /* CAP_IPC_LOCK */
}

/* With CAP_IPC_LOCK, or as nobody, whom the limit binds. A limit that cannot be set is said aloud. */
static int in_child(const char *test, rlim_t limit, bool privileged, int (*look)(void)) {
    enum { CANNOT = 90 };
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    fprintf(stderr, "SKIPPED %s: sanitizers make mlockall do nothing\n", test);
    return 0;
#endif
    pid_t child = fork();
    if (child == 0) {
        struct rlimit r = {limit, limit};
        if (setrlimit(RLIMIT_MEMLOCK, &r) != 0 || (privileged && !lock_privileged())) _exit(CANNOT);
        if (!privileged && geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) _exit(CANNOT);
        _exit(look());
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != CANNOT) return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    fprintf(stderr, "SKIPPED %s: this user may not set the limit\n", test);
    return 0;
}

static int locks_all(void) {
    if (place_lock(&err) != PLACE_LOCKED) return 1;
    uint64_t before = place_locked_bytes();
    if (before == 0) return 2;
    if (mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) return 3;
    return place_locked_bytes() >= before + (8 << 20) ? 0 : 4;
}

static int locks_now(void) {
    if (place_lock(&err) != PLACE_LOCKED_NOW) return 1;
    uint64_t before = place_locked_bytes();
    if (before == 0) return 2;
    if (mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) return 3;
    return place_locked_bytes() == before ? 0 : 4;
}

static int refuses(void) {
    if (place_lock(&err) != PLACE_UNLOCKED) return 1;
    if (place_locked_bytes() != 0) return 2;
    if (strstr(err.text, "RLIMIT_MEMLOCK is 64 KiB: raise it with LimitMEMLOCK=infinity") == NULL) return 3;
    return mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? 4 : 0;
}

Test(place, without_a_limit_it_locks_what_is_there_and_what_will_be) {
    cr_assert_eq(in_child("unlimited locked memory", RLIM_INFINITY, false, locks_all), 0);
}

Test(place, whom_the_limit_does_not_bind_locks_what_is_there_and_what_will_be) {
    cr_assert_eq(in_child("locked memory with CAP_IPC_LOCK", 64 << 10, true, locks_all), 0);
}

Test(place, with_a_limit_that_suffices_it_locks_what_is_there) {
    cr_assert_eq(in_child("locked memory within a limit", (rlim_t)4 << 30, false, locks_now), 0);
}

Test(place, a_limit_that_is_too_small_locks_nothing_and_is_named) {
    cr_assert_eq(in_child("too little locked memory", 64 << 10, false, refuses), 0);
}

/* The twin: a reader never sees half a value, whoever writes or dies. */
#include "shm/twin.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <criterion/criterion.h>

static_assert(sizeof(struct twin) == 48, "twin ABI");
static_assert(offsetof(struct twin, copy) == 8, "twin ABI");

/* Values that belong together: the second follows from the first. */
static uint64_t second_of(uint64_t a) { return ~a * 0x9e3779b97f4a7c15ULL; }

static uint64_t load_whole(const struct twin *t) {
    uint64_t a, b;
    twin_load(t, &a, &b);
    cr_assert_eq(b, second_of(a), "a torn value: %llu", (unsigned long long)a);
    return a;
}

Test(twin, a_new_twin_is_two_zeros) {
    struct twin t = {0};
    uint64_t a = 1, b = 1;
    twin_load(&t, &a, &b);
    cr_assert(a == 0 && b == 0);
}

Test(twin, a_load_returns_the_last_store) {
    struct twin t = {0};
    for (uint64_t i = 1; i < 1000; i++) {
        twin_store(&t, i, second_of(i));
        cr_assert_eq(load_whole(&t), i);
        cr_assert_eq(load_whole(&t), i);
    }
}

Test(twin, a_writer_that_died_before_the_generation_moved_has_changed_nothing) {
    for (uint64_t last = 1; last < 4; last++)
        for (int stage = 0; stage < 2; stage++) {
            struct twin t = {0};
            for (uint64_t i = 1; i <= last; i++) twin_store(&t, i, second_of(i));
            uint64_t spare = (t.generation + 1) & 1;
            t.copy[spare][0] = 4242;
            if (stage == 1) t.copy[spare][1] = 2424;
            cr_assert_eq(load_whole(&t), last);
            twin_store(&t, last + 1, second_of(last + 1)); /* its successor */
            cr_assert_eq(load_whole(&t), last + 1);
        }
}

struct race {
    struct twin t;
    _Atomic uint32_t stop;
};

static void *write_all_the_time(void *arg) {
    struct race *race = arg;
    for (uint64_t i = 1; atomic_load_explicit(&race->stop, memory_order_relaxed) == 0; i++)
        twin_store(&race->t, i, second_of(i));
    return NULL;
}

Test(twin, readers_of_a_racing_writer_see_whole_values_in_order, .timeout = 60) {
    static struct race race;
    twin_store(&race.t, 0, second_of(0));
    pthread_t writer;
    cr_assert_eq(pthread_create(&writer, NULL, write_all_the_time, &race), 0);
    uint64_t last = 0, different = 0;
    for (int i = 0; i < 2000000 || different < 100; i++) {
        uint64_t a = load_whole(&race.t);
        cr_assert_geq(a, last);
        different += a > last;
        last = a;
    }
    atomic_store(&race.stop, 1);
    pthread_join(writer, NULL);
}

Test(twin, a_twin_outlives_a_hundred_killed_writers, .timeout = 60) {
    struct twin *t = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(t, MAP_FAILED);
    twin_store(t, 0, second_of(0));
    uint64_t last = 0, moved = 0;
    for (int kills = 0; kills < 100; kills++) {
        pid_t pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing behind */
            uint64_t a, b;
            twin_load(t, &a, &b);
            for (;; a++) twin_store(t, a + 1, second_of(a + 1));
        }
        struct timespec pause = {0, 500000 + kills * 7919};
        nanosleep(&pause, NULL);
        for (int i = 0; i < 100; i++) load_whole(t);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        uint64_t a = load_whole(t);
        cr_assert_geq(a, last);
        moved += a > last;
        last = a;
    }
    cr_assert_gt(moved, 50, "only %llu writers got to write", (unsigned long long)moved);
}

/* A wall clock that can be set, for the processes that have this preloaded: CLOCK_REALTIME and its kin are ahead by as
 * many nanoseconds as the file MILLRACE_TEST_CLOCK says, whenever it says so. What waits for a moment of that clock
 * wakes 50 times a second, as it may (a spurious wake-up), and at the moment itself: so a wait is as long as it would
 * be had the machine's own clock been set. The supervisor gives its workers an environment of its own making: what is
 * needed here goes with it. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

enum { NS = 1000000000, SLICE_NS = 20000000 };

static const _Atomic int64_t *file;

__attribute__((constructor)) static void file_map(void) {
    const char *path = getenv("MILLRACE_TEST_CLOCK");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) abort();
    file = mmap(NULL, sizeof *file, PROT_READ, MAP_SHARED, fd, 0);
    if (file == MAP_FAILED) abort();
    close(fd);
}

static int64_t ahead_ns(void) { return file != NULL ? atomic_load(file) : 0; }

static int64_t ns_of(const struct timespec *t) { return (int64_t)t->tv_sec * NS + t->tv_nsec; }

static struct timespec time_of(int64_t ns) { return (struct timespec){.tv_sec = ns / NS, .tv_nsec = ns % NS}; }

static int64_t machine_ns(void) {
    struct timespec t;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &t);
    return ns_of(&t);
}

int execve(const char *path, char *const *arguments, char *const *environment) {
    static const char *const names[] = {"LD_PRELOAD", "MILLRACE_TEST_CLOCK"};
    static char text[2][4096];
    char *list[64];
    int n = 0;
    while (environment[n] != NULL && n < 60) {
        list[n] = environment[n];
        n++;
    }
    for (int i = 0; i < 2; i++) {
        const char *value = getenv(names[i]);
        if (value == NULL || snprintf(text[i], sizeof text[i], "%s=%s", names[i], value) >= (int)sizeof text[i])
            abort();
        list[n++] = text[i];
    }
    list[n] = NULL;
    return (int)syscall(SYS_execve, path, arguments, list);
}

int clock_gettime(clockid_t id, struct timespec *t) {
    int r = (int)syscall(SYS_clock_gettime, id, t);
    if (r == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) *t = time_of(ns_of(t) + ahead_ns());
    return r;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
    (void)zone;
    struct timespec t = time_of(machine_ns() + ahead_ns());
    *tv = (struct timeval){.tv_sec = t.tv_sec, .tv_usec = t.tv_nsec / 1000};
    return 0;
}

int timespec_get(struct timespec *t, int base) {
    if (base != TIME_UTC) return 0;
    *t = time_of(machine_ns() + ahead_ns());
    return base;
}

time_t time(time_t *out) {
    time_t now = (time_t)((machine_ns() + ahead_ns()) / NS);
    if (out != NULL) *out = now;
    return now;
}

/* The end of the next slice of a wait until `until`, by the machine's clock. */
static struct timespec slice(const struct timespec *until) {
    int64_t now = machine_ns(), end = ns_of(until) - ahead_ns();
    return time_of(end < now + SLICE_NS ? end < 0 ? 0 : end : now + SLICE_NS);
}

static int past(const struct timespec *until) { return machine_ns() + ahead_ns() >= ns_of(until); }

int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict until) {
    static int (*real)(cnd_t *, mtx_t *, const struct timespec *);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "cnd_timedwait");
    struct timespec end = slice(until);
    int r = real(cond, mutex, &end);
    return r == thrd_timedout && !past(until) ? thrd_success : r;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec end = slice(until);
    int r = real(cond, mutex, &end);
    return r == ETIMEDOUT && !past(until) ? 0 : r;
}

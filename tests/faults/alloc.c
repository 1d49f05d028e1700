/* Preloaded (LD_PRELOAD) into a program under test: one allocation fails, or all from one on.
 *
 *     FAULT_ALLOC=N | N+     the N-th allocation, counted from main() on over all threads, returns NULL
 *     FAULT_LIFE=MS,MS       how long the process lives after that, and if it never gets there; then SIGKILL
 *     FAULT_LOG=FILE         gets a line when it fails: what was asked for, and how much
 *     FAULT_COUNT=FILE       instead of failing: gets how many allocations there were when the time is over
 *
 * A crash (SIGSEGV, SIGBUS) is noted in FAULT_LOG with the program or library that it happened in.
 *
 * Counted are malloc, calloc, realloc, reallocarray, aligned_alloc, posix_memalign and memalign, from wherever in the
 * process (strdup, open_memstream and the libraries call them). The clean-up of a process is not worth a failure, so
 * nothing more fails once exit() has begun. */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FRAMES_MAX = 32 };

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

static _Atomic uint64_t counted;
static _Atomic bool on;
static uint64_t from;
static bool from_on;
static long life_ms;
static timer_t timer;
static int log_fd = -1, count_fd = -1;

static void timer_arm(long ms) {
    struct itimerspec t = {.it_value = {ms / 1000, ms % 1000 * 1000000}};
    timer_settime(timer, 0, &t, NULL);
}

static void over(int number) {
    (void)number;
    atomic_store(&on, false);
    dprintf(count_fd, "%llu\n", (unsigned long long)atomic_load(&counted));
    kill(getpid(), SIGKILL);
}

static bool fails(const char *what, size_t bytes) {
    if (!atomic_load_explicit(&on, memory_order_relaxed)) return false;
    uint64_t n = atomic_fetch_add(&counted, 1) + 1;
    if (from == 0 || n < from || (n > from && !from_on)) return false;
    if (n == from) {
        char line[96];
        int len = snprintf(line, sizeof line, "%d %llu %s %zu\n", (int)getpid(), (unsigned long long)n, what, bytes);
        if (log_fd >= 0 && write(log_fd, line, (size_t)len) < 0) _exit(70);
        timer_arm(life_ms);
    }
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes) { return fails("malloc", bytes) ? NULL : __libc_malloc(bytes); }
void *calloc(size_t count, size_t bytes) { return fails("calloc", count * bytes) ? NULL : __libc_calloc(count, bytes); }
void *realloc(void *old, size_t bytes) { return fails("realloc", bytes) ? NULL : __libc_realloc(old, bytes); }
void *memalign(size_t alignment, size_t bytes) {
    return fails("memalign", bytes) ? NULL : __libc_memalign(alignment, bytes);
}
void *aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }

void *reallocarray(void *old, size_t count, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(old, total);
}

int posix_memalign(void **out, size_t alignment, size_t bytes) {
    void *p = memalign(alignment, bytes);
    if (p == NULL) return ENOMEM;
    *out = p;
    return 0;
}

static void stop(void) { atomic_store(&on, false); }

/* Says in which program or library it was, and lets it happen. What the C library crashes in was called by somebody. */
static void crashed(int number, siginfo_t *info, void *context) {
    char line[320];
    void *frame[FRAMES_MAX];
    Dl_info where = {.dli_fname = "?"};
    (void)info;
    (void)context;
    atomic_store(&on, false);
    signal(number, SIG_DFL);
    int n = backtrace(frame, FRAMES_MAX), i = 1;
    for (; i < n; i++) /* the first is this one */
        if (dladdr(frame[i], &where) != 0 && strstr(where.dli_fname, "libc.so") == NULL &&
            strstr(where.dli_fname, "alloc.so") == NULL)
            break;
    int len = snprintf(line, sizeof line, "%d crash %s %s+%#lx\n", (int)getpid(), where.dli_fname,
                       where.dli_sname != NULL ? where.dli_sname : "",
                       i < n ? (char *)frame[i] - (char *)where.dli_fbase : 0);
    if (log_fd >= 0 && write(log_fd, line, (size_t)len) < 0) _exit(70);
    raise(number);
}

static int descriptor(const char *name) {
    const char *path = getenv(name);
    if (path == NULL) return -1;
    int low = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    int high = fcntl(low, F_DUPFD_CLOEXEC, 500); /* out of the way of the numbers that a worker inherits */
    close(low);
    return high;
}

__attribute__((constructor)) static void start(void) {
    const char *n = getenv("FAULT_ALLOC"), *life = getenv("FAULT_LIFE");
    char *end;
    long most_ms = 2000;
    log_fd = descriptor("FAULT_LOG");
    count_fd = descriptor("FAULT_COUNT");
    if (n != NULL) {
        from = strtoull(n, &end, 10);
        from_on = *end == '+';
    }
    if (life == NULL || sscanf(life, "%ld,%ld", &life_ms, &most_ms) != 2) life_ms = 50;
    unsetenv("LD_PRELOAD");
    void *frame[1];
    backtrace(frame, 1); /* which allocates the first time */
    struct sigaction crash = {.sa_sigaction = crashed, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &crash, NULL);
    sigaction(SIGBUS, &crash, NULL);
    if (n == NULL && count_fd < 0) return; /* only to see crashes */
    atexit(stop);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = count_fd >= 0 ? SIGALRM : SIGKILL};
    signal(SIGALRM, over);
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) == 0) timer_arm(most_ms);
    atomic_store(&on, true);
}

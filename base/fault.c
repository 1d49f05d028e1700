#include "base/fault.h"

#ifdef MILLRACE_FAULT

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

enum fault_kind { PASSES = 1, FAILS = 2, BYTES = 4, CONTENT = 8 };
enum fault_action { NONE, KILL, DELAY, FAIL, CORRUPT, MARKER };
enum { ARMED_MAX = 16, TEXT_MAX = 1024, DELAY_MS = 20 };

struct fault_point {
    const char *name;
    enum fault_kind kind;
};
static const struct fault_point points[] = {
#define FAULT_POINT(name, kind, what) {name, kind},
#include "base/fault.def"
#undef FAULT_POINT
};

struct armed {
    const struct fault_point *point;
    enum fault_action action;
    const char *marker;
    long argument; /* milliseconds, or an errno */
    uint64_t from, count;
    _Atomic uint64_t passed;
};
static struct armed armed[ARMED_MAX];
static int armed_count;
static char text[TEXT_MAX];
static const char *folder;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const struct {
    const char *name;
    int code;
} errors[] = {{"EIO", EIO},       {"ENOSPC", ENOSPC},        {"EROFS", EROFS},   {"EINTR", EINTR},
              {"EAGAIN", EAGAIN}, {"EMFILE", EMFILE},        {"ENOMEM", ENOMEM}, {"EACCES", EACCES},
              {"EDQUOT", EDQUOT}, {"ECONNRESET", ECONNRESET}};

_Noreturn static void refuse(const char *what, const char *item) {
    dprintf(STDERR_FILENO, "fault: %s: %s\n", item, what);
    _exit(EX_USAGE);
}

static long error_of(const char *name, const char *item) {
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (strcmp(errors[i].name, name) == 0) return errors[i].code;
    refuse("no such errno here", item);
}

/* N, N+ or N*COUNT. */
static void when_parse(struct armed *a, const char *when) {
    char *end;
    a->from = strtoull(when, &end, 10);
    a->count = 1;
    if (*end == '+') a->count = UINT64_MAX, end++;
    if (*end == '*') a->count = strtoull(end + 1, &end, 10);
    if (a->from == 0 || a->count == 0 || *end != 0) refuse("@N, @N+ or @N*COUNT", when);
}

/* name[:argument] */
static void action_parse(struct armed *a, char *action) {
    static const struct {
        const char *name;
        enum fault_action action;
        int kinds;
    } actions[] = {{"kill", KILL, PASSES | FAILS | BYTES},
                   {"delay", DELAY, PASSES | FAILS | BYTES},
                   {"fail", FAIL, FAILS},
                   {"corrupt", CORRUPT, BYTES}};
    char *argument = strchr(action, ':');
    if (argument != NULL) *argument++ = 0;
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++)
        if (strcmp(action, actions[i].name) == 0 && (actions[i].kinds & (int)a->point->kind) != 0)
            a->action = actions[i].action;
    if (a->action == NONE) refuse("no action of this point", action);
    if (a->action == DELAY) a->argument = argument != NULL ? strtol(argument, NULL, 10) : DELAY_MS;
    if (a->action == FAIL) a->argument = argument != NULL ? error_of(argument, action) : EIO;
}

static void item_parse(char *item) {
    char *value = strchr(item, '=');
    if (armed_count == ARMED_MAX || value == NULL) refuse("not POINT=ACTION, or too many of them", item);
    *value++ = 0;
    struct armed *a = &armed[armed_count++];
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++)
        if (strcmp(points[i].name, item) == 0) a->point = &points[i];
    if (a->point == NULL) refuse("no such fault point", item);
    if (a->point->kind == CONTENT) {
        a->action = MARKER;
        a->marker = value;
        return;
    }
    char *when = strchr(value, '@');
    if (when != NULL) *when++ = 0;
    when_parse(a, when != NULL ? when : "1+");
    action_parse(a, value);
}

static void read_environment(void) {
    const char *wanted = getenv("MILLRACE_FAULT");
    char *rest = NULL;
    folder = getenv("MILLRACE_FAULT_DIR");
    if (wanted == NULL) return;
    if (strlen(wanted) >= sizeof text) refuse("too long", "MILLRACE_FAULT");
    memcpy(text, wanted, strlen(wanted) + 1);
    for (char *item = strtok_r(text, ",", &rest); item != NULL; item = strtok_r(NULL, ",", &rest)) item_parse(item);
}

/* Whether the action is still due: the point's file has a line for each time, over all processes. */
static bool due(const struct armed *a, uint64_t n) {
    char path[TEXT_MAX];
    char line[32];
    if (folder == NULL) return n - a->from < a->count;
    snprintf(path, sizeof path, "%s/%s", folder, a->point->name);
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return true;
    int len = snprintf(line, sizeof line, "%15d\n", (int)getpid());
    struct stat st;
    bool yes = fstat(fd, &st) == 0 && (uint64_t)(st.st_size / len) < a->count && write(fd, line, (size_t)len) == len;
    close(fd);
    return yes;
}

static void wait_ms(long ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
}

/* Passes the point; what fails or is corrupted is left to the caller. */
static const struct armed *pass(const char *point) {
    pthread_once(&once, read_environment);
    for (int i = 0; i < armed_count; i++) {
        struct armed *a = &armed[i];
        if (strcmp(a->point->name, point) != 0 || a->action == MARKER) continue;
        uint64_t n = atomic_fetch_add(&a->passed, 1) + 1;
        if (n < a->from || !due(a, n)) return NULL;
        if (n == a->from) {
            static const char *const names[] = {"", "kill", "delay", "fail", "corrupt"};
            dprintf(STDERR_FILENO, "fault: %s %s, pid %d, passing %llu\n", point, names[a->action], (int)getpid(),
                    (unsigned long long)n);
        }
        if (a->action == KILL) kill(getpid(), SIGKILL);
        if (a->action == DELAY) wait_ms(a->argument);
        return a;
    }
    return NULL;
}

void fault_pass(const char *point) {
    int code = errno;
    (void)pass(point);
    errno = code;
}

bool fault_fails(const char *point) {
    int code = errno;
    const struct armed *a = pass(point);
    bool fails = a != NULL && a->action == FAIL;
    errno = fails ? (int)a->argument : code;
    return fails;
}

void fault_corrupt(const char *point, void *bytes, size_t len) {
    int code = errno;
    const struct armed *a = len > 0 ? pass(point) : NULL;
    if (a != NULL && a->action == CORRUPT) ((uint8_t *)bytes)[len / 2] ^= 0x04;
    errno = code;
}

void fault_on_content(const char *point, const void *bytes, size_t len) {
    pthread_once(&once, read_environment);
    for (int i = 0; i < armed_count; i++) {
        const struct armed *a = &armed[i];
        if (a->action != MARKER || strcmp(a->point->name, point) != 0 || a->marker[0] == 0) continue;
        if (memmem(bytes, len, a->marker, strlen(a->marker)) == NULL) continue;
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
}

#endif

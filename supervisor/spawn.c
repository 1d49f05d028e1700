#include "supervisor/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "shm/worker.h"

enum { ENVIRONMENT_MAX = 8, ENVIRONMENT_BYTES = 4096 };

_Noreturn static void child_fail(const char *what, const char *subject) {
    fprintf(stderr, "%s %s: %s\n", what, subject, strerror(errno));
    _exit(EXIT_DONT_RESTART);
}

/* The sources may stand on each other's destinations: move all out of the way first. */
static void descriptors_place(const int *fds, int n) {
    int moved[WORKER_FDS_MAX];
    int beyond = WORKER_FD_CONFIG + n;
    for (int i = 0; i < n; i++)
        if ((moved[i] = fcntl(fds[i], F_DUPFD, beyond)) < 0) child_fail("descriptor", "move");
    for (int i = 0; i < n; i++)
        if (dup2(moved[i], WORKER_FD_CONFIG + i) < 0) child_fail("descriptor", "place");
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(2, 1) < 0) child_fail("descriptor", "/dev/null");
    if (close_range((unsigned)beyond, ~0U, 0) != 0) child_fail("descriptor", "close_range");
}

/* Secrets come to the supervisor through its environment: workers get none of it. */
static char **environment_make(char *bytes) {
    static const char *const names[] = {"PATH", "LANG", "TZ", "MILLRACE_FAULT", "MILLRACE_FAULT_DIR"};
    static char *list[ENVIRONMENT_MAX];
    size_t at = 0;
    int n = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *value = getenv(names[i]);
        if (value == NULL) continue;
        int len = snprintf(bytes + at, ENVIRONMENT_BYTES - at, "%s=%s", names[i], value);
        if (len < 0 || at + (size_t)len + 1 > ENVIRONMENT_BYTES) continue;
        list[n++] = bytes + at;
        at += (size_t)len + 1;
    }
    list[n] = NULL;
    return list;
}

_Noreturn static void child_exec(char *path, const struct config *config, uint32_t lane, uint64_t starts,
                                 const int *fds, int n) {
    char environment[ENVIRONMENT_BYTES], lane_text[16], starts_text[24], name[NAME_BYTES];
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    descriptors_place(fds, n);
    snprintf(lane_text, sizeof lane_text, "%u", lane);
    snprintf(starts_text, sizeof starts_text, "%llu", (unsigned long long)starts);
    snprintf(name, sizeof name, "%s", config->name);
    char *slash = strrchr(path, '/');
    char *arguments[] = {
        slash != NULL ? slash + 1 : path, "--name", name, "--lane", lane_text, "--starts", starts_text, NULL};
    FAULT("supervisor:exec");
    execve(path, arguments, environment_make(environment));
    child_fail("cannot execute", path);
}

pid_t spawn_worker(const char *folder, const struct config *config, enum role role, uint32_t lane, uint64_t starts,
                   const int *fds, int n, int *pidfd, struct err *err) {
    char path[PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/millrace-%s", folder, role_name(role));
    pid_t pid = FAULT_FAILS("supervisor:fork") ? -1 : fork();
    if (pid == 0) child_exec(path, config, lane, starts, fds, n);
    if (pid < 0) return err_set(err, errno, "fork: %s", strerror(errno));
    *pidfd = FAULT_FAILS("supervisor:pidfd") ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
    if (*pidfd >= 0) return pid;
    err_set(err, errno, "pidfd_open: %s", strerror(errno));
    kill(pid, SIGKILL); /* ours and not reaped: the number cannot have been reused */
    waitpid(pid, NULL, 0);
    return -1;
}

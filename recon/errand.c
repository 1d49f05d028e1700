#include "recon/errand.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"

enum { EXIT_NO_PROGRAM = 127 };

/* The child between fork and exec: only calls that are safe there, as the process has threads. */
static _Noreturn void become(const char *path, int input, char *const *environment) {
    sigset_t none;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int s = 1; s < NSIG; s++) signal(s, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int output = open("/dev/null", O_WRONLY);
    if (output >= 0 && dup2(input, 0) == 0 && dup2(output, 1) == 1 && chdir("/") == 0 &&
        syscall(SYS_close_range, 3, ~0U, 0) == 0)
        execve(path, (char *[]){(char *)path, NULL}, environment);
    _exit(EXIT_NO_PROGRAM);
}

int errand_start(struct errand *e, const char *path, const char *id, const void *body, size_t len, uint64_t now_ns,
                 struct err *err) {
    char variable[64];
    int ends[2];
    snprintf(variable, sizeof variable, "MILLRACE_EXCEPTION=%s", id);
    char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
                           variable, NULL};
    CHECK(len <= ERRAND_BODY_BYTES_MAX); /* less than a pipe holds: the write cannot wait */
    if (pipe2(ends, O_CLOEXEC) != 0) return err_set(err, EX_OSERR, "pipe: %s", strerror(errno));
    if (write(ends[1], body, len) != (ssize_t)len) {
        close(ends[0]);
        close(ends[1]);
        return err_set(err, EX_OSERR, "pipe: %s", strerror(errno));
    }
    close(ends[1]);
    pid_t pid = fork();
    if (pid == 0) become(path, ends[0], environment);
    int cause = errno;
    close(ends[0]);
    if (pid < 0) return err_set(err, EX_OSERR, "fork: %s", strerror(cause));
    setpgid(pid, pid); /* here too: whoever comes first, it is done before anybody kills the group */
    *e = (struct errand){pid, (int)syscall(SYS_pidfd_open, pid, 0), now_ns + ERRAND_LIMIT_MS * NS_PER_MS};
    if (e->pidfd >= 0) fcntl(e->pidfd, F_SETFD, FD_CLOEXEC);
    return 0;
}

static void forget(struct errand *e) {
    if (e->pidfd >= 0) close(e->pidfd);
    *e = (struct errand){.pidfd = -1};
}

void errand_stop(struct errand *e) {
    if (e->pid == 0) return;
    kill(-e->pid, SIGKILL);
    while (waitpid(e->pid, NULL, 0) < 0 && errno == EINTR) {
    }
    forget(e);
}

enum sending errand_step(struct errand *e, uint64_t now_ns, struct err *err) {
    int status;
    pid_t ended = waitpid(e->pid, &status, WNOHANG);
    if (ended == 0 && now_ns < e->deadline_ns) return SENDING;
    if (ended != e->pid) {
        errand_stop(e);
        err_set(err, EX_UNAVAILABLE, "it took longer than %d s and was killed", ERRAND_LIMIT_MS / 1000);
        return SEND_FAILED;
    }
    forget(e);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return SENT;
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_NO_PROGRAM)
        err_set(err, EX_UNAVAILABLE, "it could not be run, or ended with status 127");
    else if (WIFEXITED(status))
        err_set(err, EX_UNAVAILABLE, "it ended with status %d", WEXITSTATUS(status));
    else
        err_set(err, EX_UNAVAILABLE, "it was ended by signal %d", WTERMSIG(status));
    return SEND_FAILED;
}

int errand_wants(const struct errand *e, uint64_t now_ns, struct pollfd *fds, int max, int *timeout_ms) {
    if (e->pid == 0) return 0;
    uint64_t left_ms = e->deadline_ns > now_ns ? (e->deadline_ns - now_ns) / NS_PER_MS + 1 : 0;
    if (left_ms < (uint64_t)*timeout_ms) *timeout_ms = (int)left_ms;
    if (e->pidfd < 0 || max == 0) return 0; /* found out at the worker's own pace */
    fds[0] = (struct pollfd){.fd = e->pidfd, .events = POLLIN};
    return 1;
}

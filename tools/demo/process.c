#include "tools/demo/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

static _Atomic int interrupt_seen;

static void interrupt_note(int signal) { interrupt_seen = signal; }

void interrupt_watch(void) {
    struct sigaction action = {.sa_handler = interrupt_note};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGPIPE, &action, NULL); /* nobody reads any more */
}

bool interrupted(void) { return interrupt_seen != 0; }

void sleep_ms(int ms) { poll(NULL, 0, ms); }

/* In the child, between fork and exec. */
_Noreturn static void become(char *const argv[], const char *log, int out, int failed, pid_t parent) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(EX_TEMPFAIL); /* it died before the line above */
    int in = open("/dev/null", O_RDONLY);
    int file = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (in >= 0 && file >= 0 && dup2(in, 0) >= 0 && dup2(out >= 0 ? out : file, 1) >= 0 && dup2(file, 2) >= 0) {
        if (in > 2) close(in);
        if (file > 2) close(file);
        execvp(argv[0], argv);
    }
    int code = errno;
    if (write(failed, &code, sizeof code) < 0) code = 0; /* nobody to tell */
    _exit(EX_UNAVAILABLE);
}

int process_start(struct process *p, char *const argv[], const char *log, int *out, struct err *err) {
    int failed[2], pipe_out[2] = {-1, -1}, code = 0;
    pid_t parent = getpid();
    if (pipe2(failed, O_CLOEXEC) != 0 || (out != NULL && pipe2(pipe_out, O_CLOEXEC) != 0))
        return err_set(err, EX_OSERR, "pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) become(argv, log, pipe_out[1], failed[1], parent);
    if (pid < 0) code = errno;
    close(failed[1]);
    if (out != NULL) close(pipe_out[1]);
    if (pid > 0 && read(failed[0], &code, sizeof code) <= 0) code = 0; /* the exec closed it */
    close(failed[0]);
    if (code == 0) {
        *p = (struct process){.pid = pid};
        if (out != NULL) *out = pipe_out[0];
        return 0;
    }
    if (pid > 0) waitpid(pid, NULL, 0);
    if (out != NULL) close(pipe_out[0]);
    return err_set(err, EX_UNAVAILABLE, "cannot start %s: %s", argv[0], strerror(code));
}

bool process_ended(struct process *p, int timeout_ms) {
    for (int waited = 0; p->pid != 0; waited += 5) {
        int status;
        pid_t pid = waitpid(p->pid, &status, WNOHANG);
        if (pid == p->pid || (pid < 0 && errno == ECHILD)) {
            p->status = pid < 0 ? EX_SOFTWARE : WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
            p->pid = 0;
        } else if (waited >= timeout_ms) {
            return false;
        } else {
            sleep_ms(5);
        }
    }
    return true;
}

void process_stop(struct process *p, int patience_ms) {
    if (p->pid == 0) return;
    kill(p->pid, SIGTERM);
    if (process_ended(p, patience_ms)) return;
    kill(p->pid, SIGKILL);
    process_ended(p, 5000);
}

/* Stands in a program's place, and starts it with one fault in it: an allocation or a system call that fails.
 *
 * It is FOLDER/millrace-ROLE, and the program itself FOLDER/real/millrace-ROLE. FOLDER/ROLE.plan has a line for each
 * start, `alloc N`, `alloc N+` or `call N ERRNO` (a number); FOLDER/ROLE.next counts the starts. When the plan is
 * through, or there is none, the program is started as it is. What was done is appended to FOLDER/ROLE.log. `acount MS`
 * or `ccount MS` instead of a fault: FOLDER/ROLE.count gets how many there were of a kind in so many milliseconds.
 *
 * alloc: see alloc.c (FOLDER/alloc.so). call: the program is traced (ptrace) by a process of its own, which is neither
 * its child nor its parent: the pid and the parent are those that they would be without. System calls are counted over
 * all threads from the first one on that is about descriptor 3, with which a worker's main() begins; the N-th is not
 * made, and returns -ERRNO. Not counted: what cannot fail, what ends the process, and futex, for which the C library
 * has no answer but abort(). A program that lives on is killed after LIFE_MS, one that never gets there after MOST_MS.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LIFE_MS = 60, MOST_MS = 1500, PATH_MAX_BYTES = 512, FIRST_DESCRIPTOR = 3 };

static char folder[PATH_MAX_BYTES], role[32];
static volatile sig_atomic_t time_over;

static void die(const char *what) {
    dprintf(STDERR_FILENO, "wrap: %s: %s\n", what, strerror(errno));
    _exit(70);
}

static const char *file_of(const char *suffix) {
    static char path[4][PATH_MAX_BYTES + 64];
    static int turn;
    char *p = path[turn++ & 3];
    snprintf(p, sizeof path[0], "%s/%s.%s", folder, role, suffix);
    return p;
}

/* The plan's next line into out. False: there is none. */
static bool plan_next(char *out, int size) {
    int n = 0, fd = open(file_of("next"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    FILE *plan = fopen(file_of("plan"), "re");
    if (fd < 0 || plan == NULL) return false;
    flock(fd, LOCK_EX);
    char text[16] = "";
    if (read(fd, text, sizeof text - 1) > 0) n = atoi(text);
    bool found = false;
    for (int i = 0; i <= n; i++) found = fgets(out, size, plan) != NULL;
    int len = snprintf(text, sizeof text, "%d", n + 1);
    if (found && pwrite(fd, text, (size_t)len, 0) != len) die("ROLE.next");
    fclose(plan);
    close(fd);
    return found;
}

_Noreturn static void program(char **argv) {
    char path[PATH_MAX_BYTES + 64];
    snprintf(path, sizeof path, "%s/real/millrace-%s", folder, role);
    execv(path, argv);
    die(path);
    _exit(70);
}

static void alloc_prepare(const char *which, long count_ms) {
    char shim[PATH_MAX_BYTES + 16], life[48];
    snprintf(shim, sizeof shim, "%s/alloc.so", folder);
    snprintf(life, sizeof life, "%d,%ld", LIFE_MS, count_ms > 0 ? count_ms : MOST_MS);
    setenv("LD_PRELOAD", shim, 1);
    setenv("FAULT_LIFE", life, 1);
    setenv("FAULT_LOG", file_of("log"), 1);
    if (which != NULL) setenv("FAULT_ALLOC", which, 1);
    if (count_ms > 0) setenv("FAULT_COUNT", file_of("count"), 1);
}

/* -- tracing ----------------------------------------------------------------------------------- */

static void on_alarm(int number) {
    (void)number;
    time_over = 1;
}

static void alarm_in(long ms) {
    struct itimerval t = {.it_value = {ms / 1000, ms % 1000 * 1000}, .it_interval = {0, 20000}};
    setitimer(ITIMER_REAL, &t, NULL);
}

static bool counts(const struct __ptrace_syscall_info *s) {
    switch (s->entry.nr) {
    case SYS_exit:
    case SYS_exit_group:
    case SYS_rt_sigreturn:
    case SYS_brk: /* answers with where the break is, never with an error */
    case SYS_futex:
    case SYS_restart_syscall:
    case SYS_execve:
    case SYS_rseq:
    case SYS_set_robust_list:
    case SYS_getpid:
    case SYS_gettid:
    case SYS_getppid: return false;
    default: return true;
    }
}

struct trace {
    pid_t program, failing; /* the thread whose call is to fail: at its exit */
    long from, counted;
    int code;
    bool begun, done;
};

static void call_look(struct trace *t, pid_t thread) {
    struct __ptrace_syscall_info s;
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof s, &s) <= 0) return;
    if (s.op == PTRACE_SYSCALL_INFO_EXIT && t->failing == thread) {
        if (ptrace(PTRACE_GETREGS, thread, 0, &regs) != 0) return;
        regs.rax = (unsigned long long)-(long long)t->code;
        ptrace(PTRACE_SETREGS, thread, 0, &regs);
        t->failing = 0;
        return;
    }
    if (s.op != PTRACE_SYSCALL_INFO_ENTRY) return;
    bool stat = s.entry.nr == SYS_newfstatat || s.entry.nr == SYS_fstat;
    t->begun = t->begun || (stat && s.entry.args[0] == FIRST_DESCRIPTOR);
    if (!t->begun || !counts(&s) || ++t->counted != t->from) return;
    if (ptrace(PTRACE_GETREGS, thread, 0, &regs) != 0) return;
    int fd = open(file_of("log"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    dprintf(fd, "%d %ld call %llu %d\n", (int)t->program, t->counted, (unsigned long long)s.entry.nr, t->code);
    close(fd);
    regs.orig_rax = (unsigned long long)-1;
    ptrace(PTRACE_SETREGS, thread, 0, &regs);
    t->failing = thread;
    t->done = true;
    alarm_in(LIFE_MS);
}

static void trace_loop(struct trace *t) {
    for (;;) {
        int status;
        if (time_over) kill(t->program, SIGKILL);
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0 && errno == EINTR) continue;
        if (thread < 0) return;
        if (!WIFSTOPPED(status)) continue;
        int number = WSTOPSIG(status), event = status >> 16;
        bool call = number == (SIGTRAP | 0x80);
        if (call) call_look(t, thread);
        bool free_run = t->done && t->failing == 0;
        long pass_on = !call && event == 0 ? number : 0;
        if (event == PTRACE_EVENT_STOP && number != SIGTRAP)
            ptrace(PTRACE_LISTEN, thread, 0, 0);
        else
            ptrace(free_run ? PTRACE_CONT : PTRACE_SYSCALL, thread, 0, pass_on);
    }
}

_Noreturn static void tracer(pid_t program_pid, int ready, long from, int code, long count_ms) {
    struct trace t = {.program = program_pid, .from = from, .code = code};
    struct sigaction act = {.sa_handler = on_alarm};
    int status;
    prctl(PR_SET_PDEATHSIG, 0);
    sigaction(SIGALRM, &act, NULL);
    dup2(ready, FIRST_DESCRIPTOR);
    close_range(FIRST_DESCRIPTOR + 1, ~0U, 0);
    if (ptrace(PTRACE_SEIZE, program_pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC) != 0 ||
        ptrace(PTRACE_INTERRUPT, program_pid, 0, 0) != 0 || waitpid(program_pid, &status, __WALL) < 0 ||
        ptrace(PTRACE_SYSCALL, program_pid, 0, 0) != 0)
        die("ptrace");
    if (write(FIRST_DESCRIPTOR, "x", 1) != 1) die("pipe");
    close(FIRST_DESCRIPTOR);
    alarm_in(count_ms > 0 ? count_ms : MOST_MS);
    trace_loop(&t);
    if (count_ms > 0) {
        int fd = open(file_of("count"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        dprintf(fd, "%ld\n", t.counted);
    }
    _exit(0);
}

/* The tracer is this process's grandchild, so that nobody finds a child that is not his. */
static void trace_begin(long from, int code, long count_ms) {
    int ends[2];
    char c;
    pid_t self = getpid();
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    if (pipe(ends) != 0) die("pipe");
    int high[2] = {fcntl(ends[0], F_DUPFD_CLOEXEC, 500), fcntl(ends[1], F_DUPFD_CLOEXEC, 500)};
    close(ends[0]);
    close(ends[1]);
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        if (fork() != 0) _exit(0);
        tracer(self, high[1], from, code, count_ms);
    }
    close(high[1]);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
    while (read(high[0], &c, 1) < 0 && errno == EINTR) continue;
    close(high[0]);
}

int main(int argc, char **argv) {
    char self[PATH_MAX_BYTES] = "", line[64], kind[8] = "", which[24] = "";
    int code = 0;
    (void)argc;
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) die("/proc/self/exe");
    char *name = strrchr(self, '/');
    snprintf(role, sizeof role, "%s", name + 1 + strlen("millrace-"));
    snprintf(folder, sizeof folder, "%.*s", (int)(name - self), self);
    if (!plan_next(line, sizeof line) || sscanf(line, "%7s %23s %d", kind, which, &code) < 2) program(argv);
    long number = strtol(which, NULL, 10);
    if (strcmp(kind, "alloc") == 0) alloc_prepare(which, 0);
    if (strcmp(kind, "acount") == 0) alloc_prepare(NULL, number);
    if (strcmp(kind, "call") == 0) {
        alloc_prepare(NULL, 0); /* which tells of crashes */
        trace_begin(number, code, 0);
    }
    if (strcmp(kind, "ccount") == 0) trace_begin(0, 0, number);
    program(argv);
}

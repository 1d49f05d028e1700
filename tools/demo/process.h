/* The programs the demo starts: each in a process group of its own (Ctrl-C reaches only the demo), told to end when the
 * demo dies, and ended by its process id. */
#ifndef MILLRACE_TOOLS_DEMO_PROCESS_H
#define MILLRACE_TOOLS_DEMO_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct process {
    pid_t pid;  /* 0: not started, or ended and waited for */
    int status; /* once it has ended: its exit status, or 128 + the signal */
};

/* process_start forks and execs argv (searched in PATH unless it has a slash). Standard error goes to the file `log`,
 * standard output too unless out is given: then *out is the reading end of a pipe. Standard input is empty.
 * Returns 0, or -1 with err. */
int process_start(struct process *p, char *const argv[], const char *log, int *out, struct err *err);

/* process_ended: whether it has, within timeout_ms. */
bool process_ended(struct process *p, int timeout_ms);

/* process_stop: SIGTERM, and SIGKILL when that was not enough in patience_ms. Nothing when it is not running. */
void process_stop(struct process *p, int patience_ms);

/* Set by SIGINT, SIGTERM, SIGHUP and SIGPIPE: everything that waits gives up. */
void interrupt_watch(void);
bool interrupted(void);

void sleep_ms(int ms);

#endif

/* Spawn: fork and exec of one worker with an explicit list of descriptors and nothing else inherited. */
#ifndef MILLRACE_SUPERVISOR_SPAWN_H
#define MILLRACE_SUPERVISOR_SPAWN_H

#include <stdint.h>
#include <sys/types.h>

#include "base/config.h"
#include "base/err.h"

/* spawn_worker starts folder/millrace-ROLE. fds[0, n) become descriptors 3, 4 and so on; 0 is /dev/null, 1 and 2
 * are this process's standard error; all others are closed. The environment is emptied but for PATH, LANG, TZ, and
 * MILLRACE_FAULT and MILLRACE_FAULT_DIR (base/fault.h). Returns the pid and its pidfd (close-on-exec), or -1 with err.
 * An exec that fails shows as exit status EXIT_DONT_RESTART with a line on standard error. */
pid_t spawn_worker(const char *folder, const struct config *config, enum role role, uint32_t lane, uint64_t starts,
                   const int *fds, int n, int *pidfd, struct err *err);

#endif

/* Where a process runs and how its memory is held: asking the kernel, and saying what was got. */
#ifndef MILLRACE_SHM_PLACE_H
#define MILLRACE_SHM_PLACE_H

#include "base/cpus.h"
#include "base/err.h"

/* place_pin binds the calling thread, and the threads it makes from now on, to the processors of `wanted` that exist
 * and that its cgroup allows. Call before the process has made threads. *got: where it may run afterwards.
 * Returns 0 (*got may be less than was wanted), or -1 with err, and nothing changed, when none of them can be had. */
int place_pin(const struct cpus *wanted, struct cpus *got, struct err *err);

enum place_locked {
    PLACE_LOCKED,     /* what is mapped now and what will be */
    PLACE_LOCKED_NOW, /* what is mapped now; the limit does not allow for what will be */
    PLACE_UNLOCKED,   /* nothing: the limit is too small; err says which and how to raise it */
};

/* place_lock keeps this process's memory out of swap: its pages as they are touched, none that it never uses. Lifts
 * RLIMIT_MEMLOCK first as far as the process may. Call when everything is mapped. */
enum place_locked place_lock(struct err *err);

/* place_locked_bytes: memory of this process that is under lock, 0 when /proc does not say. */
uint64_t place_locked_bytes(void);

#endif

/* Included before every source of the product that is built for the simulator: each atomic load and store becomes a
 * place where the scheduler may go on with another worker, or where this one may die; what a worker asks of the kernel
 * goes to the simulator. */
#ifndef MILLRACE_TESTS_SIM_HOOKS_H
#define MILLRACE_TESTS_SIM_HOOKS_H

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"

void sim_place(void);
void sim_poison(const char *point, const void *bytes, size_t len);
ssize_t kernel_write(int fd, const void *bytes, size_t len);
ssize_t kernel_read(int fd, void *out, size_t len);
int kernel_poll(struct pollfd *fds, nfds_t n, int timeout_ms);
int kernel_kill(pid_t pid, int signal);
int kernel_waitid(idtype_t type, id_t id, siginfo_t *info, int options);
int kernel_cpuclock(pid_t pid, clockid_t *id);

#ifndef SIM_QUIET
#undef atomic_store_explicit
#define atomic_store_explicit(object, value, order)                                                                    \
    __extension__({                                                                                                    \
        sim_place();                                                                                                   \
        __auto_type sim_object_ = (object);                                                                            \
        __typeof__((void)0, *sim_object_) sim_value_ = (value);                                                        \
        __atomic_store(sim_object_, &sim_value_, order);                                                               \
    })
#undef atomic_load_explicit
#define atomic_load_explicit(object, order)                                                                            \
    __extension__({                                                                                                    \
        sim_place();                                                                                                   \
        __auto_type sim_from_ = (object);                                                                              \
        __typeof__((void)0, *sim_from_) sim_loaded_;                                                                   \
        __atomic_load(sim_from_, &sim_loaded_, order);                                                                 \
        sim_loaded_;                                                                                                   \
    })
#endif

#undef FAULT_ON_CONTENT
#define FAULT_ON_CONTENT(point, bytes, len) sim_poison(point, bytes, len)

#ifdef SIM_KERNEL /* sources that have no member called like one of these */
#define write(fd, bytes, len) kernel_write(fd, bytes, len)
#define read(fd, out, len) kernel_read(fd, out, len)
#define poll(fds, n, timeout) kernel_poll(fds, n, timeout)
#define kill(pid, signal) kernel_kill(pid, signal)
#define waitid(type, id, info, options) kernel_waitid(type, id, info, options)
#define clock_getcpuclockid(pid, id) kernel_cpuclock(pid, id)
#endif

#endif

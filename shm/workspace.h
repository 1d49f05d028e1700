/* Workspace: the memory files that processes share. Made by the supervisor, sealed against resizing, handed on as
 * descriptors; nothing here has a name that another process could open. */
#ifndef MILLRACE_SHM_WORKSPACE_H
#define MILLRACE_SHM_WORKSPACE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* workspace_create makes a zeroed memory file of `bytes` (rounded up to whole pages), sealed against shrinking, growing
 * and further seals. Returns its descriptor (read-write, close-on-exec), or -1 with err.code an errno. */
int workspace_create(const char *name, size_t bytes, struct err *err);

/* How a memory file is held. */
enum {
    WORKSPACE_HUGE = 1,     /* huge pages of 2 MiB; bytes are rounded up to whole ones, and all are allocated */
    WORKSPACE_PREFAULT = 2, /* all pages are allocated now, instead of as they are first written */
};
enum { WORKSPACE_HUGE_BYTES = 2 << 20 };

/* workspace_create_held is workspace_create with a choice of the above, or 0. err also when there are not enough huge
 * pages or not enough memory. */
int workspace_create_held(const char *name, size_t bytes, unsigned how, struct err *err);

/* workspace_bytes returns the size of the file, and in *huge (when not NULL) how much of it is in huge pages. 0 when fd
 * is none. */
size_t workspace_bytes(int fd, size_t *huge);

/* workspace_reopen_readonly returns a second descriptor of the same memory that can never be mapped writable.
 * -1 with err on failure (needs /proc). */
int workspace_reopen_readonly(int fd, struct err *err);

/* workspace_map maps the whole file, shared; one that is allocated to its end without leaving page faults to come. At
 * least `bytes_min` must be there. *bytes gets the size.
 * NULL with err on failure; err.code EINVAL when the file is too short. */
void *workspace_map(int fd, size_t bytes_min, bool writable, size_t *bytes, struct err *err);

#endif

/* The file that a load reads: found again under its absolute path, and known again by a hash of its content. */
#ifndef MILLRACE_FEED_SOURCE_H
#define MILLRACE_FEED_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* source_open opens a regular file and writes its absolute path. Returns the descriptor, or -1 with err (EX_NOINPUT).
 */
int source_open(const char *path, char *absolute, size_t room, struct err *err);

/* source_spool copies standard input to a file (mode 0600) in the folder of the outbox, named after the load, and syncs
 * it. Returns the descriptor, at the beginning, or -1 with err (EX_CANTCREAT, EX_IOERR). */
int source_spool(const char *outbox, const uint8_t load[16], char *path, size_t room, struct err *err);

/* source_hash is over the whole content of fd, whose position it changes. 0, or -1 with err (EX_IOERR). */
int source_hash(int fd, uint8_t out[16], struct err *err);

#endif

/* Ring file: a ring as it was at one moment, in a file or in private memory, for whoever wants to know what is or was
 * in it. Nothing here changes the ring that is copied, and both its ends may be at work meanwhile.
 *
 *   offset 0      the constants' page
 *   offset 4096   the consumer's page
 *   offset 8192   the producer's region: its page, aux words, data
 *
 * The bytes are those of shm/ring.h; pages that are all zero are holes. A copy is read with the functions of a ring
 * (ring_observe, ring_consumer_attach, ring_peek), so whatever it holds gets the same checks as when it was alive. */
#ifndef MILLRACE_SHM_RING_FILE_H
#define MILLRACE_SHM_RING_FILE_H

#include "base/err.h"
#include "shm/ring.h"

#define RING_FILE_SUFFIX ".ring"

enum ring_file_part {
    RING_FILE_CONTROL,    /* constants and both pages: enough for ring_observe; the data read as zero */
    RING_FILE_UNRELEASED, /* … and the records that were not released: enough for the consumer's walk */
    RING_FILE_WHOLE,      /* … and what was released and not overwritten yet */
};

/* ring_file_copy makes a private copy of the ring behind `from`, in memory files of its own (close-on-exec), to be
 * closed with ring_file_drop. Positions and unreleased records are those of one moment. A ring whose positions are
 * impossible is copied whole, as it is. Returns 0, or -1 with err.code an errno: EAGAIN when the ring moved faster than
 * it could be copied, EINVAL when the files are too short or too long for a ring, or that of the failed call. */
int ring_file_copy(struct ring_fds *to, const struct ring_fds *from, enum ring_file_part part, struct err *err);
void ring_file_drop(struct ring_fds *fds);

/* ring_file_save copies the ring into a new file (mode 0600) called `name` in the folder. The supervisor may call it
 * for a ring that failed its checks, before it makes the ring anew; tools for a ring at work. An existing file is not
 * touched (EEXIST). Returns 0, or -1 with err as above; a file that could not be finished is removed. */
int ring_file_save(const struct ring_fds *from, int folder, const char *name, struct err *err);

/* ring_file_load is ring_file_copy from a file that ring_file_save made, or that claims to be one. */
int ring_file_load(struct ring_fds *to, int folder, const char *name, enum ring_file_part part, struct err *err);

#endif

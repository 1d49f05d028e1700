/* The rings of an instance, as tools see them: of its supervisor's process, or of a folder they were saved to.
 * Read-only: a ring of a process is copied before anything is read in it. */
#ifndef MILLRACE_TOOLS_RINGS_H
#define MILLRACE_TOOLS_RINGS_H

#include <sys/types.h>

#include "base/limits.h"
#include "shm/ring_file.h"

enum { RINGS_MAX = 2 * 4 * LANES_MAX }; /* while rings are made anew there may be old and new ones */

struct rings_one {
    char name[24];       /* "ingest[0]", also when the ring itself is in ruins */
    struct ring_fds fds; /* of a process: read-only; else -1 */
    uint64_t incarnation;
};

struct rings {
    int folder; /* -1: they are a process's */
    uint32_t count;
    struct rings_one one[RINGS_MAX]; /* by lane, in the order of a record's way: ingest, transform, sink, rejects */
};

/* rings_of_process finds the rings of the supervisor `pid`. Returns 0, or -1 with err.code EX_NOPERM (another user's)
 * or EX_UNAVAILABLE (no such process, or it has no rings). rings_of_folder finds files of ring_file_save; EX_NOINPUT.
 */
int rings_of_process(struct rings *r, pid_t pid, struct err *err);
int rings_of_folder(struct rings *r, const char *folder, struct err *err);
void rings_close(struct rings *r);

/* rings_take makes a private copy of one, to be closed with ring_file_drop. Returns 0, or -1 with err. */
int rings_take(const struct rings *r, uint32_t i, enum ring_file_part part, struct ring_fds *copy, struct err *err);

/* Whether a name from the command line means this ring: ingest[0], ingest-0 (no need to quote it), or ingest, which
 * means every lane's. */
bool rings_called(const struct rings_one *one, const char *wanted);

/* The file a ring is saved to: ingest-0.ring. */
void rings_file_name(const char *name, char out[40]);

#endif

/* Which ids were logged lately, to find duplicates: a table of fixed size in a file, mapped, so that it neither grows
 * nor is made again at a start. Each place holds a fingerprint of an id and the log sequence of its entry. A full
 * bucket gives up its oldest: about the last IDS_COUNT ids are remembered, more of them the evener they fall.
 *
 * No transaction: an entry that is counted again after a crash finds itself, by its own sequence number, and nothing of
 * later ones (they do not count). The pages outlive the process; a loss of power may lose some, and then a duplicate of
 * those is not noticed. */
#ifndef MILLRACE_RECON_IDS_H
#define MILLRACE_RECON_IDS_H

#include <stdint.h>

#include "base/err.h"

enum { IDS_COUNT = 1 << 22, IDS_BUCKET = 8 };

struct ids;

/* ids_open maps the file at path, making it when it is not there or not one of ours. NULL with err (EX_IOERR). */
struct ids *ids_open(const char *path, struct err *err);
void ids_close(struct ids *t);

/* ids_note notes that the entry `sequence` (above 0) has this id. Returns the sequence of an earlier entry with the
 * same id, 0 when none is remembered. */
uint64_t ids_note(struct ids *t, const uint8_t id[16], uint64_t sequence);

#endif

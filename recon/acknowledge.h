/* Acknowledgements: exceptions that somebody has taken note of and that cannot be mended, as what is lost is lost. The
 * file data_dir/recon/acknowledged, a line "ID\n" each, written by `millrace recon exceptions --acknowledge` and taken
 * by recon, which is the only writer of its database. Both hold a lock on the folder meanwhile. */
#ifndef MILLRACE_RECON_ACKNOWLEDGE_H
#define MILLRACE_RECON_ACKNOWLEDGE_H

#include "base/config.h"
#include "base/err.h"

/* acknowledge_put adds the exception's id, at most 36 characters, to those to be taken. 0, or -1 with err:
 * EX_UNAVAILABLE recon has never run here, EX_CANTCREAT. */
int acknowledge_put(const struct config *c, const char *id, struct err *err);

/* acknowledge_take hands each id to take and then removes the file; when take returns non-zero it stays as it is, to be
 * taken again. Returns how many there were; -1 when there is nothing to be taken just now. */
int acknowledge_take(const struct config *c, int (*take)(void *context, const char *id), void *context);

#endif

/* Reload: whether the configuration file says something that a running instance can go over to. */
#ifndef MILLRACE_SUPERVISOR_RELOAD_H
#define MILLRACE_SUPERVISOR_RELOAD_H

#include <stdint.h>

#include "base/config.h"
#include "base/err.h"

enum reload_verdict { RELOAD_GO, RELOAD_UNCHANGED, RELOAD_REFUSED };

/* reload_files returns a fingerprint of the files that the configuration names and that workers read themselves (keys,
 * certificates): it differs when one of them was replaced or written to. */
uint64_t reload_files(const struct config *c);

/* reload_look reads the file anew. files is the fingerprint as of the configuration now. RELOAD_GO: *next is valid,
 * differs from now (or a file it names does), and changes nothing that an instance keeps for life. RELOAD_UNCHANGED:
 * all the same. RELOAD_REFUSED: err says why, with FILE:LINE:COLUMN where the file is at fault; *next is unspecified.
 */
enum reload_verdict reload_look(const char *file, const struct config *now, uint64_t files, struct config *next,
                                struct err *err);

#endif

/* How far a walk has come, kept in a file, so that one that was ended goes on: over Redis's own cursor, which is good
 * as long as the server runs, and over the export of the table, kept beside the file. */
#ifndef MILLRACE_TOOLS_VERIFY_RESUME_H
#define MILLRACE_TOOLS_VERIFY_RESUME_H

#include "tools/verify.h"

/* verify_resume_open opens what is known: with --resume in FILE.rows, and takes FILE up where it fits: the same
 * options, the same Redis, the same export. Otherwise the walk begins anew. 0, or -1 with err. */
int verify_resume_open(struct verify *v, struct err *err);

/* verify_resume_walk walks from where it was to the end, keeping how far it is. As verify_walk_all. */
int verify_resume_walk(struct verify *v, struct err *err);

/* verify_resume_done removes what was kept: the result is told. */
void verify_resume_done(struct verify *v);

#endif

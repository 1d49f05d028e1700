/* What a load has come to, for people and for programs. */
#ifndef MILLRACE_TOOLS_LOAD_REPORT_H
#define MILLRACE_TOOLS_LOAD_REPORT_H

#include "feed/load.h"
#include "tools/load_cover.h"

/* load_report prints the result to standard output. elapsed_ns: of this run. cover: of a complete snapshot, else NULL.
 */
void load_report(const struct load_result *r, const struct load_cover *cover, bool dry_run, bool json,
                 uint64_t elapsed_ns);

/* load_list prints the loads of the outbox at path, those that are over only with `all`. Returns an exit status. */
int load_list(const char *path, bool json, bool all);

#endif

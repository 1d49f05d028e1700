/* What a load has come to, for people and for programs. */
#ifndef MILLRACE_TOOLS_LOAD_REPORT_H
#define MILLRACE_TOOLS_LOAD_REPORT_H

#include "feed/load.h"

/* load_report prints the result to standard output. elapsed_ns: of this run. */
void load_report(const struct load_result *r, bool dry_run, bool json, uint64_t elapsed_ns);

#endif

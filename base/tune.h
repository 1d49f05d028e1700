/* What on this host costs speed: read from /proc and /sys, changed by nobody here. */
#ifndef MILLRACE_BASE_TUNE_H
#define MILLRACE_BASE_TUNE_H

#include "base/config.h"

enum tune_status {
    TUNE_OK,
    TUNE_WARNING, /* costs speed; the command mends it */
    TUNE_UNKNOWN, /* could not be read here, or cannot be told from here */
    TUNE_STATUSES
};
const char *tune_status_name(enum tune_status status); /* "ok" "warning" "unknown" */

enum { TUNE_FINDINGS_MAX = 16, TUNE_TEXT_BYTES = 224 };

struct tune_finding {
    const char *check; /* its name: one word, never changed */
    enum tune_status status;
    char reason[TUNE_TEXT_BYTES];
    char command[TUNE_TEXT_BYTES]; /* of a warning: what mends it; else "" */
};

struct tune {
    const char *root; /* "" or the folder that stands for / */
    const struct config *config;
    struct cpus online, pinned; /* online: empty when unknown */
    struct tune_finding finding[TUNE_FINDINGS_MAX];
    uint32_t count;
};

/* tune_check looks at everything that concerns `config` (which must outlive *t): what does not concern it (huge pages
 * that are not asked for, interrupts without pinned workers) is left out. Needs no privileges; limits are those of this
 * process. root: "" for this host, else a folder with proc/ and sys/ in it. Cannot fail. */
void tune_check(struct tune *t, const char *root, const struct config *config);

/* tune_count returns how many findings have this status. */
uint32_t tune_count(const struct tune *t, enum tune_status status);

/* tune_summary writes one line, such as "2 of 9 checks warn: swap, thp; 1 unknown". Returns out. */
const char *tune_summary(const struct tune *t, char *out, size_t size);

#endif

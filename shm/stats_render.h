/* The stats segment as text, for people, programs and Prometheus. Reads any layout that stats_open accepts, by the
 * names in the segment; never blocks a writer. Anyone may call. */
#ifndef MILLRACE_SHM_STATS_RENDER_H
#define MILLRACE_SHM_STATS_RENDER_H

#include <stdio.h>

#include "shm/stats.h"

void stats_render_table(const struct stats *s, FILE *out);      /* at most 80 columns unless names are long */
void stats_render_json(const struct stats *s, FILE *out);       /* one object; unknown offsets and lags are -1 */
void stats_render_prometheus(const struct stats *s, FILE *out); /* text format 0.0.4, what a textfile collector reads */
void stats_render_markdown(FILE *out);                          /* docs/metrics.md; needs no segment */

/* The state of the whole and why: of the supervisor, or of the worker that is worst off. "stopped" when the
 * supervisor's process is gone. reason may be "". Static string. */
const char *stats_state(const struct stats *s, char reason[STATS_TEXT_BYTES]);

/* One line that says how things stand, for a service manager: state, reason, records a second, lag. Zeroed at first. */
enum { STATS_STATUS_BYTES = STATS_TEXT_BYTES + 128, STATS_STATUS_LOOK_MS = 1000, STATS_STATUS_MS = 10000 };
struct stats_status {
    uint64_t looked_ns, told_ns, applied;
    char state[STATS_TEXT_BYTES + 32]; /* state and reason as told last */
    char text[STATS_STATUS_BYTES];
};

/* stats_status makes the line anew and returns true when it has news: at once for another state or reason (looked for
 * every STATS_STATUS_LOOK_MS), every STATS_STATUS_MS for the numbers, which are those since the last time. */
bool stats_status(const struct stats *s, struct stats_status *line, uint64_t now_ns);

#endif

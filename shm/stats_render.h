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

#endif

/* Phases of an instance: from start to stop, and round again for a reload or for a broken ring.
 *
 *   STARTING --all attached--> RUNNING --stop, reload--> DRAINING --ingest left, due, hopeless--> LEAVING --+--> DONE
 *      ^                          |                                                               ^        |
 *      |                          +---------------- a worker failed, a ring is broken ------------+        |
 *      +-------------------------- everything is made anew: reload, reset --------------------------------+
 *
 * A reload is a stop and a start within one supervisor. While ingest is away the group keeps its place as a static
 * member, for it is back long before session.timeout.ms. What could not drain stays uncommitted and is read again. */
#ifndef MILLRACE_SUPERVISOR_PHASE_H
#define MILLRACE_SUPERVISOR_PHASE_H

#include "supervisor/supervisor.h"

/* phase_start starts every worker. */
void phase_start(struct supervisor *s);

/* phase_look goes on to the next phase when it is time. Call after every turn of the loop. */
void phase_look(struct supervisor *s);

/* phase_stop drains and stops; a reload or a reset under way ends in it. Further calls change nothing. */
void phase_stop(struct supervisor *s);

/* phase_reload reads the configuration file and, when it says something else, goes over to it. Returns the outcome so
 * far: "started" or "queued" (as number s->reload.asked), or "unchanged" or "refused" (s->reload.text says why). */
const char *phase_reload(struct supervisor *s);

const char *phase_name(const struct supervisor *s);

#endif

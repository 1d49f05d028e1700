/* Requests: what the control socket can be asked for, one word and its arguments:
 *
 *   status                         how the instance is, and what became of the last reload
 *   reload                         as SIGHUP; the reply tells at once when the file is refused
 *   stop                           as SIGTERM
 *   accept-loss [TOPIC [PARTITION [LOAD FIRST]]]
 *                                  offsets that Kafka no longer has are given up; ingest carries it out. LOAD: a load
 *                                  of all keys that makes up for them, which begins there at offset FIRST (-1: it has
 *                                  nothing there): only when all of it is going to be read
 *
 * Every reply has "ok" and "message"; the others are in supervisor/requests.c and docs/operations.md. */
#ifndef MILLRACE_SUPERVISOR_REQUESTS_H
#define MILLRACE_SUPERVISOR_REQUESTS_H

#include "supervisor/control_socket.h"

/* A control_answer; context is the struct supervisor. */
void requests_answer(void *context, char *line, uid_t uid, struct control_reply *r);

#endif

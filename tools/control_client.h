/* Asking a running instance's supervisor for something, over its control socket (supervisor/control_socket.h). */
#ifndef MILLRACE_TOOLS_CONTROL_CLIENT_H
#define MILLRACE_TOOLS_CONTROL_CLIENT_H

#include <stdbool.h>

#include "tools/command.h"

enum { REPLY_BYTES = 4096 };

/* control_ask sends one line (with its end) and reads one: the reply, a flat JSON object. Takes at most a few seconds.
 * 0, or with the reason in reply a status of sysexits.h: EX_UNAVAILABLE nobody is there, or answers; EX_NOPERM. */
int control_ask(const struct command_place *at, const char *request, char reply[REPLY_BYTES]);

/* What a reply says: whether the instance does it; a field that is a number (0: not there), or a text ("": not there),
 * which is copied to out. */
bool reply_ok(const char *reply);
unsigned long long reply_number(const char *reply, const char *name);
const char *reply_text(const char *reply, const char *name, char out[REPLY_BYTES]);

#endif

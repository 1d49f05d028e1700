/* Addresses of a Redis: redis://[user[:password]@]host[:port][/db], rediss:// the same over TLS, and
 * unix://[user[:password]@]/path[?db=N]. */
#ifndef MILLRACE_BASE_REDIS_URL_H
#define MILLRACE_BASE_REDIS_URL_H

#include <stddef.h>

#include "base/config.h"

/* redis_url_parse fills scheme, host or path, port, db, and, when the URL has them, user and password of c->redis.
 * User and password are percent-decoded. Returns 0, or -1 with err.code EX_CONFIG; no message repeats the URL, for it
 * may hold a password. */
int redis_url_parse(const char *url, struct config *c, struct err *err);

/* redis_url_format writes the URL of c->redis without user and password. Truncates. */
void redis_url_format(const struct config *c, char *out, size_t size);

#endif

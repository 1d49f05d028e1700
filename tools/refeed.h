/* Having a running instance feed chosen records once more (base/refeed_request.h): what `millrace ctl refeed`,
 * `millrace replay` and `millrace verify --repair` share. */
#ifndef MILLRACE_TOOLS_REFEED_H
#define MILLRACE_TOOLS_REFEED_H

#include <stdbool.h>
#include <stdio.h>

#include "base/refeed_request.h"
#include "tools/command.h"

enum { REFEED_TIMEOUT_S = 120 };

/* refeed_missing_print writes the elements of a JSON array: n records that were not passed on. */
void refeed_missing_print(FILE *f, const struct refeed_missing *m, uint64_t n);

/* refeed_send writes the request into data_dir, tells the instance, and waits for the result at most timeout_s. A
 * request that is not begun by then is withdrawn; one that is begun is carried out all the same. Its files are removed
 * when the result was read. 0 with *out (to be freed; the partitions of other instances are REFEED_ELSEWHERE), or -1
 * with err: EX_UNAVAILABLE, EX_NOPERM (no instance, or no right to ask it), EX_TEMPFAIL (it cannot now, or not in
 * time), EX_CANTCREAT, EX_USAGE (the request), EX_DATAERR (the result). */
int refeed_send(const struct command_place *at, const char *data_dir, struct refeed_request *r, unsigned timeout_s,
                struct refeed_result *out, struct err *err);

/* refeed_await does the same with a request that is in data_dir already. */
int refeed_await(const struct command_place *at, const char *data_dir, const char *id, unsigned timeout_s,
                 struct refeed_result *out, struct err *err);

/* refeed_print prints a result: lines for people, or one JSON object without the end of the line. */
void refeed_print(FILE *f, const struct refeed_result *r, bool json);

/* refeed_status: what a result is worth as an exit status: 0 everything was fed; 1 some of it is not in Kafka any more,
 * or the partition is another instance's or unknown; EX_TEMPFAIL some of it was given up: ask again. */
int refeed_status(const struct refeed_result *r);

#endif

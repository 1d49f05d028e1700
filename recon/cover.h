/* Lost offsets and loads of all keys: where a partition of this instance waits because Kafka no longer has what Redis
 * needs, and a load marked as snapshot has published the whole topic since, ingest is told so, over the supervisor's
 * control socket (`accept-loss` with the load). Whether the load's own records are all there is for ingest to judge. */
#ifndef MILLRACE_RECON_COVER_H
#define MILLRACE_RECON_COVER_H

#include <sqlite3.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "shm/stats.h"

struct cover;

/* How the supervisor is asked: sends one line and reads the reply, within a second or so. 0, or -1 with err.text. */
typedef int cover_ask(const struct config *c, const char *request, struct err *err);
cover_ask cover_ask_supervisor;

/* cover_new: all are kept, and outlive it. ask: cover_ask_supervisor, or that of a test. */
struct cover *cover_new(sqlite3 *db, const struct config *c, const struct stats *stats, cover_ask *ask);
void cover_free(struct cover *c);

/* cover_step looks at the partitions, outside of a transaction; cheap while none waits. A load counts that is
 * complete, declares records, and began after the loss was first seen (kept in `meta`, so also over restarts): by its
 * own time, and because its begin was read after that. One that is told to have nothing in the partition counts when
 * all it declares is in the log. Each is told of once a minute until
 * the partition goes on. 0, or -1 with err: the database. */
int cover_step(struct cover *c, int64_t now_ms, struct err *err);

#endif

/* Subscription: which topics this member told its group last, in data_dir/subscription.
 *
 * A static member that comes back within the session gets its old partitions, and the group is not divided anew, not
 * even when it asks for other topics now: a topic that was added would be read by nobody until the next rebalance. So
 * a member whose topics have changed has to leave the group once and join again. */
#ifndef MILLRACE_INGEST_SUBSCRIPTION_H
#define MILLRACE_INGEST_SUBSCRIPTION_H

#include <stdbool.h>

#include "base/config.h"
#include "base/err.h"

/* subscription_changed: whether the group was told other topics, as far as is known: without the file nothing is. */
bool subscription_changed(const struct config *c);

/* subscription_note says that the group knows the present topics. 0, or -1 with err. */
int subscription_note(const struct config *c, struct err *err);

#endif

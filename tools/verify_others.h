/* What other instances of the group have logged, as they have told this one (recon/accounts.h): where a partition has
 * gone on elsewhere, this instance's table does not know what was written last. */
#ifndef MILLRACE_TOOLS_VERIFY_OTHERS_H
#define MILLRACE_TOOLS_VERIFY_OTHERS_H

#include "tools/verify_report.h"

/* verify_others reads the accounts anew, and whether there have been others who tell nothing. 0, or -1 with err. */
int verify_others(struct verify *v, struct verify_notes *notes, struct err *err);

/* Whether records of the row's partition that came after it are in another instance's log only. */
bool verify_gone_on(const struct verify *v, const struct live_row *row);

/* Whether records of the topic are in another instance's log only. */
bool verify_shared(const struct verify *v, const char *topic);

#endif

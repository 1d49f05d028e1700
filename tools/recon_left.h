/* `millrace recon --load ID --left`: the keys that live in a load's topics and that the load, marked as a snapshot of
 * all that there is, does not contain. */
#ifndef MILLRACE_TOOLS_RECON_LEFT_H
#define MILLRACE_TOOLS_RECON_LEFT_H

#include <stdint.h>

#include "tools/recon_view.h"

enum { LEFT_SHOWN_MAX = 10000 };

/* recon_left prints them: by digest of the key and place of the record it comes from, at most LEFT_SHOWN_MAX, and how
 * many there are. A key is left when its record is older than the load's begin and belongs to another load or to none.
 * Returns 0, or -1 after printing what is wrong. */
int recon_left(const struct view *v, const uint8_t id[16]);

#endif

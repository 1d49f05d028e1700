#include "audit/log.h"

#include <stdio.h>

void log_dir(const struct config *c, char out[PATH_BYTES + 16]) {
    snprintf(out, PATH_BYTES + 16, "%s/audit", c->data_dir);
}

#include "shm/entry.h"

#include <string.h>

#include "shm/record.h"

int entry_check(const void *body, size_t len) {
    struct entry e;
    if (len < sizeof e) return -1;
    memcpy(&e, body, sizeof e);
    if (e.bytes != len || e.content_bytes != len - sizeof e) return -1;
    return e.outcome < ENTRY_OUTCOME_COUNT && e.op < RECORD_OP_COUNT && e.reason < REASON_COUNT ? 0 : -1;
}

const char *entry_outcome_name(enum entry_outcome outcome) {
    static const char *const names[ENTRY_OUTCOME_COUNT] = {"nothing", "skipped", "applied",  "superseded",
                                                           "deleted", "expired", "filtered", "rejected"};
    return (unsigned)outcome < ENTRY_OUTCOME_COUNT ? names[outcome] : "unknown";
}

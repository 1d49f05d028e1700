/* Reading the audit log from a place that an index tells: for audit/search.h. */
#ifndef MILLRACE_AUDIT_READ_AT_H
#define MILLRACE_AUDIT_READ_AT_H

#include <stdint.h>

#include "audit/log.h"

/* log_reader_place goes on at sequence number `sequence` of the segment, beginning with the batch of at_sequence that
 * stands at `at`; at 0: with the segment's first. */
void log_reader_place(struct log_reader *r, uint64_t segment, uint64_t at, uint64_t at_sequence, uint64_t sequence);

#endif

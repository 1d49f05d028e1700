/* Numbers for people: 1234567 as 1,234,567. */
#ifndef MILLRACE_BASE_GROUPED_H
#define MILLRACE_BASE_GROUPED_H

#include <stdint.h>

enum { GROUPED_BYTES = 32 };

/* grouped writes value with a comma between each three digits. Returns out. */
const char *grouped(uint64_t value, char out[GROUPED_BYTES]);

#endif

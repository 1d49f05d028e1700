/* Sets of processors as people write them: "0", "2-3,8". */
#ifndef MILLRACE_BASE_CPUS_H
#define MILLRACE_BASE_CPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { CPUS_MAX = 1024 }; /* processors have numbers in [0, CPUS_MAX): the C library's CPU_SETSIZE */

struct cpus {
    uint64_t word[CPUS_MAX / 64]; /* processor n: bit n % 64 of word n / 64 */
};

/* cpus_parse reads a list of numbers and ranges separated by commas, as of taskset -c and of the kernel's own files
 * (which end in a line feed). Returns 0, or -1 with err.code EINVAL: empty, malformed, a range that goes down, a number
 * from CPUS_MAX on. */
int cpus_parse(const char *text, struct cpus *out, struct err *err);

/* cpus_format writes the set as the shortest such list, "" for none. Truncates after a whole entry. Returns out. */
const char *cpus_format(const struct cpus *c, char *out, size_t size);

uint32_t cpus_count(const struct cpus *c);
struct cpus cpus_without(const struct cpus *a, const struct cpus *b); /* what of a is not in b */

static inline bool cpus_has(const struct cpus *c, uint32_t n) { return (c->word[n / 64] >> (n % 64) & 1) != 0; }
static inline void cpus_add(struct cpus *c, uint32_t n) { c->word[n / 64] |= 1ULL << (n % 64); }

#endif

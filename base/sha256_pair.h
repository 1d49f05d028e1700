/* SHA-256 (FIPS 180-4) of two messages at a time, on processors that have instructions for it: these wait for each
 * other's results, so that a second message costs next to nothing beside the first. */
#ifndef MILLRACE_BASE_SHA256_PAIR_H
#define MILLRACE_BASE_SHA256_PAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SHA256_BLOCK_BYTES = 64, SHA256_WORDS = 8 };

/* sha256_pair_there: whether this processor can (x86-64 with SHA extensions). Any thread. Remembers: in a virtual
 * machine the question itself takes longer than many digests. */
bool sha256_pair_there(void);

/* sha256_pair puts `blocks` blocks of 64 bytes of each message into its state. Only where sha256_pair_there. */
void sha256_pair(uint32_t state[2][SHA256_WORDS], const uint8_t *const data[2], size_t blocks);

#endif

/* Big-endian numbers in byte strings: what leaves this machine is written this way. */
#ifndef MILLRACE_TRANSFORM_BYTES_H
#define MILLRACE_TRANSFORM_BYTES_H

#include <stdint.h>

static inline void put_u32(uint8_t *at, uint32_t x) {
    at[0] = (uint8_t)(x >> 24);
    at[1] = (uint8_t)(x >> 16);
    at[2] = (uint8_t)(x >> 8);
    at[3] = (uint8_t)x;
}

static inline void put_u64(uint8_t *at, uint64_t x) {
    put_u32(at, (uint32_t)(x >> 32));
    put_u32(at + 4, (uint32_t)x);
}

static inline uint32_t get_u32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

#endif

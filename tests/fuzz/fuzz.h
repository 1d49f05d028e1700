/* What the fuzz targets share. Each is a program of its own that libFuzzer feeds with bytes; a target says that it is
 * wrong by ending, so that AddressSanitizer's and UBSan's reports and its own look alike. */
#ifndef MILLRACE_TESTS_FUZZ_FUZZ_H
#define MILLRACE_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

#define WRONG_UNLESS(x)                                                                                                \
    do {                                                                                                               \
        if (x) break;                                                                                                  \
        fprintf(stderr, "%s:%d: wrong: %s\n", __FILE__, __LINE__, #x);                                                 \
        abort();                                                                                                       \
    } while (0)

/* The input, taken from its beginning; what is beyond its end reads as zero. */
struct input {
    const uint8_t *at;
    size_t left;
};

static inline size_t input_bytes(struct input *in, void *out, size_t n) {
    size_t have = n < in->left ? n : in->left;
    memset(out, 0, n);
    if (have > 0) memcpy(out, in->at, have);
    in->at += have;
    in->left -= have;
    return have;
}

static inline uint64_t input_u64(struct input *in) {
    uint64_t value;
    input_bytes(in, &value, sizeof value);
    return value;
}

static inline uint8_t input_u8(struct input *in) {
    uint8_t value;
    input_bytes(in, &value, sizeof value);
    return value;
}

/* A path below TMPDIR, which tests/run-fuzz makes and removes. */
static inline void fuzz_path(char *out, size_t size, const char *name) {
    const char *folder = getenv("TMPDIR");
    snprintf(out, size, "%s/%s", folder != NULL ? folder : "/tmp", name);
}

/* Reads every byte, so that a sanitizer sees which ones they are. */
extern uint64_t read_sum;
static inline void read_all(const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) read_sum += bytes[i];
}

#endif

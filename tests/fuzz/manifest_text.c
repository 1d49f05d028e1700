/* Any bytes as what a producer declares: what is accepted is in the ranges of recon/manifest.h. */
#include "tests/fuzz/fuzz.h"

#include "recon/manifest.h"

uint64_t read_sum;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    static struct manifest m;
    struct err err = {0};
    if (manifest_parse((const char *)bytes, len, &m, &err) != 0) {
        WRONG_UNLESS(err.text[0] != 0);
        return 0;
    }
    WRONG_UNLESS(memchr(m.producer, 0, sizeof m.producer) != NULL && memchr(m.topic, 0, sizeof m.topic) != NULL);
    WRONG_UNLESS(m.places <= PARTITIONS_MAX && m.count >= 0 && m.bytes >= 0);
    if (m.type == MANIFEST_WINDOW) WRONG_UNLESS(m.from_ms < m.to_ms);
    for (uint32_t i = 0; i < m.places; i++) WRONG_UNLESS(m.place[i].partition >= 0 && m.place[i].first_offset >= 0);
    return 0;
}

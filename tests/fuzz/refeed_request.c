/* Any bytes as the file of a request to read records once more: what is accepted keeps the promises of the header. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/refeed_request.h"

uint64_t read_sum;

static void partition_check(const struct refeed_partition *p, const int64_t *offset) {
    WRONG_UNLESS(memchr(p->topic, 0, sizeof p->topic) != NULL && p->partition >= 0 && p->until >= 0);
    for (uint32_t k = 0; k < p->count; k++)
        WRONG_UNLESS(offset[k] >= 0 && offset[k] < p->until && (k == 0 || offset[k] > offset[k - 1]));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    static int file = -1;
    static char path[256];
    static struct refeed_wanted wanted;
    if (file < 0) {
        fuzz_path(path, sizeof path, "request");
        file = open(path, O_RDWR | O_CREAT, 0600);
    }
    WRONG_UNLESS(file >= 0 && ftruncate(file, 0) == 0 && pwrite(file, bytes, len, 0) == (ssize_t)len);
    struct err err = {0};
    if (refeed_request_read(path, &wanted, &err) != 0) {
        WRONG_UNLESS(err.text[0] != 0);
        return 0;
    }
    WRONG_UNLESS(wanted.count >= 1 && wanted.count <= PARTITIONS_MAX);
    for (uint32_t i = 0; i < wanted.count; i++) partition_check(wanted.part[i], wanted.offset[i]);
    free(wanted.memory);
    return 0;
}

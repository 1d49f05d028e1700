/* Any bytes as a file of the audit log: its head and its batches are read or refused, and a batch lies within the file.
 */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include "audit/segment.h"

uint64_t read_sum;

enum { BATCHES = 32 };

static void batches_walk(struct segment *s, uint64_t size) {
    uint64_t at = s->body;
    for (int i = 0; i < BATCHES; i++) {
        struct segment_batch b;
        struct log_batch head;
        struct err err = {0};
        enum segment_read skip = segment_head_at(s, at, &head, NULL), whole = segment_batch_at(s, at, &b, &err);
        WRONG_UNLESS(whole != SEGMENT_BAD || err.text[0] != 0);
        if (whole != SEGMENT_BATCH) return;
        WRONG_UNLESS(skip == SEGMENT_BATCH && head.bytes == b.head.bytes && b.at == at);
        WRONG_UNLESS(b.head.bytes > 0 && b.head.bytes <= size - at);
        WRONG_UNLESS(b.entries >= b.bytes && b.mac >= b.entries && b.mac + LOG_MAC_BYTES <= b.bytes + b.head.bytes);
        read_all(b.bytes, b.head.bytes);
        at += b.head.bytes;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    static struct segment s;
    static int folder = -1, file;
    if (folder < 0) {
        char name[LOG_NAME_BYTES], path[256];
        fuzz_path(path, sizeof path, "");
        folder = open(path, O_RDONLY | O_DIRECTORY);
        segment_name(name, 1);
        file = openat(folder, name, O_RDWR | O_CREAT, 0600);
        WRONG_UNLESS(file >= 0);
        segment_init(&s);
    }
    WRONG_UNLESS(ftruncate(file, 0) == 0 && pwrite(file, bytes, len, 0) == (ssize_t)len);
    struct err err = {0};
    if (segment_open(&s, folder, 1, &err) != 0) {
        WRONG_UNLESS(err.text[0] != 0);
        return 0;
    }
    batches_walk(&s, len);
    return 0;
}

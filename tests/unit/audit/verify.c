/* Verification: whatever is done to a log behind the product's back is found and named, and nothing is found in one
 * that was left alone. */
#include "audit/verify.h"

#include <openssl/evp.h>
#include <sys/mman.h>
#include <sysexits.h>

#include "audit/anchor.h"
#include "tests/unit/audit/help.h"

enum { FOUND_MAX = 200, SEGMENTS = 5, BATCHES = 8, ENTRIES = SEGMENTS * BATCHES * 5 };

static struct {
    struct verify_finding finding[FOUND_MAX];
    size_t count;
    struct verify_result result;
} v;

static void found(void *context, const struct verify_finding *f) {
    (void)context;
    if (v.count < FOUND_MAX) v.finding[v.count++] = *f;
}

struct with {
    bool no_key, no_anchor_key, other_anchor_key;
    const char *anchors;
};

/* Returns the number of findings. */
static uint64_t verify(struct bench *b, struct with with) {
    struct log_mac_key key;
    uint8_t seed[AUDIT_KEY_BYTES];
    memcpy(seed, b->keys.anchor_seed, sizeof seed);
    if (with.other_anchor_key) seed[0] ^= 1;
    EVP_PKEY *anchor_key = anchor_key_make(seed, &b->err);
    log_mac_key_init(&key, b->keys.chain);
    v.count = 0;
    const struct verify_plan plan = {.dir = b->log,
                                     .key = with.no_key ? NULL : &key,
                                     .key_id = b->keys.id,
                                     .anchors = with.anchors,
                                     .anchor_key = with.no_anchor_key ? NULL : anchor_key,
                                     .found = found};
    cr_assert_eq(log_verify(&plan, &v.result, &b->err), 0, "%s", b->err.text);
    EVP_PKEY_free(anchor_key);
    cr_assert_eq(v.result.findings, v.count);
    return v.result.findings;
}

static void anchor(struct bench *b, bool removed, uint64_t segment, uint64_t sequence, const uint8_t *mac) {
    struct anchors file;
    char line[ANCHOR_LINE_BYTES];
    EVP_PKEY *key = anchor_key_make(b->keys.anchor_seed, &b->err);
    struct anchor a = {.removed = removed, .segment = segment, .sequence = sequence, .written_us = 5, .key_id = 7};
    memcpy(a.mac, mac, sizeof a.mac);
    cr_assert_eq(anchors_open(&file, b->writer.folder_fd, &log_files_real, &b->err), 0, "%s", b->err.text);
    cr_assert_eq(anchors_append(&file, &a, &b->config, key, line, &b->err), 0, "%s", b->err.text);
    anchors_close(&file);
    EVP_PKEY_free(key);
}

/* SEGMENTS segments of BATCHES batches of 5 entries, an anchor after each segment. */
static struct bench *filled(void) {
    struct bench *b = bench_make();
    uint64_t number = 0;
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    for (int s = 0; s < SEGMENTS; s++) {
        b->config.recon.segment_bytes = 1; /* the next commit begins a segment, */
        for (int k = 0; k < BATCHES; k++) {
            for (int i = 0; i < 5; i++, number++)
                log_writer_add(&b->writer, 0, 77, number + 1,
                               entry_make((uint16_t)(number % 2), 0, (int64_t)number, (uint32_t)(number % 3) * 50));
            cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0);
            b->config.recon.segment_bytes = 1 << 20; /* and the others do not */
        }
        anchor(b, false, b->writer.segment, b->writer.sequence - 1, b->writer.mac);
    }
    cr_assert_eq(b->writer.closed_count, SEGMENTS - 1);
    return b;
}

static uint64_t segment_of(int i) { return 1 + (uint64_t)i * BATCHES * 5; }

static bool told(enum verify_kind kind, uint64_t segment) {
    for (size_t i = 0; i < v.count; i++)
        if (v.finding[i].kind == kind && v.finding[i].segment == segment) return true;
    return false;
}

static char *path_of(const struct bench *b, const char *name) {
    static char path[4][160];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", b->log, name);
    return path[turn];
}

static char *segment_path(const struct bench *b, uint64_t first) {
    char name[LOG_NAME_BYTES];
    segment_name(name, first);
    return path_of(b, name);
}

Test(log_verify, a_log_that_was_left_alone_is_whole) {
    struct bench *b = filled();
    cr_assert_eq(verify(b, (struct with){0}), 0, "%s", v.finding[0].text);
    cr_assert_eq(v.result.segments, SEGMENTS);
    cr_assert_eq(v.result.batches, SEGMENTS * BATCHES);
    cr_assert_eq(v.result.entries, ENTRIES);
    cr_assert_eq(v.result.first, 1);
    cr_assert_eq(v.result.last, ENTRIES);
    cr_assert_eq(v.result.anchors, SEGMENTS);
    cr_assert_eq(v.result.anchors_confirmed, SEGMENTS);
    cr_assert_eq(v.result.anchored, ENTRIES);
    cr_assert_eq(verify(b, (struct with){.no_key = true}), 0);
    cr_assert_eq(v.result.anchors_confirmed, SEGMENTS);
    bench_drop(b);
}

Test(log_verify, an_empty_log_is_whole) {
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0);
    cr_assert_eq(verify(b, (struct with){0}), 0);
    cr_assert_eq(v.result.entries, 0);
    bench_drop(b);
}

Test(log_verify, what_retention_has_removed_is_told_from_what_somebody_else_has) {
    struct bench *b = filled();
    struct bench *other = filled();
    uint64_t sequence;
    uint8_t mac[LOG_MAC_BYTES];
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(log_writer_closed_end(&b->writer, &sequence, mac, &b->err), 0);
        anchor(b, true, b->writer.closed[0].first, sequence, mac);
        cr_assert_eq(log_writer_remove(&b->writer, &b->err), 0);
    }
    cr_assert_eq(verify(b, (struct with){0}), 0, "%s", v.finding[0].text);
    cr_assert_eq(v.result.first, segment_of(2));
    cr_assert_eq(verify(b, (struct with){.no_key = true}), 0);
    cr_assert_eq(unlink(segment_path(b, segment_of(2))), 0);
    cr_assert_gt(verify(b, (struct with){0}), 0);
    cr_assert(told(VERIFY_MISSING, segment_of(3)));
    cr_assert_eq(unlink(segment_path(other, 1)), 0);
    cr_assert_gt(verify(other, (struct with){0}), 0);
    cr_assert(told(VERIFY_MISSING, segment_of(1)));
    bench_drop(b);
    bench_drop(other);
}

Test(log_verify, a_batch_that_is_being_written_is_no_finding) {
    struct bench *b = filled();
    struct log_batch head = {
        .magic = LOG_BATCH_MAGIC, .bytes = 4096, .count = 3, .first = ENTRIES + 1, .lane_count = 1};
    file_put(b, b->writer.segment, (off_t)b->writer.end, &head, sizeof head);
    cr_assert_eq(verify(b, (struct with){0}), 0, "%s", v.finding[0].text);
    cr_assert_eq(v.result.unfinished_bytes, sizeof head);
    bench_drop(b);
}

Test(log_verify, a_tail_cut_at_a_batch_is_found_by_the_anchors_even_when_the_mark_was_changed_as_well) {
    struct bench *b = filled();
    uint64_t last = segment_of(SEGMENTS - 1);
    struct segment s;
    struct log_batch head;
    segment_init(&s);
    cr_assert_eq(segment_open(&s, b->writer.folder_fd, last, &b->err), 0);
    cr_assert_eq(segment_head_at(&s, s.body, &head, &b->err), SEGMENT_BATCH);
    uint64_t cut = s.body + head.bytes;
    file_cut(b, last, (off_t)cut);
    twin_store(&b->writer.mark->end, last, cut);
    cr_assert_eq(verify(b, (struct with){0}), 1);
    cr_assert_eq(v.finding[0].kind, VERIFY_CUT);
    cr_assert_eq(v.finding[0].first, last + 5);
    cr_assert_eq(v.finding[0].last, ENTRIES);
    cr_assert_eq(verify(b, (struct with){.no_key = true}), 1);
    segment_free(&s);
    bench_drop(b);
}

Test(log_verify, a_log_made_anew_with_the_right_chain_key_does_not_stand_against_the_anchors) {
    struct bench *b = filled();
    struct bench *forged = bench_make();
    char copy[160], command_to[160];
    snprintf(copy, sizeof copy, "%s/kept", b->dir);
    snprintf(command_to, sizeof command_to, "%s", path_of(b, ANCHORS_NAME));
    cr_assert_eq(rename(command_to, copy), 0);
    cr_assert_eq(bench_open(forged), 0);
    for (uint64_t n = 1; n <= ENTRIES; n++) { /* the same batches, one entry is another */
        log_writer_add(&forged->writer, 0, 77, n, entry_make(0, 0, n == 17 ? 9999 : (int64_t)n, 0));
        if (n % 5 == 0) cr_assert_eq(log_writer_commit(&forged->writer, &forged->err), 0);
    }
    cr_assert_gt(verify(forged, (struct with){.anchors = copy}), 0);
    cr_assert(told(VERIFY_CHANGED, 1));
    cr_assert_gt(verify(forged, (struct with){.anchors = copy, .no_key = true}), 0);
    bench_drop(b);
    bench_drop(forged);
}

Test(log_verify, anchors_changed_taken_out_or_signed_by_another_are_found) {
    struct bench *b = filled();
    char *path = path_of(b, ANCHORS_NAME), line[SEGMENTS][ANCHOR_LINE_BYTES];
    FILE *f = fopen(path, "r");
    for (int i = 0; i < SEGMENTS; i++) cr_assert_not_null(fgets(line[i], sizeof line[i], f));
    fclose(f);
    cr_assert_eq(verify(b, (struct with){.other_anchor_key = true}), SEGMENTS + 1);
    cr_assert(told(VERIFY_ANCHOR, 0));
    for (int skip = 0; skip < SEGMENTS - 1; skip++) {
        f = fopen(path, "w");
        for (int i = 0; i < SEGMENTS; i++)
            if (i != skip) fputs(line[i], f);
        fclose(f);
        cr_assert_eq(verify(b, (struct with){0}), 1, "without anchor %d", skip);
        cr_assert_eq(v.finding[0].kind, VERIFY_ANCHOR);
    }
    f = fopen(path, "w"); /* as a copy of a topic may have them: some twice */
    for (int i = 0; i < SEGMENTS; i++) fprintf(f, "%s%s", line[i], i % 2 == 0 ? line[i] : "");
    fclose(f);
    cr_assert_eq(verify(b, (struct with){0}), 0, "%s", v.finding[0].text);
    char *digit = strstr(line[2], "\"sequence\":") + 11;
    *digit = *digit == '1' ? '2' : '1';
    f = fopen(path, "w");
    for (int i = 0; i < SEGMENTS; i++) fputs(line[i], f);
    fclose(f);
    cr_assert_eq(verify(b, (struct with){0}), 2); /* not signed, and missing before the next */
    cr_assert_eq(v.finding[0].at, 3);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(verify(b, (struct with){0}), 1);
    cr_assert_eq(v.finding[0].kind, VERIFY_ANCHOR);
    bench_drop(b);
}

Test(log_verify, another_key_is_told) {
    struct bench *b = filled();
    b->keys.id = 9;
    cr_assert_gt(verify(b, (struct with){0}), 0);
    cr_assert_not_null(strstr(v.finding[0].text, "key 7, not key 9"), "%s", v.finding[0].text);
    b->keys.id = 7;
    b->keys.chain[0] ^= 1;
    cr_assert_gt(verify(b, (struct with){0}), 0);
    bench_drop(b);
}

/* -- mutations --------------------------------------------------------------------------------- */

struct file {
    uint64_t first;
    uint8_t *bytes;
    size_t len;
    uint64_t batch[BATCHES + 1]; /* where each begins, and the end */
};

static struct file file[SEGMENTS];

static void files_load(struct bench *b) {
    struct segment s;
    struct log_batch head;
    segment_init(&s);
    for (int i = 0; i < SEGMENTS; i++) {
        struct file *f = &file[i];
        f->first = segment_of(i);
        cr_assert_eq(segment_open(&s, b->writer.folder_fd, f->first, &b->err), 0, "%s", b->err.text);
        f->len = segment_bytes(&s);
        f->bytes = malloc(2 * f->len + 65536);
        cr_assert_eq(pread(s.fd, f->bytes, f->len, 0), (ssize_t)f->len);
        f->batch[0] = s.body;
        for (int k = 0; k < BATCHES; k++) {
            cr_assert_eq(segment_head_at(&s, f->batch[k], &head, &b->err), SEGMENT_BATCH);
            f->batch[k + 1] = f->batch[k] + head.bytes;
        }
        cr_assert_eq(f->batch[BATCHES], f->len);
    }
    segment_free(&s);
}

static void file_store(struct bench *b, const char *path, const void *bytes, size_t len) {
    (void)b;
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(bytes, 1, len, f), len);
    fclose(f);
}

static void files_restore(struct bench *b) {
    for (int i = 0; i < SEGMENTS; i++) file_store(b, segment_path(b, file[i].first), file[i].bytes, file[i].len);
}

/* One mutation. *low, *high: the entries in whose surroundings it is; text: what was done. */
static void mutate(struct bench *b, int kind, uint64_t *seed, int *low, int *high, char text[128]) {
    static uint8_t work[1 << 20];
    int i = (int)random_below(seed, SEGMENTS), k = (int)random_below(seed, BATCHES);
    struct file *f = &file[i];
    char *path = segment_path(b, f->first);
    uint64_t at = f->batch[k], len = f->batch[k + 1] - at;
    *low = i * BATCHES + k;
    *high = *low + 1;
    memcpy(work, f->bytes, f->len);
    if (kind == 0) { /* a byte anywhere */
        size_t place = random_below(seed, (uint32_t)f->len);
        work[place] ^= (uint8_t)(1 << random_below(seed, 8));
        k = 0;
        while (k < BATCHES && place >= f->batch[k + 1]) k++;
        *low = i * BATCHES + (place < f->batch[0] ? 0 : k) - 1;
        *high = *low + 2;
        snprintf(text, 128, "segment %d, byte %zu changed", i, place);
        file_store(b, path, work, f->len);
    } else if (kind == 1) { /* a batch left out */
        memmove(work + at, work + at + len, f->len - at - len);
        snprintf(text, 128, "segment %d, batch %d left out", i, k);
        file_store(b, path, work, f->len - len);
    } else if (kind == 2) { /* a batch twice */
        memmove(work + at + len, work + at, f->len - at);
        snprintf(text, 128, "segment %d, batch %d twice", i, k);
        file_store(b, path, work, f->len + len);
    } else if (kind == 3) { /* two neighbours swapped */
        if (k == BATCHES - 1) k--;
        at = f->batch[k];
        uint64_t one = f->batch[k + 1] - at, two = f->batch[k + 2] - f->batch[k + 1];
        memcpy(work + at, f->bytes + at + one, two);
        memcpy(work + at + two, f->bytes + at, one);
        *low = i * BATCHES + k;
        *high = *low + 2;
        snprintf(text, 128, "segment %d, batches %d and %d swapped", i, k, k + 1);
        file_store(b, path, work, f->len);
    } else if (kind == 4) { /* cut off, anywhere */
        size_t place = f->batch[0] + random_below(seed, (uint32_t)(f->len - f->batch[0]));
        snprintf(text, 128, "segment %d cut at %zu of %zu", i, place, f->len);
        k = 0;
        while (place >= f->batch[k + 1]) k++;
        *low = i * BATCHES + k;
        *high = i * BATCHES + BATCHES;
        file_store(b, path, work, place);
    }
}

/* … and those that are about more than one batch. */
static void mutate_more(struct bench *b, int kind, uint64_t *seed, int *low, int *high, char text[128]) {
    static uint8_t work[1 << 20];
    int i = (int)random_below(seed, SEGMENTS), k = (int)random_below(seed, BATCHES);
    struct file *f = &file[i];
    char *path = segment_path(b, f->first);
    uint64_t at = f->batch[k], len = f->batch[k + 1] - at;
    *low = i * BATCHES + k;
    *high = *low + 1;
    memcpy(work, f->bytes, f->len);
    if (kind == 5) { /* a segment removed */
        *low = i * BATCHES;
        *high = *low + BATCHES;
        snprintf(text, 128, "segment %d removed", i);
        cr_assert_eq(unlink(path), 0);
    } else if (kind == 6) { /* two segments swapped */
        int j = (i + 1 + (int)random_below(seed, SEGMENTS - 1)) % SEGMENTS;
        file_store(b, path, file[j].bytes, file[j].len);
        file_store(b, segment_path(b, file[j].first), f->bytes, f->len);
        *low = (i < j ? i : j) * BATCHES;
        *high = *low + BATCHES;
        snprintf(text, 128, "segments %d and %d swapped", i, j);
    } else if (kind == 7) { /* bytes put in */
        size_t place = f->batch[0] + random_below(seed, (uint32_t)(f->len - f->batch[0])),
               n = 1 + random_below(seed, 300);
        memmove(work + place + n, work + place, f->len - place);
        for (size_t c = 0; c < n; c++) work[place + c] = (uint8_t)random_below(seed, 256);
        k = 0;
        while (place >= f->batch[k + 1]) k++;
        *low = i * BATCHES + k;
        *high = *low + 2;
        snprintf(text, 128, "segment %d, %zu bytes put in at %zu", i, n, place);
        file_store(b, path, work, f->len + n);
    } else { /* a batch of another place */
        int j = (i + 1) % SEGMENTS;
        uint64_t from = file[j].batch[k], n = file[j].batch[k + 1] - from;
        memmove(work + at + n, work + at + len, f->len - at - len);
        memcpy(work + at, file[j].bytes + from, n);
        snprintf(text, 128, "segment %d, batch %d is that of segment %d", i, k, j);
        file_store(b, path, work, f->len - len + n);
    }
}

/* What whoever can write the disk can do: everything but the halves of the macs that need the key. */
static void rehash(struct bench *b, uint64_t first, uint64_t changed) {
    int fd = file_open(b, first);
    struct segment s;
    struct segment_batch batch;
    uint8_t mac[LOG_MAC_BYTES];
    segment_init(&s);
    cr_assert_eq(segment_open(&s, b->writer.folder_fd, first, &b->err), 0);
    memcpy(mac, s.mac, sizeof mac);
    for (uint64_t at = s.body; segment_batch_at(&s, at, &batch, &b->err) == SEGMENT_BATCH; at += batch.head.bytes) {
        if (at >= changed) {
            log_mac_make(NULL, mac, batch.bytes, batch.head.bytes - LOG_MAC_BYTES, mac);
            cr_assert_eq(pwrite(fd, mac, LOG_HASH_BYTES, (off_t)(at + batch.head.bytes - LOG_MAC_BYTES)),
                         LOG_HASH_BYTES);
        } else {
            memcpy(mac, batch.mac, sizeof mac);
        }
    }
    segment_free(&s);
    close(fd);
}

Test(log_verify, hashes_that_were_made_anew_do_not_lead_to_what_was_signed) {
    struct bench *b = filled();
    files_load(b);
    uint64_t at = file[SEGMENTS - 1].batch[1];
    uint8_t byte = file[SEGMENTS - 1].bytes[at + 100] ^ 1;
    int fd = file_open(b, file[SEGMENTS - 1].first);
    cr_assert_eq(pwrite(fd, &byte, 1, (off_t)at + 100), 1);
    close(fd);
    cr_assert_eq(verify(b, (struct with){.no_key = true}), 1, "the batch is not what its hash says");
    rehash(b, file[SEGMENTS - 1].first, at);
    cr_assert_gt(verify(b, (struct with){.no_key = true}), 0, "the anchor of the last batch");
    cr_assert(told(VERIFY_CHANGED, file[SEGMENTS - 1].first));
    cr_assert_gt(verify(b, (struct with){0}), 0, "the macs");
    for (int i = 0; i < SEGMENTS; i++) free(file[i].bytes);
    bench_drop(b);
}

/* A finding names a place in the surroundings: the segment, and entries or bytes there. */
static bool named(int low, int high) {
    for (size_t n = 0; n < v.count; n++) {
        const struct verify_finding *f = &v.finding[n];
        if (f->kind == VERIFY_ANCHOR) continue;
        uint64_t first = f->first != 0 ? f->first : f->segment, last = f->last != 0 ? f->last : first;
        if ((int64_t)last >= low * 5 - 4 && (int64_t)first <= high * 5 + 6) return true;
    }
    return false;
}

Test(log_verify, a_thousand_mutations_are_all_found_and_their_place_is_named, .timeout = 120) {
    enum { MUTATIONS = 1000, KINDS = 9 };
    const char *asked = getenv("SEED");
    uint64_t seed = asked != NULL ? strtoull(asked, NULL, 10) : 3;
    struct bench *b = filled();
    files_load(b);
    for (int n = 0; n < MUTATIONS; n++) {
        char text[128];
        int low, high;
        (n % KINDS < 5 ? mutate : mutate_more)(b, n % KINDS, &seed, &low, &high, text);
        bool no_key = n % KINDS != 0 && n % 2 == 1; /* of a byte, it may be one of the half that only the key knows */
        cr_assert_gt(verify(b, (struct with){.no_key = no_key}), 0, "%s: not found", text);
        cr_assert(named(low, high), "%s: named instead: %s in %d, entries %d to %d", text, v.finding[0].text,
                  (int)v.finding[0].segment, (int)v.finding[0].first, (int)v.finding[0].last);
        files_restore(b);
    }
    cr_assert_eq(verify(b, (struct with){0}), 0, "%s", v.finding[0].text);
    for (int i = 0; i < SEGMENTS; i++) free(file[i].bytes);
    bench_drop(b);
}

Test(log_verify, every_bit_of_a_batch_counts, .timeout = 120) {
    struct bench *b = filled();
    files_load(b);
    uint64_t from = file[1].batch[3], to = file[1].batch[4];
    int fd = file_open(b, file[1].first);
    for (uint64_t at = from; at < to; at++)
        for (int bit = 0; bit < 8; bit += 7) {
            uint8_t byte = file[1].bytes[at] ^ (uint8_t)(1 << bit);
            cr_assert_eq(pwrite(fd, &byte, 1, (off_t)at), 1);
            cr_assert_gt(verify(b, (struct with){0}), 0, "byte %d", (int)(at - from));
            cr_assert_leq(v.count, 3);
            cr_assert_eq(v.finding[0].segment, file[1].first);
            cr_assert_eq(pwrite(fd, &file[1].bytes[at], 1, (off_t)at), 1);
        }
    close(fd);
    cr_assert_eq(verify(b, (struct with){0}), 0);
    bench_drop(b);
}

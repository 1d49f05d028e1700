#include "audit/anchor.h"

#include <errno.h>
#include <openssl/evp.h>

#include "audit/anchor_list.h"
#include "audit/scribe.h"
#include "tests/unit/audit/help.h"

static EVP_PKEY *key_of(uint8_t first) {
    uint8_t seed[AUDIT_KEY_BYTES] = {first};
    struct err err;
    EVP_PKEY *key = anchor_key_make(seed, &err);
    cr_assert_not_null(key, "%s", err.text);
    return key;
}

static struct anchor sample(uint64_t sequence) {
    struct anchor a = {.segment = 17, .sequence = sequence, .written_us = 1700000000000000, .key_id = 3};
    memset(a.mac, 0xab, sizeof a.mac);
    return a;
}

Test(anchor, a_line_is_read_as_it_was_written_and_its_signature_holds) {
    struct bench *b = bench_make();
    char line[ANCHOR_LINE_BYTES];
    struct anchor a = sample(4711), read;
    EVP_PKEY *key = key_of(1), *other = key_of(2);
    snprintf(b->config.kafka.group_id, sizeof b->config.kafka.group_id, "a \"group\" with \\ and \xff");
    memset(a.previous, 0xcd, sizeof a.previous);
    size_t len = anchor_line(&a, &b->config, key, line, &b->err);
    cr_assert_gt(len, 0);
    cr_assert_eq(line[len - 1], '\n');
    cr_assert_eq(strlen(line), len);
    cr_assert_eq(anchor_parse(&read, line, len), 0, "%s", line);
    cr_assert_eq(memcmp(&read, &a, sizeof a), 0);
    cr_assert_eq(anchor_parse(&read, line, len - 1), 0, "without its newline");
    cr_assert(anchor_signed(line, len, key));
    cr_assert_not(anchor_signed(line, len, other));
    for (size_t i = 0; i + 2 < len; i++) {
        line[i] ^= 1;
        cr_assert_not(anchor_signed(line, len, key), "byte %d", (int)i);
        line[i] ^= 1;
    }
    for (size_t cut = 0; cut + 1 < len; cut++) cr_assert_neq(anchor_parse(&read, line, cut), 0);
    EVP_PKEY_free(key);
    EVP_PKEY_free(other);
    bench_drop(b);
}

Test(anchor, the_longest_names_fit) {
    struct bench *b = bench_make();
    char line[ANCHOR_LINE_BYTES];
    struct anchor a = sample(UINT64_MAX);
    EVP_PKEY *key = key_of(1);
    memset(b->config.kafka.group_id, 1, sizeof b->config.kafka.group_id - 1); /* six characters each, as JSON */
    memset(b->config.instance, 'i', sizeof b->config.instance - 1);
    cr_assert_gt(anchor_line(&a, &b->config, key, line, &b->err), 1536);
    EVP_PKEY_free(key);
    bench_drop(b);
}

Test(anchor, each_line_names_the_one_before_it_over_restarts_and_a_torn_line_is_cut) {
    struct bench *b = bench_make();
    struct anchors file;
    char line[ANCHOR_LINE_BYTES];
    EVP_PKEY *key = key_of(1);
    uint8_t before[ANCHOR_SIGNATURE_BYTES] = {0};
    int folder = open(b->dir, O_RDONLY | O_DIRECTORY);
    for (uint64_t n = 1; n <= 5; n++) {
        struct anchor a = sample(n * 10);
        cr_assert_eq(anchors_open(&file, folder, &log_files_real, &b->err), 0, "%s", b->err.text);
        cr_assert_eq(file.sequence, (n - 1) * 10);
        cr_assert_eq(anchors_append(&file, &a, &b->config, key, line, &b->err), 0);
        cr_assert_eq(memcmp(a.previous, before, sizeof before), 0);
        memcpy(before, a.signature, sizeof before);
        cr_assert_eq(pwrite(file.fd, line, strlen(line) / n, (off_t)file.end), (ssize_t)(strlen(line) / n));
        if (n == 1) cr_assert_eq(ftruncate(file.fd, (off_t)file.end + 30), 0);
        anchors_close(&file);
    }
    cr_assert_eq(anchors_open(&file, folder, &log_files_real, &b->err), 0);
    struct stat st;
    cr_assert_eq(fstat(file.fd, &st), 0);
    cr_assert_eq(st.st_size, (off_t)file.end);
    anchors_close(&file);
    close(folder);
    EVP_PKEY_free(key);
    bench_drop(b);
}

static int sync_fails(void *c, int fd) {
    (void)c, (void)fd;
    errno = EIO;
    return -1;
}

static int truncate_fails(void *c, int fd, off_t bytes) {
    (void)c, (void)fd, (void)bytes;
    errno = EIO;
    return -1;
}

Test(anchor, what_a_failed_attempt_left_and_could_not_take_back_is_never_part_of_the_file) {
    struct bench *b = bench_make();
    struct anchors file;
    struct anchor longer = sample(1234567890), shorter = sample(5);
    char line[ANCHOR_LINE_BYTES];
    struct stat st;
    EVP_PKEY *key = key_of(1);
    int folder = open(b->dir, O_RDONLY | O_DIRECTORY);
    b->files.sync = sync_fails;
    b->files.truncate = truncate_fails;
    cr_assert_eq(anchors_open(&file, folder, &b->files, &b->err), 0);
    cr_assert_neq(anchors_append(&file, &longer, &b->config, key, line, &b->err), 0);
    b->files.sync = log_files_real.sync;
    cr_assert_neq(anchors_append(&file, &shorter, &b->config, key, line, &b->err), 0);
    b->files.truncate = log_files_real.truncate;
    cr_assert_eq(anchors_append(&file, &shorter, &b->config, key, line, &b->err), 0);
    cr_assert_eq(fstat(file.fd, &st), 0);
    cr_assert_eq(st.st_size, (off_t)strlen(line));
    anchors_close(&file);
    close(folder);
    EVP_PKEY_free(key);
    bench_drop(b);
}

Test(anchor, one_that_is_not_durable_counts_as_not_written) {
    struct bench *b = bench_make();
    struct anchors file;
    struct anchor a = sample(5);
    char line[ANCHOR_LINE_BYTES];
    EVP_PKEY *key = key_of(1);
    int folder = open(b->dir, O_RDONLY | O_DIRECTORY);
    b->files.sync = sync_fails;
    cr_assert_eq(anchors_open(&file, folder, &b->files, &b->err), 0);
    cr_assert_neq(anchors_append(&file, &a, &b->config, key, line, &b->err), 0);
    cr_assert_eq(b->err.code, EIO);
    cr_assert_eq(file.end, 0);
    cr_assert_eq(file.sequence, 0);
    b->files.sync = log_files_real.sync;
    cr_assert_eq(anchors_append(&file, &a, &b->config, key, line, &b->err), 0);
    cr_assert_eq(file.end, strlen(line));
    anchors_close(&file);
    close(folder);
    EVP_PKEY_free(key);
    bench_drop(b);
}

Test(anchor, a_line_gets_its_newline_when_it_is_durable_or_by_the_next_start) {
    struct bench *b = bench_make();
    struct anchors file;
    struct anchor a = sample(5), next = sample(6);
    char line[ANCHOR_LINE_BYTES];
    struct stat st;
    EVP_PKEY *key = key_of(1);
    int folder = open(b->dir, O_RDONLY | O_DIRECTORY);
    cr_assert_eq(anchors_open(&file, folder, &log_files_real, &b->err), 0);
    cr_assert_eq(anchors_append(&file, &a, &b->config, key, line, &b->err), 0);
    cr_assert_eq(ftruncate(file.fd, (off_t)file.end - 1), 0); /* the power was lost in between */
    anchors_close(&file);
    cr_assert_eq(anchors_open(&file, folder, &log_files_real, &b->err), 0, "%s", b->err.text);
    cr_assert_eq(file.sequence, 5);
    cr_assert_eq(fstat(file.fd, &st), 0);
    cr_assert(st.st_size == (off_t)file.end && file.end == strlen(line));
    cr_assert_eq(anchors_append(&file, &next, &b->config, key, line, &b->err), 0);
    cr_assert_eq(memcmp(next.previous, a.signature, sizeof a.signature), 0);
    anchors_close(&file);
    close(folder);
    EVP_PKEY_free(key);
    bench_drop(b);
}

/* -- lists ------------------------------------------------------------------------------------- */

static int faults[3];
static void fault(void *context, uint64_t line, enum anchor_fault f) {
    (void)context, (void)line;
    faults[f]++;
}

Test(anchor_list, takes_the_lines_of_one_log_each_once_out_of_a_file_of_many) {
    struct bench *b = bench_make();
    char path[128], line[ANCHOR_LINE_BYTES];
    struct anchors mine, theirs;
    struct anchor_list l;
    struct log_head head = {0};
    EVP_PKEY *key = key_of(1);
    snprintf(path, sizeof path, "%s/all", b->dir);
    snprintf(head.name, sizeof head.name, "%s", b->config.name);
    snprintf(head.instance, sizeof head.instance, "%s", b->config.instance);
    snprintf(head.group, sizeof head.group, "%s", b->config.kafka.group_id);
    FILE *all = fopen(path, "w");
    int folder = open(b->dir, O_RDONLY | O_DIRECTORY);
    cr_assert_eq(mkdirat(folder, "other", 0700), 0);
    int other = openat(folder, "other", O_RDONLY | O_DIRECTORY);
    cr_assert_eq(anchors_open(&mine, folder, &log_files_real, &b->err), 0);
    cr_assert_eq(anchors_open(&theirs, other, &log_files_real, &b->err), 0);
    struct config second = b->config;
    snprintf(second.instance, sizeof second.instance, "node2");
    for (uint64_t n = 1; n <= 6; n++) {
        struct anchor a = sample(n), o = sample(n);
        a.removed = n == 3;
        cr_assert_eq(anchors_append(&mine, &a, &b->config, key, line, &b->err), 0);
        fputs(line, all);
        if (n % 2 == 0) fputs(line, all);
        cr_assert_eq(anchors_append(&theirs, &o, &second, key, line, &b->err), 0);
        fputs(line, all);
    }
    fputs("no anchor\n{\"type\":\"anch", all);
    fclose(all);
    cr_assert_eq(anchor_list_load(&l, path, &head, key, true, fault, NULL, &b->err), 0, "%s", b->err.text);
    cr_assert_eq(l.count, 6);
    cr_assert_eq(l.foreign, 6);
    cr_assert_eq(faults[ANCHOR_NONE], 1);
    cr_assert_eq(faults[ANCHOR_GAP] + faults[ANCHOR_UNSIGNED], 0);
    cr_assert_not_null(anchor_list_removed(&l, 3));
    cr_assert_null(anchor_list_removed(&l, 4));
    uint8_t mac[LOG_MAC_BYTES];
    memset(mac, 0xab, sizeof mac);
    anchor_list_meet(&l, 17, 4, mac);
    anchor_list_meet(&l, 18, 5, mac);
    mac[0] = 0;
    anchor_list_meet(&l, 17, 6, mac);
    cr_assert(l.row[3].met && l.row[4].seen && !l.row[4].met && l.row[5].seen && !l.row[5].met && !l.row[0].seen);
    anchor_list_free(&l);
    cr_assert_neq(anchor_list_load(&l, "/tmp/millrace-no-such", NULL, key, true, fault, NULL, &b->err), 0);
    cr_assert_eq(b->err.code, ENOENT);
    anchors_close(&mine);
    anchors_close(&theirs);
    close(folder);
    close(other);
    unlinkat(AT_FDCWD, path, 0);
    EVP_PKEY_free(key);
    bench_drop(b);
}

/* -- what the scribe makes of them ------------------------------------------------------------- */

static void errand(struct scribe *s) {
    struct scribe_result r;
    scribe_start(s, false);
    cr_assert_eq(scribe_poll(s, &r), SCRIBE_DONE);
    cr_assert_eq(r.failed, 0, "%s", r.err.text);
}

static int unlink_fails(void *c, int folder, const char *name) {
    (void)c, (void)folder, (void)name;
    errno = EACCES;
    return -1;
}

Test(scribe, what_cannot_be_removed_is_signed_for_once) {
    struct bench *b = bench_make();
    struct scribe s;
    b->config.recon.segment_bytes = 1;
    b->files.unlink = unlink_fails;
    const struct log_writer_plan plan = {
        .dir = b->log, .config = &b->config, .clock = &b->clock, .files = &b->files, .entry_bytes_max = 4096};
    cr_assert_eq(scribe_init(&s, &plan, &b->keys, false, &b->err), 0);
    errand(&s);
    for (uint64_t n = 1; n <= 2; n++) {
        log_writer_add(&s.log, 0, 77, n, entry_make(0, 0, (int64_t)n, 0));
        errand(&s);
    }
    b->wall_ms += (int64_t)b->config.recon.retention_ms + 1000;
    b->config.recon.segment_bytes = 1 << 20;
    uint64_t end = 0;
    for (uint64_t n = 3; n <= 6; n++) {
        log_writer_add(&s.log, 0, 77, n, entry_make(0, 0, (int64_t)n, 0));
        errand(&s);
        if (n > 3) cr_assert_eq(s.anchors.end, end, "entry %d", (int)n);
        end = s.anchors.end;
    }
    cr_assert_gt(file_bytes(b, 1), 0);
    scribe_fini(&s);
    bench_drop(b);
}

/* Who has the disk may want an auditor to have nothing to compare with. */
Test(scribe, anchors_that_are_gone_are_not_begun_anew_in_silence) {
    struct bench *b = bench_make();
    char path[128];
    const struct log_writer_plan plan = {
        .dir = b->log, .config = &b->config, .clock = &b->clock, .files = &b->files, .entry_bytes_max = 4096};
    snprintf(path, sizeof path, "%s/anchors", b->log);
    for (int start = 0; start < 4; start++) {
        struct scribe s;
        cr_assert_eq(scribe_init(&s, &plan, &b->keys, false, &b->err), 0);
        errand(&s);
        cr_assert_eq(s.anchors_gone, start == 2, "start %d", start);
        log_writer_add(&s.log, 0, 77, (uint64_t)start + 1, entry_make(0, 0, start, 0));
        errand(&s);
        scribe_fini(&s);
        if (start == 1) cr_assert_eq(unlink(path), 0);
    }
    bench_drop(b);
}

Test(scribe, a_segment_is_signed_for_before_retention_removes_it_with_its_index) {
    struct bench *b = bench_make();
    struct scribe s;
    char path[128];
    b->config.recon.segment_bytes = 1;
    const struct log_writer_plan plan = {
        .dir = b->log, .config = &b->config, .clock = &b->clock, .files = &b->files, .entry_bytes_max = 4096};
    cr_assert_eq(scribe_init(&s, &plan, &b->keys, false, &b->err), 0);
    errand(&s);
    for (uint64_t n = 1; n <= 4; n++) {
        log_writer_add(&s.log, 0, 77, n, entry_make(0, 0, (int64_t)n, 0));
        errand(&s);
        b->wall_ms += 1000;
    }
    snprintf(path, sizeof path, "%s/%016d.index", b->log, 1);
    close(open(path, O_WRONLY | O_CREAT, 0600));
    b->wall_ms += (int64_t)b->config.recon.retention_ms;
    b->config.recon.segment_bytes = 1 << 20;
    log_writer_add(&s.log, 0, 77, 5, entry_make(0, 0, 5, 0));
    errand(&s);
    cr_assert_eq(file_bytes(b, 1), -1);
    cr_assert_neq(access(path, F_OK), 0);
    struct anchor_list l;
    snprintf(path, sizeof path, "%s/" ANCHORS_NAME, b->log);
    cr_assert_eq(anchor_list_load(&l, path, NULL, s.anchor_key, true, fault, NULL, &b->err), 0);
    cr_assert_eq(faults[ANCHOR_NONE] + faults[ANCHOR_GAP] + faults[ANCHOR_UNSIGNED], 0);
    cr_assert_not_null(anchor_list_removed(&l, 1));
    cr_assert_null(anchor_list_removed(&l, 2), "one at a time");
    anchor_list_free(&l);
    scribe_fini(&s);
    bench_drop(b);
}

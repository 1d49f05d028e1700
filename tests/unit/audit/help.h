/* A log in a folder of its own, and entries to put in it. */
#ifndef TESTS_UNIT_AUDIT_HELP_H
#define TESTS_UNIT_AUDIT_HELP_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "audit/log.h"
#include "audit/segment.h"
#include "audit/writer.h"
#include "shm/record.h"

enum { CONTENT_MAX = 4096 };

struct bench {
    char dir[64]; /* holds the folder "audit" */
    char log[80];
    struct config config;
    struct audit_keys keys;
    struct clock_port clock;
    int64_t wall_ms, set_ms; /* set_ms: by how much it was set, which no other clock sees */
    struct log_files files;
    struct log_writer writer;
    struct err err;
};

static inline uint32_t random_below(uint64_t *seed, uint32_t n) {
    *seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)((*seed >> 33) % n);
}

static int64_t bench_wall_ms(void *context) {
    const struct bench *b = context;
    return b->wall_ms + b->set_ms;
}
static uint64_t bench_ns(void *context) { return (uint64_t)((struct bench *)context)->wall_ms * NS_PER_MS; }

static inline void bench_topics(struct bench *b, int n, const char *const *names) {
    b->config.topic_count = (uint32_t)n;
    for (int i = 0; i < n; i++) snprintf(b->config.topic[i].name, sizeof b->config.topic[i].name, "%s", names[i]);
}

static inline struct bench *bench_make(void) {
    struct bench *b = calloc(1, sizeof *b);
    snprintf(b->dir, sizeof b->dir, "/tmp/millrace-log-XXXXXX");
    cr_assert_not_null(mkdtemp(b->dir));
    snprintf(b->log, sizeof b->log, "%s/audit", b->dir);
    snprintf(b->config.name, sizeof b->config.name, "cards");
    snprintf(b->config.instance, sizeof b->config.instance, "node1");
    snprintf(b->config.data_dir, sizeof b->config.data_dir, "%s", b->dir);
    snprintf(b->config.kafka.group_id, sizeof b->config.kafka.group_id, "millrace-cards");
    bench_topics(b, 2, (const char *const[]){"cards", "limits"});
    b->config.lanes = 2;
    b->config.recon.commit_interval_ms = 100;
    b->config.recon.commit_records = 1000;
    b->config.recon.segment_bytes = 1 << 20;
    b->config.recon.retention_ms = 3600000;
    b->config.recon.retention_bytes = 1ULL << 40;
    b->keys.id = 7;
    memset(b->keys.chain, 0x42, sizeof b->keys.chain);
    memset(b->keys.anchor_seed, 0x43, sizeof b->keys.anchor_seed);
    b->wall_ms = 1700000000000;
    b->clock = (struct clock_port){bench_ns, bench_wall_ms, bench_ns, clock_real.random, b};
    b->files = log_files_real;
    b->writer = (struct log_writer){.fd = -1, .folder_fd = -1};
    return b;
}

static inline int bench_open(struct bench *b) {
    struct log_mac_key key;
    log_mac_key_init(&key, b->keys.chain);
    const struct log_writer_plan plan = {.dir = b->log,
                                         .config = &b->config,
                                         .key = &key,
                                         .key_id = b->keys.id,
                                         .clock = &b->clock,
                                         .files = &b->files,
                                         .entry_bytes_max = sizeof(struct entry) + CONTENT_MAX};
    return log_writer_open(&b->writer, &plan, &b->err);
}

static inline void folder_remove(const char *path) {
    char *name;
    DIR *d = opendir(path);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        cr_assert_gt(asprintf(&name, "%s/%s", path, e->d_name), 0);
        if (unlink(name) != 0) folder_remove(name);
        free(name);
    }
    if (d != NULL) closedir(d);
    rmdir(path);
}

static inline void bench_drop(struct bench *b) {
    log_writer_close(&b->writer);
    folder_remove(b->dir);
    free(b);
}

/* The entry of a record: everything in it follows from topic, partition and offset. content: bytes behind it. */
static inline const struct entry *entry_make(uint16_t topic, int32_t partition, int64_t offset, uint32_t content) {
    static _Alignas(16) uint8_t room[sizeof(struct entry) + CONTENT_MAX];
    struct entry *e = (struct entry *)(void *)room;
    cr_assert_leq(content, (uint32_t)CONTENT_MAX);
    *e = (struct entry){.bytes = (uint32_t)sizeof *e + content,
                        .topic = topic,
                        .slot = (uint16_t)(topic * 10 + partition),
                        .partition = partition,
                        .epoch = 1,
                        .offset = offset,
                        .timestamp_ms = 1700000000000 + offset,
                        .created_ms = 1700000000000 + offset,
                        .ingested_us = 1700000000000000 + offset * 1000,
                        .op = RECORD_ADD,
                        .outcome = ENTRY_APPLIED,
                        .digest_algorithm = 1,
                        .content_bytes = content,
                        .published_bytes = 512,
                        .stored_bytes = 512};
    record_id_derive(e->id, topic == 0 ? "cards" : "limits", partition, offset);
    memset(e->digest_key, (int)(offset % 251) + 1, sizeof e->digest_key);
    memset(e->digest_published, (int)(offset % 241) + 1, sizeof e->digest_published);
    for (uint32_t i = 0; i < content; i++) room[sizeof *e + i] = (uint8_t)(offset + i * 7);
    return e;
}

/* n entries of topic 0, partition 0, lane 0, numbers and offsets from `from` on, in batches of `batch`. */
static inline void log_fill(struct bench *b, uint64_t from, int n, int batch) {
    for (int i = 0; i < n; i++) {
        uint64_t number = from + (uint64_t)i;
        log_writer_add(&b->writer, 0, 77, number, entry_make(0, 0, (int64_t)number, 0));
        if ((i + 1) % batch == 0 || i + 1 == n)
            cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0, "%s", b->err.text);
    }
}

/* Reads the log from sequence number `from` to its end, expecting the numbers without gaps; returns how many. */
static inline uint64_t log_count(struct bench *b, uint64_t from) {
    struct log_reader *r = log_reader_open(b->log, from, &b->err);
    struct log_item item;
    uint64_t n = 0, next = from == 0 ? 1 : from;
    enum log_read what;
    cr_assert_not_null(r);
    while ((what = log_reader_next(r, &item, &b->err)) == LOG_ITEM) {
        cr_assert_eq(item.sequence, next++);
        n++;
    }
    cr_assert_eq(what, LOG_END, "%d %s", (int)what, b->err.text);
    log_reader_close(r);
    return n;
}

static inline off_t file_bytes(const struct bench *b, uint64_t segment) {
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/%016" PRIx64 ".log", b->log, segment);
    return stat(path, &st) == 0 ? st.st_size : -1;
}

static inline int file_open(const struct bench *b, uint64_t segment) {
    char path[128];
    snprintf(path, sizeof path, "%s/%016" PRIx64 ".log", b->log, segment);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    cr_assert_geq(fd, 0, "%s", path);
    return fd;
}

static inline void file_put(const struct bench *b, uint64_t segment, off_t at, const void *bytes, size_t len) {
    int fd = file_open(b, segment);
    cr_assert_eq(pwrite(fd, bytes, len, at), (ssize_t)len);
    close(fd);
}

static inline void file_cut(const struct bench *b, uint64_t segment, off_t bytes) {
    int fd = file_open(b, segment);
    cr_assert_eq(ftruncate(fd, bytes), 0);
    close(fd);
}

#endif

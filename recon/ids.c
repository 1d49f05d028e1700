#include "recon/ids.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/fault.h"

#define IDS_MAGIC 0x317364696c6c696dULL /* "millids1" */

struct place {                 /* atomic: the order of the stores holds for whoever comes after a death */
    _Atomic uint64_t print;    /* of the id, its bucket's bits included */
    _Atomic uint64_t sequence; /* 0: unused */
};

struct ids_file {
    uint64_t magic, count;
    uint64_t seed; /* of the fingerprint: nobody can choose ids that collide */
    uint64_t reserved[5];
    struct place place[IDS_COUNT];
};

struct ids {
    struct ids_file *file;
};

static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    return x ^ x >> 31;
}

static uint64_t fingerprint(uint64_t seed, const uint8_t id[16]) {
    uint64_t half[2];
    memcpy(half, id, sizeof half);
    return mix(mix(half[0] ^ seed) + half[1]) | 1;
}

static int file_prepare(int fd, const char *path, struct err *err) {
    struct stat s;
    uint64_t head[3] = {0};
    if (fstat(fd, &s) != 0) return err_set(err, EX_IOERR, "%s: %s", path, strerror(errno));
    if (s.st_size == sizeof(struct ids_file) && pread(fd, head, sizeof head, 0) == sizeof head &&
        head[0] == IDS_MAGIC && head[1] == IDS_COUNT)
        return 0;
    if (ftruncate(fd, 0) != 0 || ftruncate(fd, sizeof(struct ids_file)) != 0)
        return err_set(err, EX_IOERR, "%s: %s", path, strerror(errno));
    head[0] = IDS_MAGIC;
    head[1] = IDS_COUNT;
    if (getentropy(&head[2], sizeof head[2]) != 0 || pwrite(fd, head, sizeof head, 0) != sizeof head)
        return err_set(err, EX_IOERR, "%s: %s", path, strerror(errno));
    return 0;
}

struct ids *ids_open(const char *path, struct err *err) {
    int fd = FAULT_FAILS("recon:ids_open") ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0) {
        err_set(err, EX_IOERR, "%s: %s", path, strerror(errno));
        return NULL;
    }
    /* Allocated at once: a full disk is told now, not by a signal at some page. */
    if (file_prepare(fd, path, err) != 0 || (errno = posix_fallocate(fd, 0, sizeof(struct ids_file))) != 0) {
        if (err->code == 0) err_set(err, EX_IOERR, "%s: %s", path, strerror(errno));
        close(fd);
        return NULL;
    }
    void *map = mmap(NULL, sizeof(struct ids_file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) {
        err_set(err, EX_IOERR, "%s: %s", path, strerror(errno));
        return NULL;
    }
    struct ids *t = malloc(sizeof *t);
    CHECK(t != NULL);
    t->file = map;
    return t;
}

void ids_close(struct ids *t) {
    if (t == NULL) return;
    munmap(t->file, sizeof *t->file);
    free(t);
}

/* The earliest entry of an id stays: later ones are its duplicates. A place of a later sequence than the entry at hand
 * was noted before a crash and is free. */
uint64_t ids_note(struct ids *t, const uint8_t id[16], uint64_t sequence) {
    uint64_t print = fingerprint(t->file->seed, id), least = UINT64_MAX;
    struct place *bucket = &t->file->place[(print >> 1) % (IDS_COUNT / IDS_BUCKET) * IDS_BUCKET], *into = bucket;
    for (int i = 0; i < IDS_BUCKET; i++) {
        uint64_t age = atomic_load_explicit(&bucket[i].sequence, memory_order_relaxed);
        if (age > sequence) age = 0;
        if (age != 0 && atomic_load_explicit(&bucket[i].print, memory_order_relaxed) == print)
            return age < sequence ? age : 0;
        if (age < least) into = &bucket[i];
        if (age < least) least = age;
    }
    /* A death between the stores leaves an unused place, never a wrong one. */
    atomic_store_explicit(&into->sequence, 0, memory_order_release);
    atomic_store_explicit(&into->print, print, memory_order_release);
    atomic_store_explicit(&into->sequence, sequence, memory_order_release);
    return 0;
}

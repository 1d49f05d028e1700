#include "tools/rings.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

void rings_file_name(const char *name, char out[40]) {
    char stem[24];
    unsigned lane = 0;
    if (sscanf(name, "%23[a-z][%u]", stem, &lane) == 2)
        snprintf(out, 40, "%s-%u" RING_FILE_SUFFIX, stem, lane);
    else
        snprintf(out, 40, "%s" RING_FILE_SUFFIX, name);
}

bool rings_called(const struct rings_one *one, const char *wanted) {
    char file[40];
    size_t n = strlen(wanted);
    rings_file_name(one->name, file);
    return strcmp(one->name, wanted) == 0 ||
           (strncmp(file, wanted, n) == 0 && (file[n] == '-' || strcmp(file + n, RING_FILE_SUFFIX) == 0));
}

/* -- order ------------------------------------------------------------------------------------- */

static int stage(const char *name) {
    static const char *const stages[] = {"ingest", "transform", "sink", "rejects"};
    for (int i = 0; i < 4; i++)
        if (strncmp(name, stages[i], strlen(stages[i])) == 0) return i;
    return 4;
}

static int order(const void *a, const void *b) {
    const struct rings_one *x = a, *y = b;
    const char *p = strchr(x->name, '['), *q = strchr(y->name, '[');
    int lane = (p != NULL ? atoi(p + 1) : -1) - (q != NULL ? atoi(q + 1) : -1);
    return lane != 0 ? lane : stage(x->name) - stage(y->name);
}

static struct rings_one *add(struct rings *r, const char *name, uint64_t incarnation) {
    for (uint32_t i = 0; i < r->count; i++)
        if (strcmp(r->one[i].name, name) == 0 && r->one[i].incarnation == incarnation) return &r->one[i];
    if (r->count == RINGS_MAX) return NULL;
    struct rings_one *one = &r->one[r->count++];
    *one = (struct rings_one){.incarnation = incarnation, .fds = {-1, -1, -1}};
    snprintf(one->name, sizeof one->name, "%s", name);
    return one;
}

/* -- of a process ------------------------------------------------------------------------------ */

/* Takes up one descriptor of the process when it is a region of a ring. The supervisor has each more than once. */
static void descriptor_take(struct rings *r, int dir, const char *entry) {
    char target[128], name[24], region[16];
    uint64_t incarnation;
    ssize_t n = readlinkat(dir, entry, target, sizeof target - 1);
    target[n > 0 ? n : 0] = 0;
    if (sscanf(target, "/memfd:millring/%23[^/]/%16" SCNx64 "/%15[a-z]", name, &incarnation, region) != 3) return;
    struct rings_one *one = add(r, name, incarnation);
    if (one == NULL) return;
    int *fd = strcmp(region, "constants") == 0  ? &one->fds.constants
              : strcmp(region, "producer") == 0 ? &one->fds.producer
                                                : &one->fds.consumer;
    if (*fd < 0) *fd = openat(dir, entry, O_RDONLY | O_CLOEXEC);
}

/* Rings that were closed while we looked are not there. */
static void incomplete_drop(struct rings *r) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        struct ring_fds *fds = &r->one[i].fds;
        if (fds->constants >= 0 && fds->producer >= 0 && fds->consumer >= 0)
            r->one[kept++] = r->one[i];
        else
            ring_file_drop(fds);
    }
    r->count = kept;
}

int rings_of_process(struct rings *r, pid_t pid, struct err *err) {
    char path[40];
    r->folder = -1;
    r->count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    if (dir == NULL && (errno == EACCES || errno == EPERM))
        return err_set(err, EX_NOPERM,
                       "the rings are the memory of process %d, which is another user's: "
                       "run this as that user or as root",
                       (int)pid);
    if (dir == NULL) return err_set(err, EX_UNAVAILABLE, "process %d: %s", (int)pid, strerror(errno));
    for (struct dirent *e; (e = readdir(dir)) != NULL;) descriptor_take(r, dirfd(dir), e->d_name);
    closedir(dir);
    incomplete_drop(r);
    qsort(r->one, r->count, sizeof r->one[0], order);
    if (r->count == 0) return err_set(err, EX_UNAVAILABLE, "process %d has no rings", (int)pid);
    return 0;
}

/* -- of a folder ------------------------------------------------------------------------------- */

int rings_of_folder(struct rings *r, const char *folder, struct err *err) {
    r->count = 0;
    r->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = r->folder < 0 ? NULL : opendir(folder);
    if (dir == NULL) {
        err_set(err, EX_NOINPUT, "%s: %s", folder, strerror(errno));
        rings_close(r);
        return -1;
    }
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char stem[24], name[24];
        unsigned lane;
        int end = 0;
        if (sscanf(e->d_name, "%11[a-z]-%4u" RING_FILE_SUFFIX "%n", stem, &lane, &end) != 2 || end == 0 ||
            e->d_name[end] != 0)
            continue;
        snprintf(name, sizeof name, "%.11s[%u]", stem, lane % 10000);
        add(r, name, 0);
    }
    closedir(dir);
    qsort(r->one, r->count, sizeof r->one[0], order);
    if (r->count != 0) return 0;
    rings_close(r);
    return err_set(err, EX_NOINPUT, "%s: no files of `millrace ring save` are there", folder);
}

void rings_close(struct rings *r) {
    for (uint32_t i = 0; i < r->count; i++) ring_file_drop(&r->one[i].fds);
    if (r->folder >= 0) close(r->folder);
    r->folder = -1;
    r->count = 0;
}

int rings_take(const struct rings *r, uint32_t i, enum ring_file_part part, struct ring_fds *copy, struct err *err) {
    char file[40];
    if (r->folder < 0) return ring_file_copy(copy, &r->one[i].fds, part, err);
    rings_file_name(r->one[i].name, file);
    return ring_file_load(copy, r->folder, file, part, err);
}

#include "shm/ledger.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shm/workspace.h"

/* All regions begin with magic and version. */
struct region_head {
    _Atomic uint64_t magic;
    uint32_t version;
};
static_assert(offsetof(struct ledger_ingest, version) == offsetof(struct region_head, version), "ledger ABI");
static_assert(offsetof(struct ledger_sink, version) == offsetof(struct region_head, version), "ledger ABI");
static_assert(offsetof(struct ledger_audit, version) == offsetof(struct region_head, version), "ledger ABI");

static void *region_map(int fd, size_t bytes, bool writable, struct err *err) {
    struct region_head *r = workspace_map(fd, bytes, writable, NULL, err);
    if (r == NULL) return NULL;
    if (atomic_load_explicit(&r->magic, memory_order_acquire) == LEDGER_MAGIC && r->version == LEDGER_VERSION) return r;
    err_set(err, EINVAL, "the ledger was made by another build");
    munmap(r, bytes);
    return NULL;
}

struct ledger_ingest *ledger_ingest_map(int fd, bool writable, struct err *err) {
    return region_map(fd, sizeof(struct ledger_ingest), writable, err);
}

struct ledger_sink *ledger_sink_map(int fd, bool writable, struct err *err) {
    return region_map(fd, sizeof(struct ledger_sink), writable, err);
}

struct ledger_audit *ledger_audit_map(int fd, bool writable, struct err *err) {
    return region_map(fd, sizeof(struct ledger_audit), writable, err);
}

int ledger_ingest_create(struct err *err) {
    int fd = workspace_create("ledger-ingest", sizeof(struct ledger_ingest), err);
    if (fd < 0) return -1;
    struct ledger_ingest *l = workspace_map(fd, sizeof *l, true, NULL, err);
    if (l == NULL) {
        close(fd);
        return -1;
    }
    l->version = LEDGER_VERSION;
    for (uint32_t i = 0; i < PARTITIONS_MAX; i++) {
        atomic_store_explicit(&l->slot[i].committed, -1, memory_order_relaxed);
        atomic_store_explicit(&l->slot[i].intent, -1, memory_order_relaxed);
    }
    atomic_store_explicit(&l->magic, LEDGER_MAGIC, memory_order_release);
    munmap(l, sizeof *l);
    return fd;
}

int ledger_sink_create(uint32_t lane, struct err *err) {
    int fd = workspace_create("ledger-sink", sizeof(struct ledger_sink), err);
    if (fd < 0) return -1;
    struct ledger_sink *l = workspace_map(fd, sizeof *l, true, NULL, err);
    if (l == NULL) {
        close(fd);
        return -1;
    }
    l->version = LEDGER_VERSION;
    l->lane = lane;
    atomic_store_explicit(&l->magic, LEDGER_MAGIC, memory_order_release);
    munmap(l, sizeof *l);
    return fd;
}

int ledger_audit_create(struct err *err) {
    int fd = workspace_create("ledger-audit", sizeof(struct ledger_audit), err);
    if (fd < 0) return -1;
    struct ledger_audit *l = workspace_map(fd, sizeof *l, true, NULL, err);
    if (l == NULL) {
        close(fd);
        return -1;
    }
    l->version = LEDGER_VERSION;
    atomic_store_explicit(&l->magic, LEDGER_MAGIC, memory_order_release);
    munmap(l, sizeof *l);
    return fd;
}

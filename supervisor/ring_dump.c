#include "supervisor/ring_dump.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "shm/ring_file.h"

static int dumps_in(const char *path) {
    int n = 0;
    DIR *d = opendir(path);
    if (d == NULL) return RING_DUMPS_MAX;
    for (struct dirent *e; (e = readdir(d)) != NULL;) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* The folder of one dump. -1 with err. */
static int folder_make(const char *data_dir, char path[PATH_BYTES + 48], struct err *err) {
    int n = snprintf(path, PATH_BYTES + 16, "%s/rings", data_dir);
    if (mkdir(path, 0700) != 0 && errno != EEXIST) return err_set(err, errno, "%s: %s", path, strerror(errno));
    if (dumps_in(path) >= RING_DUMPS_MAX)
        return err_set(err, ENOSPC, "%s has %d of them already: remove some", path, RING_DUMPS_MAX);
    snprintf(path + n, 32, "/%lld", (long long)clock_wall_ms(&clock_real));
    int fd = mkdir(path, 0700) == 0 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : -1;
    return fd >= 0 ? fd : err_set(err, errno, "%s: %s", path, strerror(errno));
}

static bool save(int folder, const struct plumbing_ring *ring, const char *from, uint32_t lane) {
    struct err err = {0};
    char name[32];
    snprintf(name, sizeof name, "%s-%u" RING_FILE_SUFFIX, from, lane);
    if (ring_file_save(&ring->ro, folder, name, &err) == 0) return true;
    log_warn("supervisor.ring_unsaved", "%s: %s", name, err.text);
    return false;
}

void ring_dump(const struct plumbing *p, int lane) {
    struct err err = {0};
    char path[PATH_BYTES + 48];
    int saved = 0, folder = folder_make(p->config->data_dir, path, &err);
    if (folder < 0) {
        log_warn("supervisor.ring_unsaved", "%s", err.text);
        return;
    }
    for (uint32_t i = 0; i < p->lanes; i++) {
        if (lane >= 0 && i != (uint32_t)lane) continue;
        saved += save(folder, &p->lane[i].to_transform, "ingest", i);
        saved += save(folder, &p->lane[i].to_sink, "transform", i);
        saved += save(folder, &p->lane[i].rejects, "rejects", i);
        if (p->config->audit) saved += save(folder, &p->lane[i].to_audit, "sink", i);
    }
    close(folder);
    log_info("supervisor.ring_saved", "%d rings as they were: %s", saved, path);
}

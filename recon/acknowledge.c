#include "recon/acknowledge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sysexits.h>
#include <unistd.h>

#include "recon/exception.h"

static const char name[] = "acknowledged";

static int folder_lock(const struct config *c, int how) {
    char folder[PATH_BYTES + 32];
    snprintf(folder, sizeof folder, "%s/recon", c->data_dir);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, how) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

int acknowledge_put(const struct config *c, const char *id, struct err *err) {
    int folder = folder_lock(c, LOCK_EX);
    if (folder < 0) return err_set(err, EX_UNAVAILABLE, "%s/recon: %s", c->data_dir, strerror(errno));
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    bool good = fd >= 0 && dprintf(fd, "%s\n", id) > 0 && fsync(fd) == 0;
    int r = good ? 0 : err_set(err, EX_CANTCREAT, "%s/recon/%s: %s", c->data_dir, name, strerror(errno));
    if (fd >= 0) close(fd);
    close(folder);
    return r;
}

int acknowledge_take(const struct config *c, int (*take)(void *context, const char *id), void *context) {
    char line[EXCEPTION_ID_BYTES + 2];
    int folder = folder_lock(c, LOCK_EX | LOCK_NB), n = 0;
    if (folder < 0) return -1;
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    if (f == NULL) {
        close(folder);
        return -1;
    }
    bool taken = true;
    while (taken && fgets(line, sizeof line, f) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        taken = take(context, line) == 0;
        n++;
    }
    if (taken) unlinkat(folder, name, 0);
    fclose(f);
    close(folder);
    return taken ? n : -1;
}

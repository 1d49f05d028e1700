/* millrace-supervisor -c FILE: forks and execs the workers of one instance, and restarts what dies.
 * Started by `millrace run`, which has checked the configuration before. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "supervisor/supervisor.h"

/* The workers' programs are beside this one. */
static void own_folder(char out[PATH_BYTES]) {
    ssize_t n = readlink("/proc/self/exe", out, PATH_BYTES - 1);
    out[n > 0 ? n : 0] = 0;
    char *slash = strrchr(out, '/');
    if (slash != NULL) *slash = 0;
}

/* A reload reads the file again, wherever this process stands by then. Links are kept: another file may be put in their
 * place. */
static int file_keep(struct supervisor *s, const char *file, struct err *err) {
    char folder[PATH_BYTES] = "";
    if (file[0] != '/' && getcwd(folder, sizeof folder) == NULL)
        return err_set(err, EX_OSERR, "the folder this runs in: %s", strerror(errno));
    int n = snprintf(s->file, sizeof s->file, "%s%s%s", folder, folder[0] != 0 ? "/" : "", file);
    if (n < (int)sizeof s->file) return 0;
    return err_set(err, EX_CONFIG, "%s: the path is too long", file);
}

int main(int argc, char **argv) {
    static struct supervisor s; /* zeroed, and too large for a stack */
    struct err err = {0};
    char folder[PATH_BYTES];
    if (argc != 3 || strcmp(argv[1], "-c") != 0) {
        fprintf(stderr, "usage: millrace-supervisor -c FILE (normally started by `millrace run -c FILE`)\n");
        return EX_USAGE;
    }
    if (config_load(argv[2], &s.config, &err) != 0 || file_keep(&s, argv[2], &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        return err.code;
    }
    char where[2 * NAME_BYTES];
    snprintf(where, sizeof where, "%.63s/%.63s", s.config.name, s.config.instance);
    log_init(where, role_name(ROLE_SUPERVISOR), -1, s.config.log.format == LOG_JSON, s.config.log.level);
    own_folder(folder);
    if (supervisor_init(&s, folder, &err) != 0) {
        log_error("supervisor.cannot_start", "%s", err.text);
        return err.code;
    }
    return supervisor_run(&s);
}

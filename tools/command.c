#include "tools/command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sysexits.h>
#include <unistd.h>

#include "audit/index.h"
#include "audit/search.h"

const struct config *command_config(const char *file, int *status) {
    static struct config config; /* zeroed, and too large for a stack */
    struct err err = {0};
    if (file == NULL) file = config_find();
    if (file == NULL) {
        fprintf(stderr, "millrace: no -c FILE, and neither ./millrace.yaml nor /etc/millrace/millrace.yaml is there\n");
        *status = EX_NOINPUT;
        return NULL;
    }
    if (config_load(file, &config, &err) == 0) return &config;
    fprintf(stderr, "%s\n", err.text);
    *status = err.code;
    return NULL;
}

int command_place(const char *command, const char *file, const char *name, const char *run_dir,
                  struct command_place *out) {
    int status;
    if (file != NULL && name != NULL) return command_misuse(command, "-c and --name say the same thing twice");
    if (run_dir != NULL && name == NULL) return command_misuse(command, "--run-dir goes with --name");
    *out = (struct command_place){run_dir != NULL ? run_dir : "/run/millrace", name};
    if (name != NULL) return 0;
    const struct config *c = command_config(file, &status);
    if (c == NULL) return status;
    *out = (struct command_place){c->run_dir, c->name};
    return 0;
}

int command_misuse(const char *command, const char *format, ...) {
    va_list args;
    fprintf(stderr, "millrace %s: ", command);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nTry `millrace %s --help`.\n", command);
    return EX_USAGE;
}

int command_exec(const char *program, char **argv) {
    static const char *const places[] = {"", "../libexec/millrace/"};
    char own[PATH_BYTES], path[2 * PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", own, sizeof own - 1);
    own[n > 0 ? n : 0] = 0;
    char *slash = strrchr(own, '/');
    if (slash != NULL) slash[1] = 0;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        snprintf(path, sizeof path, "%s%s%s", own, places[i], program);
        execv(path, argv);
        if (errno == ENOENT) continue;
        fprintf(stderr, "millrace: %s: %s\n", path, strerror(errno));
        return EX_OSERR;
    }
    fprintf(stderr, "millrace: %s is neither beside this program nor in ../libexec/millrace\n", program);
    return EX_UNAVAILABLE;
}

void command_index_key(const char *keys) {
    struct err ignored;
    if (keys == NULL || keys[0] == '\0') return;
    prctl(PR_SET_DUMPABLE, 0); /* what it holds in memory must not end in a core dump */
    (void)index_key_load(keys, &ignored);
}

void command_forged(const char *command, const struct log_search *s) {
    uint64_t n = log_search_forged(s);
    if (n > 0)
        fprintf(stderr,
                "millrace %s: %" PRIu64 " indexes of the audit log were changed by somebody: those segments were "
                "read through\n",
                command, n);
}

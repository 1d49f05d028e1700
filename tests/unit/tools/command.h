/* What the tests of commands share: running one as a process of its own, and a folder to do it in. */
#ifndef MILLRACE_TESTS_UNIT_TOOLS_COMMAND_H
#define MILLRACE_TESTS_UNIT_TOOLS_COMMAND_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "tools/command.h"

struct outcome {
    int status; /* exit status; -1: ended by a signal */
    char out[65536], err[4096];
    size_t out_bytes;
};

static struct outcome done; /* of the last run_command */
static char folder[64];

static inline void folder_make(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *place) {
    (void)st;
    (void)type;
    (void)place;
    return remove(path);
}

static inline void folder_remove(void) { nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

/* The path of a file in the test's folder; up to four at a time. */
static inline const char *in_folder(const char *name) {
    static char path[4][256];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static inline void file_put(const char *name, const char *text) {
    FILE *f = fopen(in_folder(name), "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

static inline size_t file_get(const char *name, char *out, size_t room) {
    FILE *f = fopen(in_folder(name), "r");
    cr_assert_not_null(f, "%s", name);
    size_t n = fread(out, 1, room - 1, f);
    out[n] = '\0';
    fclose(f);
    return n;
}

/* Runs a command with these arguments (the last one NULL) in a child and waits for it; the outcome is in `done`. */
static inline int run_command(int (*command)(int, char **), char **argv) {
    int argc = 0;
    while (argv[argc] != NULL) argc++;
    fflush(NULL);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        int out = open(in_folder(".out"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        int err = open(in_folder(".err"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(out, STDOUT_FILENO);
        dup2(err, STDERR_FILENO);
        int status = command(argc, argv);
        fflush(NULL);
        _exit(status);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    done.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    done.out_bytes = file_get(".out", done.out, sizeof done.out);
    file_get(".err", done.err, sizeof done.err);
    return done.status;
}
#define RUN(command, ...) run_command(command, (char *[]){#command, __VA_ARGS__, NULL})

#endif

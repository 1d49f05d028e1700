/* millrace keygen: makes and extends key files (base/keys.h). */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/keys.h"
#include "base/write_all.h"
#include "tools/command.h"

static const char help[] =
    "usage: millrace keygen FILE           make a key file with one key\n"
    "       millrace keygen --add FILE     add a key, which becomes the current one; old ones still decrypt\n"
    "       millrace keygen --list FILE    show ids and dates, never keys  [--json]\n"
    "\n"
    "FILE is for crypto.keys, or for recon.keys, which takes one key and is the same for all instances of a group.\n"
    "A running instance uses a new key after its next restart. Keep a copy of the file in a safe place: values that\n"
    "were encrypted with a lost key are lost.\n";

static const char preamble[] =
    "# Keys of millrace, made by `millrace keygen`. Whoever can read this file can read the values in Redis.\n"
    "# key ID KEY(base64) CREATED\n";

static int complain(int code, const char *path, const char *what) {
    fprintf(stderr, "millrace keygen: %s: %s\n", path, what);
    return code;
}

static int complain_errno(const char *path) { return complain(EX_CANTCREAT, path, strerror(errno)); }

static void key_make(struct key *key, uint32_t id) {
    time_t now = (time_t)(clock_wall_ms(&clock_real) / 1000);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(key->created, sizeof key->created, "%Y-%m-%d", &utc);
    key->id = id;
    clock_real.random(clock_real.context, key->bytes, sizeof key->bytes);
}

/* -- writing ----------------------------------------------------------------------------------- */

static bool folder_sync(const char *path) {
    char folder[PATH_BYTES];
    const char *slash = strrchr(path, '/');
    int n = slash == NULL ? snprintf(folder, sizeof folder, ".")
                          : snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    if (n < 0 || (size_t)n >= sizeof folder) {
        errno = ENAMETOOLONG;
        return false;
    }
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = fsync(fd) == 0;
    close(fd);
    return ok;
}

/* Writes a new file that must not be there yet, durably. like: whose owner and mode it takes over; NULL: 0600. */
static int file_make(const char *path, const char *text, size_t len, const struct stat *like) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return complain_errno(path);
    bool ok = write_all(fd, text, len) == 0;
    if (like != NULL && (like->st_uid != geteuid() || like->st_gid != getegid()))
        ok = ok && fchown(fd, like->st_uid, like->st_gid) == 0; /* the service that reads it may be another user */
    ok = ok && fchmod(fd, like != NULL ? like->st_mode & 0777 : 0600) == 0 && fsync(fd) == 0;
    int status = ok ? EX_OK : complain_errno(path);
    close(fd);
    if (!ok) unlink(path);
    return status;
}

/* -- the three forms --------------------------------------------------------------------------- */

static int create(const char *path) {
    char text[sizeof preamble + KEYS_LINE_BYTES + 32];
    struct key key;
    memcpy(text, preamble, sizeof preamble - 1);
    size_t len = sizeof preamble - 1;
    key_make(&key, 1);
    len += keys_line(text + len, &key);
    len += (size_t)snprintf(text + len, sizeof text - len, "current %u\n", key.id);
    int status = file_make(path, text, len, NULL);
    explicit_bzero(text, sizeof text);
    explicit_bzero(&key, sizeof key);
    if (status != EX_OK) return status;
    if (!folder_sync(path)) return complain_errno(path);
    printf("%s: made key 1, which is the current one\n", path);
    return EX_OK;
}

/* Copies the lines of text[0, len) to out but those that name the current key. Returns the length. */
static size_t lines_keep(char *out, const char *text, size_t len) {
    size_t used = 0;
    for (size_t at = 0; at < len;) {
        const char *line = text + at, *end = memchr(line, '\n', len - at);
        size_t n = end != NULL ? (size_t)(end - line) : len - at;
        at += n + 1;
        const char *word = line + strspn(line, " \t");
        if (strncmp(word, "current", 7) == 0 && (size_t)(word - line) < n) continue;
        memcpy(out + used, line, n);
        out[used + n] = '\n';
        used += n + 1;
    }
    return used;
}

/* Reads the file once more as text, which keeps the operator's comments. Returns the length, -1 with errno. */
static ssize_t text_read(const char *path, char *out, size_t room, struct stat *st) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = fstat(fd, st) == 0 ? read(fd, out, room) : -1;
    close(fd);
    return n;
}

static int extended_write(const char *path, const struct key *key, char *text, char *extended) {
    char temporary[PATH_MAX + 8];
    struct stat st;
    ssize_t len = text_read(path, text, KEYS_FILE_BYTES_MAX, &st);
    if (len < 0) return complain_errno(path);
    size_t used = lines_keep(extended, text, (size_t)len);
    used += keys_line(extended + used, key);
    used += (size_t)snprintf(extended + used, 32, "current %u\n", key->id);
    if (used > KEYS_FILE_BYTES_MAX) return complain(EX_DATAERR, path, "the file would become too large");
    snprintf(temporary, sizeof temporary, "%s.new", path);
    int status = file_make(temporary, extended, used, &st);
    if (status != EX_OK) return status;
    if (rename(temporary, path) != 0 || !folder_sync(path)) {
        status = complain_errno(path);
        unlink(temporary);
    }
    return status;
}

static int add(const char *named) {
    enum { ROOM = KEYS_FILE_BYTES_MAX + KEYS_LINE_BYTES + 64 };
    static char path[PATH_MAX], text[ROOM], extended[ROOM];
    struct err err = {0};
    struct key key;
    uint32_t newest = 0;
    if (realpath(named, path) == NULL) return complain(EX_NOINPUT, named, strerror(errno)); /* not the link to it */
    if (strlen(path) >= PATH_BYTES) return complain(EX_NOINPUT, named, "the path is too long");
    struct keys *keys = keys_load(path, &err);
    if (keys == NULL) {
        fprintf(stderr, "millrace keygen: %s\n", err.text);
        return err.code;
    }
    for (uint32_t i = 0; i < keys->count; i++)
        if (keys->key[i].id > newest) newest = keys->key[i].id;
    bool full = keys->count == CRYPTO_KEYS_MAX || newest == UINT32_MAX;
    keys_free(keys);
    if (full)
        return complain(EX_DATAERR, named, "the file takes no further key; remove ones that no value needs any more");
    mlock(text, sizeof text);
    mlock(extended, sizeof extended);
    key_make(&key, newest + 1);
    int status = extended_write(path, &key, text, extended);
    explicit_bzero(&key, sizeof key);
    explicit_bzero(text, sizeof text);
    explicit_bzero(extended, sizeof extended);
    if (status == EX_OK) printf("%s: added key %u, which is the current one now\n", named, newest + 1);
    return status;
}

static int list(const char *path, bool json) {
    struct err err = {0};
    struct keys *keys = keys_load(path, &err);
    if (keys == NULL) {
        fprintf(stderr, "millrace keygen: %s\n", err.text);
        return err.code;
    }
    if (!json) printf("%10s  %-10s\n", "ID", "CREATED");
    for (uint32_t i = 0; i < keys->count; i++) {
        const struct key *k = &keys->key[i];
        bool current = i == keys->current;
        if (json)
            printf("%s{\"id\":%u,\"created\":\"%s\",\"current\":%s}", i == 0 ? "[" : ",\n ", k->id, k->created,
                   current ? "true" : "false");
        else
            printf("%10u  %-10s%s\n", k->id, k->created, current ? "  current" : "");
    }
    if (json) printf("]\n");
    keys_free(keys);
    return EX_OK;
}

int command_keygen(int argc, char **argv) {
    enum { OPTION_ADD = 256, OPTION_LIST, OPTION_JSON };
    static const struct option options[] = {{"add", no_argument, NULL, OPTION_ADD},
                                            {"list", no_argument, NULL, OPTION_LIST},
                                            {"json", no_argument, NULL, OPTION_JSON},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    bool adds = false, lists = false, json = false;
    int o;
    optind = 0; /* the whole scan anew: main may have looked at its own options */
    opterr = 0;
    while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) switch (o) {
        case OPTION_ADD: adds = true; break;
        case OPTION_LIST: lists = true; break;
        case OPTION_JSON: json = true; break;
        case 'h': fputs(help, stdout); return EX_OK;
        default: return command_misuse("keygen", "unknown option %s", argv[optind - 1]);
        }
    if (argc - optind != 1) return command_misuse("keygen", "exactly one FILE is needed");
    if (adds && lists) return command_misuse("keygen", "--add and --list exclude each other");
    if (json && !lists) return command_misuse("keygen", "--json goes with --list");
    prctl(PR_SET_DUMPABLE, 0);
    const char *path = argv[optind];
    return lists ? list(path, json) : adds ? add(path) : create(path);
}

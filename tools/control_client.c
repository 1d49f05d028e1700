#include "tools/control_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

enum { ANSWER_S = 10 };

/* The path of a unix socket is short, that of a folder may be long: the folder goes by its descriptor. */
static int connect_to(const struct command_place *c, char *why, size_t room) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = ANSWER_S};
    int folder = open(c->run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "/proc/self/fd/%d/%.63s.sock", folder, c->name);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    int status = EX_OK;
    if (folder < 0 || fd < 0 || connect(fd, (const struct sockaddr *)&at, sizeof at) != 0) {
        status = errno == EACCES ? EX_NOPERM : EX_UNAVAILABLE;
        snprintf(why, room, "%.400s/%.63s.sock: %s%s", c->run_dir, c->name, strerror(errno),
                 status == EX_UNAVAILABLE ? " (is millrace running?)" : "");
    }
    if (folder >= 0) close(folder);
    if (status == EX_OK) return fd;
    if (fd >= 0) close(fd);
    return -status;
}

int control_ask(const struct command_place *c, const char *request, char reply[REPLY_BYTES]) {
    size_t len = 0;
    int fd = connect_to(c, reply, REPLY_BYTES);
    if (fd < 0) return -fd;
    bool sent = send(fd, request, strlen(request), MSG_NOSIGNAL) == (ssize_t)strlen(request);
    for (ssize_t n = 1; sent && n > 0 && len < REPLY_BYTES - 1 && memchr(reply, '\n', len) == NULL;) {
        n = recv(fd, reply + len, REPLY_BYTES - 1 - len, 0);
        if (n > 0) len += (size_t)n;
    }
    close(fd);
    reply[len] = 0;
    char *end = strchr(reply, '\n');
    if (end != NULL) {
        *end = 0;
        return 0;
    }
    snprintf(reply, REPLY_BYTES, "the instance has not answered");
    return EX_UNAVAILABLE;
}

/* -- replies: one flat object of our own making ------------------------------------------------ */

/* Where the value of a field begins; NULL: there is no such field. Names of fields do not occur in values unescaped,
 * for a quote in a value has a backslash before it. */
static const char *field(const char *reply, const char *name) {
    char wanted[48];
    snprintf(wanted, sizeof wanted, "\"%s\":", name);
    const char *at = strstr(reply, wanted);
    return at == NULL ? NULL : at + strlen(wanted);
}

bool reply_ok(const char *reply) {
    const char *at = field(reply, "ok");
    return at != NULL && strncmp(at, "true", 4) == 0;
}

unsigned long long reply_number(const char *reply, const char *name) {
    const char *at = field(reply, name);
    return at == NULL ? 0 : strtoull(at, NULL, 10);
}

const char *reply_text(const char *reply, const char *name, char out[REPLY_BYTES]) {
    const char *at = field(reply, name);
    size_t n = 0;
    if (at != NULL && *at == '"')
        for (at++; *at != 0 && *at != '"' && n < REPLY_BYTES - 1; at++) {
            unsigned code;
            if (*at != '\\') {
                out[n++] = *at;
            } else if (at[1] == 'u' && sscanf(at + 2, "%4x", &code) == 1) {
                out[n++] = ' '; /* a control character */
                at += 5;
            } else if (at[1] != 0) {
                out[n++] = *++at;
            }
        }
    out[n] = 0;
    return out;
}

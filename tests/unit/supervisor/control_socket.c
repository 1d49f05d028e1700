/* The control socket: one line, one reply; and whatever else a client may do to it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "supervisor/control_socket.h"

static struct control_socket control;
static char folder[64];
static char asked[CONTROL_LINE_BYTES];
static uid_t asked_by;
static int asked_count;
static const char *answer_text = "x";
static uint64_t now = NS_PER_S;

static void answer(void *context, char *line, uid_t uid, struct control_reply *r) {
    cr_assert_eq(context, &asked);
    snprintf(asked, sizeof asked, "%s", line);
    asked_by = uid;
    asked_count++;
    control_reply_begin(r, true);
    control_reply_text(r, "message", answer_text);
    control_reply_end(r);
}

static void open_it(void) {
    struct err err = {0};
    snprintf(folder, sizeof folder, "/tmp/millrace-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(control_socket_open(&control, folder, "unit", answer, &asked, &err), 0, "%s", err.text);
}

static void close_it(void) {
    control_socket_close(&control, folder, "unit");
    cr_assert_eq(rmdir(folder), 0, "something is left in the folder");
}

TestSuite(control_socket, .init = open_it, .fini = close_it, .timeout = 30);

static int client(void) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s/unit.sock", folder);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

static void say(int fd, const char *text) {
    cr_assert_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void serve(void) {
    for (int i = 0; i < 40; i++) control_socket_serve(&control, now);
}

/* All that comes until the end of the connection; "" when it just ends. */
static const char *hear(int fd) {
    static char text[CONTROL_REPLY_BYTES + 1];
    size_t len = 0;
    serve();
    for (ssize_t n; (n = recv(fd, text + len, sizeof text - 1 - len, MSG_DONTWAIT)) != 0;) {
        if (n < 0 && errno == ECONNRESET) break;
        cr_assert_gt(n, 0, "the connection stays open: %s", strerror(errno));
        len += (size_t)n;
        serve();
    }
    text[len] = 0;
    close(fd);
    return text;
}

static int clients_now(void) {
    int n = 0;
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) n += control.client[i].fd >= 0;
    return n;
}

Test(control_socket, answers_a_line_and_closes) {
    int fd = client();
    say(fd, "accept-loss cards 3\n");
    cr_assert_str_eq(hear(fd), "{\"ok\":true,\"message\":\"x\"}\n");
    cr_assert_str_eq(asked, "accept-loss cards 3");
    cr_assert_eq(asked_by, getuid());
    cr_assert_eq(clients_now(), 0);
}

Test(control_socket, is_for_owner_and_group_only) {
    char path[96];
    struct stat st;
    snprintf(path, sizeof path, "%s/unit.sock", folder);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0660);
}

Test(control_socket, takes_the_place_of_a_stale_one) {
    struct err err = {0};
    struct control_socket stale = control;
    cr_assert_eq(control_socket_open(&control, folder, "unit", answer, &asked, &err), 0, "%s", err.text);
    close(stale.listen_fd);
    close(stale.ready_fd);
    int fd = client();
    say(fd, "status\n");
    cr_assert_str_neq(hear(fd), "");
}

Test(control_socket, works_in_a_folder_with_a_long_name) {
    struct err err = {0};
    struct control_socket deep;
    char path[256];
    snprintf(path, sizeof path, "%s/%0180d", folder, 0);
    cr_assert_eq(mkdir(path, 0700), 0);
    cr_assert_eq(control_socket_open(&deep, path, "unit", answer, &asked, &err), 0, "%s", err.text);
    control_socket_close(&deep, path, "unit");
    cr_assert_eq(rmdir(path), 0);
}

Test(control_socket, that_cannot_be_made_says_so) {
    struct err err = {0};
    struct control_socket none;
    cr_assert_eq(control_socket_open(&none, "/nonexistent", "unit", answer, &asked, &err), -1);
    cr_assert_not_null(strstr(err.text, "/nonexistent"));
}

Test(control_socket, puts_a_line_together_from_single_bytes) {
    int fd = client();
    for (const char *p = "status\n"; *p != 0; p++) {
        cr_assert_eq(asked_count, 0);
        cr_assert_eq(send(fd, p, 1, 0), 1);
        serve();
    }
    hear(fd);
    cr_assert_str_eq(asked, "status");
}

Test(control_socket, takes_the_end_of_the_connection_for_the_end_of_the_line) {
    int fd = client();
    say(fd, "status");
    shutdown(fd, SHUT_WR);
    cr_assert_str_neq(hear(fd), "");
    cr_assert_str_eq(asked, "status");
}

Test(control_socket, hears_only_the_first_line) {
    int fd = client();
    say(fd, "status\nstop\nstop\n");
    cr_assert_str_neq(hear(fd), "");
    cr_assert_eq(asked_count, 1);
    cr_assert_str_eq(asked, "status");
}

Test(control_socket, refuses_a_line_that_does_not_end) {
    char text[3 * CONTROL_LINE_BYTES];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    int fd = client();
    say(fd, text);
    cr_assert_not_null(strstr(hear(fd), "too long"));
    cr_assert_eq(asked_count, 0);
}

Test(control_socket, survives_garbage) {
    unsigned seed = 7;
    for (int i = 0; i < 300; i++) {
        unsigned char bytes[700];
        size_t n = 1 + (size_t)rand_r(&seed) % sizeof bytes;
        for (size_t k = 0; k < n; k++) bytes[k] = (unsigned char)rand_r(&seed);
        int fd = client();
        cr_assert_eq(send(fd, bytes, n, MSG_NOSIGNAL), (ssize_t)n);
        if (i % 3 == 0) {
            close(fd);
        } else {
            shutdown(fd, SHUT_WR);
            hear(fd);
        }
        serve();
    }
    cr_assert_eq(clients_now(), 0);
}

Test(control_socket, forgets_a_client_that_says_nothing) {
    int slow = client(), quick;
    serve();
    cr_assert_eq(clients_now(), 1);
    now += CONTROL_MS * NS_PER_MS;
    quick = client();
    say(quick, "status\n");
    cr_assert_str_neq(hear(quick), "");
    cr_assert_str_eq(hear(slow), "");
    cr_assert_eq(clients_now(), 0);
}

Test(control_socket, forgets_a_client_that_does_not_read) {
    int fd = client(), small = 1;
    struct linger none = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    say(fd, "status\n");
    serve();
    now += CONTROL_MS * NS_PER_MS;
    serve();
    cr_assert_eq(clients_now(), 0);
    close(fd);
}

Test(control_socket, tells_those_who_are_too_many_and_serves_the_others) {
    int fds[CONTROL_CLIENTS_MAX];
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) fds[i] = client();
    serve();
    cr_assert_eq(clients_now(), CONTROL_CLIENTS_MAX);
    cr_assert_not_null(strstr(hear(client()), "too many"));
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        say(fds[i], "status\n");
        cr_assert_not_null(strstr(hear(fds[i]), "true"));
    }
    cr_assert_eq(asked_count, CONTROL_CLIENTS_MAX);
    int again = client();
    say(again, "status\n");
    cr_assert_not_null(strstr(hear(again), "true"));
}

Test(control_socket, escapes_what_json_does_not_take) {
    answer_text = "a \"quoted\" back\\slash\nand\x01 Zo\xc3\xab";
    int fd = client();
    say(fd, "status\n");
    cr_assert_str_eq(hear(fd),
                     "{\"ok\":true,\"message\":\"a \\\"quoted\\\" back\\\\slash\\u000aand\\u0001 Zo\xc3\xab\"}\n");
}

Test(control_socket, keeps_a_reply_whole_that_is_too_long) {
    static char text[2 * CONTROL_REPLY_BYTES];
    memset(text, 'y', sizeof text - 1);
    answer_text = text;
    int fd = client();
    say(fd, "status\n");
    cr_assert_str_eq(hear(fd), "{\"ok\":true}\n");
}

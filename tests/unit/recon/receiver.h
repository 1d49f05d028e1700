/* An HTTP server for tests that answers as it is told: one connection at a time, in a thread. */
#ifndef MILLRACE_TESTS_RECEIVER_H
#define MILLRACE_TESTS_RECEIVER_H

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RECEIVER_HANG = -1, RECEIVER_CUT = -2, RECEIVER_FLOOD = -3 }; /* besides the status to answer with */

struct receiver {
    int listener;
    char url[64];
    _Atomic int answer;
    _Atomic int count; /* requests read to their end */
    char id[64][64];   /* of their header */
    char body[4096];   /* of the last one */
    char request[8192];
};

static inline void receiver_answer(struct receiver *r, int connection) {
    static const char flood[8192];
    char text[256];
    int answer = atomic_load(&r->answer);
    if (answer == RECEIVER_CUT) return;
    for (; atomic_load(&r->answer) == RECEIVER_HANG; usleep(1000)) {
    }
    int n =
        snprintf(text, sizeof text,
                 "HTTP/1.1 %d Whatever\r\nContent-Length: %d\r\nLocation: %s/elsewhere\r\nConnection: close\r\n\r\n",
                 answer > 0 ? answer : 200, answer == RECEIVER_FLOOD ? 100000000 : 0, r->url);
    ssize_t sent = send(connection, text, (size_t)n, MSG_NOSIGNAL);
    while (answer == RECEIVER_FLOOD && sent > 0) sent = send(connection, flood, sizeof flood, MSG_NOSIGNAL);
}

static inline void *receiver_run(void *self) {
    struct receiver *r = self;
    for (;;) {
        int connection = accept(r->listener, NULL, NULL);
        size_t have = 0, want = 1;
        if (connection < 0) return NULL;
        while (have < want && have < sizeof r->request - 1) {
            ssize_t n = read(connection, r->request + have, sizeof r->request - 1 - have);
            if (n <= 0) break;
            have += (size_t)n;
            r->request[have] = '\0';
            const char *end = strstr(r->request, "\r\n\r\n"), *length = strstr(r->request, "Content-Length: ");
            want = end == NULL ? have + 1 : (size_t)(end + 4 - r->request) + (size_t)atol(length + 16);
        }
        if (have == want) {
            int i = atomic_load(&r->count);
            const char *id = strstr(r->request, "Millrace-Exception: ");
            if (id != NULL && i < 64) sscanf(id + 20, "%63s", r->id[i]);
            snprintf(r->body, sizeof r->body, "%s", strstr(r->request, "\r\n\r\n") + 4);
            atomic_store(&r->count, i + 1);
            receiver_answer(r, connection);
        }
        close(connection);
    }
}

static inline void receiver_start(struct receiver *r, int answer) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    pthread_t thread;
    r->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(r->listener, (struct sockaddr *)&address, sizeof address), 0);
    cr_assert_eq(listen(r->listener, 16), 0);
    cr_assert_eq(getsockname(r->listener, (struct sockaddr *)&address, &len), 0);
    snprintf(r->url, sizeof r->url, "http://127.0.0.1:%d/hook/secret-token", ntohs(address.sin_port));
    atomic_store(&r->answer, answer);
    cr_assert_eq(pthread_create(&thread, NULL, receiver_run, r), 0);
    pthread_detach(thread);
}

#endif

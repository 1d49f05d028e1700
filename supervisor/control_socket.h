/* Control socket: run_dir/NAME.sock, where `millrace ctl` asks the supervisor for something.
 *
 * A unix stream socket of mode 0660. A client sends one line, gets one line of JSON, and the connection is closed.
 * Everything is bounded and nothing blocks: CONTROL_CLIENTS_MAX at a time, a line of CONTROL_LINE_BYTES, CONTROL_MS for
 * the whole exchange. Whoever is slower, or sends something else, is dropped; the pipeline never notices. */
#ifndef MILLRACE_SUPERVISOR_CONTROL_SOCKET_H
#define MILLRACE_SUPERVISOR_CONTROL_SOCKET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

enum { CONTROL_CLIENTS_MAX = 8, CONTROL_LINE_BYTES = 512, CONTROL_REPLY_BYTES = 4096, CONTROL_MS = 5000 };

/* One flat JSON object in the making. What does not fit is left out field by field; the object is always whole. */
struct control_reply {
    char text[CONTROL_REPLY_BYTES];
    size_t len;
};
void control_reply_begin(struct control_reply *r, int ok); /* {"ok":true or {"ok":false */
void control_reply_text(struct control_reply *r, const char *name, const char *value);
void control_reply_number(struct control_reply *r, const char *name, uint64_t value);
void control_reply_end(struct control_reply *r); /* } and the end of the line */

/* Answers one request: line without its end, from the user uid. Fills *r from begin to end. */
typedef void control_answer(void *context, char *line, uid_t uid, struct control_reply *r);

struct control_client {
    int fd; /* -1: free */
    uid_t uid;
    uint64_t due_ns;
    size_t in_bytes, sent;
    char in[CONTROL_LINE_BYTES];
    struct control_reply reply; /* len 0: the line is not complete yet */
};

struct control_socket {
    int listen_fd;
    int ready_fd; /* readable when there is something to serve: for the supervisor's loop */
    control_answer *answer;
    void *context;
    struct control_client client[CONTROL_CLIENTS_MAX];
};

/* control_socket_open makes the socket anew; a stale one of an instance that has ended is removed, so the caller holds
 * the lock of the name. context goes to answer. 0, or -1 with err. */
int control_socket_open(struct control_socket *c, const char *run_dir, const char *name, control_answer *answer,
                        void *context, struct err *err);

/* control_socket_serve does what there is to do now, at most one chunk per client. Call when ready_fd is readable, and
 * now and then, so that slow clients are dropped. */
void control_socket_serve(struct control_socket *c, uint64_t now_ns);

/* control_socket_close ends all connections and removes the socket. */
void control_socket_close(struct control_socket *c, const char *run_dir, const char *name);

#endif

/* Resp: reads the reply stream of Redis. Replies are counted and described, never built: hiredis's reader parses, and
 * its callbacks fill one struct that is used again for every reply. Nothing is allocated per reply. */
#ifndef MILLRACE_SINK_RESP_H
#define MILLRACE_SINK_RESP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    RESP_TEXT_BYTES = 512,      /* what is kept of a text */
    RESP_ELEMENTS_MAX = 64,     /* elements of an array; more is not an answer to anything the sink asks */
    RESP_FEED_BYTES = 64 << 10, /* feeding more at once costs the reader more per reply */
};
#define RESP_BUFFERED_MAX (64UL << 20) /* bytes of one reply, CLIENT LIST of a busy server included */

enum resp_kind { RESP_STATUS, RESP_ERROR, RESP_INTEGER, RESP_NIL, RESP_STRING, RESP_ARRAY };

struct resp_reply { /* one top-level reply */
    enum resp_kind kind;
    bool error;        /* it is an error, or an element of it is one */
    uint32_t elements; /* of an array */
    int64_t integer;
    size_t text_bytes;                /* whole length of the status, error or string */
    char text[RESP_TEXT_BYTES];       /* its beginning, NUL-terminated; of an array: its last element that is a text */
    char error_text[RESP_TEXT_BYTES]; /* the first error; "" none */
};

/* Called with the whole of each string, which is valid during the call only. */
typedef void resp_on_string(void *context, const char *bytes, size_t len);

struct redisReader;

struct resp {
    struct redisReader *reader;
    struct resp_reply reply;
    resp_on_string *on_string; /* NULL: nobody wants more than `text` */
    void *context;
};

/* resp_init allocates the reader. 0, or -1 with err. resp_free gives it back. */
int resp_init(struct resp *r, struct err *err);
void resp_free(struct resp *r);

/* resp_reset forgets a half-read reply: for a new connection. Keeps on_string. 0, or -1 with err (no memory). */
int resp_reset(struct resp *r, struct err *err);

/* resp_feed adds what was read. len in [1, RESP_FEED_BYTES]. 0, or -1 with err: no memory, or a reply larger than
 * RESP_BUFFERED_MAX. */
int resp_feed(struct resp *r, const void *bytes, size_t len, struct err *err);

/* resp_next: 1 and r->reply is the next reply, 0 none is complete, -1 with err: not the protocol of Redis; the
 * connection is of no more use. */
int resp_next(struct resp *r, struct err *err);

#endif

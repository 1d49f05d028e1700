/* Reply: what an error of Redis means, and what the sink does about it. One table; docs/redis.md shows it.
 *
 * The sink's answer to every class keeps the order of records: nothing is skipped and nothing overtakes. No class
 * blames a record: SET, MSET and DEL work on a key of any type, so Redis refuses the time, the server or the user,
 * never the data. */
#ifndef MILLRACE_SINK_REPLY_H
#define MILLRACE_SINK_REPLY_H

#include <stddef.h>

enum reply_class {
    REPLY_PASSING,   /* it will pass, or an operator makes it pass: wait and send again on the same connection */
    REPLY_RECONNECT, /* the wrong server, or one that goes away: drop the connection and make a new one */
    REPLY_CONFIG,    /* of the configuration or the ACL: stop before the first success, wait blocked afterwards */
    REPLY_HALT,      /* Redis has not what it should have: the lane stands still until it is started again, or loses the
                        partition */
    REPLY_FATAL,     /* two instances fight over a name: the worker leaves for good */
};

enum { FAILURE_TEXT_BYTES = 240 };

struct failure { /* why the line stands still; the text is for operators and never has content or secrets */
    enum reply_class class;
    char text[FAILURE_TEXT_BYTES];
};

struct reply_rule {
    const char *prefix; /* of the error's text */
    enum reply_class class;
    const char *meaning; /* a sentence for the operator */
};

/* reply_rule_of returns the rule for an error text (NUL-terminated, without the leading '-'). Never NULL: what is not
 * in the table is REPLY_PASSING with a slow retry, so that an unknown error is neither a storm nor a loss. */
const struct reply_rule *reply_rule_of(const char *error);

/* reply_failure fills f with class, what Redis said, and what it means. What Redis quotes back from a command (values,
 * passwords) is cut off, and control characters are replaced. */
void reply_failure(struct failure *f, const char *error);

/* failure_set fills f (printf-like). Returns -1. */
int failure_set(struct failure *f, enum reply_class class, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif

#include "sink/reply.h"

#include <criterion/criterion.h>
#include <string.h>

/* As redis-server 7.0 says it. */
Test(reply, each_error_has_its_class) {
    static const struct {
        const char *error;
        enum reply_class class;
    } rows[] = {
        {"OOM command not allowed when used memory > 'maxmemory'.", REPLY_PASSING},
        {"LOADING Redis is loading the dataset in memory", REPLY_PASSING},
        {"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", REPLY_PASSING},
        {"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", REPLY_PASSING},
        {"MISCONF Errors writing to the AOF file: No space left on device", REPLY_PASSING},
        {"NOREPLICAS Not enough good replicas to write.", REPLY_PASSING},
        {"EXECABORT Transaction discarded because of previous errors.", REPLY_PASSING},
        {"EXECABORT Transaction discarded because of: NOPERM this user has no permissions", REPLY_CONFIG},
        {"READONLY You can't write against a read only replica.", REPLY_RECONNECT},
        {"ERR max number of clients reached", REPLY_RECONNECT},
        {"MOVED 3999 127.0.0.1:6381", REPLY_CONFIG},
        {"ASK 3999 127.0.0.1:6381", REPLY_CONFIG},
        {"TRYAGAIN Multiple keys request during rehashing of slot", REPLY_CONFIG},
        {"CLUSTERDOWN The cluster is down", REPLY_CONFIG},
        {"CROSSSLOT Keys in request don't hash to the same slot", REPLY_CONFIG},
        {"NOAUTH Authentication required.", REPLY_CONFIG},
        {"WRONGPASS invalid username-password pair or user is disabled.", REPLY_CONFIG},
        {"NOPERM this user has no permissions to run the 'set' command", REPLY_CONFIG},
        {"DENIED Redis is running in protected mode because protected mode is enabled", REPLY_CONFIG},
        {"NOPROTO unsupported protocol version", REPLY_CONFIG},
        {"WRONGTYPE Operation against a key holding the wrong kind of value", REPLY_CONFIG},
        {"ERR unknown command 'CLIENT', with args beginning with: 'SETNAME'", REPLY_CONFIG},
        {"ERR AUTH <password> called without any password configured for the default user.", REPLY_CONFIG},
        {"ERR DB index is out of range", REPLY_CONFIG},
        {"ERR Protocol error: invalid bulk length", REPLY_CONFIG},
        {"ERR something nobody has seen", REPLY_PASSING},
        {"OOMPH is another word", REPLY_PASSING},
        {"", REPLY_PASSING},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        cr_assert_eq(reply_rule_of(rows[i].error)->class, rows[i].class, "%s", rows[i].error);
    cr_assert_neq(reply_rule_of("OOM x"), reply_rule_of("OOMPH x"));
}

Test(reply, text_for_operators_has_what_redis_said_and_what_it_means) {
    struct failure f;
    reply_failure(&f, "OOM command not allowed when used memory > 'maxmemory'.");
    cr_assert_str_eq(f.text,
                     "OOM command not allowed when used memory > 'maxmemory'. (Redis has reached maxmemory; records "
                     "wait until there is room)");
    reply_failure(&f, "NOPERM this user has no permissions to run the 'client|kill' command");
    cr_assert(strstr(f.text, "'client|kill'") != NULL && strstr(f.text, "docs/redis.md") != NULL);
}

Test(reply, quoted_arguments_never_reach_the_text) {
    struct failure f;
    reply_failure(&f, "ERR unknown command `AUTH`, with args beginning with: `s3cret`, ");
    cr_assert(strstr(f.text, "s3cret") == NULL && strstr(f.text, "AUTH") != NULL, "%s", f.text);
    reply_failure(&f, "ERR no such thing 's3cret'");
    cr_assert(strstr(f.text, "s3cret") == NULL, "%s", f.text);
    reply_failure(&f, "OOM evil\r\n\x1b[31m");
    cr_assert(strpbrk(f.text, "\r\n\x1b") == NULL);
}

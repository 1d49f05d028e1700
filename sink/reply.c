#include "sink/reply.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Longer prefixes stand before shorter ones that they begin with. */
static const struct reply_rule rules[] = {
    {"OOM ", REPLY_PASSING, "Redis has reached maxmemory; records wait until there is room"},
    {"LOADING ", REPLY_PASSING, "Redis is loading its data"},
    {"MASTERDOWN ", REPLY_PASSING, "the replica has lost its master"},
    {"BUSY ", REPLY_PASSING, "a script blocks Redis; end it with SCRIPT KILL or FUNCTION KILL"},
    {"MISCONF ", REPLY_PASSING, "Redis cannot write its RDB or AOF file: look at its disk and its log"},
    {"NOREPLICAS ", REPLY_PASSING, "fewer replicas are connected than min-replicas-to-write asks for"},
    {"UNKILLABLE ", REPLY_PASSING, "a script that has written blocks Redis"},
    {"EXECABORT ", REPLY_PASSING, "a transaction was refused as a whole"},
    {"ERR max number of clients reached", REPLY_RECONNECT, "Redis has no room for one more connection (maxclients)"},
    {"READONLY ", REPLY_RECONNECT, "this server is a replica; the connection is made anew to find the master"},
    {"MOVED ", REPLY_CONFIG, "this is a Redis Cluster, which this version does not support"},
    {"ASK ", REPLY_CONFIG, "this is a Redis Cluster, which this version does not support"},
    {"TRYAGAIN ", REPLY_CONFIG, "this is a Redis Cluster, which this version does not support"},
    {"CLUSTERDOWN ", REPLY_CONFIG, "this is a Redis Cluster, which this version does not support"},
    {"CROSSSLOT ", REPLY_CONFIG, "this is a Redis Cluster, which this version does not support"},
    {"NOAUTH ", REPLY_CONFIG, "Redis wants a password: set redis.password or redis.password_file"},
    {"WRONGPASS ", REPLY_CONFIG, "Redis refuses the configured user or password"},
    {"NOPERM ", REPLY_CONFIG, "the user's ACL lacks a command or key; docs/redis.md has the minimal rule set"},
    {"DENIED ", REPLY_CONFIG, "Redis is in protected mode"},
    {"NOPROTO ", REPLY_CONFIG, "Redis does not speak the protocol version that was asked for"},
    {"WRONGTYPE ", REPLY_CONFIG, "a mark's key holds something that is not a string"},
    {"ERR AUTH ", REPLY_CONFIG, "a password is configured and Redis has none"},
    {"ERR Client sent AUTH", REPLY_CONFIG, "a password is configured and Redis has none"},
    {"ERR invalid password", REPLY_CONFIG, "Redis refuses the configured password"},
    {"ERR unknown command", REPLY_CONFIG, "Redis, or a proxy before it, does not know a command the sink needs"},
    {"ERR unknown subcommand", REPLY_CONFIG, "Redis, or a proxy before it, does not know a command the sink needs"},
    {"ERR Unknown subcommand", REPLY_CONFIG, "Redis, or a proxy before it, does not know a command the sink needs"},
    {"ERR DB index is out of range", REPLY_CONFIG, "the database of redis.url does not exist"},
    {"ERR invalid DB index", REPLY_CONFIG, "the database of redis.url does not exist"},
    {"ERR SELECT is not allowed", REPLY_CONFIG, "this is a Redis Cluster, which this version does not support"},
    {"ERR syntax error", REPLY_CONFIG, "Redis is older than 6.2, or a proxy does not know SET with PXAT or GET"},
    {"ERR wrong number of arguments", REPLY_CONFIG,
     "Redis, or a proxy before it, knows a command only in another form"},
    {"ERR Protocol error: invalid bulk length", REPLY_CONFIG, "a value is larger than Redis's proto-max-bulk-len"},
    {"ERR Protocol error: too big", REPLY_CONFIG, "a command is larger than Redis takes"},
};

static const struct reply_rule unknown = {"", REPLY_PASSING, "an error this version does not know; it is tried again"};

/* EXEC is refused for the reason of the command that was, or for one of its own: `EXECABORT Transaction discarded
 * because of: NOPERM …`. */
static const char *reason_of(const char *error) {
    static const char because[] = "because of: ";
    const char *at = strncmp(error, "EXECABORT ", 10) == 0 ? strstr(error, because) : NULL;
    return at != NULL ? at + sizeof because - 1 : error;
}

const struct reply_rule *reply_rule_of(const char *error) {
    error = reason_of(error);
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (strncmp(error, rules[i].prefix, strlen(rules[i].prefix)) == 0) return &rules[i];
    return &unknown;
}

int failure_set(struct failure *f, enum reply_class class, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(f->text, sizeof f->text, format, args);
    va_end(args);
    f->class = class;
    return -1;
}

/* What of an error's text may be shown. Redis quotes the arguments of a command that it does not know, a password of
 * AUTH among them; what an error outside the table quotes, nobody knows. */
static size_t showable(const struct reply_rule *rule, const char *error) {
    size_t n = strcspn(error, rule == &unknown ? "'\"`\r\n" : "\r\n");
    const char *arguments = strstr(error, ", with args");
    return arguments != NULL && (size_t)(arguments - error) < n ? (size_t)(arguments - error) : n;
}

void reply_failure(struct failure *f, const char *error) {
    const struct reply_rule *rule = reply_rule_of(error);
    char said[110];
    size_t n = showable(rule, error);
    if (n > sizeof said - 1) n = sizeof said - 1;
    for (size_t i = 0; i < n; i++) said[i] = error[i] >= ' ' && error[i] < 127 ? error[i] : '?';
    while (n > 0 && said[n - 1] == ' ') n--;
    said[n] = 0;
    failure_set(f, rule->class, "%s (%s)", said, rule->meaning);
}

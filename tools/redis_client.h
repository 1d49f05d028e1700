/* Redis client: one connection of a command to the configured Redis, over the sink's own stream, so that commands reach
 * whatever the pipeline reaches. Blocking, with the configuration's time-outs; no connection name, nobody is ended. */
#ifndef MILLRACE_TOOLS_REDIS_CLIENT_H
#define MILLRACE_TOOLS_REDIS_CLIENT_H

#include <stddef.h>

#include "base/config.h"
#include "base/err.h"

struct redisReply;
struct redis_client;

/* redis_open connects, and sends AUTH and SELECT where the configuration has them.
 * Returns the client, or NULL with err.code EX_UNAVAILABLE (not reached, no answer, not Redis), EX_NOPERM (Redis
 * refuses user, password or database) or EX_CONFIG (TLS as configured cannot work). No message holds a secret. config
 * must outlive the client. */
struct redis_client *redis_open(const struct config *config, struct err *err);

/* redis_ask sends one command of `words` words (len NULL: texts) and waits for the answer, at most
 * redis.response_timeout without a byte. Returns it, an error of Redis included, for freeReplyObject; or NULL with err
 * as above, and the client is of no more use. */
struct redisReply *redis_ask(struct redis_client *c, int words, const char *const *word, const size_t *len,
                             struct err *err);

/* The same for many commands at once: redis_queue keeps a command (it copies the words), redis_send sends what is kept,
 * redis_next waits for the next answer, in the order of the commands. Answers that are due must have been taken before
 * redis_ask. redis_send: 0, or -1 with err as above. */
void redis_queue(struct redis_client *c, int words, const char *const *word, const size_t *len);
int redis_send(struct redis_client *c, struct err *err);
struct redisReply *redis_next(struct redis_client *c, struct err *err);

/* redis_close ends the connection. NULL is ignored. */
void redis_close(struct redis_client *c);

#endif

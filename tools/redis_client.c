#include "tools/redis_client.h"

#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "base/redis_url.h"
#include "sink/stream_tls.h"

struct redis_client {
    const struct config *config;
    struct stream stream;
    struct stream_port port;
    redisReader *reader;
    char *queued; /* commands to be sent */
    size_t queued_bytes, queued_room;
};

enum { READ_BYTES = 16 << 10, WAIT_MS = 50 };

/* The stream's own codes, as exit statuses. */
static int failed(struct err *err) {
    err->code = err->code == STREAM_MISCONFIGURED ? EX_CONFIG : EX_UNAVAILABLE;
    return -1;
}

/* Waits until the stream can go on; -1 when until_ns has passed. */
static int wait_for_stream(struct redis_client *c, bool writing, uint64_t until_ns) {
    void *s = c->port.context;
    struct pollfd p = {.fd = c->port.fd(s), .events = c->port.events(s, writing)};
    if (clock_ns(&clock_real) >= until_ns) return -1;
    if (p.events != 0) poll(&p, 1, WAIT_MS);
    return 0;
}

static int connect_stream(struct redis_client *c, struct err *err) {
    void *s = c->port.context;
    uint32_t timeout_ms = c->config->redis.connect_timeout_ms;
    uint64_t until_ns = clock_ns(&clock_real) + timeout_ms * NS_PER_MS;
    int r = c->port.connect_start(s, err);
    if (r != 0) return failed(err);
    while ((r = c->port.connect_finish(s, err)) == 0)
        if (wait_for_stream(c, true, until_ns) != 0)
            return err_set(err, EX_UNAVAILABLE, "no connection within %u ms", timeout_ms);
    return r < 0 ? failed(err) : 0;
}

static int send_all(struct redis_client *c, const char *bytes, size_t len, struct err *err) {
    uint32_t timeout_ms = c->config->redis.response_timeout_ms;
    uint64_t until_ns = clock_ns(&clock_real) + timeout_ms * NS_PER_MS;
    while (len > 0) {
        ssize_t n = c->port.write(c->port.context, bytes, len, err);
        if (n < 0) return failed(err);
        if (n == 0 && wait_for_stream(c, true, until_ns) != 0)
            return err_set(err, EX_UNAVAILABLE, "takes nothing within %u ms", timeout_ms);
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

/* One piece of the answer into the reader. */
static int receive(struct redis_client *c, struct err *err) {
    char bytes[READ_BYTES];
    uint32_t timeout_ms = c->config->redis.response_timeout_ms;
    uint64_t until_ns = clock_ns(&clock_real) + timeout_ms * NS_PER_MS;
    ssize_t n;
    while ((n = c->port.read(c->port.context, bytes, sizeof bytes, err)) == 0)
        if (wait_for_stream(c, false, until_ns) != 0)
            return err_set(err, EX_UNAVAILABLE, "no answer within %u ms", timeout_ms);
    if (n < 0) return failed(err);
    int fed = redisReaderFeed(c->reader, bytes, (size_t)n);
    explicit_bzero(bytes, sizeof bytes);
    return fed == REDIS_OK ? 0 : err_set(err, EX_UNAVAILABLE, "%s", c->reader->errstr);
}

struct redisReply *redis_next(struct redis_client *c, struct err *err) {
    void *reply = NULL;
    for (;;) {
        if (redisReaderGetReply(c->reader, &reply) != REDIS_OK) {
            err_set(err, EX_UNAVAILABLE, "%s", c->reader->errstr);
            return NULL;
        }
        if (reply != NULL) return reply;
        if (receive(c, err) != 0) return NULL;
    }
}

struct redisReply *redis_ask(struct redis_client *c, int words, const char *const *word, const size_t *len,
                             struct err *err) {
    char *command = NULL;
    long long n = redisFormatCommandArgv(&command, words, (const char **)(uintptr_t)word, len);
    CHECK(n > 0);
    int sent = send_all(c, command, (size_t)n, err);
    explicit_bzero(command, (size_t)n); /* AUTH has the password */
    redisFreeCommand(command);
    return sent == 0 ? redis_next(c, err) : NULL;
}

void redis_queue(struct redis_client *c, int words, const char *const *word, const size_t *len) {
    char *command = NULL;
    long long n = redisFormatCommandArgv(&command, words, (const char **)(uintptr_t)word, len);
    CHECK(n > 0);
    if (c->queued_bytes + (size_t)n > c->queued_room) {
        c->queued_room = 2 * (c->queued_bytes + (size_t)n);
        c->queued = realloc(c->queued, c->queued_room);
        CHECK(c->queued != NULL);
    }
    memcpy(c->queued + c->queued_bytes, command, (size_t)n);
    c->queued_bytes += (size_t)n;
    redisFreeCommand(command);
}

int redis_send(struct redis_client *c, struct err *err) {
    size_t n = c->queued_bytes;
    c->queued_bytes = 0;
    return send_all(c, c->queued, n, err);
}

/* A command of the greeting, which has to go well. */
static int greet_with(struct redis_client *c, int words, const char *const *word, struct err *err) {
    redisReply *reply = redis_ask(c, words, word, NULL, err);
    if (reply == NULL) return err_prefix(err, "%s", word[0]);
    int r = reply->type == REDIS_REPLY_ERROR ? err_set(err, EX_NOPERM, "%s: %s", word[0], reply->str) : 0;
    freeReplyObject(reply);
    return r;
}

static int greet(struct redis_client *c, struct err *err) {
    const char *user = c->config->redis.user, *password = c->config->redis.password;
    char db[16];
    snprintf(db, sizeof db, "%u", c->config->redis.db);
    const char *const auth[] = {"AUTH", user, password}, *const auth_default[] = {"AUTH", password},
                      *const select[] = {"SELECT", db};
    bool named = user[0] != '\0';
    if (password[0] != '\0' && greet_with(c, named ? 3 : 2, named ? auth : auth_default, err) != 0) return -1;
    return c->config->redis.db == 0 ? 0 : greet_with(c, 2, select, err);
}

struct redis_client *redis_open(const struct config *config, struct err *err) {
    struct redis_client *c = calloc(1, sizeof *c);
    CHECK(c != NULL);
    c->config = config;
    c->port = stream_open(&c->stream, config);
    c->reader = redisReaderCreate();
    CHECK(c->reader != NULL);
    if (connect_stream(c, err) == 0 && greet(c, err) == 0) return c;
    char url[VALUE_BYTES];
    redis_url_format(config, url, sizeof url);
    err_prefix(err, "%s", url);
    redis_close(c);
    return NULL;
}

void redis_close(struct redis_client *c) {
    if (c == NULL) return;
    stream_free(&c->stream);
    redisReaderFree(c->reader);
    free(c->queued);
    free(c);
}

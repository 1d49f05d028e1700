/* The commands' connection to Redis, against servers that do not behave. */
#include "tools/redis_client.h"

#include <criterion/criterion.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"

static struct config config;
static struct err err;
static pid_t server;

/* A server that accepts, reads a little, answers with these bytes, a piece at a time, and then waits or hangs up. */
static void serve(const char *answer, size_t piece, bool hang_up) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(bind(fd, (struct sockaddr *)&a, len) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0);
    cr_assert_eq(listen(fd, 5), 0);
    memset(&config, 0, sizeof config);
    snprintf(config.redis.host, sizeof config.redis.host, "127.0.0.1");
    config.redis.port = ntohs(a.sin_port);
    config.redis.connect_timeout_ms = config.redis.response_timeout_ms = 300;
    server = fork();
    cr_assert_geq(server, 0);
    if (server != 0) {
        close(fd);
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        char bytes[256];
        int c = accept(fd, NULL, NULL);
        if (read(c, bytes, sizeof bytes) <= 0) _exit(1);
        for (size_t at = 0, all = strlen(answer); at < all; at += piece) {
            if (write(c, answer + at, at + piece < all ? piece : all - at) <= 0) _exit(1);
            usleep(1000);
        }
        if (hang_up) close(c);
    }
}

static void stop(void) {
    if (server > 0) kill(server, SIGKILL);
}

TestSuite(redis_client, .fini = stop, .timeout = 20);

static redisReply *get(void) {
    struct redis_client *c = redis_open(&config, &err);
    cr_assert_not_null(c, "%s", err.text);
    redisReply *reply = redis_ask(c, 2, (const char *const[]){"GET", "k"}, NULL, &err);
    redis_close(c);
    return reply;
}

Test(redis_client, answer_that_comes_in_pieces_is_put_together) {
    serve("$11\r\nhello world\r\n", 1, false);
    redisReply *reply = get();
    cr_assert_not_null(reply, "%s", err.text);
    cr_assert_str_eq(reply->str, "hello world");
    freeReplyObject(reply);
}

Test(redis_client, many_commands_are_sent_at_once_and_answered_in_their_order) {
    serve("+one\r\n:2\r\n-ERR three\r\n+four\r\n", 3, false);
    struct redis_client *c = redis_open(&config, &err);
    cr_assert_not_null(c, "%s", err.text);
    for (int i = 0; i < 3; i++) redis_queue(c, 2, (const char *const[]){"GET", "k"}, NULL);
    cr_assert_eq(redis_send(c, &err), 0);
    static const int types[] = {REDIS_REPLY_STATUS, REDIS_REPLY_INTEGER, REDIS_REPLY_ERROR};
    for (int i = 0; i < 3; i++) {
        redisReply *reply = redis_next(c, &err);
        cr_assert_not_null(reply, "%s", err.text);
        cr_assert_eq(reply->type, types[i]);
        freeReplyObject(reply);
    }
    redisReply *reply = redis_ask(c, 1, (const char *const[]){"PING"}, NULL, &err);
    cr_assert_str_eq(reply->str, "four");
    freeReplyObject(reply);
    redis_close(c);
}

Test(redis_client, server_that_says_nothing_is_given_up_after_response_timeout) {
    serve("", 1, false);
    uint64_t begin = clock_ns(&clock_real);
    cr_assert_null(get());
    cr_assert_eq(err.code, EX_UNAVAILABLE);
    cr_assert_str_eq(err.text, "no answer within 300 ms");
    cr_assert_lt(clock_ns(&clock_real) - begin, 3 * NS_PER_S);
}

Test(redis_client, server_that_stops_half_way_is_given_up) {
    serve("$11\r\nhello", 20, false);
    cr_assert_null(get());
    cr_assert_str_eq(err.text, "no answer within 300 ms");
}

Test(redis_client, server_that_hangs_up_is_said) {
    serve("$11\r\nhello", 20, true);
    cr_assert_null(get());
    cr_assert_eq(err.code, EX_UNAVAILABLE);
    cr_assert_str_eq(err.text, "Redis closed the connection");
}

Test(redis_client, something_else_than_redis_is_said) {
    serve("HTTP/1.1 400 Bad Request\r\n\r\n", 100, true);
    cr_assert_null(get());
    cr_assert_eq(err.code, EX_UNAVAILABLE);
    cr_assert_not_null(strstr(err.text, "Protocol error"), "%s", err.text);
}

Test(redis_client, refused_password_is_no_permission_and_not_shown) {
    serve("-WRONGPASS invalid username-password pair or user is disabled.\r\n", 100, false);
    snprintf(config.redis.password, sizeof config.redis.password, "CANARY");
    cr_assert_null(redis_open(&config, &err));
    cr_assert_eq(err.code, EX_NOPERM);
    cr_assert_not_null(strstr(err.text, "AUTH: WRONGPASS"), "%s", err.text);
    cr_assert_null(strstr(err.text, "CANARY"));
}

Test(redis_client, plain_server_instead_of_tls_is_a_matter_of_the_configuration) {
    serve("-ERR unknown command\r\n", 100, false);
    config.redis.scheme = REDIS_TLS;
    cr_assert_null(redis_open(&config, &err));
    cr_assert_eq(err.code, EX_CONFIG, "%s", err.text);
    cr_assert_not_null(strstr(err.text, "not TLS"), "%s", err.text);
}

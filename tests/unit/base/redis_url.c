#include "base/redis_url.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

static struct config c;
static struct err err;

static void good(const char *url) {
    memset(&c, 0, sizeof c);
    cr_assert_eq(redis_url_parse(url, &c, &err), 0, "%s: %s", url, err.text);
}

static void bad(const char *url, const char *message) {
    memset(&c, 0, sizeof c);
    cr_assert_eq(redis_url_parse(url, &c, &err), -1, "%s", url);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert_str_eq(err.text, message, "%s: %s", url, err.text);
}

static const char *formatted(const char *url) {
    static char out[VALUE_BYTES];
    good(url);
    redis_url_format(&c, out, sizeof out);
    return out;
}

Test(redis_url, host_port_and_database) {
    good("redis://example.net:7000/3");
    cr_assert(c.redis.scheme == REDIS_TCP && c.redis.port == 7000 && c.redis.db == 3);
    cr_assert_str_eq(c.redis.host, "example.net");
    cr_assert(c.redis.user[0] == 0 && c.redis.password[0] == 0);
}

Test(redis_url, port_and_database_have_defaults) {
    good("redis://h");
    cr_assert(c.redis.port == 6379 && c.redis.db == 0);
    good("redis://h/");
    cr_assert(c.redis.port == 6379 && c.redis.db == 0);
}

Test(redis_url, address_of_version_six_stands_in_brackets) {
    good("redis://[::1]:7000/1");
    cr_assert_str_eq(c.redis.host, "::1");
    cr_assert_eq(c.redis.port, 7000);
}

Test(redis_url, user_and_password_are_decoded) {
    good("redis://u%40x:p%3a%2F%25@h:1");
    cr_assert_str_eq(c.redis.user, "u@x");
    cr_assert_str_eq(c.redis.password, "p:/%");
    cr_assert_str_eq(c.redis.host, "h");
}

Test(redis_url, password_may_hold_an_at_sign_and_colons) {
    good("redis://:a@b:c@h");
    cr_assert(c.redis.user[0] == 0);
    cr_assert_str_eq(c.redis.password, "a@b:c");
}

Test(redis_url, unix_socket_with_and_without_the_rest) {
    good("unix:///run/redis.sock");
    cr_assert_eq(c.redis.scheme, REDIS_UNIX);
    cr_assert_str_eq(c.redis.path, "/run/redis.sock");
    good("unix://u:p@/run/redis.sock?db=5");
    cr_assert_str_eq(c.redis.path, "/run/redis.sock");
    cr_assert_str_eq(c.redis.user, "u");
    cr_assert_str_eq(c.redis.password, "p");
    cr_assert_eq(c.redis.db, 5);
}

Test(redis_url, second_s_is_tls) {
    good("rediss://u:p@redis.example.net/2");
    cr_assert(c.redis.scheme == REDIS_TLS && c.redis.port == 6379 && c.redis.db == 2);
    cr_assert_str_eq(c.redis.host, "redis.example.net");
    cr_assert_str_eq(c.redis.user, "u");
    cr_assert_str_eq(c.redis.password, "p");
}

Test(redis_url, is_written_back_without_user_and_password) {
    cr_assert_str_eq(formatted("redis://u:p@h"), "redis://h:6379/0");
    cr_assert_str_eq(formatted("redis://[::1]:7/2"), "redis://[::1]:7/2");
    cr_assert_str_eq(formatted("rediss://u:p@[::1]:7/2"), "rediss://[::1]:7/2");
    cr_assert_str_eq(formatted("unix://u:p@/s"), "unix:///s");
    cr_assert_str_eq(formatted("unix:///s?db=9"), "unix:///s?db=9");
}

Test(redis_url, mistakes_are_named) {
    bad("", "expected redis://host:port/db, rediss://… or unix:///path");
    bad("localhost:6379", "expected redis://host:port/db, rediss://… or unix:///path");
    bad("rediss://", "the host is missing");
    bad("rediss://h?db=1", "rediss:// takes no ? or #; the database is /db");
    bad("rediss:///run/redis.sock", "the host is missing");
    bad("redis://", "the host is missing");
    bad("redis://:1", "the host is missing");
    bad("redis://h:", "the port must be a number from 1 to 65535");
    bad("redis://h:0", "the port must be a number from 1 to 65535");
    bad("redis://h:65536", "the port must be a number from 1 to 65535");
    bad("redis://h:6379x", "the port must be a number from 1 to 65535");
    bad("redis://h/a", "the database after the last / must be a number from 0 to 65535");
    bad("redis://h/1/2", "the database after the last / must be a number from 0 to 65535");
    bad("redis://h?db=1", "redis:// takes no ? or #; the database is /db");
    bad("redis://[::1", "the address has a [ without ]");
    bad("redis://[::1]x", "after the host comes :port or /db");
    bad("redis://u:%zz@h", "the password has a % that two hexadecimal digits do not follow");
    bad("redis://u:%4@h", "the password has a % that two hexadecimal digits do not follow");
    bad("redis://%00:p@h", "the user contains a NUL");
    bad("unix://run/redis.sock", "unix:// needs the absolute path of a socket: unix:///run/redis.sock");
    bad("unix:///s?x=1", "after the path comes nothing or ?db=N");
    bad("unix:///s?db=", "the database after ?db= must be a number from 0 to 65535");
}

Test(redis_url, parts_that_do_not_fit_are_refused) {
    char url[2000], part[1200];
    memset(part, 'x', sizeof part - 1);
    part[sizeof part - 1] = 0;
    snprintf(url, sizeof url, "redis://%.*s", 256, part);
    bad(url, "the host is too long");
    snprintf(url, sizeof url, "redis://:%.*s@h", 256, part);
    bad(url, "the password is longer than 255 bytes");
    snprintf(url, sizeof url, "redis://%.*s:p@h", 64, part);
    bad(url, "the user is longer than 63 bytes");
    snprintf(url, sizeof url, "unix:///%.*s", 107, part);
    bad(url, "the path of a socket has at most 107 bytes");
}

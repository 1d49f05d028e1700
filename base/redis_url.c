#include "base/redis_url.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/hex.h"

enum { PORT_DEFAULT = 6379, DB_MAX = 65535 };

static int percent_decode(const char *text, size_t len, char *out, size_t size, const char *what, struct err *err) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            int high = i + 1 < len ? hex_digit(text[i + 1]) : -1, low = i + 2 < len ? hex_digit(text[i + 2]) : -1;
            if (high < 0 || low < 0)
                return err_set(err, EX_CONFIG, "the %s has a %% that two hexadecimal digits do not follow", what);
            c = high * 16 + low;
            i += 2;
        }
        if (c == 0) return err_set(err, EX_CONFIG, "the %s contains a NUL", what);
        if (n + 1 >= size) return err_set(err, EX_CONFIG, "the %s is longer than %zu bytes", what, size - 1);
        out[n++] = (char)c;
    }
    out[n] = 0;
    return 0;
}

/* Reads "user:password@" when it is there and moves *p behind it. */
static int userinfo_read(const char **p, size_t authority, struct config *c, struct err *err) {
    const char *at = memrchr(*p, '@', authority);
    if (at == NULL) return 0;
    size_t len = (size_t)(at - *p);
    const char *colon = memchr(*p, ':', len);
    size_t user = colon == NULL ? len : (size_t)(colon - *p);
    if (percent_decode(*p, user, c->redis.user, sizeof c->redis.user, "user", err) != 0) return -1;
    if (colon != NULL &&
        percent_decode(colon + 1, len - user - 1, c->redis.password, sizeof c->redis.password, "password", err) != 0)
        return -1;
    *p = at + 1;
    return 0;
}

static int number_read(const char *text, size_t len, uint32_t min, uint32_t max, const char *what, uint32_t *out,
                       struct err *err) {
    uint32_t n = 0;
    bool ok = len > 0 && len <= 5;
    for (size_t i = 0; ok && i < len; i++) {
        ok = isdigit((unsigned char)text[i]);
        n = n * 10 + (uint32_t)(text[i] - '0');
    }
    if (!ok || n < min || n > max)
        return err_set(err, EX_CONFIG, "the %s must be a number from %u to %u", what, min, max);
    *out = n;
    return 0;
}

/* host, host:port, [v6], [v6]:port */
static int host_read(const char *p, size_t len, struct config *c, struct err *err) {
    bool v6 = len > 0 && *p == '[';
    const char *host = p + v6, *end = v6 ? memchr(p, ']', len) : memchr(p, ':', len);
    if (v6 && end == NULL) return err_set(err, EX_CONFIG, "the address has a [ without ]");
    size_t host_len = end == NULL ? len : (size_t)(end - host);
    if (host_len == 0) return err_set(err, EX_CONFIG, "the host is missing");
    if (host_len >= sizeof c->redis.host) return err_set(err, EX_CONFIG, "the host is too long");
    memcpy(c->redis.host, host, host_len);
    c->redis.host[host_len] = 0;
    c->redis.port = PORT_DEFAULT;
    const char *rest = host + host_len + v6;
    size_t rest_len = len - (size_t)(rest - p);
    if (rest_len == 0) return 0;
    if (*rest != ':') return err_set(err, EX_CONFIG, "after the host comes :port or /db");
    return number_read(rest + 1, rest_len - 1, 1, 65535, "port", &c->redis.port, err);
}

static int tcp_read(const char *p, uint32_t scheme, struct config *c, struct err *err) {
    c->redis.scheme = scheme;
    if (p[strcspn(p, "?#")] != 0)
        return err_set(err, EX_CONFIG, "%s takes no ? or #; the database is /db",
                       scheme == REDIS_TLS ? "rediss://" : "redis://");
    size_t authority = strcspn(p, "/");
    const char *start = p, *end = p + authority;
    if (userinfo_read(&start, authority, c, err) != 0 || host_read(start, (size_t)(end - start), c, err) != 0)
        return -1;
    if (*end == 0 || end[1] == 0) return 0;
    return number_read(end + 1, strlen(end + 1), 0, DB_MAX, "database after the last /", &c->redis.db, err);
}

static int unix_read(const char *p, struct config *c, struct err *err) {
    c->redis.scheme = REDIS_UNIX;
    if (userinfo_read(&p, strcspn(p, "/"), c, err) != 0) return -1;
    size_t len = strcspn(p, "?");
    if (p[0] != '/')
        return err_set(err, EX_CONFIG, "unix:// needs the absolute path of a socket: unix:///run/redis.sock");
    if (len >= sizeof c->redis.path)
        return err_set(err, EX_CONFIG, "the path of a socket has at most %zu bytes", sizeof c->redis.path - 1);
    memcpy(c->redis.path, p, len);
    c->redis.path[len] = 0;
    if (p[len] == 0) return 0;
    if (strncmp(p + len, "?db=", 4) != 0) return err_set(err, EX_CONFIG, "after the path comes nothing or ?db=N");
    return number_read(p + len + 4, strlen(p + len + 4), 0, DB_MAX, "database after ?db=", &c->redis.db, err);
}

int redis_url_parse(const char *url, struct config *c, struct err *err) {
    if (strncmp(url, "redis://", 8) == 0) return tcp_read(url + 8, REDIS_TCP, c, err);
    if (strncmp(url, "rediss://", 9) == 0) return tcp_read(url + 9, REDIS_TLS, c, err);
    if (strncmp(url, "unix://", 7) == 0) return unix_read(url + 7, c, err);
    return err_set(err, EX_CONFIG, "expected redis://host:port/db, rediss://… or unix:///path");
}

void redis_url_format(const struct config *c, char *out, size_t size) {
    char db[16] = "";
    bool is_unix = c->redis.scheme == REDIS_UNIX, v6 = strchr(c->redis.host, ':') != NULL;
    if (!is_unix || c->redis.db != 0) snprintf(db, sizeof db, "%s%u", is_unix ? "?db=" : "/", c->redis.db);
    if (is_unix)
        snprintf(out, size, "unix://%s%s", c->redis.path, db);
    else
        snprintf(out, size, "%s://%s%s%s:%u%s", c->redis.scheme == REDIS_TLS ? "rediss" : "redis", v6 ? "[" : "",
                 c->redis.host, v6 ? "]" : "", c->redis.port, db);
}

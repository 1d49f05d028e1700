/* The sink against a real Redis over TLS: connections that break anywhere, a server that dies, certificates that do not
 * do, or do no longer. What sink/outage.c and sink/session.c prove for a plain socket holds here as well. */
#include "tests/unit/sink/certificates.h"
#include "tests/unit/sink/rig.h"

static struct rig_redis redis;
static struct rig rig;
static char certificates[64], port[12];

static const char *certificate(const char *name, const char *kind) {
    static char path[8][128];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[0], "%s/%s.%s", certificates, name, kind);
    return path[turn];
}

static uint16_t port_free(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(bind(fd, (struct sockaddr *)&a, len) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void start_redis(const char *with, const char *auth_clients) {
    static char paths[3][128];
    snprintf(port, sizeof port, "%u", port_free());
    snprintf(paths[0], sizeof paths[0], "%s", certificate(with, "crt"));
    snprintf(paths[1], sizeof paths[1], "%s", certificate(with, "key"));
    snprintf(paths[2], sizeof paths[2], "%s", certificate("ca", "crt"));
    redis_start(&redis, "--tls-port", port, "--tls-cert-file", paths[0], "--tls-key-file", paths[1],
                "--tls-ca-cert-file", paths[2], "--tls-auth-clients", auth_clients, "--appendonly", "yes",
                "--appendfsync", "always", NULL);
}

static void start_rig(void) {
    rig_init(&rig, NULL, 2);
    rig_crash(&rig);
    rig.config.redis.scheme = REDIS_TLS;
    rig.config.redis.port = (uint32_t)atoi(port);
    snprintf(rig.config.redis.host, sizeof rig.config.redis.host, "localhost");
    snprintf(rig.config.redis.tls.ca_file, sizeof rig.config.redis.tls.ca_file, "%s", certificate("ca", "crt"));
    rig_attach(&rig);
}

static void start(void) {
    snprintf(certificates, sizeof certificates, "/tmp/millrace-certs-XXXXXX");
    cr_assert_not_null(mkdtemp(certificates));
    certificates_make(certificates);
}

static void stop(void) {
    rig_crash(&rig);
    redis_stop(&redis);
    nftw(certificates, redis_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(outage_tls, .init = start, .fini = stop, .timeout = 120);

/* Records n … n+count-1 over two partitions; keys k0 … k6 of each take the latest value. */
static void put(int from, int count) {
    char key[32], value[400];
    for (int i = from; i < from + count; i++) {
        snprintf(key, sizeof key, "k%d:%d", i % 14 / 2, i % 2);
        snprintf(value, sizeof value, "%-300d", i);
        rig_add(&rig, (uint32_t)i % 2, key, value);
    }
    ring_publish(&rig.producer);
}

static void expect_put(int count) {
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    for (int i = count - 14; i < count; i++) cr_assert_eq(atoi(redis_say(&redis, "GET k%d:%d", i % 14 / 2, i % 2)), i);
    cr_assert_eq(rig_released(&rig, 0) + rig_released(&rig, 1), count);
    cr_assert_eq(rig_count(&rig, M_sink_mark_mismatch), 0);
}

/* -- a connection that works ------------------------------------------------------------------- */

Test(outage_tls, records_arrive) {
    start_redis("server", "no");
    start_rig();
    put(0, 2000);
    expect_put(2000);
    cr_assert_eq(rig_count(&rig, M_sink_redis_connect), 1);
    cr_assert_eq(rig_state(&rig), STATE_RUNNING);
}

Test(outage_tls, client_certificate_is_shown) {
    start_redis("server", "yes");
    start_rig();
    snprintf(rig.config.redis.tls.cert_file, PATH_BYTES, "%s", certificate("client", "crt"));
    snprintf(rig.config.redis.tls.key_file, PATH_BYTES, "%s", certificate("client", "key"));
    rig.tls.fresh = false;
    put(0, 100);
    expect_put(100);
}

Test(outage_tls, killed_redis_that_keeps_its_word_loses_nothing) {
    start_redis("server", "no");
    start_rig();
    int n = 0;
    for (int round = 0; round < 3; round++) {
        put(n, 300);
        n += 300;
        uint64_t target = rig.ring.number_released + 50;
        RIG_UNTIL(&rig, 5000, rig.ring.number_released >= target);
        redis_kill(&redis);
        put(n, 300);
        n += 300;
        RIG_UNTIL(&rig, 5000, rig_state(&rig) == STATE_CONNECTING);
        redis_spawn(&redis);
        redis_connect(&redis);
        expect_put(n);
    }
}

/* -- a connection that breaks ------------------------------------------------------------------ */

/* Below TLS: the wire ends after so many bytes in one direction. */
static struct {
    struct stream_port real;
    long read_left, write_left; /* -1: no limit */
} cut = {.read_left = -1, .write_left = -1};

static size_t cut_limit(long left, size_t len) { return left >= 0 && (size_t)left < len ? (size_t)left : len; }

static ssize_t cut_read(void *context, void *out, size_t len, struct err *err) {
    if (cut.read_left == 0) return err_set(err, ECONNRESET, "cut");
    ssize_t n = cut.real.read(context, out, cut_limit(cut.read_left, len), err);
    if (n > 0 && cut.read_left > 0) cut.read_left -= n;
    return n;
}

static ssize_t cut_write(void *context, const void *bytes, size_t len, struct err *err) {
    if (cut.write_left == 0) return err_set(err, ECONNRESET, "cut");
    ssize_t n = cut.real.write(context, bytes, cut_limit(cut.write_left, len), err);
    if (n > 0 && cut.write_left > 0) cut.write_left -= n;
    return n;
}

static void cut_close(void *context) {
    cut.real.close(context);
    cut.read_left = cut.write_left = -1;
}

/* Batches break off behind 0, 1, 2 … CUTS - 1 bytes of one direction, mostly in the middle of a TLS record. */
static void cut_after_each_byte(long *left, int records) {
    enum { CUTS = 2048 };
    start_redis("server", "no");
    start_rig();
    rig_crash(&rig);
    rig_hurry(&rig, 16);
    rig.config.redis.batch = 1; /* a mark, and its answer, with each record */
    rig_attach(&rig);
    cut.real = rig.tls.under;
    rig.tls.under.read = cut_read;
    rig.tls.under.write = cut_write;
    rig.tls.under.close = cut_close;
    RIG_UNTIL(&rig, 5000, rig_state(&rig) == STATE_RUNNING);
    int n = 0;
    for (long at = 0; at < CUTS; at++) {
        uint64_t connects = rig_count(&rig, M_sink_redis_connect);
        *left = at;
        put(n, records);
        n += records;
        RIG_UNTIL(&rig, 5000, rig_done(&rig));
        cr_assert_eq(rig_count(&rig, M_sink_redis_connect), connects + 1, "after %ld bytes", at);
        if (at % 64 == 63) expect_put(n);
    }
    cr_assert_eq(rig_count(&rig, M_sink_write_lost) + rig_count(&rig, M_sink_loss_found), 0);
}

Test(outage_tls, replies_cut_after_every_byte_lose_nothing, .timeout = 600) { cut_after_each_byte(&cut.read_left, 48); }

Test(outage_tls, requests_cut_after_every_byte_lose_nothing, .timeout = 600) {
    cut_after_each_byte(&cut.write_left, 8);
}

/* The hello and what comes after it, cut while a connection is being made. */
Test(outage_tls, handshake_cut_anywhere_is_tried_again) {
    start_redis("server", "no");
    start_rig();
    cut.real = rig.tls.under;
    rig.tls.under.read = cut_read;
    int n = 0;
    for (long at = 0; at < 900; at += 60) {
        redis_say(&redis, "CLIENT KILL TYPE normal SKIPME yes");
        uint64_t failed = rig_count(&rig, M_sink_redis_connect_fail);
        RIG_UNTIL(&rig, 5000, rig.sink.state == SINK_DOWN);
        cut.read_left = at;
        RIG_UNTIL(&rig, 5000, rig_count(&rig, M_sink_redis_connect_fail) > failed);
        cr_assert_eq(rig_state(&rig), STATE_CONNECTING, "%s", rig_reason(&rig));
        cut.read_left = -1;
        put(n, 20);
        n += 20;
        RIG_UNTIL(&rig, 5000, rig_done(&rig));
    }
    expect_put(n);
}

/* -- certificates ------------------------------------------------------------------------------ */

static void expect_failed(const char *text) {
    RIG_UNTIL(&rig, 5000, rig.last == STEP_FAILED);
    cr_assert_eq(rig_state(&rig), STATE_FAILED);
    cr_assert(strstr(rig_reason(&rig), text) != NULL, "%s", rig_reason(&rig));
    cr_assert_eq(rig_count(&rig, M_sink_byte_sent), 0, "not a byte of ours, the password among them, went there");
}

Test(outage_tls, expired_certificate_at_the_first_start_stops_and_says_so) {
    start_redis("expired", "no");
    start_rig();
    snprintf(rig.config.redis.password, sizeof rig.config.redis.password, "s3cret");
    expect_failed("the certificate of localhost, or of its issuer, has expired");
}

Test(outage_tls, certificate_of_another_name_at_the_first_start_stops_and_says_so) {
    start_redis("wrong-name", "no");
    start_rig();
    expect_failed("the certificate of Redis is not for localhost");
}

Test(outage_tls, certificate_of_another_authority_at_the_first_start_stops_and_says_so) {
    start_redis("foreign", "no");
    start_rig();
    expect_failed("comes from an authority that is not trusted");
}

Test(outage_tls, demanded_client_certificate_at_the_first_start_stops_and_says_so) {
    start_redis("server", "yes");
    start_rig();
    RIG_UNTIL(&rig, 5000, rig.last == STEP_FAILED);
    cr_assert(strstr(rig_reason(&rig), "set redis.tls.cert_file and redis.tls.key_file") != NULL, "%s",
              rig_reason(&rig));
}

Test(outage_tls, file_that_is_missing_at_the_first_start_stops_and_is_named) {
    start_redis("server", "no");
    start_rig();
    rig_crash(&rig);
    snprintf(rig.config.redis.tls.ca_file, PATH_BYTES, "/nonexistent/ca.crt");
    rig_attach(&rig);
    expect_failed("redis.tls.ca_file: /nonexistent/ca.crt: No such file");
}

/* The server's certificate runs out while the pipeline works: the next connection is refused, slowly, and the renewed
 * one is taken. */
Test(outage_tls, certificate_that_expires_later_blocks_without_a_storm_and_recovers) {
    start_redis("server", "no");
    start_rig();
    put(0, 100);
    expect_put(100);
    redis_say(&redis, "CONFIG SET tls-cert-file %s tls-key-file %s", certificate("expired", "crt"),
              certificate("expired", "key"));
    redis_say(&redis, "CLIENT KILL TYPE normal SKIPME yes");
    put(100, 100);
    RIG_UNTIL(&rig, 5000, rig_blocked_on(&rig, "has expired"));
    rig_for(&rig, 1500);
    cr_assert_lt(rig_count(&rig, M_sink_redis_connect_fail), 12);
    cr_assert_neq(rig.last, STEP_FAILED);
    cr_assert_eq(rig.ring.number_released, 100);
    redis_say(&redis, "CONFIG SET tls-cert-file %s tls-key-file %s", certificate("server", "crt"),
              certificate("server", "key"));
    RIG_UNTIL(&rig, 8000, rig_done(&rig));
    expect_put(200);
}

/* -- the wrong port ---------------------------------------------------------------------------- */

Test(outage_tls, port_for_tls_is_named_as_a_cause_when_a_plain_client_is_turned_away) {
    start_redis("server", "no");
    start_rig();
    rig.config.redis.scheme = REDIS_TCP;
    rig_crash(&rig);
    rig_attach(&rig);
    RIG_UNTIL(&rig, 5000, rig_count(&rig, M_sink_redis_connect_fail) > 0);
    cr_assert_eq(rig_state(&rig), STATE_CONNECTING);
    cr_assert(strstr(rig_reason(&rig), "; is it a port for TLS (rediss://)?") != NULL, "%s", rig_reason(&rig));
}

Test(outage_tls, plain_port_is_waited_for_with_a_hint_and_never_sent_anything_in_the_clear) {
    start_redis("server", "no");
    start_rig();
    rig.config.redis.port = redis_listen_tcp(&redis);
    rig.config.redis.connect_timeout_ms = 300;
    rig_crash(&rig);
    rig_attach(&rig);
    RIG_UNTIL(&rig, 5000, rig_count(&rig, M_sink_redis_connect_fail) > 0);
    const char *said = rig_reason(&rig);
    cr_assert(strstr(said, "does the port speak TLS?") != NULL || strstr(said, "not TLS") != NULL, "%s", said);
    cr_assert_eq(rig_count(&rig, M_sink_byte_sent), 0);
}

/* TLS over a connection that the test holds in its hand: the client is the stream, the server is OpenSSL in this very
 * process, and between them is a socket pair that passes as much as the test says. */
#include "sink/stream_tls.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/unit/sink/certificates.h"

static char folder[64];
static struct config config;
static struct stream_tls tls;
static struct stream_port port;
static struct err err;

/* The client's end of the pair as a stream port, and what it lets through. */
static struct {
    int fd;
    size_t read_max, write_max; /* of one call */
    size_t budget;              /* what may still come in */
    bool cut;                   /* … and then the line is dead */
    bool mute;                  /* nothing goes out */
} line;

static struct {
    SSL_CTX *ctx;
    SSL *ssl;
    int fd;
    bool accepted;
} server;

/* -- the line ---------------------------------------------------------------------------------- */

static int line_start(void *context, struct err *e) {
    int pair[2];
    (void)context;
    (void)e;
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    line.fd = pair[0];
    server.fd = pair[1];
    server.accepted = false;
    if (server.ctx == NULL) return 0;
    server.ssl = SSL_new(server.ctx);
    SSL_set_fd(server.ssl, server.fd);
    SSL_set_accept_state(server.ssl);
    return 0;
}

static int line_finish(void *context, struct err *e) {
    (void)context;
    (void)e;
    return 1;
}

static ssize_t line_read(void *context, void *out, size_t len, struct err *e) {
    (void)context;
    size_t max = line.read_max < line.budget ? line.read_max : line.budget;
    if (max == 0) return line.cut ? err_set(e, ECONNRESET, "the line is cut") : 0;
    ssize_t n = recv(line.fd, out, len < max ? len : max, 0);
    if (n > 0) line.budget -= (size_t)n;
    if (n > 0) return n;
    if (n < 0 && errno == EAGAIN) return 0;
    return err_set(e, ECONNRESET, "the line is cut");
}

static ssize_t line_write(void *context, const void *bytes, size_t len, struct err *e) {
    (void)context;
    if (line.mute) return 0;
    ssize_t n = send(line.fd, bytes, len < line.write_max ? len : line.write_max, MSG_NOSIGNAL);
    if (n > 0) return n;
    if (n < 0 && errno == EAGAIN) return 0;
    return err_set(e, ECONNRESET, "the line is cut");
}

static void server_hang_up(void) {
    if (server.fd >= 0) close(server.fd);
    SSL_free(server.ssl);
    server.fd = -1;
    server.ssl = NULL;
}

static void line_close(void *context) {
    (void)context;
    if (line.fd >= 0) close(line.fd);
    line.fd = -1;
    server_hang_up();
}

static int line_fd(void *context) {
    (void)context;
    return line.fd;
}

static short line_events(void *context, bool writing) {
    (void)context;
    return writing ? POLLIN | POLLOUT : POLLIN;
}

/* -- the server -------------------------------------------------------------------------------- */

static const char *in_folder(const char *name) {
    static char path[4][128];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[0], "%s/%s", folder, name);
    return path[turn];
}

static char seen_name[128]; /* of SNI; "" none */

static int on_name(SSL *ssl, int *alert, void *context) {
    (void)alert, (void)context;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    snprintf(seen_name, sizeof seen_name, "%s", name != NULL ? name : "");
    return SSL_TLSEXT_ERR_OK;
}

static void server_with(const char *certificate, int version) {
    char path[128];
    SSL_CTX_free(server.ctx);
    server.ctx = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_security_level(server.ctx, 0); /* so that it can be worse than the client allows */
    SSL_CTX_set_min_proto_version(server.ctx, version);
    SSL_CTX_set_max_proto_version(server.ctx, version);
    SSL_CTX_set_tlsext_servername_callback(server.ctx, on_name);
    SSL_CTX_set_mode(server.ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    snprintf(path, sizeof path, "%s/%s.crt", folder, certificate);
    cr_assert_eq(SSL_CTX_use_certificate_chain_file(server.ctx, path), 1);
    snprintf(path, sizeof path, "%s/%s.key", folder, certificate);
    cr_assert_eq(SSL_CTX_use_PrivateKey_file(server.ctx, path, SSL_FILETYPE_PEM), 1);
}

static void server_demands_a_certificate(void) {
    SSL_CTX_set_verify(server.ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    cr_assert_eq(SSL_CTX_load_verify_file(server.ctx, in_folder("ca.crt")), 1);
}

static void server_step(void) {
    ERR_clear_error();
    if (server.ssl != NULL && !server.accepted) server.accepted = SSL_do_handshake(server.ssl) == 1;
}

/* -- the client -------------------------------------------------------------------------------- */

static void setup(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-tls-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    certificates_make(folder);
    log_init("", "sink", 0, 0, LOG_ERROR);
    memset(&config, 0, sizeof config);
    config.redis.scheme = REDIS_TLS;
    config.redis.port = 6379;
    snprintf(config.redis.host, sizeof config.redis.host, "localhost");
    snprintf(config.redis.tls.ca_file, sizeof config.redis.tls.ca_file, "%s", in_folder("ca.crt"));
    line.fd = server.fd = -1;
    line.read_max = line.write_max = line.budget = SIZE_MAX;
    const struct stream_port under = {.connect_start = line_start,
                                      .connect_finish = line_finish,
                                      .read = line_read,
                                      .write = line_write,
                                      .close = line_close,
                                      .fd = line_fd,
                                      .events = line_events};
    stream_tls_init(&tls, &config, &under);
    port = stream_tls_port(&tls);
    server_with("server", TLS1_3_VERSION);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void teardown(void) {
    stream_tls_free(&tls);
    SSL_CTX_free(server.ctx);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(stream_tls, .init = setup, .fini = teardown, .timeout = 30);

static void client_has(const char *certificate) {
    snprintf(config.redis.tls.cert_file, sizeof config.redis.tls.cert_file, "%s/%s.crt", folder, certificate);
    snprintf(config.redis.tls.key_file, sizeof config.redis.tls.key_file, "%s/%s.key", folder, certificate);
}

/* The files that the configuration names now, read anew. */
static int start(void) {
    tls.fresh = false;
    return port.connect_start(port.context, &err);
}

/* Both sides in turns until the client is through or has failed. */
static int shake(void) {
    int r = start();
    for (int i = 0; r == 0 && i < 100000; i++) {
        r = port.connect_finish(port.context, &err);
        server_step();
        if (r != 0) return r;
    }
    return r;
}

static void connected(void) {
    cr_assert_eq(shake(), 1, "%s", err.text);
    for (int i = 0; i < 100000 && !server.accepted; i++) server_step();
    cr_assert(server.accepted);
}

/* What of `bytes` the stream takes now. */
static size_t put(const char *bytes, size_t len) {
    ssize_t n = port.write(port.context, bytes, len, &err);
    cr_assert_geq(n, 0, "%s", err.text);
    return (size_t)n;
}

static size_t server_read(char *out, size_t len) {
    ERR_clear_error();
    int n = SSL_read(server.ssl, out, (int)len);
    return n > 0 ? (size_t)n : 0;
}

static void expect_refused(const char *text) {
    cr_assert_eq(shake(), -1, "the client is through");
    cr_assert_eq(err.code, STREAM_MISCONFIGURED, "%d: %s", err.code, err.text);
    cr_assert(strstr(err.text, text) != NULL, "%s", err.text);
    cr_assert_lt(strlen(err.text), 200, "fits a state's reason: %s", err.text);
}

/* -- bytes ------------------------------------------------------------------------------------- */

static char big[300000], got[300000];

static void big_fill(void) {
    for (size_t i = 0; i < sizeof big; i++) big[i] = (char)(i * 31 + i / 251);
}

Test(stream_tls, handshake_and_bytes_pass_through_a_line_of_one_byte_a_call) {
    char answer[16] = "";
    line.read_max = line.write_max = 1;
    connected();
    size_t sent = 0, n = 0;
    while (sent < 5) sent += put("hello" + sent, 5 - sent);
    while (n < 5) n += server_read(answer + n, 5 - n);
    cr_assert_str_eq(answer, "hello");
    cr_assert_eq(SSL_write(server.ssl, "welcome", 7), 7);
    ssize_t r = 0;
    for (int i = 0; i < 1000 && r == 0; i++) r = port.read(port.context, answer, sizeof answer, &err);
    cr_assert_eq(r, 7);
    cr_assert_arr_eq(answer, "welcome", 7);
}

Test(stream_tls, write_that_finds_the_line_full_goes_on_from_another_place_in_memory) {
    static char moved[sizeof big];
    big_fill();
    line.write_max = 1000;
    connected();
    size_t sent = put(big, sizeof big), read = 0;
    cr_assert(sent > 0 && sent < sizeof big, "the socket is smaller than that: %zu", sent);
    cr_assert_eq(put(big + sent, sizeof big - sent), 0);
    cr_assert_eq(port.events(port.context, true), POLLIN | POLLOUT);
    cr_assert_eq(port.events(port.context, false), POLLIN);
    while (read < sizeof big) {
        read += server_read(got + read, sizeof got - read);
        if (sent == sizeof big) continue;
        memcpy(moved, big + sent, sizeof big - sent); /* as encode_room moves what is unsent */
        sent += put(moved, sizeof big - sent);
    }
    cr_assert_eq(sent, sizeof big);
    cr_assert_arr_eq(got, big, sizeof big);
}

/* All of it is inside OpenSSL, and the socket is empty: a wait for the socket would be for ever. */
Test(stream_tls, bytes_held_inside_are_not_slept_over) {
    connected();
    big_fill();
    cr_assert_eq(SSL_write(server.ssl, big, 5000), 5000);
    size_t n = 0;
    while (n < 5000) {
        struct pollfd p = {.fd = line.fd, .events = POLLIN};
        if (n > 0) cr_assert_eq(poll(&p, 1, 0), 0, "the socket is empty");
        if (n > 0) cr_assert_eq(port.events(port.context, false), 0, "after %zu bytes", n);
        ssize_t r = port.read(port.context, got + n, 100, &err);
        if (r == 0) continue; /* tickets of TLS 1.3 come first */
        cr_assert_eq(r, 100);
        n += (size_t)r;
    }
    cr_assert_arr_eq(got, big, 5000);
    cr_assert_eq(port.read(port.context, got, 100, &err), 0);
    cr_assert_eq(port.events(port.context, false), POLLIN);
}

/* Half a record is there: OpenSSL holds bytes, and only more of them can help. */
Test(stream_tls, half_a_record_is_waited_for) {
    connected();
    while (port.read(port.context, got, sizeof got, &err) > 0) {
    }
    cr_assert_eq(SSL_write(server.ssl, big, 5000), 5000);
    line.budget = 100;
    cr_assert_eq(port.read(port.context, got, sizeof got, &err), 0);
    cr_assert_eq(line.budget, 0);
    cr_assert_eq(port.events(port.context, false), POLLIN);
    line.budget = SIZE_MAX;
    cr_assert_eq(port.read(port.context, got, sizeof got, &err), 5000);
}

/* Nothing can be written before the server has spoken: a write that waits for something to read. */
Test(stream_tls, write_may_wait_for_something_to_read) {
    cr_assert_eq(start(), 0);
    cr_assert_eq(port.connect_finish(port.context, &err), 0);
    cr_assert_eq(port.events(port.context, true), POLLIN, "the hello is out, the server's is awaited");
    cr_assert_eq(put("early", 5), 0);
    cr_assert_eq(tls.write_waits, POLLIN);
    tls.established = true;
    cr_assert_eq(port.events(port.context, true), POLLIN, "not POLLOUT: the socket has room, and that is no use");
    tls.established = false;
    server_step();
    while (port.connect_finish(port.context, &err) == 0) server_step();
    server_step();
    cr_assert_eq(put("later", 5), 5);
    cr_assert_eq(server_read(got, sizeof got), 5);
    cr_assert_arr_eq(got, "later", 5);
}

Test(stream_tls, handshake_that_cannot_be_sent_waits_for_room) {
    line.mute = true;
    cr_assert_eq(start(), 0);
    cr_assert_eq(port.connect_finish(port.context, &err), 0);
    cr_assert_eq(port.events(port.context, true), POLLOUT);
    line.mute = false;
    cr_assert_eq(port.connect_finish(port.context, &err), 0);
    cr_assert_eq(port.events(port.context, false), POLLIN);
}

Test(stream_tls, new_keys_on_the_way_disturb_nobody) {
    connected();
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(SSL_key_update(server.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        cr_assert_eq(SSL_do_handshake(server.ssl), 1);
        while (port.read(port.context, got, sizeof got, &err) > 0) {
        }
        line.mute = true; /* the client has to answer with its own, and cannot */
        cr_assert_eq(put("question", 8), 0);
        cr_assert_eq(port.events(port.context, true), POLLIN | POLLOUT);
        line.mute = false;
        cr_assert_eq(put("question", 8), 8);
        cr_assert_eq(server_read(got, sizeof got), 8);
        cr_assert_eq(SSL_write(server.ssl, "answer", 6), 6);
        cr_assert_eq(port.read(port.context, got, sizeof got, &err), 6);
        cr_assert_arr_eq(got, "answer", 6);
    }
}

Test(stream_tls, renegotiation_is_not_agreed_to) {
    server_with("server", TLS1_2_VERSION);
    connected();
    cr_assert_eq(SSL_renegotiate(server.ssl), 1);
    SSL_do_handshake(server.ssl);
    cr_assert_eq(port.read(port.context, got, sizeof got, &err), 0, "%s", err.text);
    cr_assert_neq(SSL_do_handshake(server.ssl), 0);
    cr_assert_eq(SSL_in_init(tls.ssl), 0, "the client did not begin again");
}

Test(stream_tls, end_of_the_connection_is_an_end_with_and_without_a_farewell) {
    for (int farewell = 0; farewell < 2; farewell++) {
        connected();
        if (farewell) SSL_shutdown(server.ssl);
        server_hang_up();
        ssize_t n;
        while ((n = port.read(port.context, got, sizeof got, &err)) >= 0) {
        }
        cr_assert_eq(err.code, ECONNRESET);
        cr_assert(strstr(err.text, farewell ? "Redis closed the connection" : "the line is cut") != NULL, "%s",
                  err.text);
        cr_assert_eq(port.write(port.context, "x", 1, &err), -1);
        cr_assert_eq(err.code, ECONNRESET);
    }
}

Test(stream_tls, damaged_bytes_end_the_connection) {
    connected();
    while (port.read(port.context, got, sizeof got, &err) > 0) {
    }
    cr_assert_eq(send(server.fd, "\x17\x03\x03\0\x20nonsense nonsense nonsense nonsen", 37, 0), 37);
    cr_assert_eq(port.read(port.context, got, sizeof got, &err), -1);
    cr_assert_eq(err.code, ECONNRESET, "%s", err.text);
}

/* -- connecting -------------------------------------------------------------------------------- */

/* The server hangs up at once, after its first bytes, and in the middle of its answer. */
Test(stream_tls, end_in_the_middle_of_the_handshake_is_a_lost_connection) {
    for (size_t bytes = 0; bytes < 500; bytes += 20) {
        line.budget = bytes;
        line.cut = true;
        cr_assert_eq(start(), 0);
        int r = 0;
        for (int i = 0; i < 10 && r == 0; i++) {
            r = port.connect_finish(port.context, &err);
            server_step();
        }
        cr_assert_eq(r, -1, "after %zu bytes", bytes);
        cr_assert_eq(err.code, ECONNRESET);
        cr_assert_str_eq(err.text, "during the TLS handshake: the line is cut");
    }
    line.budget = SIZE_MAX;
    connected();
}

Test(stream_tls, close_in_the_middle_of_the_handshake_and_twice_is_allowed) {
    cr_assert_eq(start(), 0);
    cr_assert_eq(port.connect_finish(port.context, &err), 0);
    port.close(port.context);
    port.close(port.context);
    cr_assert_eq(port.fd(port.context), -1);
    connected();
}

Test(stream_tls, name_is_sent_and_an_address_is_not) {
    connected();
    cr_assert_str_eq(seen_name, "localhost");
    snprintf(config.redis.host, sizeof config.redis.host, "127.0.0.1");
    connected();
    cr_assert_str_eq(seen_name, "");
    snprintf(config.redis.tls.server_name, sizeof config.redis.tls.server_name, "redis.test");
    connected();
    cr_assert_str_eq(seen_name, "redis.test");
}

Test(stream_tls, certificates_of_the_server_that_are_refused) {
    static const struct {
        const char *certificate, *server_name, *said;
    } rows[] = {
        {"expired", "", "the certificate of localhost, or of its issuer, has expired"},
        {"early", "", "is not valid yet: is the clock of this machine right?"},
        {"wrong-name", "", "the certificate of Redis is not for localhost: set redis.tls.server_name"},
        {"server", "127.0.0.2", "is not for 127.0.0.2"},
        {"server", "elsewhere.test", "is not for elsewhere.test"},
        {"wildcard", "deeper.redis.wild.test", "is not for deeper.redis.wild.test"},
        {"wildcard", "redis.partial.test", "is not for redis.partial.test"},
        {"foreign", "", "comes from an authority that is not trusted: redis.tls.ca_file does not hold"},
        {"other-ca", "", "comes from an authority that is not trusted"},
    };
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            server_with(rows[i].certificate, version);
            snprintf(config.redis.tls.server_name, sizeof config.redis.tls.server_name, "%s", rows[i].server_name);
            expect_refused(rows[i].said);
        }
        config.redis.tls.server_name[0] = 0;
        server_with("wrong-name", version);
        snprintf(config.redis.tls.server_name, sizeof config.redis.tls.server_name, "elsewhere.test");
        connected();
        server_with("wildcard", version);
        snprintf(config.redis.tls.server_name, sizeof config.redis.tls.server_name, "redis.wild.test");
        connected();
    }
}

Test(stream_tls, without_a_ca_file_the_system_decides) {
    config.redis.tls.ca_file[0] = 0;
    expect_refused("redis.tls.ca_file is not set, and the system does not know it");
    setenv("SSL_CERT_FILE", in_folder("ca.crt"), 1); /* where the system's certificates are */
    connected();
}

Test(stream_tls, server_that_demands_a_certificate) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        server_with("server", version);
        server_demands_a_certificate();
        client_has("client");
        connected();
        static const struct {
            const char *certificate, *said;
        } rows[] = {
            {"", "Redis demands a client certificate: set redis.tls.cert_file and redis.tls.key_file"},
            {"client-foreign", "Redis does not accept the certificate in redis.tls.cert_file: unknown CA"},
            {"client-expired", "Redis does not accept the certificate in redis.tls.cert_file: certificate expired"},
        };
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            client_has(rows[i].certificate);
            if (rows[i].certificate[0] == 0) config.redis.tls.cert_file[0] = config.redis.tls.key_file[0] = 0;
            int r = shake();
            /* With TLS 1.3 the client is through before the server has looked: the answer to its first word says it. */
            for (int n = 0; r == 1 && n < 1000; n++) {
                server_step();
                if (port.read(port.context, got, sizeof got, &err) < 0) r = -1;
            }
            cr_assert_eq(r, -1, "%s", rows[i].certificate);
            cr_assert_eq(err.code, STREAM_MISCONFIGURED, "%s", err.text);
            cr_assert_str_eq(err.text, rows[i].said);
        }
    }
}

/* The server has said why and closed before our first word went out: the write fails, the reason waits to be read. */
Test(stream_tls, reason_of_the_server_is_read_when_a_write_fails_first) {
    server_demands_a_certificate();
    cr_assert_eq(shake(), 1, "%s", err.text);
    for (int i = 0; i < 10; i++) server_step();
    cr_assert(!server.accepted);
    shutdown(server.fd, SHUT_RD); /* what we write is refused; what was said is still there */
    cr_assert_eq(port.write(port.context, "AUTH", 4, &err), -1);
    cr_assert_eq(err.code, STREAM_MISCONFIGURED, "%s", err.text);
    cr_assert(strstr(err.text, "demands a client certificate") != NULL, "%s", err.text);
}

Test(stream_tls, old_versions_are_refused) {
    server_with("server", TLS1_1_VERSION);
    expect_refused("TLS version from 1.2 on");
}

Test(stream_tls, plain_redis_is_recognised) {
    SSL_CTX_free(server.ctx);
    server.ctx = NULL;
    cr_assert_eq(start(), 0);
    cr_assert_eq(port.connect_finish(port.context, &err), 0);
    cr_assert_eq(send(server.fd, "-ERR unknown command\r\n", 22, 0), 22);
    cr_assert_eq(port.connect_finish(port.context, &err), -1);
    cr_assert_eq(err.code, STREAM_MISCONFIGURED);
    cr_assert_str_eq(err.text, "localhost:6379 answers with something that is not TLS: is it the port of a plain "
                               "Redis (redis://)?");
}

/* -- the files --------------------------------------------------------------------------------- */

static void put_file(const char *name, const char *text, mode_t mode) {
    FILE *f = fopen(in_folder(name), "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
    chmod(in_folder(name), mode);
}

/* Of a process that has never had good files. */
static void expect_files_refused(const char *text) {
    SSL_CTX_free(tls.files);
    tls.files = NULL;
    cr_assert_eq(start(), -1);
    cr_assert_eq(err.code, STREAM_MISCONFIGURED);
    cr_assert(strstr(err.text, text) != NULL, "%s", err.text);
    cr_assert_eq(port.fd(port.context), -1, "nothing was opened");
}

Test(stream_tls, files_that_are_no_use_are_named) {
    put_file("nonsense", "nonsense\n", 0600);
    snprintf(config.redis.tls.ca_file, sizeof config.redis.tls.ca_file, "%s", in_folder("nonsense"));
    expect_files_refused("nonsense: no certificate in PEM form in it");
    snprintf(config.redis.tls.ca_file, sizeof config.redis.tls.ca_file, "%s", in_folder("missing"));
    expect_files_refused("missing: No such file or directory");
    snprintf(config.redis.tls.ca_file, sizeof config.redis.tls.ca_file, "%s", in_folder("ca.crt"));

    client_has("client");
    snprintf(config.redis.tls.cert_file, sizeof config.redis.tls.cert_file, "%s", in_folder("nonsense"));
    expect_files_refused("redis.tls.cert_file: ");
    client_has("client");
    snprintf(config.redis.tls.key_file, sizeof config.redis.tls.key_file, "%s", in_folder("nonsense"));
    expect_files_refused("nonsense: no private key in PEM form in it");
    snprintf(config.redis.tls.key_file, sizeof config.redis.tls.key_file, "%s", in_folder("server.key"));
    expect_files_refused("does not belong to the certificate in");
    client_has("client");
    chmod(config.redis.tls.key_file, 0644);
    expect_files_refused("mode 0644 lets every user of the machine at it");
}

Test(stream_tls, key_with_a_password_is_refused_and_nobody_is_asked) {
    FILE *in = fopen(in_folder("client.key"), "r");
    EVP_PKEY *key = PEM_read_PrivateKey(in, NULL, NULL, NULL);
    fclose(in);
    FILE *out = fopen(in_folder("client.key"), "w");
    cr_assert_eq(PEM_write_PKCS8PrivateKey(out, key, EVP_aes_128_cbc(), "pw", 2, NULL, NULL), 1);
    fclose(out);
    EVP_PKEY_free(key);
    client_has("client");
    expect_files_refused("is encrypted; it has to be there without a password");
}

static void rename_in_folder(const char *from, const char *to) {
    char a[128], b[128];
    for (int i = 0; i < 2; i++) {
        snprintf(a, sizeof a, "%s/%s.%s", folder, from, i == 0 ? "crt" : "key");
        snprintf(b, sizeof b, "%s/%s.%s", folder, to, i == 0 ? "crt" : "key");
        cr_assert_eq(rename(a, b), 0);
    }
}

Test(stream_tls, renewed_certificate_is_taken_up_and_a_broken_one_is_not) {
    server_with("server", TLS1_2_VERSION);
    server_demands_a_certificate();
    client_has("client");
    rename_in_folder("client", "kept");
    rename_in_folder("client-expired", "client");
    expect_refused("certificate expired");
    rename_in_folder("kept", "client");
    connected();
    put_file("client.key", "", 0600);
    connected();
    cr_assert(tls.warned);
    cr_assert_eq(unlink(in_folder("ca.crt")), 0);
    connected();
}

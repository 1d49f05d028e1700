#include "tests/unit/tools/command.h"

#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/prctl.h>

#include "base/keys.h"
#include "tests/unit/sink/certificates.h"
#include "transform/value.h"

static pid_t server;
static redisContext *redis;

static void config_put(const char *name, const char *redis_url, const char *more) {
    char text[2048];
    snprintf(text, sizeof text,
             "config_version: 1\nname: test\nkafka:\n  bootstrap.servers: localhost:1\nredis:\n  url: %s\n%s"
             "topics:\n  - name: t\n    mode: change\n    format: raw\n    key: \"{$key}\"\n",
             redis_url, more);
    file_put(name, text);
}

static const char *unix_url(const char *credentials, int db) {
    static char url[256];
    snprintf(url, sizeof url, "unix://%s%s?db=%d", credentials, in_folder("socket"), db);
    return url;
}

/* A connection to the server on that unix socket, once it is up. */
static redisContext *connect_when_up(const char *name) {
    for (int i = 0; i < 500; i++) {
        redisContext *c = redisConnectUnix(in_folder(name));
        if (c != NULL && c->err == 0) return c;
        redisFree(c);
        usleep(10000);
    }
    cr_assert_fail("redis-server did not start");
    return NULL;
}

static void server_start(void) {
    server = fork();
    cr_assert_geq(server, 0);
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", in_folder("socket"), "--save", "",
               "--dir", folder, "--requirepass", "p4ss", (char *)NULL);
        _exit(127);
    }
    redis = connect_when_up("socket");
    freeReplyObject(redisCommand(redis, "AUTH p4ss"));
}

static void setup(void) {
    folder_make();
    server_start();
    config_put("millrace.yaml", unix_url(":p4ss@", 0), "");
}

static void teardown(void) {
    redisFree(redis);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    folder_remove();
}
TestSuite(get, .init = setup, .fini = teardown, .timeout = 30);

static void store(const char *key, const void *value, size_t len) {
    redisReply *reply = redisCommand(redis, "SET %s %b", key, value, len);
    cr_assert(reply != NULL && reply->type == REDIS_REPLY_STATUS, "%s", reply != NULL ? reply->str : "no reply");
    freeReplyObject(reply);
}

static int get(const char *config, const char *key) {
    return RUN(command_get, (char *)(uintptr_t)key, "-c", (char *)(uintptr_t)in_folder(config));
}

/* A key file, and a configuration that names it; the encoder uses its current key. */
static struct keys *keys_put(struct xaes_sealer *sealer, struct value_encoder *encoder) {
    static const uint8_t prefix[XAES_PREFIX_BYTES] = "ABCDEFGHIJK";
    struct err err = {0};
    char more[256];
    if (access(in_folder("keys"), F_OK) != 0)
        cr_assert_eq(RUN(command_keygen, (char *)(uintptr_t)in_folder("keys")), EX_OK);
    snprintf(more, sizeof more, "crypto:\n  keys: %s\n", in_folder("keys"));
    config_put("keys.yaml", unix_url(":p4ss@", 0), more);
    struct keys *keys = keys_load(in_folder("keys"), &err);
    cr_assert_not_null(keys, "%s", err.text);
    cr_assert_eq(xaes_sealer_init(sealer, keys_current(keys)->bytes, prefix, &err), 0);
    cr_assert_eq(value_encoder_init(encoder, sealer, keys_current(keys)->id, &err), 0);
    return keys;
}

Test(get, prints_exactly_the_bytes) {
    static const char binary[] = "a\0b\r\n\xff no newline";
    store("plain", binary, sizeof binary - 1);
    cr_assert_eq(get("millrace.yaml", "plain"), EX_OK, "%s", done.err);
    cr_assert_eq(done.out_bytes, sizeof binary - 1);
    cr_assert_arr_eq(done.out, binary, sizeof binary - 1);
    store("empty", "", 0);
    cr_assert_eq(get("millrace.yaml", "empty"), EX_OK);
    cr_assert_eq(done.out_bytes, 0);
}

Test(get, decompresses_and_decrypts_with_any_key_of_the_file) {
    struct xaes_sealer sealer;
    struct value_encoder encoder;
    struct keys *keys = keys_put(&sealer, &encoder);
    static uint8_t value[3000], stored[4000];
    memset(value, 'v', sizeof value);
    size_t n = value_encode(&encoder, VALUE_LZ4 | VALUE_ENCRYPTED, "secret", 6, value, sizeof value, stored);
    store("secret", stored, n);
    cr_assert_eq(RUN(command_keygen, "--add", (char *)(uintptr_t)in_folder("keys")), EX_OK,
                 "the key is an old one now");
    cr_assert_eq(get("keys.yaml", "secret"), EX_OK, "%s", done.err);
    cr_assert_eq(done.out_bytes, sizeof value);
    cr_assert_arr_eq(done.out, value, sizeof value);
    cr_assert_eq(RUN(command_get, "--raw", "-c", (char *)(uintptr_t)in_folder("keys.yaml"), "secret"), EX_OK);
    cr_assert_eq(done.out_bytes, n);
    cr_assert_arr_eq(done.out, stored, n);

    n = value_encode(&encoder, VALUE_LZ4, "packed", 6, value, sizeof value, stored);
    store("packed", stored, n);
    cr_assert_eq(get("millrace.yaml", "packed"), EX_OK, "no key is needed: %s", done.err);
    cr_assert_eq(done.out_bytes, sizeof value);
    value_encoder_free(&encoder);
    xaes_sealer_free(&sealer);
    keys_free(keys);
}

Test(get, says_what_is_wrong_with_a_value) {
    struct xaes_sealer sealer;
    struct value_encoder encoder;
    struct keys *keys = keys_put(&sealer, &encoder);
    uint8_t stored[200];
    size_t n = value_encode(&encoder, VALUE_ENCRYPTED, "a", 1, (const uint8_t *)"CANARY", 6, stored);
    store("b", stored, n);
    cr_assert_eq(get("keys.yaml", "b"), EX_DATAERR, "moved to another key");
    cr_assert_not_null(strstr(done.err, "does not decrypt"), "%s", done.err);
    cr_assert_eq(done.out_bytes, 0);
    store("a", stored, n);
    cr_assert_eq(get("millrace.yaml", "a"), EX_CONFIG);
    cr_assert_not_null(strstr(done.err, "no key file"), "%s", done.err);
    stored[n - 1] ^= 1;
    store("a", stored, n);
    cr_assert_eq(get("keys.yaml", "a"), EX_DATAERR);
    store("a", stored, 20);
    cr_assert_eq(get("keys.yaml", "a"), EX_DATAERR);
    cr_assert_not_null(strstr(done.err, "--raw"), "%s", done.err);
    cr_assert_eq(unlink(in_folder("keys")), 0);
    cr_assert_eq(RUN(command_keygen, (char *)(uintptr_t)in_folder("keys")), EX_OK);
    stored[n - 1] ^= 1;
    store("a", stored, n);
    cr_assert_eq(get("keys.yaml", "a"), EX_DATAERR, "another key under the same id");
    cr_assert_eq(unlink(in_folder("keys")), 0);
    cr_assert_eq(get("keys.yaml", "a"), EX_CONFIG, "the key file is gone");
    cr_assert_not_null(strstr(done.err, "keys"), "%s", done.err);
    value_encoder_free(&encoder);
    xaes_sealer_free(&sealer);
    keys_free(keys);
}

Test(get, tells_missing_keys_from_other_types) {
    cr_assert_eq(get("millrace.yaml", "nobody"), EX_NOINPUT);
    cr_assert_not_null(strstr(done.err, "no such key: nobody"), "%s", done.err);
    freeReplyObject(redisCommand(redis, "RPUSH list x"));
    cr_assert_eq(get("millrace.yaml", "list"), EX_DATAERR);
    cr_assert_not_null(strstr(done.err, "neither a string nor a hash"), "%s", done.err);
}

Test(get, prints_a_hash_as_json) {
    freeReplyObject(
        redisCommand(redis, "HSET hash amount 12345678901234567890.10 %b %b", "na\"me", 5, "Z\xc3\xab\n", 4));
    cr_assert_eq(get("millrace.yaml", "hash"), EX_OK, "%s", done.err);
    cr_assert_str_eq(done.out, "{\"amount\":\"12345678901234567890.10\",\"na\\\"me\":\"Z\xc3\xab\\u000a\"}");
}

Test(get, uses_user_password_and_database) {
    freeReplyObject(redisCommand(redis, "ACL SETUSER reader on >w0rd ~* +get +select"));
    freeReplyObject(redisCommand(redis, "SELECT 3"));
    store("k", "three", 5);
    config_put("three.yaml", unix_url("reader:w0rd@", 3), "");
    cr_assert_eq(get("three.yaml", "k"), EX_OK, "%s", done.err);
    cr_assert_str_eq(done.out, "three");
    cr_assert_eq(get("millrace.yaml", "k"), EX_NOINPUT, "not in database 0");
    config_put("wrong.yaml", unix_url("reader:CANARY@", 3), "");
    cr_assert_eq(get("wrong.yaml", "k"), EX_NOPERM);
    cr_assert_not_null(strstr(done.err, "WRONGPASS"), "%s", done.err);
    cr_assert_null(strstr(done.err, "CANARY"), "%s", done.err);
    config_put("none.yaml", unix_url("", 0), "");
    cr_assert_eq(get("none.yaml", "k"), EX_NOPERM);
    cr_assert_not_null(strstr(done.err, "NOAUTH"), "%s", done.err);
}

/* A server of its own with TLS, and a unix socket without. */
static pid_t tls_server_start(const char *certificate, char port[12]) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    char crt[128], key[128];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert(bind(fd, (struct sockaddr *)&a, len) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0);
    close(fd);
    snprintf(port, 12, "%u", ntohs(a.sin_port));
    snprintf(crt, sizeof crt, "%s/%s.crt", folder, certificate);
    snprintf(key, sizeof key, "%s/%s.key", folder, certificate);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        execlp("redis-server", "redis-server", "--port", "0", "--tls-port", port, "--tls-cert-file", crt,
               "--tls-key-file", key, "--tls-ca-cert-file", in_folder("ca.crt"), "--requirepass", "p4ss", "--save", "",
               "--dir", folder, "--unixsocket", in_folder("tls-socket"), (char *)NULL);
        _exit(127);
    }
    return pid;
}

Test(get, reaches_redis_over_tls) {
    char port[12], url[512];
    static char value[100000];
    memset(value, 'v', sizeof value);
    certificates_make(folder);
    pid_t pid = tls_server_start("server", port);
    redisFree(redis);
    redis = connect_when_up("tls-socket");
    freeReplyObject(redisCommand(redis, "AUTH p4ss"));
    store("big", value, sizeof value);
    snprintf(url, sizeof url, "rediss://:p4ss@localhost:%s/0\n  tls: {ca_file: %s, cert_file: %s, key_file: %s}", port,
             in_folder("ca.crt"), in_folder("client.crt"), in_folder("client.key"));
    config_put("tls.yaml", url, "");
    cr_assert_eq(get("tls.yaml", "big"), EX_OK, "%s", done.err);
    cr_assert_gt(done.out_bytes, 60000);

    snprintf(url, sizeof url, "rediss://:p4ss@localhost:%s/0\n  tls: {ca_file: %s}", port, in_folder("other-ca.crt"));
    config_put("tls.yaml", url, "");
    cr_assert_eq(get("tls.yaml", "big"), EX_CONFIG);
    cr_assert_not_null(strstr(done.err, "comes from an authority that is not trusted"), "%s", done.err);
    snprintf(url, sizeof url, "rediss://:p4ss@localhost:%s/0\n  tls: {ca_file: %s}", port, in_folder("ca.crt"));
    config_put("tls.yaml", url, "");
    cr_assert_eq(get("tls.yaml", "big"), EX_CONFIG);
    cr_assert_not_null(strstr(done.err, "Redis demands a client certificate"), "%s", done.err);
    cr_assert_null(strstr(done.err, "p4ss"), "%s", done.err);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

Test(get, says_when_redis_is_not_there) {
    config_put("tcp.yaml", "redis://127.0.0.1:1/0", "");
    cr_assert_eq(get("tcp.yaml", "k"), EX_UNAVAILABLE);
    cr_assert_not_null(strstr(done.err, "127.0.0.1:1"), "%s", done.err);
    cr_assert_eq(get("missing.yaml", "k"), EX_NOINPUT);
}

Test(get, explains_itself) {
    cr_assert_eq(RUN(command_get, "--help"), EX_OK);
    cr_assert_not_null(strstr(done.out, "usage: millrace get KEY"));
    cr_assert_eq(run_command(command_get, (char *[]){"get", NULL}), EX_USAGE);
    cr_assert_eq(RUN(command_get, "a", "b"), EX_USAGE);
    cr_assert_eq(RUN(command_get, "--frob"), EX_USAGE);
}

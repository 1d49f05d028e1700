/* millrace get: one record from Redis, decrypted and decompressed. */
#include <errno.h>
#include <getopt.h>
#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/json_text.h"
#include "base/keys.h"
#include "tools/command.h"
#include "tools/redis_client.h"
#include "transform/value.h"

static const char help[] =
    "usage: millrace get KEY [-c FILE] [--raw]\n"
    "\n"
    "Prints the value under KEY as it was published: decrypted and decompressed where it is stored so; a hash as one\n"
    "JSON object of strings.\n"
    "  -c FILE   configuration with Redis's address and the key file\n"
    "  --raw     the bytes as they are stored\n"
    "Exit status: 66 there is no such key, 65 the value is damaged or of another type, 69 Redis was not reached,\n"
    "77 Redis or the key file denies access, 78 the key that encrypted it is not at hand, or TLS is set up wrongly.\n";

__attribute__((format(printf, 2, 3))) static int complain(int code, const char *format, ...) {
    va_list args;
    fputs("millrace get: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return code;
}

static int print(const void *bytes, size_t len) {
    if (fwrite(bytes, 1, len, stdout) != len) return complain(EX_IOERR, "standard output: %s", strerror(errno));
    if (isatty(STDOUT_FILENO)) putchar('\n');
    return fflush(stdout) == 0 ? EX_OK : complain(EX_IOERR, "standard output: %s", strerror(errno));
}

/* Decodes and prints. The key file is only looked at when the value is encrypted: plain ones are for everybody. */
static int show(const struct config *c, const char *key, const uint8_t *stored, size_t len) {
    struct err err = {0};
    struct keys *keys = NULL;
    bool encrypted = value_is_encoded(stored, len) && len > 5 && (stored[5] & VALUE_ENCRYPTED) != 0;
    if (encrypted && c->crypto.keys[0] != '\0' && (keys = keys_load(c->crypto.keys, &err)) == NULL)
        return complain(err.code == EX_NOINPUT ? EX_CONFIG : err.code, "%s", err.text);
    uint8_t *value;
    size_t value_len;
    int status = value_decode(keys, key, strlen(key), stored, len, &value, &value_len, &err);
    keys_free(keys);
    if (status != 0) return complain(err.code, "%s: %s (--raw prints it as it is stored)", key, err.text);
    status = print(value, value_len);
    explicit_bzero(value, value_len);
    free(value);
    return status;
}

static int strings_only(const redisReply *reply) {
    for (size_t i = 0; i < reply->elements; i++)
        if (reply->element[i]->type != REDIS_REPLY_STRING) return -1;
    return reply->elements % 2 == 0 ? 0 : -1;
}

/* A hash as one JSON object. Its values are texts: what was a number or a boolean in Kafka looks like a string. */
static int show_hash(struct redis_client *redis, const char *key) {
    struct err err = {0};
    int status;
    redisReply *reply = redis_ask(redis, 2, (const char *[]){"HGETALL", key}, NULL, &err);
    if (reply == NULL)
        status = complain(err.code, "Redis: %s", err.text);
    else if (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "WRONGTYPE", 9) == 0)
        status = complain(EX_DATAERR, "%s is neither a string nor a hash: millrace has not stored it", key);
    else if (reply->type == REDIS_REPLY_ERROR)
        status = complain(strncmp(reply->str, "NO", 2) == 0 ? EX_NOPERM : EX_UNAVAILABLE, "Redis: %s", reply->str);
    else if (reply->type != REDIS_REPLY_ARRAY || strings_only(reply) != 0)
        status = complain(EX_UNAVAILABLE, "Redis: a reply of type %d to HGETALL", reply->type);
    else if (reply->elements == 0) /* gone since it was looked at */
        status = complain(EX_NOINPUT, "no such key: %s", key);
    else {
        for (size_t i = 0; i < reply->elements; i++) {
            fputs(i == 0 ? "{" : i % 2 == 1 ? ":" : ",", stdout);
            json_text_put(reply->element[i]->str, (size_t)reply->element[i]->len, stdout);
        }
        status = print("}", 1);
    }
    freeReplyObject(reply);
    return status;
}

static int get(const struct config *c, const char *key, bool raw) {
    struct err err = {0};
    int status;
    struct redis_client *redis = redis_open(c, &err);
    redisReply *reply = redis == NULL ? NULL : redis_ask(redis, 2, (const char *[]){"GET", key}, NULL, &err);
    if (reply == NULL)
        status = complain(err.code, "Redis: %s", err.text);
    else if (reply->type == REDIS_REPLY_NIL)
        status = complain(EX_NOINPUT, "no such key: %s", key);
    else if (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "WRONGTYPE", 9) == 0)
        status = show_hash(redis, key);
    else if (reply->type == REDIS_REPLY_ERROR)
        status = complain(strncmp(reply->str, "NO", 2) == 0 ? EX_NOPERM : EX_UNAVAILABLE, "Redis: %s", reply->str);
    else if (reply->type != REDIS_REPLY_STRING)
        status = complain(EX_UNAVAILABLE, "Redis: a reply of type %d to GET", reply->type);
    else if (raw)
        status = print(reply->str, (size_t)reply->len);
    else
        status = show(c, key, (const uint8_t *)reply->str, (size_t)reply->len);
    freeReplyObject(reply);
    redis_close(redis);
    return status;
}

int command_get(int argc, char **argv) {
    enum { OPTION_RAW = 256 };
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"raw", no_argument, NULL, OPTION_RAW},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *file = NULL;
    bool raw = false;
    int o, status = EX_OK;
    optind = 0; /* the whole scan anew: main may have looked at its own options */
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) switch (o) {
        case 'c': file = optarg; break;
        case OPTION_RAW: raw = true; break;
        case 'h': fputs(help, stdout); return EX_OK;
        default: return command_misuse("get", "unknown option or missing argument: %s", argv[optind - 1]);
        }
    if (argc - optind != 1) return command_misuse("get", "exactly one KEY is needed");
    prctl(PR_SET_DUMPABLE, 0); /* what it holds in memory must not end in a core dump */
    const struct config *config = command_config(file, &status);
    return config != NULL ? get(config, argv[optind], raw) : status;
}

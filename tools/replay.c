/* millrace replay: sends records again, to the pipeline or to a topic. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/audit_keys.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/json_text.h"
#include "base/utc.h"
#include "shm/record.h"
#include "tools/command.h"
#include "tools/replay_copy.h"
#include "tools/replay_feed.h"
#include "tools/replay_set.h"

static const char help[] =
    "usage: millrace replay CHOICE... [-c FILE] [OPTION]...\n"
    "\n"
    "Sends records again that went through the pipeline once: into it, in order with what comes now, or as copies to\n"
    "another topic. Several choices narrow each other.\n"
    "\n"
    "  --id UUID               the record with this id\n"
    "  --key KEY               all records of this Redis key\n"
    "  --load UUID             all records of a load\n"
    "  --window FROM[/TO]      records of this event time, as 2026-03-14T22:20:00Z or milliseconds; without TO: of "
    "the\n"
    "                          length of recon.window\n"
    "  --offsets TOPIC/PARTITION/FROM-TO\n"
    "                          these offsets, TO included; or one: TOPIC/PARTITION/OFFSET\n"
    "  --topic TOPIC           of this topic only\n"
    "\n"
    "  --dry-run               print what would be sent, and send nothing\n"
    "  --rate N                at most about N records a second\n"
    "  --to-topic TOPIC        send copies there, with all their headers and millrace-replay-of\n"
    "  --from kafka|log        where the copies are read: Kafka (default), or the audit log of topics with\n"
    "                          `reconcile: full`; only with --to-topic\n"
    "  --timeout SECONDS       how long the instance may take for a piece (default 120)\n"
    "  --format text|json\n"
    "\n"
    "Into the pipeline, every later record of the same keys is sent along, so that no key stays at an older value; "
    "the\n"
    "instance has to run, with `audit: on`, and the records have to be in Kafka still.\n"
    "\n"
    "exit status: 0 all of it was sent; 1 some of it could not be (the output says which and why); 66 nothing was\n"
    "chosen, or there is no audit log; 69 no instance, or no broker; 75 not now, or not in time: once more; 64 wrong\n"
    "arguments; 78 configuration; 65 a damaged log\n";

static _Atomic int stop;

static void on_signal(int number) { atomic_store_explicit(&stop, number, memory_order_relaxed); }

struct arguments {
    const char *config, *to_topic;
    const char *id_text, *key, *load_text, *window, *offsets;
    bool dry, json, from_log;
    uint64_t rate, timeout_s;
    uint8_t id[16], load[16], key_digest[DIGEST_BYTES];
    char topic[TOPIC_BYTES];
    struct log_query query;
};

static int complain(const struct err *err) {
    fprintf(stderr, "millrace replay: %s\n", err->text);
    return err->code != 0 ? err->code : EX_SOFTWARE;
}

/* -- what is meant ----------------------------------------------------------------------------- */

/* An offset, or a time in ms. -1: it is not a number. */
static int64_t number_take(const char **at) {
    char *end;
    if (**at < '0' || **at > '9') return -1;
    errno = 0;
    long long n = strtoll(*at, &end, 10);
    *at = end;
    return errno == 0 && n < 1LL << 62 ? n : -1;
}

static int window_read(struct arguments *a, const struct config *c) {
    const char *slash = strchr(a->window, '/');
    int64_t from = utc_read(a->window, slash != NULL ? (size_t)(slash - a->window) : strlen(a->window));
    int64_t to = slash != NULL ? utc_read(slash + 1, strlen(slash + 1)) : from + c->recon.window_ms;
    if (from < 0 || to <= from)
        return command_misuse("replay", "--window takes FROM or FROM/TO, as 2026-03-14T22:20:00Z or milliseconds");
    a->query.created_from_ms = from;
    a->query.created_to_ms = to;
    return EX_OK;
}

static int offsets_read(struct arguments *a) {
    const char *slash = strchr(a->offsets, '/'), *at = slash != NULL ? slash + 1 : "";
    size_t len = slash != NULL ? (size_t)(slash - a->offsets) : 0;
    int64_t partition = number_take(&at), from = -1, to = -1;
    if (partition >= 0 && (*at == '/' || *at == '@')) { /* @: as places are printed */
        at++;
        to = from = number_take(&at);
    }
    if (from >= 0 && *at == '-') {
        at++;
        to = number_take(&at);
    }
    bool good = len > 0 && len < TOPIC_BYTES && partition >= 0 && partition <= INT32_MAX && from >= 0 && to >= from;
    if (!good || *at != 0)
        return command_misuse("replay", "--offsets takes TOPIC/PARTITION/FROM-TO, or TOPIC/PARTITION/OFFSET");
    if (a->topic[0] != 0 && (strlen(a->topic) != len || strncmp(a->topic, a->offsets, len) != 0))
        return command_misuse("replay", "--topic and --offsets name different topics");
    memcpy(a->topic, a->offsets, len);
    a->topic[len] = 0;
    a->query.partition = (int32_t)partition;
    a->query.offset_from = from;
    a->query.offset_to = to + 1;
    return EX_OK;
}

static int uuid_read(const char *text, const char *option, uint8_t out[16]) {
    if (strlen(text) == 36 && record_id_parse(out, text, 36) == 0) return EX_OK;
    return command_misuse("replay", "--%s takes a UUID", option);
}

/* Keys are found by their digest. */
static int key_read(struct arguments *a, const struct config *c) {
    struct audit_keys keys = {0};
    struct digest_key digest;
    struct err err = {0};
    if (c->recon.keys[0] == 0) {
        fputs("millrace replay: recon.keys is not set: the log cannot be searched for a key\n", stderr);
        return EX_CONFIG;
    }
    if (audit_keys_load(c->recon.keys, AUDIT_KEY_DIGEST, &keys, &err) != 0) return complain(&err);
    digest_key_init(&digest, keys.digest);
    digest_of(&digest, DIGEST_HMAC, a->key, strlen(a->key), a->key_digest);
    digest_key_clear(&digest);
    explicit_bzero(&keys, sizeof keys);
    a->query.key = a->key_digest;
    return EX_OK;
}

static int query_make(struct arguments *a, const struct config *c) {
    int status = EX_OK;
    if (status == EX_OK && a->id_text != NULL) status = uuid_read(a->id_text, "id", a->id);
    if (status == EX_OK && a->load_text != NULL) status = uuid_read(a->load_text, "load", a->load);
    if (status == EX_OK && a->window != NULL) status = window_read(a, c);
    if (status == EX_OK && a->offsets != NULL) status = offsets_read(a);
    if (status == EX_OK && a->key != NULL) status = key_read(a, c);
    if (status == EX_OK && a->topic[0] != 0 && config_topic_index(c, a->topic) < 0)
        status = command_misuse("replay", "the configuration has no topic %s", a->topic);
    if (a->id_text != NULL) a->query.id = a->id;
    if (a->load_text != NULL) a->query.load = a->load;
    if (a->topic[0] != 0) a->query.topic = a->topic;
    return status;
}

/* -- telling ----------------------------------------------------------------------------------- */

static void time_print(int64_t ms) {
    char text[UTC_BYTES];
    utc_text_ms(text, ms, 0);
    fputs(text, stdout);
}

static void record_print(const struct replay_set *s, const struct replay_record *r, bool json) {
    char id[37];
    record_id_format(r->id, id);
    const char *topic = replay_set_topic(s, r->topic), *why = r->follows ? "follows" : "chosen";
    const char *outcome = r->sequence != 0 ? entry_outcome_name(r->outcome) : "unknown";
    if (json) {
        printf("{\"topic\":\"%s\",\"partition\":%" PRId32 ",\"offset\":%" PRId64 ",\"why\":\"%s\",\"id\":\"%s\","
               "\"outcome\":\"%s\",\"created_ms\":%" PRId64 ",\"sequence\":%" PRIu64 "}",
               topic, r->partition, r->offset, why, id, outcome, r->created_ms, r->sequence);
        return;
    }
    printf("%-8s %s  %-12s ", why, r->sequence != 0 ? id : "-                                   ", outcome);
    time_print(r->sequence != 0 ? r->created_ms : -1);
    printf("  %s/%" PRId32 "/%" PRId64 "\n", topic, r->partition, r->offset);
}

static void keyless_print(const struct replay_set *s) {
    if (replay_set_keyless(s) > 0)
        fprintf(stderr,
                "millrace replay: %zu rejected records are left out: no key is known of them, nor what came after "
                "them; --to-topic sends them\n",
                replay_set_keyless(s));
}

static int dry_run(struct replay_set *s, bool json) {
    size_t n;
    const struct replay_record *r = replay_set_records(s, &n);
    if (json) fputs("{\"records\":[", stdout);
    for (size_t i = 0; i < n; i++) {
        if (json && i > 0) fputs(",\n ", stdout);
        record_print(s, &r[i], json);
    }
    size_t chosen = replay_set_chosen(s), left = replay_set_keyless(s);
    if (json)
        printf("],\"chosen\":%zu,\"following\":%zu,\"left_out\":%zu}\n", chosen, n - chosen, left);
    else
        printf("%zu chosen, %zu following; nothing was sent\n", chosen, n - chosen);
    keyless_print(s);
    return left > 0 ? 1 : EX_OK;
}

struct screen {
    bool terminal, shown, from_log;
    uint64_t next_ns;
};

static void progress(void *context, uint64_t n) {
    struct screen *s = context;
    uint64_t now = clock_ns(&clock_real);
    if (!s->terminal || now < s->next_ns) return;
    s->next_ns = now + 500 * NS_PER_MS;
    s->shown = true;
    fprintf(stderr, "\r\033[K%" PRIu64 " records sent", n);
}

static void screen_clear(struct screen *s) {
    if (s->shown) fputs("\r\033[K", stderr);
    s->shown = false;
}

/* -- doing it ---------------------------------------------------------------------------------- */

static void missing_told(void *context, const char *topic, int32_t partition, int64_t offset) {
    const struct screen *s = context;
    fprintf(stderr, "millrace replay: %s/%" PRId32 "/%" PRId64 " is not %s\n", topic, partition, offset,
            s->from_log ? "in the log with its content (reconcile: full)" : "in Kafka any more");
}

static int copy(const struct arguments *a, const struct config *c, const char *dir, struct replay_set *s) {
    struct screen screen = {.terminal = isatty(STDERR_FILENO) == 1, .from_log = a->from_log};
    struct err err = {0};
    struct replay_copy copy = {.config = c,
                               .topic = a->to_topic,
                               .rate = a->rate,
                               .stop = &stop,
                               .progress = progress,
                               .context = &screen,
                               .miss = a->json ? NULL : missing_told};
    int r = a->from_log ? replay_copy_log(&copy, dir, &a->query, &err) : replay_copy_kafka(&copy, s, &err);
    screen_clear(&screen);
    int status = r != 0 ? complain(&err) : copy.missing > 0 ? 1 : EX_OK;
    if (r == 0 && copy.copied + copy.missing == 0) {
        fputs("millrace replay: nothing is chosen by that\n", stderr);
        status = EX_NOINPUT;
    }
    if (a->json)
        printf("{\"copied\":%" PRIu64 ",\"missing\":%" PRIu64 ",\"to\":\"%s\"}\n", copy.copied, copy.missing,
               a->to_topic);
    else
        printf("%" PRIu64 " records copied to %s, %" PRIu64 " are not there\n", copy.copied, a->to_topic, copy.missing);
    return status;
}

static int feed(const struct arguments *a, const struct config *c, const char *dir, struct replay_set *s) {
    struct screen screen = {.terminal = isatty(STDERR_FILENO) == 1};
    struct err err = {0};
    struct replay_feed f = {.at = {c->run_dir, c->name},
                            .config = c,
                            .dir = dir,
                            .rate = a->rate,
                            .timeout_s = (unsigned)a->timeout_s,
                            .stop = &stop,
                            .progress = progress,
                            .context = &screen};
    int r = replay_feed_run(&f, s, &err);
    screen_clear(&screen);
    int status = r != 0 ? complain(&err) : replay_feed_status(&f);
    replay_feed_print(stdout, &f, s, a->json);
    replay_feed_free(&f);
    keyless_print(s);
    return status == EX_OK && replay_set_keyless(s) > 0 ? 1 : status;
}

/* Whether the log is not needed to know which records are meant. */
static bool only_offsets(const struct arguments *a) {
    return a->to_topic != NULL && a->offsets != NULL && a->id_text == NULL && a->key == NULL && a->load_text == NULL &&
           a->window == NULL;
}

static int choose(const struct arguments *a, const char *dir, struct replay_set *s) {
    struct err err = {0};
    int r = only_offsets(a)
                ? replay_set_add(s, a->topic, a->query.partition, a->query.offset_from, a->query.offset_to, &err)
                : replay_set_choose(s, dir, &a->query, a->to_topic != NULL, &err);
    if (r == 0 && a->to_topic == NULL) r = replay_set_follow(s, dir, &err);
    if (r != 0) return complain(&err);
    if (replay_set_chosen(s) > 0) return EX_OK;
    keyless_print(s);
    if (replay_set_keyless(s) > 0) return 1;
    fputs("millrace replay: nothing is chosen by that\n", stderr);
    return EX_NOINPUT;
}

static int replay(const struct arguments *a, const struct config *c) {
    char dir[PATH_BYTES + 16];
    struct replay_set *s = replay_set_new();
    log_dir(c, dir);
    int status = a->from_log && !a->dry ? EX_OK : choose(a, dir, s);
    if (status == EX_OK && a->dry)
        status = dry_run(s, a->json);
    else if (status == EX_OK)
        status = a->to_topic != NULL ? copy(a, c, dir, s) : feed(a, c, dir, s);
    replay_set_free(s);
    if (fflush(stdout) == 0) return status;
    fprintf(stderr, "millrace replay: standard output: %s\n", strerror(errno));
    return EX_IOERR;
}

/* -- arguments --------------------------------------------------------------------------------- */

enum option_code {
    O_ID = 1000,
    O_KEY,
    O_LOAD,
    O_WINDOW,
    O_OFFSETS,
    O_TOPIC,
    O_DRY,
    O_RATE,
    O_TO,
    O_FROM,
    O_TIMEOUT,
    O_FORMAT
};

static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                        {"id", required_argument, NULL, O_ID},
                                        {"key", required_argument, NULL, O_KEY},
                                        {"load", required_argument, NULL, O_LOAD},
                                        {"window", required_argument, NULL, O_WINDOW},
                                        {"offsets", required_argument, NULL, O_OFFSETS},
                                        {"topic", required_argument, NULL, O_TOPIC},
                                        {"dry-run", no_argument, NULL, O_DRY},
                                        {"rate", required_argument, NULL, O_RATE},
                                        {"to-topic", required_argument, NULL, O_TO},
                                        {"from", required_argument, NULL, O_FROM},
                                        {"timeout", required_argument, NULL, O_TIMEOUT},
                                        {"format", required_argument, NULL, O_FORMAT},
                                        {"help", no_argument, NULL, 'h'},
                                        {0}};

static int number_read(const char *option, const char *text, uint64_t max, uint64_t *out) {
    int64_t n = number_take(&text);
    *out = (uint64_t)n;
    if (n >= 1 && (uint64_t)n <= max && *text == 0) return EX_OK;
    return command_misuse("replay", "--%s takes a number from 1 to %llu", option, (unsigned long long)max);
}

static int word_read(const char *option, const char *text, const char *off, const char *on, bool *out) {
    *out = strcmp(text, on) == 0;
    if (*out || strcmp(text, off) == 0) return EX_OK;
    return command_misuse("replay", "--%s takes %s or %s", option, off, on);
}

static int topic_read(struct arguments *a, const char *name) {
    if (name[0] == 0 || strlen(name) >= TOPIC_BYTES) return command_misuse("replay", "--topic takes a topic's name");
    memcpy(a->topic, name, strlen(name) + 1);
    return EX_OK;
}

/* EX_OK, or the status to return; -1: the help was wanted. */
static int option_take(struct arguments *a, int o, char **argv) {
    switch (o) {
    case 'c': a->config = optarg; break;
    case 'h': return -1;
    case O_ID: a->id_text = optarg; break;
    case O_KEY: a->key = optarg; break;
    case O_LOAD: a->load_text = optarg; break;
    case O_WINDOW: a->window = optarg; break;
    case O_OFFSETS: a->offsets = optarg; break;
    case O_TOPIC: return topic_read(a, optarg);
    case O_DRY: a->dry = true; break;
    case O_RATE: return number_read("rate", optarg, 100000000, &a->rate);
    case O_TO: a->to_topic = optarg; break;
    case O_FROM: return word_read("from", optarg, "kafka", "log", &a->from_log);
    case O_TIMEOUT: return number_read("timeout", optarg, 86400, &a->timeout_s);
    case O_FORMAT: return word_read("format", optarg, "text", "json", &a->json);
    default: return command_misuse("replay", "unknown option or missing argument: %s", argv[optind - 1]);
    }
    return EX_OK;
}

static int arguments_check(const struct arguments *a) {
    if (a->id_text == NULL && a->key == NULL && a->load_text == NULL && a->window == NULL && a->offsets == NULL)
        return command_misuse("replay", "what is to be sent? --id, --key, --load, --window or --offsets");
    if (a->from_log && a->to_topic == NULL)
        return command_misuse("replay", "--from log goes with --to-topic: the pipeline takes its records from Kafka");
    if (a->to_topic != NULL &&
        (strlen(a->to_topic) >= TOPIC_BYTES || a->to_topic[0] == 0 ||
         strspn(a->to_topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") !=
             strlen(a->to_topic)))
        return command_misuse("replay", "this cannot be the name of a topic");
    return EX_OK;
}

int command_replay(int argc, char **argv) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}; /* the second one ends it */
    struct arguments a = {.query = LOG_QUERY_ANY, .timeout_s = REFEED_TIMEOUT_S};
    int o, status = EX_OK;
    optind = 0; /* the whole scan anew: main may have looked at its own options */
    opterr = 0;
    while (status == EX_OK && (o = getopt_long(argc, argv, "c:h", options, NULL)) != -1)
        status = option_take(&a, o, argv);
    if (status == -1) return fputs(help, stdout) < 0 ? EX_IOERR : EX_OK;
    if (status == EX_OK && optind < argc) status = command_misuse("replay", "unexpected argument %s", argv[optind]);
    if (status == EX_OK) status = arguments_check(&a);
    if (status != EX_OK) return status;
    const struct config *config = command_config(a.config, &status);
    if (config == NULL) return status;
    command_index_key(config->recon.keys);
    status = query_make(&a, config);
    if (status != EX_OK) return status;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return replay(&a, config);
}

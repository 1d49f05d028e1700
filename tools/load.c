/* millrace load: publishes a file to a topic (feed/load.h). */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/grouped.h"
#include "feed/load.h"
#include "tools/command.h"
#include "tools/load_report.h"

static const char help[] =
    "usage: millrace load FILE --topic TOPIC [-c FILE] [OPTION]...\n"
    "       millrace load --resume [LOAD] [-c FILE]     go on with what was interrupted: LOAD, or all of them\n"
    "       millrace load --list [--all] [-c FILE]      what waits in the outbox; with --all also what is over\n"
    "       millrace load --abandon LOAD [-c FILE]      send what was taken up, read no more, and end it as aborted\n"
    "\n"
    "Publishes the rows of FILE (`-`: standard input) to a topic of the configuration, each with an id, a digest and "
    "a\n"
    "sequence; what is not acknowledged stays in an outbox, is sent again, and survives the death of this process.\n"
    "The file is looked at as a whole first: rows that cannot be used are refused before anything is published.\n"
    "\n"
    "  --format csv|jsonl      default: by the end of FILE's name\n"
    "  --operation WORD        add (default), update or delete, said as the topic's `operation` wants it\n"
    "  --key FIELD|TEMPLATE    what the Kafka key is made of; default: the Redis key\n"
    "  --producer NAME         default: load-INSTANCE-TAG, with a tag of the outbox\n"
    "  --load UUID             id of the load; default: a new one\n"
    "  --snapshot              FILE holds every key of the topic: others no longer exist. Partitions that wait "
    "because\n"
    "                          Kafka has lost offsets go on when such a load is complete\n"
    "  --keys-out FILE         write the Redis key of each record, one a line\n"
    "  --max-message BYTES     larger records are refused; default 10240\n"
    "  --skip-bad              publish the others when some rows cannot be used\n"
    "  --rate N                at most N records a second\n"
    "  --dry-run               look at the file, publish nothing\n"
    "  --outbox FILE           default: DATA_DIR/feed/outbox.db\n"
    "  --attempts N            connections tried in a row without any success before giving up; default 5\n"
    "  --attempt-timeout S     seconds without an acknowledgement that make an attempt fail; default 60\n"
    "  --format-output json    the result as JSON\n"
    "\n"
    "exit status: 0 everything was acknowledged; 75 not yet, and kept in the outbox for --resume; 65 rows that cannot "
    "be\n"
    "used; 69 the broker refuses; 64 wrong arguments; 66, 73, 74 a file cannot be read or written; 78 configuration\n";

enum { MAX_MESSAGE = 10240, ATTEMPTS = 5, ATTEMPT_S = 60, PROGRESS_MS = 500 };

static _Atomic int stop;

static void on_signal(int number) { atomic_store_explicit(&stop, number, memory_order_relaxed); }

static void signals_watch(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}; /* the second one ends it */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* -- progress ---------------------------------------------------------------------------------- */

struct screen {
    bool terminal, shown;
    uint64_t begin_ns, next_ns, first; /* first: acknowledged when it began */
};

static void progress(void *context, bool published, uint64_t taken, uint64_t acknowledged, uint64_t all) {
    struct screen *s = context;
    char a[GROUPED_BYTES], b[GROUPED_BYTES], c[GROUPED_BYTES];
    uint64_t now = clock_ns(&clock_real);
    if (!s->terminal || now < s->next_ns) return;
    s->next_ns = now + PROGRESS_MS * NS_PER_MS;
    if (published && s->begin_ns == 0) {
        s->begin_ns = now;
        s->first = acknowledged;
    }
    s->shown = true;
    if (!published) {
        fprintf(stderr, "\r\033[K%s rows looked at", grouped(taken, a));
        return;
    }
    uint64_t ms = (now - s->begin_ns) / NS_PER_MS + 1;
    fprintf(stderr, "\r\033[K%s", grouped(acknowledged, a));
    if (all > 0) fprintf(stderr, " of %s", grouped(all, b));
    fprintf(stderr, " records acknowledged, %s/s", grouped((acknowledged - s->first) * 1000 / ms, c));
}

static void screen_clear(struct screen *s) {
    if (s->shown) fputs("\r\033[K", stderr);
    s->shown = false;
}

/* -- arguments --------------------------------------------------------------------------------- */

struct arguments {
    const char *config, *outbox;
    struct load_request request;
    bool resume, abandon, list, all, json, format_said;
    uint8_t id[16];
    uint64_t attempts, attempt_s;
};

static int number_read(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *out) {
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == 0 && errno == 0 && *out >= min && *out <= max) return EX_OK;
    return command_misuse("load", "--%s takes a number from %llu to %llu", name, (unsigned long long)min,
                          (unsigned long long)max);
}

static int format_read(struct arguments *a, const char *word) {
    a->format_said = true;
    a->request.format = strcmp(word, "csv") == 0 ? ROWS_CSV : ROWS_JSONL;
    if (strcmp(word, "csv") == 0 || strcmp(word, "jsonl") == 0) return EX_OK;
    return command_misuse("load", "unknown format %s: csv or jsonl (of the result: --format-output json)", word);
}

static int operation_read(struct arguments *a, const char *word) {
    for (enum record_op op = RECORD_ADD; op <= RECORD_DELETE; op++)
        if (strcmp(word, record_op_name(op)) == 0) {
            a->request.operation = op;
            return EX_OK;
        }
    return command_misuse("load", "unknown operation %s: add, update or delete", word);
}

static int id_read(struct arguments *a, const char *text) {
    if (strlen(text) == 36 && record_id_parse(a->id, text, 36) == 0) {
        a->request.id = a->id;
        return EX_OK;
    }
    return command_misuse("load", "%s is not the id of a load (a UUID)", text);
}

static int producer_read(struct arguments *a, const char *name) {
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@:");
    a->request.producer = name;
    if (n > 0 && n < NAME_BYTES && name[n] == 0) return EX_OK;
    return command_misuse("load", "the name of a producer is 1 to 63 letters, digits and . _ - @ :");
}

enum option_code {
    O_FORMAT = 1000,
    O_OPERATION,
    O_KEY,
    O_PRODUCER,
    O_LOAD,
    O_SNAPSHOT,
    O_KEYS,
    O_MAX,
    O_SKIP,
    O_RATE,
    O_DRY,
    O_OUTBOX,
    O_ATTEMPTS,
    O_ATTEMPT_S,
    O_OUTPUT,
    O_RESUME,
    O_ABANDON,
    O_LIST,
    O_ALL,
    O_TOPIC
};

static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                        {"topic", required_argument, NULL, O_TOPIC},
                                        {"format", required_argument, NULL, O_FORMAT},
                                        {"operation", required_argument, NULL, O_OPERATION},
                                        {"key", required_argument, NULL, O_KEY},
                                        {"producer", required_argument, NULL, O_PRODUCER},
                                        {"load", required_argument, NULL, O_LOAD},
                                        {"snapshot", no_argument, NULL, O_SNAPSHOT},
                                        {"keys-out", required_argument, NULL, O_KEYS},
                                        {"max-message", required_argument, NULL, O_MAX},
                                        {"skip-bad", no_argument, NULL, O_SKIP},
                                        {"rate", required_argument, NULL, O_RATE},
                                        {"dry-run", no_argument, NULL, O_DRY},
                                        {"outbox", required_argument, NULL, O_OUTBOX},
                                        {"attempts", required_argument, NULL, O_ATTEMPTS},
                                        {"attempt-timeout", required_argument, NULL, O_ATTEMPT_S},
                                        {"format-output", required_argument, NULL, O_OUTPUT},
                                        {"resume", no_argument, NULL, O_RESUME},
                                        {"abandon", no_argument, NULL, O_ABANDON},
                                        {"list", no_argument, NULL, O_LIST},
                                        {"all", no_argument, NULL, O_ALL},
                                        {"help", no_argument, NULL, 'h'},
                                        {0}};

/* EX_OK, or the status to return; -1: the help was wanted. */
static int option_take(struct arguments *a, int o, char **argv) {
    struct load_request *r = &a->request;
    switch (o) {
    case 'c': a->config = optarg; break;
    case 'h': return -1;
    case O_TOPIC: r->topic = optarg; break;
    case O_FORMAT: return format_read(a, optarg);
    case O_OPERATION: return operation_read(a, optarg);
    case O_KEY: r->key = optarg; break;
    case O_PRODUCER: return producer_read(a, optarg);
    case O_LOAD: return id_read(a, optarg);
    case O_SNAPSHOT: r->snapshot = true; break;
    case O_KEYS: r->keys_out = optarg; break;
    case O_MAX: return number_read("max-message", optarg, 1, ROW_BYTES_MAX, &r->max_message);
    case O_SKIP: r->skip_bad = true; break;
    case O_RATE: return number_read("rate", optarg, 1, 100000000, &r->rate);
    case O_DRY: r->dry_run = true; break;
    case O_OUTBOX: a->outbox = optarg; break;
    case O_ATTEMPTS: return number_read("attempts", optarg, 1, 1000000, &a->attempts);
    case O_ATTEMPT_S: return number_read("attempt-timeout", optarg, 1, 86400, &a->attempt_s);
    case O_OUTPUT:
        a->json = true;
        if (strcmp(optarg, "json") != 0) return command_misuse("load", "--format-output knows json");
        break;
    case O_RESUME: a->resume = true; break;
    case O_ABANDON: a->abandon = true; break;
    case O_LIST: a->list = true; break;
    case O_ALL: a->all = true; break;
    default: return command_misuse("load", "unknown option or missing argument: %s", argv[optind - 1]);
    }
    return EX_OK;
}

/* What stands without a dash: the file, or the load. */
static int rest_take(struct arguments *a, int count, char **rest) {
    struct load_request *r = &a->request;
    const char *dot;
    if (count > 1) return command_misuse("load", "unexpected argument %s", rest[1]);
    if (a->all && !a->list) return command_misuse("load", "--all goes with --list");
    if (a->resume || a->abandon || a->list) {
        if (a->resume + a->abandon + a->list > 1)
            return command_misuse("load", "--resume, --abandon or --list: only one of them");
        if (r->topic != NULL || r->id != NULL || r->keys_out != NULL || r->key != NULL || a->format_said)
            return command_misuse("load", "what was said when the load began still holds: leave it away");
        if (a->list && count > 0) return command_misuse("load", "unexpected argument %s", rest[0]);
        if (count == 0) return a->abandon ? command_misuse("load", "--abandon which load?") : EX_OK;
        return id_read(a, rest[0]);
    }
    if (count == 0) return command_misuse("load", "which file?");
    if (r->topic == NULL) return command_misuse("load", "--topic is needed");
    if (r->snapshot && r->skip_bad)
        return command_misuse("load", "--snapshot says that every key is there: it does not go with --skip-bad");
    r->path = rest[0];
    dot = strrchr(r->path, '.');
    if (a->format_said) return EX_OK;
    if (dot != NULL && strcasecmp(dot, ".csv") == 0) return format_read(a, "csv");
    if (dot != NULL && (strcasecmp(dot, ".jsonl") == 0 || strcasecmp(dot, ".ndjson") == 0))
        return format_read(a, "jsonl");
    return command_misuse("load", "--format csv or jsonl? The name of the file does not tell");
}

/* -- running ----------------------------------------------------------------------------------- */

/* The absolute path of the outbox; its folder below data_dir is made. */
static int outbox_place(const struct arguments *a, const struct config *c, char *out, size_t room) {
    char folder[PATH_BYTES + 16], real[PATH_MAX];
    if (a->outbox == NULL) {
        snprintf(folder, sizeof folder, "%s/feed", c->data_dir);
        if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
            fprintf(stderr, "millrace load: %s: %s\n", folder, strerror(errno));
            return EX_CANTCREAT;
        }
        snprintf(out, room, "%s/outbox.db", folder);
        return EX_OK;
    }
    const char *slash = strrchr(a->outbox, '/');
    snprintf(folder, sizeof folder, "%.*s", slash != NULL ? (int)(slash - a->outbox + 1) : 1,
             slash != NULL ? a->outbox : ".");
    if (realpath(folder, real) == NULL) {
        fprintf(stderr, "millrace load: %s: %s\n", folder, strerror(errno));
        return EX_CANTCREAT;
    }
    snprintf(out, room, "%s/%s", real, slash != NULL ? slash + 1 : a->outbox);
    return EX_OK;
}

/* Prints what a load has come to; a complete one of all keys makes up for what was lost. */
static void tell(const struct arguments *a, const struct load_settings *set, const struct load_result *r,
                 uint64_t begin_ns) {
    struct load_cover cover;
    uint64_t elapsed_ns = clock_ns(&clock_real) - begin_ns;
    bool whole = r->load.snapshot && r->load.state == OUTBOX_COMPLETE;
    if (whole) cover = load_cover(set->config, r);
    load_report(r, whole ? &cover : NULL, a->request.dry_run, a->json, elapsed_ns);
}

static int complain(struct screen *s, const struct err *err) {
    screen_clear(s);
    fprintf(stderr, "millrace load: %s\n", err->text);
    return err->code != 0 ? err->code : EX_SOFTWARE;
}

static int run_new(const struct arguments *a, const struct load_settings *set, struct screen *s) {
    static struct load_result result;
    struct err err = {0};
    uint64_t begin_ns = clock_ns(&clock_real);
    int done = load_run(set, &a->request, &result, &err);
    screen_clear(s);
    int status = done == 0 ? EX_OK : complain(s, &err);
    if (done == 0 || result.load.number != 0) tell(a, set, &result, begin_ns);
    return status;
}

static int run_again(const struct arguments *a, const struct load_settings *set, struct screen *s) {
    static struct load_result result;
    int status = EX_OK;
    for (uint32_t n = 0;; n++) {
        struct err err = {0};
        uint64_t begin_ns = clock_ns(&clock_real);
        int done = load_resume(set, a->request.id, result.load.number, a->abandon, &result, &err);
        screen_clear(s);
        if (done < 0) status = complain(s, &err);
        if (done == 0 && n == 0 && a->request.id != NULL) {
            fprintf(stderr, "millrace load: the outbox has no such load\n");
            return EX_USAGE;
        }
        if (done == 0 && n == 0 && !a->json) puts("nothing to resume");
        if (done == 0 || result.load.number == 0) return status;
        tell(a, set, &result, begin_ns);
        if (a->request.id != NULL || atomic_load(&stop) != 0) return status;
    }
}

int command_load(int argc, char **argv) {
    static char outbox[2 * PATH_MAX];
    struct screen screen = {.terminal = isatty(STDERR_FILENO) == 1};
    struct arguments a = {.request = {.max_message = MAX_MESSAGE}, .attempts = ATTEMPTS, .attempt_s = ATTEMPT_S};
    int o, status = EX_OK;
    opterr = 0;
    while (status == EX_OK && (o = getopt_long(argc, argv, "c:h", options, NULL)) != -1)
        status = option_take(&a, o, argv);
    if (status == -1) return fputs(help, stdout) < 0 ? EX_IOERR : EX_OK;
    if (status == EX_OK) status = rest_take(&a, argc - optind, argv + optind);
    if (status != EX_OK) return status;
    const struct config *config = command_config(a.config, &status);
    if (config == NULL) return status;
    status = outbox_place(&a, config, outbox, sizeof outbox);
    if (status != EX_OK) return status;
    if (a.list) return load_list(outbox, a.json, a.all);
    signals_watch();
    struct load_settings set = {.config = config,
                                .outbox = outbox,
                                .attempts = (uint32_t)a.attempts,
                                .attempt_ms = (uint32_t)a.attempt_s * 1000,
                                .stop = &stop,
                                .progress = progress,
                                .context = &screen};
    status = a.resume || a.abandon ? run_again(&a, &set, &screen) : run_new(&a, &set, &screen);
    if (fflush(stdout) == 0) return status;
    fprintf(stderr, "millrace load: standard output: %s\n", strerror(errno));
    return EX_IOERR;
}

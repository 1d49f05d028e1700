/* millrace ctl: asks the supervisor of a running instance for something, over its control socket. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "shm/stats_render.h"
#include "tools/command.h"
#include "tools/control_client.h"
#include "tools/refeed.h"

static const char help[] =
    "usage: millrace ctl COMMAND [-c FILE | --name NAME [--run-dir DIR]] [--format text|json] [OPTION]...\n"
    "\n"
    "Asks a running instance for something. It is found by its configuration FILE (default ./millrace.yaml, then\n"
    "/etc/millrace/millrace.yaml) or by its NAME in DIR (default /run/millrace).\n"
    "\n"
    "  status                  how it is, and what became of the last reload\n"
    "  reload [--wait]         read the configuration file again and go over to it, losing nothing; with --wait come\n"
    "                          back when it is in force (at most --timeout SECONDS, default 120)\n"
    "  stop                    drain and stop, as SIGTERM does\n"
    "  accept-loss [--topic TOPIC [--partition N]]\n"
    "                          give up offsets that Redis needs again and Kafka no longer has, so that blocked\n"
    "                          partitions go on; says which. Without options: of all partitions\n"
    "  refeed FILE             have chosen records fed once more: FILE is a request in its data_dir/refeed; says what\n"
    "                          became of it (waits at most --timeout SECONDS, default 120)\n"
    "\n"
    "exit status: 0 done, or nothing to do; 1 done as far as Kafka and this instance have it (refeed); 69 there is no "
    "such instance, or it ended meanwhile; 75 it cannot do that\n"
    "now, or was asked and is not done in time; 78 the configuration was refused, and stays as it was; 77 no\n"
    "permission for its socket; 66 or 78 FILE cannot be read or is refused.\n";

enum { POLL_MS = 100, ACCEPT_S = 15, RELOAD_S = 120 };

struct ctl {
    struct command_place at;
    bool json;
    bool wait;
    unsigned timeout_s;
    const char *topic, *partition;
    const char *request; /* refeed: a path */
};

/* -- one request ------------------------------------------------------------------------------- */

static int complain(const char *text, int status) {
    fprintf(stderr, "millrace ctl: %s\n", text);
    return status;
}

static int written(int status) {
    if (fflush(stdout) == 0) return status;
    fprintf(stderr, "millrace ctl: standard output: %s\n", strerror(errno));
    return EX_IOERR;
}

static void pause_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

/* -- commands ---------------------------------------------------------------------------------- */

/* A supervisor in the phase `running` may have workers that are blocked: that is what is asked for. */
static void state_print(const struct ctl *c, const char *reply) {
    struct stats s = {0};
    struct err err = {0};
    char phase[REPLY_BYTES], text[REPLY_BYTES], reason[STATS_TEXT_BYTES];
    reply_text(reply, "phase", phase);
    reply_text(reply, "reason", text);
    if (strcmp(phase, "running") == 0 && stats_open(&s, c->at.run_dir, c->at.name, &err) == 0) {
        snprintf(phase, sizeof phase, "%s", stats_state(&s, reason));
        snprintf(text, sizeof text, "%s", reason);
        stats_close(&s);
    }
    printf("%s", phase);
    if (text[0] != 0) printf(" (%s)", text);
}

static int run_status(const struct ctl *c) {
    char reply[REPLY_BYTES], text[REPLY_BYTES];
    int status = control_ask(&c->at, "status\n", reply);
    if (status != 0) return complain(reply, status);
    if (c->json) {
        puts(reply);
        return written(EX_OK);
    }
    printf("%s/", reply_text(reply, "name", text));
    printf("%s, pid %llu: ", reply_text(reply, "instance", text), reply_number(reply, "pid"));
    state_print(c, reply);
    unsigned long long lanes = reply_number(reply, "lanes");
    printf("\nconfiguration %s, %llu lane%s\n", reply_text(reply, "file", text), lanes, lanes == 1 ? "" : "s");
    if (reply_number(reply, "reload_asked") > reply_number(reply, "reload_done")) {
        puts("a reload is under way");
    } else if (reply_number(reply, "reload_done") > 0) {
        printf("last reload: %s", reply_text(reply, "reload_result", text));
        printf(": %s\n", reply_text(reply, "message", text));
    }
    return written(EX_OK);
}

/* Prints the end of a reload. result: one of supervisor_reload.result. */
static int reload_tell(const struct ctl *c, const char *reply, const char *result) {
    char text[REPLY_BYTES];
    bool good = strcmp(result, "refused") != 0 && strcmp(result, "undone") != 0;
    reply_text(reply, "message", text);
    if (c->json)
        puts(reply);
    else if (good)
        printf("%s: %s\n", result, text);
    if (good) return written(EX_OK);
    return complain(text, strstr(text, "is stopping") != NULL ? EX_TEMPFAIL : EX_CONFIG);
}

static int reload_wait(const struct ctl *c, unsigned long long number) {
    char reply[REPLY_BYTES], result[REPLY_BYTES];
    uint64_t until = clock_ns(&clock_real) + c->timeout_s * NS_PER_S;
    for (;;) {
        int status = control_ask(&c->at, "status\n", reply);
        if (status != 0) return complain("the instance has ended: its log says why", EX_UNAVAILABLE);
        if (reply_number(reply, "reload_done") >= number)
            return reload_tell(c, reply, reply_text(reply, "reload_result", result));
        if (clock_ns(&clock_real) >= until) return complain("the reload is not done yet", EX_TEMPFAIL);
        pause_ms(POLL_MS);
    }
}

static int run_reload(const struct ctl *c) {
    char reply[REPLY_BYTES], result[REPLY_BYTES];
    int status = control_ask(&c->at, "reload\n", reply);
    if (status != 0) return complain(reply, status);
    reply_text(reply, "result", result);
    bool begun = strcmp(result, "started") == 0 || strcmp(result, "queued") == 0;
    return begun && c->wait ? reload_wait(c, reply_number(reply, "reload")) : reload_tell(c, reply, result);
}

static int run_stop(const struct ctl *c) {
    char reply[REPLY_BYTES], text[REPLY_BYTES];
    int status = control_ask(&c->at, "stop\n", reply);
    if (status != 0) return complain(reply, status);
    puts(c->json ? reply : reply_text(reply, "message", text));
    return written(EX_OK);
}

/* -- accept-loss ------------------------------------------------------------------------------- */

struct lost {
    char topic[TOPIC_BYTES];
    int32_t partition;
    int64_t from, to;
};

static bool chosen(const struct ctl *c, const struct lost *l) {
    return (c->topic == NULL || strcmp(c->topic, l->topic) == 0) &&
           (c->partition == NULL || strtol(c->partition, NULL, 10) == l->partition);
}

static const char *topic_name(const struct stats *s, uint32_t i) {
    return (const char *)s->header + s->header->topic_at + (size_t)i * TOPIC_BYTES;
}

static bool topic_known(const struct ctl *c, const struct stats *s) {
    for (uint32_t i = 0; c->topic != NULL && i < s->header->topic_count; i++)
        if (strncmp(topic_name(s, i), c->topic, TOPIC_BYTES) == 0) return true;
    return c->topic == NULL;
}

/* The chosen partitions with lost offsets, as the segment under the instance's name shows them now. -1: no segment, or
 * no such topic. */
static int lost_read(const struct ctl *c, struct lost out[PARTITIONS_MAX], struct err *err) {
    struct stats s = {0};
    if (stats_open(&s, c->at.run_dir, c->at.name, err) != 0) return -1;
    uint32_t count = atomic_load_explicit(&s.header->partition_count, memory_order_acquire);
    int n = 0;
    if (!topic_known(c, &s)) {
        stats_close(&s);
        err_set(err, EX_USAGE, "the instance has no topic %s", c->topic);
        return -1;
    }
    for (uint32_t i = 0; i < count && i < PARTITIONS_MAX; i++) {
        const struct stats_partition *p = stats_partition(&s, i);
        struct lost *l = &out[n];
        *l = (struct lost){.partition = p->partition,
                           .from = atomic_load_explicit(&p->lost_from, memory_order_acquire),
                           .to = atomic_load_explicit(&p->lost_to, memory_order_acquire)};
        if (p->topic >= s.header->topic_count) continue;
        memcpy(l->topic, topic_name(&s, p->topic), TOPIC_BYTES - 1);
        if (l->from < l->to && chosen(c, l)) n++;
    }
    stats_close(&s);
    return n;
}

static void lost_print(const struct ctl *c, const struct lost *l, int n) {
    if (c->json) fputs("{\"ok\":true,\"accepted\":[", stdout);
    for (int i = 0; i < n; i++)
        printf(c->json ? "%s{\"topic\":\"%s\",\"partition\":%d,\"from\":%lld,\"to\":%lld}"
                       : "%.0s%s[%d]: offsets [%lld,%lld) accepted as lost\n",
               i > 0 ? "," : "", l[i].topic, l[i].partition, (long long)l[i].from, (long long)l[i].to);
    if (c->json) puts("]}");
    if (!c->json && n == 0) puts("no partition is blocked by lost offsets: nothing to accept");
}

/* Whether one of before is still as it was. */
static bool stands(const struct lost *before, int n, const struct lost *now, int now_n) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < now_n; k++)
            if (strcmp(before[i].topic, now[k].topic) == 0 && before[i].partition == now[k].partition) return true;
    return false;
}

static int run_accept(const struct ctl *c) {
    static struct lost before[PARTITIONS_MAX], now[PARTITIONS_MAX];
    char reply[REPLY_BYTES], text[REPLY_BYTES], request[TOPIC_BYTES + 64];
    struct err err = {0};
    int n = lost_read(c, before, &err);
    if (n < 0) return complain(err.text, err.code);
    snprintf(request, sizeof request, "accept-loss%s%s%s%s\n", c->topic != NULL ? " " : "",
             c->topic != NULL ? c->topic : "", c->partition != NULL ? " " : "",
             c->partition != NULL ? c->partition : "");
    int status =
        n > 0 ? control_ask(&c->at, request, reply) : control_ask(&c->at, "status\n", reply); /* is anybody there? */
    if (status != 0) return complain(reply, status);
    if (!reply_ok(reply)) return complain(reply_text(reply, "message", text), EX_TEMPFAIL);
    uint64_t until = clock_ns(&clock_real) + ACCEPT_S * NS_PER_S;
    for (int left = n; n > 0 && left != 0; pause_ms(POLL_MS)) {
        left = lost_read(c, now, &err);
        if (left < 0) return complain(err.text, err.code);
        if (!stands(before, n, now, left)) break;
        if (clock_ns(&clock_real) >= until) return complain("asked, but not carried out yet: see its log", EX_TEMPFAIL);
    }
    lost_print(c, before, n);
    return written(EX_OK);
}

/* -- refeed ------------------------------------------------------------------------------------ */

/* Takes DATA_DIR/refeed/ID.refeed apart. 0, or -1 when the path is not of that form. */
static int request_path(const char *path, char data_dir[PATH_BYTES], char id[REFEED_ID_BYTES]) {
    char whole[PATH_BYTES + 64], again[PATH_BYTES + 64];
    char *real = realpath(path, NULL);
    if (real == NULL || strlen(real) >= sizeof whole) {
        free(real);
        return -1;
    }
    snprintf(whole, sizeof whole, "%s", real);
    free(real);
    char *name = strrchr(whole, '/');
    *name++ = 0;
    char *folder = strrchr(whole, '/');
    if (folder == NULL || strlen(name) < REFEED_ID_BYTES) return -1;
    *folder = 0;
    size_t len = strlen(whole);
    if (len >= PATH_BYTES) return -1;
    memcpy(data_dir, whole, len + 1);
    snprintf(id, REFEED_ID_BYTES, "%s", name);
    refeed_path(again, data_dir, id, "refeed");
    *folder = '/';
    name[-1] = '/';
    return refeed_id_valid(id) && strcmp(again, whole) == 0 ? 0 : -1;
}

static int run_refeed(const struct ctl *c) {
    char data_dir[PATH_BYTES], id[REFEED_ID_BYTES];
    struct refeed_result result;
    struct err err = {0};
    if (access(c->request, R_OK) != 0) {
        fprintf(stderr, "millrace ctl: %s: %s\n", c->request, strerror(errno));
        return EX_NOINPUT;
    }
    if (request_path(c->request, data_dir, id) != 0)
        return complain("a request is a file ID.refeed in the folder refeed of the instance's data_dir", EX_USAGE);
    if (refeed_await(&c->at, data_dir, id, c->timeout_s, &result, &err) != 0) return complain(err.text, err.code);
    refeed_print(stdout, &result, c->json);
    if (c->json) putchar('\n');
    int status = refeed_status(&result);
    refeed_result_free(&result);
    return written(status);
}

/* -- arguments --------------------------------------------------------------------------------- */

static const struct {
    const char *word;
    int (*run)(const struct ctl *c);
} commands[] = {{"status", run_status},
                {"reload", run_reload},
                {"stop", run_stop},
                {"accept-loss", run_accept},
                {"refeed", run_refeed}};

static int (*command_named(const char *word))(const struct ctl *c) {
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(word, commands[i].word) == 0) return commands[i].run;
    return NULL;
}

struct arguments {
    const char *file, *format, *timeout;
    struct ctl ctl;
};

/* EX_OK, or the status to return. */
static int arguments_check(const struct arguments *a, const char *word) {
    const struct ctl *c = &a->ctl;
    bool reload = strcmp(word, "reload") == 0, accept = strcmp(word, "accept-loss") == 0;
    bool refeed = strcmp(word, "refeed") == 0;
    if (a->file != NULL && c->at.name != NULL) return command_misuse("ctl", "-c and --name say the same thing twice");
    if (c->at.run_dir != NULL && c->at.name == NULL) return command_misuse("ctl", "--run-dir goes with --name");
    if (a->format != NULL && strcmp(a->format, "text") != 0 && strcmp(a->format, "json") != 0)
        return command_misuse("ctl", "unknown format %s: text or json", a->format);
    if (c->wait && !reload) return command_misuse("ctl", "--wait goes with reload");
    if (a->timeout != NULL && !reload && !refeed) return command_misuse("ctl", "--timeout goes with reload and refeed");
    if (refeed && c->request == NULL) return command_misuse("ctl", "refeed: which request?");
    if (!refeed && c->request != NULL) return command_misuse("ctl", "unexpected argument %s", c->request);
    if ((c->topic != NULL || c->partition != NULL) && !accept)
        return command_misuse("ctl", "--topic and --partition go with accept-loss");
    if (c->partition != NULL && c->topic == NULL) return command_misuse("ctl", "--partition goes with --topic");
    if (c->topic != NULL && (strlen(c->topic) >= TOPIC_BYTES || strpbrk(c->topic, " \t\r\n") != NULL))
        return command_misuse("ctl", "this cannot be the name of a topic");
    if (c->partition != NULL && (c->partition[0] == 0 || strspn(c->partition, "0123456789") != strlen(c->partition) ||
                                 strlen(c->partition) > 9))
        return command_misuse("ctl", "a partition is a number");
    if (a->timeout != NULL && (c->timeout_s == 0 || c->timeout_s > 86400))
        return command_misuse("ctl", "--timeout is a number of seconds");
    return EX_OK;
}

static int find_and_run(struct arguments *a, const char *word) {
    int (*run)(const struct ctl *c) = command_named(word);
    if (run == NULL)
        return command_misuse("ctl", "unknown command %s: status, reload, stop, accept-loss or refeed", word);
    int status = arguments_check(a, word);
    if (status != EX_OK) return status;
    if (a->ctl.at.name == NULL) {
        const struct config *config = command_config(a->file, &status);
        if (config == NULL) return status;
        a->ctl.at.name = config->name;
        a->ctl.at.run_dir = config->run_dir;
    }
    if (a->ctl.at.run_dir == NULL) a->ctl.at.run_dir = "/run/millrace";
    a->ctl.json = a->format != NULL && strcmp(a->format, "json") == 0;
    return run(&a->ctl);
}

int command_ctl(int argc, char **argv) {
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},  {"name", required_argument, NULL, 'n'},
        {"run-dir", required_argument, NULL, 'd'}, {"format", required_argument, NULL, 'f'},
        {"wait", no_argument, NULL, 'w'},          {"timeout", required_argument, NULL, 't'},
        {"topic", required_argument, NULL, 'T'},   {"partition", required_argument, NULL, 'P'},
        {"help", no_argument, NULL, 'h'},          {0}};
    struct arguments a = {.ctl = {.timeout_s = RELOAD_S}};
    int o;
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
        switch (o) {
        case 'c': a.file = optarg; break;
        case 'n': a.ctl.at.name = optarg; break;
        case 'd': a.ctl.at.run_dir = optarg; break;
        case 'f': a.format = optarg; break;
        case 'w': a.ctl.wait = true; break;
        case 't':
            a.timeout = optarg;
            a.ctl.timeout_s = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'T': a.ctl.topic = optarg; break;
        case 'P': a.ctl.partition = optarg; break;
        case 'h': return fputs(help, stdout) < 0 ? EX_IOERR : EX_OK;
        default: return command_misuse(argv[0], "unknown option or missing argument: %s", argv[optind - 1]);
        }
    }
    if (optind == argc) return command_misuse(argv[0], "which command? status, reload, stop, accept-loss or refeed");
    if (optind + 2 < argc) return command_misuse(argv[0], "unexpected argument %s", argv[optind + 2]);
    a.ctl.request = argv[optind + 1];
    return find_and_run(&a, argv[optind]);
}

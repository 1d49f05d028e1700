/* millrace verify: whether Redis holds what the log says it should. */
#include "tools/verify.h"

#include <getopt.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/audit_keys.h"
#include "base/utc.h"
#include "tools/command.h"
#include "tools/verify_history.h"
#include "tools/verify_kafka.h"
#include "tools/verify_others.h"
#include "tools/verify_repair.h"
#include "tools/verify_resume.h"
#include "tools/verify_walk.h"

static const char help[] =
    "usage: millrace verify [-c FILE] [WHAT] [OPTION]...\n"
    "\n"
    "Compares Redis with what the audit log says should be there, in both directions: every key of Redis, and every "
    "key\n"
    "that is not there. Redis is only read, in small pieces.\n"
    "What is compared (all of it, unless said otherwise):\n"
    "  --topic T            keys that were last written by a record of this topic\n"
    "  --key-pattern GLOB   keys whose names match; * ? [a-z] and \\\\\n"
    "  --key KEY            this key; may be given several times\n"
    "  --window FROM/TO     records with an event time in [FROM, TO): 2026-01-31T10:00:00Z or milliseconds\n"
    "  --sample N%          so many of the keys, the same ones each time\n"
    "How:\n"
    "  --rounds N           looks at a key before it is called wrong, with growing pauses (default 3, at least 2)\n"
    "  --rate N             at most N keys a second\n"
    "  --resume FILE        keeps in FILE (and FILE.rows) how far it has come, and goes on from there\n"
    "  --repair             has wrong keys written again, through the pipeline, in order with what is published\n"
    "  --repair=orphans     the same, and deletes the keys that no record has written\n"
    "  --format FORMAT      table (default) or json\n"
    "  --report FILE        writes every finding to FILE, a line of JSON each\n"
    "Exit status: 0 nothing is wrong; 1 something is, or could not be repaired; 66 there is no audit log, or\n"
    "nothing was ever published to a key of --key; 69 Redis was not reached; 75 the pipeline does not go on, or asked "
    "to leave: go on with --resume; 77 access denied; 78 the\n"
    "configuration.\n";

enum { NICE = 3 };

static _Atomic bool asked_to_leave;
static void leave(int signal_number) {
    (void)signal_number;
    asked_to_leave = true;
}

static int complain(const struct err *err) {
    fprintf(stderr, "millrace verify: %s\n", err->text);
    return err->code;
}

/* -- Redis ------------------------------------------------------------------------------------- */

/* The line "name:value" of INFO. */
static void info_text(const char *info, const char *name, char *out, size_t size) {
    const char *at = strstr(info, name);
    out[0] = '\0';
    if (at == NULL) return;
    at += strlen(name);
    snprintf(out, size, "%.*s", (int)strcspn(at, "\r\n"), at);
}

/* Redis says how many keys it has evicted, not which. */
static void read_evicting(struct verify *v, const char *info, struct verify_notes *notes) {
    char evicted[32], policy[32];
    info_text(info, "\r\nevicted_keys:", evicted, sizeof evicted);
    info_text(info, "\r\nmaxmemory_policy:", policy, sizeof policy);
    uint64_t missing = v->tally[VERIFY_MISSING], timed = v->tally[VERIFY_EXPIRED_EARLY];
    uint64_t count = strtoull(evicted, NULL, 10);
    bool all = strncmp(policy, "allkeys", 7) == 0;
    uint64_t may_be = timed + (all ? missing : 0);
    if (count == 0 || may_be == 0) return;
    if (count >= may_be) {
        v->evicting = all ? EVICTING_ANY : EVICTING_TIMED;
        for (uint64_t i = 0; i < v->count; i++) {
            struct candidate *c = &v->candidate[i];
            bool gone = c->class == VERIFY_MISSING || c->class == VERIFY_EXPIRED_EARLY;
            if (gone && verify_evicted(v, &c->row)) c->class = VERIFY_EVICTED;
        }
    }
    verify_note(notes, "Redis has evicted %s keys since it started, its policy is %s: %s", evicted, policy,
                count >= may_be ? "missing keys that this policy may choose are called evicted"
                                : "that is fewer than are missing, so none is called evicted");
}

static int ask_info(struct verify *v, const char *section, struct redisReply **info, struct err *err) {
    *info = redis_ask(v->redis, 2, (const char *[]){"INFO", section}, NULL, err);
    return verify_reply_check(*info, "INFO", err);
}

static int reach_redis(struct verify *v, struct err *err) {
    v->redis = redis_open(v->config, err);
    if (v->redis == NULL) return -1;
    redisReply *reply = NULL;
    int r = ask_info(v, "server", &reply, err);
    if (r == 0) info_text(reply->str, "\r\nrun_id:", v->run_id, sizeof v->run_id);
    freeReplyObject(reply);
    if (r != 0) return -1;
    reply = redis_ask(v->redis, 2, (const char *[]){"PEXPIRETIME", "millrace:none"}, NULL, err);
    if (reply == NULL) return -1;
    v->counts_expiry = reply->type == REDIS_REPLY_INTEGER; /* Redis 7 knows it */
    freeReplyObject(reply);
    return 0;
}

static int look_for_evictions(struct verify *v, struct verify_notes *notes, struct err *err) {
    redisReply *info = NULL;
    int r = ask_info(v, "all", &info, err);
    if (r == 0) read_evicting(v, info->str, notes);
    freeReplyObject(info);
    return r;
}

/* -- rounds ------------------------------------------------------------------------------------ */

static void rest(uint32_t seconds) {
    for (uint32_t i = 0; i < 10 * seconds && !asked_to_leave; i++)
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
}

static bool all_right(const struct verify *v) {
    for (uint64_t i = 0; i < v->count; i++)
        if (v->candidate[i].class != VERIFY_RIGHT) return false;
    return true;
}

/* Looks again at what was not right. 1: nothing is left to be looked at; 0, or -1 with err. */
static int one_more_round(struct verify *v, struct verify_notes *notes, struct err *err) {
    int unseen = v->options.key_count > 0 ? 0 : verify_any_unseen(v, err);
    if (unseen < 0) return -1;
    if (unseen == 0 && all_right(v)) return 1;
    if (known_settle(&v->known, err) != 0 || (unseen > 0 && verify_search(v, notes, err) != 0)) return -1;
    return verify_look(v, err);
}

static int all_rounds(struct verify *v, struct verify_notes *notes, struct err *err) {
    for (v->rounds_done = 1; v->rounds_done < v->options.rounds; v->rounds_done++) {
        rest((uint32_t)v->rounds_done);
        if (asked_to_leave) return err_set(err, EX_TEMPFAIL, "asked to leave");
        int r = one_more_round(v, notes, err);
        if (r != 0) return r < 0 ? -1 : 0;
    }
    return 0;
}

/* What the digests of the log can tell, and what it does not have. */
static void note_limits(const struct verify *v, struct verify_notes *notes) {
    for (uint32_t i = 0; i < v->config->topic_count; i++)
        if (v->config->topic[i].reconcile == RECONCILE_COUNTS)
            verify_note(notes, "values of %s are not compared: reconcile is counts", v->config->topic[i].name);
    if (v->unlogged > 0)
        verify_note(notes, "%" PRIu64 " keys look like those of topics with reconcile: off and were left out",
                    v->unlogged);
    if (v->dropped > 0)
        verify_note(notes, "more than %d keys are wrong; %" PRIu64 " were not looked at again", VERIFY_CANDIDATES_MAX,
                    v->dropped);
    if (v->tally[VERIFY_MOVING] > 0)
        verify_note(notes, "keys called moving were written each time they were looked at; more --rounds may tell");
}

/* The first comparison, and what it comes to. The number of findings, or -1 with err. */
static int64_t compare(struct verify *v, struct verify_notes *notes, struct err *err) {
    for (int i = 0; i < v->options.key_count; i++) {
        uint8_t key[DIGEST_BYTES];
        const char *name = v->options.keys[i];
        digest_of(&v->digest, DIGEST_HMAC, name, strlen(name), key);
        verify_candidate(v, name, strlen(name), key);
        v->looked_at++;
    }
    int r = v->options.key_count > 0 ? 0 : verify_resume_walk(v, err);
    if (r != 0) return r < 0 ? -1 : err_set(err, EX_TEMPFAIL, "asked to leave");
    if (v->options.key_count > 0 && verify_look(v, err) != 0) return -1;
    if (all_rounds(v, notes, err) != 0 || verify_history(v, err) != 0) return -1;
    if (verify_others(v, notes, err) != 0) return -1;
    verify_elsewhere(v, notes);
    if (verify_count(v, err) < 0 || look_for_evictions(v, notes, err) != 0) return -1;
    int64_t n = verify_count(v, err);
    note_limits(v, notes);
    for (uint64_t i = 0; i < v->count; i++)
        if (v->candidate[i].class == VERIFY_UNKNOWN)
            verify_note(notes, "%s: no record that the log tells of has written this key, and Redis does not have it",
                        v->candidate[i].name);
    return n;
}

/* -- the whole --------------------------------------------------------------------------------- */

static int load_keys(struct verify *v, struct err *err) {
    struct audit_keys keys;
    if (audit_keys_load(v->config->recon.keys, AUDIT_KEY_DIGEST, &keys, err) != 0) return -1;
    digest_key_init(&v->digest, keys.digest);
    explicit_bzero(&keys, sizeof keys);
    command_index_key(v->config->recon.keys);
    if (v->config->crypto.keys[0] == '\0') return 0;
    v->keys = keys_load(v->config->crypto.keys, err);
    return v->keys != NULL ? 0 : -1;
}

static int prepare(struct verify *v, struct err *err) {
    const struct config *c = v->config;
    if (!c->audit)
        return err_set(err, EX_CONFIG, "the configuration has `audit: off`: nothing says what should be there");
    v->topic = calloc(c->topic_count, sizeof *v->topic);
    CHECK(v->topic != NULL);
    bool found = v->options.topic == NULL;
    for (uint32_t i = 0; i < c->topic_count; i++) {
        bool this = v->options.topic != NULL && strcmp(c->topic[i].name, v->options.topic) == 0;
        found = found || this;
        if (this) glob_of_template(&c->topic[i], v->topic[i].wanted);
        if (c->topic[i].reconcile == RECONCILE_OFF) glob_of_template(&c->topic[i], v->topic[i].unlogged);
    }
    if (!found) return err_set(err, EX_USAGE, "the configuration has no topic %s", v->options.topic);
    return load_keys(v, err) == 0 && reach_redis(v, err) == 0 ? 0 : -1;
}

static void finish(struct verify *v) {
    for (uint64_t i = 0; i < v->count; i++) free(v->candidate[i].name);
    free(v->candidate);
    free(v->topic);
    free(v->reach);
    redis_close(v->redis);
    known_close(&v->known);
    keys_free(v->keys);
    digest_key_clear(&v->digest);
}

static int tell(struct verify *v, const struct verify_notes *notes, uint64_t repaired, struct err *err) {
    if (v->options.report != NULL && verify_list(v, v->options.report, err) != 0) return -1;
    if (verify_print(v, notes, repaired, stdout, err) != 0) return -1;
    verify_resume_done(v);
    return 0;
}

static int run(struct verify *v) {
    struct err err = {0}, repair_err = {0};
    struct verify_notes notes = {0};
    uint64_t repaired = 0;
    int64_t found = -1;
    if (prepare(v, &err) == 0 && verify_resume_open(v, &err) == 0 && known_settle(&v->known, &err) == 0)
        found = compare(v, &notes, &err);
    if (found > 0 && v->options.repair) {
        int64_t left = verify_repair(v, &notes, &repaired, &repair_err);
        if (left >= 0) found = left; /* else what was found is told all the same */
    }
    int r = found < 0 ? -1 : tell(v, &notes, repaired, &err);
    finish(v);
    if (r != 0) return complain(&err);
    if (repair_err.code != 0) {
        err_prefix(&repair_err, "not repaired");
        return complain(&repair_err);
    }
    if (found > 0) return 1;
    return v->tally[VERIFY_UNKNOWN] > 0 ? EX_NOINPUT : EX_OK;
}

/* -- arguments --------------------------------------------------------------------------------- */

static int parse_window(struct verify_options *o, const char *text) {
    const char *slash = strchr(text, '/');
    if (slash != NULL) o->from_ms = utc_read(text, (size_t)(slash - text));
    if (slash != NULL) o->to_ms = utc_read(slash + 1, strlen(slash + 1));
    if (slash == NULL || o->from_ms < 0 || o->to_ms <= o->from_ms)
        return command_misuse("verify", "--window wants FROM/TO, two times, the first the earlier");
    return 0;
}

static int parse_number(const char *name, const char *text, uint32_t low, uint32_t high, uint32_t *out) {
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || n < low || n > high)
        return command_misuse("verify", "--%s wants a number from %u to %u", name, low, high);
    *out = (uint32_t)n;
    return 0;
}

static int parse_sample(struct verify_options *o, const char *text) {
    char *end;
    o->sample = strtod(text, &end);
    if (end == text || (end[0] != '\0' && strcmp(end, "%") != 0) || !(o->sample > 0 && o->sample <= 100))
        return command_misuse("verify", "--sample wants a percentage above 0 and up to 100");
    return 0;
}

static int parse_repair(struct verify_options *o, const char *text) {
    if (text != NULL && strcmp(text, "orphans") != 0) return command_misuse("verify", "--repair, or --repair=orphans");
    o->repair = true;
    o->repair_orphans = text != NULL;
    return 0;
}

static int parse_format(struct verify_options *o, const char *text) {
    o->json = strcmp(text, "json") == 0;
    return o->json || strcmp(text, "table") == 0 ? 0 : command_misuse("verify", "--format wants table or json");
}

enum {
    OPTION_TOPIC = 256,
    OPTION_PATTERN,
    OPTION_KEY,
    OPTION_WINDOW,
    OPTION_SAMPLE,
    OPTION_ROUNDS,
    OPTION_RATE,
    OPTION_RESUME,
    OPTION_REPAIR,
    OPTION_FORMAT,
    OPTION_REPORT,
};
static const struct option option_list[] = {
    {"config", required_argument, NULL, 'c'},           {"help", no_argument, NULL, 'h'},
    {"topic", required_argument, NULL, OPTION_TOPIC},   {"key-pattern", required_argument, NULL, OPTION_PATTERN},
    {"key", required_argument, NULL, OPTION_KEY},       {"window", required_argument, NULL, OPTION_WINDOW},
    {"sample", required_argument, NULL, OPTION_SAMPLE}, {"rounds", required_argument, NULL, OPTION_ROUNDS},
    {"rate", required_argument, NULL, OPTION_RATE},     {"resume", required_argument, NULL, OPTION_RESUME},
    {"repair", optional_argument, NULL, OPTION_REPAIR}, {"format", required_argument, NULL, OPTION_FORMAT},
    {"report", required_argument, NULL, OPTION_REPORT}, {0}};

static int parse_one(struct verify_options *v, int o) {
    switch (o) {
    case OPTION_TOPIC: v->topic = optarg; return 0;
    case OPTION_PATTERN: v->pattern = optarg; return 0;
    case OPTION_KEY: v->keys[v->key_count++] = optarg; return 0;
    case OPTION_WINDOW: return parse_window(v, optarg);
    case OPTION_SAMPLE: return parse_sample(v, optarg);
    case OPTION_ROUNDS: return parse_number("rounds", optarg, 2, 100, &v->rounds);
    case OPTION_RATE: return parse_number("rate", optarg, 1, 100000000, &v->rate);
    case OPTION_RESUME: v->resume = optarg; return 0;
    case OPTION_REPAIR: return parse_repair(v, optarg);
    case OPTION_FORMAT: return parse_format(v, optarg);
    default: v->report = optarg; return 0;
    }
}

int command_verify(int argc, char **argv) {
    static struct verify v;
    const char *file = NULL;
    int o, status = EX_OK;
    v.options = (struct verify_options){.sample = 100, .rounds = 3};
    v.options.keys = calloc((size_t)argc + 1, sizeof *v.options.keys);
    CHECK(v.options.keys != NULL);
    optind = 0; /* the whole scan anew: main may have looked at its own options */
    opterr = 0;
    while (status == 0 && (o = getopt_long(argc, argv, "c:h", option_list, NULL)) != -1) switch (o) {
        case 'c': file = optarg; break;
        case 'h': fputs(help, stdout); return EX_OK;
        case '?': return command_misuse("verify", "unknown option or missing argument: %s", argv[optind - 1]);
        default: status = parse_one(&v.options, o);
        }
    if (status != 0) return status;
    if (optind < argc) return command_misuse("verify", "unexpected argument: %s", argv[optind]);
    if (v.options.key_count > 0 && v.options.resume != NULL)
        return command_misuse("verify", "--key has nothing to go on with: no --resume");
    prctl(PR_SET_DUMPABLE, 0);          /* what it holds in memory must not end in a core dump */
    setpriority(PRIO_PROCESS, 0, NICE); /* those that serve come first */
    v.config = command_config(file, &status);
    if (v.config == NULL) return status;
    v.leave = &asked_to_leave;
    const struct sigaction action = {.sa_handler = leave, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    status = run(&v);
    free(v.options.keys);
    return status;
}

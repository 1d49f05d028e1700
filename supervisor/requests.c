#include "supervisor/requests.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "shm/record.h"
#include "supervisor/phase.h"

enum { WORDS_MAX = 5 };

static void simple(struct control_reply *r, bool ok, const char *message) {
    control_reply_begin(r, ok);
    control_reply_text(r, "message", message);
    control_reply_end(r);
}

static void status(struct supervisor *s, char **word, int words, struct control_reply *r) {
    char reason[STATS_TEXT_BYTES];
    const struct stats_block *block = stats_block(&s->plumbing.stats, 0);
    (void)word;
    (void)words;
    stats_text_get(&block->reason, reason);
    control_reply_begin(r, true);
    control_reply_text(r, "name", s->config.name);
    control_reply_text(r, "instance", s->config.instance);
    control_reply_text(r, "phase", phase_name(s));
    control_reply_text(r, "reason", reason);
    control_reply_number(r, "pid", atomic_load_explicit(&block->pid, memory_order_relaxed));
    control_reply_number(r, "lanes", s->config.lanes);
    control_reply_text(r, "file", s->file);
    control_reply_number(r, "reload_asked", s->reload.asked);
    control_reply_number(r, "reload_done", s->reload.done);
    control_reply_text(r, "reload_result", s->reload.result);
    control_reply_text(r, "message", s->reload.text);
    control_reply_end(r);
}

/* What a person needs to know of a result: what follows, and where the outcome stands. */
static const char *reload_told(const struct supervisor *s, const char *result) {
    if (strcmp(result, "started") == 0)
        return "the instance drains and goes over to the new configuration; millrace ctl status tells the outcome";
    if (strcmp(result, "queued") == 0)
        return "another reload is under way, this one follows it; millrace ctl status tells the outcome";
    return s->reload.text;
}

static void reload(struct supervisor *s, char **word, int words, struct control_reply *r) {
    (void)word;
    (void)words;
    const char *result = phase_reload(s);
    control_reply_begin(r, strcmp(result, "refused") != 0);
    control_reply_text(r, "result", result);
    control_reply_number(r, "reload", s->reload.asked);
    control_reply_text(r, "message", reload_told(s, result));
    control_reply_end(r);
}

static void stop(struct supervisor *s, char **word, int words, struct control_reply *r) {
    (void)word;
    (void)words;
    phase_stop(s);
    simple(r, true, "stopping: what has been read is applied and committed first");
}

/* 0, or -1 when the text is not a partition. */
static int partition_parse(const char *text, int32_t *out) {
    char *end;
    long n = strtol(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != 0 || n > INT32_MAX) return -1;
    *out = (int32_t)n;
    return 0;
}

/* The load that makes up for the loss, and where in the partition it begins. 0, or -1 when the words are not that. */
static int load_parse(char **word, int64_t *first, uint64_t load[2]) {
    char *end;
    uint8_t id[16];
    long long n = strtoll(word[1], &end, 10);
    if (record_id_parse(id, word[0], strlen(word[0])) != 0 || end == word[1] || *end != 0 || n < -1) return -1;
    memcpy(load, id, sizeof id);
    *first = n;
    return 0;
}

/* What is meant is there before the count is raised. It takes the place of what is not carried out yet: what that waits
 * for may be what is accepted now. */
static void accept_ask(struct supervisor *s, uint64_t what, int64_t first, const uint64_t load[2],
                       struct control_reply *r) {
    struct control *control = s->plumbing.control;
    uint64_t asked = atomic_load_explicit(&control->accept_loss, memory_order_relaxed);
    bool waits = atomic_load_explicit(&s->plumbing.ledger->accepted, memory_order_acquire) < asked;
    struct control_accept *a = &control->accept[(asked + 1) % CONTROL_ACCEPTS];
    atomic_store_explicit(&a->what, what, memory_order_relaxed);
    atomic_store_explicit(&a->first, first, memory_order_relaxed);
    for (int i = 0; i < 2; i++) atomic_store_explicit(&a->load[i], load[i], memory_order_relaxed);
    atomic_store_explicit(&control->accept_loss, asked + 1, memory_order_release);
    plumbing_wake(&s->plumbing, stats_block_index(ROLE_INGEST, 0));
    simple(r, true, waits ? "asked, in place of the one before, which was not carried out yet" : "asked");
}

static void accept_loss(struct supervisor *s, char **word, int words, struct control_reply *r) {
    int topic = words > 1 ? config_topic_index(&s->config, word[1]) : 0;
    int32_t partition = -1;
    int64_t first = -1;
    uint64_t load[2] = {0};
    if (s->phase != PHASE_RUNNING)
        simple(r, false, "the instance is not running: try again when it is");
    else if (topic < 0)
        simple(r, false, "no such topic in the configuration");
    else if (words > 2 && partition_parse(word[2], &partition) != 0)
        simple(r, false, "a partition is a number");
    else if (words > 3 && (words != 5 || load_parse(word + 3, &first, load) != 0))
        simple(r, false, "a load is its id and its first offset in the partition, or -1");
    else
        accept_ask(s, control_accept_what(words > 1 ? (uint32_t)topic : UINT32_MAX, partition), first, load, r);
}

/* The requests themselves are files in the data folder: ingest finds them there. */
static void refeed(struct supervisor *s, char **word, int words, struct control_reply *r) {
    (void)word;
    (void)words;
    if (s->phase != PHASE_RUNNING) {
        simple(r, false, "the instance is not running: try again when it is");
        return;
    }
    atomic_fetch_add_explicit(&s->plumbing.control->refeed, 1, memory_order_release);
    plumbing_wake(&s->plumbing, stats_block_index(ROLE_INGEST, 0));
    simple(r, true, "asked");
}

static const struct {
    const char *word;
    int words_max;
    void (*answer)(struct supervisor *s, char **word, int words, struct control_reply *r);
} requests[] = {{"status", 1, status},
                {"reload", 1, reload},
                {"stop", 1, stop},
                {"accept-loss", 5, accept_loss},
                {"refeed", 1, refeed}};

void requests_answer(void *context, char *line, uid_t uid, struct control_reply *r) {
    struct supervisor *s = context;
    char *word[WORDS_MAX], *rest = NULL;
    int words = 0;
    for (char *w = strtok_r(line, " \t\r", &rest); w != NULL && words < WORDS_MAX; w = strtok_r(NULL, " \t\r", &rest))
        word[words++] = w;
    for (size_t i = 0; words > 0 && i < sizeof requests / sizeof requests[0]; i++) {
        if (strcmp(word[0], requests[i].word) != 0 || words > requests[i].words_max) continue;
        if (requests[i].answer != status) log_info("supervisor.request", "%s, by user %u", word[0], (unsigned)uid);
        requests[i].answer(s, word, words, r);
        return;
    }
    simple(r, false, "unknown request");
}

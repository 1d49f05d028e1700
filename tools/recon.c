/* millrace recon: what was published against what became of it, from all windows down to single records. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utc.h"
#include "recon/db.h"
#include "shm/record.h"
#include "tools/command.h"
#include "tools/recon_left.h"
#include "tools/recon_view.h"

static const char help[] =
    "usage: millrace recon [--topic T] [--window W] [--partition P] [--records] [--all] [--check]\n"
    "                      [--format table|json] [-c FILE]\n"
    "       millrace recon --load ID [--wait[=SECONDS]] [--left] [--format table|json] [-c FILE]\n"
    "       millrace recon record …     one record's whole life (millrace recon record --help)\n"
    "       millrace recon exceptions … what somebody has to look at (millrace recon exceptions --help)\n"
    "       millrace recon silence …    keeps exceptions about a window back (millrace recon silence --help)\n"
    "\n"
    "Windows of event time, and whether what was published in them is accounted for. Without --window those that do\n"
    "not match and the newest 20, with --all every one; with --window (2026-03-14T22:20:00Z, or milliseconds since\n"
    "1970) its partitions and every change of its state; with --records the records that are missing, rejected,\n"
    "duplicate, delayed, altered or late, and those that nobody says he has published.\n"
    "\n"
    "A table leaves out counts of what did not happen at all (superseded, expired, late …); JSON has all of them.\n"
    "\n"
    "  --check    first lets recon ask Kafka, read the log to its end, and judge all windows anew\n"
    "  --load     a load, with what of it is in the log; --wait until it is accounted for, or cannot be any more\n"
    "             (600 seconds); --left: of a load marked as snapshot, the keys it no longer contains\n"
    "\n"
    "Exit status: 0 everything asked about matches; 1 something is missing, late or does not agree; 75 some of it is\n"
    "not over yet, or (evidence: offsets) cannot be proven; 66 recon has never run here, or there is nothing of that\n"
    "kind; 69 recon does not answer; 65 its database is damaged; 78 configuration.\n";

enum { CHECK_WAIT_MS = 30000, LOOK_MS = 100, WAIT_MS = 600000 };

struct options {
    const char *file, *topic, *load;
    int64_t window, partition, wait_ms; /* -1: not given */
    bool json, records, all, check, left;
};

/* -- windows ----------------------------------------------------------------------------------- */

#define WINDOW_STATE "CASE state WHEN 0 THEN 'pending' WHEN 1 THEN 'matched' WHEN 2 THEN 'late' ELSE 'mismatch' END"
static_assert(WINDOW_PENDING == 0 && WINDOW_MATCHED == 1 && WINDOW_LATE == 2 && WINDOW_MISMATCH == 3, "as above");
#define CLASSES                                                                                                        \
    "sum(applied) applied, sum(superseded) superseded, sum(deleted) deleted, sum(expired) expired, "                   \
    "sum(filtered) filtered, sum(in_retry) in_retry, sum(dead_lettered) dead_lettered"
#define ATTRIBUTES                                                                                                     \
    "sum(duplicate) duplicate, sum(delayed) delayed, sum(t.altered) altered, sum(t.late) late, sum(repeat) repeat"

/* Which windows are asked about: topic (-1 all), beginning (-1 all). */
#define ASKED "(?1 < 0 OR w.topic = ?1) AND (?2 < 0 OR w.start_ms = ?2)"
/* … and shown, when not all of them are: what does not match, and the newest. */
#define SHOWN                                                                                                          \
    ASKED                                                                                                              \
    " AND (?3 OR w.state <> 1 OR w.start_ms >= (SELECT min(start_ms) FROM (SELECT DISTINCT start_ms FROM window "      \
    "ORDER BY start_ms DESC LIMIT 20)))"

#define WINDOW_REASON "CASE WHEN w.checked_ms = 0 THEN 'not judged yet' ELSE w.reason END reason"

static const char windows_sql[] =
    "SELECT p.name topic, w.start_ms window, " WINDOW_STATE
    " state, CASE w.evidence WHEN 0 THEN 'manifest' WHEN 1 THEN "
    "'scan' ELSE 'offsets' END evidence, CASE WHEN w.published < 0 THEN NULL ELSE w.published END published, "
    "sum(t.seen) seen, " CLASSES ", w.in_flight, w.unexplained, w.unpublished, " ATTRIBUTES ", " WINDOW_REASON " "
    "FROM window w JOIN topic p ON p.id = w.topic LEFT JOIN tally t ON t.topic = w.topic AND t.start_ms = w.start_ms "
    "WHERE " SHOWN " GROUP BY w.topic, w.start_ms ORDER BY w.start_ms, p.name";

static const char short_sql[] =
    "SELECT p.name topic, w.start_ms window, " WINDOW_STATE
    " state, CASE w.evidence WHEN 0 THEN 'manifest' WHEN 1 THEN "
    "'scan' ELSE 'offsets' END evidence, CASE WHEN w.published < 0 THEN NULL ELSE w.published END published, "
    "w.seen logged, w.in_flight, w.unexplained, w.unpublished, " WINDOW_REASON " "
    "FROM window w JOIN topic p ON p.id = w.topic WHERE " SHOWN " ORDER BY w.start_ms, p.name";

static const char partitions_sql[] =
    "SELECT p.name topic, t.start_ms window, partition, CASE WHEN w.evidence = 1 THEN sum(t.published) END published, "
    "sum(t.seen) seen, " CLASSES ", " ATTRIBUTES ", min(offset_min) first_offset, max(offset_max) last_offset "
    "FROM tally t JOIN topic p ON p.id = t.topic JOIN window w ON w.topic = t.topic AND w.start_ms = t.start_ms "
    "WHERE " ASKED " AND (?3 < 0 OR t.partition = ?3) GROUP BY t.topic, t.start_ms, partition "
    "ORDER BY t.start_ms, p.name, partition";

static const char changes_sql[] =
    "SELECT p.name topic, w.start_ms window, at_ms, CASE before WHEN 0 THEN 'pending' WHEN 1 THEN 'matched' WHEN 2 "
    "THEN "
    "'late' WHEN 3 THEN 'mismatch' END before, CASE after WHEN 0 THEN 'pending' WHEN 1 THEN 'matched' WHEN 2 THEN "
    "'late' "
    "ELSE 'mismatch' END after, reason FROM window_change w JOIN topic p ON p.id = w.topic WHERE " ASKED
    " ORDER BY w.id";

static const char records_sql[] =
    "SELECT p.name topic, w.start_ms window, CASE kind WHEN 0 THEN 'unexplained' WHEN 1 THEN 'in_flight' WHEN 2 THEN "
    "'unpublished' WHEN 3 THEN 'rejected' WHEN 4 THEN 'duplicate' WHEN 5 THEN 'delayed' WHEN 6 THEN 'altered' ELSE "
    "'late' "
    "END kind, CASE WHEN partition >= 0 THEN partition END partition, CASE WHEN \"offset\" >= 0 THEN \"offset\" END "
    "\"offset\", w.id, coalesce(n.name, CASE WHEN producer <> 0 THEN printf('%x', producer) END) producer, "
    "CASE WHEN sequence > 0 THEN sequence END sequence, CASE WHEN reason > 0 THEN reason END reason, created_ms, load "
    "FROM record w JOIN topic p ON p.id = w.topic LEFT JOIN producer n ON n.hash = w.producer WHERE " ASKED
    " AND (?3 < 0 OR partition = ?3 OR partition < 0) ORDER BY w.start_ms, p.name, kind, partition, \"offset\", "
    "sequence";

/* The state of all that was asked about, as an exit status. */
static int windows_status(const struct view *v, const int64_t asked[2]) {
    const char *const count = "SELECT count(*) FROM window w WHERE " ASKED;
    if (view_number(v, count, asked, 2, 0) == 0) return EX_NOINPUT;
    if (view_number(v, "SELECT count(*) FROM window w WHERE w.state IN (2, 3) AND " ASKED, asked, 2, 0) > 0)
        return VIEW_MISMATCH;
    if (v->behind != 0) return EX_TEMPFAIL;
    return view_number(v, "SELECT count(*) FROM window w WHERE w.state = 0 AND " ASKED, asked, 2, 0) > 0 ? EX_TEMPFAIL
                                                                                                         : EX_OK;
}

static int windows_show(const struct view *v, const struct options *o, int64_t topic) {
    const int64_t asked[3] = {topic, o->window, o->partition};
    const int64_t shown[3] = {topic, o->window, o->all || o->window >= 0};
    view_head(v);
    int64_t n = view_rows(v, "windows", view_prepare(v, v->json ? windows_sql : short_sql, shown, 3));
    bool any = n > 0 || (n == 0 && v->json), deep = any && (o->window >= 0 || o->partition >= 0);
    if (n == 0 && o->window >= 0) fputs("millrace recon: no window is known that begins at this time\n", stderr);
    if (deep) n = view_rows(v, "partitions", view_prepare(v, partitions_sql, asked, 3));
    if (deep && n >= 0) n = view_rows(v, "changes", view_prepare(v, changes_sql, asked, 2));
    if (any && n >= 0 && o->records) n = view_rows(v, "records", view_prepare(v, records_sql, asked, 3));
    if (v->json) fputs("}\n", stdout);
    return n < 0 ? EX_IOERR : windows_status(v, asked);
}

/* -- a question to the process ----------------------------------------------------------------- */

static void pause_ms(int64_t ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

static int check_ask(const struct view *v) {
    char path[PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/recon/check", v->config->data_dir);
    int64_t asked_ms = clock_wall_ms(&clock_real);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0) {
        fprintf(stderr, "millrace recon: %s: %s\n", path, strerror(errno));
        return EX_CANTCREAT;
    }
    close(fd);
    for (int64_t waited = 0; waited < CHECK_WAIT_MS; waited += LOOK_MS) {
        if (db_meta_get(v->db, "answered_ms", 0) >= asked_ms) return EX_OK;
        pause_ms(LOOK_MS);
    }
    unlink(path);
    fputs("millrace recon: recon does not answer: is the instance running? (millrace top)\n", stderr);
    return EX_UNAVAILABLE;
}

/* -- loads ------------------------------------------------------------------------------------- */

#define LOAD_STATE                                                                                                     \
    "CASE state WHEN 0 THEN 'running' WHEN 1 THEN 'complete' WHEN 2 THEN 'aborted' WHEN 3 THEN 'incomplete' ELSE "     \
    "'matched' END"
static_assert(LOAD_RUNNING == 0 && LOAD_COMPLETE == 1 && LOAD_ABORTED == 2 && LOAD_INCOMPLETE == 3, "as above");

static const char load_sql[] =
    "SELECT l.id id, p.name topic, coalesce(n.name, '') producer, " LOAD_STATE " state, l.snapshot, l.created_ms, "
    "l.ended_ms, l.count declared, sum(t.seen) - sum(t.duplicate) logged, " CLASSES ", sum(duplicate) duplicate, "
    "l.unexplained, l.reason FROM load l JOIN topic p ON p.id = l.topic LEFT JOIN producer n ON n.hash = l.producer "
    "LEFT JOIN load_tally t ON t.load = l.id AND t.topic = l.topic WHERE l.id = ?1 GROUP BY l.topic";

/* The records that are missing: between the load's first and last number, and not among those that were logged. */
static const char missing_sql[] =
    "WITH have(first, last) AS (SELECT s.first, s.last FROM load l JOIN sequence s ON s.topic = l.topic AND s.producer "
    "= "
    "l.producer WHERE l.id = ?1 AND s.last >= l.first_sequence AND s.first <= l.last_sequence), "
    "edge(at) AS (SELECT last + 1 FROM have UNION SELECT first_sequence FROM load WHERE id = ?1 AND first_sequence > "
    "0) "
    "SELECT at first_sequence, min(coalesce((SELECT min(first) - 1 FROM have WHERE first > at), l.last_sequence), "
    "l.last_sequence) last_sequence FROM edge JOIN load l ON l.id = ?1 WHERE l.ended_ms IS NOT NULL AND at <= "
    "l.last_sequence AND at >= l.first_sequence AND NOT EXISTS (SELECT 1 FROM have WHERE first <= at AND last >= at) "
    "ORDER BY at LIMIT 1000";

static sqlite3_stmt *load_prepare(const struct view *v, const char *sql, const uint8_t id[16]) {
    sqlite3_stmt *s = view_prepare(v, sql, NULL, 0);
    if (s != NULL) sqlite3_bind_blob(s, 1, id, 16, SQLITE_STATIC);
    return s;
}

static int load_status(const struct view *v, const uint8_t id[16]) {
    int status = EX_NOINPUT;
    sqlite3_stmt *s = load_prepare(v, "SELECT state, unexplained, reason FROM load WHERE id = ?1", id);
    while (s != NULL && sqlite3_step(s) == SQLITE_ROW) {
        int64_t state = sqlite3_column_int64(s, 0);
        bool differs = strncmp((const char *)sqlite3_column_text(s, 2), "the sum", 7) == 0;
        int one = EX_TEMPFAIL;
        if (state == LOAD_MATCHED) one = EX_OK;
        if (state == LOAD_INCOMPLETE || state == LOAD_ABORTED || sqlite3_column_int64(s, 1) > 0 || differs)
            one = VIEW_MISMATCH;
        if (status == EX_NOINPUT || one == VIEW_MISMATCH || (one == EX_TEMPFAIL && status == EX_OK)) status = one;
    }
    sqlite3_finalize(s);
    return status;
}

static int load_show(const struct view *v, const struct options *o) {
    uint8_t id[16];
    if (record_id_parse(id, o->load, strlen(o->load)) != 0)
        return command_misuse("recon", "--load %s is not a UUID", o->load);
    int status = load_status(v, id);
    for (int64_t waited = 0; o->wait_ms >= 0 && waited < o->wait_ms && (status == EX_TEMPFAIL || status == EX_NOINPUT);
         waited += LOOK_MS) {
        pause_ms(LOOK_MS);
        status = load_status(v, id);
    }
    view_head(v);
    int64_t n = view_rows(v, "loads", load_prepare(v, load_sql, id));
    bool any = n > 0 || (n == 0 && v->json);
    if (any && status != EX_OK) n = view_rows(v, "missing", load_prepare(v, missing_sql, id));
    if (n >= 0 && o->left && recon_left(v, id) != 0) n = -1;
    if (v->json) fputs("}\n", stdout);
    return n < 0 ? EX_IOERR : status;
}

/* -- the command ------------------------------------------------------------------------------- */

static int show(const struct config *config, const struct options *o) {
    struct view v;
    int64_t topic = -1;
    int status = view_open(&v, config, o->json);
    if (status == EX_OK && o->topic != NULL && (topic = db_topic(v.db, o->topic, false, NULL)) < 0) {
        fprintf(stderr, "millrace recon: nothing is known of a topic %s\n", o->topic);
        status = EX_NOINPUT;
    }
    if (status == EX_OK && o->check && (status = check_ask(&v)) == EX_OK) {
        view_close(&v);
        status = view_open(&v, config, o->json);
    }
    if (status == EX_OK) status = o->load != NULL ? load_show(&v, o) : windows_show(&v, o, topic);
    view_close(&v);
    return fflush(stdout) == 0 ? status : EX_IOERR;
}

static int number(const char *text, int64_t max, int64_t *out) {
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return end != text && *end == 0 && errno == 0 && *out >= 0 && *out <= max ? 0 : -1;
}

enum { OPTION_TOPIC = 256, OPTION_WINDOW, OPTION_PARTITION, OPTION_RECORDS, OPTION_ALL, OPTION_CHECK, OPTION_LOAD };
enum { OPTION_WAIT = OPTION_LOAD + 1, OPTION_LEFT, OPTION_FORMAT };

static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                        {"topic", required_argument, NULL, OPTION_TOPIC},
                                        {"window", required_argument, NULL, OPTION_WINDOW},
                                        {"partition", required_argument, NULL, OPTION_PARTITION},
                                        {"records", no_argument, NULL, OPTION_RECORDS},
                                        {"all", no_argument, NULL, OPTION_ALL},
                                        {"check", no_argument, NULL, OPTION_CHECK},
                                        {"load", required_argument, NULL, OPTION_LOAD},
                                        {"wait", optional_argument, NULL, OPTION_WAIT},
                                        {"left", no_argument, NULL, OPTION_LEFT},
                                        {"format", required_argument, NULL, OPTION_FORMAT},
                                        {"help", no_argument, NULL, 'h'},
                                        {0}};

/* Takes one option. 0, or -1 when its argument is wrong. */
static int option_take(int which, struct options *o) {
    switch (which) {
    case 'c': o->file = optarg; return 0;
    case OPTION_TOPIC: o->topic = optarg; return 0;
    case OPTION_WINDOW: return (o->window = utc_read(optarg, strlen(optarg))) >= 0 ? 0 : -1;
    case OPTION_PARTITION: return number(optarg, INT32_MAX, &o->partition);
    case OPTION_RECORDS: o->records = true; return 0;
    case OPTION_ALL: o->all = true; return 0;
    case OPTION_CHECK: o->check = true; return 0;
    case OPTION_LOAD: o->load = optarg; return 0;
    case OPTION_LEFT: o->left = true; return 0;
    case OPTION_WAIT:
        o->wait_ms = WAIT_MS;
        if (optarg == NULL) return 0;
        if (number(optarg, 1000000, &o->wait_ms) != 0) return -1;
        o->wait_ms *= 1000;
        return 0;
    default: o->json = strcmp(optarg, "json") == 0; return o->json || strcmp(optarg, "table") == 0 ? 0 : -1;
    }
}

/* What is wrong with an argument. */
static const char *wrong(int which) {
    switch (which) {
    case OPTION_WINDOW: return "window takes the beginning of a window: 2026-03-14T22:20:00Z, or milliseconds";
    case OPTION_PARTITION: return "partition takes a number";
    case OPTION_WAIT: return "wait takes seconds: --wait=60";
    default: return "format is table or json";
    }
}

int command_recon(int argc, char **argv) {
    struct options wanted = {.window = -1, .partition = -1, .wait_ms = -1};
    int o, status = EX_OK;
    if (argc > 1 && strcmp(argv[1], "record") == 0) return command_recon_record(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "exceptions") == 0) return command_recon_exceptions(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "silence") == 0) return command_recon_silence(argc - 1, argv + 1);
    optind = 0; /* the whole scan anew: main may have looked at its own options */
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
        if (o == 'h') {
            fputs(help, stdout);
            return EX_OK;
        }
        if (o == '?') return command_misuse("recon", "unknown option or missing argument: %s", argv[optind - 1]);
        if (option_take(o, &wanted) != 0) return command_misuse("recon", "--%s", wrong(o));
    }
    if (optind < argc) return command_misuse("recon", "unexpected argument %s", argv[optind]);
    if (wanted.load == NULL && (wanted.wait_ms >= 0 || wanted.left))
        return command_misuse("recon", "--wait and --left go with --load");
    const struct config *config = command_config(wanted.file, &status);
    return config != NULL ? show(config, &wanted) : status;
}

/* millrace recon exceptions: what somebody has to look at. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "base/json_text.h"
#include "base/utc.h"
#include "recon/acknowledge.h"
#include "recon/db.h"
#include "shm/record.h"
#include "tools/command.h"

static const char help[] =
    "usage: millrace recon exceptions [--all] [--format table|json] [-c FILE]\n"
    "       millrace recon exceptions --acknowledge ID [-c FILE]\n"
    "\n"
    "Exceptions that are open, oldest first, with how far telling them has come; --all: closed ones too. "
    "--acknowledge\n"
    "says that somebody knows of one that cannot be mended: it is neither counted nor sent any more.\n"
    "Exit status: 0, also when there are none; 66 recon has never run here, or has no such exception; 69 recon's "
    "folder is\n"
    "not there; 73 it cannot be written.\n";

static const char sql[] =
    "SELECT e.id, e.kind, e.topic, e.window_ms, e.subject, e.count, e.text, e.raised_ms,"
    " CASE WHEN e.cleared_ms > 0 THEN 'closed' WHEN e.acknowledged_ms > 0 THEN 'acknowledged' ELSE 'open' END,"
    " (SELECT group_concat(d.channel || CASE WHEN d.done_ms > 0 THEN ' sent' WHEN d.attempts > 0 THEN"
    " ' failed ' || d.attempts || ' times: ' || d.error ELSE ' waits' END, ', ') FROM delivery d"
    " WHERE d.exception = e.id)"
    " FROM exception e WHERE ?1 OR (e.cleared_ms = 0 AND e.acknowledged_ms = 0) ORDER BY e.raised_ms, e.id";
enum { ID, KIND, TOPIC, WINDOW, SUBJECT, COUNT, TEXT, RAISED, STATE, TOLD };

static const char *column(sqlite3_stmt *s, int i) {
    const unsigned char *text = sqlite3_column_text(s, i);
    return text != NULL ? (const char *)text : "";
}

static const char *time_text(int64_t ms, char out[UTC_BYTES]) {
    if (!utc_text_ms(out, ms, 0)) out[0] = 0;
    return out;
}

static void row_table(sqlite3_stmt *s) {
    char raised[32], window[32];
    time_text(sqlite3_column_int64(s, RAISED), raised);
    time_text(sqlite3_column_int64(s, WINDOW), window);
    printf("%s  %s  %s  %s%s%s%s%s%s%s\n", column(s, ID), raised, column(s, STATE), column(s, KIND),
           column(s, TOPIC)[0] != 0 ? " " : "", column(s, TOPIC), window[0] != 0 ? " window " : "", window,
           column(s, SUBJECT)[0] != 0 ? " " : "", column(s, SUBJECT));
    printf("    %s\n    %s\n", column(s, TEXT), column(s, TOLD));
}

static void json_text(const char *name, const char *text) {
    printf(",\"%s\":", name);
    if (text[0] == 0)
        fputs("null", stdout);
    else
        json_text_put(text, strlen(text), stdout);
}

static void row_json(sqlite3_stmt *s) {
    char text[32];
    printf("{\"id\":\"%s\"", column(s, ID));
    json_text("kind", column(s, KIND));
    json_text("state", column(s, STATE));
    json_text("topic", column(s, TOPIC));
    json_text("window", time_text(sqlite3_column_int64(s, WINDOW), text));
    json_text("subject", column(s, SUBJECT));
    printf(",\"count\":%" PRId64, (int64_t)sqlite3_column_int64(s, COUNT));
    json_text("text", column(s, TEXT));
    json_text("raised", time_text(sqlite3_column_int64(s, RAISED), text));
    json_text("told", column(s, TOLD));
    putchar('}');
}

static int complain(const struct err *err) {
    fprintf(stderr, "millrace recon exceptions: %s\n", err->text);
    return err->code;
}

static int list(sqlite3 *db, bool all, bool json) {
    struct err err = {0};
    sqlite3_stmt *s;
    int r, n = 0;
    if (db_prepare(db, sql, &s, &err) != 0) {
        err.code = EX_DATAERR;
        return complain(&err);
    }
    sqlite3_bind_int(s, 1, all);
    if (json) fputs("{\"exceptions\":[", stdout);
    for (; (r = db_step(s, &err)) == 1; n++) {
        if (json && n > 0) fputs(",\n ", stdout);
        json ? row_json(s) : row_table(s);
    }
    if (json) puts("]}");
    if (!json && n == 0 && r == 0) puts(all ? "there have been no exceptions" : "no exceptions are open");
    sqlite3_finalize(s);
    if (r == 0) return EX_OK;
    err.code = EX_DATAERR;
    return complain(&err);
}

static int acknowledge(sqlite3 *db, const struct config *c, const char *id) {
    struct err err = {0};
    sqlite3_stmt *s;
    int known = 0;
    if (db_prepare(db, "SELECT 1 FROM exception WHERE id = ?", &s, &err) == 0) {
        sqlite3_bind_text(s, 1, id, -1, SQLITE_STATIC);
        known = db_step(s, &err);
        sqlite3_finalize(s);
    }
    if (known != 1) {
        err_set(&err, EX_NOINPUT, "there is no exception %s here", id);
        return complain(&err);
    }
    return acknowledge_put(c, id, &err) == 0 ? EX_OK : complain(&err);
}

int command_recon_exceptions(int argc, char **argv) {
    enum { OPTION_ALL = 256, OPTION_FORMAT, OPTION_ACKNOWLEDGE };
    static const struct option options[] = {{"all", no_argument, NULL, OPTION_ALL},
                                            {"format", required_argument, NULL, OPTION_FORMAT},
                                            {"acknowledge", required_argument, NULL, OPTION_ACKNOWLEDGE},
                                            {"config", required_argument, NULL, 'c'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *file = NULL, *id = NULL;
    char path[PATH_BYTES + 32];
    bool all = false, json = false;
    uint8_t parsed[16];
    struct err err = {0};
    int o, status = EX_OK;
    optind = 0; /* the whole scan anew: main may have looked at its own options */
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) switch (o) {
        case OPTION_ALL: all = true; break;
        case OPTION_ACKNOWLEDGE: id = optarg; break;
        case OPTION_FORMAT:
            json = strcmp(optarg, "json") == 0;
            if (!json && strcmp(optarg, "table") != 0) return command_misuse("recon", "--format is table or json");
            break;
        case 'c': file = optarg; break;
        case 'h': fputs(help, stdout); return EX_OK;
        default: return command_misuse("recon", "unknown option or missing argument: %s", argv[optind - 1]);
        }
    if (optind != argc) return command_misuse("recon", "unexpected argument %s", argv[optind]);
    if (id != NULL && (strlen(id) != 36 || record_id_parse(parsed, id, 36) != 0))
        return command_misuse("recon", "%s is not the id of an exception", id);
    const struct config *config = command_config(file, &status);
    if (config == NULL) return status;
    db_path(config, path);
    sqlite3 *db = db_open_read(path, &err);
    if (db == NULL) return complain(&err);
    status = id != NULL ? acknowledge(db, config, id) : list(db, all, json);
    sqlite3_close(db);
    return status;
}

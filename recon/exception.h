/* Exceptions: what reconciliation found that somebody has to look at. Rows of recon.db, raised within the transaction
 * that stores what they were found by, sent by recon/notify.h.
 *
 * An exception is open from when it is raised to when it is cleared, and there is at most one open one of a kind for a
 * topic, window and subject: raising it again only brings its text up to date. Its id is derived from what it is about,
 * so that it is the same however often recon is killed and does its work anew, and a receiver can tell repeats. */
#ifndef MILLRACE_RECON_EXCEPTION_H
#define MILLRACE_RECON_EXCEPTION_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"

enum exception_kind { /* names: exception_kind_name; what each means: docs/reconciliation.md */
                      EXCEPTION_WINDOW_MISMATCH,
                      EXCEPTION_WINDOW_LATE,
                      EXCEPTION_UNEXPLAINED,
                      EXCEPTION_AUDIT_CANNOT_WRITE,
                      EXCEPTION_LOAD_INCOMPLETE,
                      EXCEPTION_EVIDENCE_LOST,
                      EXCEPTION_LIMIT_REACHED,
                      EXCEPTION_KIND_COUNT
};
const char *exception_kind_name(enum exception_kind kind); /* "window_mismatch" … */

enum { EXCEPTION_ID_BYTES = 37, EXCEPTION_TEXT_BYTES = 400, EXCEPTION_SUBJECT_BYTES = 128 };

/* What an exception is about. Two that agree in all of it are the same. */
struct exception_about {
    enum exception_kind kind;
    const char *topic;   /* "" none in particular */
    int64_t window_ms;   /* beginning of the window, milliseconds since 1970; -1 none */
    const char *subject; /* what else tells it from others: a load id, a partition; "" nothing. Up to
                            EXCEPTION_SUBJECT_BYTES - 1 */
};

/* Tables `exception` and `delivery`; recon/db.c runs this when it makes the database. Harmless when they are there. */
extern const char exception_schema[];

/* exception_raise opens the exception, with a delivery for each channel that c configures (log, webhook, command); or
 * brings count and text of the open one up to date. count: records concerned, 0 unknown. The text is for people
 * (printf-like): numbers, ids, offsets and names, never content of records.
 * The caller may be in a transaction. Returns 0, or -1 with err (code: that of SQLite). */
int exception_raise(sqlite3 *db, const struct config *c, const struct exception_about *about, int64_t count,
                    int64_t now_ms, struct err *err, const char *format, ...) __attribute__((format(printf, 7, 8)));

/* exception_clear closes the open exception, if there is one; what was not sent yet is sent all the same. Returns 0, or
 * -1 with err. */
int exception_clear(sqlite3 *db, const struct exception_about *about, int64_t now_ms, struct err *err);

/* exception_clear_kind closes every open one of a kind. Returns 0, or -1 with err. */
int exception_clear_kind(sqlite3 *db, enum exception_kind kind, int64_t now_ms, struct err *err);

/* exception_acknowledge notes that somebody knows: it stays open until its cause is gone, and is neither counted nor
 * sent. Returns 1, 0 when there is none of this id that was not acknowledged, or -1 with err. */
int exception_acknowledge(sqlite3 *db, const char *id, int64_t now_ms, struct err *err);

/* exception_open_count: how many are open and not acknowledged, of kind (EXCEPTION_KIND_COUNT: of all). -1 with err. */
int64_t exception_open_count(sqlite3 *db, enum exception_kind kind, struct err *err);

/* exception_forget removes what was closed before before_ms; what could not be sent in all that time is given up with
 * it. Returns 0, or -1 with err. */
int exception_forget(sqlite3 *db, int64_t before_ms, struct err *err);

/* exception_id writes the id of the occurrence'th (from 0) exception about this at the instance of c: a version 8
 * UUID. */
void exception_id(const struct config *c, const struct exception_about *about, int64_t occurrence,
                  char out[EXCEPTION_ID_BYTES]);

/* exception_current_id writes the id of the open exception about this, or else the one it would get. */
void exception_current_id(sqlite3 *db, const struct config *c, const struct exception_about *about,
                          char out[EXCEPTION_ID_BYTES]);

#endif

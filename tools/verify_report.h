/* What verify found, for people and for machines. */
#ifndef MILLRACE_TOOLS_VERIFY_REPORT_H
#define MILLRACE_TOOLS_VERIFY_REPORT_H

#include "tools/verify.h"

enum { REPORT_TABLE_MAX = 50, REPORT_JSON_MAX = 1000, VERIFY_NOTES_MAX = 12, VERIFY_NOTE_BYTES = 300 };

/* What the result rests on, and what it does not tell: sentences. verify_note to NULL says nothing. */
struct verify_notes {
    uint32_t count;
    char text[VERIFY_NOTES_MAX][VERIFY_NOTE_BYTES];
};
void verify_note(struct verify_notes *n, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One finding: a candidate, or a row that no key was met for (c NULL). */
struct finding {
    enum verify_class class;
    const struct candidate *c;
    const struct live_row *row; /* what should be there; NULL: nothing */
};

/* verify_findings calls what for each finding until it does not return 0; returns that, or -1 with err. */
int verify_findings(struct verify *v, int (*what)(struct verify *v, const struct finding *f, void *context),
                    void *context, struct err *err);

/* verify_count counts keys by class into v->tally, VERIFY_RIGHT being what the walk has counted and the candidates that
 * turned out to be. The number of findings, or -1 with err. */
int64_t verify_count(struct verify *v, struct err *err);

/* verify_print writes the result to out: a table, or JSON. verify_list writes every finding to the file at path, a line
 * of JSON each. 0, or -1 with err. */
int verify_print(struct verify *v, const struct verify_notes *notes, uint64_t repaired, FILE *out, struct err *err);
int verify_list(struct verify *v, const char *path, struct err *err);

#endif

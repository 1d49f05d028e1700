/* The anchors of one log, out of a file of lines that may hold those of others too (a copy of a Kafka topic), some of
 * them twice. For audit/verify.h. */
#ifndef MILLRACE_AUDIT_ANCHOR_LIST_H
#define MILLRACE_AUDIT_ANCHOR_LIST_H

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "audit/anchor.h"
#include "audit/log.h"

struct anchor_row {
    struct anchor anchor;
    uint64_t line; /* in the file, from 1 */
    bool seen;     /* a batch ends with that entry */
    bool met;      /* and its mac is the one that was signed */
};

struct anchor_list {
    struct anchor_row *row; /* ascending by sequence number */
    size_t count, room;
    uint64_t foreign; /* lines of other logs */
};

enum anchor_fault {
    ANCHOR_NONE,     /* the line is no anchor */
    ANCHOR_UNSIGNED, /* it is not signed with the key, or was changed since */
    ANCHOR_GAP,      /* the line before it is not the one it was signed after */
};

/* anchor_list_load reads the file. Lines of a log other than that of head are left out; head NULL: all are taken. key
 * NULL: signatures are not checked. whole: the file begins with the first anchor there was. What is wrong with a line
 * is told to fault; one that is not signed is not taken. 0, or -1 with err (an errno). */
int anchor_list_load(struct anchor_list *l, const char *path, const struct log_head *head, EVP_PKEY *key, bool whole,
                     void (*fault)(void *context, uint64_t line, enum anchor_fault fault), void *context,
                     struct err *err);
void anchor_list_free(struct anchor_list *l);

/* anchor_list_meet: a batch of this segment ends with entry `sequence` and has this mac. */
void anchor_list_meet(struct anchor_list *l, uint64_t segment, uint64_t sequence, const uint8_t mac[LOG_MAC_BYTES]);

/* anchor_list_removed returns the statement that retention has removed everything up to entry `sequence`, or NULL. */
const struct anchor *anchor_list_removed(const struct anchor_list *l, uint64_t sequence);

#endif

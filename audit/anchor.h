/* Anchors: signed statements of how far the audit log has got, kept where whoever owns its disk cannot rewrite them (a
 * Kafka topic, the journal, an auditor's own copy). The chain of macs shows that nothing before its end was changed;
 * an anchor shows that the end was not cut off, and that the chain was not made anew by somebody who has its key.
 *
 * data_dir/audit/anchors has a line for each, appended by `audit` alone:
 *
 *   {"type":"anchor","segment":"0000000000000001","sequence":4711,"written_us":…,"mac":"…","previous":"…",
 *    "key_id":1,"name":"cards","instance":"node1","group":"millrace-cards","signature":"…"}       (one line)
 *
 * mac: of the batch that ends with the entry `sequence` in that segment. previous: signature of the line before, zeros
 * in the first. signature: Ed25519 (RFC 8032) over the bytes of the line before `,"signature"`. A line of the type
 * "removed" says the same of a segment that retention has removed: its last entry, and its last mac. */
#ifndef MILLRACE_AUDIT_ANCHOR_H
#define MILLRACE_AUDIT_ANCHOR_H

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "audit/files.h"
#include "audit/log.h"
#include "base/audit_keys.h"
#include "base/config.h"
#include "base/err.h"

#define ANCHORS_NAME "anchors"
enum { ANCHOR_SIGNATURE_BYTES = 64, ANCHOR_LINE_BYTES = 3072 };

struct anchor {
    bool removed; /* of the type "removed" */
    uint64_t segment, sequence;
    int64_t written_us;
    uint32_t key_id;
    uint8_t mac[LOG_MAC_BYTES];
    uint8_t previous[ANCHOR_SIGNATURE_BYTES];
    uint8_t signature[ANCHOR_SIGNATURE_BYTES];
};

/* anchor_key_make returns the signing key of a seed, to be given to EVP_PKEY_free. NULL with err (EX_OSERR). */
EVP_PKEY *anchor_key_make(const uint8_t seed[AUDIT_KEY_BYTES], struct err *err);

/* anchor_line writes the line of a, signed, with its newline and a NUL, and fills a->signature. Names come from c.
 * Returns its length, or 0 with err (EX_SOFTWARE). */
size_t anchor_line(struct anchor *a, const struct config *c, EVP_PKEY *key, char out[ANCHOR_LINE_BYTES],
                   struct err *err);

/* anchor_parse reads line[0, len), without or with its newline. 0, or -1: it is no anchor. Does not check it. */
int anchor_parse(struct anchor *a, const char *line, size_t len);

/* anchor_signed: whether the line was signed with the key, and has not been changed since. */
bool anchor_signed(const char *line, size_t len, EVP_PKEY *key);

/* The file of anchors, for its one writer. */
struct anchors {
    const struct log_files *files;
    int folder_fd, fd;
    uint64_t end;      /* bytes that are durable */
    bool dirty;        /* there may be more behind it, of an attempt that failed */
    uint64_t sequence; /* of the last anchor, those of removed segments aside */
    uint8_t previous[ANCHOR_SIGNATURE_BYTES];
};

/* anchors_open opens the file, makes it when it is missing, cuts off a last line that is not whole, and writes the last
 * whole one again: it may stand in the system's memory alone, after a sync that failed. 0, or -1 with
 * err (an errno). */
int anchors_open(struct anchors *s, int folder_fd, const struct log_files *files, struct err *err);
void anchors_close(struct anchors *s);

/* anchors_append signs a (whose `previous` is filled in) and makes its line durable; line: what was written. 0, or -1
 * with err: nothing was written; the same call may be tried again. */
int anchors_append(struct anchors *s, struct anchor *a, const struct config *c, EVP_PKEY *key,
                   char line[ANCHOR_LINE_BYTES], struct err *err);

#endif

#include "audit/anchor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/json_text.h"

#define SIGNATURE_FIELD ",\"signature\":\""

EVP_PKEY *anchor_key_make(const uint8_t seed[AUDIT_KEY_BYTES], struct err *err) {
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, AUDIT_KEY_BYTES);
    if (key == NULL) err_set(err, EX_OSERR, "OpenSSL cannot make an Ed25519 key");
    return key;
}

/* -- a line ------------------------------------------------------------------------------------ */

static void hex_put(FILE *out, const uint8_t *bytes, size_t len) {
    for (size_t i = 0; i < len; i++) fprintf(out, "%02x", bytes[i]);
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool hex_get(uint8_t *out, size_t len, const char *text) {
    for (size_t i = 0; i < len; i++) {
        int high = hex_digit(text[2 * i]), low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);
        if (low < 0) return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static void name_put(FILE *out, const char *field, const char *value) {
    fprintf(out, ",\"%s\":", field);
    json_text_put(value, strlen(value), out);
}

static int sign(EVP_PKEY *key, const char *text, size_t len, uint8_t out[ANCHOR_SIGNATURE_BYTES], struct err *err) {
    size_t got = ANCHOR_SIGNATURE_BYTES;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool good = c != NULL && EVP_DigestSignInit(c, NULL, NULL, NULL, key) == 1 &&
                EVP_DigestSign(c, out, &got, (const unsigned char *)text, len) == 1 && got == ANCHOR_SIGNATURE_BYTES;
    EVP_MD_CTX_free(c);
    return good ? 0 : err_set(err, EX_SOFTWARE, "OpenSSL cannot sign with Ed25519");
}

size_t anchor_line(struct anchor *a, const struct config *c, EVP_PKEY *key, char out[ANCHOR_LINE_BYTES],
                   struct err *err) {
    FILE *f = fmemopen(out, ANCHOR_LINE_BYTES, "w");
    CHECK(f != NULL);
    fprintf(f, "{\"type\":\"%s\",\"segment\":\"%016" PRIx64 "\",\"sequence\":%" PRIu64 ",\"written_us\":%" PRId64,
            a->removed ? "removed" : "anchor", a->segment, a->sequence, a->written_us);
    fputs(",\"mac\":\"", f);
    hex_put(f, a->mac, sizeof a->mac);
    fputs("\",\"previous\":\"", f);
    hex_put(f, a->previous, sizeof a->previous);
    fprintf(f, "\",\"key_id\":%u", a->key_id);
    name_put(f, "name", c->name);
    name_put(f, "instance", c->instance);
    name_put(f, "group", c->kafka.group_id);
    fflush(f);
    long signed_bytes = ftell(f);
    if (signed_bytes < 0 || sign(key, out, (size_t)signed_bytes, a->signature, err) != 0) {
        fclose(f);
        return 0;
    }
    fputs(SIGNATURE_FIELD, f);
    hex_put(f, a->signature, sizeof a->signature);
    fputs("\"}\n", f);
    fflush(f);
    long len = ftell(f);
    bool whole = ferror(f) == 0;
    if (fclose(f) != 0 || !whole || len < 0) return (void)err_set(err, EX_SOFTWARE, "an anchor does not fit"), 0;
    return (size_t)len;
}

/* Where the part that is signed ends, or NULL. */
static const char *signed_end(const char *line, size_t len) {
    enum { TAIL_BYTES = sizeof SIGNATURE_FIELD - 1 + 2 * ANCHOR_SIGNATURE_BYTES + 2 };
    if (len > 0 && line[len - 1] == '\n') len--;
    if (len < TAIL_BYTES || memcmp(line + len - 2, "\"}", 2) != 0) return NULL;
    const char *end = line + len - TAIL_BYTES;
    return memcmp(end, SIGNATURE_FIELD, sizeof SIGNATURE_FIELD - 1) == 0 ? end : NULL;
}

int anchor_parse(struct anchor *a, const char *line, size_t len) {
    char head[512], type[8];
    int mac = 0, previous = 0;
    const char *end = signed_end(line, len);
    *a = (struct anchor){0};
    if (end == NULL) return -1;
    size_t n = (size_t)(end - line) < sizeof head - 1 ? (size_t)(end - line) : sizeof head - 1;
    memcpy(head, line, n);
    head[n] = '\0';
    if (sscanf(head,
               "{\"type\":\"%7[a-z]\",\"segment\":\"%16" SCNx64 "\",\"sequence\":%20" SCNu64
               ",\"written_us\":%20" SCNd64
               ",\"mac\":\"%n%*128[0-9a-f]\",\"previous\":\"%n%*128[0-9a-f]\",\"key_id\":%10" SCNu32,
               type, &a->segment, &a->sequence, &a->written_us, &mac, &previous, &a->key_id) != 5)
        return -1;
    a->removed = strcmp(type, "removed") == 0;
    if (!a->removed && strcmp(type, "anchor") != 0) return -1;
    return hex_get(a->mac, sizeof a->mac, head + mac) && hex_get(a->previous, sizeof a->previous, head + previous) &&
                   hex_get(a->signature, sizeof a->signature, end + sizeof SIGNATURE_FIELD - 1)
               ? 0
               : -1;
}

bool anchor_signed(const char *line, size_t len, EVP_PKEY *key) {
    uint8_t signature[ANCHOR_SIGNATURE_BYTES];
    const char *end = signed_end(line, len);
    if (end == NULL || !hex_get(signature, sizeof signature, end + sizeof SIGNATURE_FIELD - 1)) return false;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool good =
        c != NULL && EVP_DigestVerifyInit(c, NULL, NULL, NULL, key) == 1 &&
        EVP_DigestVerify(c, signature, sizeof signature, (const unsigned char *)line, (size_t)(end - line)) == 1;
    EVP_MD_CTX_free(c);
    return good;
}

/* -- the file ---------------------------------------------------------------------------------- */

static int failed(struct err *err, const char *doing) {
    int code = errno;
    return err_set(err, code, "%s: %s", doing, strerror(code));
}

/* The last line, at the end of the file, is written once more. */
static int line_settle(struct anchors *s, const char *line, size_t len, struct err *err) {
    const struct log_files *f = s->files;
    const struct iovec part = {(void *)(uintptr_t)line, len};
    ssize_t n = f->write(f->context, s->fd, &part, 1, (off_t)(s->end - len));
    if (n >= 0 && n < (ssize_t)len) errno = ENOSPC;
    if (n != (ssize_t)len) return failed(err, ANCHORS_NAME);
    return f->sync(f->context, s->fd) == 0 ? 0 : failed(err, ANCHORS_NAME);
}

/* The signature of the last whole line, where it ends, and the last anchor among the last lines. */
static int end_find(struct anchors *s, uint64_t size, struct err *err) {
    char tail[4 * ANCHOR_LINE_BYTES + 1];
    size_t len = size < sizeof tail - 1 ? (size_t)size : sizeof tail - 1;
    struct anchor a;
    if (pread(s->fd, tail, len, (off_t)(size - len)) != (ssize_t)len) return failed(err, ANCHORS_NAME);
    const char *line = tail, *newline, *last = NULL;
    s->end = 0;
    for (; (newline = memchr(line, '\n', len - (size_t)(line - tail))) != NULL; line = newline + 1) {
        s->end = size - len + (size_t)(newline + 1 - tail);
        if (anchor_parse(&a, line, (size_t)(newline - line)) != 0) continue; /* the first may not be whole */
        last = line;
        memcpy(s->previous, a.signature, sizeof s->previous);
        if (!a.removed) s->sequence = a.sequence;
    }
    if (anchor_parse(&a, line, len - (size_t)(line - tail)) == 0) { /* all but its newline: see anchors_append */
        last = line;
        memcpy(s->previous, a.signature, sizeof s->previous);
        if (!a.removed) s->sequence = a.sequence;
        tail[len] = '\n';
        line = tail + len + 1;
        s->end = size + 1;
    }
    return last == NULL ? 0 : line_settle(s, last, (size_t)(line - last), err);
}

int anchors_open(struct anchors *s, int folder_fd, const struct log_files *files, struct err *err) {
    struct stat st;
    *s = (struct anchors){.files = files, .folder_fd = folder_fd, .fd = -1};
    s->fd = files->open(files->context, folder_fd, ANCHORS_NAME, O_RDWR | O_CREAT);
    if (s->fd < 0) return failed(err, ANCHORS_NAME);
    bool good = fstat(s->fd, &st) == 0;
    if (!good)
        failed(err, ANCHORS_NAME);
    else if (st.st_size > 0)
        good = end_find(s, (uint64_t)st.st_size, err) == 0;
    if (good && (uint64_t)st.st_size > s->end && files->truncate(files->context, s->fd, (off_t)s->end) != 0) {
        failed(err, ANCHORS_NAME);
        good = false;
    }
    if (good) return 0;
    anchors_close(s);
    return -1;
}

void anchors_close(struct anchors *s) {
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
}

/* The newline comes last, when the line is durable: who copies whole lines from the file copies none that the disk may
 * not have. A start that finds a line without it puts it there. */
int anchors_append(struct anchors *s, struct anchor *a, const struct config *c, EVP_PKEY *key,
                   char line[ANCHOR_LINE_BYTES], struct err *err) {
    const struct log_files *f = s->files;
    memcpy(a->previous, s->previous, sizeof a->previous);
    size_t len = anchor_line(a, c, key, line, err);
    if (len == 0) return -1;
    if (s->dirty && f->truncate(f->context, s->fd, (off_t)s->end) != 0)
        return failed(err, "writing an anchor of the audit log");
    /* From the newline before it on: that may have been lost by a sync that failed. */
    const struct iovec part[] = {{line + len - 1, 1}, {line, len - 1}};
    int skip = s->end == 0;
    ssize_t n = f->write(f->context, s->fd, part + skip, 2 - skip, (off_t)s->end - !skip) + skip;
    if (n == (ssize_t)len && f->sync(f->context, s->fd) != 0) n = -1;
    if (n == (ssize_t)len && f->write(f->context, s->fd, part, 1, (off_t)(s->end + len - 1)) != 1) n = -1;
    if (n == (ssize_t)len) {
        s->end += len;
        s->dirty = false;
        memcpy(s->previous, a->signature, sizeof s->previous);
        if (!a->removed) s->sequence = a->sequence;
        return 0;
    }
    if (n > 0 && n < (ssize_t)len) errno = ENOSPC;
    failed(err, "writing an anchor of the audit log");
    s->dirty = f->truncate(f->context, s->fd, (off_t)s->end) != 0;
    return -1;
}

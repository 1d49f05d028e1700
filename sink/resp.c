#include "sink/resp.h"

#include <hiredis/read.h>
#include <errno.h>
#include <string.h>

static void keep(char out[RESP_TEXT_BYTES], const char *bytes, size_t len) {
    size_t n = len < RESP_TEXT_BYTES - 1 ? len : RESP_TEXT_BYTES - 1;
    memcpy(out, bytes, n);
    out[n] = 0;
}

/* The reader takes any non-NULL pointer for the object it asked for; ours is always the same struct. */
static struct resp *begin(const redisReadTask *task, enum resp_kind kind) {
    struct resp *r = task->privdata;
    if (task->parent == NULL) {
        r->reply.kind = kind;
        r->reply.error = false;
        r->reply.elements = 0;
        r->reply.text_bytes = 0;
        r->reply.text[0] = r->reply.error_text[0] = 0;
    }
    return r;
}

static void *on_text(const redisReadTask *task, char *bytes, size_t len) {
    enum resp_kind kind = task->type == REDIS_REPLY_ERROR    ? RESP_ERROR
                          : task->type == REDIS_REPLY_STATUS ? RESP_STATUS
                                                             : RESP_STRING;
    struct resp *r = begin(task, kind);
    r->reply.text_bytes = len;
    keep(r->reply.text, bytes, len);
    if (kind == RESP_ERROR) {
        if (!r->reply.error) keep(r->reply.error_text, bytes, len);
        r->reply.error = true;
    }
    if (kind == RESP_STRING && r->on_string != NULL) r->on_string(r->context, bytes, len);
    return r;
}

static void *on_array(const redisReadTask *task, int elements) {
    struct resp *r = begin(task, RESP_ARRAY);
    if (elements < 0 || elements > RESP_ELEMENTS_MAX) return NULL;
    if (task->parent == NULL) r->reply.elements = (uint32_t)elements;
    return r;
}

static void *on_integer(const redisReadTask *task, long long value) {
    struct resp *r = begin(task, RESP_INTEGER);
    r->reply.integer = value;
    return r;
}

static void *on_nil(const redisReadTask *task) { return begin(task, RESP_NIL); }
static void on_free(void *object) { (void)object; }

static redisReplyObjectFunctions functions = {on_text, on_array, on_integer, on_nil, on_free};

int resp_init(struct resp *r, struct err *err) {
    r->reader = redisReaderCreateWithFunctions(&functions);
    if (r->reader == NULL) return err_set(err, ENOMEM, "no memory for the reply reader");
    r->reader->maxbuf = 0; /* keep the buffer: giving it back when idle means allocating it again */
    r->reader->privdata = r;
    r->reply = (struct resp_reply){0};
    return 0;
}

void resp_free(struct resp *r) {
    if (r->reader != NULL) redisReaderFree(r->reader);
    r->reader = NULL;
}

int resp_reset(struct resp *r, struct err *err) {
    resp_free(r);
    return resp_init(r, err);
}

int resp_feed(struct resp *r, const void *bytes, size_t len, struct err *err) {
    if (r->reader->len - r->reader->pos + len > RESP_BUFFERED_MAX)
        return err_set(err, EPROTO, "a reply of Redis is larger than %lu bytes", RESP_BUFFERED_MAX);
    if (redisReaderFeed(r->reader, bytes, len) == REDIS_OK) return 0;
    return err_set(err, ENOMEM, "reply reader: %s", r->reader->errstr);
}

int resp_next(struct resp *r, struct err *err) {
    void *object = NULL;
    if (redisReaderGetReply(r->reader, &object) != REDIS_OK)
        return err_set(err, EPROTO, "what Redis sent is not its protocol: %s", r->reader->errstr);
    return object != NULL;
}

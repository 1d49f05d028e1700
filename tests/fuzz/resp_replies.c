/* Any bytes as the answers of Redis: taken in one piece or in many, they are the same replies. */
#include "tests/fuzz/fuzz.h"

#include "sink/resp.h"

uint64_t read_sum;

enum { REPLIES_MAX = 64 };

struct outcome {
    uint32_t replies;
    bool broken;
    struct resp_reply reply[REPLIES_MAX];
};

static void whole_string(void *context, const char *bytes, size_t len) {
    (void)context;
    read_all((const uint8_t *)bytes, len);
}

static void replies_take(struct resp *r, struct outcome *out) {
    struct err err = {0};
    int more;
    while ((more = resp_next(r, &err)) == 1) {
        WRONG_UNLESS(memchr(r->reply.text, 0, sizeof r->reply.text) != NULL);
        WRONG_UNLESS(memchr(r->reply.error_text, 0, sizeof r->reply.error_text) != NULL);
        WRONG_UNLESS(r->reply.elements <= RESP_ELEMENTS_MAX);
        if (out->replies < REPLIES_MAX) out->reply[out->replies] = r->reply;
        out->replies++;
    }
    WRONG_UNLESS((more < 0) == (err.text[0] != 0));
    if (more < 0) out->broken = true;
}

static void replies_of(struct resp *r, const uint8_t *bytes, size_t len, size_t piece, struct outcome *out) {
    out->replies = 0;
    out->broken = false;
    WRONG_UNLESS(resp_reset(r, NULL) == 0);
    for (size_t at = 0; at < len && !out->broken; at += piece) {
        size_t n = len - at < piece ? len - at : piece;
        if (resp_feed(r, bytes + at, n, NULL) != 0) out->broken = true;
        if (!out->broken) replies_take(r, out);
    }
}

static bool same(const struct resp_reply *a, const struct resp_reply *b) {
    return a->kind == b->kind && a->error == b->error && a->elements == b->elements && a->text_bytes == b->text_bytes &&
           strcmp(a->text, b->text) == 0 && strcmp(a->error_text, b->error_text) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    static struct resp r;
    static struct outcome whole, pieces;
    if (r.reader == NULL) WRONG_UNLESS(resp_init(&r, NULL) == 0);
    r.on_string = whole_string;
    if (len < 2) return 0;
    replies_of(&r, bytes + 1, len - 1, len, &whole);
    replies_of(&r, bytes + 1, len - 1, 1 + bytes[0] % 16, &pieces);
    WRONG_UNLESS(whole.replies == pieces.replies && whole.broken == pieces.broken);
    for (uint32_t i = 0; i < whole.replies && i < REPLIES_MAX; i++)
        WRONG_UNLESS(same(&whole.reply[i], &pieces.reply[i]));
    return 0;
}

#include "sink/resp.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static struct resp r;
static char strings[4096];

static void on_string(void *context, const char *bytes, size_t len) {
    (void)context;
    size_t at = strlen(strings);
    snprintf(strings + at, sizeof strings - at, "%.*s|", (int)len, bytes);
}

static void start(void) {
    struct err err;
    cr_assert_eq(resp_init(&r, &err), 0);
    strings[0] = 0;
}
static void stop(void) { resp_free(&r); }

TestSuite(resp, .init = start, .fini = stop);

static int feed(const char *text) {
    struct err err = {0};
    cr_assert_eq(resp_feed(&r, text, strlen(text), &err), 0);
    return resp_next(&r, &err);
}

Test(resp, every_kind_of_reply_is_described) {
    cr_assert_eq(feed("+OK\r\n"), 1);
    cr_assert(r.reply.kind == RESP_STATUS && strcmp(r.reply.text, "OK") == 0 && !r.reply.error);
    cr_assert_eq(feed(":-42\r\n"), 1);
    cr_assert(r.reply.kind == RESP_INTEGER && r.reply.integer == -42);
    cr_assert_eq(feed("$-1\r\n"), 1);
    cr_assert_eq(r.reply.kind, RESP_NIL);
    cr_assert_eq(feed("*-1\r\n"), 1);
    cr_assert_eq(r.reply.kind, RESP_NIL);
    cr_assert_eq(feed("$5\r\na\r\nbc\r\n"), 1);
    cr_assert(r.reply.kind == RESP_STRING && r.reply.text_bytes == 5 && memcmp(r.reply.text, "a\r\nbc", 6) == 0);
    cr_assert_eq(feed("*0\r\n"), 1);
    cr_assert(r.reply.kind == RESP_ARRAY && r.reply.elements == 0);
    cr_assert_eq(feed("-OOM command not allowed\r\n"), 1);
    cr_assert(r.reply.kind == RESP_ERROR && r.reply.error &&
              strcmp(r.reply.error_text, "OOM command not allowed") == 0);
    cr_assert_eq(feed("+OK\r\n"), 1);
    cr_assert(!r.reply.error && r.reply.error_text[0] == 0, "nothing is left of the reply before");
}

Test(resp, error_inside_an_array_marks_the_whole_reply) {
    cr_assert_eq(feed("*3\r\n:1\r\n-WRONGTYPE one\r\n-ERR two\r\n"), 1);
    cr_assert(r.reply.kind == RESP_ARRAY && r.reply.elements == 3 && r.reply.error);
    cr_assert_str_eq(r.reply.error_text, "WRONGTYPE one");
    cr_assert_eq(feed("*2\r\n:1\r\n+OK\r\n"), 1);
    cr_assert(!r.reply.error && r.reply.elements == 2);
}

Test(resp, last_text_of_an_array_is_kept) {
    cr_assert_eq(feed("*2\r\n$16\r\nmaxmemory-policy\r\n$10\r\nnoeviction\r\n"), 1);
    cr_assert_str_eq(r.reply.text, "noeviction");
}

Test(resp, replies_cut_at_every_byte_come_out_whole) {
    static const char stream[] = "+OK\r\n*2\r\n:1\r\n+OK\r\n$7\r\n1 5 1 i\r\n-ERR x\r\n:12\r\n$-1\r\n";
    struct err err = {0};
    for (size_t cut = 1; cut < sizeof stream - 1; cut++) {
        int n = 0, errors = 0;
        cr_assert_eq(resp_reset(&r, &err), 0);
        for (size_t at = 0; at < sizeof stream - 1;) {
            size_t len = at < cut ? cut : sizeof stream - 1 - cut;
            cr_assert_eq(resp_feed(&r, stream + at, len, &err), 0);
            at += len;
            while (resp_next(&r, &err) == 1) {
                n++;
                errors += r.reply.error;
            }
        }
        cr_assert_eq(n, 6);
        cr_assert_eq(errors, 1);
        cr_assert_eq(r.reply.kind, RESP_NIL);
    }
}

Test(resp, long_texts_are_cut_in_the_reply_and_whole_in_the_callback) {
    static char reply[2100];
    int n = snprintf(reply, sizeof reply, "$2000\r\n");
    memset(reply + n, 'x', 2000);
    memcpy(reply + n + 2000, "\r\n", 3);
    r.on_string = on_string;
    cr_assert_eq(feed(reply), 1);
    cr_assert_eq(r.reply.text_bytes, 2000);
    cr_assert_eq(strlen(r.reply.text), RESP_TEXT_BYTES - 1);
    cr_assert_eq(strlen(strings), 2001);
}

Test(resp, what_is_not_the_protocol_is_an_error_and_not_a_guess) {
    cr_assert_eq(feed("HTTP/1.1 400 Bad Request\r\n"), -1);
}

Test(resp, map_of_a_later_protocol_is_an_error) { cr_assert_eq(feed("%1\r\n+a\r\n+b\r\n"), -1); }

Test(resp, array_longer_than_any_answer_is_refused_before_it_is_awaited) {
    cr_assert_eq(feed("*2147483647\r\n"), -1);
    struct err err;
    cr_assert_eq(resp_reset(&r, &err), 0);
    cr_assert_eq(feed("*65\r\n"), -1);
}

Test(resp, reply_without_end_is_refused_at_its_limit) {
    static char chunk[RESP_FEED_BYTES];
    struct err err = {0};
    cr_assert_eq(feed("$1000000000\r\n"), 0);
    size_t fed = 0;
    while (resp_feed(&r, chunk, sizeof chunk, &err) == 0) {
        cr_assert_eq(resp_next(&r, &err), 0);
        fed += sizeof chunk;
        cr_assert_leq(fed, RESP_BUFFERED_MAX);
    }
    cr_assert_gt(fed, RESP_BUFFERED_MAX - 2 * sizeof chunk);
}

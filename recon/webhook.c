#include "recon/webhook.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <sysexits.h>

struct webhook {
    CURLM *multi;
    CURL *easy;
    struct curl_slist *headers;
    size_t answer_bytes;
};

/* What the receiver says is of no interest, only its status; and it is not listened to for ever. */
static size_t swallow(char *bytes, size_t size, size_t count, void *self) {
    struct webhook *w = self;
    (void)bytes;
    w->answer_bytes += size * count;
    return w->answer_bytes <= WEBHOOK_ANSWER_BYTES_MAX ? size * count : 0;
}

static bool configure(struct webhook *w, const char *url, const char *ca_file) {
    CURL *e = w->easy;
    bool ok = curl_easy_setopt(e, CURLOPT_URL, url) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_PROXY, "") == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)WEBHOOK_CONNECT_MS) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)WEBHOOK_TOTAL_MS) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_USERAGENT, "millrace") == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, swallow) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_WRITEDATA, w) == CURLE_OK;
    if (ca_file[0] != '\0') ok &= curl_easy_setopt(e, CURLOPT_CAINFO, ca_file) == CURLE_OK;
    return ok;
}

struct webhook *webhook_open(const char *url, const char *ca_file, struct err *err) {
    struct webhook *w = calloc(1, sizeof *w);
    if (w != NULL && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK) {
        w->multi = curl_multi_init();
        w->easy = curl_easy_init();
        if (w->multi != NULL && w->easy != NULL && configure(w, url, ca_file)) return w;
    }
    webhook_close(w);
    err_set(err, EX_OSERR, "webhook: libcurl refuses the settings, or there is no memory");
    return NULL;
}

void webhook_close(struct webhook *w) {
    if (w == NULL) return;
    if (w->headers != NULL) curl_multi_remove_handle(w->multi, w->easy);
    curl_easy_cleanup(w->easy);
    curl_multi_cleanup(w->multi);
    curl_slist_free_all(w->headers);
    free(w);
}

static void finish(struct webhook *w) {
    curl_multi_remove_handle(w->multi, w->easy);
    curl_slist_free_all(w->headers);
    w->headers = NULL;
}

int webhook_start(struct webhook *w, const char *id, const void *body, size_t len, struct err *err) {
    char header[128];
    snprintf(header, sizeof header, "Millrace-Exception: %s", id);
    w->answer_bytes = 0;
    /* `Expect:` without a value: no waiting for leave to send so small a body. */
    static const char *const fixed[] = {"Content-Type: application/json", "Expect:"};
    w->headers = curl_slist_append(NULL, header);
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0] && w->headers != NULL; i++) {
        struct curl_slist *longer = curl_slist_append(w->headers, fixed[i]);
        if (longer == NULL) curl_slist_free_all(w->headers);
        w->headers = longer;
    }
    if (w->headers != NULL && curl_easy_setopt(w->easy, CURLOPT_HTTPHEADER, w->headers) == CURLE_OK &&
        curl_easy_setopt(w->easy, CURLOPT_POSTFIELDSIZE, (long)len) == CURLE_OK &&
        curl_easy_setopt(w->easy, CURLOPT_POSTFIELDS, body) == CURLE_OK &&
        curl_multi_add_handle(w->multi, w->easy) == CURLM_OK)
        return 0;
    curl_slist_free_all(w->headers);
    w->headers = NULL;
    return err_set(err, EX_OSERR, "no memory");
}

enum sending webhook_step(struct webhook *w, struct err *err) {
    int running = 0, left;
    if (curl_multi_perform(w->multi, &running) != CURLM_OK) {
        finish(w);
        err_set(err, EX_SOFTWARE, "libcurl has failed");
        return SEND_FAILED;
    }
    const CURLMsg *message = curl_multi_info_read(w->multi, &left);
    if (message == NULL || message->msg != CURLMSG_DONE) return SENDING;
    CURLcode result = message->data.result;
    long status = 0;
    curl_easy_getinfo(w->easy, CURLINFO_RESPONSE_CODE, &status);
    /* A 2xx whose text was cut short is a 2xx. */
    bool cut = result == CURLE_WRITE_ERROR && w->answer_bytes > WEBHOOK_ANSWER_BYTES_MAX;
    bool sent = (result == CURLE_OK || cut) && status >= 200 && status < 300;
    finish(w);
    if (sent) return SENT;
    if (result == CURLE_OK || cut)
        err_set(err, EX_UNAVAILABLE, "the receiver answered %ld", status);
    else
        err_set(err, EX_UNAVAILABLE, "%s", curl_easy_strerror(result));
    return SEND_FAILED;
}

int webhook_wants(struct webhook *w, struct pollfd *fds, int max, int *timeout_ms) {
    fd_set in, out, bad;
    long wait_ms = -1;
    int highest = -1, n = 0;
    if (w->headers == NULL) return 0;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&bad);
    curl_multi_fdset(w->multi, &in, &out, &bad, &highest);
    for (int fd = 0; fd <= highest && n < max; fd++) {
        short events = (short)((FD_ISSET(fd, &in) ? POLLIN : 0) | (FD_ISSET(fd, &out) ? POLLOUT : 0));
        if (events != 0) fds[n++] = (struct pollfd){.fd = fd, .events = events};
    }
    /* While a name is looked up there may be nothing to poll. */
    if (n == 0 && *timeout_ms > 10) *timeout_ms = 10;
    if (curl_multi_timeout(w->multi, &wait_ms) == CURLM_OK && wait_ms >= 0 && wait_ms < *timeout_ms)
        *timeout_ms = (int)wait_ms;
    return n;
}

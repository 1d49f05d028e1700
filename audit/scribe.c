#include "audit/scribe.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"

/* -- anchors ----------------------------------------------------------------------------------- */

/* A failure costs an anchor, not an entry: it is told, and tried again soon. */
static bool anchor_put(struct scribe *s, struct anchor a) {
    char line[ANCHOR_LINE_BYTES];
    struct err err;
    a.key_id = s->plan.key_id;
    a.written_us = clock_wall_ms(s->plan.clock) * 1000;
    if (anchors_append(&s->anchors, &a, s->plan.config, s->anchor_key, line, &err) != 0) {
        log_warn("audit.anchor_failed", "%s", err.text);
        return false;
    }
    size_t len = strlen(line);
    log_info("audit.anchor", "%.*s", len > 0 ? (int)(len - 1) : 0, line);
    return true;
}

bool scribe_due(const struct scribe *s) {
    return s->open && s->log.last.sequence > s->anchors.sequence &&
           (s->anchored_ns == 0 || clock_ns(s->plan.clock) - s->anchored_ns >= ANCHOR_INTERVAL_S * NS_PER_S);
}

static void anchor_last(struct scribe *s, const struct writer_last *last) {
    struct anchor a = {.segment = last->segment, .sequence = last->sequence};
    memcpy(a.mac, last->mac, sizeof a.mac);
    s->anchored_ns = clock_ns(s->plan.clock);
    FAULT("audit:anchor");
    if (!anchor_put(s, a)) s->anchored_ns -= (ANCHOR_INTERVAL_S - ANCHOR_RETRY_S) * NS_PER_S; /* wraps, and back */
}

/* -- retention --------------------------------------------------------------------------------- */

/* What is removed is signed for first, once: an auditor can tell it from what somebody else has removed. */
static void expire(struct scribe *s) {
    struct anchor a = {.removed = true};
    struct err err;
    bool set = log_writer_clock_set(&s->log);
    if (set && !s->clock_told)
        log_warn("audit.clock_set", "the clock was set by more than an hour: segments are removed by size alone until "
                                    "audit is started again");
    s->clock_told = set;
    const struct writer_segment *old = log_writer_expired(&s->log);
    if (old == NULL) return;
    a.segment = old->first;
    if (log_writer_closed_end(&s->log, &a.sequence, a.mac, &err) != 0)
        log_warn("audit.retention_failed", "%s", err.text);
    else if (s->signed_for != a.segment && !anchor_put(s, a))
        return;
    else
        s->signed_for = a.segment;
    if (log_writer_remove(&s->log, &err) != 0) {
        log_warn("audit.retention_failed", "%s", err.text);
        return;
    }
    log_info("audit.segment_removed", "%016" PRIx64 ".log: entries up to %" PRIu64, a.segment, a.sequence);
}

/* -- errands ----------------------------------------------------------------------------------- */

/* An anchor is made of what is durable: a log that ends before one was cut. */
static int anchors_fit(const struct scribe *s, struct err *err) {
    if (s->anchors.sequence <= s->log.last.sequence) return 0;
    return err_set(err, EX_DATAERR,
                   "the audit log ends with entry %" PRIu64 ", and an anchor was made of entry %" PRIu64
                   ": its end was cut off; `millrace audit verify` tells more",
                   s->log.last.sequence, s->anchors.sequence);
}

static int log_open(struct scribe *s) {
    struct err *err = &s->result.err;
    if (log_writer_open(&s->log, &s->plan, err) != 0) return -1;
    if (anchors_open(&s->anchors, s->log.folder_fd, s->plan.files, err) != 0 || anchors_fit(s, err) != 0) {
        anchors_close(&s->anchors);
        log_writer_close(&s->log);
        return -1;
    }
    s->open = true;
    s->anchors_gone = s->anchors.end == 0 && s->log.last.sequence > 0;
    if (s->anchors_gone)
        log_error("audit.anchors_missing",
                  "the log has entries up to %" PRIu64 ", and the file of its anchors is empty or was removed: it is "
                  "begun anew, and what was signed before stands in the copies alone",
                  s->log.last.sequence);
    if (s->log.cut_bytes > 0)
        log_warn("audit.torn_tail", "%" PRIu64 " bytes behind the last whole batch were cut off", s->log.cut_bytes);
    return 0;
}

static int batch_commit(struct scribe *s) {
    uint64_t began = clock_ns(s->plan.clock), sequence = s->log.sequence, bytes = s->log.used, repeats = s->log.repeats;
    struct writer_last before = s->log.last;
    bool empty = s->log.count == 0;
    if (log_writer_commit(&s->log, &s->result.err) != 0) return -1;
    s->result.entries = s->log.sequence - sequence;
    s->result.repeats = repeats;
    s->result.bytes = bytes;
    if (!empty) s->result.ns = clock_ns(s->plan.clock) - began + 1;
    const struct writer_last *last = &s->log.last;
    if (last->segment != before.segment && before.sequence > s->anchors.sequence) anchor_last(s, &before);
    if (scribe_due(s) || (s->last && last->sequence > s->anchors.sequence)) anchor_last(s, last);
    expire(s);
    return 0;
}

static void errand(struct scribe *s) {
    s->result = (struct scribe_result){0};
    s->result.failed = s->open ? batch_commit(s) : log_open(s);
}

static void *thread_main(void *self) {
    struct scribe *s = self;
    uint64_t one = 1;
    pthread_mutex_lock(&s->lock);
    while (s->state != SCRIBE_LEAVING) {
        if (s->state != SCRIBE_ASKED) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        errand(s);
        pthread_mutex_lock(&s->lock);
        if (s->state == SCRIBE_ASKED) s->state = SCRIBE_DONE;
        if (write(s->bell, &one, sizeof one) < 0) CHECK(errno == EAGAIN);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

void scribe_start(struct scribe *s, bool last) {
    s->last = last;
    if (!s->threaded) {
        s->state = SCRIBE_ASKED;
        errand(s);
        s->state = SCRIBE_DONE;
        return;
    }
    pthread_mutex_lock(&s->lock);
    CHECK(s->state == SCRIBE_IDLE);
    s->state = SCRIBE_ASKED;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

enum scribe_state scribe_poll(struct scribe *s, struct scribe_result *result) {
    uint64_t n;
    if (s->threaded) pthread_mutex_lock(&s->lock);
    enum scribe_state state = s->state;
    if (state == SCRIBE_DONE) {
        *result = s->result;
        s->state = SCRIBE_IDLE;
        if (s->threaded && read(s->bell, &n, sizeof n) < 0) CHECK(errno == EAGAIN);
    }
    if (s->threaded) pthread_mutex_unlock(&s->lock);
    return state;
}

int scribe_init(struct scribe *s, const struct log_writer_plan *plan, const struct audit_keys *keys, bool threaded,
                struct err *err) {
    pthread_attr_t attr;
    *s = (struct scribe){.plan = *plan, .anchors = {.fd = -1}, .bell = -1, .threaded = threaded};
    log_mac_key_init(&s->key, keys->chain);
    s->plan.key = &s->key;
    s->plan.key_id = keys->id;
    if ((s->anchor_key = anchor_key_make(keys->anchor_seed, err)) == NULL) return -1;
    if (!threaded) return 0;
    if ((s->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        return err_set(err, EX_OSERR, "eventfd: %s", strerror(errno));
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, SCRIBE_STACK_BYTES);
    int code = pthread_create(&s->thread, &attr, thread_main, s);
    pthread_attr_destroy(&attr);
    return code == 0 ? 0 : err_set(err, EX_OSERR, "a thread for the audit log: %s", strerror(code));
}

void scribe_fini(struct scribe *s) {
    if (s->threaded) {
        pthread_mutex_lock(&s->lock);
        s->state = SCRIBE_LEAVING;
        pthread_cond_signal(&s->changed);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
        close(s->bell);
    }
    if (s->open) {
        log_writer_close(&s->log);
        anchors_close(&s->anchors);
    }
    EVP_PKEY_free(s->anchor_key);
    explicit_bzero(&s->key, sizeof s->key);
    s->open = false;
}

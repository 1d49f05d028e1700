#include "tools/load_cover.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "shm/record.h"
#include "shm/stats.h"
#include "tools/control_client.h"

enum { PATIENCE_S = 6, POLL_MS = 100 };

struct lost {
    int32_t partition;
    int64_t from, to;
};

/* The partitions of the topic with lost offsets, as the instance shows them. -1: it shows nothing. */
static int lost_read(const struct config *c, const char *topic, struct lost out[PARTITIONS_MAX]) {
    struct stats s = {0};
    struct err err;
    int n = 0;
    if (stats_open(&s, c->run_dir, c->name, &err) != 0) return -1;
    uint32_t count = atomic_load_explicit(&s.header->partition_count, memory_order_acquire);
    for (uint32_t i = 0; i < count && i < PARTITIONS_MAX; i++) {
        const struct stats_partition *p = stats_partition(&s, i);
        out[n] = (struct lost){p->partition, atomic_load_explicit(&p->lost_from, memory_order_acquire),
                               atomic_load_explicit(&p->lost_to, memory_order_acquire)};
        const char *name = p->topic < s.header->topic_count
                               ? (const char *)s.header + s.header->topic_at + (size_t)p->topic * TOPIC_BYTES
                               : "";
        if (out[n].from < out[n].to && strncmp(name, topic, TOPIC_BYTES) == 0) n++;
    }
    stats_close(&s);
    return n;
}

static int64_t first_offset(const struct load_result *r, int32_t partition) {
    for (int i = 0; i < r->places; i++)
        if (r->place[i].partition == partition) return r->place[i].first_offset;
    return -1; /* the load has nothing there */
}

static bool still_lost(const struct config *c, const char *topic, int32_t partition) {
    static struct lost now[PARTITIONS_MAX];
    int n = lost_read(c, topic, now);
    for (int i = 0; i < n; i++)
        if (now[i].partition == partition) return true;
    return n < 0;
}

static bool cover_one(const struct config *c, const struct load_result *r, const struct lost *l) {
    struct command_place at = {c->run_dir, c->name};
    char request[TOPIC_BYTES + 128], reply[REPLY_BYTES], text[REPLY_BYTES], id[37];
    const char *why = text;
    record_id_format(r->load.id, id);
    snprintf(request, sizeof request, "accept-loss %s %" PRId32 " %s %" PRId64 "\n", r->load.topic, l->partition, id,
             first_offset(r, l->partition));
    if (control_ask(&at, request, reply) != 0) {
        why = reply;
    } else if (!reply_ok(reply)) {
        reply_text(reply, "message", text);
    } else {
        uint64_t until = clock_ns(&clock_real) + PATIENCE_S * NS_PER_S;
        while (clock_ns(&clock_real) < until) {
            if (!still_lost(c, r->load.topic, l->partition)) return true;
            nanosleep(&(struct timespec){0, POLL_MS * 1000000}, NULL);
        }
        why = "asked, but not carried out: its log says why";
    }
    fprintf(stderr, "millrace load: %s[%" PRId32 "] still waits for offsets [%" PRId64 ",%" PRId64 "): %s\n",
            r->load.topic, l->partition, l->from, l->to, why);
    return false;
}

struct load_cover load_cover(const struct config *c, const struct load_result *r) {
    static struct lost lost[PARTITIONS_MAX];
    struct load_cover out = {0};
    int n = lost_read(c, r->load.topic, lost);
    for (int i = 0; i < n; i++) {
        bool done = cover_one(c, r, &lost[i]);
        out.made_up += done;
        out.waiting += !done;
    }
    return out;
}

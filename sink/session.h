/* Session: one connection to Redis at a time, from the first byte to the last: connecting, the greeting (who we are,
 * the end of every older connection of our name, is this Redis fit for the job), then a pipe for commands and
 * replies.
 *
 * The greeting goes one command at a time, each answered before the next: AUTH, SELECT, CLIENT SETNAME, CLIENT ID,
 * CLIENT LIST, CLIENT KILL ID for every other of our lane, or of another count of lanes, INFO, CONFIG GET when INFO did
 * not tell. No data goes out before the last answer: otherwise commands buffered in a stalled Redis could be executed
 * after newer ones. */
#ifndef MILLRACE_SINK_SESSION_H
#define MILLRACE_SINK_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/config.h"
#include "sink/encode.h"
#include "sink/reply.h"
#include "sink/resp.h"
#include "sink/stream.h"

enum {
    SESSION_NAME_BYTES = 9 + TOPIC_BYTES + NAME_BYTES + 16,
    SESSION_KILLS_MAX = 64, /* older connections ended per look at CLIENT LIST, which is read again when it was full */
};
#define SESSION_STRIKE_WINDOW_NS (60 * NS_PER_S) /* ended twice within it by a namesake: two instances fight */

enum session_phase { SESSION_DOWN, SESSION_CONNECTING, SESSION_GREETING, SESSION_OPEN };

struct session {
    const struct config *config;
    const struct clock_port *clock;
    struct stream_port stream;
    struct resp resp;
    struct encode_buffer out;
    enum session_phase phase;
    char name[SESSION_NAME_BYTES]; /* millrace:GROUP:INSTANCE:LANE/LANES */
    size_t name_stem;              /* length of `millrace:GROUP:INSTANCE:` */
    uint32_t lane;                 /* of LANES, config->lanes */
    uint8_t *chunk;                /* what one read takes */
    uint64_t started_ns;           /* this attempt */
    uint64_t progress_ns;          /* an answer last went on, or a write that was cut short, or waiting began */
    bool cut_short;                /* the last write was: the line, or Redis, is slower than we are */
    uint32_t step;                 /* of the greeting */
    bool asked;                    /* the step's command is sent and not answered */
    uint64_t id, id_before;        /* CLIENT ID of this connection and of the last one that was open; 0 unknown */
    bool answered;                 /* something of this connection was a reply of Redis */
    bool peer_gone;                /* the other side ended this connection */
    bool ended_by_peer;            /* … or the open one before it */
    uint64_t kill[SESSION_KILLS_MAX];
    uint32_t kill_count, kill_at;
    bool namesake_newer; /* CLIENT LIST has one of our name that is newer than our last connection */
    uint64_t strike_ns;  /* when a namesake last ended ours; 0 never */
    char version[16], role[16], policy[32], cluster[4], aof[4]; /* from INFO; "" unknown */
    int64_t ahead_ms; /* its wall clock over our monotonic one, at the greeting; INT64_MIN unknown */
    bool warned_unnamed, warned_info, warned_policy, warned_eviction, warned_aof; /* each said once per process */
    struct {
        uint64_t killed, bytes_sent; /* since session_init; the owner takes them over */
    } count;
};

/* session_init allocates buffers: out_bytes for commands. stream is copied; config and clock must outlive it. Nothing
 * is opened. 0, or -1 with err. session_free closes and gives back. */
int session_init(struct session *s, const struct config *config, uint32_t lane, const struct clock_port *clock,
                 const struct stream_port *stream, size_t out_bytes, struct err *err);
void session_free(struct session *s);

/* session_connect begins a connection; only in SESSION_DOWN. 0, or -1 with f (REPLY_RECONNECT, REPLY_CONFIG). */
int session_connect(struct session *s, struct failure *f);

/* session_greet moves connecting and greeting on as far as it goes without waiting. 1: something moved (phase
 * SESSION_OPEN when it is through), 0: nothing yet, -1 with f: drop the session. Bounded by redis.connect_timeout. */
int session_greet(struct session *s, struct failure *f);

/* session_read takes in at most one chunk, session_write sends what is in `out`. 1 moved, 0 not, -1 with f. */
int session_read(struct session *s, struct failure *f);
int session_write(struct session *s, struct failure *f);

/* session_reply: 1 and s->resp.reply is the next reply, 0 none is complete, -1 with f. */
int session_reply(struct session *s, struct failure *f);

/* session_drop closes the connection and forgets what was not sent. Any phase. */
void session_drop(struct session *s);

/* session_wall_ms: no later than it is by Redis's clock, as far as we know it: what is past by this, and by nothing
 * else, is past. A clock of either machine that was set ahead ends no record's life. */
int64_t session_wall_ms(const struct session *s);

/* session_waiting_begins: an answer is awaited from now on, after nothing was. */
static inline void session_waiting_begins(struct session *s) { s->progress_ns = clock_ns(s->clock); }

/* session_overdue: whether an awaited answer has made no progress for redis.response_timeout. Sending further commands
 * is none; the rest of one that did not fit into the socket is. */
bool session_overdue(const struct session *s, uint64_t now_ns);

#endif

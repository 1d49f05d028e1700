/* The sink against a Redis that fails: refuses, vanishes, stands still. Nothing may be lost, skipped, or end
 * up older than something that was written before. */
#include "tests/unit/sink/rig.h"

static struct rig_redis redis;
static struct rig rig;

static void start(void) {
    redis_start(&redis, "--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "yes", NULL);
    rig_init(&rig, &redis, 2);
}

static void stop(void) {
    rig_crash(&rig);
    redis_stop(&redis);
}

TestSuite(outage, .init = start, .fini = stop, .timeout = 120);

/* Records n … n+count-1: every kind of command, over two partitions, with values that tell the order. */
static void mixed(int from, int count) {
    char value[32], key[32], old[32];
    for (int i = from; i < from + count; i++) {
        uint32_t p = (uint32_t)i % 2;
        snprintf(value, sizeof value, "%d", i);
        snprintf(key, sizeof key, "k%d:%u", i % 14 / 2, p);
        switch (i / 2 % 5) {
        case 0:
        case 1: rig_put(&rig, .op = RECORD_ADD, .partition = p, .key = key, .value = value); break;
        case 2:
            rig_put(&rig, .op = RECORD_ADD, .partition = p, .key = key, .value = value,
                    .expire_at_ms = clock_wall_ms(&clock_real) + 1000000);
            break;
        case 3:
            snprintf(key, sizeof key, "m%u:%d", p, i / 10 % 2);
            snprintf(old, sizeof old, "m%u:%d", p, 1 - i / 10 % 2);
            rig_put(&rig, .op = RECORD_UPDATE, .partition = p, .key = key, .old_key = old, .value = value);
            break;
        default: rig_put(&rig, .op = RECORD_DELETE, .partition = p, .key = key);
        }
    }
    ring_publish(&rig.producer);
}

/* What Redis has to hold after records 0 … count-1 of mixed(): the same fold, done here. */
static void expect_mixed(int count) {
    char key[32];
    int keys = 0;
    for (int p = 0; p < 2; p++) {
        for (int k = 0; k < 7; k++) {
            int last = -1;
            for (int i = 0; i < count; i++)
                if (i % 2 == p && i % 14 / 2 == k && i / 2 % 5 != 3) last = i / 2 % 5 == 4 ? -1 : i;
            snprintf(key, sizeof key, "k%d:%d", k, p);
            if (last < 0)
                redis_is(&redis, "(nil)", "GET %s", key);
            else
                cr_assert_eq(atoi(redis_say(&redis, "GET %s", key)), last, "%s", key);
            keys += last >= 0;
        }
        int moved = -1;
        for (int i = 0; i < count; i++)
            if (i % 2 == p && i / 2 % 5 == 3) moved = i;
        if (moved < 0) continue;
        cr_assert_eq(atoi(redis_say(&redis, "GET m%d:%d", p, moved / 10 % 2)), moved);
        keys++;
    }
    cr_assert_eq(atoi(redis_say(&redis, "DBSIZE")), keys + 2, "beside the marks only what was published");
    cr_assert_eq(rig_released(&rig, 0) + rig_released(&rig, 1), count);
    cr_assert_eq(rig_count(&rig, M_sink_mark_mismatch), 0);
}

/* -- Redis refuses ----------------------------------------------------------------------------- */

Test(outage, full_redis_holds_the_line_in_order_and_lets_it_go_again) {
    mixed(0, 100);
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    redis_is(&redis, "OK", "CONFIG SET maxmemory 1");
    mixed(100, 300);
    RIG_UNTIL(&rig, 2000, rig_blocked_on(&rig, "OOM"));
    rig_for(&rig, 500);
    cr_assert(rig_blocked_on(&rig, "maxmemory"));
    cr_assert_eq(rig.ring.number_released, 100, "deletes behind a refused insert do not overtake it");
    cr_assert_lt(rig_count(&rig, M_sink_redis_error_reply), 1000, "tried again with backoff");
    redis_is(&redis, "OK", "CONFIG SET maxmemory 0");
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    expect_mixed(400);
    cr_assert_eq(rig_state(&rig), STATE_RUNNING);
    cr_assert_eq(rig_count(&rig, M_sink_redis_connect), 1, "the connection was good all the time");
}

Test(outage, demoted_master_is_left_and_the_new_one_gets_everything) {
    mixed(0, 100);
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    redis_is(&redis, "OK", "REPLICAOF 127.0.0.1 1");
    mixed(100, 100);
    RIG_UNTIL(&rig, 2000, strstr(rig_reason(&rig), "replica") != NULL);
    rig_for(&rig, 200);
    cr_assert_eq(rig.ring.number_released, 100);
    redis_is(&redis, "OK", "REPLICAOF NO ONE");
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    expect_mixed(200);
}

Test(outage, missing_replicas_hold_the_line) {
    mixed(0, 10);
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    redis_is(&redis, "OK", "CONFIG SET min-replicas-to-write 1");
    mixed(10, 100);
    RIG_UNTIL(&rig, 2000, rig_blocked_on(&rig, "NOREPLICAS"));
    redis_is(&redis, "OK", "CONFIG SET min-replicas-to-write 0");
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    expect_mixed(110);
}

Test(outage, permission_taken_away_later_blocks_and_does_not_stop_for_good) {
    mixed(0, 10);
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    redis_words(&redis, "ACL SETUSER default -mset");
    redisContext *admin = redisConnectUnix(redis.path);
    mixed(10, 100);
    RIG_UNTIL(&rig, 2000, rig_blocked_on(&rig, "NOPERM"));
    rig_for(&rig, 300);
    cr_assert_neq(rig.last, STEP_FAILED);
    redis_words(&redis, "ACL SETUSER default +mset");
    RIG_UNTIL(&rig, 10000, rig_done(&rig));
    expect_mixed(110);
    redisFree(admin);
}

/* A stream in which the next answer of one kind is another: Redis, or what is before it, says what it likes. */
static struct {
    struct stream_port real;
    const char *instead_of, *error; /* error NULL: nothing, or done */
    bool raw;                       /* it is no error, but a whole answer */
} lie;

static ssize_t lie_read(void *context, void *out, size_t len, struct err *err) {
    enum { ROOM = 512 };
    ssize_t n = lie.real.read(context, out, len - ROOM, err);
    char *at = n > 0 && lie.error != NULL ? memmem(out, (size_t)n, lie.instead_of, strlen(lie.instead_of)) : NULL;
    if (at == NULL) return n;
    char line[ROOM];
    size_t was = strlen(lie.instead_of),
           is = (size_t)snprintf(line, sizeof line, lie.raw ? "%s\r\n" : "-%s\r\n", lie.error);
    memmove(at + is, at + was, (size_t)n - (size_t)(at - (char *)out) - was);
    memcpy(at, line, is);
    lie.error = NULL;
    return n + (ssize_t)is - (ssize_t)was;
}

static void lie_install(void) {
    lie.real = rig.sink.line.session.stream;
    rig.sink.line.session.stream.read = lie_read;
    RIG_UNTIL(&rig, 5000, rig_state(&rig) == STATE_RUNNING);
}

/* What docs/redis.md says of each: WAIT keeps the connection and tries again, RECONNECT makes another one, STOP does
 * what WAIT does once something was released, and gives up before. */
static const struct {
    const char *error;
    enum { WAIT, RECONNECT, STOP } action;
} contract[] = {
    {"OOM command not allowed when used memory > 'maxmemory'.", WAIT},
    {"LOADING Redis is loading the dataset in memory", WAIT},
    {"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", WAIT},
    {"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", WAIT},
    {"UNKILLABLE Sorry the script already executed write commands against the dataset.", WAIT},
    {"MISCONF Errors writing to the AOF file: No space left on device", WAIT},
    {"NOREPLICAS Not enough good replicas to write.", WAIT},
    {"EXECABORT Transaction discarded because of previous errors.", WAIT},
    {"ERR something nobody has seen", WAIT},
    {"READONLY You can't write against a read only replica.", RECONNECT},
    {"ERR max number of clients reached", RECONNECT},
    {"NOAUTH Authentication required.", STOP},
    {"WRONGPASS invalid username-password pair or user is disabled.", STOP},
    {"NOPERM this user has no permissions to run the 'set' command", STOP},
    {"EXECABORT Transaction discarded because of: NOPERM this user has no permissions", STOP},
    {"DENIED Redis is running in protected mode because protected mode is enabled", STOP},
    {"NOPROTO unsupported protocol version", STOP},
    {"WRONGTYPE Operation against a key holding the wrong kind of value", STOP},
    {"ERR unknown command 'MSET', with args beginning with: 'k'", STOP},
    {"ERR Protocol error: invalid bulk length", STOP},
    {"MOVED 3999 127.0.0.1:6381", STOP},
    {"ASK 3999 127.0.0.1:6381", STOP},
    {"TRYAGAIN Multiple keys request during rehashing of slot", STOP},
    {"CLUSTERDOWN The cluster is down", STOP},
    {"CROSSSLOT Keys in request don't hash to the same slot", STOP},
};
enum { CONTRACT_ROWS = sizeof contract / sizeof contract[0] };

Test(outage, every_error_in_any_answer_has_its_action_and_skips_nothing) {
    static const char *const answers[] = {"+OK\r\n", ":1\r\n", "+QUEUED\r\n"};
    mixed(0, 20);
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    lie_install();
    int n = 20;
    for (int i = 0; i < 3 * CONTRACT_ROWS; i++) {
        uint64_t connects = rig_count(&rig, M_sink_redis_connect), errors = rig_count(&rig, M_sink_redis_error_reply);
        const char *error = contract[i / 3].error;
        bool reconnect = contract[i / 3].action == RECONNECT;
        lie.instead_of = answers[i % 3];
        lie.error = error;
        mixed(n, 20);
        RIG_UNTIL(&rig, 5000, rig_state(&rig) != STATE_RUNNING);
        cr_assert_eq(rig_state(&rig), reconnect ? STATE_CONNECTING : STATE_BLOCKED, "%s", error);
        cr_assert_lt(rig.ring.number_released, (uint64_t)n + 10, "%s: the batch at fault is the first", error);
        RIG_UNTIL(&rig, 5000, rig_done(&rig));
        n += 20;
        expect_mixed(n);
        cr_assert_eq(rig_count(&rig, M_sink_redis_connect), connects + reconnect, "%s", error);
        cr_assert_eq(rig_count(&rig, M_sink_redis_error_reply), errors + 1, "%s", error);
        RIG_UNTIL(&rig, 5000, rig_state(&rig) == STATE_RUNNING);
    }
}

Test(outage, answers_that_fit_no_command_make_a_new_connection) {
    static const char *const instead[][2] = {{"+OK\r\n", ":1"},          {"+OK\r\n", "+QUEUED"}, {"+OK\r\n", "$-1"},
                                             {"+OK\r\n", "nonsense"},    {"+QUEUED\r\n", "+OK"}, {"+QUEUED\r\n", "*-1"},
                                             {"+QUEUED\r\n", "$2\r\nOK"}};
    int n = 0;
    lie_install();
    for (size_t i = 0; i < sizeof instead / sizeof instead[0]; i++) {
        uint64_t connects = rig_count(&rig, M_sink_redis_connect);
        lie.instead_of = instead[i][0];
        lie.error = instead[i][1];
        lie.raw = true;
        mixed(n, 20);
        n += 20;
        RIG_UNTIL(&rig, 5000, rig_done(&rig));
        expect_mixed(n);
        cr_assert_eq(rig_count(&rig, M_sink_redis_connect), connects + 1, "%s", instead[i][1]);
    }
    cr_assert_eq(rig_count(&rig, M_sink_redis_error_reply), 0);
}

Test(outage, errors_of_the_configuration_end_a_first_start_and_others_do_not) {
    for (int i = 0; i < CONTRACT_ROWS; i++) {
        rig_crash(&rig);
        ring_producer_detach(&rig.producer);
        redis_is(&redis, "OK", "FLUSHALL");
        rig_init(&rig, &redis, 2);
        lie_install();
        lie.instead_of = "+OK\r\n";
        lie.error = contract[i].error;
        mixed(0, 20);
        RIG_UNTIL(&rig, 5000, rig_done(&rig) || rig.last == STEP_FAILED);
        cr_assert_eq(rig.last == STEP_FAILED, contract[i].action == STOP, "%s", contract[i].error);
        cr_assert_eq(rig.ring.number_released, contract[i].action == STOP ? 0 : 20, "%s", contract[i].error);
    }
}

/* -- Redis vanishes ---------------------------------------------------------------------------- */

Test(outage, killed_redis_that_keeps_its_word_loses_nothing) {
    int n = 0;
    for (int round = 0; round < 6; round++) {
        mixed(n, 400);
        n += 400;
        uint64_t target = rig.ring.number_released + 50 + (uint64_t)round * 40;
        RIG_UNTIL(&rig, 5000, rig.ring.number_released >= target);
        redis_kill(&redis);
        RIG_UNTIL(&rig, 2000, rig_state(&rig) == STATE_CONNECTING);
        redis_spawn(&redis);
        RIG_UNTIL(&rig, 10000, rig_done(&rig));
        redis_connect(&redis);
    }
    expect_mixed(n);
}

Test(outage, connection_killed_by_an_operator_is_made_anew_and_is_no_namesake) {
    int n = 0;
    for (int round = 0; round < 5; round++) {
        mixed(n, 400);
        n += 400;
        uint64_t target = rig.ring.number_released + 100;
        RIG_UNTIL(&rig, 5000, rig.ring.number_released >= target);
        redis_say(&redis, "CLIENT KILL TYPE normal SKIPME yes");
        RIG_UNTIL(&rig, 5000, rig_done(&rig));
    }
    expect_mixed(n);
    cr_assert_eq(rig_count(&rig, M_sink_redis_connect), 6);
    cr_assert_gt(rig_count(&rig, M_sink_record_resent), 0);
}

/* A stream that ends after so many bytes in one direction: every place where a connection can break. */
static struct {
    struct stream_port real;
    long read_left, write_left; /* -1: no limit */
} cut = {.read_left = -1, .write_left = -1};

static size_t cut_limit(long left, size_t len) { return left >= 0 && (size_t)left < len ? (size_t)left : len; }

static ssize_t cut_read(void *context, void *out, size_t len, struct err *err) {
    if (cut.read_left == 0) return err_set(err, ECONNRESET, "cut");
    ssize_t n = cut.real.read(context, out, cut_limit(cut.read_left, len), err);
    if (n > 0 && cut.read_left > 0) cut.read_left -= n;
    return n;
}

static ssize_t cut_write(void *context, const void *bytes, size_t len, struct err *err) {
    if (cut.write_left == 0) return err_set(err, ECONNRESET, "cut");
    ssize_t n = cut.real.write(context, bytes, cut_limit(cut.write_left, len), err);
    if (n > 0 && cut.write_left > 0) cut.write_left -= n;
    return n;
}

static void cut_close(void *context) {
    cut.real.close(context);
    cut.read_left = cut.write_left = -1;
}

static void cut_install(void) {
    cut.real = rig.sink.line.session.stream;
    rig.sink.line.session.stream.read = cut_read;
    rig.sink.line.session.stream.write = cut_write;
    rig.sink.line.session.stream.close = cut_close;
    RIG_UNTIL(&rig, 5000, rig_state(&rig) == STATE_RUNNING);
}

/* One batch after the other breaks off behind 0, 1, 2 … CUTS - 1 bytes of one direction. */
static void cut_after_each_byte(long *left, int records) {
    enum { CUTS = 2048 };
    rig_crash(&rig);
    rig_hurry(&rig, 16);
    rig.config.redis.batch = rig.config.redis.in_flight = (uint32_t)records;
    rig_attach(&rig);
    cut_install();
    int n = 0;
    for (long at = 0; at < CUTS; at++) {
        uint64_t connects = rig_count(&rig, M_sink_redis_connect);
        *left = at;
        mixed(n, records);
        n += records;
        RIG_UNTIL(&rig, 5000, rig_done(&rig));
        cr_assert_eq(rig_count(&rig, M_sink_redis_connect), connects + 1, "after %ld bytes", at);
        if (at % 64 == 63) expect_mixed(n);
    }
    cr_assert_eq(rig_count(&rig, M_sink_write_lost) + rig_count(&rig, M_sink_loss_found), 0);
}

Test(outage, replies_cut_after_every_byte_lose_nothing, .timeout = 600) { cut_after_each_byte(&cut.read_left, 220); }

Test(outage, requests_cut_after_every_byte_lose_nothing, .timeout = 600) { cut_after_each_byte(&cut.write_left, 50); }

Test(outage, answers_that_come_byte_by_byte_are_understood) {
    cut_install();
    mixed(0, 100);
    while (!rig_done(&rig)) {
        cut.read_left = cut.read_left <= 0 ? 1 : cut.read_left; /* the next read takes one byte … */
        enum step step = sink_step(&rig.sink);
        cut.read_left = -1; /* … and the connection goes on */
        cr_assert_neq(step, STEP_FAILED);
    }
    cr_assert_eq(rig_count(&rig, M_sink_redis_connect), 1);
    expect_mixed(100);
}

/* -- Redis stands still ------------------------------------------------------------------------ */

/* What was executed, in the server's own order, as MONITOR tells it: the values of SET k. Returns how many. */
static int monitored(redisContext *monitor, int *values, int max) {
    int n = 0;
    struct timeval quiet = {.tv_usec = 300000};
    redisSetTimeout(monitor, quiet);
    for (;;) {
        redisReply *reply = NULL;
        if (redisGetReply(monitor, (void **)&reply) != REDIS_OK) return n;
        const char *at = strstr(reply->str, "\"SET\" \"k\" \"");
        if (at != NULL && n < max) values[n++] = atoi(at + 11);
        freeReplyObject(reply);
    }
}

/* A network, or a proxy, that does not pass on the end of a connection (the kernel's own time-out included): what was
 * sent still arrives, whenever it can. */
static void close_unnoticed(void *context) { ((struct stream_socket *)context)->fd = -1; }

/* The old connection is full of commands that the stopped server has not read. When it wakes, the new connection is
 * there too, and without the end of the old one on the server both would be served in turns, a piece of each. TCP,
 * because its buffers are large: the old commands take longer than a greeting. */
Test(outage, commands_buffered_in_a_stopped_redis_never_come_after_newer_ones) {
    enum { BUFFERED = 8000, ALL = 8400, SEEN_MAX = 40000 };
    static int seen[SEEN_MAX];
    static char value[512];
    rig.config.redis.scheme = REDIS_TCP;
    rig.config.redis.port = redis_listen_tcp(&redis);
    snprintf(rig.config.redis.host, sizeof rig.config.redis.host, "127.0.0.1");
    rig.config.redis.batch = 1; /* each record its own SET */
    rig.config.redis.in_flight = BUFFERED;
    rig.config.redis.response_timeout_ms = rig.config.redis.connect_timeout_ms = 300;
    rig_ring(&rig, 8 << 20);
    rig.sink.line.session.stream.close = close_unnoticed;
    rig.socket.response_timeout_ms = 60000;
    RIG_UNTIL(&rig, 5000, rig_state(&rig) == STATE_RUNNING);
    redisContext *monitor = redisConnectUnix(redis.path);
    freeReplyObject(redisCommand(monitor, "MONITOR"));
    kill(redis.pid, SIGSTOP);
    for (int n = 0; n < ALL; n++) {
        snprintf(value, sizeof value, "%-300d", n);
        rig_add(&rig, 0, "k", value);
        if (n == BUFFERED - 1) {
            ring_publish(&rig.producer);
            RIG_UNTIL(&rig, 3000, rig_state(&rig) == STATE_CONNECTING);
            cr_assert_gt(rig_count(&rig, M_sink_byte_sent), 1 << 20, "the buffers are large");
            rig_for(&rig, 500); /* a few greetings pile up, too */
        }
    }
    rig.config.redis.connect_timeout_ms = rig.config.redis.response_timeout_ms = 5000;
    kill(redis.pid, SIGCONT);
    rig_run(&rig);
    int count = monitored(monitor, seen, SEEN_MAX), back = 0;
    for (int i = 1; i < count; i++) {
        if (seen[i] < seen[i - 1]) {
            back++;
            cr_assert_eq(seen[i], 0, "sent again from the oldest unreleased record");
        } else {
            cr_assert_eq(seen[i], seen[i - 1] + 1);
        }
    }
    cr_assert_gt(count, ALL + 100, "the old connection's commands were executed, too");
    cr_assert_eq(back, 1, "%d times back in order, of %d", back, count);
    cr_assert_eq(seen[count - 1], ALL - 1);
    redisFree(monitor);
}

Test(outage, redis_that_wakes_up_in_time_is_no_outage) {
    mixed(0, 10);
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    kill(redis.pid, SIGSTOP);
    mixed(10, 300);
    rig_for(&rig, 500);
    kill(redis.pid, SIGCONT);
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    expect_mixed(310);
    cr_assert_eq(rig_count(&rig, M_sink_redis_connect), 1);
}

/* The socket takes all that is sent to a stopped server for a long time: that is no sign of life. */
Test(outage, redis_that_stops_under_steady_load_is_noticed_after_the_response_timeout) {
    enum { PACE_MS = 20, MOST = 200 };
    rig.config.redis.in_flight = 2000;
    rig.config.redis.response_timeout_ms = 300;
    rig_ring(&rig, 1 << 20);
    mixed(0, 10);
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    kill(redis.pid, SIGSTOP);
    int n = 10;
    for (; n < MOST && rig_state(&rig) == STATE_RUNNING; n++) {
        mixed(n, 1);
        rig_for(&rig, PACE_MS);
    }
    cr_assert_lt(n, 10 + 4 * 300 / PACE_MS, "after %d records", n - 10);
    rig.config.redis.response_timeout_ms = 5000;
    kill(redis.pid, SIGCONT);
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    expect_mixed(n);
}

static struct stream_port fast;
static uint64_t written_ns;

/* A slow line: 2 KiB at a time, twenty times a second. */
static ssize_t slow_write(void *context, const void *bytes, size_t len, struct err *err) {
    uint64_t now = clock_ns(&clock_real);
    if (len > 2048 && now - written_ns < 50 * NS_PER_MS) return 0;
    written_ns = now;
    return fast.write(context, bytes, len < 2048 ? len : 2048, err);
}

Test(outage, a_large_record_on_a_slow_line_is_no_silence) {
    static char value[100000];
    memset(value, 'v', sizeof value - 1);
    rig.config.redis.response_timeout_ms = 1000; /* the record takes two and a half seconds */
    RIG_UNTIL(&rig, 5000, rig_state(&rig) == STATE_RUNNING);
    fast = rig.sink.line.session.stream;
    rig.sink.line.session.stream.write = slow_write;
    rig_add(&rig, 0, "large", value);
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 10000, rig_done(&rig));
    cr_assert_eq(rig_count(&rig, M_sink_redis_connect), 1);
    cr_assert_eq(rig_count(&rig, M_sink_redis_connect_fail), 0);
}

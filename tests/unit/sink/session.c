/* The greeting: who is let in, what is refused, and how the sink says so. */
#include "tests/unit/sink/rig.h"

static struct rig_redis redis;
static struct rig rig;

static void start(void) { redis_start(&redis, NULL); }

static void stop(void) { redis_stop(&redis); }

TestSuite(session, .init = start, .fini = stop, .timeout = 60);

/* What docs/redis.md gives out as the minimal rule set, with this test's password and keys, in one line. */
static const char *minimal(void) {
    static char rules[512];
    static char page[65536];
    FILE *f = fopen("docs/redis.md", "r");
    cr_assert_not_null(f, "run the tests from the top folder");
    page[fread(page, 1, sizeof page - 1, f)] = 0;
    fclose(f);
    char *from = strstr(page, "ACL SETUSER millrace on >PASSWORD "), *save = NULL;
    cr_assert_not_null(from, "the page has lost the rule set");
    *strstr(from, "```") = 0;
    rules[0] = 0;
    for (char *w = strtok_r(from, " \n", &save); w != NULL; w = strtok_r(NULL, " \n", &save)) {
        size_t n = strlen(rules);
        w = strcmp(w, ">PASSWORD") == 0 ? ">pw" : strcmp(w, "~card:*") == 0 ? "~k*" : w;
        snprintf(rules + n, sizeof rules - n, "%s%s", n > 0 ? " " : "", w);
    }
    return rules;
}

/* The rules of the minimal set, but INFO and CONFIG GET, which it can do without, each as what takes it away and what
 * is said then. Returns how many. */
static int taken_away(char take[32][64], char said[32][32]) {
    char rules[512], *save = NULL;
    int n = 0;
    snprintf(rules, sizeof rules, "%s", minimal());
    for (char *w = strtok_r(rules, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save)) {
        if (*w != '+' || strcmp(w, "+info") == 0 || strcmp(w, "+config|get") == 0) continue;
        snprintf(take[n], sizeof take[0], "-%s", w + 1);
        snprintf(said[n++], sizeof said[0], "'%.28s'", w + 1);
    }
    snprintf(take[n], sizeof take[0], "resetkeys ~k*");
    snprintf(said[n++], sizeof said[0], "NOPERM");
    snprintf(take[n], sizeof take[0], "resetkeys ~millrace:mark:*");
    snprintf(said[n++], sizeof said[0], "NOPERM");
    cr_assert_gt(n, 11);
    return n;
}

static void as_user(const char *more) {
    char rules[600];
    snprintf(rules, sizeof rules, "%s %s", minimal(), more);
    redis_words(&redis, rules);
    snprintf(rig.config.redis.user, sizeof rig.config.redis.user, "millrace");
    snprintf(rig.config.redis.password, sizeof rig.config.redis.password, "pw");
}

static void traffic(void) {
    int64_t later = clock_wall_ms(&clock_real) + 100000;
    rig_add(&rig, 0, "k1", "v");
    rig_add(&rig, 0, "k2", "v");
    rig_put(&rig, .op = RECORD_UPDATE, .partition = 0, .key = "k3", .old_key = "k2", .value = "v");
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "k4", .value = "v", .expire_at_ms = later);
    rig_put(&rig, .op = RECORD_DELETE, .partition = 0, .key = "k1");
    ring_publish(&rig.producer);
}

static void expect_failed(const char *text) {
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 5000, rig.last == STEP_FAILED);
    cr_assert_eq(rig_state(&rig), STATE_FAILED);
    cr_assert(strstr(rig_reason(&rig), text) != NULL, "%s", rig_reason(&rig));
    cr_assert_eq(rig.ring.number_released, 0);
}

Test(session, names_itself_and_ends_older_connections_of_its_name_before_any_data) {
    redisContext *old = redisConnectUnix(redis.path), *other = redisConnectUnix(redis.path);
    freeReplyObject(redisCommand(old, "CLIENT SETNAME millrace:g:i1:0/1"));
    freeReplyObject(redisCommand(other, "CLIENT SETNAME millrace:g:i1:0/1x"));
    rig_init(&rig, &redis, 1);
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    cr_assert(strstr(redis_say(&redis, "CLIENT LIST"), "name=millrace:g:i1:0/1 ") != NULL);
    cr_assert_null(redisCommand(old, "PING"), "the older connection is gone");
    redisReply *reply = redisCommand(other, "PING");
    cr_assert_not_null(reply, "a name that only begins alike is somebody else");
    cr_assert_eq(rig_count(&rig, M_sink_redis_connection_killed), 1);
    freeReplyObject(reply);
    redisFree(old);
    redisFree(other);
}

/* With another number of lanes, what is ours now was written by a connection of another lane: it may still hold
 * commands that a stalled Redis has not executed yet. */
Test(session, ends_connections_of_a_time_with_another_number_of_lanes_and_no_lane_beside_it) {
    static const char *const end[] = {"0/2", "3/4", "0", "7", "0/3"};
    static const char *const stay[] = {"0/2:x", "1/1", "x/2", "0/", "/2", "0/99999999999"};
    redisContext *gone[5], *here[6];
    for (int i = 0; i < 5; i++) {
        gone[i] = redisConnectUnix(redis.path);
        freeReplyObject(redisCommand(gone[i], "CLIENT SETNAME millrace:g:i1:%s", end[i]));
    }
    for (int i = 0; i < 6; i++) {
        here[i] = redisConnectUnix(redis.path);
        freeReplyObject(redisCommand(here[i], "CLIENT SETNAME millrace:g:i1:%s", stay[i]));
    }
    rig_init(&rig, &redis, 1);
    RIG_UNTIL(&rig, 5000, rig_state(&rig) == STATE_RUNNING);
    for (int i = 0; i < 5; i++) {
        cr_assert_null(redisCommand(gone[i], "PING"), "%s", end[i]);
        redisFree(gone[i]);
    }
    for (int i = 0; i < 6; i++) {
        redisReply *reply = redisCommand(here[i], "PING");
        cr_assert_not_null(reply, "%s", stay[i]);
        freeReplyObject(reply);
        redisFree(here[i]);
    }
    cr_assert_eq(rig_count(&rig, M_sink_redis_connection_killed), 5);
}

Test(session, ends_more_namesakes_than_fit_one_look) {
    redisContext *old[100];
    for (int i = 0; i < 100; i++) {
        old[i] = redisConnectUnix(redis.path);
        freeReplyObject(redisCommand(old[i], "CLIENT SETNAME millrace:g:i1:0/1"));
    }
    rig_init(&rig, &redis, 1);
    RIG_UNTIL(&rig, 5000, rig_state(&rig) == STATE_RUNNING);
    cr_assert_eq(rig_count(&rig, M_sink_redis_connection_killed), 100);
    for (int i = 0; i < 100; i++) {
        cr_assert_null(redisCommand(old[i], "PING"));
        redisFree(old[i]);
    }
}

Test(session, two_instances_of_one_name_end_in_a_clear_message_for_one_of_them) {
    static struct rig rival;
    rig_init(&rig, &redis, 1);
    rig_init(&rival, &redis, 1);
    uint64_t end = clock_ns(&clock_real) + 20 * NS_PER_S;
    while (rig_step(&rig) != STEP_FAILED && rig_step(&rival) != STEP_FAILED) cr_assert_lt(clock_ns(&clock_real), end);
    struct rig *loser = rig.last == STEP_FAILED ? &rig : &rival, *winner = loser == &rig ? &rival : &rig;
    cr_assert(strstr(rig_reason(loser), "another process uses the connection name millrace:g:i1:0/1") != NULL, "%s",
              rig_reason(loser));
    rig_add(winner, 0, "k", "v");
    rig_run(winner);
}

Test(session, minimal_rule_set_of_the_documentation_is_enough) {
    rig_init(&rig, &redis, 1);
    as_user("");
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    redis_is(&redis, "v", "GET k3");
    cr_assert_eq(rig_count(&rig, M_sink_redis_error_reply), 0);
}

Test(session, every_rule_of_the_minimal_set_is_needed) {
    static char take[32][64], said[32][32];
    int count = taken_away(take, said);
    for (int i = 0; i < count; i++) {
        rig_init(&rig, &redis, 1);
        rig.config.redis.db = 1;                          /* so that SELECT is needed */
        redisContext *old = redisConnectUnix(redis.path); /* so that there is one to end */
        freeReplyObject(redisCommand(old, "CLIENT SETNAME millrace:g:i1:0/1"));
        as_user(take[i]);
        traffic();
        RIG_UNTIL(&rig, 5000, rig.last == STEP_FAILED);
        cr_assert(strstr(rig_reason(&rig), said[i]) != NULL, "%s: %s", take[i], rig_reason(&rig));
        cr_assert(strstr(rig_reason(&rig), "docs/redis.md") != NULL, "%s", rig_reason(&rig));
        redis_is(&redis, "1", "ACL DELUSER millrace");
        redis_is(&redis, "OK", "FLUSHALL");
        redisFree(old);
        rig_crash(&rig);
        ring_producer_detach(&rig.producer);
    }
}

/* The same while it works: the lane waits and says what is missing, and goes on when it is given back. */
Test(session, rule_taken_away_while_running_blocks_and_goes_on_when_it_is_back) {
    static char take[32][64], said[32][32];
    int count = taken_away(take, said);
    rig_init(&rig, &redis, 1);
    rig.config.redis.db = 1;
    as_user("");
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    for (int i = 0; i < count; i++) {
        as_user(take[i]);
        redis_say(&redis, "CLIENT KILL USER millrace");
        redisContext *old = redisConnectUnix(redis.path);
        freeReplyObject(redisCommand(old, "CLIENT SETNAME millrace:g:i1:0/1"));
        traffic();
        RIG_UNTIL(&rig, 5000, rig_blocked_on(&rig, said[i]));
        cr_assert_neq(rig.last, STEP_FAILED);
        as_user("");
        RIG_UNTIL(&rig, 8000, rig_done(&rig));
        redisFree(old);
    }
    cr_assert_eq(rig_count(&rig, M_sink_mark_mismatch), 0);
}

Test(session, user_disabled_while_running_blocks_without_a_storm_and_recovers) {
    rig_init(&rig, &redis, 1);
    as_user("");
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    redis_is(&redis, "OK", "ACL SETUSER millrace off");
    redis_say(&redis, "CLIENT KILL USER millrace");
    traffic();
    RIG_UNTIL(&rig, 2000, rig_blocked_on(&rig, "WRONGPASS"));
    rig_for(&rig, 1500);
    cr_assert_lt(rig_count(&rig, M_sink_redis_connect_fail), 12);
    cr_assert(rig_blocked_on(&rig, "disabled"), "%s", rig_reason(&rig));
    redis_is(&redis, "OK", "ACL SETUSER millrace on");
    RIG_UNTIL(&rig, 8000, rig_done(&rig));
    cr_assert_eq(rig_state(&rig), STATE_RUNNING);
}

/* The two that docs/redis.md names besides the minimal rules. */
Test(session, hashes_need_two_rights_more) {
    int64_t later = clock_wall_ms(&clock_real) + 100000;
    rig_init(&rig, &redis, 1);
    as_user("");
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    rig_hash(&rig, 0, "khash", "a=1 b=2", .expire_at_ms = later);
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 5000, rig_blocked_on(&rig, "'hset'"));
    as_user("+hset");
    RIG_UNTIL(&rig, 8000, rig_blocked_on(&rig, "'pexpireat'"));
    redis_is(&redis, "0", "EXISTS khash");
    as_user("+hset +pexpireat");
    RIG_UNTIL(&rig, 8000, rig_done(&rig));
    redis_is(&redis, "2", "HLEN khash");
}

Test(session, refused_client_commands_are_accepted_only_with_unsafe_reconnect) {
    rig_init(&rig, &redis, 1);
    as_user("-client|kill -client|list");
    rig.config.redis.unsafe_reconnect = 1;
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    rig_crash(&rig);
    ring_producer_detach(&rig.producer);
    rig_init(&rig, &redis, 1);
    as_user("-client|setname");
    expect_failed("redis.unsafe_reconnect");
}

Test(session, refused_info_and_config_leave_policy_unknown_and_the_lane_running) {
    rig_init(&rig, &redis, 1);
    as_user("-info -config|get");
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    cr_assert(rig.sink.line.session.warned_policy && rig.sink.line.session.warned_info);
}

Test(session, policy_is_read_from_config_when_info_is_refused) {
    redis_is(&redis, "OK", "CONFIG SET maxmemory-policy volatile-ttl");
    rig_init(&rig, &redis, 1);
    as_user("-info");
    expect_failed("maxmemory-policy is volatile-ttl");
}

Test(session, wrong_password_at_the_first_start_stops_without_naming_it) {
    redis_is(&redis, "OK", "CONFIG SET requirepass right");
    rig_init(&rig, &redis, 1);
    snprintf(rig.config.redis.password, sizeof rig.config.redis.password, "wr0ng-s3cret");
    expect_failed("WRONGPASS");
    cr_assert(strstr(rig_reason(&rig), "s3cret") == NULL);
}

Test(session, missing_password_at_the_first_start_stops_and_says_where_to_set_it) {
    redis_is(&redis, "OK", "CONFIG SET requirepass right");
    rig_init(&rig, &redis, 1);
    expect_failed("NOAUTH");
    cr_assert(strstr(rig_reason(&rig), "redis.password_file") != NULL);
    cr_assert(strstr(rig_reason(&rig), "unsafe_reconnect") == NULL, "that would not help: %s", rig_reason(&rig));
}

Test(session, password_of_the_default_user_lets_in) {
    redis_is(&redis, "OK", "CONFIG SET requirepass right");
    rig_init(&rig, &redis, 1);
    snprintf(rig.config.redis.password, sizeof rig.config.redis.password, "right");
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
}

/* New rings, as after a reset, and a new process; the ledger still knows that this configuration has worked. */
Test(session, refusal_after_a_ring_reset_blocks_and_does_not_stop_for_good) {
    rig_init(&rig, &redis, 1);
    twin_store(&rig.ledger->slot[0].released, 1, 0);
    redis_is(&redis, "OK", "CONFIG SET requirepass right");
    rig_ring(&rig, 1 << 20);
    RIG_UNTIL(&rig, 2000, rig_blocked_on(&rig, "NOAUTH"));
    rig_for(&rig, 100);
    cr_assert_neq(rig.last, STEP_FAILED);
}

Test(session, password_without_need_stops_at_the_first_start) {
    rig_init(&rig, &redis, 1);
    snprintf(rig.config.redis.password, sizeof rig.config.redis.password, "pw");
    expect_failed("a password is configured and Redis has none");
}

Test(session, password_changed_later_blocks_without_a_storm_and_recovers) {
    rig_init(&rig, &redis, 1);
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    redis_is(&redis, "OK", "CONFIG SET requirepass right");
    redis_say(&redis, "CLIENT KILL TYPE normal SKIPME yes");
    RIG_UNTIL(&rig, 2000, rig_blocked_on(&rig, "NOAUTH"));
    rig_for(&rig, 1000);
    cr_assert_lt(rig_count(&rig, M_sink_redis_connect_fail), 12);
    cr_assert_neq(rig.last, STEP_FAILED);
    redis_is(&redis, "OK", "CONFIG SET requirepass %s", "");
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    cr_assert_eq(rig_state(&rig), STATE_RUNNING);
}

Test(session, evicting_policy_is_refused_at_first_and_at_every_connect_unless_allowed) {
    redis_is(&redis, "OK", "CONFIG SET maxmemory-policy allkeys-lru");
    rig_init(&rig, &redis, 1);
    expect_failed("maxmemory-policy is allkeys-lru");
    rig_crash(&rig);
    ring_producer_detach(&rig.producer);
    rig_init(&rig, &redis, 1);
    rig.config.redis.allow_eviction = 1;
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    rig.config.redis.allow_eviction = 0;
    redis_say(&redis, "CLIENT KILL TYPE normal SKIPME yes");
    RIG_UNTIL(&rig, 2000, rig_blocked_on(&rig, "maxmemory-policy is allkeys-lru"));
    redis_is(&redis, "OK", "CONFIG SET maxmemory-policy noeviction");
    traffic();
    RIG_UNTIL(&rig, 10000, rig_done(&rig));
}

Test(session, database_of_the_url_is_selected) {
    rig_init(&rig, &redis, 1);
    rig.config.redis.db = 3;
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    redis_is(&redis, "0", "DBSIZE");
    redis_is(&redis, "OK", "SELECT 3");
    redis_is(&redis, "v", "GET k3");
}

Test(session, database_that_does_not_exist_stops_at_the_first_start) {
    rig_init(&rig, &redis, 1);
    rig.config.redis.db = 99;
    expect_failed("the database of redis.url does not exist");
}

Test(session, replica_is_waited_for_until_it_is_a_master) {
    redis_is(&redis, "OK", "REPLICAOF 127.0.0.1 1");
    rig_init(&rig, &redis, 1);
    traffic();
    RIG_UNTIL(&rig, 2000, strstr(rig_reason(&rig), "this server is a replica") != NULL);
    rig_for(&rig, 200);
    cr_assert_eq(rig.ring.number_released, 0);
    redis_is(&redis, "OK", "REPLICAOF NO ONE");
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
}

Test(session, redis_that_is_not_there_is_a_state_and_not_a_failure) {
    redis_kill(&redis);
    rig_init(&rig, &redis, 1);
    traffic();
    rig_for(&rig, 300);
    cr_assert_eq(rig_state(&rig), STATE_CONNECTING);
    cr_assert(strstr(rig_reason(&rig), "redis.sock: No such file") != NULL, "%s", rig_reason(&rig));
    cr_assert_lt(rig_count(&rig, M_sink_redis_connect_fail), 12);
    redis_spawn(&redis);
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    cr_assert_eq(rig_state(&rig), STATE_RUNNING);
}

/* `localhost` has an IPv6 address on most machines, and this server only an IPv4 one. */
Test(session, every_address_of_a_host_name_is_tried) {
    uint16_t port = redis_listen_tcp(&redis);
    rig_init(&rig, &redis, 1);
    rig_crash(&rig);
    rig.config.redis.scheme = REDIS_TCP;
    rig.config.redis.port = port;
    snprintf(rig.config.redis.host, sizeof rig.config.redis.host, "localhost");
    rig_attach(&rig);
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    redis_is(&redis, "v", "GET k3");
}

Test(session, host_name_that_does_not_resolve_is_said_and_tried_again) {
    rig_init(&rig, &redis, 1);
    rig_crash(&rig);
    rig.config.redis.scheme = REDIS_TCP;
    rig.config.redis.port = 1;
    snprintf(rig.config.redis.host, sizeof rig.config.redis.host, "no-such-host.invalid");
    rig_attach(&rig);
    RIG_UNTIL(&rig, 20000, rig_count(&rig, M_sink_redis_connect_fail) > 0);
    cr_assert_eq(rig_state(&rig), STATE_CONNECTING);
    cr_assert(strstr(rig_reason(&rig), "cannot resolve no-such-host.invalid") != NULL, "%s", rig_reason(&rig));
}

Test(session, server_that_accepts_and_says_nothing_is_given_up_after_connect_timeout) {
    kill(redis.pid, SIGSTOP);
    rig_init(&rig, &redis, 1);
    rig.config.redis.connect_timeout_ms = 200;
    RIG_UNTIL(&rig, 3000, strstr(rig_reason(&rig), "Redis did not answer the greeting within 200 ms") != NULL);
    kill(redis.pid, SIGCONT);
    traffic();
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
}

"""Servers that are away, slow, or come back: nothing is lost, and nobody is expelled."""

import time

import pytest

from harness.checker import CommitChecker


def test_drain_and_restart_go_on_where_they_were(space):
    space.start_redis()
    space.topic()
    m = space.millrace(lanes=2)
    load = space.load(30_000, 15, keys=2000)
    load.start()
    for _ in range(3):
        m.start_ready()
        m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1500, 20, "some records")
        assert load.live
        assert m.drain() == 0
        # What is committed is exactly what was applied: after a clean drain nothing is read twice.
    load.finish()
    m.start_ready()
    m.wait_drained(load.next_offset)
    space.judge(produced=30_000)
    assert m.drain() == 0
    assert space.broker.committed(m.group, [t.name for t in space.topics], 8) == load.next_offset


def test_drain_of_idle_instance_leaves_no_lag(space):
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    load = space.load(2000, keys=300)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    m.wait_for(lambda s: all(p["lag"] == 0 for p in s["partitions"]), 2, "no lag")
    began = time.monotonic()
    assert m.drain() == 0
    assert time.monotonic() - began < 5, "a drain with nothing to do is quick"
    m.start_ready()
    m.wait_for(lambda s: m.metric("ingest_partition_assigned", s) == 8, 20, "the assignment")
    time.sleep(1.5)
    assert m.metric("ingest_record_read") == 0, "records were read again after a clean drain"
    assert m.drain() == 0


def test_drain_that_cannot_finish_exits_75_and_loses_nothing(space):
    space.start_redis()
    space.topic()
    m = space.millrace(drain_timeout="2s").start_ready()
    load = space.load(20_000, 4, keys=1000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    space.redis.pause()
    time.sleep(0.5)
    assert m.drain(timeout=20) == 75
    space.redis.resume()
    load.finish()
    m.start_ready()
    m.wait_drained(load.next_offset)
    space.judge(produced=20_000)
    assert m.drain() == 0


def test_redis_down_at_start_is_a_state_and_not_a_failure(space):
    server = space.start_redis()
    server.stop()
    space.topic()
    load = space.load(2000, keys=300)
    load.start()
    load.finish()
    m = space.millrace().start_ready()
    m.wait_for(lambda s: m.worker("sink", 0, s)["state"] == "connecting", 10, "the sink to say that it connects")
    m.wait_for(lambda s: m.metric("ingest_record_read", s) == 2000, 20, "ingest to read all the same")
    assert space.broker.committed(m.group, [t.name for t in space.topics], 8) == {}
    server.start()
    m.wait_drained(load.next_offset)
    space.judge(produced=2000)
    assert m.metric("supervisor_child_died") == 0
    assert m.drain() == 0


def test_broker_down_at_start_is_a_state_and_not_a_failure(space):
    space.start_redis()
    space.broker = space.own_broker()
    space.broker.start()
    space.topic()
    load = space.load(2000, keys=300)
    load.start()
    load.finish()
    space.broker.stop()
    m = space.millrace().start_ready()
    m.wait_for(lambda s: m.worker("ingest", None, s)["state"] == "connecting", 15, "ingest to say that it connects")
    space.broker.start()
    m.wait_drained(load.next_offset)
    space.judge(produced=2000)
    assert m.metric("supervisor_child_died") == 0
    assert m.drain() == 0
    space.broker.kill()


def test_commits_wait_for_the_answer_of_redis(space):
    """Redis is held with commands in its socket, then dies with them: nothing of that may have been committed."""
    server = space.start_redis("--appendonly", "yes", "--appendfsync", "always")
    space.topic()
    m = space.millrace(lanes=2).start_ready()
    load = space.load(12_000, 6, keys=300)
    checker = CommitChecker(space.broker, m.group, space.topics, 8, server, load.history, 4)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 2000, 20, "some records")
    server.pause()
    # Longer than the commit interval, shorter than the time-out for an answer.
    time.sleep(2.5)
    assert all(w["state"] == "running" for w in m.stats()["workers"]), "the sink should be waiting for answers"
    m.kill_supervisor()
    m.wait_workers_gone(1)
    committed = space.broker.committed(m.group, [t.name for t in space.topics], 8)
    assert sum(committed.values()) > 500
    server.kill()
    server.start()
    with server.client() as client:
        checker.round(committed, client)
    assert checker.checks > 300 and not checker.violations, checker.violations[:5]
    m.start_ready()
    load.finish()
    m.wait_drained(load.next_offset)
    space.judge(produced=12_000)
    assert m.drain() == 0


def test_redis_killed_under_load(space):
    server = space.start_redis("--appendonly", "yes", "--appendfsync", "always")
    space.topic()
    m = space.millrace(lanes=2).start_ready()
    load = space.load(30_000, 12, keys=3000)
    checker = CommitChecker(space.broker, m.group, space.topics, 8, server, load.history, 3)
    load.start()
    for _ in range(3):
        m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
        time.sleep(1)
        server.kill()
        assert load.live
        time.sleep(0.7)
        server.start()
    checker.start()  # not earlier: it needs a Redis that answers
    load.finish()
    m.wait_drained(load.next_offset)
    checker.finish()
    stats = m.stats()
    assert m.metric("sink_redis_connect", stats) >= 2 * 4
    assert m.metric("sink_mark_mismatch", stats) == 0
    assert m.metric("supervisor_child_died", stats) == 0
    space.judge(produced=30_000)
    assert m.drain() == 0


def test_broker_held_for_seconds(space):
    space.start_redis()
    space.broker = space.own_broker()
    space.broker.start()
    space.topic()
    m = space.millrace(lanes=2).start_ready()
    load = space.load(20_000, 12, keys=2000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 2000, 20, "some records")
    space.broker.pause()
    time.sleep(6)
    space.broker.resume()
    load.finish()
    m.wait_drained(load.next_offset)
    space.judge(produced=20_000)
    assert m.metric("supervisor_child_died") == 0
    assert m.drain() == 0
    space.broker.kill()


def test_broker_killed_and_restarted_under_load(space):
    space.start_redis()
    space.broker = space.own_broker()
    space.broker.start()
    space.topic()
    m = space.millrace().start_ready()
    load = space.load(20_000, 10, keys=2000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 2000, 20, "some records")
    space.broker.kill()
    time.sleep(1)
    space.broker.start()
    load.finish()
    m.wait_drained(load.next_offset)
    space.judge(produced=20_000)
    assert m.metric("supervisor_child_died") == 0
    assert m.drain() == 0
    space.broker.kill()


def test_back_pressure_keeps_the_group_membership(space):
    """Redis answers nothing for 30 s, three session time-outs, while more comes in than the rings hold."""
    server = space.start_redis()
    space.topic()
    m = space.millrace(ring_bytes="1MiB").start_ready()
    m.wait_for(lambda s: m.metric("ingest_partition_assigned", s) == 8, 20, "the assignment")
    rebalances = m.metric("ingest_rebalance")
    load = space.load(40_000, 20, keys=4000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    server.pause()
    held = time.monotonic()
    time.sleep(3)
    m.wait_for(lambda s: m.worker("ingest", None, s)["metrics"]["worker_ring_full"] > 0, 20, "the rings to be full")
    time.sleep(1)
    stopped = m.metric("ingest_record_read")
    time.sleep(max(0.0, held + 30 - time.monotonic()))
    stats = m.stats()
    server.resume()
    load.finish()
    m.wait_drained(load.next_offset)
    assert stopped < 40_000 and m.metric("ingest_record_read", stats) == stopped, "ingest went on reading"
    assert m.metric("ingest_rebalance") == rebalances
    assert m.metric("supervisor_child_died") == 0
    space.judge(produced=40_000)
    assert m.drain() == 0


def test_stalled_redis_never_brings_old_values_back(space):
    """Redis stops with commands in its buffers, the sink connects anew and goes on, Redis wakes up: what lies in the
    old connection must not be run after what came over the new one."""
    server = space.start_redis("--appendonly", "no")
    space.topic()
    # The new connection is patient, so its greeting lies beside the old one's commands when Redis wakes up.
    m = space.millrace(lanes=2, redis={"response_timeout": "300ms", "connect_timeout": "5s", "in_flight": 500})
    m.start_ready()
    load = space.load(60_000, 15, keys=40)
    checker = CommitChecker(space.broker, m.group, space.topics, 8, server, load.history, 5, pause=0.1)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    while load.live:
        server.pause()
        time.sleep(0.8)
        server.resume()
        time.sleep(0.6)
        if not checker.is_alive():
            checker.start()
    server.pause()
    time.sleep(1)
    server.resume()
    load.finish()
    m.wait_drained(load.next_offset)
    checker.finish()
    stats = m.stats()
    assert m.metric("sink_redis_connect", stats) > 10
    assert m.metric("sink_mark_mismatch", stats) == 0 and m.metric("supervisor_child_died", stats) == 0
    space.judge(produced=60_000)
    assert m.drain() == 0


def test_older_connection_of_a_lane_is_ended_on_the_server(space):
    """What a sink that was killed has left behind, here played by the test, is gone before its successor writes."""
    server = space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    load = space.load(500, keys=50)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    name, beside = f"millrace:{m.group}:node1:0/1", f"millrace:{m.group}:node1:1/1"
    with server.client() as client:
        assert [c["name"] for c in client.client_list()].count(name) == 1
    left_behind, stranger = server.client(), server.client()
    left_behind.client_setname(name)
    stranger.client_setname(beside)  # of another lane
    m.kill_worker("sink", 0)
    m.wait_for(lambda s: m.worker("sink", 0, s)["starts"] == 2 and m.worker("sink", 0, s)["state"] == "running", 10,
               "the successor")
    with server.client() as client:
        names = [c["name"] for c in client.client_list()]
    assert names.count(name) == 1 and names.count(beside) == 1
    assert m.metric("sink_redis_connection_killed") >= 1
    left_behind.close()
    stranger.close()
    assert m.drain() == 0


def test_stalled_redis_is_noticed_while_little_comes_in(space):
    """The time-out counts from what is unanswered: new commands, a few a second, must not put it off."""
    server = space.start_redis()
    space.topic()
    m = space.millrace(redis={"response_timeout": "1s", "connect_timeout": "1s"}).start_ready()
    load = space.load(200, 10, keys=50)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 20, 20, "some records")
    server.pause()
    m.wait_for(lambda s: m.worker("sink", 0, s)["state"] == "connecting", 4, "the time-out of 1 s")
    assert load.live
    server.resume()
    load.finish()
    m.wait_drained(load.next_offset)
    space.judge(produced=200)
    assert m.drain() == 0


def test_read_only_redis_stops_and_goes_on(space):
    """A master that became a replica refuses writes; when it is master again the lane goes on in order."""
    server = space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    load = space.load(6000, 4, keys=500)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 500, 20, "some records")
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", 1)
        m.wait_for(lambda s: m.metric("sink_redis_error_reply", s) > 0, 15, "the refusal to be noticed")
        load.finish()
        time.sleep(1)
        assert m.worker("sink", 0)["state"] in ("blocked", "connecting"), m.worker("sink", 0)
        client.execute_command("REPLICAOF", "NO", "ONE")
    m.wait_drained(load.next_offset, 40)
    space.judge(produced=6000)
    assert m.metric("supervisor_child_died") == 0
    assert m.drain() == 0


def test_group_with_commits_and_redis_without_marks(space):
    """Somebody emptied Redis, or pointed the instance at another one: the operator decides."""
    server = space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    load = space.load(1000, keys=100)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    assert m.drain() == 0
    with server.client() as client:
        kept = {k: client.get(k) for k in client.scan_iter() if not k.startswith(b"millrace:")}
        client.flushall()
        m.start_ready()
        m.wait_for(lambda s: m.worker("sink", 0, s)["state"] == "blocked", 15, "the lane to stop")
        assert "when_marks_missing" in m.worker("sink", 0)["reason"] + m.log_text()
        assert m.drain(timeout=60) in (0, 75)
        assert client.dbsize() == 0
        client.mset(kept)
    m.write_config(redis={"when_marks_missing": "trust_kafka"})
    m.start_ready()
    more = space.load(500, keys=100, history=load.history, seed=99)
    more.next_offset = dict(load.next_offset)
    more.generator.card = dict(load.generator.card)
    more.start()
    more.finish()
    m.wait_drained(more.next_offset)
    space.judge(produced=1500)
    assert m.drain() == 0


def test_eviction_policy_is_looked_at_again_at_every_connect(space):
    server = space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.client_kill_filter(_type="normal", skipme=True)
        m.wait_for(lambda s: m.worker("sink", 0, s)["state"] == "blocked", 20, "the lane to stop")
        assert "maxmemory-policy" in m.worker("sink", 0)["reason"] + m.log_text()
        client.config_set("maxmemory-policy", "noeviction")
        m.wait_for(lambda s: m.worker("sink", 0, s)["state"] == "running", 20, "the lane to go on")
    load = space.load(500, keys=100)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    space.judge(produced=500)
    assert m.drain() == 0


def test_unreadable_eviction_policy_is_reported_as_unknown(space):
    server = space.start_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "mill", "on", ">pw", "~*", "+@all", "-config", "-info")
    space.topic()
    m = space.millrace(redis={"user": "mill", "password": "pw"}).start_ready()
    load = space.load(500, keys=100)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    assert "maxmemory-policy" in m.log_text() and "unknown" in m.log_text()
    space.judge(produced=500)
    assert m.drain() == 0


def test_keys_of_another_type_are_overwritten(space):
    server = space.start_redis()
    space.topic()
    load = space.load(2000, keys=60)
    load.start()
    load.finish()
    with server.client() as client:
        for i, key in enumerate(load.history.states):
            client.rpush(key, "in the way") if i % 2 else client.hset(key, "in", "the way")
    m = space.millrace().start_ready()
    m.wait_drained(load.next_offset)
    with server.client() as client:
        gone = [k for k, (_, values) in load.history.states.items() if values[-1] is None and client.exists(k)]
    assert not gone
    space.judge(produced=2000)
    assert m.drain() == 0


def test_redis_out_of_memory_stops_and_goes_on_in_order(space):
    """SET fails while DEL still works: the line must stop, not skip."""
    server = space.start_redis("--maxmemory", "4mb")
    space.topic()
    m = space.millrace().start_ready()
    load = space.load(20_000, keys=12_000)
    load.start()
    load.finish()
    m.wait_for(lambda s: m.metric("sink_redis_error_reply", s) > 0, 30, "Redis to run out of memory")
    time.sleep(2)
    assert any(p["lag"] > 0 for p in m.stats()["partitions"]), "4 MB should not hold this load"
    with server.client() as client:
        client.config_set("maxmemory", "0")
    m.wait_drained(load.next_offset)
    space.judge(produced=20_000)
    assert m.drain() == 0


@pytest.mark.parametrize("args", [("--maxmemory-policy", "allkeys-lru"), ("--maxmemory-policy", "volatile-ttl")],
                         ids=["allkeys-lru", "volatile-ttl"])
def test_evicting_redis_is_refused_unless_allowed(space, args):
    server = space.start_redis(*args)
    space.topic()
    load = space.load(500, keys=100)
    load.start()
    load.finish()
    m = space.millrace().start()
    assert m.wait_exit(20) == 78
    assert "maxmemory-policy" in m.log_text() and "allow_eviction" in m.log_text()
    with server.client() as client:
        assert client.dbsize() == 0
    m.write_config(redis={"allow_eviction": True})
    m.start_ready()
    m.wait_drained(load.next_offset)
    space.judge(produced=500)
    assert m.drain() == 0

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
    stats = m.wait_drained(load.next_offset)
    assert all(p["lag"] == 0 for p in stats["partitions"])
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
    checker.start()
    load.finish()
    m.wait_drained(load.next_offset)
    checker.finish()
    stats = m.stats()
    assert m.metric("sink_redis_connect", stats) >= 2 * 4
    assert m.metric("sink_mark_mismatch", stats) == 0
    assert m.metric("supervisor_child_died", stats) == 0
    space.judge(produced=30_000)
    assert m.drain() == 0


def test_redis_restart_without_its_data_stops_the_lane(space):
    """Until recovery exists, lost writes must stop the lane rather than be covered up."""
    server = space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    load = space.load(3000, keys=300)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    committed = space.broker.committed(m.group, [t.name for t in space.topics], 8)
    server.kill()
    server.start()
    m.wait_for(lambda s: m.worker("sink", 0, s)["state"] == "blocked", 15, "the lane to stop")
    sink = m.worker("sink", 0)
    assert "redis lost writes" in sink.get("reason", "") or "redis lost writes" in m.log_text()
    assert m.metric("sink_mark_mismatch") > 0
    more = space.load(500, keys=300, history=load.history, seed=99)
    more.next_offset = dict(load.next_offset)
    more.start()
    more.finish()
    time.sleep(2)
    assert space.broker.committed(m.group, [t.name for t in space.topics], 8) == committed
    with server.client() as client:
        assert not [k for k in client.scan_iter() if not k.startswith(b"millrace:")]


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

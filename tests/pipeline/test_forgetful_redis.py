"""A Redis that loses what it acknowledged: noticed, counted to the last write, and mended without anybody's help."""

import os
import random
import threading
import time

import pytest
from harness.millrace import command
from harness.process import wait_until
from harness.proxy import Proxy
from harness.redis_server import RedisServer

PARTITIONS = 8


def mark_keys(space, m):
    return [f"millrace:mark:{m.group}:{t.name}:{p}" for t in space.topics for p in range(PARTITIONS)]


def nexts(values):
    """Of the texts of marks: how many records Redis has. Every partition of these tests begins at 0, has no gaps, and
    every record of it is a write."""
    return sum(int(v.split()[1]) for v in values if v is not None)


def marks(space, m, server):
    with server.client() as client:
        return nexts(client.mget(mark_keys(space, m)))


def flush(space, m, server):
    """Empties Redis. Returns how many writes it had executed by then, as its marks said in the same instant."""
    with server.client() as client:
        with client.pipeline(transaction=True) as p:
            p.mget(mark_keys(space, m))
            p.flushall()
            return nexts(p.execute()[0])


def published(space, m, count, seconds=0, before=None, keys=500):
    """A load that has come through. before: an earlier one, that it goes on from."""
    load = space.load(count, seconds, keys=keys, history=before.history if before else None,
                      generator=before.generator if before else None)
    if before:
        load.next_offset = dict(before.next_offset)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    return load


def wait_mended(m, lost, timeout=60):
    """lost: how many writes Redis had acknowledged and lost."""
    m.wait_for(lambda s: m.metric("sink_write_lost", s) >= lost and
               all(w["state"] == "running" for w in s["workers"]), timeout, f"{lost} writes to be mended")


def acknowledged(m):
    """How many writes Redis has acknowledged, when it answers no more: once ingest keeps saying the same."""
    seen = []
    while len(seen) < 4 or len(set(seen[-4:])) > 1:
        seen.append(sum(max(p["released"], 0) for p in m.stats()["partitions"]))
        time.sleep(0.2)
    return seen[-1]


def expect_mended(space, m, load, lost):
    wait_mended(m, lost)
    m.wait_drained(load.next_offset)
    space.judge()
    stats = m.stats()
    assert m.metric("sink_write_lost", stats) == lost and m.metric("sink_lease_expire", stats) == 0
    assert m.metric("supervisor_child_died", stats) == 0
    assert "sink.recovered" in m.log_text() or lost == 0
    assert m.drain() == 0


def test_flush_while_idle(space):
    server = space.start_redis()
    space.topic()
    m = space.millrace(lanes=2).start_ready()
    load = published(space, m, 3000)
    assert flush(space, m, server) == 3000
    expect_mended(space, m, load, 3000)
    assert m.log_text().count("sink.redis_lost_writes") == PARTITIONS


@pytest.mark.parametrize("lanes", [1, 4])
def test_flushes_under_load(space, lanes):
    server = space.start_redis()
    space.topic()
    m = space.millrace(lanes=lanes).start_ready()
    load = space.load(20_000, 6, keys=2000)
    load.start()
    lost = 0
    for at in (2000, 6000):
        m.wait_for(lambda s, at=at: m.metric("sink_record_applied", s) > at, 20, "some records")
        assert load.live
        lost += flush(space, m, server)
        wait_mended(m, lost, 30)
    load.finish()
    expect_mended(space, m, load, lost)


def test_restart_without_persistence_under_load(space):
    server = space.start_redis()
    space.topic()
    m = space.millrace(lanes=2).start_ready()
    load = space.load(12_000, 6, keys=2000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 3000, 20, "some records")
    server.pause()  # what it has answered arrives before it dies
    released = acknowledged(m)
    assert load.live
    server.kill()
    server.start()
    load.finish()
    expect_mended(space, m, load, released)


def test_restart_from_an_older_snapshot(space):
    server = space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    load = published(space, m, 3000)
    with server.client() as client:
        client.save()
    load = published(space, m, 1234, before=load)
    server.kill()
    server.start()
    assert marks(space, m, server) == 3000
    expect_mended(space, m, load, 1234)


@pytest.mark.parametrize("connection", ["dropped", "kept"])
def test_replica_that_is_promoted_behind(space, connection):
    """The address of Redis points to a replica that had not heard of the last writes."""
    master = space.start_redis()
    replica = RedisServer(space.folder / "replica", "--replicaof", "127.0.0.1", master.port, name="replica").start()
    proxy = Proxy(master)
    space.redis = proxy
    space.topic()
    m = space.millrace().start_ready()
    load = published(space, m, 3000)
    with replica.client() as client:
        wait_until(lambda: marks(space, m, replica) == 3000, 10, "the replica to have followed")
        client.execute_command("REPLICAOF", "127.0.0.1", 1)  # cut off from its master
        load = published(space, m, 777, before=load)
        assert (marks(space, m, master), marks(space, m, replica)) == (3777, 3000)
        client.execute_command("REPLICAOF", "NO", "ONE")
    proxy.switch(replica, keep=connection == "kept")
    master.kill()
    if connection == "kept":
        load = published(space, m, 100, before=load)
    expect_mended(space, m, load, 777)
    proxy.stop()


def test_whole_instance_started_again_without_marks(space):
    """Commits and no marks, and nobody left who has seen them: the operator says what it means."""
    server = space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    load = published(space, m, 2000)
    assert m.drain() == 0
    assert flush(space, m, server) == 2000
    m.start_ready()
    m.wait_for(lambda s: m.worker("sink", 0, s)["state"] == "blocked", 15, "the lane to stop")
    assert "when_marks_missing" in m.worker("sink", 0)["reason"]
    assert m.drain(timeout=60) in (0, 75)
    m.write_config(redis={"when_marks_missing": "trust_kafka"})
    m.start_ready()
    trusted = published(space, m, 300, before=load)
    with server.client() as client:
        assert 0 < len([k for k in client.scan_iter() if not k.startswith(b"millrace:")]) < len(load.history.states)
    assert m.metric("sink_write_lost") == 0
    assert m.drain() == 0
    assert flush(space, m, server) == 2300
    m.write_config(redis={"when_marks_missing": "rebuild"})
    m.start_ready()
    expect_mended(space, m, trusted, 2300)


def test_redis_that_comes_back_empty_after_a_reload(space):
    """A reload makes the ledger anew, and yet nobody takes the empty Redis for one that holds what was committed."""
    server = space.start_redis()
    space.topic()
    m = space.millrace(redis={"when_marks_missing": "trust_kafka"}).start_ready()
    load = published(space, m, 2000)
    server.kill()
    m.write_config(lanes=2)
    done = command("ctl", "reload", "--wait", "--name", m.name, "--run-dir", m.run_dir, build=m.build, timeout=60)
    assert done.returncode == 0, done.stderr
    server.start()
    expect_mended(space, m, load, 2000)


def test_flushes_and_deaths_at_the_same_moment(space):
    """Ten times, at random moments, Redis is emptied while the sink and ingest are killed."""
    seed = int(os.environ.get("SEED", "1"))
    rng = random.Random(seed)
    server = space.start_redis()
    space.topic()
    in_flight, rounds = 200, 10
    m = space.millrace(redis={"in_flight": in_flight}).start_ready()
    load = space.load(15_000, 12, keys=1500, seed=seed)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    executed = 0
    for _ in range(rounds):
        time.sleep(rng.uniform(0.1, 1.5))
        victims = [threading.Thread(target=m.kill_worker, args=(role, 0)) for role in ("sink", "ingest")]
        steps = [*[v.start for v in victims], lambda: flushed.append(flush(space, m, server))]
        flushed = []
        rng.shuffle(steps)
        for step in steps:
            step()
        for v in victims:
            v.join()
        executed += flushed[0]
    load.finish()
    wait_until(lambda: marks(space, m, server) == 15_000, 60, "everything to be mended")
    m.wait_drained(load.next_offset)
    m.wait_for(lambda s: all(w["state"] == "running" for w in s["workers"]), 10, "all workers to run")
    space.judge(produced=15_000)
    # What Redis had executed and not answered when the sink died was never acknowledged.
    assert executed - rounds * in_flight <= m.metric("sink_write_lost") <= executed
    assert m.metric("sink_write_lost") > 1000
    assert m.drain() == 0

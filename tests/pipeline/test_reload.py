"""The configuration changed while running, by SIGHUP and by `millrace ctl reload`, and rings that are broken."""

import json
import os
import time

import pytest

from harness.checker import CommitChecker
from harness.generator import bulk_topic
from harness.millrace import command


def ctl(m, *args, timeout=60):
    """millrace ctl ARGS by the name of the instance, so that the state of its file does not matter."""
    return command("ctl", *args, "--name", m.name, "--run-dir", m.run_dir, build=m.build, timeout=timeout)


def reload(m, **changes):
    m.write_config(**changes)
    done = ctl(m, "reload", "--wait")
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "reloaded"), \
        f"{done.returncode} {done.stdout} {done.stderr}\n{m.process.tail(30)}"


def ctl_status(m):
    done = ctl(m, "status", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def held(pid):
    """Descriptors and mappings of a process."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as f:
        return len(os.listdir(f"/proc/{pid}/fd")), len(f.readlines())


def applied(m, more_than, stats=None):
    return m.wait_for(lambda s: m.metric("sink_record_applied", s) > more_than, 20, f"{more_than} records applied")


def topics_of(*topics):
    return [t.config() for t in topics]


@pytest.fixture
def checked(space):
    """Starts a load and a checker of its commits; ends both."""
    def begin(m, count, seconds, topics=None, **more):
        load = space.load(count, seconds, topics=topics, **more)
        checker = CommitChecker(space.broker, m.group, topics or space.topics, space.partitions, space.redis,
                                load.history, space.number)
        load.start()
        checker.start()
        return load, checker
    return begin


def test_twenty_reloads_under_load_lose_nothing(space, checked):
    space.start_redis()
    with space.redis.client() as client:
        client.execute_command("ACL", "SETUSER", "mill", "on", ">first", ">second", "~*", "+@all")
    change, late = space.topic(), space.topic(bulk_topic, "late")
    idle = space.topic(bulk_topic, "idle", key="old:{account}")
    m = space.millrace(redis={"url": f"redis://127.0.0.1:{space.redis.port}/0", "user": "mill", "password": "first"})
    m.write_config(topics=topics_of(change, idle))
    m.start_ready()
    load, checker = checked(m, 50_000, 20, topics=[change, late])
    applied(m, 1000)
    reload(m, log={"level": "warn"})
    before, starts = held(m.process.pid), m.worker("ingest")["starts"]
    idle.key = "fresh:{account}:{card_no}"
    changes = [
        {"lanes": 2}, {"lanes": 4}, {"redis": {"batch": 7}}, {"topics": topics_of(change, idle, late)},
        {"lanes": 1}, {"redis": {"batch": 500}}, {"redis": {"password": "second"}}, {"ring_bytes": "1MiB"},
        {"topics": topics_of(late, change)}, {"lanes": 3}, {"redis": {"linger_ms": 5}}, {"lanes": 2},
        {"topics": topics_of(idle, late, change)}, {"redis": {"linger_ms": 0, "in_flight": 500}}, {"lanes": 4},
        {"ring_bytes": "4MiB", "lanes": 2}, {"spin_us": 50}, {"heartbeat_timeout": "5s"}, {"lanes": 1, "spin_us": 0},
    ]
    for i, change_made in enumerate(changes):
        reload(m, **change_made)
        if i == 6:  # the old password ends with the reload that has taken the new one
            with space.redis.client() as client:
                client.execute_command("ACL", "SETUSER", "mill", "<first")
        time.sleep(0.4)
    assert load.live, "the reloads took longer than the load"
    fresh = space.load(1000, topics=[idle])
    fresh.start()
    fresh.finish()
    load.finish()
    stats = m.wait_drained({**load.next_offset, **fresh.next_offset})
    checker.finish()
    assert checker.advances > 30
    assert m.metric("supervisor_reload", stats) == 20 and m.metric("supervisor_reload_refuse", stats) == 0
    assert m.metric("supervisor_ring_reset", stats) == 0 and m.metric("supervisor_record_discard", stats) == 0
    assert m.metric("supervisor_child_died", stats) == 0
    assert m.worker("ingest", None, stats)["starts"] == starts + 19
    assert held(m.process.pid) == before, "descriptors or mappings were left behind"
    space.judge(produced=51_000)
    assert m.drain() == 0


def test_group_does_not_notice_a_reload(space, checked):
    """The other member keeps its partitions: the one that reloads is back as the same static member."""
    space.start_redis()
    space.topic()
    first = space.millrace("first", group="pair", instance="node1").start_ready()
    second = space.millrace("second", group="pair", instance="node2").start_ready()
    for m in (first, second):
        m.wait_for(lambda s, m=m: m.metric("ingest_partition_assigned", s) == 4, 20, "half of the partitions")
    load, checker = checked(first, 10_000, 6)
    applied(second, 200)
    revoked = [m.log_text().count("ingest.revoked") for m in (first, second)]
    rebalances = [m.metric("ingest_rebalance") for m in (first, second)]
    for m, lanes in ((first, 2), (second, 3), (first, 1)):
        reload(m, lanes=lanes)
        m.wait_for(lambda s, m=m: m.metric("ingest_partition_assigned", s) == 4, 10, "the same half again")
    load.finish()
    checker.finish()
    # Each start is one assignment of its own; nobody was asked to give anything back.
    assert [m.metric("ingest_rebalance") for m in (first, second)] == [rebalances[0] + 2, rebalances[1] + 1]
    assert [m.log_text().count("ingest.revoked") for m in (first, second)] == revoked

    # A topic that is added has to be divided: now the other one is asked, once.
    space.topic(bulk_topic, "late")
    for m in (first, second):
        reload(m, topics=topics_of(*space.topics))
    for m in (first, second):
        m.wait_for(lambda s, m=m: m.metric("ingest_partition_assigned", s) == 8, 30, "half of both topics")
    for m in (first, second):
        assert m.drain() == 0


def test_added_topic_is_read_after_a_quick_restart(space):
    """The group takes a static member back with its old partitions: it has to be made to look at the new topics."""
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    m.wait_for(lambda s: m.metric("ingest_partition_assigned", s) == 8, 20, "all partitions")
    assert m.drain() == 0
    space.topic(bulk_topic, "late")
    m.write_config(topics=topics_of(*space.topics))
    m.start_ready()
    m.wait_for(lambda s: m.metric("ingest_partition_assigned", s) == 16, 8, "the partitions of both topics")
    assert m.drain() == 0
    m.start_ready()
    m.wait_for(lambda s: m.metric("ingest_partition_assigned", s) == 16, 8, "them again")
    assert m.log_text().count("ingest.rejoining") == 1
    assert m.drain() == 0


def test_control_socket_of_a_running_instance(space):
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    assert (m.run_dir / f"{m.name}.sock").stat().st_mode & 0o777 == 0o660
    done = m.run_command("ctl", "status")
    assert done.returncode == 0 and f"pid {m.process.pid}: running" in done.stdout, done
    nothing = ctl(m, "accept-loss")
    assert nothing.returncode == 0 and "nothing to accept" in nothing.stdout, nothing
    for wrong in (["frobnicate"], [], ["status", "--wait"], ["accept-loss", "--partition", "1"],
                  ["accept-loss", "--topic", "t", "--partition", "x"], ["reload", "--timeout", "soon"]):
        assert ctl(m, *wrong).returncode == 64, wrong
    assert command("ctl", "--help").returncode == 0
    assert m.drain() == 0

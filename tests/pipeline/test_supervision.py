"""Workers that die, hang or crash on a record, a supervisor that is killed, and what workers inherit."""

import os
import random
import re
import signal
import stat
import subprocess
import time

import pytest

from harness import audit_log
from harness.millrace import chains
from harness.process import BUILD, process_gone, wait_until
from harness.reference import Topic

ROLES = ("ingest", "transform", "sink")


def test_workers_leave_within_a_second_when_the_supervisor_is_killed(space):
    space.start_redis()
    space.topic()
    m = space.millrace(lanes=2).start_ready()
    load = space.load(20_000, 8, keys=2000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    m.kill_supervisor()
    assert len(m.pids) == 5
    m.wait_workers_gone(1)
    # Nothing is in the way of the next start: no lock, no stale segment.
    m.start_ready()
    load.finish()
    m.wait_drained(load.next_offset)
    space.judge(produced=20_000)
    assert m.drain() == 0


@pytest.mark.parametrize("role", (*ROLES, "audit", "recon"))
def test_hanging_worker_is_killed_and_replaced(space, role):
    space.start_redis()
    space.topic()
    m = space.millrace(heartbeat_timeout="2s", audit="off" if role in ROLES else "on").start_ready()
    load = space.load(15_000, 8, keys=2000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    old = m.kill_worker(role, 0, signal.SIGSTOP)
    stopped = time.monotonic()
    m.wait_for(lambda s: m.worker(role, 0, s)["pid"] not in (0, old) and m.worker(role, 0, s)["starts"] == 2, 10,
               "a successor")
    assert 1.5 < time.monotonic() - stopped < 6
    assert process_gone(old)
    load.finish()
    m.wait_drained(load.next_offset)
    stats = m.stats()
    assert m.metric("supervisor_child_hung", stats) == 1 and m.metric("supervisor_child_died", stats) == 1
    assert m.metric("supervisor_record_poison", stats) == 0, "being stopped from outside is no fault of a record"
    assert re.search(rf"child_hung.*{role}", m.log_text())
    space.judge(produced=15_000)
    assert m.drain() == 0


def test_worker_that_keeps_dying_ends_in_failed(space):
    space.start_redis()
    space.topic()
    m = space.millrace(restart={"limit": 4}).start_ready()
    killed, deadline = set(), time.monotonic() + 60
    while m.process.alive() and time.monotonic() < deadline:
        stats = m.stats_or_none()
        m.remember_pids()
        pid = m.worker("sink", 0, stats)["pid"] if stats else 0
        if pid and pid not in killed and m.signal_pid(pid, "sink", signal.SIGSEGV):
            killed.add(pid)
        time.sleep(0.02)
    assert m.wait_exit(10) == 70
    assert len(killed) == 4, "the tally counts every death without progress, and no more"
    assert re.search(r"sink\[0\].*without moving a record", m.log_text())
    m.wait_workers_gone(1)
    # Deaths with a pause that grows, not a busy loop; and a new start begins a new tally.
    m.start_ready()
    assert m.drain() == 0


def test_restart_is_at_once_and_quick(space):
    """Recovery is counted in milliseconds: the successor goes on long before a session or a back-off would end."""
    space.start_redis()
    space.topic()
    m = space.millrace(lanes=2).start_ready()
    load = space.load(25_000, 10, keys=2000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    for role in ROLES:
        before = m.metric("sink_record_applied")
        began = time.monotonic()
        m.kill_worker(role, 0)
        m.wait_for(lambda s, role=role: m.worker(role, 0, s)["state"] == "running", 5, f"{role} to run again", 0.02)
        m.wait_for(lambda s, before=before: m.metric("sink_record_applied", s) > before + 500, 5, "progress", 0.02)
        took = time.monotonic() - began
        assert took < 3, f"{role}: {took:.1f} s until records moved again"
    load.finish()
    m.wait_drained(load.next_offset)
    space.judge(produced=25_000)
    assert m.drain() == 0


def test_kills_while_the_rings_are_full(space):
    """What is in the rings outlives every worker: nothing is read again, nothing is passed on twice."""
    space.start_redis()
    space.topic()
    m = space.millrace(lanes=2, ring_bytes="1MiB").start_ready()
    load = space.load(30_000, 4, keys=2000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    space.redis.pause()
    m.wait_for(lambda s: m.worker("ingest", None, s)["metrics"]["worker_ring_full"] > 0, 20, "the rings to be full")
    for role in ROLES * 2:
        for lane in (0, 1):
            pid = m.kill_worker(role, lane)
            m.wait_for(lambda s, r=role, n=lane, p=pid: m.worker(r, n, s)["pid"] not in (0, p), 10,
                       f"{role}[{lane}] to be back")
    space.redis.resume()
    load.finish()
    stats = m.wait_drained(load.next_offset)
    assert m.metric("supervisor_child_died", stats) == 12
    assert all(len(set(numbers)) == 1 for numbers in chains(stats)), chains(stats)
    assert sum(numbers[0] for numbers in chains(stats)) == 30_000, "a record was passed on twice or not at all"
    space.judge(produced=30_000)
    assert m.drain() == 0


def test_drain_while_a_worker_dies(space):
    """A death during the drain delays it and loses nothing."""
    space.start_redis()
    space.topic()
    m = space.millrace(lanes=2, drain_timeout="20s").start_ready()
    load = space.load(30_000, 6, keys=2000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    space.redis.pause()
    time.sleep(0.5)
    m.remember_pids()
    m.process.signal(signal.SIGTERM)
    m.wait_for(lambda s: s["state"] == "draining", 5, "the drain to begin")
    m.kill_worker("transform", 1)
    m.kill_worker("sink", 0)
    space.redis.resume()
    assert m.wait_exit(25) == 0
    load.finish()
    m.start_ready()
    m.wait_drained(load.next_offset)
    space.judge(produced=30_000)
    assert m.drain() == 0


def test_stuck_reader_of_the_log_does_not_stop_the_pipeline(space):
    space.start_redis()
    space.topic()
    m = space.millrace(log={"level": "debug"})
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    child = subprocess.Popen([BUILD / "millrace", "run", "-c", m.file], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=writing)
    os.close(writing)
    try:
        load = space.load(3000, keys=300)
        load.start()
        load.finish()

        def done():
            assert child.poll() is None
            stats = m.remember_pids()
            return stats and sum(p["committed"] for p in stats["partitions"] if p["committed"] > 0) == 3000
        wait_until(done, 30, "the load to be applied although nobody reads the log")
        space.judge(produced=3000)
        child.terminate()
        assert child.wait(20) == 0
    finally:
        if child.poll() is None:
            child.kill()
            child.wait(10)
        os.close(reading)


# -- poison ----------------------------------------------------------------------------------------------------------
def poison_topic(name):
    return Topic(name, format="json", key="k:{id}")


def publish(space, topic, count, poisonous, headers=None):
    """headers: of the poisonous ones."""
    from confluent_kafka import Producer
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0})
    for i in range(count):
        text = "MARKER" if i in poisonous else "harmless"
        producer.produce(topic.name, f'{{"id":{i},"text":"{text}"}}'.encode(), b"same", partition=0,
                         headers=headers if i in poisonous else None)
    assert producer.flush(20) == 0


def test_poisonous_record_costs_three_deaths_and_itself(space, fault_build):
    space.start_redis()
    t = space.topic(poison_topic, "poison", partitions=1)
    publish(space, t, 300, {137})
    m = space.millrace(build=fault_build, env={"MILLRACE_FAULT": "transform:parse=MARKER"}, poison={"attempts": 3})
    m.start_ready()
    stats = m.wait_drained({(t.name, 0): 300})
    assert m.worker("transform", 0, stats)["starts"] == 1 + 3
    assert m.metric("supervisor_child_died", stats) == 3
    assert m.metric("supervisor_record_poison", stats) == 1
    assert m.metric("transform_reject_crash", stats) == 1 and m.metric("transform_record_reject", stats) == 1
    assert [(r["topic"], r["partition"], r["offset"], r["reason"]) for r in m.rejects()] == [(t.name, 0, 137, "crash")]
    with space.redis.client() as client:
        found = {k for k in client.scan_iter(count=1000) if not k.startswith(b"millrace:")}
    assert found == {f"k:{i}".encode() for i in range(300) if i != 137}
    assert "MARKER" not in m.log_text()
    assert m.drain() == 0


def test_neighbouring_poisonous_records_are_told_apart(space, fault_build):
    space.start_redis()
    t = space.topic(poison_topic, "poison", partitions=1)
    publish(space, t, 50, {0, 1, 20, 49})
    m = space.millrace(build=fault_build, env={"MILLRACE_FAULT": "transform:parse=MARKER"}, poison={"attempts": 2})
    m.start_ready()
    stats = m.wait_drained({(t.name, 0): 50})
    assert m.metric("supervisor_child_died", stats) == 8
    assert [r["offset"] for r in m.rejects()] == [0, 1, 20, 49]
    assert m.drain() == 0


def keys_of(space):
    with space.redis.client() as client:
        return {k for k in client.scan_iter(count=1000) if not k.startswith(b"millrace:")}


def entries_of(m):
    """What became of each offset, as the audit log tells it."""
    return {e["offset"]: (e["outcome"], e["reason"]) for e in audit_log.entries(m.data_dir)}


@pytest.mark.parametrize("audit", ["off", "on"])
@pytest.mark.parametrize("role,point", [("transform", "transform:parse"), ("sink", "sink:format")])
def test_poison_among_kills_costs_its_deaths_and_nobody_else(space, fault_build, role, point, audit):
    """Two poisonous records stand side by side, workers are killed at random meanwhile, and the deaths of the records
    are counted as if nothing else had happened."""
    seed = int(os.environ.get("SEED", 5))
    print(f"SEED={seed}")
    r, poisonous, attempts, count = random.Random(seed), {0, 137, 138, 299}, 8, 300
    space.start_redis()
    t = space.topic(poison_topic, "poison", partitions=1)
    publish(space, t, count, poisonous)
    m = space.millrace(build=fault_build, env={"MILLRACE_FAULT": f"{point}=MARKER"}, poison={"attempts": attempts},
                       restart={"limit": 1000, "backoff_max": "50ms"}, audit=audit,
                       redis={"batch": 20, "in_flight": 40}).start()
    m.wait_for(lambda s: True, 20, "the statistics", 0.01)
    killed = 0
    while m.metric("supervisor_record_poison") < len(poisonous):
        m.kill_worker(r.choice(ROLES + ("audit",) * (audit == "on")), 0)
        killed += 1
        time.sleep(r.uniform(0, 0.1))
    stats = m.wait_drained({(t.name, 0): count})
    assert m.metric("supervisor_record_poison", stats) == len(poisonous)
    deaths = m.metric("supervisor_child_died", stats) - killed
    print(f"{killed} kills beside {deaths} deaths on four records")
    assert deaths == attempts * len(poisonous), "each costs its deaths, and nothing else dies"
    assert killed >= 5
    assert {(x["offset"], x["reason"]) for x in m.rejects()} == {(i, "crash") for i in poisonous}
    assert keys_of(space) == {f"k:{i}".encode() for i in range(count) if i not in poisonous}
    assert "MARKER" not in m.log_text()
    assert m.drain() == 0
    if audit == "on":
        crash = 8  # docs/formats.md
        assert entries_of(m) == {i: ("rejected", crash) if i in poisonous else ("applied", 0) for i in range(count)}


def test_record_that_crashes_audit_stops_the_instance(space, fault_build):
    """What is not logged is not done: there is no way around it, and nothing behind it is committed."""
    space.start_redis()
    t = space.topic(poison_topic, "poison", partitions=1)
    marker = "MARKERMARKERMARK"  # a record's id may be any 16 bytes, and an entry has it
    publish(space, t, 50, {20}, [("millrace-id", marker)])
    m = space.millrace(build=fault_build, env={"MILLRACE_FAULT": f"audit:entry={marker}"}, audit="on").start()
    assert m.wait_exit(60) == 70
    assert re.search(r"record 21 of lane 0 crashes audit", m.log_text())
    assert len(re.findall("audit pid .* ended by signal 11", m.log_text())) == 3
    assert space.broker.committed(m.group, [t.name], 1).get((t.name, 0), 0) <= 20


def test_many_records_that_crash_the_sink_are_a_fault_of_the_program(space, fault_build):
    """Each is read again with all that follows it, which must not look like many records between two of them."""
    space.start_redis()
    t = space.topic(poison_topic, "poison", partitions=1)
    publish(space, t, 6000, set(range(10, 90)))
    m = space.millrace(build=fault_build, env={"MILLRACE_FAULT": "sink:format=MARKER"},
                       poison={"attempts": 1, "limit": 5}).start()
    assert m.wait_exit(90) == 70
    assert re.search(r"fault of the program", m.log_text())
    assert len(m.rejects()) <= 6, "nothing more may be rejected once the program is to blame"


def test_many_poisonous_records_are_a_fault_of_the_program(space, fault_build):
    space.start_redis()
    t = space.topic(poison_topic, "poison", partitions=1)
    publish(space, t, 100, set(range(10, 90)))
    m = space.millrace(build=fault_build, env={"MILLRACE_FAULT": "transform:parse=MARKER"},
                       poison={"attempts": 1, "limit": 5}).start()
    assert m.wait_exit(60) == 70
    assert re.search(r"fault of the program", m.log_text())
    assert len(m.rejects()) <= 6, "nothing more may be rejected once the program is to blame"
    committed = space.broker.committed(m.group, [t.name], 1).get((t.name, 0), 0)
    assert committed <= 16


def test_released_build_has_no_fault_points(space):
    space.start_redis()
    t = space.topic(poison_topic, "poison", partitions=1)
    publish(space, t, 10, {5})
    m = space.millrace(env={"MILLRACE_FAULT": "transform:parse=MARKER"}).start_ready()
    stats = m.wait_drained({(t.name, 0): 10})
    assert m.metric("supervisor_child_died", stats) == 0
    space.judge(produced=10)
    assert m.drain() == 0


# -- what workers inherit --------------------------------------------------------------------------------------------
READ, WRITE = "memory read-only", "memory writable"
BELL, RING_IN, RING_OUT = "eventfd", [READ, READ, WRITE], [READ, WRITE, READ]
COMMON = ["null", "log", "log", READ, "stats", READ, BELL, BELL]  # 0-2, configuration, stats, control, bells


def documented(role, lanes, audit):
    if role == "ingest":
        return COMMON + [WRITE, READ] + (RING_OUT + RING_IN + [READ, BELL]) * lanes
    if role == "transform":
        return COMMON + [READ, READ] + RING_IN + RING_OUT + RING_OUT + [BELL, BELL]
    if role == "audit":
        return COMMON + [READ, WRITE] + (RING_IN + [BELL]) * lanes
    if role == "recon":
        return COMMON + [READ, READ]
    return COMMON + [READ, READ] + RING_IN + [BELL, WRITE] + (RING_OUT + [BELL] if audit else [])


def descriptors(pid):
    """{number: kind}"""
    found = {}
    for number in sorted(int(n) for n in os.listdir(f"/proc/{pid}/fd")):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            mode = os.stat(f"/proc/{pid}/fd/{number}").st_mode
            with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as f:
                flags = int(re.search(r"flags:\s*(\d+)", f.read()).group(1), 8)
        except FileNotFoundError:
            continue
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if target.startswith("/memfd:"):
            kind = WRITE if writable else READ
        elif target == "anon_inode:[eventfd]":
            kind = BELL
        elif target == "/dev/null":
            kind = "null"
        elif target.endswith(".stats"):
            kind = "stats"
        elif target.endswith("millrace.log"):
            kind = "log"
        elif stat.S_ISSOCK(mode):
            kind = "socket"
        else:
            kind = target
        found[number] = kind
    return found


# Beyond the inherited ones: what a role may have opened itself.
OWN = {"ingest": r"socket|pipe:.*|anon_inode:.*|eventfd|.*/data(/.*)?|log",
       "transform": r"anon_inode:\[eventpoll\]|log", "sink": r"socket|anon_inode:.*|log",
       "audit": r"anon_inode:.*|eventfd|.*/data/audit(/.*)?|log",
       "recon": r"socket|pipe:.*|anon_inode:.*|eventfd|.*/data/(audit|recon)(/.*)?|log"}


@pytest.mark.parametrize("audit", ["off", "on"])
def test_workers_inherit_the_documented_descriptors_and_nothing_else(space, audit):
    space.start_redis()
    space.topic()
    lanes = 2
    m = space.millrace(lanes=lanes, audit=audit)
    secret = open(space.folder / "not-for-workers", "w+", encoding="ascii")
    other, child = os.pipe()
    for fd in (secret.fileno(), other, child):
        os.set_inheritable(fd, True)
    with open(m.log, "ab") as log:
        run = subprocess.Popen([BUILD / "millrace", "run", "-c", m.file], stdin=subprocess.DEVNULL, stdout=log,
                               stderr=log, close_fds=False)
    try:
        wait_until(lambda: (m.remember_pids() or {}).get("state") == "running", 20, "the instance to run")
        load = space.load(500, keys=100)
        load.start()
        load.finish()
        wait_until(lambda: sum(max(0, p["committed"]) for p in m.stats()["partitions"]) == 500, 20, "the load")
        for w in m.stats()["workers"]:
            try:
                found = descriptors(w["pid"])
            except PermissionError:
                # A worker that holds keys is not dumpable: without root nobody can look, and nobody else can either.
                assert w["role"] in ("transform", "audit", "recon") and os.geteuid() != 0
                continue
            wanted = documented(w["role"], lanes, audit == "on")
            assert [found.get(i) for i in range(len(wanted))] == wanted, (w["role"], found)
            beyond = {n: k for n, k in found.items() if n >= len(wanted)}
            assert all(re.fullmatch(OWN[w["role"]], k) for k in beyond.values()), (w["role"], beyond)
        run.terminate()
        assert run.wait(20) == 0
    finally:
        if run.poll() is None:
            run.kill()
            run.wait(10)
        secret.close()
        os.close(other)
        os.close(child)

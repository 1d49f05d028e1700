"""The configuration changed while running, by SIGHUP and by `millrace ctl reload`, and rings that are broken."""

import json
import os
import re
import signal
import threading
import time

import pytest

from harness.audit_follow import AuditLog
from harness.checker import CommitChecker
from harness.generator import bulk_topic
from harness.millrace import command
from harness.process import wait_until
from harness.reference import Topic


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
    load, checker = checked(m, 200_000, 90, topics=[change, late])
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
        time.sleep(0.15)
    load.give_up()
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
    assert all(w["deaths"] == 0 for w in stats["workers"]), "a reload is no death"
    assert held(m.process.pid) == before, "descriptors or mappings were left behind"
    space.judge(produced=load.published + 1000)
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


def test_bad_file_changes_nothing_and_says_what_is_wrong(space):
    space.start_redis()
    t = space.topic()
    m = space.millrace().start_ready()
    m.wait_for(lambda s: m.metric("ingest_partition_assigned", s) == 8, 20, "all partitions")
    pids = [w["pid"] for w in m.stats()["workers"]]
    good = m.file.read_text(encoding="utf-8")

    m.file.write_text(good + "lannes: 2\n", encoding="utf-8")
    line = good.count("\n") + 1
    done = ctl(m, "reload")
    assert done.returncode == 78 and f"millrace.yaml:{line}:1" in done.stderr and "lanes" in done.stderr, done
    m.process.signal(signal.SIGHUP)
    wait_until(lambda: ctl_status(m)["reload_done"] == 2, 5, "the second refusal")
    assert re.search(rf"reload_refused .*millrace.yaml:{line}:1", m.log_text())
    for changed in ({"kafka": {"group.id": "another"}}, {"name": "another"}, {"data_dir": str(space.folder)}):
        m.write_config(**changed)
        done = ctl(m, "reload", "--wait")
        key = next(iter(changed)) if "kafka" not in changed else "kafka.group.id"
        assert done.returncode == 78 and f"`{key}` cannot change" in done.stderr, done
        m.file.write_text(good, encoding="utf-8")
        m.write_config(kafka={"group.id": m.group}, name=m.name, data_dir=str(m.data_dir))
    m.file.unlink()
    assert ctl(m, "reload").returncode == 78
    m.file.write_text(good, encoding="utf-8")
    done = ctl(m, "reload", "--wait", "--format", "json")
    assert done.returncode == 0 and json.loads(done.stdout)["result"] == "unchanged", done
    assert ctl_status(m)["reload_result"] == "unchanged"

    # What only a worker can find out is undone.
    m.write_config(crypto={"keys": str(space.folder / "missing")}, topics=[{**t.config(), "value": {"encrypt": True}}])
    done = ctl(m, "reload", "--wait")
    assert done.returncode == 78 and "transform" in done.stderr and "missing" in done.stderr, done
    wait_until(lambda: ctl_status(m)["phase"] == "running", 10, "the configuration of before to be back")
    assert "supervisor.reload_undone" in m.log_text()

    load = space.load(2000)
    load.start()
    load.finish()
    stats = m.wait_drained(load.next_offset)
    assert m.metric("supervisor_reload_refuse", stats) == 7 and m.metric("supervisor_reload", stats) == 0
    assert pids != [w["pid"] for w in stats["workers"]], "only the one that was undone touched a worker"
    space.judge(produced=2000)
    assert m.drain() == 0


def test_blocked_lane_is_reloaded_out_of_its_trouble(space, checked):
    """A password that changed on the server: what cannot drain is given up and read again."""
    space.start_redis()
    with space.redis.client() as client:
        client.execute_command("ACL", "SETUSER", "mill", "on", ">first", "~*", "+@all")
    space.topic()
    m = space.millrace(redis={"url": f"redis://127.0.0.1:{space.redis.port}/0", "user": "mill", "password": "first"},
                       lanes=2).start_ready()
    load, checker = checked(m, 12_000, 5)
    applied(m, 1000)
    with space.redis.client() as client:
        client.execute_command("ACL", "SETUSER", "mill", "<first", ">second")
        client.execute_command("CLIENT", "KILL", "USER", "mill")
    m.wait_for(lambda s: m.worker("sink", 0, s)["state"] == "blocked", 10, "the lane to be blocked")
    m.wait_for(lambda s: s["lanes"][0]["ingest_published"] > s["lanes"][0]["released"], 10, "records in the rings")
    m.write_config(redis={"password": "wrong again"})  # a mistake while mending is no reason to stop
    assert ctl(m, "reload", "--wait").returncode == 0
    m.wait_for(lambda s: m.worker("sink", 1, s)["state"] == "blocked", 10, "the lane to be blocked again")
    began = time.monotonic()
    reload(m, redis={"password": "second"})
    assert time.monotonic() - began < 12, "nobody wants to wait for drain_timeout when nothing moves"
    load.finish()
    stats = m.wait_drained(load.next_offset)
    checker.finish()
    assert m.metric("supervisor_ring_reset", stats) >= 1 and m.metric("supervisor_record_discard", stats) > 0
    assert re.search(r"supervisor.ring_reset .* \d+ records in them", m.log_text())
    space.judge(produced=12_000)
    assert m.drain() == 0


def test_requests_and_deaths_in_mid_reload(space, checked):
    """A second SIGHUP waits, a killed worker is replaced or is leaving anyway, and everything comes out right."""
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    load, checker = checked(m, 20_000, 9)
    applied(m, 1000)

    m.write_config(lanes=2)
    m.process.signal(signal.SIGHUP)
    wait_until(lambda: ctl_status(m)["phase"] in ("reloading", "starting") or ctl_status(m)["lanes"] == 2, 5,
               "the reload to begin")
    m.write_config(lanes=3)
    m.process.signal(signal.SIGHUP)
    m.wait_for(lambda s: len(s["lanes"]) == 3 and s["state"] == "running", 10, "what the second one asked for")

    for i, role in enumerate(("ingest", "transform", "sink") * 2):
        m.write_config(lanes=1 + i % 3)
        asked = ctl_status(m)["reload_asked"]
        if i < 3:  # with something in the rings, so that the drain takes its time
            space.redis.pause()
            time.sleep(0.3)
        m.process.signal(signal.SIGHUP)
        time.sleep(0.02 * i)
        m.kill_worker(role, 0)
        if i < 3:
            space.redis.resume()
        wait_until(lambda asked=asked: ctl_status(m)["reload_done"] > asked, 20, f"the reload with a dead {role}")
        assert ctl_status(m)["phase"] == "running"
    load.finish()
    stats = m.wait_drained(load.next_offset)
    checker.finish()
    # The second one may have come when the first one's workers were only starting, and have taken its place.
    assert m.metric("supervisor_reload", stats) in (7, 8)
    space.judge(produced=20_000)
    assert m.drain() == 0


def test_stop_wins_over_a_reload(space):
    space.start_redis()
    space.topic()
    m = space.millrace(drain_timeout="20s").start_ready()
    load = space.load(8_000, 3)
    load.start()
    applied(m, 1000)
    space.redis.pause()
    time.sleep(0.3)
    m.write_config(lanes=2)
    m.remember_pids()
    m.process.signal(signal.SIGHUP)
    wait_until(lambda: ctl_status(m)["phase"] == "reloading", 5, "the reload to begin")
    m.process.signal(signal.SIGHUP)
    m.process.signal(signal.SIGTERM)
    time.sleep(0.2)
    refused = ctl(m, "reload")
    assert refused.returncode == 75 and "stopping" in refused.stderr, refused
    space.redis.resume()
    assert m.wait_exit(25) == 0
    m.wait_workers_gone(1)
    assert ctl(m, "status").returncode == 69 and not (m.run_dir / f"{m.name}.sock").exists()
    load.finish()
    m.start_ready()
    m.wait_drained(load.next_offset)
    space.judge(produced=8_000)
    assert ctl(m, "stop").returncode == 0
    assert m.wait_exit(20) == 0


def test_control_socket_of_a_running_instance(space):
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    assert (m.run_dir / f"{m.name}.sock").stat().st_mode & 0o777 == 0o660
    m.wait_for(lambda s: s["state"] == "running", 20, "its partitions")
    done = m.run_command("ctl", "status")
    assert done.returncode == 0 and f"pid {m.process.pid}: running" in done.stdout, done
    nothing = ctl(m, "accept-loss")
    assert nothing.returncode == 0 and "nothing to accept" in nothing.stdout, nothing
    for wrong in (["frobnicate"], [], ["status", "--wait"], ["accept-loss", "--partition", "1"],
                  ["accept-loss", "--topic", "t", "--partition", "x"], ["reload", "--timeout", "soon"]):
        assert ctl(m, *wrong).returncode == 64, wrong
    assert command("ctl", "--help").returncode == 0
    assert m.drain() == 0


# -- broken rings ----------------------------------------------------------------------------------------------------
class Ring:
    """A ring of a running instance, open for damage: the memory of before a reset, not what takes its place."""

    def __init__(self, pid, name):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                part = re.match(rf"/memfd:millring/{re.escape(name)}/\w+/(\w+) ", os.readlink(f"/proc/{pid}/fd/{fd}"))
                if part:
                    setattr(self, part[1], open(f"/proc/{pid}/fd/{fd}", "r+b", buffering=0))
            except FileNotFoundError:
                pass
        self.capacity = self.word(self.constants, 16)
        self.data = os.fstat(self.producer.fileno()).st_size - self.capacity

    @staticmethod
    def word(f, at, size=8):
        return int.from_bytes(os.pread(f.fileno(), size, at), "little")

    @staticmethod
    def smash(f, at, value=b"\xf0" + b"\xff" * 6 + b"\x7f"):
        os.pwrite(f.fileno(), value, at)

    def full(self):
        return self.word(self.producer, 0) - self.word(self.consumer, 0) > self.capacity * 3 // 4

    def tail(self):
        self.smash(self.producer, 0)

    def head(self):
        self.smash(self.consumer, 0)

    def slots(self):
        for page in (self.producer, self.consumer):
            for slot in range(2):
                self.smash(page, 256 + 64 * slot)

    def numbers(self):
        """The successor goes on with another number than the ring's readers expect."""
        for slot in range(2):
            self.smash(self.producer, 256 + 64 * slot + 8, b"\x11" * 6)

    def header(self):
        self.smash(self.constants, 0)

    def records(self):
        """The number of every record that is in the ring, but for those its reader may have in hand."""
        at, end, seen = self.word(self.consumer, 0), self.word(self.producer, 0), 0
        while at < end and end - at <= self.capacity:
            place = self.data + at % self.capacity
            length, kind = self.word(self.producer, place, 4), self.word(self.producer, place + 4, 2)
            if kind != 0 and seen > 1000:
                self.smash(self.producer, place + 8, b"\x22" * 6)
            seen += kind != 0
            at += 16 + (length + 15) // 16 * 16


def resets(m):
    stats = m.stats_or_none()
    return m.metric("supervisor_ring_reset", stats) if stats else -1


def break_ring(m, name, damage, killed=None):
    """Damages a ring until the supervisor has made the rings anew: whoever uses it writes its own position again and
    again, and what is seen by nobody does no harm."""
    before, ring, over = resets(m), Ring(m.process.pid, name), threading.Event()

    def keep_at_it():
        while not over.wait(0.0002):
            getattr(ring, damage)()

    if killed:  # stopped meanwhile, so that it does not put right what its successor is to find
        m.kill_worker(killed, 0, signal.SIGSTOP)
        getattr(ring, damage)()
        m.kill_worker(killed, 0)
    vandal = threading.Thread(target=(lambda: None) if killed else keep_at_it, daemon=True)
    vandal.start()
    try:
        wait_until(lambda: resets(m) > before, 20, f"a reset after the {damage} of {name} was damaged", 0.05)
    finally:
        over.set()
        vandal.join(10)
    m.wait_for(lambda s: s["state"] == "running", 10, "the instance to run again")


BREAKS = [("ingest[0]", "tail", None), ("ingest[0]", "head", None), ("transform[0]", "tail", None),
          ("transform[0]", "head", None), ("rejects[0]", "tail", None), ("rejects[0]", "head", "transform"),
          ("ingest[0]", "slots", "ingest"), ("transform[0]", "slots", "transform"), ("rejects[0]", "slots", "ingest"),
          ("ingest[0]", "slots", "transform"), ("transform[0]", "slots", "sink"), ("ingest[0]", "numbers", "ingest"),
          ("transform[0]", "header", "sink"), ("rejects[0]", "header", "ingest"), ("sink[0]", "tail", None),
          ("sink[0]", "head", None), ("sink[0]", "slots", "sink"), ("sink[0]", "slots", "audit"),
          ("sink[0]", "numbers", "sink"), ("sink[0]", "header", "audit")]


def test_broken_rings_are_made_anew(space, checked):
    space.start_redis()
    space.topic()
    # Small rings: their ends look at each other's positions only when there seems to be no room.
    m = space.millrace(restart={"window": "1s"}, ring_bytes="1MiB", audit="on").start_ready()
    log = AuditLog(m.data_dir / "audit")
    load, checker = checked(m, 200_000, 120)
    applied(m, 1000)
    for name, damage, killed in BREAKS:
        time.sleep(0.4)  # more than three in a second would be too many
        break_ring(m, name, damage, killed)
        applied(m, m.metric("sink_record_applied"))
    assert m.metric("supervisor_ring_reset") == len(BREAKS), "one reset each, and never a loop"
    load.give_up()
    load.finish()
    stats = m.wait_drained(load.next_offset)
    checker.finish()
    assert m.metric("supervisor_ring_reset", stats) == len(BREAKS)
    assert m.metric("supervisor_record_poison", stats) == 0 and m.metric("transform_record_reject", stats) == 0
    assert re.search(r"supervisor.ring_broken .*ring", m.log_text())
    assert m.metric("supervisor_record_discard", stats) < load.published, "a damaged number was believed"
    space.judge(produced=load.published)
    assert m.drain() == 0
    log.read()
    assert log.complete_to() == load.next_offset, "what was on its way to the audit log is read again"


@pytest.mark.parametrize("name", ["ingest[0]", "transform[0]"])
def test_records_with_wrong_numbers_go_nowhere(space, name):
    """What lies in the rings while Redis stands still is damaged: it is discarded, counted, and read again."""
    space.start_redis()
    space.topic()
    m = space.millrace(redis={"in_flight": 200, "batch": 100}, ring_bytes="1MiB").start_ready()
    load = space.load(20_000, 3)
    load.start()
    applied(m, 200)
    space.redis.pause()
    ring, first = Ring(m.process.pid, name), Ring(m.process.pid, "ingest[0]")
    wait_until(lambda: first.full() and ring.full(), 20, "both rings to be full")
    ring.records()
    space.redis.resume()
    m.wait_for(lambda s: m.metric("supervisor_ring_reset", s) == 1 and s["state"] == "running", 20, "a reset")
    load.finish()
    stats = m.wait_drained(load.next_offset)
    # How many are left depends on how far the sink came with what was good.
    assert m.metric("supervisor_record_discard", stats) > 100
    space.judge(produced=20_000)
    assert m.drain() == 0


def test_rings_that_break_again_and_again_end_the_instance(space):
    space.start_redis()
    space.topic()
    m = space.millrace(ring_dump=True).start_ready()
    for n in range(1, 4):
        break_ring(m, "rejects[0]", "tail")
        assert len(list((m.data_dir / "rings").iterdir())) == n
    kept = min((m.data_dir / "rings").iterdir())
    verified = command("ring", "verify", "--dir", kept)
    assert verified.returncode == 65 and re.search(r"rejects\[0\].*(corrupt|impossible)", verified.stdout), verified
    ring = Ring(m.process.pid, "rejects[0]")
    deadline = time.monotonic() + 20
    while m.process.alive() and time.monotonic() < deadline:
        ring.tail()
        time.sleep(0.02)
    assert m.wait_exit(5) == 70
    assert re.search(r"supervisor.failed .*rings broke more than 3 times", m.log_text())
    m.start_ready()
    assert m.drain() == 0

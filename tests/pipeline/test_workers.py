"""Workers and supervisor killed and stopped at random, under load: what Redis is told, record by record, and how long
the successor of a dead worker takes. SEED= has other moments, TIMES= multiplies the kills and stops."""

import collections
import heapq
import math
import os
import random
import re
import signal
import struct
import subprocess
import time
import zlib

import pytest

from harness import audit_log, reference
from harness.checker import CommitChecker
from harness.generator import Generator
from harness.millrace import chains
from harness.monitor import Monitor, Replay
from harness.oracle import read_log
from harness.process import ROOT
from harness.segment import Segment

TIMES = int(os.environ.get("TIMES", 1))
RATE, KEYS, IN_FLIGHT = 1500, 4000, 200
HEARTBEAT_S, STOP_S = 2.0, (0.05, 1.0)  # stops that are no reason to be killed; beyond: twice the limit
TIMED = {"transform": 16, "sink": 16, "audit": 14, "recon": 4, "ingest": 6}  # kills one by one, and timed
STORM, STOPS, LONG, STORM_S = 90, 22, 3, 11  # kills and stops at any moment, and stops beyond the heartbeat's limit
SUPERVISOR = 10  # kills of the supervisor
TARGET_S = 0.25


class Noting(Generator):
    """Knows which versions went to which partition, in their order."""

    def __init__(self, *args, partitions):
        super().__init__(*args)
        self.partitions, self.sent = partitions, collections.defaultdict(list)

    def next_record(self):
        before = self.version
        topic, account, value, headers = record = super().next_record()
        if ("op", b"delete") not in headers:
            assert self.version == before + 1
            self.sent[zlib.crc32(account.encode()) % self.partitions].append(self.version)
        return record


class Executioner:
    """Kills and stops the workers of one instance, and keeps count."""

    def __init__(self, millrace, seed):
        self.m, self.random, self.lanes = millrace, random.Random(seed), millrace.config["lanes"]
        self.segment = Segment(millrace.run_dir / f"{millrace.name}.stats", self.lanes, millrace.audited)
        self.ended, self.deaths = set(), collections.Counter()
        self.stopped = []  # (when it goes on, (role, lane), pid)

    def signal(self, places, number):
        """(place, pid) of the process that got it: one of a live worker of these; nobody is ended twice."""
        places, deadline = list(places), time.monotonic() + 20
        while time.monotonic() < deadline:
            self.random.shuffle(places)
            for place in places:
                pid = self.segment.worker(*place).pid
                if pid and pid not in self.ended and self.m.signal_pid(pid, place[0], number):
                    return place, pid
            assert self.m.process.alive(), self.m.process.tail()
            self.go_on(time.monotonic() + 0.001)
        raise AssertionError(f"no live {places} to signal")

    def kill(self, places):
        place, pid = self.signal(places, signal.SIGKILL)
        self.ended.add(pid)
        self.deaths[place] += 1

    def timed(self, place):
        """Seconds from the kill until the successor was attached, and until it has passed on its first record."""
        before = self.segment.worker(*place)
        began = time.monotonic()
        self.kill([place])
        attached = None
        while time.monotonic() - began < 30:
            now = self.segment.worker(*place)
            if now.starts == before.starts:
                before = now
            elif now.attached:
                attached = attached or time.monotonic() - began
                if place[0] == "recon" or now.passed_on > before.passed_on:
                    return attached, time.monotonic() - began
            time.sleep(0.0005)
        raise AssertionError(f"the successor of {place} passes nothing on\n{self.m.process.tail(30)}")

    def go_on(self, until):
        """Waits; those whose time has come are let go on."""
        while self.stopped and self.stopped[0][0] <= until:
            at, place, pid = heapq.heappop(self.stopped)
            time.sleep(max(0.0, at - time.monotonic()))
            self.m.signal_pid(pid, place[0], signal.SIGCONT)
        time.sleep(max(0.0, until - time.monotonic()))

    def stop(self, places, seconds):
        place, pid = self.signal(places, signal.SIGSTOP)
        if seconds > HEARTBEAT_S:
            self.ended.add(pid)
            self.deaths[place] += 1
        heapq.heappush(self.stopped, (time.monotonic() + seconds, place, pid))

    def storm(self, kills, stops, long, seconds):
        r, events = self.random, [("kill", 0)] * kills
        events += [("stop", math.exp(r.uniform(*map(math.log, STOP_S)))) for _ in range(stops)]
        events += [("stop", r.uniform(2, 2.5) * HEARTBEAT_S) for _ in range(long)]
        plan = sorted((r.random() * seconds, *event) for event in events)
        began = time.monotonic()
        for moment, what, length in plan:
            self.go_on(began + moment)
            if len(self.stopped) == len(self.segment.workers):
                self.go_on(self.stopped[0][0])
            moving = [place for place in self.segment.workers if place not in [s[1] for s in self.stopped]]
            if what == "kill":
                self.kill(moving)
            else:
                self.stop(moving, length)
        self.go_on(max([began + seconds] + [s[0] for s in self.stopped]))


def quantiles(seconds):
    ordered = sorted(seconds)
    return tuple(1000 * ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] for q in (0.5, 0.99, 1))


def report(times):
    for role, pairs in times.items():
        for what, values in (("attached", [a for a, _ in pairs]), ("first record", [b for _, b in pairs])):
            if role != "recon" or what == "attached":
                print(f"{role}: {len(values)} deaths, {what} after p50 {quantiles(values)[0]:.0f} ms, "
                      f"p99 {quantiles(values)[1]:.0f} ms, max {quantiles(values)[2]:.0f} ms")


def print_ingest(m):
    """How much of ingest's time is the group's: from `waiting for partitions` to having them."""
    spent, waiting = [], None
    for line in m.log_text().splitlines():
        moment = re.match(r"\d+-\d+-\d+T(\d+):(\d+):([\d.]+)Z", line)
        if not moment:
            continue
        h, minute, second = moment.groups()
        at = int(h) * 3600 + int(minute) * 60 + float(second)
        if " ingest worker.ready " in line:
            waiting = at
        elif " ingest ingest.assigned " in line and waiting is not None:
            spent.append((at - waiting) % 86400)
            waiting = None
    print(f"ingest: of that, from attached to its partitions, which is the broker's share: "
          f"p50 {quantiles(spent[1:])[0]:.0f} ms, p99 {quantiles(spent[1:])[1]:.0f} ms")


def kill_one_by_one(executioner, roles):
    """Each while the others are well, so that the time is the worker's own."""
    plan = [(role, n) for role in roles for n in range(TIMES * TIMED[role])]
    executioner.random.shuffle(plan)
    times = collections.defaultdict(list)
    for role, n in plan:
        lane = n % executioner.lanes if role in ("transform", "sink") else 0
        times[role].append(executioner.timed((role, lane)))
        time.sleep(executioner.random.uniform(0.02, 0.1))
    return times


def check_times(executioner):
    """What takes too long is tried again, twice: on a machine that others use, too, a moment may be theirs."""
    slow = list(dict.fromkeys(role for role, _ in executioner.segment.workers))
    for _ in range(3):
        times = kill_one_by_one(executioner, slow)
        report(times)
        slow = [role for role in slow if role not in ("ingest", "recon") and
                quantiles([first for _, first in times[role]])[1] > 1000 * TARGET_S]
        if not slow:
            return
    raise AssertionError(f"the successors of {slow} take longer than {TARGET_S} s")


def check_deaths(m, executioner, stats, long):
    """The product has counted what was done to it, and nothing else; on a machine that is short of time a worker may
    hang beside that, and is told to have."""
    hung = m.metric("supervisor_child_hung", stats) - long
    assert m.metric("supervisor_child_died", stats) == executioner.deaths.total() + hung and 0 <= hung <= 3
    if hung:
        print(f"{hung} workers had no time to show a sign of life")
    for place in executioner.segment.workers:
        w, done = executioner.segment.worker(*place), executioner.deaths[place]
        assert done <= w.deaths <= done + hung and w.starts == 1 + w.deaths, place
    assert m.metric("supervisor_record_poison", stats) == 0, "a healthy record was taken for poison"
    assert m.metric("transform_record_reject", stats) == 0
    assert "supervisor.record_suspect" not in m.log_text()


def check_told(replay, executioner, lanes):
    """Redis was told everything in order; again only what a dead sink had under way."""
    assert not replay.failures, f"{len(replay.failures)} failures, the first: {replay.failures[:5]}"
    assert not replay.missing(), replay.missing()
    for lane in range(lanes):
        assert len(replay.connections[lane]) <= 1 + executioner.deaths["sink", lane]
    assert max(replay.again.values(), default=0) <= IN_FLIGHT
    sinks = sum(executioner.deaths["sink", lane] for lane in range(lanes))
    print(f"{executioner.deaths.total()} workers died, {sinks} of them sinks; {replay.again.total()} writes were sent "
          f"again, at most {max(replay.again.values(), default=0)} by one")


def kill_supervisors(m, r, count):
    """Started again each time, as a service manager does; killed again at any moment, its start among them."""
    for _ in range(count):
        m.kill_supervisor()
        m.wait_workers_gone(2)
        m.start()
        if r.random() < 0.7:
            m.wait_ready()
            time.sleep(r.random())
        else:
            time.sleep(0.3 * r.random())


def check_log(m, count):
    """Every record has one entry that is no repeat."""
    entries = audit_log.entries(m.data_dir)
    first = [(e["partition"], e["offset"]) for e in entries if not e["flags"] & audit_log.REPEAT]
    assert len(first) == len(set(first)) == count
    print(f"the audit log has {count} records, and {len(entries) - count} repeats of them")


def check_supervisors(m, monitor, replay, load, executioner, count):
    """More of the load, while the supervisor is killed `count` times: what it had not committed is written again, and
    ends in the same state."""
    again = replay.again.total()
    kill_supervisors(m, executioner.random, count)
    m.wait_ready()
    load.give_up()
    load.finish()
    stats = m.wait_drained(load.next_offset)
    replay.read(monitor)
    assert not replay.failures, f"{len(replay.failures)} failures, the first: {replay.failures[:5]}"
    assert not replay.missing(), replay.missing()
    assert m.metric("supervisor_record_poison", stats) == 0
    print(f"the supervisor died {count} times under {load.published} records: "
          f"{replay.again.total() - again} writes were done again")


def test_successor_of_a_dead_worker_is_there_at_once(space):
    seed = int(os.environ.get("SEED", 310))
    print(f"SEED={seed} TIMES={TIMES}")
    space.start_redis()
    topic = space.topic()
    m = space.millrace(lanes=2, audit="on", restart={"limit": 1000}).start_ready()
    load = space.load(10**6 * TIMES, 10**6 * TIMES / RATE, generator=Generator(seed, [topic], KEYS))
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    executioner = Executioner(m, seed)
    check_times(executioner)
    load.give_up()
    load.finish()
    check_deaths(m, executioner, m.wait_drained(load.next_offset), 0)
    print_ingest(m)
    space.judge(produced=load.published)
    assert m.drain() == 0


@pytest.mark.parametrize("lanes,audit", [(1, "off"), (2, "on")], ids=["1-lane", "2-lanes-audited"])
def test_kills_and_stops_at_any_moment(space, lanes, audit):
    seed = int(os.environ.get("SEED", 300 + lanes))
    print(f"SEED={seed} TIMES={TIMES}")
    redis = space.start_redis()
    topic = space.topic()
    m = space.millrace(lanes=lanes, audit=audit, heartbeat_timeout=f"{HEARTBEAT_S:.0f}s",
                       restart={"limit": 1000, "backoff_max": "100ms"}, redis={"in_flight": IN_FLIGHT, "batch": 50})
    monitor = Monitor(redis, space.folder / "redis.monitor")
    m.start_ready()
    generator = Noting(seed, [topic], KEYS, partitions=space.partitions)
    count = 10**6 * TIMES
    load = space.load(count, count / RATE, generator=generator)
    checker = CommitChecker(space.broker, m.group, space.topics, space.partitions, redis, load.history, seed)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    checker.start()
    executioner = Executioner(m, seed)
    executioner.storm(TIMES * STORM, TIMES * STOPS, TIMES * LONG, TIMES * STORM_S)
    assert load.live
    load.give_up()
    load.finish()
    stats = m.wait_drained(load.next_offset)
    replay = Replay(generator.sent, lambda partition: partition % lanes).read(monitor)
    check_told(replay, executioner, lanes)
    check_deaths(m, executioner, stats, TIMES * LONG)
    assert all(len(set(numbers)) == 1 for numbers in chains(stats)), chains(stats)
    assert sum(numbers[0] for numbers in chains(stats)) == load.published, "passed on twice or not at all"
    if audit == "on":
        assert m.metric("audit_sequence", stats) == load.published and m.metric("audit_entry_repeat", stats) == 0
    more = space.load(count, count / RATE, generator=generator, history=load.history)
    more.next_offset = load.next_offset
    more.start()
    check_supervisors(m, monitor, replay, more, executioner, TIMES * SUPERVISOR)
    checker.finish()
    space.judge(produced=load.published + more.published)
    assert m.drain() == 0
    if audit == "on":
        check_log(m, load.published + more.published)


def test_sink_that_was_stopped_and_killed_writes_nothing_when_it_is_let_go_on(space):
    """A zombie: stopped beyond the heartbeat's limit with writes under way, replaced, and then woken."""
    redis = space.start_redis()
    topic = space.topic()
    m = space.millrace(heartbeat_timeout="1s", redis={"in_flight": IN_FLIGHT, "batch": 50})
    monitor = Monitor(redis, space.folder / "redis.monitor")
    m.start_ready()
    generator = Noting(11, [topic], KEYS, partitions=space.partitions)
    load = space.load(10**6, 10**6 / RATE, generator=generator)
    load.start()
    executioner = Executioner(m, 11)
    for n in range(3):
        m.wait_for(lambda s, n=n: m.metric("sink_record_applied", s) > 1000 * (n + 1), 20, "some records")
        redis.pause()  # so that what it has sent is not answered, and waits at Redis
        time.sleep(0.1)
        executioner.stop([("sink", 0)], HEARTBEAT_S)
        pid = executioner.stopped[0][2]
        executioner.ended.add(pid)
        if n == 0:  # before the successor comes; else when it waits for its greeting, and both have bytes at Redis
            redis.resume()
        m.wait_for(lambda s, pid=pid: m.worker("sink", 0, s)["pid"] not in (0, pid), 10, "a successor")
        time.sleep(0.2)
        redis.resume()
        m.signal_pid(pid, "sink", signal.SIGCONT)
        executioner.stopped.clear()
    load.give_up()
    load.finish()
    m.wait_drained(load.next_offset)
    replay = Replay(generator.sent, lambda partition: 0).read(monitor)
    assert not replay.failures, replay.failures[:5]
    assert not replay.missing() and len(replay.connections[0]) >= 4
    assert m.metric("supervisor_child_hung") >= 3
    space.judge(produced=load.published)
    assert m.drain() == 0


# -- the clock -------------------------------------------------------------------------------------------------------
SECOND = 10**9
JUMPS = [sign * n * SECOND for n in (1, 60, 3600, 86400, 31557600, 315576000) for sign in (1, -1)]
TTL_MS = 7 * 86400 * 1000


@pytest.fixture(scope="session")
def clock_library(session_folder):
    """The wall clock of those that have it preloaded can be set (tests/clock/jump.c)."""
    path = session_folder / "jump.so"
    done = subprocess.run(["cc", "-std=gnu17", "-O2", "-shared", "-fPIC", "-o", path, ROOT / "tests/clock/jump.c"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return path


class Watch:
    """How long the sink has released nothing, at most."""

    def __init__(self, segment):
        self.segment, self.seen, self.moved, self.longest = segment, 0, time.monotonic(), 0

    def look(self, seconds):
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            come = self.segment.worker("sink").passed_on
            self.longest = max(self.longest, now - self.moved)
            if come != self.seen:
                self.seen, self.moved = come, now
            time.sleep(0.002)


def test_wall_clock_that_is_set_stalls_nothing_and_ends_no_life(space, clock_library):
    seed = int(os.environ.get("SEED", 12))
    print(f"SEED={seed} TIMES={TIMES}")
    redis = space.start_redis()
    topic = space.topic(ttl="7d")
    clock = space.folder / "clock"
    clock.write_bytes(struct.pack("<q", 0))
    m = space.millrace(env={"LD_PRELOAD": str(clock_library), "MILLRACE_TEST_CLOCK": str(clock)},
                       heartbeat_timeout="2s").start_ready()
    load = space.load(10**6 * TIMES, 10**6 * TIMES / 800, keys=1000, seed=seed)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")
    for role in ("supervisor", "ingest", "transform", "sink"):
        pid = m.process.pid if role == "supervisor" else m.worker(role, 0)["pid"]
        with open(f"/proc/{pid}/maps", encoding="ascii") as f:
            assert str(clock) in f.read(), f"{role} goes by the machine's clock"
    watch, jumps = Watch(Segment(m.run_dir / f"{m.name}.stats", 1, False)), JUMPS * TIMES
    random.Random(seed).shuffle(jumps)
    with open(clock, "r+b", buffering=0) as f:
        for jump in jumps:
            for ahead in (jump, 0):
                os.pwrite(f.fileno(), struct.pack("<q", ahead), 0)
                watch.look(0.4)
    watch.look(1)
    load.give_up()
    load.finish()
    stats = m.wait_drained(load.next_offset)
    print(f"{2 * len(jumps)} jumps of up to ten years; longest stall {1000 * watch.longest:.0f} ms")
    assert m.metric("supervisor_child_died", stats) == 0 and m.metric("supervisor_child_hung", stats) == 0
    assert m.metric("sink_record_expired", stats) == 0
    assert watch.longest <= 1
    space.judge(produced=load.published)
    wanted = {}
    for record in read_log(space.broker, [topic.name], space.partitions)[0]:
        for key, value in reference.effects(reference.transform(topic, record)):
            wanted.pop(key, None)
            if value is not None:
                wanted[key] = record.timestamp + TTL_MS
    with redis.client() as client:
        assert {k: client.execute_command("PEXPIRETIME", k) for k in wanted} == wanted
    assert m.drain() == 0

"""The n-th allocation fails, the n-th system call fails: in every program, at its start and while records pass.

A program's place is taken by tests/faults/wrap.c, which starts it with one fault in it each time: the supervisor starts
the next one when it has ended, so that one instance goes through hundreds of faults under load. Afterwards it has to be
whole: Redis holds what the topic says, everything is committed, nobody died of anything but a clear end or the
harness's own SIGKILL, and the supervisor has no descriptor more than before.
"""

import errno
import os
import pathlib
import random
import re
import shutil
import subprocess
import time

import pytest

from harness import oracle, reference
from harness.generator import Generator, Load, change_topic
from harness.millrace import Millrace
from harness.process import BUILD, ROOT, wait_until

SEED = int(os.environ.get("SEED", "20261121"))
TIMES = float(os.environ.get("TIMES", "1"))
ROLES = ("ingest", "transform", "sink", "audit", "recon")
ERRORS = ("EINTR", "EAGAIN", "ENOSPC", "EIO", "EMFILE", "ENOMEM")
ALLOCATIONS, CALLS = 500, 500  # over all programs, at TIMES=1
PARTITIONS, KEYS, COUNT_MS = 2, 400, 700


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    flags = ["gcc", "-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]
    subprocess.run([*flags, ROOT / "tests/faults/wrap.c", "-o", folder / "wrap"], check=True)
    subprocess.run([*flags, "-shared", "-fPIC", ROOT / "tests/faults/alloc.c", "-o", folder / "alloc.so"], check=True)
    return folder


class Programs:
    """A folder of programs in which some are wrapped."""

    def __init__(self, folder, tools):
        self.folder = folder
        (folder / "real").mkdir(parents=True)
        for path in BUILD.glob("millrace*"):
            if path.is_file() and not path.suffix and path.name != "millrace-demo":
                shutil.copy(path, folder / path.name)
        for role in ROLES:
            shutil.copy(BUILD / f"millrace-{role}", folder / "real")
        self.tools = tools
        shutil.copy(tools / "alloc.so", folder)

    def wrap(self, role, lines):
        for suffix in ("plan", "next", "log", "count"):  # the plan first: a start in between takes none
            self.file(role, suffix).unlink(missing_ok=True)
        self.file(role, "plan.new").write_text("".join(f"{line}\n" for line in lines))
        os.replace(self.file(role, "plan.new"), self.file(role, "plan"))
        shutil.copy(self.tools / "wrap", self.folder / f"{role}.new")
        os.replace(self.folder / f"{role}.new", self.folder / f"millrace-{role}")

    def unwrap(self, role):
        shutil.copy(self.folder / "real" / f"millrace-{role}", self.folder / f"{role}.new")
        os.replace(self.folder / f"{role}.new", self.folder / f"millrace-{role}")

    def file(self, role, suffix):
        return self.folder / f"{role}.{suffix}"

    def taken(self, role):
        path = self.file(role, "next")
        return int(path.read_text() or 0) if path.exists() else 0

    def log(self, role):
        path = self.file(role, "log")
        return path.read_text().splitlines() if path.exists() else []


class Storm:
    """An instance under load, one of whose programs fails again and again."""

    def __init__(self, space, tools):
        space.start_redis()
        self.space = space
        self.topic = space.topic(change_topic, "load", partitions=PARTITIONS)
        self.generator = Generator(SEED, [self.topic], KEYS)
        self.load = None
        self.published, self.statuses = 0, []
        self.programs = Programs(space.folder / "bin", tools)
        self.m = space.millrace(build=self.programs.folder, audit="on", redis={"when_marks_missing": "rebuild"},
                                restart={"backoff_max": "10ms", "limit": 64, "window": "10s"},
                                poison={"attempts": 10, "limit": 50})

    def publish(self, count):
        load = Load(self.space.broker, self.generator, PARTITIONS, count)
        if self.load is not None:
            load.history, load.next_offset = self.load.history, self.load.next_offset
        load.start()
        self.load = load.finish()
        self.published += count

    def keep_alive(self):
        """As a service manager does."""
        if not self.m.process.alive():
            self.statuses.append(self.m.process.wait(5))
            self.m.start()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.m.process.pid}/fd"))

    def begin(self, role, lines):
        """From its next start on, which is now."""
        self.programs.wrap(role, lines)
        deadline = time.monotonic() + 20
        while self.programs.taken(role) == 0:
            assert time.monotonic() < deadline, f"{role} does not start"
            try:
                self.m.kill_worker(role, timeout=1)
            except AssertionError:
                pass  # it is between two starts, or the supervisor is
            for _ in range(60):
                if self.programs.taken(role) == 0:
                    time.sleep(0.05)

    def counts(self, role):
        """How many allocations and system calls there are from a start on under load."""
        found = []
        for kind in ("acount", "ccount"):
            self.begin(role, [f"{kind} {COUNT_MS}"])
            self.publish(1000)
            path = self.programs.file(role, "count")
            wait_until(lambda: path.exists() and path.read_text(), 20, f"the {kind} of {role}")
            least = 120 if kind == "ccount" else 1  # it may have been killed early
            found.append(max(least, int(path.read_text().split()[-1])))
        self.programs.unwrap(role)
        return found

    def run(self, plans, timeout):
        """plans: {role: lines}, all at the same time. Returns {role: what was done}."""
        for role, plan in plans.items():
            self.begin(role, plan)
        deadline = time.monotonic() + timeout
        while any(self.programs.taken(role) < len(plan) for role, plan in plans.items()):
            done = {role: self.programs.taken(role) for role in plans}
            assert time.monotonic() < deadline, f"starts in {timeout} s: {done}"
            self.publish(100)
            self.keep_alive()
            time.sleep(0.05)
        time.sleep(0.2)  # for the last ones to have their fault
        for role in plans:
            self.programs.unwrap(role)
        return {role: self.programs.log(role) for role in plans}

    def settle(self, timeout=40):
        """Everything is there, and nobody is in trouble."""
        _, ends = oracle.read_log(self.space.broker, [self.topic.name], PARTITIONS)
        deadline = time.monotonic() + timeout
        while True:
            self.keep_alive()
            stats = self.m.stats_or_none()
            now = {(p["topic"], p["partition"]): p for p in stats["partitions"]} if stats else {}
            if stats and all(at in now and now[at]["committed"] == end for at, end in ends.items()) and \
                    all(w["state"] == "running" for w in stats["workers"]):
                return stats
            assert time.monotonic() < deadline, f"not settled: {stats}"
            time.sleep(0.1)


def plan_of(pick, allocations, calls, counted):
    """A seeded sample of the starts; the first ones of a program more often than those under load."""
    def place(most):
        return max(1, min(most, int(most * pick.random() ** 1.5) + 1))
    lines = [f"alloc {place(counted[0])}{'+' if pick.random() < 0.3 else ''}" for _ in range(allocations)]
    lines += [f"call {place(counted[1])} {getattr(errno, pick.choice(ERRORS))}" for _ in range(calls)]
    pick.shuffle(lines)
    return lines


def tell(role, counted, plan, lines, deaths):
    calls = sum(" call " in line for line in lines)
    failed = sum(re.search(r" (\w*alloc|memalign) ", line) is not None for line in lines)
    crashes = [line.split()[2:] for line in lines if " crash " in line]
    places = sorted({path.rsplit("/", 1)[-1] for path, _ in crashes})
    print(f"SEED={SEED} TIMES={TIMES:g} {role}: {counted[0]} allocations and {counted[1]} calls in {COUNT_MS} ms; "
          f"{len(plan)} starts, {failed} allocations and {calls} calls failed, {deaths} deaths; "
          f"{len(crashes)} crashes within {places or 'nothing'}")
    assert calls + failed >= len(plan) * 0.4, "too few faults were reached"
    own = [c for c in crashes if "millrace-" in c[0]]
    assert not own, f"{role} crashed: {own[:5]}"


# One after the other, each has the machine to itself, and what it did is plain to see: for a long run.
@pytest.mark.parametrize("roles", [ROLES] + ([(r,) for r in ROLES] if TIMES >= 6 else []), ids="+".join)
def test_nth_allocation_and_nth_call_fail(space, tools, roles):
    storm, pick = Storm(space, tools), random.Random(f"{SEED} {roles}")
    m = storm.m
    storm.publish(1000)
    m.start_ready()
    storm.settle()
    descriptors = storm.descriptors()
    counted = {role: storm.counts(role) for role in roles}
    share = TIMES / len(ROLES)
    plans = {role: plan_of(pick, round(ALLOCATIONS * share), round(CALLS * share), counted[role]) for role in roles}
    began = time.monotonic()
    lines = storm.run(plans, 60 + sum(len(p) for p in plans.values()))
    print(f"\n{sum(len(p) for p in plans.values())} starts in {time.monotonic() - began:.0f} s, "
          f"{storm.published} records, the instance ended {storm.statuses}")
    stats = storm.settle()
    log = m.log_text()
    if os.environ.get("FAULT_LOGS"):
        text = "\n".join(f"{role} {line}" for role in roles for line in lines[role])
        pathlib.Path(os.environ["FAULT_LOGS"], f"storm-{'+'.join(roles)}").write_text(log + "\n" + text)
    for role in roles:
        tell(role, counted[role], plans[role], lines[role], m.worker(role, stats=stats)["deaths"])
    records, _ = oracle.read_log(space.broker, [storm.topic.name], PARTITIONS)
    expected, _ = reference.fold([storm.topic], records)
    with space.redis.client() as client:
        difference = oracle.compare(expected, oracle.read_redis(client, lambda key, value: value))
    assert not difference, str(difference)
    assert not m.rejects(), "healthy records were rejected"
    assert storm.descriptors() <= descriptors, "the supervisor has left descriptors open"
    assert not re.search(r"corrupted|double free|free\(\): invalid|stack smashing", log)
    assert m.drain() == 0
    verified = m.run_command("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr

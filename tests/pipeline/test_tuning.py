"""Processors and memory of the workers: what was asked for is what they have, and the records do not mind."""

import fcntl
import json
import os
import pathlib

import pytest

from harness.millrace import command
from harness.process import wait_until

HUGE = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
MIB = 1 << 20


def allowed(pid):
    """Where each thread of a process may run."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    lines = [line for t in tasks for line in (t / "status").read_text(encoding="ascii").splitlines()]
    return [line.split()[1] for line in lines if line.startswith("Cpus_allowed_list:")]


def status_kib(pid, field):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise AssertionError(field)


def run_load(space, m, kills=()):
    """6,000 records over two seconds; these workers die in the midst of it."""
    load = space.load(6000, 2, keys=500)
    load.start()
    for i, (role, lane) in enumerate(kills):
        wait_until(lambda: load.published > 1000 * (i + 1), 30, "some records")
        m.kill_worker(role, lane)
    load.finish()
    m.wait_drained(load.next_offset)


def test_workers_are_pinned_locked_and_their_rings_are_there_from_the_start(space):
    space.start_redis()
    space.topic()
    here = sorted(os.sched_getaffinity(0))
    first, last = str(here[0]), str(here[-1])
    m = space.millrace(lanes=2, spin_us=20, cpus={"ingest": first, "transform": [last, first], "sink": last + ",1000"},
                       memory={"huge_pages": "off", "prefault": True, "lock": True}).start_ready()
    run_load(space, m, [("transform", 0)])  # the successor is pinned as well
    stats = m.stats()
    wanted = {("ingest", None): first, ("transform", 0): last, ("transform", 1): first, ("sink", 0): last,
              ("sink", 1): last}
    for (role, lane), cpus in wanted.items():
        w = m.worker(role, lane, stats)
        threads = allowed(w["pid"])
        assert set(threads) == {cpus}, (role, lane, threads)
        if role == "ingest":
            assert len(threads) > 3, "the threads of the Kafka client are pinned too"
    log = m.log_text()
    assert log.count("worker.pinned ") == 4 and log.count("worker.pinned_partly") == 2, log
    assert log.count("worker.spins") == 6 and "supervisor.tuning" in log
    for w in stats["workers"]:
        assert w["metrics"]["worker_cpu_pinned"] == 1, w
        locked = status_kib(w["pid"], "VmLck")
        assert (locked > 0) == (w["metrics"]["worker_memory_locked"] > 0) == ("worker.memory_locked" in log), w
    # A lane has three rings of 16 MiB; what nothing was rejected for has never been written and is there all the same.
    assert 96 * MIB <= stats["metrics"]["supervisor_ring_memory"] < 97 * MIB
    assert stats["metrics"]["supervisor_ring_memory_huge"] == 0
    assert status_kib(m.worker("sink", 0, stats)["pid"], "RssShmem") > 16 * 1024
    assert status_kib(m.worker("transform", 0, stats)["pid"], "RssShmem") > 48 * 1024
    assert m.drain() == 0
    space.judge()


@pytest.fixture
def huge_pages():
    """reserve(n): exactly n huge pages are free. Given back at the end; one test at a time on the machine."""
    with open(HUGE / "nr_hugepages", "r+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = int(file.read())

        def reserve(n):
            used = before - int((HUGE / "free_hugepages").read_text(encoding="ascii"))
            (HUGE / "nr_hugepages").write_text(str(used + n), encoding="ascii")
            if int((HUGE / "free_hugepages").read_text(encoding="ascii")) != n:
                pytest.skip("huge pages cannot be reserved here")
        yield reserve
        (HUGE / "nr_hugepages").write_text(str(before), encoding="ascii")


may_reserve = pytest.mark.skipif(not os.access(HUGE / "nr_hugepages", os.W_OK),
                                 reason="huge pages cannot be reserved here")


@may_reserve
def test_rings_in_huge_pages_outlive_workers_like_any_other(space, huge_pages):
    huge_pages(27)
    space.start_redis()
    space.topic()
    m = space.millrace(memory={"huge_pages": "require"}).start_ready()
    run_load(space, m, [("transform", 0), ("sink", 0), ("ingest", None)])
    metrics = m.stats()["metrics"]
    assert metrics["supervisor_ring_memory_huge"] == metrics["supervisor_ring_memory"] == 54 * MIB
    assert int((HUGE / "free_hugepages").read_text(encoding="ascii")) == 0
    assert "55296 KiB of rings, 55296 KiB of it in huge pages" in m.log_text()
    found = {c["check"]: c["status"] for c in
             json.loads(m.run_command("tune", "check", "--format", "json").stdout)["checks"]}
    assert found["huge_pages"] == "unknown", "this very instance has them"
    assert m.drain() == 0
    space.judge()


@may_reserve
def test_too_few_huge_pages_are_a_warning_or_a_refusal_as_configured(space, huge_pages):
    huge_pages(10)
    space.start_redis()
    space.topic()
    m = space.millrace(memory={"huge_pages": "try"}).start_ready()
    run_load(space, m)
    assert m.log_text().count("supervisor.huge_pages_short") == 2
    assert m.metric("supervisor_ring_memory_huge") == 18 * MIB
    assert m.drain() == 0
    m.write_config(memory={"huge_pages": "require"})
    done = command("run", "-c", m.file)
    assert done.returncode == 71 and "no huge pages (" in done.stderr, done.stderr
    checked = m.run_command("tune", "check")
    assert checked.returncode == 1 and "10 of 2 MiB are reserved, the rings take 27" in checked.stdout

"""From the version before to this one and back, under load: nothing is lost, whichever of them has written what.

The version before is the latest tag below HEAD; MILLRACE_UPGRADE_FROM=COMMIT takes any commit instead."""

import os
import subprocess

import pytest
from confluent_kafka import Producer

from harness.checker import CommitChecker
from harness.process import BUILD, ROOT

PROGRAMS = ("millrace", "millrace-supervisor", "millrace-ingest", "millrace-transform", "millrace-sink")
PARTITIONS = 8
# What the outside world says about a build has no place in the one that is made here.
CLEAN = {k: v for k, v in os.environ.items() if k not in ("CI", "BUILD", "VARIANT", "VERSION", "MAKEFLAGS", "CFLAGS")}


def git(*args):
    done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def version_before():
    """Its commit, or "" when nothing has been released yet. A tag on HEAD itself is this version."""
    asked = os.environ.get("MILLRACE_UPGRADE_FROM")
    if asked:
        commit = git("rev-parse", "--verify", f"{asked}^{{commit}}")
        assert commit, f"MILLRACE_UPGRADE_FROM={asked} is no commit of this repository"
        return commit
    tag = git("describe", "--tags", "--abbrev=0", "HEAD^")
    return git("rev-parse", "--verify", f"{tag}^{{commit}}") if tag else ""


def built(commit):
    """Programs of that commit, made once, beside those under test."""
    folder = BUILD / "upgrade" / commit[:12]
    programs = folder / "build"
    if all((programs / p).exists() for p in PROGRAMS):
        return programs
    folder.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], stdout=subprocess.PIPE, timeout=60, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, timeout=60, check=True)
    done = subprocess.run(["make", "-s", "-j2", "-C", str(folder), "BUILD=build", f"VERSION={commit[:12]}",
                           *[f"build/{p}" for p in PROGRAMS]], capture_output=True, text=True, timeout=300, env=CLEAN)
    assert done.returncode == 0, f"{commit} does not build:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return programs


def publish_bad(space, topic, number):
    """A record that every version has to reject and to list, whoever has stored it."""
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0})
    producer.produce(topic.name, b"{no json %d" % number, b"bad", partition=number % PARTITIONS)
    assert producer.flush(30) == 0


def more_applied(m, count):
    before = m.metric("sink_record_applied")
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > before + count, 30, f"{count} more records applied")


@pytest.mark.may_skip
def test_upgrade_and_way_back_under_load(space):
    commit = version_before()
    if not commit:
        pytest.skip("nothing has been released yet: there is no version to come from")
    old, new = built(commit), BUILD
    space.start_redis("--appendonly", "yes")
    changes = space.topic(partitions=PARTITIONS, compress="lz4", encrypt=True)
    bad = space.topic(suffix="bad", partitions=PARTITIONS)
    key_file = space.key_file()
    m = space.millrace(lanes=2, crypto={"keys": str(key_file)})
    load = space.load(40_000, 20, keys=3000, topics=[changes])
    checker = CommitChecker(space.broker, m.group, [changes], PARTITIONS, space.redis, load.history, 1, key_file)
    load.start()
    for number, build in enumerate((old, new, old, new)):
        m.build = build
        m.start_ready()
        publish_bad(space, bad, number)
        more_applied(m, 2000)
        assert load.live, "the load has to outlast every step"
        if number == 0:
            checker.start()
        if number < 3:
            assert m.drain() == 0, f"step {number}: drained under load"
    load.finish()
    m.wait_drained(load.next_offset)
    checker.finish()
    assert checker.advances > 0
    listed = m.rejects()
    assert [(r["topic"], r["partition"], r["reason"]) for r in sorted(listed, key=lambda r: r["partition"])] == \
        [(bad.name, number, "json_invalid") for number in range(4)]
    assert m.drain() == 0
    space.judge(produced=40_004, key_file=key_file)

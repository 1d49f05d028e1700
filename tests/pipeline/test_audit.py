"""The chain with an audit stage: nothing is committed before it is in the log, and nothing is in it twice."""

import os
import random
import threading
import time

from harness.audit_follow import AuditLog
from harness.broker import Commits
from harness.millrace import chains
from harness.process import wait_until

ROLES = ("ingest", "transform", "sink", "audit")


class Killer(threading.Thread):
    """Sends SIGKILL to each role `kills` times, spread over the load, at seeded moments."""

    def __init__(self, millrace, load, seed, seconds, kills):
        super().__init__(name="killer", daemon=True)
        self.millrace, self.load = millrace, load
        r, slot = random.Random(seed), (seconds - 3) / kills
        self.plan = sorted((2 + slot * (i + r.random()), role, r.randrange(millrace.config["lanes"]))
                           for role in ROLES + ("recon",) for i in range(kills if role != "recon" else 3))
        self.kills, self.failure = 0, None

    def run(self):
        try:
            for moment, role, lane in self.plan:
                time.sleep(max(0.0, self.load.began + moment - time.monotonic()))
                self.millrace.kill_worker(role, lane)
                self.kills += 1
        except BaseException as e:  # handed to finish(), which raises it in the test
            self.failure = e

    def finish(self):
        self.join(60)
        assert not self.is_alive(), "the killer hangs"
        if self.failure is not None:
            raise self.failure


def in_the_log(log, ends):
    """Every record of the topics has an entry, and one only that is not marked as a repeat: the first."""
    offsets = log.offsets()
    first = set()
    for e in log.entries:
        place = (e.topic, e.partition, e.offset)
        assert e.repeat == (place in first), f"{e} is{' not' * (place in first)} marked as a repeat"
        first.add(place)
    for place, end in ends.items():
        assert sorted(set(offsets[place])) == list(range(end)), f"{place} is not wholly in the log"
    return len(log.entries) - len(first)


def test_every_record_is_logged_once_while_every_worker_is_killed_20_times(space):
    seed = int(os.environ.get("SEED", 5))
    seconds, kills, records = 30, 20, 60_000
    space.start_redis()
    space.topic()
    m = space.millrace(lanes=2, audit="on").start_ready()
    log = AuditLog(m.data_dir / "audit")
    load = space.load(records, seconds, keys=5000, seed=seed)
    load.start()
    wait_until(lambda: load.live, 10, "the load to begin")
    m.wait_for(lambda s: m.metric("ingest_commit", s) > 0, 10, "the group to be there")
    killer = Killer(m, load, seed, seconds, kills)
    killer.start()
    samples = ahead = 0
    with Commits(space.broker, m.group, [t.name for t in space.topics], space.partitions) as commits:
        while load.live or killer.is_alive():
            committed = commits.read()
            log.read()
            logged = log.complete_to()
            for place, offset in committed.items():
                assert offset <= logged.get(place, 0), f"{place}: {offset} is committed, {logged.get(place)} logged"
                ahead += offset < logged.get(place, 0)
            for numbers in chains(m.stats()):
                assert numbers == sorted(numbers, reverse=True), "a stage is ahead of the one before it"
            samples += 1
            time.sleep(0.2)
    load.finish()
    killer.finish()
    assert samples > 30 and ahead > 30, (samples, ahead)
    stats = m.wait_drained(load.next_offset)
    assert killer.kills == len(ROLES) * kills + 3
    assert all(len(set(numbers)) == 1 for numbers in chains(stats)), chains(stats)
    assert m.drain() == 0
    log.read()
    assert in_the_log(log, load.next_offset) == 0, "no worker's death has a record read again"
    assert len(log.entries) == records
    assert len(log.numbers) == 2, "each lane had one ring"
    assert sum(log.numbers.values()) == sum(lane["released"] for lane in stats["lanes"])
    space.judge(produced=records)
    print(f"{samples} samples, {killer.kills} kills")


def test_a_killed_supervisor_has_records_logged_again_and_marked(space):
    space.start_redis()
    space.topic()
    m = space.millrace(lanes=2, audit="on").start_ready()
    log = AuditLog(m.data_dir / "audit")
    load = space.load(15_000, 6, keys=2000)
    load.start()
    for applied in (2000, 7000):
        m.wait_for(lambda s, n=applied: s["lanes"] and load.live and len(log.read()) > n, 20, "some entries", 0.01)
        m.kill_supervisor()
        m.wait_workers_gone(2)
        m.start_ready()
    load.finish()
    m.wait_drained(load.next_offset)
    assert m.drain() == 0
    log.read()
    repeats = in_the_log(log, load.next_offset)
    assert 0 < repeats < 10_000, "what was logged and not committed comes again"
    assert len(log.numbers) == 6, "each start has rings of its own"
    space.judge(produced=15_000)


def test_what_redis_loses_is_written_again_and_logged_again(space):
    redis = space.start_redis()
    space.topic()
    m = space.millrace(audit="on").start_ready()
    log = AuditLog(m.data_dir / "audit")
    load = space.load(4_000, 0, keys=500)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    with redis.client() as client:
        client.flushall()
    m.wait_for(lambda s: m.metric("ingest_partition_rewind", s) == space.partitions, 20, "every partition to go back")
    m.wait_for(lambda s: len(log.read()) == 8_000, 20, "all of it to be logged again")
    m.wait_drained(load.next_offset)
    assert m.drain() == 0
    log.read()
    assert in_the_log(log, load.next_offset) == 4_000
    space.judge(produced=4_000)


def test_a_reload_turns_audit_on_and_changes_its_lanes(space):
    space.start_redis()
    space.topic()
    m = space.millrace(lanes=1).start_ready()
    load = space.load(12_000, 8, keys=2000)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 1000, 20, "some records")

    def reload(**more):
        done = m.metric("supervisor_reload")
        m.write_config(**more)
        assert m.run_command("ctl", "reload").returncode == 0
        m.wait_for(lambda s: m.metric("supervisor_reload", s) == done + 1, 30, "the reload")

    reload(audit="on", recon={"keys": str(m.audit_key())})
    assert [w["role"] for w in m.stats()["workers"]] == ["ingest", "transform", "sink", "audit", "recon"]
    log = AuditLog(m.data_dir / "audit")
    m.wait_for(lambda s: len(log.read()) > 1000, 20, "entries")
    reload(lanes=3)
    load.finish()
    m.wait_drained(load.next_offset)
    stats = m.stats()
    assert len(stats["lanes"]) == 3 and all(len(set(numbers)) == 1 for numbers in chains(stats)), chains(stats)
    assert m.drain() == 0
    log.read()
    first = {place: min(offsets) for place, offsets in log.offsets().items()}
    for place, offsets in log.offsets().items():
        assert offsets == list(range(first[place], load.next_offset[place])), "in order, once, to the end"
    assert not any(e.repeat for e in log.entries)
    assert 1000 < len(log.entries) < 12_000
    space.judge(produced=12_000)

"""The proof: a minute of mixed load on real servers, every stage killed again and again, and nothing missing."""

import os
import random
import threading
import time

import pytest

from harness.checker import CommitChecker
from harness.millrace import chains
from harness.process import wait_until

RECORDS, SECONDS, KEYS, KILLS = 200_000, 60, 20_000, 20
ROLES = ("ingest", "transform", "sink")


class Killer(threading.Thread):
    """Sends SIGKILL to each role KILLS times while the load is live, at seeded random moments and lanes."""

    def __init__(self, millrace, load, seed, seconds):
        super().__init__(name="killer", daemon=True)
        self.millrace, self.load = millrace, load
        r, slot = random.Random(seed), (seconds - 6) / KILLS
        # One moment anywhere in each slot: random, but no worker is left in peace for long.
        self.plan = sorted((2 + slot * (i + r.random()), role, r.randrange(millrace.config["lanes"]))
                           for role in ROLES for i in range(KILLS))
        self.hits, self.failure = {role: [] for role in ROLES}, None

    def run(self):
        try:
            for moment, role, lane in self.plan:
                time.sleep(max(0.0, self.load.began + moment - time.monotonic()))
                pid = self.millrace.kill_worker(role, lane)
                if self.load.live:
                    self.hits[role].append(pid)
        except BaseException as e:  # handed to finish(), which raises it in the test
            self.failure = e

    def finish(self):
        self.join(60)
        assert not self.is_alive(), "the killer hangs"
        if self.failure is not None:
            raise self.failure
        for role, pids in self.hits.items():
            assert len(pids) >= KILLS and len(set(pids)) == len(pids), f"{role}: only {len(pids)} kills hit a live load"


@pytest.mark.parametrize("lanes,coded", [(1, False), (2, True), (4, False)],
                         ids=["1-lane", "2-lanes-sealed", "4-lanes"])
def test_nothing_is_lost_when_every_stage_is_killed_20_times(space, lanes, coded):
    seed = int(os.environ.get("SEED", 1000 + lanes))
    print(f"SEED={seed}")
    space.start_redis(unix=lanes == 2)
    space.topic(**({"compress": "lz4", "encrypt": True} if coded else {}))
    more, key_file = {}, None
    if coded:
        key_file = space.key_file()
        more["crypto"] = {"keys": str(key_file)}
    m = space.millrace(lanes=lanes, **more).start_ready()
    load = space.load(RECORDS, SECONDS, keys=KEYS, seed=seed)
    checker = CommitChecker(space.broker, m.group, space.topics, space.partitions, space.redis, load.history, seed,
                            key_file)
    load.start()
    wait_until(lambda: load.live, 10, "the load to begin")
    checker.start()
    killer = Killer(m, load, seed, SECONDS)
    killer.start()
    while load.live:
        for numbers in chains(m.stats()):
            assert numbers == sorted(numbers, reverse=True), "a stage is ahead of the one before it"
        time.sleep(0.5)
    load.finish()
    killer.finish()
    assert load.published == RECORDS and load.ended - load.began >= SECONDS - 1

    stats = m.wait_drained(load.next_offset)
    checker.finish()
    assert checker.checks > 20_000 and checker.advances > 100, (checker.checks, checker.advances)
    assert all(len(set(numbers)) == 1 for numbers in chains(stats)), chains(stats)
    starts = {role: sum(w["starts"] for w in stats["workers"] if w["role"] == role) for role in ROLES}
    assert starts == {"ingest": 1 + KILLS, "transform": lanes + KILLS, "sink": lanes + KILLS}
    assert m.metric("supervisor_child_died", stats) == len(ROLES) * KILLS
    assert m.metric("transform_record_reject", stats) == 0
    space.judge(key_file=key_file, produced=RECORDS)
    assert m.drain() == 0
    assert space.broker.committed(m.group, [t.name for t in space.topics], space.partitions) == load.next_offset
    print(f"{checker.rounds} rounds, {checker.checks} checks of commits, {checker.advances} advances")

"""Checks, while the load runs, that no commit is ahead of Redis.

For the committed offset C of a partition, read *before* Redis is looked at: for every key that an event below C has
touched, the value in Redis must be the result of the last such event, or of a later one. Anything else means that a
restart from C would lose a record.
"""

import bisect
import random
import threading

from .broker import Commits
from .oracle import Decoder

NEWEST, OLDER = 60, 30  # records looked at per partition and round: those just below the commit, and any


class CommitChecker(threading.Thread):
    def __init__(self, broker, group, topics, partitions, redis_server, history, seed, key_file=None, pause=0.25):
        super().__init__(name="commit checker", daemon=True)
        self.broker, self.group, self.partitions, self.redis = broker, group, partitions, redis_server
        self.topics, self.history = topics, history
        self.random, self.pause = random.Random(seed), pause
        self.decoder = Decoder(topics, key_file)
        self.stopping = threading.Event()
        self.rounds = self.checks = self.advances = 0
        self.violations, self.failure, self.highest = [], None, {}

    def run(self):
        try:
            with Commits(self.broker, self.group, [t.name for t in self.topics], self.partitions) as commits, \
                    self.redis.client() as client:
                while not self.stopping.wait(self.pause):
                    self.round(commits.read(), client)
        except BaseException as e:  # handed to finish(), which raises it in the test
            self.failure = e

    def pick(self, place, committed):
        touched = self.history.touched.get(place, [])
        end = min(committed, len(touched))
        offsets = set(range(max(0, end - NEWEST), end))
        offsets |= {self.random.randrange(end) for _ in range(OLDER if end else 0)}
        return sorted({key for o in offsets for key in touched[o]})

    def round(self, committed, client):
        wanted = []
        for place, offset in committed.items():
            before = self.highest.get(place)
            self.advances += before is not None and offset > before
            if before is not None and offset < before:
                self.violations.append(f"{place}: the commit went back from {before} to {offset}")
            self.highest[place] = offset
            if offset > len(self.history.touched.get(place, [])):
                self.violations.append(f"{place}: {offset} is committed, beyond the end of the log")
            wanted += [(place, offset, key) for key in self.pick(place, offset)]
        if wanted:
            values = client.mget([key for _, _, key in wanted])
            for (place, offset, key), stored in zip(wanted, values):
                self.check(place, offset, key, self.decoder(key, stored))
        self.rounds += 1

    def check(self, place, committed, key, found):
        offsets, values = self.history.states[key]
        last = bisect.bisect_left(offsets, committed) - 1
        self.checks += 1
        if last >= 0 and found not in values[last:]:
            self.violations.append(
                f"{place}: {committed} is committed, but {key!r} does not hold the result of {offsets[last]} or later")

    def finish(self):
        self.stopping.set()
        self.join(60)
        assert not self.is_alive(), "the checker hangs"
        if self.failure is not None:
            raise self.failure
        assert not self.violations, f"{len(self.violations)} violations, the first: {self.violations[:5]}"
        return self

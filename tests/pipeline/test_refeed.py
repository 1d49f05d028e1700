"""Refeeds: keys that somebody has spoilt in Redis are put right by feeding chosen records once more, while others come."""

import bisect
import json
import os
import random
import struct
import threading
import time

from harness.generator import bulk_topic
from harness.oracle import Decoder

TOPIC_BYTES = 256


def write_request(data_dir, parts):
    """parts: {(topic, partition): (until, offsets)}. Returns the path."""
    body = b""
    for (topic, partition), (until, offsets) in parts.items():
        body += struct.pack(f"<{TOPIC_BYTES}siIq", topic.encode(), partition, len(offsets), until)
        body += struct.pack(f"<{len(offsets)}q", *sorted(offsets))
    total = sum(len(o) for _, o in parts.values())
    head = struct.pack("<QIIQ", 0x316465656665726d, 1, len(parts), total)
    folder = data_dir / "refeed"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{time.time_ns() // 10**6:012x}{random.randrange(65536):04x}.refeed"
    path.write_bytes(head + body)
    return path


def refeed(m, parts, status=0):
    done = m.run_command("ctl", "refeed", write_request(m.data_dir, parts), "--format", "json", timeout=60)
    assert done.returncode == status, f"{done.returncode} {done.stdout} {done.stderr}"
    return {(p["topic"], p["partition"]): p for p in json.loads(done.stdout)["partitions"]}, json.loads(done.stdout)


def chosen(history, keys, until):
    """The last record of each key before `until`, and every later one of the keys that these touch."""
    offsets = {place: set() for place in until}
    for key in keys:
        place = history.home[key]
        at = bisect.bisect_left(history.states[key][0], until[place])
        if at > 0:
            offsets[place].add(history.states[key][0][at - 1])
    for place, wanted in offsets.items():
        known = set()
        for o in range(min(wanted, default=0), until[place]):
            touched = history.touched[place][o]
            if o in wanted or known & set(touched):
                wanted.add(o)
                known |= set(touched)
    return {place: (until[place], wanted) for place, wanted in offsets.items()}


class Tracker(threading.Thread):
    """A reader of keys that have a value in Redis, or had: once right, a key shows nothing older than its last value
    before `floor` of its partition."""

    def __init__(self, redis_server, topics, history, keys, spoilt):
        super().__init__(name="tracker", daemon=True)
        self.redis, self.history, self.keys = redis_server, history, sorted(keys)
        self.decoder, self.pending = Decoder(topics), set(spoilt)
        self.floor, self.violations, self.rounds, self.back = {}, [], 0, 0
        self.latest, self.failure, self.stopping = {}, None, threading.Event()

    def run(self):
        try:
            with self.redis.client() as client:
                while not self.stopping.is_set():
                    for key, stored in zip(self.keys, client.mget(self.keys)):
                        self.look(key, self.decoder(key, stored))
                    self.rounds += 1
        except BaseException as e:
            self.failure = e

    def look(self, key, found):
        offsets, values = self.history.states[key]
        floor = self.floor.get(self.history.home[key])
        at = 0 if floor is None else max(bisect.bisect_left(offsets, floor) - 1, 0)
        if found in values[at:]:
            newest = len(values) - 1 - values[::-1].index(found)
            self.back += newest < self.latest.get(key, 0)
            self.latest[key] = newest
            self.pending.discard(key)
        elif key not in self.pending:
            self.violations.append(f"{key!r} shows {found!r}, older than offset {offsets[at]}")

    def finish(self):
        self.stopping.set()
        self.join(30)
        if self.failure is not None:
            raise self.failure
        assert not self.violations, f"{len(self.violations)} violations, the first: {self.violations[:3]}"
        return self


def spoil(space, history, count, seed):
    """Deletes or alters so many keys behind the product's back. Returns them."""
    r = random.Random(seed)
    with space.redis.client() as client:
        there = sorted(k for k in client.keys("*") if not k.startswith(b"millrace:"))
        keys = r.sample(there, count)
        for i, key in enumerate(keys):
            if i % 2:
                client.delete(key)
            else:
                client.set(key, b"altered by somebody")
    assert all(k in history.states for k in keys)
    return keys


def published(space, count):
    load = space.load(count, keys=1500)
    load.start()
    load.finish()
    return load


def expect_no_loss(*instances):
    for m in instances:
        stats = m.stats()
        assert m.metric("sink_write_lost", stats) == m.metric("ingest_partition_rewind", stats) == 0
        assert m.metric("supervisor_child_died", stats) == 0
        assert "lost writes" not in m.log_text() and "mark_other" not in m.log_text()


def test_two_hundred_spoilt_keys_are_put_right_while_others_are_written(space):
    space.start_redis()
    space.topic(partitions=4)
    space.topic(bulk_topic, "bulk", partitions=4)
    first = space.millrace("first", group="refed", instance="node1", lanes=2).start_ready()
    second = space.millrace("second", group="refed", instance="node2", lanes=1).start_ready()
    before = published(space, 20_000)
    places = [(t.name, p) for t in space.topics for p in range(4)]

    def applied(stats):
        return sum(m.metric("ingest_partition_assigned") for m in (first, second)) == 8 and \
            sum(m.metric("sink_record_applied") for m in (first, second)) >= 20_000
    first.wait_for(applied, 30, "both to have their half and everything to be applied")
    keys = spoil(space, before.history, 200, space.number)
    live = space.load(35_000, 7, history=before.history, generator=before.generator)
    live.next_offset = dict(before.next_offset)
    tracker = Tracker(space.redis, space.topics, before.history, before.history.states, keys)
    live.start()
    time.sleep(1)
    # What is known ends a little before what was published by now: the rest follows again.
    until = {place: max(live.next_offset[place] - 300, 0) for place in places}
    tracker.floor = until
    tracker.pending |= set(tracker.keys)  # they may be behind still; each is followed once it was right
    time.sleep(1)
    tracker.start()
    parts = chosen(before.history, keys, until)
    time.sleep(1)
    answers = [refeed(m, parts, 1)[0] for m in (first, second)]  # 1: some are the other's
    assert live.live, "the refeeds took longer than the load"
    for place in places:
        states = sorted(a[place]["state"] for a in answers)
        assert states == ["done", "elsewhere"], f"{place}: {answers}"
        done = next(a[place] for a in answers if a[place]["state"] == "done")
        assert done["fed"] == done["asked"] == len(parts[place][1]) and done["from"] == until[place]
    live.finish()
    for m in (first, second):
        mine = {(p["topic"], p["partition"]) for p in m.stats()["partitions"] if p["assigned"]}
        m.wait_drained({place: end for place, end in live.next_offset.items() if place in mine})
    tracker.finish()
    assert not tracker.pending, f"{len(tracker.pending)} were never right"
    assert tracker.rounds > 10 and tracker.back > 0, "the refeed was seen by nobody"
    space.judge()
    expect_no_loss(first, second)
    assert sum(m.metric("ingest_record_refeed") for m in (first, second)) == sum(len(o) for _, o in parts.values())
    assert first.drain() == 0 and second.drain() == 0


def test_a_refeed_goes_on_when_its_workers_are_killed(space):
    space.start_redis()
    space.topic(partitions=4)
    m = space.millrace(lanes=2, audit="on").start_ready()
    load = published(space, 20_000)
    m.wait_drained(load.next_offset)
    r = random.Random(space.number)
    for role, lane in (("ingest", 0), ("sink", 0), ("audit", None)):
        keys = spoil(space, load.history, 300, r.random())
        parts = chosen(load.history, keys, {place: end - 200 for place, end in load.next_offset.items()})
        path = write_request(m.data_dir, parts)
        killer = threading.Timer(0.05 + r.random() / 5, m.kill_worker, (role, lane))
        killer.start()
        done = m.run_command("ctl", "refeed", path, timeout=60)
        killer.join()
        assert done.returncode == 0, f"{role}: {done.stdout} {done.stderr}"
        m.wait_drained(load.next_offset)
        space.judge()
    assert m.metric("sink_write_lost") == 0 and m.metric("supervisor_child_died") == 3
    assert m.drain() == 0


def test_an_instance_that_ends_in_a_refeed_finishes_it_at_the_next_start(space):
    space.start_redis()
    space.topic(partitions=4)
    m = space.millrace().start_ready()
    load = published(space, 20_000)
    m.wait_drained(load.next_offset)
    keys = spoil(space, load.history, 300, space.number)
    parts = chosen(load.history, keys, {place: end - 200 for place, end in load.next_offset.items()})
    # Redis stands still, so the refeed is under way when everything ends.
    space.redis.pause()
    path = write_request(m.data_dir, parts)
    asked = threading.Thread(target=m.run_command, args=("ctl", "refeed", path), kwargs={"timeout": 60}, daemon=True)
    asked.start()
    m.wait_for(lambda s: path.with_suffix(".begun").exists(), 10, "the refeed to begin")
    m.kill_supervisor()
    m.wait_workers_gone(5)
    space.redis.resume()
    m.start_ready()
    m.wait_for(lambda s: not path.with_suffix(".begun").exists() or path.with_suffix(".done").exists(), 30,
               "the refeed to be over")
    m.wait_drained(load.next_offset)
    space.judge()
    assert m.metric("sink_write_lost") == 0
    assert m.drain() == 0


def test_what_cannot_be_fed_is_named(space):
    space.start_redis()
    t = space.topic(partitions=4)
    m = space.millrace().start_ready()
    load = published(space, 2000)
    m.wait_drained(load.next_offset)
    end = load.next_offset[t.name, 0]
    parts = {(t.name, 0): (end + 100, {0, 3, end + 50}), (t.name, 7): (5, {1}), ("nowhere", 0): (5, {1})}
    states, told = refeed(m, parts, 1)
    assert states[t.name, 0]["state"] == "done" and states[t.name, 0]["fed"] == 2
    assert states[t.name, 7]["state"] == "elsewhere" and states["nowhere", 0]["state"] == "unknown"
    assert told["missing"] == [{"topic": t.name, "partition": 0, "offset": end + 50, "why": "absent"}]
    bad = m.data_dir / "refeed" / "0123456789abcdef.refeed"
    bad.write_bytes(b"rubbish")
    done = m.run_command("ctl", "refeed", bad)
    assert done.returncode == 1 and "not a refeed request" in done.stdout, done
    assert os.listdir(m.data_dir / "refeed") == []
    assert m.drain() == 0

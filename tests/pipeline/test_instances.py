"""Two instances without a shared disk: each answers for both, while partitions move from one to the other under load, and
after one disk is lost."""

import json
import os
import shutil
import sqlite3
import threading
import time

from confluent_kafka import KafkaError, TopicPartition

from harness.generator import change_topic
from harness.process import wait_until
from harness.till import Till, digest_key

WINDOW_MS, PARTITIONS, RATE = 5000, 4, 800
COMPARED = ("window", "state", "published", "seen", "applied", "in_flight", "unexplained", "unpublished", "altered",
            "late")


def recon(m):
    done = m.run_command("recon", "--all", "--format", "json", timeout=60)
    assert done.returncode in (0, 1, 66, 75), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    windows = json.loads(done.stdout)["windows"] if done.stdout else []
    return done.returncode, [tuple(w[c] for c in COMPARED) for w in windows]


def both_say(pair, timeout=90):
    """What both say, as soon as they say the same and nothing is pending."""
    last = []

    def look():
        last[:] = [recon(m) for m in pair]
        return last[0] == last[1] and last[0][0] in (0, 1)
    wait_until(look, timeout, lambda: f"one answer of both: {last}", 1)
    return last[0]


def lost(m):
    with sqlite3.connect(f"file:{m.data_dir}/recon/recon.db?mode=ro", uri=True) as db:
        return sorted(db.execute("SELECT kind, subject, text FROM exception WHERE cleared_ms = 0"))


def anchors_told(broker, topic, instance):
    """The lines of an instance's anchors, as anybody can read them from the topic."""
    consumer = broker.consumer("auditor", **{"enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    lines = []
    try:
        while True:
            m = consumer.poll(10)
            assert m is not None
            if m.error():
                assert m.error().code() == KafkaError._PARTITION_EOF, m.error()
                return lines
            told = json.loads(m.value())
            if told["type"] == "anchor" and told["instance"] == instance:
                lines.append(m.value())
    finally:
        consumer.close()


def check_anchors(space, m, topic):
    """Who has the disk can cut the end off his log and the anchors beside it; those in the topic tell."""
    told, copy = space.folder / "anchors", space.folder / "copy"
    lines = anchors_told(space.broker, topic, "node1")
    assert b"\n".join(lines) + b"\n" == (m.data_dir / "audit/anchors").read_bytes() and len(lines) >= 2
    told.write_bytes(b"\n".join(lines) + b"\n")
    done = m.run_command("audit", "verify", "--anchors", told)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(m.data_dir / "audit", copy)
    (copy / "anchors").unlink()
    last = max(copy.glob("*.log"))
    os.truncate(last, last.stat().st_size // 2)
    done = m.run_command("audit", "verify", copy, "--anchors", told)
    assert done.returncode == 1, done.stdout + done.stderr


class Publisher(threading.Thread):
    def __init__(self, till):
        super().__init__(daemon=True)
        self.till, self.stopping, self.failure = till, threading.Event(), None

    def run(self):
        try:
            while not self.stopping.wait(1):
                self.till.publish(RATE).declare()
        except BaseException as e:  # raised again by finish()
            self.failure = e

    def finish(self):
        self.stopping.set()
        self.join()
        if self.failure:
            raise self.failure
        return self.till.sequence


def assigned(m, n, timeout=40):
    m.wait_for(lambda s: s["metrics"]["ingest_partition_assigned"] == n, timeout, f"{m.name} to have {n} partitions")


def kill_with_something_logged(m):
    """At a moment when it has logged what it has not committed: the other one will read that again."""
    before = m.stats()["metrics"]["audit_entry"]
    m.wait_for(lambda s: s["metrics"]["audit_entry"] > before + 50, 10, f"{m.name} to log something", 0.01)
    m.kill_supervisor()
    m.wait_workers_gone(10)


def prepare(space):
    space.start_redis()
    topic = space.topic(change_topic, partitions=PARTITIONS, evidence="manifest")
    manifests, anchors = f"{topic.name}.manifests", f"{topic.name}.anchors"
    space.broker.create_topics([manifests, anchors], 1)
    recon_keys = {"window": f"{WINDOW_MS}ms", "late_after": "10m", "manifest_topic": manifests, "anchor_topic": anchors}
    first = space.millrace("first", group=f"pair{space.number}", instance="node1", audit="on", recon=recon_keys,
                           kafka={"session.timeout.ms": 6000})
    recon_keys["keys"] = str(first.folder / "audit.keys")
    second = space.millrace("second", group=f"pair{space.number}", instance="node2", audit="on", recon=recon_keys,
                            kafka={"session.timeout.ms": 6000})
    till = Till(space.broker, topic.name, digest_key(first.folder / "audit.keys"), WINDOW_MS, manifests)
    return first, second, till, anchors


def test_both_answer_alike_whatever_moves_and_whatever_is_lost(space):
    first, second, till, anchors = prepare(space)
    first.start_ready()
    assigned(first, PARTITIONS)
    load = Publisher(till)
    load.start()
    for move in range(5):  # there and back
        second.start_ready()
        assigned(second, PARTITIONS // 2)
        assigned(first, PARTITIONS // 2)
        if move % 2 == 0:
            kill_with_something_logged(second)
        else:
            assert second.drain() == 0
        assigned(first, PARTITIONS)
    second.start_ready()
    assigned(second, PARTITIONS // 2)
    time.sleep(2)
    count = load.finish()
    status, windows = both_say((first, second))
    assert status == 0 and all(w[1] == "matched" for w in windows), windows
    assert sum(w[2] for w in windows) == sum(w[3] for w in windows) == count
    assert lost(first) == lost(second) == []
    # What two have logged was really there, or this test has not tried what it is for.
    assert any("recon.overlap" in m.log_text() for m in (first, second))

    # One disk is lost.
    assert second.drain() == 0
    assigned(first, PARTITIONS)
    shutil.rmtree(second.data_dir)
    second.data_dir.mkdir()
    second.start_ready()
    assigned(second, PARTITIONS // 2)
    till.publish(2000).declare()
    count += 2000
    status, windows = both_say((first, second))
    assert status == 0 and sum(w[2] for w in windows) == sum(w[3] for w in windows) == count, windows
    wait_until(lambda: len(lost(first)) == len(lost(second)) >= PARTITIONS // 2, 30,
               lambda: f"a word about what was lost: {lost(first)} {lost(second)}", 0.5)
    assert [(k, s) for k, s, _ in lost(first)] == [(k, s) for k, s, _ in lost(second)]
    for kind, subject, text in lost(first):
        assert kind == "evidence_lost" and subject.startswith("node2/") and "offsets [" in text, text
    assert first.drain() == 0 and second.drain() == 0
    check_anchors(space, first, anchors)

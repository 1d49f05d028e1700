#!/usr/bin/env python3
"""What each setting of docs/tuning.md brings on this machine: pairs of runs, one without and one with it, in turn.

    tests/bench/tuning.py [ROUNDS [RECORDS [SECONDS]]]

Speed: a backlog of RECORDS (500,000) of 512 bytes in 4 partitions, to the end. Latency: 1,000 records a second for
SECONDS (10; 0: not measured). Prints the medians over ROUNDS (5) as rows of a table, without → with the setting, and the
load of the machine. Uses the programs in build/, a broker and a Redis of its own, and huge pages where it may reserve
them.
"""

import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/pipeline"))

from confluent_kafka import Producer  # noqa: E402

from harness import process  # noqa: E402
from harness.broker import Broker  # noqa: E402
from harness.millrace import Millrace  # noqa: E402
from harness.redis_server import RedisServer  # noqa: E402

PARTITIONS = 4
HUGE = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
SETTINGS = [
    ("memory.prefault: true", {"memory": {"prefault": True}}),
    ("memory.huge_pages: require", {"memory": {"huge_pages": "require"}}),
    ("memory.lock: true", {"memory": {"lock": True}}),
    ("spin_us: 50", {"spin_us": 50}),
    ("cpus: ingest 0, transform and sink 1", {"cpus": {"ingest": "0", "transform": "1", "sink": "1"}}),
]


class Raw:
    """A topic of plain values."""

    def __init__(self, name):
        self.name = name

    def config(self):
        return {"name": self.name, "mode": "bulk", "format": "raw", "key": "{$key}"}


def fill(broker, topic, count, seconds=0):
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0 if seconds else 50, "log_level": 0,
                         "queue.buffering.max.messages": 1000000, "acks": 1})
    began, value = time.monotonic(), os.urandom(512)
    for i in range(count):
        if seconds:
            time.sleep(max(0.0, began + i * seconds / count - time.monotonic()))
        while True:
            try:
                producer.produce(topic, value, f"key:{i % 100000}", partition=i % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(60)


class Bench:
    def __init__(self, folder, records):
        self.folder, self.records, self.number = folder, records, 0
        self.broker = Broker(folder / "kafka").start()
        self.redis = RedisServer(folder / "redis", unix=True).start()
        self.backlog = Raw("backlog")
        self.broker.create_topics(["backlog"], PARTITIONS)
        fill(self.broker, "backlog", records)

    def instance(self, topic, more):
        self.number += 1
        with self.redis.client() as client:
            client.flushall()
        return Millrace(self.folder, self.broker, self.redis, [topic], f"b{self.number}", **more)

    def finish(self, m, count):
        """Seconds of applying, and CPU seconds, page faults and context switches of the workers over their life."""
        began = None
        while True:
            now, metrics = time.monotonic(), m.stats()["metrics"]
            applied = metrics["sink_record_applied"]
            if applied > 0 and began is None:
                began, first = now, applied
            if applied >= count:
                break
            time.sleep(0.05)
        seconds = max(now - began, 0.05)
        time.sleep(0.3)  # the workers account for themselves when they are idle
        stats = m.stats()
        metrics, latency = stats["metrics"], stats["histograms"]["sink_kafka_to_redis"]
        result = {"rate": (count - first) / seconds, "cpu": metrics["worker_cpu"] * 1e6 / count,
                  "faults": metrics["worker_page_fault"], "switches": metrics["worker_context_switch"] * 1000 / count}
        result.update({q: latency[q] for q in ("p50_ms", "p99_ms")})
        assert m.drain() == 0
        shutil.rmtree(m.folder)
        return result

    def speed(self, more):
        m = self.instance(self.backlog, more).start()
        m.wait_ready()
        return self.finish(m, self.records)

    def latency(self, more, seconds):
        topic = Raw(f"paced{self.number}")
        self.broker.create_topics([topic.name], PARTITIONS)
        m = self.instance(topic, {**more, "start": "latest"}).start_ready()
        m.wait_for(lambda s: s["metrics"]["ingest_partition_assigned"] == PARTITIONS, 30, "the assignment")
        time.sleep(1)
        fill(self.broker, topic.name, 1000 * seconds, seconds)
        return self.finish(m, 1000 * seconds)


def pairs(run, more, rounds):
    """Medians without and with the setting."""
    without, with_it = [], []
    for _ in range(rounds):
        without.append(run({}))
        with_it.append(run(more))
    return [{k: statistics.median(r[k] for r in runs) for k in runs[0]} for runs in (without, with_it)]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    records = int(sys.argv[2]) if len(sys.argv) > 2 else 500000
    seconds = int(sys.argv[3]) if len(sys.argv) > 3 else 10
    folder = pathlib.Path(tempfile.mkdtemp(prefix="millrace-", dir="/tmp"))
    reserved = HUGE.read_text(encoding="ascii") if os.access(HUGE, os.W_OK) else None
    try:
        if reserved is not None:
            HUGE.write_text(str(int(reserved) + 27), encoding="ascii")
        bench = Bench(folder, records)
        columns = [("records/s", "rate", ",.0f"), ("CPU s per million", "cpu", ".2f"),
                   ("page faults", "faults", ",.0f"), ("context switches per 1,000", "switches", ".1f")]
        paced = [("p50 ms at 1,000/s", "p50_ms", ".2f"), ("p99 ms", "p99_ms", ".2f")] if seconds else []
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors\n")
        print("| setting | " + " | ".join(title for title, _, _ in columns + paced) + " |")
        print("|---" * (1 + len(columns + paced)) + "|")
        for name, more in SETTINGS:
            if "huge_pages" in name and reserved is None:
                continue
            a, b = pairs(bench.speed, more, rounds)
            cells = [f"{a[k]:{f}} → {b[k]:{f}}" for _, k, f in columns]
            if seconds:
                a, b = pairs(lambda m: bench.latency(m, seconds), more, rounds)
                cells += [f"{a[k]:{f}} → {b[k]:{f}}" for _, k, f in paced]
            print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)
        print(f"\nload {os.getloadavg()[0]:.1f}")
    finally:
        for p in reversed(process.started):
            p.stop_forgotten()
        if reserved is not None:
            HUGE.write_text(reserved, encoding="ascii")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

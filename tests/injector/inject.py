#!/usr/bin/python3
"""Does harm behind the product's back, and writes down what it did. A program of its own: it shares no code with the
product or its tests, and nobody looks into its log before the product has said what it found.

    inject.py publish --bootstrap B --seed N --log F --records N [--duplicate N] [--drop N] [--delay N] [--delay-s S]
        Stands between a producer and the topic: takes the producer's records from standard input, a JSON object a line
        {"topic", "key", "value", "headers": [[name, value], …]}, and publishes them, but some twice, some never and
        some late.
    inject.py redis --url U --seed N --log F [--pattern P] [--delete N] [--alter N] [--swap N] [--orphan N]
        Changes what is in Redis. --swap counts pairs.
    inject.py flush --url U --log F
    inject.py kill --seed N --log F --count N [--pause S] -- COMMAND…
        Kills one worker after the other; COMMAND prints the statistics as JSON.
    inject.py audit --folder F --out F --seed N --log F [--byte N] [--cut N]
        Makes copies of an audit log with one byte changed, or its end cut off; OUT/NNN each.

The log is a JSON object a line, its member "fault" saying which."""

import argparse
import heapq
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import redis
from confluent_kafka import Producer


class Log:
    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    def __call__(self, fault, **what):
        self.file.write(json.dumps({"fault": fault, "at": time.time(), **what}) + "\n")
        self.file.flush()


# -- between producer and topic --------------------------------------------------------------------------------------
class Passage:
    def __init__(self, o):
        self.log, self.delay_s, self.held, self.failures = Log(o.log), o.delay_s, [], []
        self.producer = Producer({"bootstrap.servers": o.bootstrap, "enable.idempotence": True, "acks": "all",
                                  "linger.ms": 5, "queue.buffering.max.messages": 1000000, "log_level": 0})
        chosen = random.Random(o.seed).sample(range(o.records), o.duplicate + o.drop + o.delay)
        fates = ["duplicate"] * o.duplicate + ["drop"] * o.drop + ["delay"] * o.delay
        self.fate = dict(zip(chosen, fates))

    def delivered(self, error, _):
        if error is not None:
            self.failures.append(str(error))

    def publish(self, record):
        while True:
            try:
                self.producer.produce(record["topic"], key=record["key"], value=record["value"],
                                      headers=[(n, v.encode()) for n, v in record["headers"]],
                                      on_delivery=self.delivered)
                self.producer.poll(0)
                return
            except BufferError:
                self.producer.poll(0.1)

    def release(self, everything=False):
        while self.held and (everything or self.held[0][0] <= time.monotonic()):
            due, _, record = heapq.heappop(self.held)
            time.sleep(max(0, due - time.monotonic()))
            self.publish(record)

    def run(self, lines):
        for n, line in enumerate(lines):
            record = json.loads(line)
            fate = self.fate.get(n)
            headers = dict(record["headers"])
            if fate is not None:
                self.log(fate, topic=record["topic"], key=record["key"], id=headers.get("millrace-id"),
                         producer=headers.get("millrace-producer"), sequence=int(headers["millrace-sequence"]))
            if fate == "delay":
                heapq.heappush(self.held, (time.monotonic() + self.delay_s, n, record))
            elif fate != "drop":
                self.publish(record)
            if fate == "duplicate":
                self.publish(record)
            self.release()
        self.release(everything=True)
        left = self.producer.flush(60)
        if left or self.failures:
            sys.exit(f"{left} records not delivered: {self.failures[:3]}")


# -- in Redis --------------------------------------------------------------------------------------------------------
def harm_redis(o):
    log, client, pick = Log(o.log), redis.from_url(o.url), random.Random(o.seed)
    keys = sorted(client.scan_iter(match=o.pattern, count=1000))
    wanted = o.delete + o.alter + 2 * o.swap
    if len(keys) < wanted:
        sys.exit(f"only {len(keys)} keys, and {wanted} are to be harmed")
    keys = iter(pick.sample(keys, wanted))
    for _ in range(o.delete):
        key = next(keys)
        client.delete(key)
        log("delete", keys=[key.decode()])
    for _ in range(o.alter):
        key = next(keys)
        value = bytearray(client.get(key))
        value[pick.randrange(len(value))] ^= 1 << pick.randrange(8)
        client.set(key, bytes(value), keepttl=True)
        log("alter", keys=[key.decode()])
    for _ in range(o.swap):
        a, b = next(keys), next(keys)
        values = client.mget(a, b)
        client.mset({a: values[1], b: values[0]})
        log("swap", keys=[a.decode(), b.decode()])
    for n in range(o.orphan):
        key = o.pattern.replace("*", f"nobody-{o.seed}-{n}")
        client.set(key, os.urandom(20).hex())
        log("orphan", keys=[key])


def flush(o):
    client = redis.from_url(o.url)
    keys = client.dbsize()
    client.flushall()
    Log(o.log)("flush", keys_lost=keys)


# -- processes -------------------------------------------------------------------------------------------------------
def kill(o):
    log, pick, killed = Log(o.log), random.Random(o.seed), 0
    gone = set()
    while killed < o.count:
        time.sleep(o.pause * pick.uniform(0.5, 1.5))
        done = subprocess.run(o.command, capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            continue
        alive = [w for w in json.loads(done.stdout)["workers"]
                 if w["pid"] and w["pid"] not in gone and w["state"] in ("running", "blocked", "recovering")]
        if not alive:
            continue
        w = pick.choice(alive)
        try:
            handle = os.pidfd_open(w["pid"])
        except ProcessLookupError:
            continue
        try:
            name = pathlib.Path(f"/proc/{w['pid']}/cmdline").read_bytes()
            if f"millrace-{w['role']}".encode() not in name:
                continue
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            continue
        finally:
            os.close(handle)
        gone.add(w["pid"])
        killed += 1
        log("kill", role=w["role"], pid=w["pid"])


# -- the audit log ---------------------------------------------------------------------------------------------------
def harm_audit(o):
    log, pick = Log(o.log), random.Random(o.seed)
    source, out = pathlib.Path(o.folder), pathlib.Path(o.out)
    segments = sorted(p.name for p in source.glob("*.log"))
    for n in range(o.byte + o.cut):
        copy = out / f"{n:03}"
        shutil.copytree(source, copy)
        # A byte may change anywhere; an end is what is cut off.
        name = pick.choice(segments) if n < o.byte else segments[-1]
        path = copy / name
        size = path.stat().st_size
        if n < o.byte:
            at = pick.randrange(size)
            with open(path, "r+b") as f:
                f.seek(at)
                old = f.read(1)[0]
                f.seek(at)
                f.write(bytes([old ^ 1 << pick.randrange(8)]))
            log("byte", copy=copy.name, segment=name, place=at)
        else:
            at = pick.randrange(size // 2, size)
            os.truncate(path, at)
            log("cut", copy=copy.name, segment=name, place=at, lost=size - at)


def arguments():
    p = argparse.ArgumentParser()
    verbs = p.add_subparsers(dest="verb", required=True)
    a = verbs.add_parser("publish")
    a.add_argument("--bootstrap", required=True)
    a.add_argument("--records", type=int, required=True)
    for name in ("duplicate", "drop", "delay"):
        a.add_argument(f"--{name}", type=int, default=0)
    a.add_argument("--delay-s", type=float, default=5)
    a = verbs.add_parser("redis")
    a.add_argument("--pattern", default="*")
    for name in ("delete", "alter", "swap", "orphan"):
        a.add_argument(f"--{name}", type=int, default=0)
    verbs.add_parser("flush")
    a = verbs.add_parser("kill")
    a.add_argument("--count", type=int, required=True)
    a.add_argument("--pause", type=float, default=0.3)
    a.add_argument("command", nargs="+")
    a = verbs.add_parser("audit")
    a.add_argument("--folder", required=True)
    a.add_argument("--out", required=True)
    a.add_argument("--byte", type=int, default=0)
    a.add_argument("--cut", type=int, default=0)
    for name, verb in verbs.choices.items():
        verb.add_argument("--log", required=True)
        verb.add_argument("--seed", type=int, default=1)
        if name in ("redis", "flush"):
            verb.add_argument("--url", required=True)
    return p.parse_args()


def main():
    o = arguments()
    if o.verb == "publish":
        Passage(o).run(sys.stdin)
    else:
        {"redis": harm_redis, "flush": flush, "kill": kill, "audit": harm_audit}[o.verb](o)


if __name__ == "__main__":
    main()

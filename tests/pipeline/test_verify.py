"""millrace verify: faults put into Redis behind the product's back are found and called by their names, nothing else is,
and a repair puts right what it says it does."""

import collections
import json
import random
import threading
import time

from confluent_kafka import Producer

from harness.reference import Topic

KEYS = 60


def produce(space, topic, records):
    """(key, value or None) in this order, on the partition that the key says."""
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0, "linger.ms": 5})
    ends = collections.Counter()
    for key, value in records:
        partition = sum(key.encode()) % space.partitions
        op = "delete" if value is None else "update"
        producer.produce(topic.name, key=key, value=value, partition=partition, headers=[("op", op.encode())])
        ends[topic.name, partition] += 1
    assert producer.flush(30) == 0
    return ends


def verify(m, *args, status=None, timeout=90):
    done = m.run_command("verify", "--format", "json", *args, timeout=timeout)
    assert done.returncode in (0, 1), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout)
    found = {c: n for c, n in report["classes"].items() if n and c not in ("right", "moving", "elsewhere")}
    assert done.returncode == (1 if found else 0), report
    if status is not None:
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    return report, {f["key"]: f["class"] for f in report["findings"]}


def value_of(kind, i, version):
    if kind == "plain":
        return f"{kind} {i} version {version} ".encode() * 3
    return json.dumps({"id": i, "version": version, "text": "x" * 40}).encode()


class Faults:
    """Injects faults, and knows what each has to be called."""

    def __init__(self, client, history):
        self.c, self.history, self.expected = client, history, {}

    def expect(self, key, name):
        self.expected[key] = name

    def strings(self, kind):
        """Faults of a topic of strings; encoded values cannot be made up, only moved."""
        c, h = self.c, self.history
        k = [f"{kind}:{i}" for i in range(KEYS)]
        c.delete(k[0])
        self.expect(k[0], "missing")
        c.set(k[1], "somebody else's")
        self.expect(k[1], "altered")
        a, b = c.get(k[2]), c.get(k[3])
        c.mset({k[2]: b, k[3]: a})
        self.expect(k[2], "altered")
        self.expect(k[3], "altered")
        c.set(k[4], h[k[4]])
        self.expect(k[4], "stale")
        c.delete(k[5])
        c.rpush(k[5], "a", "b")
        self.expect(k[5], "wrong_type")
        c.expire(k[6], 1000)
        self.expect(k[6], "expiry")
        damaged = bytearray(c.get(k[7]))
        damaged[-1] ^= 1
        c.set(k[7], bytes(damaged))
        self.expect(k[7], "altered")
        c.set(k[8], c.get(k[8])[:-1])
        self.expect(k[8], "altered")

    def timed(self, kind):
        k = [f"{kind}:{i}" for i in range(KEYS)]
        self.c.persist(k[0])
        self.expect(k[0], "expiry")
        self.c.delete(k[1])
        self.expect(k[1], "expired_early")
        self.c.pexpireat(k[2], int(time.time() * 1000) + 50_000_000)
        self.expect(k[2], "expiry")
        self.c.set(k[3], "other", keepttl=True)
        self.expect(k[3], "altered")

    def hashes(self, kind):
        k = [f"{kind}:{i}" for i in range(KEYS)]
        self.c.hset(k[0], "version", "7")
        self.c.hset(k[1], "one more", "1")
        self.c.hdel(k[2], "text")
        for key in k[:3]:
            self.expect(key, "altered")
        self.c.delete(k[3])
        self.expect(k[3], "missing")
        self.c.delete(k[4])
        self.c.set(k[4], "a string")
        self.expect(k[4], "wrong_type")
        self.c.delete(k[5])
        self.c.hset(k[5], mapping=self.history[k[5]])
        self.expect(k[5], "stale")

    def orphans(self):
        self.c.set("nobody:1", "x")
        self.c.hset("plain:nobody", "a", "b")
        self.expect("nobody:1", "orphan")
        self.expect("plain:nobody", "orphan")


def four_topics(space):
    """Strings as published, strings encoded, strings that expire, hashes."""
    def make(name, kind=None, **more):
        return Topic(name, key=(kind or name.rsplit(".", 1)[1]) + ":{$key}", operation={"header": "op"}, **more)
    topics = {kind: space.topic(make, kind, partitions=2, **more) for kind, more in {
        "plain": {"format": "raw"}, "coded": {"compress": "lz4", "encrypt": True}, "timed": {"ttl": "10h"},
        "rows": {"value_type": "hash"}}.items()}
    return topics


def run_all(space, topics, m, keys=KEYS):
    """Two versions of every key, so that each has an older value, and a few deleted ones. Returns the older values as
    they were stored."""
    ends = collections.Counter()
    for kind, t in topics.items():
        ends += produce(space, t, [(str(i), value_of(kind, i, 1)) for i in range(keys)])
    m.wait_drained(ends)
    history = {}
    with space.redis.client() as c:
        for kind in topics:
            for i in range(keys):
                key = f"{kind}:{i}"
                history[key] = c.hgetall(key) if kind == "rows" else c.get(key)
    for kind, t in topics.items():
        ends += produce(space, t, [(str(i), value_of(kind, i, 2)) for i in range(keys)] + [(f"{keys}", b"{}")
                        for _ in range(kind != "rows")] + [(f"{keys}", None)] * 2)
    m.wait_drained(ends)
    return history


def test_faults_are_found_by_name_and_repaired(space):
    redis = space.start_redis()
    topics = four_topics(space)
    m = space.millrace(audit="on", lanes=2, crypto={"keys": str(space.key_file())}).start_ready()
    history = run_all(space, topics, m)
    report, found = verify(m, status=0)
    assert found == {} and report["classes"]["right"] == report["keys"] == 4 * KEYS and report["rounds"] == 1
    with redis.client() as c:
        faults = Faults(c, history)
        faults.strings("plain")
        faults.strings("coded")
        faults.timed("timed")
        faults.hashes("rows")
        faults.orphans()
        c.set(f"plain:{KEYS}", "back from the dead")
        faults.expect(f"plain:{KEYS}", "orphan")
    report, found = verify(m, status=1)
    assert found == faults.expected
    assert report["classes"]["right"] == 4 * KEYS - len(faults.expected) + 3
    by_key = {f["key"]: f for f in report["findings"]}
    assert by_key[f"plain:{KEYS}"]["detail"] == "its record was deleted" and "topic" not in by_key["nobody:1"]
    assert by_key["coded:7"]["detail"] == "does not decode" and len(by_key["plain:0"]["id"]) == 36
    stale = by_key["plain:4"]
    assert stale["topic"] == topics["plain"].name and stale["detail"] == f"the value of offset {stale['offset'] - stale_distance(space)}"

    report, found = verify(m, "--topic", topics["rows"].name, status=1)
    assert found == {k: v for k, v in faults.expected.items() if k.startswith("rows:")}
    report, found = verify(m, "--key-pattern", "pl?in:[0-5]", status=1)
    assert found == {f"plain:{i}": faults.expected[f"plain:{i}"] for i in range(6)}
    report, found = verify(m, "--key", "plain:1", "--key", "rows:3", "--key", "timed:9", status=1)
    assert found == {"plain:1": "altered", "rows:3": "missing"}
    assert verify(m, "--window", "2020-01-01T00:00/2020-01-02T00:00Z", status=0)[0]["keys"] == 0

    report, found = verify(m, "--repair", status=1)
    orphans = {k: v for k, v in faults.expected.items() if v == "orphan"}
    assert found == orphans and report["repaired"] == len(faults.expected) - len(orphans)
    report, found = verify(m, "--repair=orphans", status=0)
    assert found == {} and report["repaired"] == len(orphans)
    assert verify(m, status=0)[0]["classes"]["right"] == 4 * KEYS
    assert m.drain() == 0


def stale_distance(space):
    """plain:4 is the (4 / partitions)th of its partition; both versions of all keys come one after the other."""
    of_partition = [i for i in range(KEYS) if sum(str(i).encode()) % space.partitions == sum(b"4") % space.partitions]
    return len(of_partition)

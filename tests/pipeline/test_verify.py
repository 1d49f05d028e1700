"""millrace verify: faults put into Redis behind the product's back are found and called by their names, nothing else is,
and a repair puts right what it says it does."""

import collections
import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import time

from confluent_kafka import Producer

from harness.generator import change_topic
from harness.millrace import command
from harness.process import wait_until
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

    report, found = verify(m, "--topic", topics["rows"].name, "--rounds", "2", status=1)
    assert found == {k: v for k, v in faults.expected.items() if k.startswith("rows:")}
    report, found = verify(m, "--key-pattern", "pl?in:[0-5]", "--rounds", "2", status=1)
    assert found == {f"plain:{i}": faults.expected[f"plain:{i}"] for i in range(6)}
    report, found = verify(m, "--key", "plain:1", "--key", "rows:3", "--key", "timed:9", "--rounds", "2", status=1)
    assert found == {"plain:1": "altered", "rows:3": "missing"}
    assert verify(m, "--window", "2020-01-01T00:00Z/2020-01-02T00:00Z", status=0)[0]["keys"] == 0

    report, found = verify(m, "--repair", "--rounds", "2", status=1)
    orphans = {k: v for k, v in faults.expected.items() if v == "orphan"}
    assert found == orphans and report["repaired"] == len(faults.expected) - len(orphans)
    report, found = verify(m, "--repair=orphans", "--rounds", "2", status=0)
    assert found == {} and report["repaired"] == len(orphans)
    assert verify(m, status=0)[0]["classes"]["right"] == 4 * KEYS
    assert m.drain() == 0


def test_no_false_alarm_and_a_repair_under_live_traffic(space):
    """2,000 changes a second, keys that move: nothing is called wrong that is not; what was spoilt is put right in order."""
    redis = space.start_redis()
    space.topic(change_topic, partitions=4)
    m = space.millrace(audit="on", lanes=2).start_ready()
    load = space.load(1_000_000, 500, keys=4000)  # for as long as it is wanted: a busy machine verifies slowly
    load.start()
    m.wait_for(lambda s: s["lanes"][0]["released"] > 2000, 30, "the load to have begun")
    report, found = verify(m, status=0)
    assert load.live and found == {} and report["keys"] > 1000
    picked = random.Random(space.number)
    with redis.client() as c:
        keys = picked.sample(sorted(k for k in c.keys("card:*")), 200)
        for i, key in enumerate(keys):
            c.delete(key) if i % 2 else c.set(key, b"spoilt", xx=True)  # it may be deleted by now
    m.kill_worker("audit")
    m.kill_worker("recon")
    report, found = verify(m, "--repair", status=0)
    assert load.live and 0 < report["repaired"] <= 200
    load.give_up()
    load.finish()
    m.wait_drained(load.next_offset)
    assert verify(m, status=0)[1] == {}
    space.judge(produced=load.published)
    assert m.drain() == 0


def test_an_instance_that_died_before_it_could_log_what_it_had_written(space):
    """Those keys are in Redis and in no entry: that is not a finding, and nothing may be repaired because of it."""
    redis = space.start_redis()
    plain = space.topic(lambda name: Topic(name, key="plain:{$key}", operation={"header": "op"}, format="raw"),
                        partitions=2)
    m = space.millrace(audit="on").start_ready()
    ends = produce(space, plain, [(str(i), b"one") for i in range(100)])
    m.wait_drained(ends)
    m.kill_worker("audit", number=signal.SIGSTOP)
    ends += produce(space, plain, [(str(i), b"two") for i in range(200)])
    with redis.client() as c:
        wait_until(lambda: c.get("plain:199") == b"two" and c.get("plain:198") == b"two", 8, "the writes")
    m.kill_supervisor()
    m.wait_workers_gone(10)
    done = m.run_command("verify", "--repair=orphans", "--format", "json", timeout=30)
    assert done.returncode == 75 and "start it first" in done.stderr and done.stdout == "", done
    with redis.client() as c:
        assert c.get("plain:199") == b"two"
    m.start_ready()
    m.wait_drained(ends)
    assert verify(m, status=0)[1] == {}
    assert m.drain() == 0
    assert verify(m, status=0)[1] == {}  # drained, everything that was read is logged: no instance is needed


def test_a_flushed_redis_and_a_log_that_is_gone(space):
    """Verify waits for the rebuild. Without an instance and without any segment the table of live keys is enough."""
    redis = space.start_redis()
    topics = four_topics(space)
    m = space.millrace(audit="on", crypto={"keys": str(space.key_file())}).start_ready()
    run_all(space, topics, m, 3000)
    with redis.client() as c:
        c.flushall()
    done = m.run_command("verify", "--format", "json", timeout=90)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["classes"]["right"] == 4 * 3000, done
    with redis.client() as c:
        c.delete("plain:77")
    assert m.drain() == 0
    for log in (m.data_dir / "audit").glob("*.log"):
        log.unlink()
    report, found = verify(m, "--rounds", "2", status=1)
    assert found == {"plain:77": "missing"} and report["classes"]["right"] == report["keys"] == 4 * 3000 - 1
    assert m.run_command("verify", "--repair", "--rounds", "2").returncode == 69, "there is no instance to do it"
    with redis.client() as c:
        c.set("plain:77", value_of("plain", 77, 2))
        c.config_set("maxmemory-policy", "allkeys-random")
        c.config_set("maxmemory", c.info("memory")["used_memory"] - 100_000)
        c.get("plain:77")
        c.config_set("maxmemory", 0)
        evicted = c.info("stats")["evicted_keys"]
    report, found = verify(m, "--rounds", "2", status=1)
    assert evicted > 0 and report["classes"]["evicted"] in (evicted, evicted - 1), "one may have been a mark"
    assert set(found.values()) == {"evicted"} and any("allkeys-random" in n for n in report["notes"])


def test_a_walk_goes_on_where_it_was(space, tmp_path):
    redis = space.start_redis()
    topic = space.topic(Topic, key="k:{$key}", format="raw", operation={"header": "op"})
    off = space.topic(Topic, "unlogged", key="off:{$key}", format="raw", operation={"header": "op"}, reconcile="off")
    m = space.millrace(audit="on").start_ready()
    ends = produce(space, topic, [(str(i), b"value %d" % i) for i in range(5000)])
    ends += produce(space, off, [(str(i), b"value %d" % i) for i in range(50)])
    m.wait_drained(ends)
    with redis.client() as c:
        c.set("k:7", "x")
        c.set("k:4999", "x")
        c.delete("k:1234")
    state = tmp_path / "state"
    child = subprocess.Popen([m.build / "millrace", "verify", "-c", m.file, "--rate", "1000", "--resume", state],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(2.5)
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == 75, child.stderr.read()
    assert state.stat().st_size > 700 and (tmp_path / "state.rows").is_dir()
    began = time.monotonic()
    report, found = verify(m, "--rate", "1000", "--resume", state, status=1)
    assert found == {"k:7": "altered", "k:4999": "altered", "k:1234": "missing"}
    assert time.monotonic() - began < 9 and report["keys"] == 4999 and report["unlogged"] == 50
    assert not state.exists() and not (tmp_path / "state.rows").exists()
    forgotten = m.data_dir / "recon" / "verify-abcdef"  # of a run that was killed
    forgotten.mkdir()
    (forgotten / "MANIFEST").touch()
    report, found = verify(m, "--sample", "10%", "--rounds", "2")
    assert not forgotten.exists() and not list(m.data_dir.glob("recon/verify-*"))
    assert 400 < report["keys"] < 600 and set(found) < {"k:7", "k:4999", "k:1234"}
    assert m.drain() == 0


def test_partitions_that_move_raise_no_false_alarm(space, tmp_path):
    """Two instances without a common disk: each claims only what its own log tells, and names what the other's has."""
    redis = space.start_redis()
    topic = space.topic(Topic, key="k:{$key}", format="raw", operation={"header": "op"}, partitions=2)
    keys, accounts = tmp_path / "keys", topic.name + ".accounts"
    assert command("keygen", keys).returncode == 0
    space.broker.create_topics([accounts], 1)
    common = {"group": f"pair{space.number}", "audit": "on", "recon": {"keys": str(keys), "anchor_topic": accounts}}
    first = space.millrace("first", instance="node1", **common).start_ready()
    ends = produce(space, topic, [(str(i), b"one %d" % i) for i in range(40)])
    first.wait_drained(ends)
    second = space.millrace("second", instance="node2", **common).start_ready()

    def reads(m):
        return [p["partition"] for p in m.stats()["partitions"] if p["assigned"]]
    wait_until(lambda: len(reads(first)) == len(reads(second)) == 1, 40, "one partition each")
    produce(space, topic, [(str(i), b"two %d" % i) for i in range(40)])
    wait_until(lambda: all(redis_value.startswith(b"two") for redis_value in values(redis)), 20, "the second values")

    def told(m):
        """Whether the other's offsets are known: 20 records of its partition."""
        with contextlib.closing(sqlite3.connect(f"file:{m.data_dir}/recon/recon.db?mode=ro", uri=True)) as db:
            return db.execute("SELECT count(*) FROM offset_range WHERE instance <> 0 AND kind = 0 AND last >= 39").fetchone()[0]
    wait_until(lambda: told(first) and told(second), 30, "the accounts of each other")
    assert verify(first, status=0)[0]["classes"]["elsewhere"] == 20
    assert verify(second, status=0)[0]["classes"]["elsewhere"] == 20
    here = reads(first)[0]
    mine = next(i for i in range(40) if sum(str(i).encode()) % space.partitions == here)
    theirs = next(i for i in range(40) if sum(str(i).encode()) % space.partitions != here)
    with redis.client() as c:
        c.delete(f"k:{mine}", f"k:{theirs}")
    report, found = verify(first, "--rounds", "2", status=1)
    assert found == {f"k:{mine}": "missing"} and any("node2" in n for n in report["notes"])
    assert verify(second, "--rounds", "2", status=1)[1] == {f"k:{theirs}": "missing"}
    assert first.drain() == 0 and second.drain() == 0


def test_an_instance_that_was_there_before_is_known_without_its_accounts(space, tmp_path):
    """The two never meet, and nobody tells what the other has written: nothing of that may be repaired away."""
    redis = space.start_redis()
    topic = space.topic(Topic, key="k:{$key}", format="raw", operation={"header": "op"}, partitions=1)
    keys = tmp_path / "keys"
    assert command("keygen", keys).returncode == 0
    common = {"group": f"pair{space.number}", "audit": "on", "recon": {"keys": str(keys)}}
    first = space.millrace("first", instance="node1", **common).start_ready()
    first.wait_drained(produce(space, topic, [(str(i), b"one %d" % i) for i in range(40)]))
    done = first.run_command("verify", "--key", "k:tpyo", "--key", "k:1", timeout=60)
    assert done.returncode == 66 and "k:tpyo: no record" in done.stdout + done.stderr, f"{done.stdout}\n{done.stderr}"
    produce(space, topic, [("39", None)])
    wait_until(lambda: values(redis)[39] is None, 20, "the last one to be deleted")
    assert verify(first, "--key", "k:39", status=0)[0]["classes"]["right"] == 1, "it is right that it is gone"
    assert first.drain() == 0
    second = space.millrace("second", instance="node2", **common).start_ready()
    produce(space, topic, [(str(i), b"two %d" % i) for i in range(20)])
    wait_until(lambda: values(redis)[19] == b"two 19", 20, "the second values")
    assert second.drain() == 0
    first.start_ready()

    def marked():
        with contextlib.closing(sqlite3.connect(f"file:{first.data_dir}/recon/recon.db?mode=ro", uri=True)) as db:
            return db.execute("SELECT value FROM meta WHERE name = 'shared'").fetchone()
    wait_until(marked, 20, "the mark that there were others")
    done = first.run_command("verify", "--repair", "--rounds", "2", timeout=60)
    assert done.returncode == 78 and "has had other members" in done.stderr, f"{done.returncode} {done.stderr}"
    assert values(redis)[:20] == [b"two %d" % i for i in range(20)]
    assert first.drain() == 0


def values(redis):
    with redis.client() as c:
        return c.mget([f"k:{i}" for i in range(40)])


def stale_distance(space):
    """plain:4 is the (4 / partitions)th of its partition; both versions of all keys come one after the other."""
    of_partition = [i for i in range(KEYS) if sum(str(i).encode()) % space.partitions == sum(b"4") % space.partitions]
    return len(of_partition)

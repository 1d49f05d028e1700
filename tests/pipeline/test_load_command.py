"""`millrace load` on a real broker: what it publishes, what it refuses, and that nothing is missing whatever dies."""

import base64
import collections
import csv
import hashlib
import hmac
import io
import json
import os
import random
import re
import signal
import subprocess
import time
import uuid

import pytest
from confluent_kafka.admin import NewTopic

from harness.oracle import read_log
from harness.process import ROOT, Process, wait_until
from harness.reference import Topic

HEADERS = ("id", "digest", "created", "load", "producer", "sequence")


def cards(name, **more):
    return Topic(name, mode="change", format="json", key="card:{no}", operation={"header": "op"}, **more)


@pytest.fixture
def rig(space):
    return Rig(space)


class Rig:
    """A topic, a topic for manifests, and a configuration for both. Nothing of the pipeline runs unless asked for."""

    def __init__(self, space):
        self.space = space

    def make(self, broker=None, partitions=3, window="10m", redis="redis://127.0.0.1:1"):
        self.partitions = partitions
        if broker is not None:
            self.space.broker = broker
        self.topic = self.space.topic(cards, "cards", partitions=partitions)
        self.broker = self.space.broker
        self.manifests = f"{self.topic.name}.manifests"
        self.broker.create_topics([self.manifests], 1)
        self.keys = self.space.key_file()
        self.space.redis = redis
        self.millrace = self.space.millrace(recon={"keys": str(self.keys), "manifest_topic": self.manifests,
                                                   "window": window})
        return self

    def load(self, *args, status=0, timeout=60, stdin=None):
        argv = [str(self.millrace.build / "millrace"), "load", *map(str, args), "-c", str(self.millrace.file)]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout,
                              stdin=subprocess.DEVNULL if stdin is None else None)
        assert done.returncode == status, f"{done.returncode} instead of {status}\n{done.stdout}\n{done.stderr}"
        return done

    def file(self, name, text):
        path = self.space.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def digest_key(self):
        key = base64.b64decode(self.keys.read_text(encoding="ascii").split("key 1 ")[1].split()[0])
        return hmac.new(hmac.new(bytes(32), key, hashlib.sha256).digest(), b"millrace digest\x01",
                        hashlib.sha256).digest()

    def published(self):
        """The records of the topic, with the headers of each as a dict."""
        return [(r, dict(r.headers)) for r in read_log(self.broker, [self.topic.name], self.partitions)[0]]

    def told(self, kind):
        return [m for m in (json.loads(r.value) for r in read_log(self.broker, [self.manifests], 1)[0])
                if m["type"] == kind]

    def check(self, producer, values, loads=1):
        """Every value is there, in its order of sequences, under one id each however often it was sent; digests,
        windows and ends say the same."""
        key, total, by_sequence = self.digest_key(), 0, {}
        for r, h in self.published():
            if h["millrace-producer"].decode() != producer:
                continue
            assert h["millrace-digest"].decode() == "hmac:" + hmac.new(key, r.value, hashlib.sha256).hexdigest()[:32]
            assert int(h["millrace-created"]) == r.timestamp
            mine = (h["millrace-id"], r.value, r.key, h["millrace-load"], h["millrace-created"])
            assert by_sequence.setdefault(int(h["millrace-sequence"]), mine) == mine
        assert sorted(by_sequence) == list(range(1, len(values) + 1))
        assert [by_sequence[s][1] for s in sorted(by_sequence)] == values
        assert len({m[0] for m in by_sequence.values()}) == len(values)
        windows = {m["first_sequence"]: m for m in self.told("window") if m["producer"] == producer}
        assert sum(m["count"] for m in windows.values()) == len(values)
        for m in windows.values():
            inside = [by_sequence[s] for s in range(m["first_sequence"], m["last_sequence"] + 1)]
            assert len(inside) == m["count"] and sum(len(i[1]) for i in inside) == m["bytes"]
            assert all(m["from_ms"] <= int(i[4]) < m["to_ms"] for i in inside)
            digests = [int(hmac.new(key, i[1], hashlib.sha256).hexdigest()[:32], 16) for i in inside]
            assert m["digest"] == "hmac" and int(m["digest_sum"], 16) == sum(digests) % 2 ** 128
            total += int(m["digest_sum"], 16)
        ends = [m for m in self.told("load_end") if m["producer"] == producer]
        assert len({m["load"] for m in ends}) == loads and all(m["state"] == "complete" for m in ends)
        if loads == 1:
            assert (ends[0]["count"], int(ends[0]["digest_sum"], 16)) == (len(values), total % 2 ** 128)
        return by_sequence


def csv_of(rows):
    out = io.StringIO()
    w = csv.writer(out)
    w.writerow(["no", "name", "note"])
    w.writerows(rows)
    return out.getvalue()


def value_of(row):
    return json.dumps(dict(zip(["no", "name", "note"], map(str, row))), separators=(",", ":"),
                      ensure_ascii=False).encode()


def test_a_file_becomes_records_with_everything_that_proves_them(rig):
    rig.make()
    rows = [(i, 'a "quoted", name' if i % 7 == 0 else f"näme {i}", "two\nlines" if i % 5 == 0 else "") for i in range(500)]
    before = int(time.time() * 1000)
    done = rig.load(rig.file("a.csv", csv_of(rows)), "--topic", rig.topic.name, "--keys-out", rig.space.folder / "keys.txt",
                    "--format-output", "json")
    said = json.loads(done.stdout)
    assert (said["state"], said["records"], said["unacknowledged"]) == ("complete", 500, 0)
    records = rig.check(said["producer"], [value_of(r) for r in rows])
    assert re.fullmatch(r"load-node1-[0-9a-f]{8}", said["producer"])
    keys = (rig.space.folder / "keys.txt").read_text(encoding="utf-8").splitlines()
    assert keys == [f"card:{i}" for i in range(500)] == [records[s][2].decode() for s in sorted(records)]
    for r, h in rig.published():
        assert h["op"] == b"add" and h["millrace-load"].decode() == said["load"]
        assert uuid.UUID(h["millrace-id"].decode()).version == 7
        assert before <= int(h["millrace-created"]) <= time.time() * 1000
    begin, end = rig.told("load_begin"), rig.told("load_end")
    assert [m["load"] for m in begin + end] == [said["load"]] * 2 and not begin[0]["snapshot"]
    firsts = collections.defaultdict(lambda: 1 << 62)
    for r, _ in rig.published():
        firsts[str(r.partition)] = min(firsts[str(r.partition)], r.offset)
    assert end[0]["first_offsets"] == firsts

    # A second load goes on with the sequences; so does a third, of standard input and of lines.
    rig.load(rig.file("b.csv", csv_of(rows[:10])), "--topic", rig.topic.name, "--operation", "update", "--key", "name")
    lines = ['{"no": 1, "x": [1, 2]}', '{"no":2}']
    done = rig.load("-", "--format", "jsonl", "--topic", rig.topic.name, stdin="\n\n".join(lines) + "\n")
    assert "complete, 2 records" in done.stdout and "sequences 511 to 512" in done.stdout
    rig.check(said["producer"], [value_of(r) for r in rows + rows[:10]] + [x.encode() for x in lines], loads=3)
    last = [(r, h) for r, h in rig.published() if 500 < int(h["millrace-sequence"]) <= 510]
    assert {h["op"] for _, h in last} == {b"update"} and b"n\xc3\xa4me 1" in {r.key for r, _ in last}
    assert not list((rig.millrace.data_dir / "feed").glob("*.input")), "what was copied is gone"
    assert rig.load("--resume").stdout == "nothing to resume\n"
    never = str(rig.space.folder / "never.db")
    assert rig.load("--list", "--outbox", never).stdout == "nothing waits\n" and not os.path.exists(never)


def test_rows_that_cannot_be_used_are_refused_before_anything_is_published(rig):
    rig.make()
    text = csv_of([(1, "a", "")]) + '2,"b\n3,c\n'
    bad = rig.file("bad.csv", csv_of([(1, "a", ""), (2, "b", "")]) + "3,only two\n\n4,x,y" + "z" * 20000 + "\n5,a,b\n")
    done = rig.load(bad, "--topic", rig.topic.name, status=65)
    assert f"{bad}: line 4: 2 fields, but 3 columns" in done.stderr
    assert f"{bad}: line 6: larger than 10240 bytes" in done.stderr
    assert "2 of 5 rows cannot be used (1 of them too large): nothing was published" in done.stderr
    done = rig.load(rig.file("open.csv", text), "--topic", rig.topic.name, "--dry-run", status=65)
    assert "line 3: a quote is not closed" in done.stderr
    done = rig.load(rig.file("x.jsonl", '{"no":1}\n{"number":2}\n[]\n'), "--topic", rig.topic.name, status=65)
    assert "line 2: the pipeline would reject it: field_missing" in done.stderr
    assert "line 3: the pipeline would reject it: json_invalid" in done.stderr
    assert rig.published() == [] and rig.told("load_begin") == []

    done = rig.load(bad, "--topic", rig.topic.name, "--skip-bad", "--format-output", "json")
    said = json.loads(done.stdout)
    assert (said["records"], said["skipped"], said["oversized"], said["last_sequence"]) == (3, 1, 1, 3)
    rig.check(said["producer"], [value_of(r) for r in [(1, "a", ""), (2, "b", ""), (5, "a", "b")]])
    done = rig.load(bad, "--topic", rig.topic.name, "--skip-bad", "--dry-run")
    assert "3 rows of" in done.stdout and len(rig.published()) == 3

    rig.load(bad, "--topic", "another", status=64)
    rig.load(bad, status=64)
    rig.load(bad, "--topic", rig.topic.name, "--skip-bad", "--snapshot", status=64)
    rig.load(rig.space.folder / "nothing.csv", "--topic", rig.topic.name, status=66)
    rig.load("--resume", str(uuid.uuid4()), status=64)


def test_what_the_broker_refuses_stays_in_the_outbox(rig):
    rig.make()
    good = rig.file("a.csv", csv_of([(1, "a", "")]))
    rig.millrace.write_config(recon={"manifest_topic": f"{rig.topic.name}.nowhere"})
    rig.broker.create_topics([f"{rig.topic.name}.nowhere"], 1)
    rig.broker.delete_topic(f"{rig.topic.name}.nowhere")
    done = rig.load(good, "--topic", rig.topic.name, "--attempts", "1", status=69)
    assert f"topic {rig.topic.name}.nowhere" in done.stderr and "--resume" in done.stdout
    rig.millrace.write_config(recon={"manifest_topic": rig.manifests})
    done = rig.load("--resume", "--format-output", "json")
    rig.check(json.loads(done.stdout)["producer"], [value_of((1, "a", ""))])


def test_batches_that_a_topic_refuses_are_made_smaller_and_records_are_reported(rig):
    rig.make(partitions=1)
    small = f"{rig.topic.name}.small"
    admin = rig.broker.admin()
    admin.create_topics([NewTopic(small, 1, 1, config={"max.message.bytes": "20000"})])[small].result(20)
    rig.topic.name = small
    rig.millrace.write_config(topics=[rig.topic.config()])
    rows = [(i, "a", "x" * 300) for i in range(2000)]
    rig.load(rig.file("a.csv", csv_of(rows)), "--topic", small, "--producer", "p")
    rig.check("p", [value_of(r) for r in rows])
    huge = rig.file("huge.csv", csv_of([(i, "a", "x" * (30000 if i == 50 else 3)) for i in range(100)]))
    done = rig.load(huge, "--topic", small, "--max-message", "40000", status=69)
    assert "Message size too large" in done.stderr


class Loader(Process):
    def __init__(self, rig, *args):
        super().__init__("load", [rig.millrace.build / "millrace", "load", *args, "-c", rig.millrace.file],
                         rig.space.folder / "load.log")


def test_killed_ten_times_while_the_broker_goes_and_comes_nothing_is_missing(rig):
    broker = rig.space.own_broker().start()
    rig.make(broker, window="1s")
    dice = random.Random(int(os.environ.get("SEED", "20261121")))
    rows = [(i, f"name {i}", "x" * (i % 200)) for i in range(40000)]
    file = rig.file("many.csv", csv_of(rows))
    # So slow that it cannot be over before it was killed ten times, half a second each.
    args = [file, "--topic", rig.topic.name, "--producer", "p", "--rate", "4000"]
    loader = Loader(rig, *args).start()
    wait_until(lambda: read_loads(rig), 20, "the load to begin")
    for death in range(10):
        if death == 4:
            broker.stop()
        if death == 7:
            broker.start()
        time.sleep(dice.uniform(0.05, 0.45))
        assert loader.alive(), loader.tail()
        loader.kill()
        loader = Loader(rig, "--resume").start()
    assert loader.wait(60) == 0, loader.tail()
    assert len(rig.told("window")) > 3
    rig.check("p", [value_of(r) for r in rows])
    broker.stop()


def read_loads(rig):
    """The loads that the outbox has, by their numbers."""
    outbox = rig.millrace.data_dir / "feed/outbox.db"
    done = subprocess.run(["/usr/bin/python3", "-c", "import sqlite3, sys\nfor r in sqlite3.connect(sys.argv[1])"
                           ".execute('SELECT number FROM load'): print(r[0])", str(outbox)],
                          capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    return done.stdout.split()


def test_a_broker_that_does_not_answer_is_reported_and_the_load_resumed(rig):
    rig.make()
    rows = [(i, "a", "") for i in range(100)]
    rig.broker.pause()
    try:
        started = time.monotonic()
        done = rig.load("-", "--format", "csv", "--topic", rig.topic.name, "--attempts", "2", "--attempt-timeout", "1",
                        "--producer", "p", stdin=csv_of(rows), status=75)
        assert time.monotonic() - started < 20
        assert "given up after 2 attempts" in done.stderr and "millrace load --resume " in done.stdout
        load = re.search(r"--resume ([0-9a-f-]{36})", done.stdout)[1]
        waits = json.loads(rig.load("--list", "--format-output", "json").stdout)
        assert (waits["load"], waits["state"], waits["topic"]) == (load, "reading", rig.topic.name)
    finally:
        rig.broker.resume()
    rig.load("--resume", load)
    rig.check("p", [value_of(r) for r in rows])
    assert rig.load("--list").stdout == "nothing waits\n" and "complete" in rig.load("--list", "--all").stdout
    assert "this load is over" in rig.load("--resume", load, status=64).stderr


def test_what_was_interrupted_may_be_given_up_and_another_file_is_not_taken_for_it(rig):
    rig.make()
    file = rig.file("a.csv", csv_of([(i, "a", "") for i in range(5000)]))
    loader = Loader(rig, file, "--topic", rig.topic.name, "--rate", "500", "--producer", "p").start()
    wait_until(lambda: sum(h for _, h in rig.broker.watermarks(rig.topic.name, 3).values()) > 300, 20, "some records")
    busy = rig.load(file, "--topic", rig.topic.name, status=75)
    assert "another load is using this outbox" in busy.stderr
    loader.signal(signal.SIGTERM)
    assert loader.wait(10) == 75
    load = re.search(r"--resume ([0-9a-f-]{36})", loader.tail())[1]
    rig.file("a.csv", csv_of([(i, "b", "") for i in range(5000)]))
    assert "is not what it was when the load began" in rig.load("--resume", load, status=65).stderr
    said = json.loads(rig.load("--abandon", load, "--format-output", "json").stdout)
    assert said["state"] == "aborted" and 300 < said["records"] < 5000
    published = rig.published()
    assert {int(h["millrace-sequence"]) for _, h in published} == set(range(1, said["records"] + 1))
    end = rig.told("load_end")
    assert [(e["state"], e["count"]) for e in end] == [("aborted", said["records"])]
    assert sum(m["count"] for m in rig.told("window")) == said["records"]


def test_the_producer_of_the_documentation_writes_the_same(rig):
    rig.make()
    page = (ROOT / "docs/load.md").read_text(encoding="utf-8")
    example = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], example)  # pylint: disable=exec-used
    rows = [(i, "a", "b") for i in range(20)]
    example["publish"](rig.broker.bootstrap, rig.topic.name, rig.keys, [(b"k", value_of(r)) for r in rows])
    rig.load(rig.file("a.csv", csv_of(rows)), "--topic", rig.topic.name, "--producer", "p")
    theirs = {h["millrace-sequence"]: h for _, h in rig.published() if h["millrace-producer"] == b"example"}
    ours = {h["millrace-sequence"]: h for _, h in rig.published() if h["millrace-producer"] == b"p"}
    assert len(theirs) == len(ours) == 20
    assert {s: h["millrace-digest"] for s, h in theirs.items()} == {s: h["millrace-digest"] for s, h in ours.items()}
    assert set(next(iter(theirs.values()))) == {f"millrace-{n}" for n in HEADERS if n != "load"}


def test_a_load_of_all_keys_makes_up_for_lost_offsets(rig):
    space = rig.space
    server = space.start_redis()
    rig.make(partitions=2, redis=server)
    m = rig.millrace.start_ready()
    text = csv_of([(i, "old", "") for i in range(200)])
    rig.load(rig.file("old.csv", text), "--topic", rig.topic.name)
    ends = {(rig.topic.name, p): h for p, (_, h) in rig.broker.watermarks(rig.topic.name, 2).items()}
    m.wait_drained(ends)
    rig.broker.delete_records(rig.topic.name, 0, ends[rig.topic.name, 0] - 5)
    with server.client() as client:
        client.flushall()
    lost = f"offsets [0,{ends[rig.topic.name, 0] - 5}) lost: {rig.topic.name}[0]"
    m.wait_for(lambda s: m.worker("ingest", stats=s)["reason"] == lost, 20, "the loss to be noticed")

    # A load of some keys changes nothing.
    new = csv_of([(i, "new", "") for i in range(150)])
    rig.load(rig.file("new.csv", new), "--topic", rig.topic.name)
    time.sleep(1.5)
    assert m.worker("ingest")["reason"] == lost
    done = rig.load(rig.file("new.csv", new), "--topic", rig.topic.name, "--snapshot")
    assert "it makes up for lost offsets: 1 partitions that waited go on" in done.stdout
    load = re.search(r"load ([0-9a-f-]{36}): complete", done.stdout)[1]
    ends = {(rig.topic.name, p): h for p, (_, h) in rig.broker.watermarks(rig.topic.name, 2).items()}
    m.wait_drained(ends)
    lines = [json.loads(x) for x in (m.data_dir / "accepted-losses").read_text(encoding="utf-8").splitlines()]
    assert [(x["topic"], x["partition"], x["from"], x["load"]) for x in lines] == [(rig.topic.name, 0, 0, load)]
    with server.client() as client:
        values = client.mget([f"card:{i}" for i in range(150)])
    assert all(v is not None and json.loads(v)["name"] == "new" for v in values)
    # What the load replaces is not needed again: another loss is mended from what Kafka has.
    with server.client() as client:
        client.flushall()
    wait_until(lambda: server.client().get("card:149") is not None, 20, "everything to be there again")
    m.wait_drained(ends)
    assert "lost" not in m.worker("ingest")["reason"]
    assert m.drain() == 0


def test_a_load_of_all_keys_elsewhere_makes_up_for_lost_offsets(rig):
    """The instance learns of it from the manifests: the load knows nothing of the instance."""
    space = rig.space
    server = space.start_redis()
    rig.make(partitions=2, redis=server)
    elsewhere = space.millrace("elsewhere", recon={"keys": str(rig.keys), "manifest_topic": rig.manifests})
    m = rig.millrace
    m.write_config(audit="on", topics=[{**rig.topic.config(), "evidence": "manifest"}])
    m.start_ready()
    rig.millrace = elsewhere
    rig.load(rig.file("old.csv", csv_of([(i, "old", "") for i in range(100)])), "--topic", rig.topic.name)
    ends = {(rig.topic.name, p): h for p, (_, h) in rig.broker.watermarks(rig.topic.name, 2).items()}
    m.wait_drained(ends)
    rig.broker.delete_records(rig.topic.name, 1, ends[rig.topic.name, 1] - 5)
    with server.client() as client:
        client.flushall()
    m.wait_for(lambda s: "lost" in m.worker("ingest", stats=s)["reason"], 20, "the loss to be noticed")
    time.sleep(2)  # recon looks once a second
    new = rig.file("new.csv", csv_of([(i, "new", "") for i in range(90)]))
    said = json.loads(rig.load(new, "--topic", rig.topic.name, "--snapshot", "--format-output", "json").stdout)
    assert said["made_up"] == 0
    ends = {(rig.topic.name, p): h for p, (_, h) in rig.broker.watermarks(rig.topic.name, 2).items()}
    m.wait_drained(ends)
    lines = [json.loads(x) for x in (m.data_dir / "accepted-losses").read_text(encoding="utf-8").splitlines()]
    assert [(x["partition"], x["load"]) for x in lines] == [(1, said["load"])]
    assert "recon.loss_covered" in m.log_text()
    with server.client() as client:
        values = client.mget([f"card:{i}" for i in range(90)])
    assert all(v is not None and json.loads(v)["name"] == "new" for v in values)
    assert m.drain() == 0


def test_a_snapshot_whose_records_kafka_has_deleted_makes_up_for_nothing(rig):
    space = rig.space
    server = space.start_redis()
    rig.make(partitions=1, redis=server)
    m = rig.millrace.start_ready()
    file = rig.file("all.csv", csv_of([(i, "old", "") for i in range(100)]))
    rig.load(file, "--topic", rig.topic.name)
    m.wait_drained({(rig.topic.name, 0): 100})
    with server.client() as client:
        client.flushall()
    # The load is on its way when Kafka loses its first records, and all before them.
    loader = Loader(rig, file, "--topic", rig.topic.name, "--snapshot", "--rate", "40").start()
    wait_until(lambda: rig.broker.watermarks(rig.topic.name, 1)[0][1] >= 130, 20, "some of the load")
    rig.broker.delete_records(rig.topic.name, 0, 120)
    with server.client() as client:
        client.flushall()
    m.wait_for(lambda s: "lost" in m.worker("ingest", stats=s)["reason"], 20, "the loss to be noticed")
    assert loader.wait(40) == 0
    assert "still waits for offsets [0,120)" in loader.tail()
    assert "ingest.loss_uncovered" in m.log_text()
    assert "lost" in m.worker("ingest")["reason"]
    rig.load(file, "--topic", rig.topic.name, "--snapshot")
    m.wait_drained({(rig.topic.name, 0): 300})
    assert m.drain() == 0


def test_a_load_is_accounted_for_from_the_file_to_redis(rig):
    space = rig.space
    server = space.start_redis()
    rig.make(redis=server)
    m = rig.millrace
    m.write_config(audit="on", topics=[{**rig.topic.config(), "evidence": "manifest"}], recon={"late_after": "5s"})
    m.start_ready()
    rows = [(i, f"name {i}", "") for i in range(3000)]
    said = json.loads(rig.load(rig.file("a.csv", csv_of(rows)), "--topic", rig.topic.name, "--snapshot",
                               "--format-output", "json").stdout)
    done = m.run_command("recon", "--load", said["load"], "--wait=60", "--format", "json", timeout=70)
    assert done.returncode == 0, done.stdout + done.stderr
    # Killed on its way, and a key that is no longer there: each record still counts once.
    loader = Loader(rig, rig.file("b.csv", csv_of(rows[:2000])), "--topic", rig.topic.name, "--snapshot", "--rate",
                    "4000").start()
    wait_until(lambda: sum(h for _, h in rig.broker.watermarks(rig.topic.name, 3).values()) > 3500, 20, "some of it")
    loader.kill()
    waits = json.loads(rig.load("--list", "--format-output", "json").stdout)
    assert m.run_command("recon", "--load", waits["load"], timeout=20).returncode == 75
    again = json.loads(rig.load("--resume", "--format-output", "json").stdout)
    assert again["load"] == waits["load"] and again["records"] == 2000
    done = m.run_command("recon", "--load", again["load"], "--wait=60", "--left", "--format", "json", timeout=70)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["left_count"] == 1000, "what the second file no longer has"
    assert m.drain() == 0

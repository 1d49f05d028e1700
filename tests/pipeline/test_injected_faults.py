"""A thousand faults, done behind the product's back by a program that keeps what it did to itself (tests/injector), and
what the product says of them. Its reports are complete before the injector's log is opened; then every fault has to be
in them under its right name, and nothing else.

RECORDS=1000000 has the clean run publish that many."""

import collections
import json
import os
import subprocess
import sys
import threading
import time

from harness.generator import change_topic
from harness.process import ROOT, wait_until
from harness.till import Till, digest_key

INJECTOR = ROOT / "tests/injector/inject.py"
WINDOW_MS, DELAY_S = 10_000, 8
RECORDS = int(os.environ.get("RECORDS", 100_000))


def prepare(space, **recon):
    redis = space.start_redis()
    topic = space.topic(change_topic, partitions=4, evidence="manifest")
    manifests = f"{topic.name}.manifests"
    space.broker.create_topics([manifests], 1)
    m = space.millrace(audit="on", lanes=2, recon={
        "window": f"{WINDOW_MS}ms", "late_after": "60s", "delayed_after": "4s", "manifest_topic": manifests,
        "segment_bytes": "1MiB", "retention_bytes": "1GiB", **recon})
    till = Till(space.broker, topic.name, digest_key(m.folder / "audit.keys"), WINDOW_MS, manifests)
    return redis, topic, m, till


class Injector:
    def __init__(self, folder):
        self.log, self.faults = folder / "injected.log", []

    def start(self, verb, *args, **more):
        return subprocess.Popen([sys.executable, INJECTOR, verb, "--log", str(self.log), *[str(a) for a in args]],
                                text=True, **more)

    def run(self, verb, *args):
        assert self.start(verb, *args).wait(120) == 0

    def opened(self):
        """What it did. To be called when all reports are there."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


def publish_through(injector, space, till, count, rate, seed, *args):
    """The till hands its records to the injector, which is what publishes them, and declares all of them."""
    child = injector.start("publish", "--bootstrap", space.broker.bootstrap, "--seed", seed, "--records", count, *args,
                           stdin=subprocess.PIPE)
    began = time.monotonic()
    for n in range(count):
        r = till.make()
        child.stdin.write(json.dumps({"topic": r["topic"], "key": r["key"], "value": r["value"].decode(),
                                      "headers": [[k, v.decode()] for k, v in r["headers"]]}) + "\n")
        if n % 100 == 0:
            time.sleep(max(0, began + n / rate - time.monotonic()))
    child.stdin.close()
    assert child.wait(120) == 0
    till.declare()


def recon(m, *args):
    done = m.run_command("recon", "--all", "--check", "--format", "json", *args, timeout=60)
    assert done.returncode in (0, 1, 75), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.returncode, json.loads(done.stdout)


def settled(m, timeout=90):
    """The report, once no window is pending any more."""
    last = {}

    def look():
        last["report"] = recon(m, "--records")
        return all(w["state"] in ("matched", "mismatch") for w in last["report"][1]["windows"])
    wait_until(look, timeout, lambda: f"all windows to be judged: {last}", 1)
    return last["report"]


def verify(m):
    done = m.run_command("verify", "--format", "json", timeout=180)
    assert done.returncode in (0, 1), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout)
    return {f["key"]: f["class"] for f in report["findings"]}


def counted(report, *names):
    return tuple(sum(w[n] or 0 for w in report["windows"]) for n in names)


def quiet(m):
    """Everything that was published is in Redis and in the log, and recon has read it."""
    def look(stats):
        return all(p["lag"] == 0 for p in stats["partitions"]) and stats["metrics"]["recon_entry_behind"] == 0
    m.wait_for(look, 120, "the pipeline to come to rest", 0.5)


def audit_verify(m, folder, anchors):
    return m.run_command("audit", "verify", folder, "--anchors", anchors, "--format", "json", timeout=60)


def test_every_fault_is_found_under_its_right_name(space):
    redis, topic, m, till = prepare(space)
    m.start_ready()
    injector = Injector(space.folder)

    # Between the producer and the topic.
    publish_through(injector, space, till, 20_000, 4000, 11, "--duplicate", 200, "--drop", 150, "--delay", 150,
                    "--delay-s", DELAY_S)
    quiet(m)
    status, passage = settled(m)
    missing_in_redis = verify(m)

    # Workers are killed and Redis forgets, while a second stream flows.
    killer = injector.start("kill", "--seed", 12, "--count", 20, "--pause", 0.5, "--", m.build / "millrace", "stats",
                            "--format", "json", "-c", m.file)
    for part in range(3):
        publish_through(injector, space, till, 4000, 1000, 13)
        if part < 2:
            injector.run("flush", "--url", redis.url())
    assert killer.wait(120) == 0
    quiet(m)
    status_kills, kills = settled(m)
    after_kills = verify(m)
    stats = m.stats()

    # In Redis.
    injector.run("redis", "--url", redis.url(), "--seed", 14, "--pattern", "card:*", "--delete", 150, "--alter", 150,
                 "--swap", 50, "--orphan", 80)
    findings = verify(m)

    # In the audit log, on copies.
    assert m.drain() == 0
    folder, copies = m.data_dir / "audit", space.folder / "copies"
    anchors = space.folder / "anchors"
    anchors.write_bytes((folder / "anchors").read_bytes())
    whole = audit_verify(m, folder, anchors)
    injector.run("audit", "--folder", folder, "--out", copies, "--seed", 15, "--byte", 28, "--cut", 20)
    damaged = {c.name: audit_verify(m, c, anchors) for c in sorted(copies.iterdir())}

    # Now what was done.
    faults = collections.defaultdict(list)
    for f in injector.opened():
        faults[f["fault"]].append(f)
    assert sum(len(f) for f in faults.values()) == 1000, {k: len(v) for k, v in faults.items()}
    check_passage(faults, status, passage, topic)
    assert missing_in_redis == {} and after_kills == {}
    check_kills(faults, status_kills, kills, passage, stats)
    expected = {k: {"delete": "missing", "alter": "altered", "swap": "altered", "orphan": "orphan"}[name]
                for name in ("delete", "alter", "swap", "orphan") for f in faults[name] for k in f["keys"]}
    assert len(expected) == 480 and findings == expected
    check_audit(faults, whole, damaged)


def check_passage(faults, status, report, topic):
    assert status == 1
    records = collections.defaultdict(list)
    for r in report["records"]:
        assert r["topic"] == topic.name
        records[r["kind"]].append(r)
    assert set(records) == {"unexplained", "duplicate", "delayed"}, {k: len(v) for k, v in records.items()}
    assert sorted(r["sequence"] for r in records["unexplained"]) == sorted(f["sequence"] for f in faults["drop"])
    assert all(r["producer"] == "till" for r in records["unexplained"])
    assert sorted(r["id"] for r in records["duplicate"]) == sorted(f["id"] for f in faults["duplicate"])
    assert sorted(r["id"] for r in records["delayed"]) == sorted(f["id"] for f in faults["delay"])
    dropped = collections.Counter(r["window"] for r in records["unexplained"])
    for w in report["windows"]:
        assert w["unexplained"] == dropped[w["window"]]
        assert w["state"] == ("mismatch" if dropped[w["window"]] else "matched"), w
        classes = ("applied", "superseded", "deleted", "expired", "filtered", "in_retry", "dead_lettered", "in_flight",
                   "unexplained")
        assert w["published"] == sum(w[c] for c in classes), w
    assert counted(report, "published", "seen", "duplicate", "unexplained", "delayed") == \
        (20_200, 20_050, 200, 150, 150)


def check_kills(faults, status, report, before, stats):
    """What the first stream had stays; the second has nothing, whatever died."""
    assert len(faults["kill"]) == 20 and len(faults["flush"]) == 2
    assert stats["metrics"]["supervisor_child_died"] >= 20 and stats["metrics"]["sink_write_lost"] > 0
    assert counted(report, "published", "seen", "duplicate", "unexplained") == (32_200, 32_050, 200, 150)
    old = {w["window"] for w in before["windows"]}
    for w in report["windows"]:
        assert w["window"] in old or (w["state"], w["unexplained"], w["altered"]) == ("matched", 0, 0), w
    assert status == 1


def check_audit(faults, whole, damaged):
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert len(damaged) == len(faults["byte"]) + len(faults["cut"]) == 48
    for f in faults["byte"] + faults["cut"]:
        done = damaged[f["copy"]]
        assert done.returncode == 1, f"{f}\n{done.stdout}\n{done.stderr}"
        assert f["segment"][:16] in done.stdout, f"{f}\n{done.stdout}"


def test_nothing_is_found_where_nothing_is_wrong(space):
    """However much it is, and whoever restarts meanwhile."""
    redis, _, m, till = prepare(space, delayed_after="10m", segment_bytes="64MiB")
    m.start_ready(60)

    def restarts():
        for role in ("recon", "audit", "transform", "sink", "ingest"):
            time.sleep(1)
            m.kill_worker(role, 0 if role in ("transform", "sink") else None)
    killer = threading.Thread(target=restarts, daemon=True)
    killer.start()
    for _ in range(20):
        till.publish(RECORDS // 20)
    till.declare()
    killer.join()
    m.wait_for(lambda s: m.metric("supervisor_child_died", s) == 5, 10, "all five deaths to be noticed")
    quiet(m)
    status, report = settled(m, 180)
    assert status == 0 and report["records"] == [], report["records"][:5]
    assert counted(report, "published", "seen", "applied") == (RECORDS, RECORDS, RECORDS)
    assert counted(report, "unexplained", "unpublished", "duplicate", "altered", "late", "in_flight") == (0,) * 6
    assert all(w["state"] == "matched" for w in report["windows"])
    assert verify(m) == {}
    with redis.client() as c:
        assert sum(1 for _ in c.scan_iter("card:*", count=10_000)) == RECORDS
    assert m.drain() == 0
    done = m.run_command("audit", "verify", "--format", "json", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr

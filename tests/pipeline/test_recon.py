"""Reconciliation as an operator meets it: what producers publish, and what `millrace recon` says of it."""

import json
import threading
import time

from harness.generator import bulk_topic
from harness.process import wait_until
from harness.till import Till, digest_key

WINDOW_MS = 2000
RECON = {"window": "2s", "delayed_after": "60s"}
OK, FINDINGS, PENDING = 0, 1, 75


class Report:
    """`millrace recon`, as a machine reads it."""

    def __init__(self, m, *args):
        done = m.run_command("recon", "--format", "json", "--all", *args, timeout=60)
        assert done.returncode in (OK, FINDINGS, PENDING), f"{done.returncode} {done.stderr}"
        self.status, self.all = done.returncode, json.loads(done.stdout)

    def windows(self, topic):
        return [w for w in self.all["windows"] if w["topic"] == topic]

    def total(self, topic, name):
        return sum(w[name] or 0 for w in self.windows(topic))

    def records(self, kind):
        return [r for r in self.all["records"] if r["kind"] == kind]


def wait_report(m, condition, *args, timeout=40):
    seen = {}

    def look():
        seen["report"] = Report(m, *args)
        return seen["report"] if condition(seen["report"]) else None
    return wait_until(look, timeout, lambda: f"the report; last: {json.dumps(seen['report'].all)[:3000]}", 0.5)


def manifests(space):
    name = f"t{space.number}.manifests"
    if space.broker is None:
        space.broker = space.request.getfixturevalue("broker")
    space.broker.create_topics([name], 2)
    return name


def instance(space, manifest_topic, name=None, late_after="6s", recon=None, **more):
    recon = {**RECON, "late_after": late_after, "manifest_topic": manifest_topic, **(recon or {})}
    return space.millrace(name, audit="on", recon=recon, **more)


def classes(window):
    return sum(window[c] for c in ("applied", "superseded", "deleted", "expired", "filtered", "in_retry",
                                   "dead_lettered", "in_flight", "unexplained"))


def test_a_clean_run_matches_to_the_last_record(space):
    """50,000 records whose producer declares them, 20,000 of a topic that is scanned, 5,000 of one with offsets only."""
    space.start_redis()
    told = manifests(space)
    declared = space.topic(bulk_topic, "declared", evidence="manifest")
    scanned = space.topic(bulk_topic, "scanned", evidence="scan")
    counted = space.topic(bulk_topic, "counted", evidence="offsets")
    # The manifests come when all is published, which may take a while on a busy machine.
    m = instance(space, told, lanes=2, late_after="120s").start_ready()
    key = digest_key(m.folder / "audit.keys")
    till = Till(space.broker, declared.name, key, WINDOW_MS, told)
    others = [Till(space.broker, t.name, key, WINDOW_MS, name=t.name) for t in (scanned, counted)]
    till.publish(50_000).declare()
    others[0].publish(20_000).flush()
    others[1].publish(5_000).flush()
    report = wait_report(m, lambda r: r.total(declared.name, "published") == 50_000 and all(
        w["state"] == "matched" for t in (declared, scanned) for w in r.windows(t.name)) and
        r.total(scanned.name, "published") == 20_000 and r.total(counted.name, "seen") == 5_000, "--records")
    assert report.all["records"] == [] and report.all["behind"] == 0
    for w in report.all["windows"]:
        assert w["unexplained"] == w["unpublished"] == w["duplicate"] == w["in_flight"] == 0, w
        if w["topic"] != counted.name:
            assert w["published"] == classes(w) == w["seen"], w
        else:
            assert w["published"] is None and w["state"] == "pending", "offsets alone prove no match"
    assert report.status == PENDING and Report(m, "--topic", declared.name, "--check").status == OK
    table = m.run_command("recon", "--topic", declared.name)
    assert table.returncode == OK and "matched" in table.stdout and "mismatch" not in table.stdout, table.stdout
    # Down to a partition of a window, and the history of its states.
    window = report.windows(declared.name)[0]
    deep = Report(m, "--topic", declared.name, "--window", window["window"])
    assert sum(p["seen"] for p in deep.all["partitions"]) == window["seen"] and len(deep.all["partitions"]) == 8
    assert deep.all["changes"][-1]["after"] == "matched"
    stats = m.stats()
    assert m.metric("recon_entry", stats) == 75_000 and m.metric("recon_window_mismatch", stats) == 0
    assert m.drain() == 0
    assert Report(m, "--topic", scanned.name).status == OK, "the database outlives the instance"
    assert "mismatch" not in m.log_text() and "window_late" not in m.log_text()


def test_what_goes_wrong_is_found_and_named(space):
    space.start_redis()
    told = manifests(space)
    declared = space.topic(bulk_topic, "declared", evidence="manifest")
    m = instance(space, told).start_ready()
    till = Till(space.broker, declared.name, digest_key(m.folder / "audit.keys"), WINDOW_MS, told)
    now = int(time.time() * 1000)
    till.publish(2000, created=now, drop={7, 1500}, twice={20, 21, 1999})
    till.publish(3, created=now - 3_600_000)  # an hour on its way
    bad = till.make(created=now)
    bad["value"] = bad["value"].replace(b"amount", b"amaunt")
    till.produce(**bad)
    broken = till.make(created=now)
    till.produce(**{**broken, "value": b"{broken"})
    till.flush()
    published = till.windows[now - now % WINDOW_MS][2]
    till.declare()
    report = wait_report(m, lambda r: r.total(declared.name, "unexplained") == 2 and len(r.records("duplicate")) == 3 and
                         len(r.records("altered")) == 2, "--records")
    assert report.status == FINDINGS
    assert sorted(r["sequence"] for r in report.records("unexplained")) == [7, 1500]
    assert {r["producer"] for r in report.records("unexplained")} == {"till"}
    assert sorted(r["sequence"] for r in report.records("duplicate")) == [20, 21, 1999]
    assert sorted(r["sequence"] for r in report.records("delayed")) == [2001, 2002, 2003]
    assert sorted(r["sequence"] for r in report.records("altered")) == [2004, 2005]
    assert [(r["sequence"], r["reason"]) for r in report.records("rejected")] == [(2005, "json_invalid")]
    window = [w for w in report.windows(declared.name) if w["unexplained"]][0]
    assert window["state"] == "mismatch" and window["published"] == published + 3 == classes(window), window
    assert all(r["id"] and r["partition"] is not None for kind in ("duplicate", "delayed", "altered", "rejected")
               for r in report.records(kind))
    assert "recon.window_mismatch" in m.log_text()
    # The two records turn up after all.
    till.sequence = 6
    first = till.make(created=now)
    till.sequence = 1499
    second = till.make(created=now)
    till.windows = {}
    till.produce(**first)
    till.produce(**second)
    till.flush()
    report = wait_report(m, lambda r: r.total(declared.name, "unexplained") == 0, "--records")
    assert report.records("unexplained") == []


def test_a_manifest_topic_that_is_not_there_is_told_and_no_alarm(space):
    space.start_redis()
    declared = space.topic(bulk_topic, "declared", evidence="manifest")
    told = f"t{space.number}.later"
    m = instance(space, told, late_after="1s").start_ready()
    till = Till(space.broker, declared.name, digest_key(m.folder / "audit.keys"), WINDOW_MS, told)
    till.publish(100).flush()
    wait_until(lambda: told in m.worker("recon")["reason"], 30, "recon to say what it cannot ask")
    time.sleep(3.5)  # the window and its second are over
    assert {w["state"] for w in Report(m).all["windows"]} == {"pending"}
    space.broker.create_topics([told], 1)
    till.declare()
    report = wait_report(m, lambda r: r.total(declared.name, "published") == 100 and r.status == OK)
    assert report.total(declared.name, "unexplained") == 0


def test_a_topic_of_others_is_scanned_and_what_was_passed_over_is_found(space):
    """The group's offsets are set forward behind the pipeline's back: 100 records are never read."""
    space.start_redis()
    scanned = space.topic(bulk_topic, "scanned", partitions=1, evidence="scan")
    counted = space.topic(bulk_topic, "counted", partitions=1, evidence="offsets")
    m = instance(space, manifests(space)).start_ready()
    key = digest_key(m.folder / "audit.keys")
    tills = [Till(space.broker, t.name, key, WINDOW_MS, name=t.name) for t in (scanned, counted)]
    for t in tills:
        t.publish(1000).flush()
    m.wait_drained({(t.name, 0): 1000 for t in (scanned, counted)})
    assert m.drain() == 0
    for t in tills:
        t.publish(200).flush()
    with_gap(space, m, {(t.name, 0): 1100 for t in (scanned, counted)})
    m.start_ready()
    report = wait_report(m, lambda r: all(r.total(t.name, "unexplained") == 100 for t in (scanned, counted)),
                         "--records")
    for t in (scanned, counted):
        missing = [r for r in report.records("unexplained") if r["topic"] == t.name]
        assert sorted(r["offset"] for r in missing) == list(range(1000, 1100))
        assert all(r["id"] for r in missing)


def with_gap(space, m, offsets):
    """Commits offsets for the group while nobody is in it, and has Redis's marks agree."""
    from confluent_kafka import TopicPartition
    c = space.broker.consumer(m.group)
    wait_until(lambda: commits(c, [TopicPartition(t, p, o) for (t, p), o in offsets.items()]), 30, "the group to empty")
    c.close()
    with space.redis.client() as r:
        for name in r.keys("millrace:mark:*"):
            fields = r.get(name).decode().split()
            for (topic, partition), offset in offsets.items():
                if name.decode().endswith(f"{topic}:{partition}"):
                    r.set(name, " ".join([fields[0], str(offset), *fields[2:]]))


def commits(consumer, offsets):
    try:
        return all(o.error is None for o in consumer.commit(offsets=offsets, asynchronous=False))
    except Exception:
        return False


def test_no_alarm_is_raised_by_kills_and_rebalances(space):
    """Every worker is killed under load, and partitions move to a second instance and back."""
    space.start_redis()
    told = manifests(space)
    declared = space.topic(bulk_topic, "declared", evidence="manifest")
    scanned = space.topic(bulk_topic, "scanned", evidence="scan")
    # A partition whose static member is gone is nobody's for session.timeout.ms (10 s): that is not late here.
    m = instance(space, told, lanes=2, late_after="60s").start_ready()
    key = digest_key(m.folder / "audit.keys")
    till = Till(space.broker, declared.name, key, WINDOW_MS, told)
    other = Till(space.broker, scanned.name, key, WINDOW_MS, name="other")
    done = threading.Event()

    def publish():
        for _ in range(120):
            till.publish(100).flush()
            other.publish(100).flush()
            time.sleep(0.05)
            if _ % 20 == 19:
                till.declare()
        till.declare()
        done.set()
    load = threading.Thread(target=publish, daemon=True)
    load.start()
    while not done.is_set():
        for role in ("recon", "audit", "sink", "transform", "ingest", "recon"):
            if not done.is_set():
                m.kill_worker(role, 0)
                time.sleep(0.4)
    load.join()
    report = wait_report(m, lambda r: r.total(declared.name, "published") == 12_000 and
                         r.total(scanned.name, "published") == 12_000 and
                         all(w["state"] == "matched" for w in r.all["windows"]), "--records")
    assert report.status == OK and report.records("unexplained") == [] and report.records("duplicate") == []
    assert sum(w["seen"] for w in report.all["windows"]) == 24_000
    second = instance(space, told, name=f"{m.name}b", group=m.group, instance="node2", late_after="60s",
                      recon={"keys": str(m.folder / "audit.keys")}).start_ready()
    wait_until(lambda: any(p["assigned"] for p in second.stats()["partitions"]), 40, "partitions to move")
    till.publish(2000).declare()
    other.publish(2000).flush()
    time.sleep(3)
    assert second.drain() == 0
    till.publish(500).declare()
    other.publish(500).flush()
    wait_until(lambda: all(p["assigned"] for p in m.stats()["partitions"]), 30, "all partitions to come back")
    wait_report(m, lambda r: all(w["state"] == "matched" for w in r.windows(scanned.name)))
    assert {w["state"] for w in Report(m, "--check").all["windows"]} <= {"matched", "pending"}
    for i in (m, second):
        alarms = [line for line in i.log_text().splitlines() if " recon.window" in line or "recon.exception" in line]
        assert alarms == []

"""`millrace replay`: what is chosen, what has to follow it, and that nothing goes back in time for good."""

import json
import random
import time

from confluent_kafka import Producer

from harness.generator import bulk_topic
from harness.oracle import read_log
from harness.process import wait_until
from harness.reference import Topic
from test_refeed import Tracker, published, spoil


def replay(m, *args, status=0, timeout=60):
    done = m.run_command("replay", *args, "--format", "json", timeout=timeout)
    assert done.returncode == status, f"{args}: {done.returncode} {done.stdout} {done.stderr}"
    return json.loads(done.stdout) if done.stdout else None


def wait_logged(m, count):
    m.wait_for(lambda s: m.metric("audit_entry", s) - m.metric("audit_entry_repeat", s) >= count, 30,
               f"{count} entries in the audit log")


def test_a_window_is_replayed_while_others_write_the_same_keys(space):
    space.start_redis()
    space.topic(partitions=4)
    space.topic(bulk_topic, "bulk", partitions=4)
    m = space.millrace(lanes=2, audit="on").start_ready()
    before = published(space, 8000)
    m.wait_drained(before.next_offset)
    wait_logged(m, 8000)
    keys = spoil(space, before.history, 500, space.number)
    live = space.load(24_000, 6, history=before.history, generator=before.generator)
    live.next_offset = dict(before.next_offset)
    tracker = Tracker(space.redis, space.topics, before.history, before.history.states, keys)
    tracker.pending |= set(tracker.keys)
    now = int(time.time() * 1000)
    live.start()
    time.sleep(0.5)
    told = replay(m, "--window", f"{now - 600_000}/{now}", "--rate", 4000)
    assert live.live, "the replay took longer than the load"
    assert told["chosen"] == 8000 and told["following"] > 0 and told["requests"] >= 2, told
    assert told["fed"] + told["covered"] >= 8000 and not told["missing"] and not told["ended"], told
    live.finish()
    m.wait_drained(live.next_offset)
    space.judge()
    stats = m.stats()
    assert m.metric("sink_write_lost", stats) == m.metric("ingest_partition_rewind", stats) == 0
    wait_logged(m, 32_000)
    assert m.metric("audit_entry") - m.metric("audit_entry_repeat") == 32_000, "each record is new once"
    assert m.drain() == 0


def test_one_record_or_one_key_brings_what_follows_it(space):
    space.start_redis()
    t = space.topic(partitions=4)
    m = space.millrace(audit="on").start_ready()
    load = published(space, 4000)
    m.wait_drained(load.next_offset)
    wait_logged(m, 4000)
    r = random.Random(space.number)
    moved = [k for k, (offsets, values) in sorted(load.history.states.items()) if len(offsets) > 3 and values[-1]]
    for key in r.sample(moved, 2):
        partition, offset = load.history.home[key][1], load.history.states[key][0][0]
        with space.redis.client() as client:
            client.delete(key)
        told = replay(m, "--offsets", f"{t.name}/{partition}/{offset}", "--dry-run")
        assert told["chosen"] == 1 and told["following"] >= len(load.history.states[key][0]) - 1
        identity = next(x["id"] for x in told["records"] if x["why"] == "chosen")
        assert {x["offset"] for x in told["records"]} >= set(load.history.states[key][0])
        again = replay(m, "--id", identity)
        assert again["chosen"] == 1 and again["fed"] == 1 + again["following"] == 1 + told["following"]
        space.judge()
        with space.redis.client() as client:
            client.set(key, b"altered")
        by_key = replay(m, "--key", key.decode())
        assert by_key["fed"] >= len(load.history.states[key][0])
        space.judge()
    assert replay(m, "--id", "00000000-0000-8000-8000-000000000000", status=66) is None
    assert replay(m, "--key", "card:none:0", status=66) is None
    assert m.drain() == 0
    done = m.run_command("replay", "--key", moved[0].decode())
    assert done.returncode == 69, "there is nobody to feed it"


def test_two_instances_share_a_replay(space):
    space.start_redis()
    t = space.topic(partitions=4)
    first = space.millrace("first", group="shared", instance="node1", audit="on").start_ready()
    second = space.millrace("second", group="shared", instance="node2", audit="on").start_ready()
    for m in (first, second):
        m.wait_for(lambda s, m=m: m.metric("ingest_partition_assigned", s) == 2, 30, "its half")
    load = published(space, 4000)
    for m in (first, second):
        m.wait_for(lambda s, m=m: m.metric("audit_entry", s) > 500, 30, "its share of the records")
    time.sleep(1)
    spoil(space, load.history, 300, space.number)
    fed = 0
    for m in (first, second):
        told = replay(m, "--window", f"{int(time.time() * 1000) - 600_000}/{int(time.time() * 1000)}")
        assert told["following"] == 0 and not told["elsewhere"], told
        fed += told["chosen"]
    assert fed == 4000
    space.judge()
    # A partition that has moved: who has it now has no log of those records, and says that nothing is chosen.
    moved = next(p["partition"] for p in second.stats()["partitions"] if p["assigned"])
    assert second.drain() == 0
    first.wait_for(lambda s: first.metric("ingest_partition_assigned", s) == 4, 40, "everything")
    assert replay(first, "--offsets", f"{t.name}/{moved}/3", status=66) is None
    assert first.drain() == 0


def test_copies_have_everything_of_their_originals(space):
    space.start_redis()
    t = space.topic(Topic, "full", partitions=4, mode="bulk", reconcile="full", key="k:{id}")
    keys = space.key_file()
    m = space.millrace(audit="on", crypto={"keys": str(keys)}).start_ready()
    producer = Producer({"bootstrap.servers": space.broker.bootstrap})
    for i in range(300):
        body = b"not JSON" if i % 50 == 7 else json.dumps({"id": i, "text": "x" * (i % 40)}).encode()
        headers = [("op", b"add"), ("empty", b""), ("null", None), ("two", b"1"), ("two", bytes(range(256)))]
        producer.produce(t.name, body, None if i % 10 == 3 else b"key%d" % (i % 9), partition=i % 4,
                         headers=headers, timestamp=1_700_000_000_000 + i)
    producer.flush(30)
    wait_logged(m, 300)
    originals = {(r.partition, r.offset): r for r in read_log(space.broker, [t.name], 4)[0]}
    for source in ("kafka", "log"):
        copies = f"{t.name}.copies.{source}"
        space.broker.create_topics([copies], 3)
        told = replay(m, "--window", "1700000000000/1700000000300", "--to-topic", copies, "--from", source)
        assert told == {"copied": 300, "missing": 0, "to": copies}
        seen = set()
        for r in read_log(space.broker, [copies], 3)[0]:
            assert r.headers[-1][0] == "millrace-replay-of"
            topic, partition, offset = r.headers[-1][1].decode().rsplit("/", 2)
            place = (int(partition), int(offset))
            o = originals[place]
            assert topic == t.name and place not in seen
            assert (r.key, r.value, r.timestamp, r.headers[:-1]) == (o.key, o.value, o.timestamp, o.headers), (r, o)
            seen.add(place)
        assert len(seen) == 300
    only = f"{t.name}.copies.range"
    space.broker.create_topics([only], 1)
    began = time.monotonic()
    told = replay(m, "--offsets", f"{t.name}/2/10-39", "--to-topic", only, "--rate", 20, status=0)
    assert told["copied"] == 30 and time.monotonic() - began > 1
    assert replay(m, "--offsets", f"{t.name}/2/70-84", "--to-topic", only, status=1)["missing"] == 10
    done = m.run_command("replay", "--window", "1700000000000/1700000000300", timeout=60)
    assert done.returncode == 1 and "6 rejected records are left out" in done.stderr, done
    assert m.drain() == 0


def test_what_kafka_no_longer_has_is_named(space):
    space.start_redis()
    t = space.topic(partitions=2)
    m = space.millrace(audit="on").start_ready()
    load = published(space, 1000)
    m.wait_drained(load.next_offset)
    wait_logged(m, 1000)
    space.broker.delete_records(t.name, 0, 100)
    told = replay(m, "--offsets", f"{t.name}/0/90-109", status=1)
    missing = sorted(x["offset"] for x in told["missing"] if x["partition"] == 0)
    assert missing == sorted(set(missing)) and set(range(90, 100)) <= set(missing), told
    assert all(x["why"] == "gone" for x in told["missing"])
    assert told["fed"] >= 10
    assert m.drain() == 0


def test_a_load_is_replayed_and_the_identity_still_closes(space):
    space.start_redis()
    t = space.topic(bulk_topic, "bulk", partitions=4, evidence="scan")
    manifests = f"{t.name}.manifests"
    space.broker.create_topics([manifests], 1)
    m = space.millrace(audit="on", recon={"window": "1h", "manifest_topic": manifests}).start_ready()
    published(space, 1500)
    rows = m.folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"account": f"{i:07d}", "card_no": "0", "n": i}) + "\n" for i in range(500)))
    done = m.run_command("load", rows, "--topic", t.name, "--format-output", "json", timeout=60)
    assert done.returncode == 0, done
    load = json.loads(done.stdout)["load"]
    wait_logged(m, 2000)
    with space.redis.client() as client:
        mine = [f"card:{i:07d}:0" for i in range(500)]
        before = client.mget(mine)
        assert None not in before
        client.delete(*mine[::2])
    told = replay(m, "--load", load)
    assert (told["chosen"], told["following"], told["fed"]) == (500, 0, 500), told
    with space.redis.client() as client:
        assert client.mget(mine) == before
    def counted():
        done = m.run_command("recon", "--check", "--all", "--format", "json", timeout=60)
        assert done.returncode == 75, "the hour is not over"
        windows = [w for w in json.loads(done.stdout)["windows"] if w["topic"] == t.name]
        return windows if sum(w["published"] or 0 for w in windows) == 2000 else None
    windows = wait_until(counted, 40, lambda: "the scan of the topic", 0.5)
    assert all(w["unexplained"] == w["unpublished"] == w["duplicate"] == w["in_flight"] == 0 for w in windows), windows
    assert sum(w["published"] for w in windows) == sum(w["applied"] for w in windows) == 2000
    assert sum(w["repeat"] for w in windows) == 500, windows
    done = m.run_command("recon", "--load", load, "--wait=30", timeout=60)
    assert done.returncode == 0, done
    assert m.drain() == 0

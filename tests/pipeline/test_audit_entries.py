"""What the audit log says of records, against what was published and what Redis has, computed a second time here."""

import json
import signal
import struct
import subprocess
import time
import uuid

from confluent_kafka import Producer

from harness import audit_log
from harness.generator import change_topic
from harness.reference import Topic

LOAD = "00112233-4455-6677-8899-aabbccddeeff"
OP = {"header": "op"}


def produce(space, topic, records):
    """(key, value, headers[, timestamp]) in this order, on partition 0. Headers: {name: text}."""
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0, "message.max.bytes": 4 << 20})
    for key, value, headers, *timestamp in records:
        more = {"timestamp": timestamp[0]} if timestamp else {}
        producer.produce(topic.name, key=key, value=value, partition=0,
                         headers=[(n, v.encode()) for n, v in headers.items()], **more)
    assert producer.flush(20) == 0


def logged(m, topic):
    """The topic's entries, in order of offsets; each is in the log once."""
    found = [e for e in audit_log.entries(m.data_dir) if e["topic"] == topic.name]
    assert [e["offset"] for e in found] == sorted({e["offset"] for e in found})
    return found


def hmac_header(key, data):
    return "hmac:" + audit_log.digest(key, data).hex()


def xxh3(data):
    return subprocess.run(["xxhsum", "-H2"], input=data, capture_output=True, check=True).stdout.split()[0].decode()


def test_entries_tell_what_producers_declared_and_what_redis_has(space):
    """One topic with every kind of record, HMAC digests."""
    redis = space.start_redis()
    topic = space.topic(change_topic)
    m = space.millrace(audit="on").start_ready()
    key = audit_log.digest_key(m.folder / "audit.keys")
    now = int(time.time() * 1000)

    def body(card, old=None, **more):
        old = {} if old is None else {"old_account": "a", "old_card_no": old}
        return json.dumps({"account": "a", "card_no": card, **old, **more}).encode()

    ids = [str(uuid.uuid4()) for _ in range(3)]
    whole = {"millrace-id": ids[0], "millrace-created": str(now - 5000), "millrace-load": LOAD,
             "millrace-producer": "db2-north", "millrace-sequence": "41",
             "millrace-digest": hmac_header(key, body("1"))}
    records = [("a", body("1"), {"op": "add", **whole}, now),
               ("a", body("2"), {"op": "add", "millrace-digest": hmac_header(key, body("1"))}),
               ("a", body("3", "1"), {"op": "update", "millrace-digest": "xxh3:" + xxh3(body("3", "1"))}),
               ("a", body("2"), {"op": "delete"}),
               ("a", b"not JSON", {"op": "add", "millrace-sequence": "9", "millrace-producer": "db2-north"}),
               ("a", body("5"), {"op": "add", "millrace-created": "yesterday", "millrace-sequence": "0"}, now),
               ("a", None, {"op": "delete", "millrace-digest": "hmac:" + "0" * 32})]
    produce(space, topic, records)
    m.wait_drained({(topic.name, 0): len(records)})
    e = logged(m, topic)
    assert [x["outcome"] for x in e] == ["applied"] * 3 + ["deleted", "rejected", "applied", "rejected"]
    assert [x["op"] for x in e] == ["add", "add", "update", "delete", "reject", "add", "reject"]
    for x, (_, value, *_) in zip(e, records):
        assert x["algorithm"] == audit_log.HMAC
        assert x["digest_published"] == (audit_log.digest(key, value) if value is not None else bytes(16))
        assert x["published_bytes"] == (len(value) if value is not None else audit_log.BYTES_NULL)
        stored = value if x["outcome"] == "applied" else None
        assert x["digest_stored"] == (audit_log.digest(key, stored) if stored else bytes(16))
        assert x["stored_bytes"] == len(stored or b"")
    assert e[0]["id"] == audit_log.id_bytes(ids[0]) and e[0]["load"] == audit_log.id_bytes(LOAD)
    assert (e[0]["created_ms"], e[0]["timestamp_ms"], e[0]["sequence"]) == (now - 5000, now, 41)
    assert e[0]["producer"] == e[4]["producer"] == audit_log.producer_hash("db2-north") and e[4]["sequence"] == 9
    both = audit_log.DECLARED | audit_log.ALTERED
    assert [x["flags"] & both for x in e] == [audit_log.DECLARED, both, audit_log.DECLARED, 0, 0, 0, audit_log.DECLARED]
    assert e[0]["flags"] & audit_log.CREATED and not e[5]["flags"] & audit_log.CREATED
    assert (e[5]["created_ms"], e[5]["sequence"]) == (now, 0), "malformed headers count as absent"
    assert [x["digest_key"] for x in e] == [audit_log.digest(key, k) if k else bytes(16) for k in
                                            (b"card:a:1", b"card:a:2", b"card:a:3", b"card:a:2", b"", b"card:a:5", b"")]
    assert e[2]["flags"] & audit_log.KEY_CHANGED
    assert e[2]["digest_old_key"] == audit_log.digest(key, b"card:a:1")
    metrics = m.stats()["metrics"]
    assert (metrics["transform_record_altered"], metrics["transform_header_malformed"]) == (1, 2)
    # What Redis has is what the newest entry of each key says.
    with redis.client() as c:
        held = {k: c.get(k) for k in c.keys("card:*")}
    assert {audit_log.digest(key, k): audit_log.digest(key, v) for k, v in held.items()} == \
        {e[i]["digest_key"]: e[i]["digest_stored"] for i in (2, 5)}
    for x in e:
        assert x["transformed_us"] <= x["sent_us"] <= x["answered_us"] < 60_000_000
        assert now - 1000 <= x["ingested_us"] // 1000 <= now + 60_000
    assert m.drain() == 0


def test_every_method_keeps_what_it_says(space):
    """Topics side by side: off, counts, checksum, digest of hashes, full; expired records and encrypted values."""
    redis = space.start_redis()
    plain = dict(key="k:{$topic}:{$key}", format="raw", operation=OP)
    off, counts, checksum = (space.topic(Topic, r, reconcile=r, **plain) for r in ("off", "counts", "checksum"))
    hashes = space.topic(Topic, "hashes", key="h:{$key}", operation=OP, value_type="hash", ttl="1h")
    full = space.topic(Topic, "full", reconcile="full", compress="lz4", encrypt=True, **plain)
    keys = space.key_file()
    m = space.millrace(audit="on", crypto={"keys": str(keys)}, ring_bytes="1MiB").start_ready()
    key = audit_log.digest_key(m.folder / "audit.keys")
    now = int(time.time() * 1000)
    text = b"some text that is long enough to be compressed, some text that is long enough to be compressed"
    for topic in (off, counts, checksum):
        produce(space, topic, [("a", text, {"op": "add"}), ("b", b"x", {"op": "update"}), ("a", None, {})])
    produce(space, hashes, [("a", b'{"x":1,"y":"2","x":3}', {"op": "add"}, now),
                            ("b", b'{"x":1}', {"op": "add"}, now - 7_200_000)])
    large = b"0" * 200_000
    produce(space, full, [("a", text, {"op": "add", "h": "1"}), ("b", b"\0short", {"op": "add"}), (None, b"v", {}),
                          ("c", None, {}), ("d", large, {"op": "add", "millrace-sequence": "5", "millrace-id": LOAD})])
    m.wait_drained({**{(t.name, 0): 3 for t in (off, counts, checksum)}, (hashes.name, 0): 2, (full.name, 0): 5})

    assert logged(m, off) == []
    for topic, algorithm in ((counts, audit_log.NONE), (checksum, audit_log.XXH3)):
        e = logged(m, topic)
        assert [x["outcome"] for x in e] == ["applied", "applied", "deleted"]
        assert {x["algorithm"] for x in e} == {algorithm}
        want = [bytes.fromhex(xxh3(v)) if algorithm else bytes(16) for v in (text, b"x")] + [bytes(16)]
        assert [x["digest_published"] for x in e] == [x["digest_stored"] for x in e] == want
        name = topic.name.encode()
        assert [x["digest_key"] for x in e] == [audit_log.digest(key, b"k:" + name + k) for k in (b":a", b":b", b":a")]
    e = logged(m, hashes)
    assert [x["outcome"] for x in e] == ["applied", "expired"]
    assert e[0]["flags"] & audit_log.HASH and e[0]["expire_at_ms"] == now + 3_600_000
    with redis.client() as c:
        assert e[0]["digest_stored"] == audit_log.fields_digest(key, c.hgetall("h:a"))
    assert e[0]["digest_published"] == audit_log.digest(key, b'{"x":1,"y":"2","x":3}')
    check_full(m, full, key, keys, [("a", text), ("b", b"\0short"), (None, b"v"), ("c", None)])
    assert m.drain() == 0


def check_full(m, topic, key, key_file, published):
    """The content is the original, whatever became of it; of one too large for a ring there is only what was declared."""
    e = logged(m, topic)
    values = audit_log.millrace_value.load_keys(key_file)
    assert [x["outcome"] for x in e] == ["applied", "applied", "rejected", "deleted", "rejected"]
    for x, (k, v) in zip(e, published):
        headers = audit_log.unseal(x, values)[2]
        assert audit_log.unseal(x, values)[:2] == (k.encode() if k else None, v)
        assert x["digest_published"] == (audit_log.digest(key, v) if v is not None else bytes(16))
        assert headers.startswith(struct.pack("=HI", 2, 3) + b"opadd") or k in (None, "c")
    assert e[0]["digest_stored"] == e[0]["digest_published"], "before compression and encryption"
    assert e[4]["content"] == b"" and e[4]["algorithm"] == audit_log.NONE
    assert e[4]["id"] == audit_log.id_bytes(LOAD) and e[4]["sequence"] == 5
    assert b"some text" not in b"".join(p.read_bytes() for p in (m.data_dir / "audit").iterdir() if p.is_file())


def test_audit_that_stands_still_holds_the_lane_and_nothing_is_lost(space):
    """The audit ring is full for seconds: the sink waits, with its connection; nothing is committed that is not logged."""
    redis = space.start_redis()
    topic = space.topic(Topic, format="raw", key="{$key}", mode="bulk")
    m = space.millrace(audit="on", ring_bytes="1MiB", heartbeat_timeout="60s").start_ready()
    count = 20_000  # four times what the audit ring takes
    produce(space, topic, [(f"k{i}", b"before", {}) for i in range(100)])
    m.wait_drained({(topic.name, 0): 100})
    pid = m.worker("audit")["pid"]
    assert m.signal_pid(pid, "audit", signal.SIGSTOP)
    produce(space, topic, [(f"k{i}", b"v" * 50, {}) for i in range(100, count)])
    stats = m.wait_for(lambda s: "audit ring is full" in m.worker("sink", 0, s)["reason"], 20, "the sink to wait")
    assert m.worker("sink", 0, stats)["state"] == "blocked"
    with redis.client() as c:
        sent = c.dbsize()
        time.sleep(1.5)
        assert c.dbsize() == sent < count, "it goes on without audit"
    stats = m.stats()
    logged_up_to = logged(m, topic)[-1]["offset"] + 1
    assert all(p["committed"] <= logged_up_to for p in stats["partitions"] if p["partition"] == 0)
    metrics = stats["metrics"]
    assert (metrics["sink_redis_connect"], metrics["sink_record_resent"]) == (1, 0), "Redis is not at fault"
    assert m.worker("sink", 0)["pid"] == m.worker("sink", 0, stats)["pid"]
    assert m.signal_pid(pid, "audit", signal.SIGCONT)
    m.wait_drained({(topic.name, 0): count})
    assert [e["offset"] for e in logged(m, topic)] == list(range(count))
    with redis.client() as c:
        assert c.dbsize() == count + 8, "and the marks of eight partitions"
    assert m.worker("sink", 0)["state"] == "running"
    assert m.drain() == 0

"""Whatever a producer sends becomes its defined outcome, and none of it stops a lane."""

import json
import time

from confluent_kafka import Producer

from harness.generator import change_topic
from harness.oracle import Decoder, read_redis
from harness.reference import Topic

MEGABYTE = 1_000_000 - 5000  # of value, within the client's limit of one message
FUTURE = 4102444800000       # the year 2100
HOUR = 3600_000
DIGITS = b"123456789012345678901234567890"


def publish(space, topic, cases):
    """cases: [(key, value, headers, timestamp or None, outcome)], to partition 0. Returns {offset: outcome}."""
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "message.max.bytes": 4_000_000, "log_level": 0})
    offsets = []
    for key, value, headers, timestamp, _ in cases:
        more = {} if timestamp is None else {"timestamp": timestamp}
        producer.produce(topic.name, value, key, partition=0, headers=headers,
                         on_delivery=lambda e, m: offsets.append(m.offset() if e is None else e), **more)
    assert producer.flush(30) == 0
    assert offsets == list(range(len(cases))), offsets
    return {o: case[4] for o, case in enumerate(cases)}


def run(space, topic, cases, **more):
    """Publishes, runs until drained, checks rejects and counters. Returns (instance, what Redis holds)."""
    outcomes = publish(space, topic, cases)
    m = space.millrace(log={"level": "debug"}, **more).start_ready()
    stats = m.wait_drained({(topic.name, 0): len(cases)})
    rejected = {o: reason for o, reason in outcomes.items() if reason is not None}
    listed = m.rejects()
    assert {(r["topic"], r["partition"], r["offset"]): r["reason"] for r in listed} == \
        {(topic.name, 0, o): reason for o, reason in rejected.items()}
    assert len(listed) == len(rejected)
    for reason in set(rejected.values()):
        assert m.metric(f"transform_reject_{reason}", stats) == list(rejected.values()).count(reason), reason
    assert all(w["state"] == "running" for w in stats["workers"])
    assert m.metric("supervisor_child_died", stats) == 0
    with space.redis.client() as client:
        found = read_redis(client, Decoder(space.topics))
    space.judge(produced=len(cases))  # the reference agrees
    return m, found


def test_raw_topic(space):
    space.start_redis()
    t = space.topic(lambda n: Topic(n, format="raw", key="{$key}"), "raw", partitions=1)
    big = bytes(range(256)) * (MEGABYTE // 256)
    cases = [
        (b"good", b"first", [], None, None),
        (None, b"no key", [], None, "key_null"),
        (b"", b"empty key", [], None, "key_empty"),
        (b"k" * 4096, b"longest key", [], None, None),
        (b"k" * 4097, b"too long", [], None, "key_long"),
        (b"gone", b"x", [], None, None),
        (b"gone", None, [], None, None),  # a null value deletes
        (b"gone too", b"x", [], None, None),
        (b"gone too", None, [("op", b"add")], None, None),  # whatever a header says
        (b"never there", None, [], None, None),
        (b"empty", b"", [], None, None),  # 0 bytes are a value
        (b"big", big, [], None, None),
        (b"\xff\xfe\x00key\r\n", b"\x80\x00\xff\r\n", [], None, None),  # neither text nor UTF-8
        (b"resp", b"*1\r\n$8\r\nFLUSHALL\r\n", [], None, None),
        (b"future", b"2100", [], FUTURE, None),
        (b"past", b"1970", [], 1, None),
        (b"headers", b"h", [("a", None), ("a", b""), ("", b"x"), ("\u00fc", b"\xff")], None, None),
        (None, None, [], None, "key_null"),
        (b"good", b"last", [], None, None),
    ]
    m, found = run(space, t, cases)
    assert found == {b"good": b"last", b"k" * 4096: b"longest key", b"empty": b"", b"big": big,
                     b"\xff\xfe\x00key\r\n": b"\x80\x00\xff\r\n", b"resp": b"*1\r\n$8\r\nFLUSHALL\r\n",
                     b"future": b"2100", b"past": b"1970", b"headers": b"h"}
    assert m.drain() == 0


def body(**fields):
    return json.dumps(fields).encode()


def test_json_change_topic(space):
    space.start_redis()
    t = space.topic(change_topic, "json", partitions=1)
    add, update, delete = [("op", b"add")], [("op", b"update")], [("op", b"delete")]
    nested = b'{"account":"n","card_no":1,"x":' + b"[" * 63 + b"]" * 63 + b"}"
    too_deep = b'{"account":"n","card_no":2,"x":' + b"[" * 64 + b"]" * 64 + b"}"
    big = body(account="big", card_no=1, text="x" * MEGABYTE)
    kept = {}

    def keep(key, value):
        kept[key] = value
        return value
    cases = [
        (b"1", body(account="1", card_no=1), add, None, None),
        # The template does not ask for the Kafka key, so it may be anything.
        (None, keep(b"card:nokey:1", body(account="nokey", card_no=1)), add, None, None),
        (b"", keep(b"card:emptykey:1", body(account="emptykey", card_no=1)), add, None, None),
        (b"1", None, delete, None, "field_missing"),  # the key is in the value, which is not there
        (b"1", b"", add, None, "json_invalid"),
        (b"1", keep(b"card:big:1", big), add, None, None),
        (b"1", b'{"account":"\xff\xfe","card_no":1}', add, None, "json_invalid"),
        (b"1", b'{"account":"\xc0\xaf","card_no":1}', add, None, "json_invalid"),
        (b"1", b'{"account":"\\ud800","card_no":1}', add, None, "json_invalid"),
        (b"1", b'{"account":"1","card_no":1', add, None, "json_invalid"),
        (b"1", b'{"account":"1","card_no":1} trailing', add, None, "json_invalid"),
        (b"1", b'{"account":"1","card_no":01}', add, None, "json_invalid"),
        (b"1", b'["account","1"]', add, None, "json_invalid"),
        (b"1", b'"account"', add, None, "json_invalid"),
        (b"1", b"null", add, None, "json_invalid"),
        (b"1", keep(b"card:n:1", nested), add, None, None),
        (b"1", too_deep, add, None, "json_invalid"),
        (b"1", b"[" * 100_000, add, None, "json_invalid"),
        (b"1", body(account="1"), add, None, "field_missing"),
        (b"1", body(account="1", card_no=None), add, None, "field_missing"),
        (b"1", body(account="1", card_no={"x": 1}), add, None, "field_missing"),
        (b"1", body(account="1", card_no=[1]), add, None, "field_missing"),
        (b"1", keep(b"card::", body(account="", card_no="")), add, None, None),  # empty fields, but the key is not
        (b"1", keep(b"card:t:true", body(account="t", card_no=True)), add, None, None),
        # Numbers as they are spelt, strings as they mean.
        (b"1", keep(b"card:f:1.50e3", b'{"account":"f","card_no":1.50e3}'), add, None, None),
        (b"1", keep(b"card:l:" + DIGITS, b'{"account":"l","card_no":' + DIGITS + b"}"), add, None, None),
        (b"1", keep("card:\u00e9\U0001f600:a\"b\\/".encode(),
                    b'{"account":"\\u00e9\\ud83d\\ude00","card_no":"a\\"b\\\\\\/"}'), add, None, None),
        (b"1", keep(b"card:nul:a\0b", b'{"account":"nul","card_no":"a\\u0000b"}'), add, None, None),
        (b"1", keep(b"card:space:1", b' \t\r\n {"account" : "space" , "card_no" : 1 } \n'), add, None, None),
        (b"1", body(account="k" * 5000, card_no=1), add, None, "key_long"),
        (b"1", body(account="1", card_no=1), [("op", b"explode")], None, "operation"),
        (b"1", keep(b"card:word:1", body(account="word", card_no=1)), [("op", b"INSERT")], None, None),
        (b"1", body(account="1", card_no=1), [("op", b"")], None, "operation"),
        (b"1", body(account="1", card_no=1), [("op", None)], None, "operation"),
        (b"1", body(account="1", card_no=1), [("op", b"\xff")], None, "operation"),
        (b"1", body(account="1", card_no=1), [], None, "operation"),
        (b"1", keep(b"card:twice:1", body(account="twice", card_no=1)), [("op", b"explode"), ("op", b"add")], None,
         None),
        (b"1", keep(b"card:unseen:2", body(account="unseen", card_no=2, old_account="unseen", old_card_no=1)), update,
         None, None),
        (b"1", keep(b"card:same:1", body(account="same", card_no=1, old_account="same", old_card_no=1)), update, None,
         None),
        (b"1", body(account="never", card_no=1), delete, None, None),
        (b"1", keep(b"card:future:1", body(account="future", card_no=1)), add, FUTURE, None),
        (b"1", keep(b"card:1:1", body(account="1", card_no=1, last=True)), update, None, None),
    ]
    m, found = run(space, t, cases)
    assert found == kept
    assert m.drain() == 0


def test_bulk_topic_takes_adds_only(space):
    space.start_redis()
    t = space.topic(lambda n: Topic(n, mode="bulk", key="k:{id}", operation={"field": "kind"}), "bulk", partitions=1)
    cases = [
        (b"1", body(id=1, kind="add"), [], None, None),
        (b"1", body(id=1, kind="update"), [], None, "operation"),
        (b"1", body(id=1, kind="delete"), [], None, "operation"),
        (b"1", None, [], None, "operation"),
        (b"1", body(id=2), [], None, "operation"),  # configured, and not there
        (b"1", body(id=3, kind=7), [], None, "operation"),
        (b"1", body(id=1, kind="add", again=True), [], None, None),
    ]
    m, found = run(space, t, cases)
    assert found == {b"k:1": cases[-1][1]}
    assert m.drain() == 0


def test_template_that_gives_nothing(space):
    space.start_redis()
    t = space.topic(lambda n: Topic(n, key="{id}"), "empty", partitions=1)
    cases = [(b"1", body(id=""), [], None, "key_empty"), (b"1", body(id="x"), [], None, None)]
    m, found = run(space, t, cases)
    assert set(found) == {b"x"}
    assert m.drain() == 0


def test_record_larger_than_a_ring_takes(space):
    """A small ring rejects what it cannot hold; only its place is kept, Kafka has the content."""
    space.start_redis()
    t = space.topic(lambda n: Topic(n, format="raw", key="{$key}"), "large", partitions=1)
    cases = [(b"a", b"1", [], None, None), (b"b", b"x" * MEGABYTE, [], None, "too_large"),
             (b"c", b"3", [("h", b"y" * 70_000)], None, "too_large"), (b"d", b"4", [], None, None)]
    publish(space, t, cases)
    m = space.millrace(ring_bytes="1MiB").start_ready()
    m.wait_drained({(t.name, 0): 4})
    assert [(r["offset"], r["reason"]) for r in m.rejects()] == [(1, "too_large"), (2, "too_large")]
    with space.redis.client() as client:
        assert read_redis(client, Decoder(space.topics)) == {b"a": b"1", b"d": b"4"}
    assert m.drain() == 0


def test_rejects_survive_kills_and_are_kept_once(space):
    space.start_redis()
    t = space.topic(lambda n: Topic(n, key="k:{id}"), "rejects", partitions=1)
    cases = [(b"1", b"not json" if i % 3 == 0 else body(id=i), [], None, None) for i in range(3000)]
    m = space.millrace().start_ready()
    publish(space, t, cases)
    for _ in range(4):
        for role in ("transform", "ingest", "sink"):
            m.kill_worker(role, 0)
            time.sleep(0.1)
    m.wait_drained({(t.name, 0): 3000})
    assert sorted(r["offset"] for r in m.rejects()) == list(range(0, 3000, 3))
    files = [f for f in (m.data_dir / "rejects").rglob("*") if f.is_file()]
    assert files and all(f.stat().st_mode & 0o777 == 0o600 for f in files)
    space.judge(produced=3000)
    assert m.drain() == 0


def test_full_rejects_folder_blocks_instead_of_losing(space):
    space.start_redis()
    t = space.topic(lambda n: Topic(n, key="k:{id}"), "full", partitions=1)
    cases = [(b"1", b"not json " + b"x" * 5000, [], None, None) for _ in range(1000)]
    m = space.millrace(rejects={"max_bytes": "1MiB"}, drain_timeout="3s").start_ready()
    publish(space, t, cases)
    stats = m.wait_for(lambda s: any(w["state"] == "blocked" for w in s["workers"]), 20, "the folder to be full")
    blocked = next(w for w in stats["workers"] if w["state"] == "blocked")
    assert blocked["reason"] == "rejects full", blocked
    kept = len(m.rejects())
    time.sleep(2)
    assert 100 < kept < 1000 and len(m.rejects()) == kept
    committed = space.broker.committed(m.group, [t.name], 1).get((t.name, 0), 0)
    assert committed <= kept
    assert m.log_text().count("transform.record_rejected") < 30, "a line that repeats is held back"
    # With more room it goes on, and nothing is missing or there twice.
    assert m.drain(timeout=60) == 75
    m.write_config(rejects={"max_bytes": "100MiB"})
    m.start_ready()
    m.wait_drained({(t.name, 0): 1000})
    assert [r["offset"] for r in m.rejects()] == list(range(1000))
    assert m.drain() == 0


def test_time_to_live_counts_from_the_kafka_timestamp(space):
    space.start_redis()
    t = space.topic(lambda n: Topic(n, format="raw", key="{$key}", ttl="1h"), "ttl", partitions=1)
    now = int(time.time() * 1000)
    cases = [
        (b"fresh", b"1", [], now, None),
        (b"half", b"1", [], now - HOUR // 2, None),
        (b"expired", b"1", [], now - 2 * HOUR, None),
        (b"renewed", b"old", [], now - 2 * HOUR, None),
        (b"renewed", b"new", [], now, None),
        (b"was there", b"1", [], now, None),
        (b"was there", b"2", [], now - 2 * HOUR, None),  # already past: a delete
        (b"future", b"1", [], FUTURE, None),
    ]
    publish(space, t, cases)
    m = space.millrace().start_ready()
    stats = m.wait_drained({(t.name, 0): len(cases)})
    with space.redis.client() as client:
        keys = [k for k in client.scan_iter() if not k.startswith(b"millrace:")]
        found = {k: client.execute_command("PEXPIRETIME", k) for k in keys}
    assert found == {b"fresh": now + HOUR, b"half": now + HOUR // 2, b"renewed": now + HOUR, b"future": FUTURE + HOUR}
    assert m.metric("sink_record_expired", stats) == 3
    assert m.drain() == 0


def test_rejected_records_can_be_exported(space):
    space.start_redis()
    t = space.topic(lambda n: Topic(n, key="k:{id}"), "export", partitions=1)
    original = b"not json \x00\xff CANARY-7731"
    cases = [(b"key-of-it", original, [("h", b"v")], None, "json_invalid"), (b"1", body(id=1), [], None, None)]
    m, _ = run(space, t, cases)
    done = m.run_command("rejects", "export", "--reveal")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 1 and rows[0]["offset"] == 0 and rows[0]["reason"] == "json_invalid"
    import base64
    assert base64.b64decode(rows[0]["value"]) == original and base64.b64decode(rows[0]["key"]) == b"key-of-it"
    assert "CANARY" not in m.log_text(), "the log must not contain records"
    assert "CANARY" not in json.dumps(m.rejects()), "a list is not an export"
    assert m.drain() == 0

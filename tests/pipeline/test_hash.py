"""Records stored as hashes: the right fields, no stale ones, whole ones at every instant, across deaths of workers."""

import json
import random
import threading

from confluent_kafka import Producer

from harness.generator import change_topic
from harness.millrace import command
from harness.reference import Topic


def hash_topic(name, **more):
    return change_topic(name, value_type="hash", **more)


def produce(space, topic, records):
    """Records (key, value or None, operation) in this order, on one partition."""
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0})
    for key, value, op in records:
        producer.produce(topic.name, key=key, value=value, partition=0, headers=[("op", op.encode())])
    assert producer.flush(20) == 0


def test_fields_are_what_the_record_says(space):
    redis = space.start_redis()
    topic = space.topic(Topic, key="row:{$key}", operation={"header": "op"}, value_type="hash")
    m = space.millrace().start_ready()
    wide = json.dumps({f"f{i}": i for i in range(4096)}).encode()
    cases = [("a", b'{"n":-1.50E+2,"big":123456789012345678901234567890.10,"s":"x","t":true,"z":null}', "add"),
             ("b", '{"nested":{"a" : [1.0, null]},"l":[],"e":"\\u20ac\\n","ü":"","":0}'.encode(), "add"),
             ("c", b'{"a":1,"b":2}', "add"), ("c", b'{"b":3,"c":4}', "update"), ("c", b'{"a":1,"a":null,"b":5}', "update"),
             ("d", b'{"a":1}', "add"), ("d", None, "delete"),
             ("e", b'{"a":1}', "add"), ("e", b'{"a":null}', "update"),  # rejected: the record before stays
             ("f", wide, "add"), ("g", wide[:-1] + b',"one more":1}', "add"), ("h", b'{"a":"\\ud800"}', "add")]
    produce(space, topic, cases)
    m.wait_drained({(topic.name, 0): len(cases)})
    expected, rejects = space.judge(produced=len(cases))
    assert expected[b"row:a"] == {b"n": b"-1.50E+2", b"big": b"123456789012345678901234567890.10", b"s": b"x",
                                  b"t": b"true"}
    assert expected[b"row:b"][b"nested"] == b'{"a" : [1.0, null]}' and expected[b"row:c"] == {b"b": b"5"}
    assert sorted(rejects.values()) == ["field_missing", "json_invalid", "too_large"]
    assert sorted(r["reason"] for r in m.rejects()) == sorted(rejects.values())
    with redis.client() as c:
        assert c.hlen("row:f") == 4096
        c.set("row:c", "somebody else's string")
    produce(space, topic, [("c", b'{"b":6}', "update")])
    m.wait_drained({(topic.name, 0): len(cases) + 1})
    done = m.run_command("get", "row:c")
    assert (done.returncode, done.stdout) == (0, '{"b":"6"}'), done
    assert m.drain() == 0


def test_hashes_are_whole_across_deaths(space):
    """Strings and hashes side by side under load, with a watcher that must never see a hash without all its fields."""
    redis = space.start_redis()
    space.topic(hash_topic, ttl="1h")
    space.topic(hash_topic, "rows")
    space.topic(change_topic, "texts")
    m = space.millrace(lanes=2).start_ready()
    load = space.load(24_000, 6, keys=300)
    seen, partial, stop = [0], [], threading.Event()

    def watch():
        with redis.client() as c:
            for key in iter(lambda: c.randomkey(), stop):
                if stop.is_set():
                    return
                if key is None or not key.startswith(b"card:") or c.type(key) != b"hash":
                    continue
                fields = c.hgetall(key)
                seen[0] += bool(fields)
                if fields and not {b"account", b"card_no", b"version", b"amount", b"open", b"text"} <= set(fields):
                    partial.append((key, fields))
    watcher = threading.Thread(target=watch, daemon=True)
    load.start()
    watcher.start()
    pick = random.Random(7)
    while load.live:
        m.kill_worker(pick.choice(["sink", "transform"]), pick.randrange(2))
        stop.wait(0.4)
    load.finish()
    m.wait_drained(load.next_offset)
    stop.set()
    watcher.join(10)
    assert not partial, partial[:3]
    assert seen[0] > 100
    expected, _ = space.judge(produced=24_000)
    assert sum(isinstance(v, dict) for v in expected.values()) > 100
    with redis.client() as c:
        timed = [c.pttl(k) for k in expected if isinstance(expected[k], dict)]
    assert any(0 < t <= 3600_000 for t in timed) and any(t == -1 for t in timed)
    assert m.drain() == 0


def test_a_hash_with_compression_is_refused(space):
    space.start_redis()
    space.topic(hash_topic, compress="lz4")
    m = space.millrace()
    done = command("check", "-c", m.file)
    assert done.returncode == 78 and "value.type hash goes with neither compression nor encryption" in done.stderr

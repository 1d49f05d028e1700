"""The programs of the benchmark do what they are compared by: 20,000 records each, and every value compared."""

import json
import subprocess

from harness.process import BUILD
from harness.reference import Topic

RECORDS, KEYS, PARTITIONS = 20_000, 3_000, 4


def program(name, *args):
    done = subprocess.run([BUILD / f"bench-{name}", *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, f"bench-{name}: {done.stderr}"
    return json.loads(done.stdout)


def last_values(broker, topic):
    """{key: last value} of what is in the topic; an account stays in its partition."""
    consumer, values, left = broker.consumer("reader", **{"auto.offset.reset": "earliest"}), {}, RECORDS
    consumer.subscribe([topic])
    while left > 0:
        messages = consumer.consume(5000, 10)
        assert messages, f"{left} records are missing"
        for m in messages:
            assert m.error() is None, m.error()
            values[m.key()] = m.value()
        left -= len(messages)
    consumer.close()
    return values


def stored(client, values):
    return dict(zip(values, client.mget(list(values))))


def as_hash(value):
    fields = json.loads(value)
    return {name.encode(): fields[name].encode() for name in ("account", "card_no", "version", "text")}


def test_the_programs_of_the_benchmark_apply_every_record(space):
    server = space.start_redis()
    topic = space.topic(lambda name: Topic(name, mode="bulk", format="raw", key="{$key}"), "bench", PARTITIONS).name
    kafka = ("--brokers", space.broker.bootstrap, "--topic", topic, "--keys", KEYS, "--count", RECORDS)
    assert program("load", *kafka)["records"] == RECORDS
    values = last_values(space.broker, topic)
    assert len(values) == KEYS and all(len(v) == 512 and json.loads(v) for v in values.values())

    assert program("consume", *kafka, "--group", "consume")["records"] == RECORDS
    with server.client() as client:
        program("set", "--count", KEYS, "--keys", KEYS, "--redis", server.port)
        assert client.dbsize() == KEYS and set(client.keys()) == set(values)
        for name, batch in (("straight", 100), ("limit", 500)):
            for hashes in (False, True):
                client.flushall()
                args = ["--group", f"{name}{hashes}", "--redis", server.port, "--batch", batch] + ["--hash"] * hashes
                result = program(name, *kafka, *args)
                assert result["records"] == RECORDS and result["seconds"] > 0 and result["cpu_s"] > 0
                assert client.dbsize() == KEYS
                if not hashes:
                    assert stored(client, values) == values, name
                else:
                    assert all(client.hgetall(k) == as_hash(v) for k, v in list(values.items())[:500]), name

        client.flushall()
        m = space.millrace().start()
        seen = program("watch", "--run-dir", m.run_dir, "--name", m.name, "--count", RECORDS)
        assert seen["records"] == RECORDS and {p["role"] for p in seen["processes"]} == \
            {"supervisor", "ingest", "transform", "sink"}
        assert all(p["cpu_s"] > 0 and p["memory_kb"] > 0 for p in seen["processes"])
        assert stored(client, values) == values

        probe = program("latency", *kafka[:4], "--rate", 500, "--warmup", 1, "--seconds", 1, "--redis", server.port)
        assert probe["records"] == 500 and 0 < probe["ms"][0] <= probe["ms"][2] <= probe["ms"][4] < 5000
        assert client.exists("lat:0000000000", "lat:0000000999") == 2
        assert m.drain() == 0

"""Compressed and encrypted values, end to end and read back by a reader in another language; `millrace get`; keys."""

import base64
import os
import re

import pytest

from confluent_kafka import Producer

from harness.generator import bulk_topic, change_topic
from harness.millrace import command
from harness.oracle import load_value_reader
from harness.reference import Topic

MAGIC = b"\x89MLR"


def raw_keys(client):
    return [k for k in client.scan_iter(count=1000) if not k.startswith(b"millrace:")]


@pytest.mark.parametrize("compress,encrypt", [("lz4", False), ("none", True), ("lz4", True)])
def test_coded_values_read_back_as_published(space, compress, encrypt):
    server = space.start_redis(unix=True)
    space.topic(change_topic, "change", compress=compress, encrypt=encrypt)
    space.topic(bulk_topic, "bulk", compress=compress, encrypt=encrypt)
    key_file = space.key_file()
    m = space.millrace(lanes=2, **({"crypto": {"keys": str(key_file)}} if encrypt else {})).start_ready()
    load = space.load(6000, keys=500)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    expected, _ = space.judge(key_file=key_file, produced=6000)
    with server.client() as client:
        stored = dict(zip(expected, client.mget(list(expected))))
    assert all(v.startswith(MAGIC) and v[4] == 1 for v in stored.values())
    assert all(v[5] & 2 == (2 if encrypt else 0) for v in stored.values())
    if encrypt:
        assert not any(b"account" in v for v in stored.values())
        assert len({v[16:40] for v in stored.values()}) == len(stored), "a nonce was used twice"
        # A value moved to another key must not be readable there.
        reader, (a, b) = load_value_reader(), list(stored)[:2]
        keys = reader.load_keys(str(key_file))
        assert reader.decode(stored[a], a, keys) == expected[a]
        with pytest.raises(Exception):
            reader.decode(stored[a], b, keys)
    for key in list(expected)[:3]:
        done = m.run_command("get", key.decode())
        assert done.returncode == 0 and done.stdout.rstrip("\n") == expected[key].decode(), done.stderr
    assert m.drain() == 0


def test_get_prints_bytes_as_they_are_and_says_when_there_is_nothing(space):
    import subprocess
    space.start_redis(password="s3cret")
    t = space.topic(lambda n: Topic(n, format="raw", key="{$key}", compress="lz4", encrypt=True), "raw", partitions=1)
    value = bytes(range(256)) * 40
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0})
    producer.produce(t.name, value, b"binary", partition=0)
    assert producer.flush(10) == 0
    m = space.millrace(crypto={"keys": str(space.key_file())}).start_ready()
    m.wait_drained({(t.name, 0): 1})
    done = subprocess.run([m.build / "millrace", "get", "-c", m.file, "binary"], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=20)
    assert done.returncode == 0 and done.stdout in (value, value + b"\n"), done.stderr
    with space.redis.client() as client:
        stored = client.get("binary")
        assert len(stored) < len(value) // 2, "4-fold repetition must get smaller"
        client.set("moved", stored)
        client.set("cut", stored[:-1])
        client.set("flipped", stored[:50] + bytes([stored[50] ^ 1]) + stored[51:])
    for key in ("moved", "cut", "flipped"):
        done = m.run_command("get", key)
        assert done.returncode == 65 and not done.stdout and done.stderr, (key, done)
    done = m.run_command("get", "no such key")
    assert done.returncode not in (0, 65) and not done.stdout and "no such key" in done.stderr
    assert m.drain() == 0


def test_new_current_key_is_used_and_old_values_stay_readable(space):
    server = space.start_redis()
    t = space.topic(lambda n: Topic(n, format="raw", key="{$key}", encrypt=True), "raw", partitions=1)
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0})
    key_file = space.key_file()
    m = space.millrace(crypto={"keys": str(key_file)}).start_ready()
    producer.produce(t.name, b"one", b"a", partition=0)
    assert producer.flush(10) == 0
    m.wait_drained({(t.name, 0): 1})
    assert m.drain() == 0
    lines = [line for line in key_file.read_text().splitlines() if not line.startswith("current")]
    seven = base64.b64encode(os.urandom(32)).decode()
    key_file.write_text("\n".join(lines + [f"key 7 {seven} 2026-01-01", "current 7", ""]))
    m.start_ready()
    producer.produce(t.name, b"two", b"b", partition=0)
    assert producer.flush(10) == 0
    m.wait_drained({(t.name, 0): 2})
    space.judge(key_file=key_file, produced=2)
    with server.client() as client:
        assert [int.from_bytes(client.get(k)[8:12], "big") for k in ("a", "b")] == [1, 7]
    assert m.run_command("get", "a").stdout.strip() == "one" and m.run_command("get", "b").stdout.strip() == "two"
    assert m.drain() == 0


def test_keygen_makes_what_run_reads(space):
    server = space.start_redis()
    t = space.topic(lambda n: Topic(n, format="raw", key="{$key}", encrypt=True), "raw", partitions=1)
    key_file = space.folder / "made.keys"
    done = command("keygen", key_file)
    assert done.returncode == 0, done.stderr
    assert key_file.stat().st_mode & 0o777 == 0o600
    lines = key_file.read_text().splitlines()
    made = [line.split() for line in lines if line.startswith("key ")]
    assert len(made) == 1 and len(base64.b64decode(made[0][2])) == 32
    assert f"current {made[0][1]}" in lines
    assert made[0][2] not in done.stdout + done.stderr, "a key must not be printed"
    m = space.millrace(crypto={"keys": str(key_file)}).start_ready()
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0})
    producer.produce(t.name, b"one", b"a", partition=0)
    assert producer.flush(10) == 0
    m.wait_drained({(t.name, 0): 1})
    space.judge(key_file=key_file, produced=1)
    # What is there is never overwritten. A second key is added and becomes the current one; the first still reads.
    before = key_file.read_bytes()
    assert command("keygen", key_file).returncode != 0 and key_file.read_bytes() == before
    done = command("keygen", "--add", key_file)
    assert done.returncode == 0, done.stderr
    ids = re.findall(r"^key (\d+) ", key_file.read_text(), re.M)
    assert len(ids) == 2 and f"current {ids[1]}" in key_file.read_text()
    assert made[0][2] in key_file.read_text()
    assert m.run_command("get", "a").stdout.strip() == "one"
    with server.client() as client:
        assert client.get("a").startswith(MAGIC)
    listed = command("keygen", "--list", key_file)
    assert listed.returncode == 0 and all(i in listed.stdout for i in ids) and made[0][2] not in listed.stdout
    assert m.drain() == 0


def test_rejects_are_sealed_when_there_are_keys(space):
    space.start_redis()
    t = space.topic(lambda n: Topic(n, key="k:{id}", encrypt=True), "sealed", partitions=1)
    original = b"not json CANARY-5519"
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0})
    producer.produce(t.name, original, b"k", partition=0)
    assert producer.flush(10) == 0
    m = space.millrace(crypto={"keys": str(space.key_file())}).start_ready()
    m.wait_drained({(t.name, 0): 1})
    files = [f for f in m.data_dir.rglob("*") if f.is_file()]
    assert files and not any(b"CANARY" in f.read_bytes() for f in files)
    done = m.run_command("rejects", "export", "--reveal")
    assert done.returncode == 0 and base64.b64encode(original).decode() in done.stdout, done.stderr
    assert m.drain() == 0

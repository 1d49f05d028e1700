"""The judge: reads the topics back from Kafka, folds them with the reference transform, and compares with Redis."""

import dataclasses
import importlib.util
import time

from confluent_kafka import KafkaError, TopicPartition

from . import reference
from .process import ROOT
from .reference import Record

MARK_PREFIX = b"millrace:"


def load_value_reader():
    """tools/readers/millrace_value.py, the reader that users get."""
    path = ROOT / "tools/readers/millrace_value.py"
    spec = importlib.util.spec_from_file_location("millrace_value", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_log(broker, topics, partitions, timeout=120):
    """Every record of the topics, beginning to end, each partition in its order. Fails when the beginning is not 0."""
    consumer = broker.consumer("oracle", **{"isolation.level": "read_committed", "check.crcs": True,
                                            "enable.partition.eof": True})
    records, ends = [], {}
    try:
        for t in topics:
            for p in range(partitions):
                low, high = consumer.get_watermark_offsets(TopicPartition(t, p), timeout=10)
                assert low == 0, f"{t}/{p} begins at {low}: the broker has dropped records"
                if high > 0:
                    ends[t, p] = high
        consumer.assign([TopicPartition(t, p, 0) for t, p in ends])
        open_ends, deadline = dict(ends), time.monotonic() + timeout
        while open_ends:
            assert time.monotonic() < deadline, f"still reading {open_ends}"
            for m in consumer.consume(5000, 0.2):
                if m.error():
                    assert m.error().code() == KafkaError._PARTITION_EOF, m.error()
                    place = m.topic(), m.partition()
                    assert m.offset() >= ends[place], f"{place} ends at {m.offset()}, and ended at {ends[place]} before"
                    open_ends.pop(place, None)
                    continue
                records.append(Record(m.topic(), m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(),
                                      tuple(m.headers() or ())))
    finally:
        consumer.close()
    return records, ends


def not_read(records, ends):
    """{(topic, partition): the first offsets that are in no record}"""
    read = {}
    for r in records:
        read.setdefault((r.topic, r.partition), set()).add(r.offset)
    gaps = {place: sorted(set(range(end)) - read.get(place, set()))[:5] for place, end in ends.items()}
    return {place: offsets for place, offsets in gaps.items() if offsets}


@dataclasses.dataclass
class Difference:
    missing: list
    altered: list
    unexpected: list

    def __bool__(self):
        return bool(self.missing or self.altered or self.unexpected)

    def __str__(self):
        def some(keys):
            return f"{len(keys)}" + (f" ({', '.join(repr(k) for k in sorted(keys)[:5])})" if keys else "")
        return f"missing {some(self.missing)}, altered {some(self.altered)}, unexpected {some(self.unexpected)}"


def compare(expected, actual):
    return Difference([k for k in expected if k not in actual],
                      [k for k in expected if k in actual and actual[k] != expected[k]],
                      [k for k in actual if k not in expected])


class Decoder:
    """Turns stored values into published ones, per topic's `value:` settings."""

    def __init__(self, topics, key_file=None):
        self.coded = any(t.compress != "none" or t.encrypt for t in topics)
        if self.coded:
            reader = load_value_reader()
            self.decode, self.keys = reader.decode, reader.load_keys(str(key_file)) if key_file else {}

    def __call__(self, redis_key, stored):
        if not self.coded or stored is None:
            return stored
        return self.decode(stored, redis_key, self.keys)


def read_redis(client, decoder):
    """{key: published value} of everything in Redis but the marks."""
    keys = [k for k in client.scan_iter(count=5000) if not k.startswith(MARK_PREFIX)]
    found = {}
    for at in range(0, len(keys), 2000):
        some = keys[at:at + 2000]
        for key, stored in zip(some, client.mget(some)):
            if stored is None:
                assert client.type(key) == b"hash", f"{key} is a {client.type(key)}"
                found[key] = client.hgetall(key)
                continue
            found[key] = decoder(key, stored)
    return found


def judge(broker, topics, partitions, redis_server, key_file=None, produced=None):
    """Fails unless Redis holds exactly what the log says. Returns (store, rejects) as expected."""
    records, ends = read_log(broker, [t.name for t in topics], partitions)
    if produced is not None:
        assert len(records) == produced, \
            f"{produced} records were produced, the log has {len(records)}; not read: {not_read(records, ends)}"
    expected, rejects = reference.fold(topics, records)
    with redis_server.client() as client:
        difference = compare(expected, read_redis(client, Decoder(topics, key_file)))
    assert not difference, str(difference)
    return expected, rejects

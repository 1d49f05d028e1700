"""A producer that says what it publishes: headers on every record, and a manifest for each window."""

import base64
import hashlib
import hmac
import json
import os
import re
import time
import uuid

from confluent_kafka import Producer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def digest_key(key_file):
    """The key for digests, from a file made by `millrace keygen`."""
    key = base64.b64decode(re.search(r"^key \d+ (\S+)", key_file.read_text(encoding="ascii"), re.M).group(1))
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"millrace digest").derive(key)


def uuid7(ms):
    return uuid.UUID(int=(ms << 80 | 7 << 76 | 2 << 62 | int.from_bytes(os.urandom(9), "big") & ((1 << 62) - 1)))


class Till:
    def __init__(self, broker, topic, key, window_ms, manifest_topic=None, name="till"):
        self.topic, self.key, self.window_ms, self.name = topic, key, window_ms, name
        self.manifest_topic = manifest_topic
        self.producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "acks": "all",
                                  "linger.ms": 5, "queue.buffering.max.messages": 1000000, "log_level": 0})
        self.sequence, self.windows, self.failures = 0, {}, []

    def delivered(self, error, _):
        if error is not None:
            self.failures.append(error)

    def produce(self, *args, **more):
        while True:
            try:
                return self.producer.produce(*args, on_delivery=self.delivered, **more)
            except BufferError:
                self.producer.poll(0.1)

    def make(self, created=None):
        """The next record: declared, not published yet."""
        created = created if created is not None else int(time.time() * 1000)
        self.sequence += 1
        n = self.sequence
        value = json.dumps({"account": f"{self.name}{n}", "card_no": "1", "amount": n}).encode()
        digest = hmac.new(self.key, value, hashlib.sha256).digest()[:16]
        window = self.windows.setdefault(created - created % self.window_ms, [n, n, 0, 0, 0])
        window[1], window[2], window[3] = n, window[2] + 1, window[3] + len(value)
        window[4] = (window[4] + int.from_bytes(digest, "big")) % (1 << 128)
        headers = [("op", b"add"), ("millrace-id", str(uuid7(created)).encode()),
                   ("millrace-created", str(created).encode()), ("millrace-producer", self.name.encode()),
                   ("millrace-sequence", str(n).encode()), ("millrace-digest", b"hmac:" + digest.hex().encode())]
        return {"topic": self.topic, "key": f"{self.name}{n}", "value": value, "headers": headers}

    def publish(self, count, created=None, drop=(), twice=()):
        """Publishes the next `count` records; those with the sequence numbers `drop` get lost on the way, those of
        `twice` come twice."""
        for _ in range(count):
            record = self.make(created)
            if self.sequence not in drop:
                self.produce(**record)
            if self.sequence in twice:
                self.produce(**record)
            if self.sequence % 1000 == 0:
                self.producer.poll(0)
        return self

    def flush(self):
        assert self.producer.flush(60) == 0 and not self.failures, self.failures
        return self

    def declare(self):
        """The manifests of what was published since the last time."""
        self.flush()
        for start, (first, last, count, size, digests) in sorted(self.windows.items()):
            self.produce(self.manifest_topic, key=f"{self.name}|{self.topic}", value=json.dumps({
                "type": "window", "producer": self.name, "topic": self.topic, "from_ms": start,
                "to_ms": start + self.window_ms, "first_sequence": first, "last_sequence": last, "count": count,
                "bytes": size, "digest_sum": f"{digests:032x}"}).encode())
        self.windows = {}
        return self.flush()

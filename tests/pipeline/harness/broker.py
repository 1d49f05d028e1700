"""A real Apache Kafka broker on 127.0.0.1."""

import socket
import struct

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from .process import ROOT, Server, free_port, wait_until


class Broker(Server):
    def __init__(self, folder, name="kafka"):
        super().__init__(folder, name)
        self.port, self.controller_port = free_port(), free_port()

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        return self.launch([ROOT / "tests/servers/kafka", self.folder, self.port, self.controller_port,
                            *self.format_arguments()], "broker.log", 60, 0.1)

    def format_arguments(self):
        return []

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.5).close()
        except OSError:
            return False
        try:
            return self.admin().list_topics(timeout=2) is not None
        except KafkaException:
            return False

    def admin(self):
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def create_topics(self, names, partitions):
        admin = self.admin()
        futures = admin.create_topics([NewTopic(n, num_partitions=partitions, replication_factor=1) for n in names])
        for future in futures.values():
            future.result(20)

        def known():
            topics = admin.list_topics(timeout=5).topics
            return all(n in topics and len(topics[n].partitions) == partitions for n in names)
        wait_until(known, 20, f"topics {names}")

        def led():
            try:
                return all(self.watermarks(n, partitions) for n in names)
            except KafkaException:
                return False
        # A leader that is named does not lead yet. See Load.delivered for what becomes of a batch that comes too early.
        wait_until(led, 20, f"leaders of {names}")

    def delete_topic(self, name):
        admin = self.admin()
        for future in admin.delete_topics([name]).values():
            future.result(20)
        wait_until(lambda: name not in admin.list_topics(timeout=5).topics, 20, f"{name} to go")

    def delete_records(self, topic, partition, before):
        """Moves the low watermark up to `before` (DeleteRecords, version 0)."""
        def text(s):
            return struct.pack(">h", len(s)) + s.encode()
        body = struct.pack(">i", 1) + text(topic) + struct.pack(">iiqi", 1, partition, before, 10000)
        request = struct.pack(">hhi", 21, 0, 1) + text("tests") + body
        with socket.create_connection(("127.0.0.1", self.port), 10) as s:
            s.sendall(struct.pack(">i", len(request)) + request)
            stream = s.makefile("rb")
            answer = stream.read(struct.unpack(">i", stream.read(4))[0])
        low, error = struct.unpack(">qh", answer[-10:])
        assert (low, error) == (before, 0), f"low watermark {low}, error {error}"

    def consumer(self, group, **more):
        return Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "enable.auto.commit": False,
                         "enable.auto.offset.store": False, "auto.offset.reset": "error", "log_level": 0, **more})

    def watermarks(self, topic, partitions):
        """{partition: (low, high)}"""
        c = self.consumer("watermarks")
        try:
            return {p: c.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in range(partitions)}
        finally:
            c.close()

    def committed(self, group, topics, partitions):
        """{(topic, partition): next offset}, without those that have none."""
        with Commits(self, group, topics, partitions) as commits:
            return commits.read()


class Commits:
    """Reads a group's commits again and again over one connection."""

    def __init__(self, broker, group, topics, partitions):
        self.consumer = broker.consumer(group)
        self.wanted = [TopicPartition(t, p) for t in topics for p in range(partitions)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.consumer.close()

    def read(self):
        answer = self.consumer.committed(self.wanted, timeout=10)
        return {(t.topic, t.partition): t.offset for t in answer if t.error is None and t.offset >= 0}

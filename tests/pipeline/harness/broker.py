"""A real Apache Kafka broker on 127.0.0.1."""

import pathlib
import signal
import socket

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from .process import ROOT, Process, TimedOut, free_port, wait_until


class Broker:
    def __init__(self, folder, name="kafka"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self.controller_port = free_port(), free_port()
        self.name, self.process = name, None

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        """The data of an earlier start is still there. Returns when the broker answers."""
        self.process = Process(self.name, [ROOT / "tests/servers/kafka", self.folder, self.port, self.controller_port],
                               self.folder / "broker.log").start()
        try:
            wait_until(self._answers, 60, "the broker to answer", 0.1)
        except TimedOut as e:
            raise TimedOut(f"{e}\n{self.process.tail()}") from None
        return self

    def _answers(self):
        if not self.process.alive():
            raise TimedOut(f"the broker ended with {self.process.child.returncode}\n{self.process.tail()}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.5).close()
        except OSError:
            return False
        try:
            return self.admin().list_topics(timeout=2) is not None
        except KafkaException:
            return False

    def stop(self):
        self.process.terminate(30)

    def kill(self):
        self.process.kill()

    def pause(self):
        self.process.signal(signal.SIGSTOP)

    def resume(self):
        self.process.signal(signal.SIGCONT)

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

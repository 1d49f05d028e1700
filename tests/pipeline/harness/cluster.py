"""Three real brokers that replicate for each other. What a test needs of a broker goes to whichever is there."""

from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic

from .broker import Broker
from .process import wait_until


class Member(Broker):
    def join(self, number, voters):
        (self.folder / "more.properties").write_text(
            f"node.id={number}\ncontroller.quorum.voters={voters}\n"
            "offsets.topic.replication.factor=3\ndefault.replication.factor=3\nmin.insync.replicas=2\n"
            "transaction.state.log.replication.factor=3\ntransaction.state.log.min.isr=2\n", encoding="ascii")

    def answers(self):
        return True  # alone it has no quorum


class Cluster(Broker):
    def __init__(self, folder):
        super().__init__(folder, "cluster")
        self.members = [Member(self.folder / str(n), f"kafka-{n}") for n in (1, 2, 3)]
        voters = ",".join(f"{n}@127.0.0.1:{m.controller_port}" for n, m in enumerate(self.members, 1))
        for n, m in enumerate(self.members, 1):
            m.join(n, voters)

    @property
    def bootstrap(self):
        return ",".join(f"127.0.0.1:{m.port}" for m in self.members)

    def start(self):
        for m in self.members:
            m.start()
        wait_until(lambda: (known := self.known()) and len(known.brokers) == 3, 60, "three brokers", 0.5)
        return self

    def known(self):
        try:
            return self.admin().list_topics(timeout=5)
        except KafkaException:
            return None

    def stop(self):
        for m in self.members:
            m.process.kill()

    def create_topics(self, names, partitions):
        admin = self.admin()
        topics = [NewTopic(n, num_partitions=partitions, replication_factor=3) for n in names]
        for future in admin.create_topics(topics).values():
            future.result(30)
        self.wait_whole(names)

    def wait_whole(self, names):
        """Every partition has a leader, and all three replicas are in step."""
        def whole():
            known = self.known()
            topics = known.topics if known else {}
            return all(n in topics and topics[n].partitions and
                       all(p.leader > 0 and len(p.isrs) == 3 for p in topics[n].partitions.values()) for n in names)
        wait_until(whole, 90, f"all replicas of {names} to be in step", 0.5)

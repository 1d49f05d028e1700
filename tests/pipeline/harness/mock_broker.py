"""librdkafka's simulated cluster, in a process of its own that nobody kills (tests/servers/mock-kafka)."""

import subprocess

from .broker import Broker
from .process import ROOT, Process, started

FETCH, LIST_OFFSETS, OFFSET_COMMIT, FIND_COORDINATOR, HEARTBEAT = 1, 2, 8, 10, 12
DROPPED = -195  # instead of an answer the connection is closed


class MockBroker(Broker):
    def __init__(self, folder, brokers):
        super().__init__(folder, "mock-kafka")
        self.brokers = range(1, brokers + 1)

    def start(self):
        p = self.process = Process(self.name, [ROOT / "tests/servers/mock-kafka", len(self.brokers)],
                                   self.folder / "mock.log")
        with open(p.log, "ab") as log:
            p.child = subprocess.Popen(p.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                                       bufsize=1)
        started.append(p)
        self.all = p.child.stdout.readline().strip()
        return self

    @property
    def bootstrap(self):
        return self.all

    def tell(self, *words):
        child = self.process.child
        child.stdin.write(" ".join(map(str, words)) + "\n")
        return int(child.stdout.readline())

    def do(self, *words):
        assert self.tell(*words) == 0, words

    def create_topics(self, names, partitions):
        for name in names:
            self.do("topic", name, partitions)

    def errors(self, broker, api, pairs):
        """The next requests of this kind are answered so: [(error, milliseconds)]"""
        self.do("errors", broker, api, *[f"{error}:{ms}" for error, ms in pairs])

    def waiting(self, apis):
        return sum(self.tell("waiting", b, api) for b in self.brokers for api in apis)

    def port_of(self, broker):
        return int(self.all.split(",")[broker - 1].rsplit(":", 1)[1])

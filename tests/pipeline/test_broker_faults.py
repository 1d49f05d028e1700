"""Brokers that go, come back, lose what they had, are slow, or answer with errors. SEED chooses the moments and the
kinds, TIMES how often; the load is the same for the same SEED."""

import collections
import os
import random
import threading
import time

from confluent_kafka import KafkaException, Producer
import pytest

from harness import reference
from harness.link import LinkedBroker
from harness.mock_broker import (DROPPED, FETCH, FIND_COORDINATOR, HEARTBEAT, LIST_OFFSETS, OFFSET_COMMIT,
                                 MockBroker)
from harness.oracle import Decoder, compare, read_log, read_redis
from harness.process import wait_until
from test_lost_offsets import SHORT_SESSION, accept, folded, lost_of, publish, raw, store

SEED = int(os.environ.get("SEED", "5"))
TIMES = int(os.environ.get("TIMES", "1"))


@pytest.fixture(scope="module")
def linked(session_folder):
    b = LinkedBroker(session_folder / "linked")
    b.start()
    b.process.shared = True
    yield b
    b.link.stop()
    b.process.kill()


def over_the_link(space, linked):
    """What this test publishes goes straight to the broker, what millrace does over the link."""
    space.broker = linked
    space.start_redis()
    return lambda **more: space.millrace(**{**more, "kafka": {"bootstrap.servers": linked.far,
                                                              "topic.metadata.refresh.interval.ms": 60000,
                                                              **more.get("kafka", {})}})


@pytest.mark.parametrize("numbers", [300, 30], ids=["more", "fewer"])
def test_topic_made_anew_while_it_is_read(space, linked, numbers):
    instance = over_the_link(space, linked)
    t = space.topic(raw, "raw", partitions=1)
    m = instance(kafka=SHORT_SESSION).start_ready()
    publish(linked, t, range(100), keys=10)
    m.wait_drained({(t.name, 0): 100})
    linked.delete_topic(t.name)
    wait_until(lambda: "ingest.topic_gone" in m.log_text(), 20, "the topic to be missed")
    linked.create_topics([t.name], 1)
    publish(linked, t, range(1000, 1000 + numbers), keys=10)
    stats = m.wait_for(lost_of, 10, "the topic to be taken for another one, or its end to be missed")
    assert m.worker("ingest", stats=stats)["state"] == "blocked"
    begin, end = lost_of(stats)[t.name, 0]
    assert end == 100 and begin < 100
    assert begin == (0 if numbers > 100 else numbers) and ("ingest.topic_other" in m.log_text()) == (numbers > 100)
    accept(m)
    m.wait_drained({(t.name, 0): numbers})
    assert store(space, t) == folded(range(1000, 1000 + numbers), 10)
    assert m.drain() == 0


@pytest.mark.skipif("SOAK" not in os.environ, reason="takes a minute: SOAK=1")
@pytest.mark.may_skip
def test_topic_made_anew_behind_the_back_of_the_client_is_noticed_within_a_minute(space, linked):
    """Nothing tells the client: it was held while the topic was made anew and grew beyond what it had read."""
    instance = over_the_link(space, linked)
    t = space.topic(raw, "raw", partitions=1)
    m = instance(kafka={"session.timeout.ms": 45000}).start_ready()
    publish(linked, t, range(100), keys=10)
    m.wait_drained({(t.name, 0): 100})
    linked.link.slow(4)
    linked.delete_topic(t.name)
    linked.create_topics([t.name], 1)
    publish(linked, t, range(1000, 1300), keys=10)
    linked.link.slow(0)
    m.wait_for(lambda s: lost_of(s) == {(t.name, 0): (0, 100)}, 75, "the topic to be taken for another one")
    accept(m)
    m.wait_drained({(t.name, 0): 300})
    assert store(space, t) == folded(range(1000, 1300), 10)
    assert m.drain() == 0


def numbers_in(broker, topic):
    records, _ = read_log(broker, [topic.name], 1)
    return [int(r.value) for r in records]


def test_log_that_lost_its_end_is_told(space, linked):
    """A leader that came back without its last records, as after an unclean election: one partition ends before what was
    read, the other has grown beyond it with other records before the instance gets there."""
    instance = over_the_link(space, linked)
    short, grown = space.topic(raw, "short", partitions=1), space.topic(raw, "grown", partitions=1)
    m = instance(kafka={"session.timeout.ms": 45000}).start_ready()  # longer than the broker is away
    for n in range(0, 100, 10):  # batches of ten
        for t in (short, grown):
            publish(linked, t, range(n, n + 10), keys=10)
    m.wait_drained({(short.name, 0): 100, (grown.name, 0): 100})
    linked.link.cut()
    linked.kill()
    for t in (short, grown):
        log = linked.folder / "data" / f"{t.name}-0" / "00000000000000000000.log"
        os.truncate(log, log.stat().st_size * 6 // 10 + 5)
    linked.start()
    linked.process.shared = True
    kept = numbers_in(linked, short)
    assert 20 <= len(kept) < 100 and kept == list(range(len(kept)))
    publish(linked, grown, range(1000, 1150), keys=10)
    linked.link.mend()
    stats = m.wait_for(lambda s: len(lost_of(s)) == 2, 30, "both to be told")
    assert lost_of(stats) == {(short.name, 0): (len(kept), 100), (grown.name, 0): (0, 100)}
    assert "ingest.revoked" not in m.log_text(), "the group has noticed: that is another case"
    assert m.worker("ingest", stats=stats)["state"] == "blocked"
    accept(m)
    for t in (short, grown):
        numbers = numbers_in(linked, t)
        m.wait_drained({(t.name, 0): len(numbers)})
        assert store(space, t) == {f"k{n % 10}": n for n in numbers}
    assert m.drain() == 0


# -- what the simulated cluster can do ---------------------------------------------------------------------------------

PARTITIONS = 4
CLIENT = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "fetch.wait.max.ms": 10,
          "topic.metadata.refresh.interval.ms": 5000}


@pytest.fixture
def mock(space):
    b = MockBroker(space.folder / "mock", 3)
    return b.start()


class Stream(threading.Thread):
    """Publishes a record a millisecond and waits until the cluster has them all: no more than it keeps."""

    def __init__(self, broker, topic, partitions):
        super().__init__(daemon=True)
        self.topic, self.partitions, self.sent, self.stopping = topic, partitions, 0, threading.Event()
        self.producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0, "linger.ms": 5, "acks": "all"})
        self.failures = []

    def run(self):
        while not self.stopping.wait(0.02):
            self.send(20)

    def send(self, count):
        for n in range(self.sent, self.sent + count):
            self.producer.produce(self.topic.name, f"{n:08}".encode(), f"k{n % 97}".encode(),
                                  partition=n % 97 % self.partitions,
                                  on_delivery=lambda e, m: e and self.failures.append(e))
        self.sent += count
        self.producer.poll(0)

    def finish(self):
        self.stopping.set()
        self.join(30)
        assert not self.is_alive() and self.producer.flush(60) == 0 and not self.failures, self.failures[:3]


def all_there(space, topic, partitions, sent):
    """The log has what was published, each record in its place: what is missing in Redis is then not the mock's fault."""
    records, ends = read_log(space.broker, [topic.name], partitions, 60)
    numbers = sorted(int(r.value) for r in records)
    assert sorted(set(numbers)) == list(range(sent)), "the simulated cluster has lost records"
    expected, _ = reference.fold([topic], records)
    return expected, ends


def read_over_the_mock(space, mock, disturb, at_the_start=lambda dice: None):
    """A stream, the beginning of which is there at the start, read while it is disturbed; in the end Redis has what was
    published."""
    space.broker = mock
    space.start_redis()
    t = space.topic(raw, "raw", partitions=PARTITIONS)
    for partition in range(PARTITIONS):  # every broker is asked for records
        mock.do("leader", t.name, partition, mock.brokers[partition % len(mock.brokers)])
    dice, stream = random.Random(SEED), Stream(mock, t, PARTITIONS)
    stream.send(400)
    assert stream.producer.flush(20) == 0
    at_the_start(dice)
    m = space.millrace(lanes=2, kafka=CLIENT).start_ready()
    m.wait_for(lambda s: m.metric("ingest_partition_assigned", s) == PARTITIONS, 20, "the assignment")
    stream.start()
    disturb(dice, t, m)
    stream.finish()
    expected, ends = all_there(space, t, PARTITIONS, stream.sent)
    m.wait_drained(ends, 60)
    with space.redis.client() as client:
        difference = compare(expected, read_redis(client, Decoder([t])))
    assert not difference, str(difference)
    stats = m.stats()
    assert m.metric("supervisor_child_died", stats) == 0 and not lost_of(stats)
    assert m.metric("sink_mark_mismatch", stats) == 0 and "ingest.topic_other" not in m.log_text()
    print(f"SEED={SEED} TIMES={TIMES}: {stream.sent} records published, {m.metric('sink_record_applied', stats)} applied, "
          f"{m.metric('ingest_rebalance', stats)} rebalances, {m.metric('ingest_commit_fail', stats)} commits refused")
    assert m.drain() == 0


# Without those that end a membership: the simulated coordinator lets a member that comes back wait for many seconds.
STORM = {FETCH: (DROPPED, DROPPED, 6, 3, 7, 78, 1001, 56), LIST_OFFSETS: (DROPPED, 6, 3),
         OFFSET_COMMIT: (DROPPED, 14, 15, 16, 7), FIND_COORDINATOR: (DROPPED, 15), HEARTBEAT: (DROPPED, 15, 16)}


def test_storms_of_errors(space, mock):
    """Connections that end instead of answering, and every error a broker has for the requests of a consumer."""
    pushed = collections.Counter()

    def push(broker, api, dice):
        pairs = [(dice.choice(STORM[api]), dice.choice((0, 0, 5, 50))) for _ in range(dice.randrange(1, 4))]
        mock.errors(broker, api, pairs)
        pushed[api] += len(pairs)

    def disturb(dice, topic, m):
        for _ in range(24 * TIMES):
            push(dice.choice(mock.brokers), FETCH, dice)
            api = dice.choice([a for a in sorted(STORM) if a != LIST_OFFSETS])  # most are for one broker only, the group's coordinator
            for broker in mock.brokers:
                push(broker, api, dice)
            time.sleep(dice.uniform(0.1, 0.5))
        wait_until(lambda: mock.waiting([FETCH]) == 0, 30, "the last ones to be given: the oracle reads, too")
        while mock.waiting([LIST_OFFSETS]):
            refused_or_not(space.broker, topic)
        given = {api: pushed[api] - mock.waiting([api]) for api in sorted(pushed)}
        print(f"errors given, by kind of request: {given}")
        assert sum(given.values()) >= 50 * TIMES and sum(n > 0 for n in given.values()) >= 4
    def at_the_start(dice):
        for broker in mock.brokers:
            push(broker, LIST_OFFSETS, dice)
    read_over_the_mock(space, mock, disturb, at_the_start)


def refused_or_not(broker, topic):
    for partition in range(PARTITIONS):
        try:
            broker.watermarks(topic.name, partition + 1)
        except KafkaException:
            pass


def test_leaders_and_coordinators_move(space, mock):
    moves = []

    def disturb(dice, topic, m):
        for _ in range(40 * TIMES):
            partition, broker = dice.randrange(PARTITIONS), dice.choice((*mock.brokers, -1))
            mock.do("leader", topic.name, partition, broker)
            moves.append(broker)
            if dice.random() < 0.2:
                mock.do("coordinator", m.group, dice.choice(mock.brokers))
            if dice.random() < 0.1:
                away = dice.choice(mock.brokers)
                mock.do("down", away)
                time.sleep(dice.uniform(0.05, 0.4))
                mock.do("up", away)
            time.sleep(dice.uniform(0, 0.3))
        for partition in range(PARTITIONS):
            mock.do("leader", topic.name, partition, dice.choice(mock.brokers))
    read_over_the_mock(space, mock, disturb)
    assert moves.count(-1) >= 5 * TIMES

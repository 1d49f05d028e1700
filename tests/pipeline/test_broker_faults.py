"""Brokers that go, come back, lose what they had, are slow, or answer with errors. SEED chooses the moments and the
kinds, TIMES how often; the load is the same for the same SEED."""

import collections
import datetime
import json
import os
import random
import shutil
import signal
import socket
import struct
import threading
import time

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import NewTopic
import pytest

from harness import reference
from harness.checker import CommitChecker
from harness.cluster import Cluster
from harness.link import LinkedBroker
from harness.mock_broker import (DROPPED, FETCH, FIND_COORDINATOR, HEARTBEAT, LIST_OFFSETS, OFFSET_COMMIT,
                                 MockBroker)
from harness.oracle import Decoder, compare, read_log, read_redis
from harness.process import wait_until
from test_lost_offsets import SHORT_SESSION, accept, folded, lost_of, publish, raw, store, wait_lost

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
    m = instance(kafka={"session.timeout.ms": 45000}).start_ready()
    publish(linked, t, range(100), keys=10)
    m.wait_drained({(t.name, 0): 100})
    linked.delete_topic(t.name)
    wait_until(lambda: "ingest.topic_gone" in m.log_text(), 20, "the topic to be missed")
    linked.link.cut()  # so that it does not see the new topic while that is still small
    linked.create_topics([t.name], 1)
    publish(linked, t, range(1000, 1000 + numbers), keys=10)
    linked.link.mend()
    stats = m.wait_for(lost_of, 30, "the topic to be taken for another one, or its end to be missed")
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

PARTITIONS, IN_FLIGHT = 4, 100
BATCH = 3  # commands of one: MSET, and the marks of two partitions
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
    assert died(m, stats) == 0 and not lost_of(stats)
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
        for _ in range(16 * TIMES):
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
        for _ in range(28 * TIMES):
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
    assert moves.count(-1) >= 3 * TIMES


# -- a real broker that goes, is slow, or has gaps ---------------------------------------------------------------------

def died(m, stats):
    """Deaths of workers, but for the way out of a fence of their own doing."""
    return m.metric("supervisor_child_died", stats) - m.log_text().count(" ingest.kafka_again ")


def read_under_load(space, m, records, seconds, disturb):
    """A load that is read while disturb() goes on; in the end Redis has what the log says."""
    load = space.load(records, seconds, keys=1500, seed=SEED)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 200, 30, "some records")
    disturb(load)
    load.finish()
    m.wait_drained(load.next_offset)
    space.judge(produced=records)
    stats = m.stats()
    assert died(m, stats) == 0 and m.metric("sink_mark_mismatch", stats) == 0
    assert not lost_of(stats) and "ingest.topic_other" not in m.log_text()
    print(f"SEED={SEED} TIMES={TIMES}: {records} records published, {m.metric('sink_record_applied', stats)} applied, "
          f"{m.metric('ingest_rebalance', stats)} rebalances, "
          f"{m.metric('ingest_partition_rewind', stats)} partitions rewound")
    return stats


def test_broker_goes_and_comes_again_and_again(space, linked):
    """Half of the times by SIGKILL, half of them stopped in order."""
    instance = over_the_link(space, linked)
    space.topic()
    m = instance(kafka={"session.timeout.ms": 20000}).start_ready()
    dice, rounds = random.Random(SEED), 4 * TIMES

    def disturb(load):
        for n in range(rounds):
            (linked.kill if n % 2 else linked.stop)()
            time.sleep(dice.uniform(0, 0.5))
            linked.start()
            linked.process.shared = True
            time.sleep(dice.uniform(0, 1))
    read_under_load(space, m, 3000 * rounds, 4 * rounds, disturb)
    assert m.drain() == 0


def test_slow_line_to_the_broker(space, linked):
    """A fifth of a second each way, 400 kB a second, and cut twice; the membership survives that."""
    instance = over_the_link(space, linked)
    space.topic()
    m = instance().start_ready()

    def disturb(_):
        linked.link.slow(0.2, 400_000)
        for _ in range(2 * TIMES):
            time.sleep(2)
            linked.link.cut()
            time.sleep(0.3)
            linked.link.mend()
        time.sleep(2)
        linked.link.slow(0)
    stats = read_under_load(space, m, 9000, 6 * TIMES, disturb)
    assert m.metric("ingest_rebalance", stats) == 1
    assert m.drain() == 0


def test_offsets_that_are_deleted_before_they_are_read_are_lost_and_said_to_be(space, linked):
    instance = over_the_link(space, linked)
    t = space.topic(raw, "raw", partitions=1)
    m = instance(kafka={"session.timeout.ms": 45000}).start_ready()
    publish(linked, t, range(100), keys=10)
    m.wait_drained({(t.name, 0): 100})
    linked.link.cut()
    publish(linked, t, range(100, 300), keys=10)
    linked.delete_records(t.name, 0, 250)
    linked.link.mend()
    wait_lost(m, t, 100, 250, 30)
    time.sleep(0.5)
    assert store(space, t) == folded(range(100), 10), "read on behind the gap"
    lines = accept(m)
    assert [(e["from"], e["to"]) for e in lines] == [(100, 250)]
    m.wait_drained({(t.name, 0): 300})
    assert store(space, t) == folded(range(300), 10) and m.metric("ingest_offset_lost") == 150
    assert m.drain() == 0


def test_gaps_of_compaction(space, linked):
    """Kafka keeps the last record of each key: the offsets of the others are no longer there, and that is no loss."""
    instance = over_the_link(space, linked)
    t = raw(f"t{space.number}.compacted")
    space.topics.append(t)
    space.partitions = 1
    config = {"cleanup.policy": "compact", "segment.bytes": "4096", "min.cleanable.dirty.ratio": "0.01"}
    admin = linked.admin()
    admin.create_topics([NewTopic(t.name, num_partitions=1, replication_factor=1, config=config)])[t.name].result(20)
    for n in range(0, 1000, 50):
        publish(linked, t, range(n, n + 50), keys=20)
    wait_until(lambda: len(numbers_in(linked, t)) < 400, 40, lambda: f"gaps, of {len(numbers_in(linked, t))} records")
    m = instance(audit="on").start_ready()
    m.wait_drained({(t.name, 0): 1000})
    left = m.metric("sink_record_applied")
    assert 20 <= left < 400 and store(space, t) == folded(range(1000), 20)
    assert m.drain() == 0
    m.start_ready()
    publish(linked, t, range(1000, 1100), keys=20)
    m.wait_drained({(t.name, 0): 1100})
    assert store(space, t) == folded(range(1100), 20)
    assert not lost_of(m.stats()) and "ingest.topic_other" not in m.log_text()
    assert m.drain() == 0


# -- members that come, go, and stand still ----------------------------------------------------------------------------

class Guest:
    """A member of the group that is none of ours: it takes partitions, commits nothing, and leaves."""

    def __init__(self, broker, group, topics):
        self.consumer = broker.consumer(group, **{"session.timeout.ms": 6000, "auto.offset.reset": "latest"})
        self.given = threading.Event()
        self.consumer.subscribe(topics, on_assign=lambda c, p: self.given.set())

    def stay(self, seconds):
        until = time.monotonic() + 20
        while not self.given.is_set() and time.monotonic() < until:
            self.consumer.poll(0.05)
        assert self.given.is_set(), "the group gave it nothing"
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.consumer.poll(0.05)

    def leave(self):
        self.consumer.close()


@pytest.mark.parametrize("instances", [2, 3])
def test_rebalances_with_records_in_flight(space, instances):
    space.start_redis()
    space.topic()
    names = [f"node{n + 1}" for n in range(instances)]
    all_of_them = [space.millrace(n, group=f"dance{space.number}", instance=n, kafka=SHORT_SESSION).start() for n in names]
    for m in all_of_them:
        m.wait_ready()
    group, dice, moves = all_of_them[0].group, random.Random(SEED + instances), 5 * TIMES

    def whole():
        return sum(m.metric("ingest_partition_assigned") for m in all_of_them) == space.partitions
    wait_until(lambda: whole() and all(m.metric("ingest_partition_assigned") for m in all_of_them), 40, "their shares")
    load = space.load(8000 * TIMES, 10 * TIMES, keys=1500, seed=SEED)
    checker = CommitChecker(space.broker, group, space.topics, space.partitions, space.redis, load.history, SEED)
    load.start()
    checker.start()
    for _ in range(moves):  # each is two rebalances: one comes, one goes
        guest = Guest(space.broker, group, [t.name for t in space.topics])
        guest.stay(dice.uniform(0, 0.5))
        guest.leave()
        time.sleep(dice.uniform(0, 0.5))
    load.finish()
    wait_until(whole, 30, "the group to be whole again")

    def drained():
        committed = space.broker.committed(group, [t.name for t in space.topics], space.partitions)
        return committed == load.next_offset
    wait_until(drained, 60, "everything to be committed", 0.3)
    checker.finish()
    space.judge(produced=8000 * TIMES)
    rebalances = [m.metric("ingest_rebalance") for m in all_of_them]
    print(f"SEED={SEED} TIMES={TIMES}: {instances} instances, rebalances seen {rebalances}, "
          f"{checker.checks} values checked against commits")
    assert sum(rebalances) >= 4 * moves and checker.checks > 100
    for m in all_of_them:
        assert m.metric("supervisor_child_died") == 0
        assert "sink.redis_lost_writes" not in m.log_text()
        assert m.drain() == 0


def everybody(m, number, pids, supervisor=True):
    for role, pid in pids:
        m.signal_pid(pid, role, number)
    if supervisor:
        m.process.signal(number)


def test_member_that_stood_still_writes_what_it_had_sent_and_no_more(space):
    """A whole instance is stopped under load, longer than its session; the other takes its partitions. What Redis runs of
    the sleeper after it wakes, and before the group has taken it back, is counted by time."""
    space.start_redis()
    t = space.topic(raw, "raw", partitions=4)
    first, second = [space.millrace(n, group=f"still{space.number}", instance=n, kafka=SHORT_SESSION,
                                    redis={"in_flight": IN_FLIGHT}).start_ready()
                     for n in ("node1", "node2")]
    for m in (first, second):
        m.wait_for(lambda s, m=m: m.metric("ingest_partition_assigned", s) == 2, 30, "half of the partitions each")
    stream = Stream(space.broker, t, 4)
    stream.start()
    dice, late = random.Random(SEED), []
    for n in range(2 * TIMES):
        time.sleep(1 + dice.random())
        pids = [(w["role"], w["pid"]) for w in first.stats()["workers"]]
        if n % 2 == 0:  # with hundreds of records that wait for the sink
            everybody(first, signal.SIGSTOP, [p for p in pids if p[0] == "sink"], supervisor=False)
            time.sleep(1)
        everybody(first, signal.SIGSTOP, pids)
        second.wait_for(lambda s: second.metric("ingest_partition_assigned", s) == 4, 30, "the other to take over")
        time.sleep(0.5)
        told = len(first.log_text())
        woken, written = writes_after_waking(space, first, pids)
        wait_until(lambda: " ingest.partition_begin " in first.log_text()[told:], 30, "the sleeper to be taken back")
        first.wait_for(lambda s: first.metric("ingest_partition_assigned", s) == 2, 30, "its half of the partitions")
        taken_back = when_told(first.log_text()[told:], "ingest.partition_begin")
        assert taken_back > woken
        late.append([round(1000 * (at - woken)) for at in written if at < taken_back])
    stream.finish()
    expected, ends = all_there(space, t, 4, stream.sent)
    wait_until(lambda: space.broker.committed(first.group, [t.name], 4) == ends, 60, "everything to be committed", 0.3)
    with space.redis.client() as client:
        difference = compare(expected, read_redis(client, Decoder([t])))
    print(f"SEED={SEED} TIMES={TIMES}: milliseconds after waking of each late write: {late}")
    assert not difference, str(difference)
    assert all(ms <= 250 for times in late for ms in times) and all(len(times) <= BATCH for times in late), late
    for m in (first, second):
        assert m.drain() == 0


def when_told(log, event):
    """The time of the first line with this event."""
    when = next(line for line in log.splitlines() if f" {event} " in line).split()[0]
    return datetime.datetime.fromisoformat(when.replace("Z", "+00:00")).timestamp()


def writes_after_waking(space, m, pids):
    """The time at which m is woken, its sinks first, and those at which Redis then ran what came from them."""
    seen, addresses, lead = [], set(), f"millrace:{m.group}:{m.name}:"
    with space.redis.client() as client, space.redis.client() as watcher, watcher.monitor() as monitor:
        def look():
            addresses.update(c["addr"] for c in client.client_list() if c["name"].startswith(lead))
        look()
        woken = time.time()
        everybody(m, signal.SIGCONT, pids[::-1])
        until, again = time.monotonic() + 2, 0
        while time.monotonic() < until:
            if again < time.monotonic():
                look()  # it may connect anew; and so there is always something to be seen
                again = time.monotonic() + 0.02
            one = monitor.next_command()
            if one["command"].split()[0] in ("SET", "MSET", "DEL"):
                seen.append((one["time"], f"{one['client_address']}:{one['client_port']}"))
    return woken, [at for at, by in seen if by in addresses and at > woken]


def test_topic_made_anew_gets_a_log_of_its_own(space, linked):
    """With audit: the same offsets are other records now. The instance gets a new log, and counts the new topic whole."""
    instance = over_the_link(space, linked)
    t = space.topic(raw, "raw", partitions=1, reconcile="digest")
    m = instance(audit="on", kafka=SHORT_SESSION).start_ready()
    publish(linked, t, range(100), keys=50)
    m.wait_drained({(t.name, 0): 100})
    linked.delete_topic(t.name)
    wait_until(lambda: "ingest.topic_gone" in m.log_text(), 20, "the topic to be missed")
    linked.link.cut()  # a client that connects anew looks for its topics at once
    linked.create_topics([t.name], 1)
    publish(linked, t, range(1000, 1200), keys=10)
    linked.link.mend()
    m.wait_for(lost_of, 30, "the topic to be taken for another one")
    assert m.drain() == 0
    (m.data_dir / "audit").rename(m.data_dir / "audit.before")
    shutil.rmtree(m.data_dir / "recon")
    m.start_ready()
    m.wait_for(lost_of, 20, "what is lost to be known as before")
    accept(m)
    assert "ingest.offsets_restarted" in m.log_text()
    m.wait_drained({(t.name, 0): 200})
    done = m.run_command("verify", "--rounds", "2", timeout=60)
    assert done.returncode == 1 and "orphan" in done.stdout, done.stdout  # keys that only the old topic had
    done = m.run_command("verify", "--repair=orphans", "--rounds", "2", timeout=60)
    done = m.run_command("verify", "--rounds", "2", timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert store(space, t) == folded(range(1000, 1200), 10)
    assert m.run_command("audit", "verify").returncode == 0
    assert m.run_command("audit", "verify", m.data_dir / "audit.before").returncode == 0
    assert m.drain() == 0


@pytest.mark.skipif("SOAK" not in os.environ, reason="three brokers, and minutes: SOAK=1")
@pytest.mark.may_skip
def test_rolling_restart_of_three_brokers(space):
    """One broker after the other, in order and by SIGKILL, each time waiting until all replicas are in step again."""
    space.start_redis()
    space.broker = Cluster(space.folder / "cluster").start()
    t = space.topic()
    m = space.millrace(kafka={"session.timeout.ms": 20000}).start_ready()
    dice = random.Random(SEED)

    def disturb(load):
        for n in range(2 * TIMES):
            for member in dice.sample(space.broker.members, 3):
                (member.kill if n % 2 else member.stop)()
                time.sleep(dice.uniform(0, 2))
                member.start()
                space.broker.wait_whole([t.name])
                assert load.live, "the load has to outlast the restarts"
        load.give_up()
    load = space.load(1_000_000, 20_000, keys=1500, seed=SEED)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 200, 30, "some records")
    disturb(load)
    load.finish()
    m.wait_drained(load.next_offset)
    space.judge(produced=load.published)
    stats = m.stats()
    print(f"SEED={SEED} TIMES={TIMES}: {load.published} records published, {m.metric('sink_record_applied', stats)} "
          f"applied, {6 * TIMES} restarts, {m.metric('ingest_rebalance', stats)} rebalances")
    assert died(m, stats) == 0 and not lost_of(stats)
    assert "ingest.topic_other" not in m.log_text() and m.metric("sink_mark_mismatch", stats) == 0
    assert m.drain() == 0
    space.broker.stop()


def varint(n):
    n, out = n << 1 if n >= 0 else (-n << 1) - 1, b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def produce_damaged(port, topic, key, value):
    """A batch of one record whose checksum is wrong, as a Produce request of its own making (version 3)."""
    def text(s):
        return struct.pack(">h", len(s)) + s.encode()
    body = b"\0" + varint(0) + varint(0) + varint(len(key)) + key + varint(len(value)) + value + varint(0)
    record, now = varint(len(body)) + body, int(time.time() * 1000)
    rest = struct.pack(">hiqqqhii", 0, 0, now, now, -1, -1, -1, 1) + record
    batch = struct.pack(">qiibI", 0, 9 + len(rest), -1, 2, 0xdeadbeef) + rest
    request = struct.pack(">hhi", 0, 3, 1) + text("tests") + struct.pack(">hhii", -1, 1, 5000, 1) + text(topic) + \
        struct.pack(">iii", 1, 0, len(batch)) + batch
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        s.sendall(struct.pack(">i", len(request)) + request)
        stream = s.makefile("rb")
        answer = stream.read(struct.unpack(">i", stream.read(4))[0])
    error, offset = struct.unpack_from(">hq", answer, 4 + 4 + 2 + len(topic) + 4 + 4)
    assert error == 0, error
    return offset


def test_batch_with_a_wrong_checksum_is_not_passed_over(space, mock):
    """librdkafka 2.0.2 ends the process at such a batch, so the instance fails in the end; a later one reports it, so it is
    a state. Either way nothing behind it is read, and the commit stays in front of it."""
    space.broker = mock
    space.start_redis()
    t = space.topic(raw, "raw", partitions=1)
    t.partitions = [0]
    mock.do("leader", t.name, 0, 1)
    publish(mock, t, range(10))
    assert produce_damaged(mock.port_of(1), t.name, b"k10", b"0000000010") == 10
    publish(mock, t, range(11, 20))
    m = space.millrace(kafka=CLIENT).start()

    def stands():
        stats = m.stats_or_none()
        return not m.process.alive() or (stats and "cannot be read at offset 10" in json.dumps(stats["workers"]))
    wait_until(stands, 60, "the damage to be reported")
    assert store(space, t) == {f"k{n}": n for n in range(10)}
    if m.process.alive():
        assert m.drain() == 0
    else:
        assert m.process.child.returncode == 70 and "without moving a record" in m.log_text()
    assert mock.committed(m.group, [t.name], 1).get((t.name, 0), 0) <= 10

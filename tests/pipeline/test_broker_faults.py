"""Brokers that go, come back, lose what they had, are slow, or answer with errors. SEED chooses the moments and the
kinds, TIMES how often; the load is the same for the same SEED."""

import os
import random
import time

import pytest

from harness.link import LinkedBroker
from harness.oracle import read_log
from harness.process import wait_until
from harness.reference import Topic
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

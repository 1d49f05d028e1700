"""What Redis needs again and Kafka no longer has: said exactly, kept over restarts, given up only on record. And the
lease: who has been left out of the group writes nothing, and nobody who cannot tell."""

import json
import random
import signal
import time

from confluent_kafka import KafkaException, Producer, TopicPartition

from harness.broker import Broker
from harness.process import wait_until
from harness.reference import Topic

SHORT_SESSION = {"session.timeout.ms": 5000, "heartbeat.interval.ms": 1000}


def raw(name, **more):
    return Topic(name, format="raw", key="{$topic}/{$key}", **more)


def publish(broker, topic, numbers, partition=0, keys=None, size=10):
    """One record per number, its value; its key is its own unless there are only so many keys."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0, "linger.ms": 5,
                         "queue.buffering.max.messages": 1_000_000})
    for n in numbers:
        producer.produce(topic.name, f"{n:0{size}}".encode(), f"k{n % keys if keys else n}".encode(),
                         partition=partition)
        producer.poll(0)
    assert producer.flush(60) == 0


def store(space, topic):
    """{key: number}, as Redis has it."""
    lead = f"{topic.name}/".encode()
    with space.redis.client() as client:
        keys = list(client.scan_iter(lead + b"*", count=10000))
        return {k[len(lead):].decode(): int(v) for k, v in zip(keys, client.mget(keys) if keys else [])}


def folded(numbers, keys):
    return {f"k{n % keys}": n for n in numbers}


def lost_of(stats):
    return {(p["topic"], p["partition"]): (p["lost"]["from"], p["lost"]["to"]) for p in stats["partitions"] if p["lost"]}


def wait_lost(m, topic, begin, end, timeout=20):
    stats = m.wait_for(lambda s: lost_of(s) == {(topic.name, 0): (begin, end)} and
                       m.worker("ingest", stats=s)["state"] == "blocked", timeout, "lost offsets to be noticed")
    assert m.worker("ingest", stats=stats)["reason"] == f"offsets [{begin},{end}) lost: {topic.name}[0]"
    assert f"offsets [{begin},{end}) lost: {topic.name}[0]" in m.run_command("stats").stdout
    return stats


def accept(m):
    done = m.run_command("ctl", "accept-loss", timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    m.wait_for(lambda s: not lost_of(s), 20, "the acceptance to be carried out")
    return [json.loads(line) for line in (m.data_dir / "accepted-losses").read_text(encoding="utf-8").splitlines()]


def flush(space):
    with space.redis.client() as client:
        client.flushall()


def test_what_kafka_has_deleted_is_not_rebuilt_as_if_it_were_whole(space):
    space.start_redis()
    t = space.topic(raw, "raw", partitions=1)
    m = space.millrace().start_ready()
    publish(space.broker, t, range(300), keys=50)
    m.wait_drained({(t.name, 0): 300})
    space.broker.delete_records(t.name, 0, 120)
    flush(space)
    wait_lost(m, t, 0, 120)
    publish(space.broker, t, range(300, 330), keys=50)
    time.sleep(1.5)
    assert store(space, t) == {}, "written although it is not whole"
    assert space.broker.committed(m.group, [t.name], 1) == {(t.name, 0): 300}

    assert m.drain() == 0
    m.start_ready()
    wait_lost(m, t, 0, 120)
    m.kill_worker("ingest")
    m.wait_for(lambda s: m.worker("ingest", stats=s)["starts"] == 2, 10, "ingest to come back")
    wait_lost(m, t, 0, 120)

    lines = accept(m)
    assert [(e["topic"], e["partition"], e["from"], e["to"]) for e in lines] == [(t.name, 0, 0, 120)]
    assert lines[0]["cluster"] and lines[0]["time"].endswith("Z")
    m.wait_drained({(t.name, 0): 330})
    assert store(space, t) == folded(range(120, 330), 50)
    assert m.metric("ingest_offset_lost") == 120
    # What was accepted is not asked for again.
    flush(space)
    m.wait_for(lambda s: m.metric("ingest_partition_rewind", s) >= 2, 20, "the next loss to be mended")
    wait_until(lambda: store(space, t) == folded(range(120, 330), 50), 20, "everything to be there again")
    assert not lost_of(m.stats())
    assert m.drain() == 0


def test_commits_outside_the_topic_are_lost_offsets(space):
    space.start_redis()
    t = space.topic(raw, "raw", partitions=1)
    m = space.millrace(kafka=SHORT_SESSION).start_ready()
    publish(space.broker, t, range(100), keys=10)
    m.wait_drained({(t.name, 0): 100})
    assert m.drain() == 0
    publish(space.broker, t, range(100, 200), keys=10)
    space.broker.delete_records(t.name, 0, 160)
    m.start_ready()
    wait_lost(m, t, 100, 160)
    assert store(space, t) == folded(range(100), 10)
    accept(m)
    m.wait_drained({(t.name, 0): 200})
    assert store(space, t) == folded(range(200), 10)
    assert m.drain() == 0

    # The topic is deleted and made again; it has not grown beyond the commit.
    make_anew(space, t, range(1000, 1030))
    # Deleting a topic takes the group's offsets with it; the group is empty when the session has ended.
    wait_until(lambda: committed(space, m, t, 200), 15, "the commit to be set back")
    m.start_ready()
    wait_lost(m, t, 0, 200)
    accept(m)
    m.wait_drained({(t.name, 0): 30})
    assert store(space, t) == folded(range(1000, 1030), 10)
    assert m.drain() == 0


def make_anew(space, topic, numbers):
    space.broker.delete_topic(topic.name)
    space.broker.create_topics([topic.name], 1)
    publish(space.broker, topic, numbers, keys=10)


def committed(space, m, topic, offset):
    consumer = space.broker.consumer(m.group)
    try:
        consumer.commit(offsets=[TopicPartition(topic.name, 0, offset)], asynchronous=False)
        return True
    except KafkaException:
        return False
    finally:
        consumer.close()


def test_another_cluster_is_not_taken_for_the_one_before(space):
    space.start_redis()
    t = space.topic(raw, "raw", partitions=1)
    m = space.millrace().start_ready()
    publish(space.broker, t, range(100), keys=10)
    m.wait_drained({(t.name, 0): 100})
    assert m.drain() == 0
    other = Broker(space.folder / "other", "other")
    (space.folder / "other").mkdir(exist_ok=True)
    (space.folder / "other/cluster-id").write_text("T3RoZXJDbHVzdGVyT2ZVcw", encoding="ascii")
    other.start()
    other.create_topics([t.name], 1)
    publish(other, t, range(500, 550), keys=10)
    m.write_config(kafka={"bootstrap.servers": other.bootstrap})
    m.start_ready()
    wait_lost(m, t, 0, 100)
    assert store(space, t) == folded(range(100), 10)
    assert accept(m)[0]["cluster"] == "T3RoZXJDbHVzdGVyT2ZVcw"
    wait_until(lambda: store(space, t) == folded(range(500, 550), 10), 20, "the other cluster's records")
    assert m.drain() == 0


def test_topics_made_anew_are_noticed_whatever_their_offsets(space):
    """Kafka drops the group's commits with a topic; what is left are the marks, of records that are others now."""
    space.start_redis()
    t = space.topic(raw, "raw", partitions=1)
    m = space.millrace(kafka=SHORT_SESSION).start_ready()
    publish(space.broker, t, range(100), keys=10)
    m.wait_drained({(t.name, 0): 100})
    assert m.drain() == 0

    def goes_on_with(numbers, lost):
        m.start_ready()
        wait_lost(m, t, 0, lost)
        assert "ingest.topic_other" in m.log_text()
        assert accept(m)[-1]["to"] == lost
        m.wait_drained({(t.name, 0): len(numbers)})
        assert store(space, t) == folded(numbers, 10)
        assert m.drain() == 0

    make_anew(space, t, range(1000, 1250))  # more records than before
    goes_on_with(range(1000, 1250), 100)
    make_anew(space, t, range(2000, 2030))  # fewer, and not one at the mark
    goes_on_with(range(2000, 2030), 250)
    make_anew(space, t, range(3000, 3200))  # more, and a tool sets the group beyond its mark
    wait_until(lambda: committed(space, m, t, 150), 15, "the commit to be set")
    goes_on_with(range(3000, 3200), 30)
    # What was accepted is not asked for again, and the same topic is the same.
    m.start_ready()
    publish(space.broker, t, range(3200, 3250), keys=10)
    m.wait_drained({(t.name, 0): 250})
    assert not lost_of(m.stats())
    assert m.drain() == 0


def test_topics_that_are_the_same_are_not_taken_for_others(space):
    """The record that the mark names is gone: by retention, and as compaction leaves it (here a control record)."""
    space.start_redis()
    t = space.topic(raw, "raw", partitions=1)
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0, "transactional.id": "anew"})
    producer.init_transactions()
    producer.begin_transaction()
    for n in range(10):
        producer.produce(t.name, f"{n}".encode(), f"k{n}".encode(), partition=0)
    producer.commit_transaction()
    wait_until(lambda: space.broker.watermarks(t.name, 1)[0][1] == 11, 10, "the control record, at offset 10")
    publish(space.broker, t, range(10, 30), keys=10)
    m = space.millrace().start_ready()
    m.wait_drained({(t.name, 0): 31})

    m.kill_worker("ingest")
    m.wait_for(lambda s: m.worker("ingest", stats=s)["starts"] == 2, 10, "ingest to come back")
    publish(space.broker, t, range(30, 40), keys=10)
    m.wait_drained({(t.name, 0): 41})
    assert m.drain() == 0
    m.start_ready()
    publish(space.broker, t, range(40, 50), keys=10)
    m.wait_drained({(t.name, 0): 51})
    assert m.drain() == 0
    assert "ingest.topic_" not in m.log_text()

    mark = f"millrace:mark:{m.group}:{t.name}:0"
    with space.redis.client() as client:
        words = client.get(mark).decode().split()
        assert words[1] == "51" and words[5].startswith("50:")
        client.set(mark, " ".join(words[:5] + ["10:1700000000000"]))
    m.start_ready()
    wait_until(lambda: "ingest.topic_unproven" in m.log_text(), 10, "the record of the mark to be looked for")
    publish(space.broker, t, range(50, 60), keys=10)
    m.wait_drained({(t.name, 0): 61})
    assert m.drain() == 0
    space.broker.delete_records(t.name, 0, 61)
    m.start_ready()
    wait_until(lambda: m.log_text().count("ingest.topic_unproven") == 2, 10, "it to be looked for again")
    publish(space.broker, t, range(60, 70), keys=10)
    m.wait_drained({(t.name, 0): 71})
    assert store(space, t) == folded(range(70), 10)
    assert not lost_of(m.stats()) and "ingest.topic_other" not in m.log_text()
    assert m.drain() == 0


def test_rewinds_with_a_full_queue_leave_nothing_out(space):
    """Each record has a key of its own, and Redis is emptied: a record that a rewind passed over would be missing."""
    space.start_redis()
    t = space.topic(raw, "raw", partitions=2)
    for p in range(2):
        publish(space.broker, t, range(p * 20_000, (p + 1) * 20_000), partition=p, size=600)
    m = space.millrace().start_ready()
    dice = random.Random(7)
    for _ in range(50):
        time.sleep(dice.uniform(0, 0.25))
        flush(space)
    m.wait_drained({(t.name, p): 20_000 for p in range(2)})
    wait_until(lambda: len(store(space, t)) == 40_000, 20, lambda: f"40,000 keys: {len(store(space, t))}")
    assert store(space, t) == {f"k{n}": n for n in range(40_000)}
    assert m.metric("ingest_partition_rewind") >= 20
    assert m.drain() == 0


def send_to_all(m, number):
    for w in m.stats()["workers"]:
        m.signal_pid(w["pid"], w["role"], number)


def test_who_slept_through_a_takeover_writes_nothing_when_it_wakes(space):
    space.start_redis()
    t = space.topic(raw, "raw", partitions=2)
    first = space.millrace("first", group="lease", instance="node1", kafka=SHORT_SESSION,
                           redis={"in_flight": 100}).start_ready()
    first.wait_for(lambda s: first.metric("ingest_partition_assigned", s) == 2, 20, "the first to read")
    publish(space.broker, t, range(100), keys=50)
    first.wait_drained({(t.name, 0): 100})
    # The sink stops before the others: what comes now waits in its ring.
    pids = {w["role"]: w["pid"] for w in first.stats()["workers"]}
    first.signal_pid(pids["sink"], "sink", signal.SIGSTOP)
    publish(space.broker, t, range(100, 400), keys=50)
    first.wait_for(lambda s: s["lanes"][0]["transform_published"] >= 400, 10, "records to wait for the sink")
    for role in ("ingest", "transform"):
        first.signal_pid(pids[role], role, signal.SIGSTOP)
    first.process.signal(signal.SIGSTOP)
    second = space.millrace("second", group="lease", instance="node2", kafka=SHORT_SESSION).start_ready()
    second.wait_for(lambda s: second.metric("ingest_partition_assigned", s) == 2, 30, "the second to take over")
    publish(space.broker, t, range(400, 500), keys=50)
    second.wait_drained({(t.name, 0): 500})
    assert store(space, t) == folded(range(500), 50)

    with space.redis.client() as client, space.redis.client() as watcher:
        names = {c["name"]: c["addr"] for c in client.client_list()}
        old = names["millrace:lease:node1:0/1"]
        with watcher.monitor() as monitor:
            for role in ("sink", "transform", "ingest"):
                first.signal_pid(pids[role], role, signal.SIGCONT)
            first.process.signal(signal.SIGCONT)
            deadline, written = time.monotonic() + 2.5, []
            client.set("end", 0)
            while time.monotonic() < deadline:
                client.set("end", 1)
                seen = monitor.next_command()
                by = f"{seen['client_address']}:{seen['client_port']}"
                if by == old and seen["command"].split()[0] in ("SET", "MSET", "DEL"):
                    written.append(seen["command"][:80])
                time.sleep(0.002)
    assert written == []
    first.wait_for(lambda s: first.metric("sink_lease_expire", s) >= 1, 5, "the lease to be seen to have ended")
    wait_until(lambda: first.metric("ingest_partition_assigned") + second.metric("ingest_partition_assigned") == 2, 30,
               "the group to be whole again")
    publish(space.broker, t, range(500, 550), keys=50)
    wait_until(lambda: store(space, t) == folded(range(550), 50), 20, "both to go on")
    assert first.drain() == 0 and second.drain() == 0


def test_brokers_away_for_longer_than_the_session_stop_the_writing(space):
    space.broker = broker = space.own_broker()
    broker.start()
    server = space.start_redis()
    t = space.topic(raw, "raw", partitions=1)
    m = space.millrace(kafka=SHORT_SESSION, redis={"in_flight": 100, "response_timeout": "30s"}).start_ready()
    publish(broker, t, range(100), keys=50)
    m.wait_drained({(t.name, 0): 100})
    # Idle for longer than a lease: it is renewed all the same.
    time.sleep(4)
    publish(broker, t, range(100, 110), keys=50)
    m.wait_drained({(t.name, 0): 110}, timeout=10)
    assert m.metric("sink_lease_expire") == 0

    with server.client() as client:
        client.execute_command("CLIENT", "PAUSE", 9000, "WRITE")
    paused = time.monotonic()
    publish(broker, t, range(110, 3110), keys=50)
    m.wait_for(lambda s: s["lanes"][0]["transform_published"] >= 3110, 10, "records to wait for Redis")
    broker.pause()
    try:
        m.wait_for(lambda s: m.metric("sink_lease_expire", s) >= 1, 8, "the lease to end")
        time.sleep(max(0, paused + 9.5 - time.monotonic()))
        written = store(space, t)
        assert max(written.values()) < 1000, "what was sent before may be executed, no more"
        time.sleep(1)
        assert store(space, t) == written
        assert "the consumer group has not confirmed this instance" in m.log_text()
    finally:
        broker.resume()
    m.wait_drained({(t.name, 0): 3110}, timeout=40)
    assert store(space, t) == folded(range(3110), 50)
    assert m.drain() == 0

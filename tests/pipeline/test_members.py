"""Who reads what: two instances of a group, a fixed list of partitions, and where a first start begins."""

import time

from confluent_kafka import TopicPartition

from harness.checker import CommitChecker
from harness.generator import bulk_topic
from harness.oracle import read_log, read_redis, Decoder
from harness.process import wait_until
from harness import reference
from harness.reference import Topic


def test_one_instance_joins_and_one_leaves_under_load(space):
    space.start_redis()
    space.topic()
    space.topic(bulk_topic, "bulk")
    load = space.load(60_000, 30, keys=3000)
    first = space.millrace("first", group="pair", instance="node1", lanes=2).start_ready()
    second = space.millrace("second", group="pair", instance="node2", lanes=1)
    checker = CommitChecker(space.broker, "pair", space.topics, space.partitions, space.redis, load.history, 7)
    load.start()
    checker.start()
    first.wait_for(lambda s: first.metric("sink_record_applied", s) > 2000, 20, "the first to work")

    second.start_ready()
    second.wait_for(lambda s: second.metric("ingest_partition_assigned", s) == 8, 20, "the second to get its half")
    first.wait_for(lambda s: first.metric("ingest_partition_assigned", s) == 8, 20, "the first to give half away")
    second.wait_for(lambda s: second.metric("sink_record_applied", s) > 2000, 20, "the second to work")
    assert load.live, "the join took longer than the load"

    assert first.drain() == 0
    second.wait_for(lambda s: second.metric("ingest_partition_assigned", s) == 16, 30, "the second to get everything")
    assert load.live, "the leave took longer than the load"
    load.finish()
    second.wait_drained(load.next_offset)
    checker.finish()
    assert checker.advances > 50
    space.judge(produced=60_000)
    assert second.drain() == 0
    for m in (first, second):
        assert "lost writes" not in m.log_text()


def test_fixed_list_reads_these_partitions_and_no_others(space):
    space.start_redis()
    t = space.topic(partitions=4)
    t.partitions = [1, 3]
    m = space.millrace().start_ready()
    load = space.load(4000, keys=500)
    load.start()
    load.finish()
    wanted = {place: end for place, end in load.next_offset.items() if place[1] in (1, 3)}
    stats = m.wait_drained(wanted)
    assert {(p["topic"], p["partition"]) for p in stats["partitions"]} == set(wanted)
    records, _ = read_log(space.broker, [t.name], 4)
    expected, _ = reference.fold([t], [r for r in records if r.partition in (1, 3)])
    with space.redis.client() as client:
        assert read_redis(client, Decoder(space.topics)) == expected
    assert m.metric("ingest_rebalance") <= 1
    assert m.drain() == 0
    # A restart goes on from the commits although no group gave the partitions out.
    m.start_ready()
    stats = m.wait_drained(wanted)
    assert m.metric("ingest_record_read", stats) == 0
    assert m.drain() == 0


def publish_raw(space, topic, records):
    """records: [(partition, key, value)]"""
    from confluent_kafka import Producer
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0})
    for partition, key, value in records:
        producer.produce(topic.name, value, key, partition=partition)
    assert producer.flush(20) == 0


def raw(name, **more):
    return Topic(name, format="raw", key="{$topic}/{$key}", **more)


def test_start_error_refuses_a_group_without_commits(space):
    space.start_redis()
    t = space.topic(raw, "raw", partitions=1)
    publish_raw(space, t, [(0, b"a", b"1")])
    m = space.millrace(start="error").start()
    wait_until(lambda: not m.process.alive() or "blocked" in states(m) or "failed" in states(m), 20,
               "a group without commits to be noticed")
    if not m.process.alive():
        assert m.wait_exit(1) == 78
    assert "start" in m.log_text() and t.name in m.log_text()
    with space.redis.client() as client:
        assert client.get(f"{t.name}/a") is None


def states(m):
    stats = m.stats_or_none()
    return [w["state"] for w in stats["workers"]] if stats else []


def test_start_error_is_content_with_commits(space):
    space.start_redis()
    t = space.topic(raw, "raw", partitions=1)
    publish_raw(space, t, [(0, b"a", b"1"), (0, b"b", b"2")])
    m = space.millrace(start="earliest").start_ready()
    m.wait_drained({(t.name, 0): 2})
    assert m.drain() == 0
    m.write_config(start="error")
    publish_raw(space, t, [(0, b"c", b"3")])
    m.start_ready()
    m.wait_drained({(t.name, 0): 3})
    space.judge(produced=3)
    assert m.drain() == 0


def test_start_latest_leaves_the_past_out(space):
    space.start_redis()
    t = space.topic(raw, "raw", partitions=2)
    publish_raw(space, t, [(0, b"old", b"1"), (1, b"old2", b"1")])
    m = space.millrace(start="latest").start_ready()
    m.wait_for(lambda s: len(s["partitions"]) == 2 and all(p["position"] == 1 for p in s["partitions"]), 20,
               "both partitions to stand at their end")
    publish_raw(space, t, [(0, b"new", b"2"), (1, b"new2", b"2")])
    m.wait_drained({(t.name, 0): 2, (t.name, 1): 2})
    with space.redis.client() as client:
        found = read_redis(client, Decoder(space.topics))
    assert set(found) == {f"{t.name}/new".encode(), f"{t.name}/new2".encode()}
    assert m.drain() == 0


def test_commits_that_point_outside_the_log_stop_the_partition_instead_of_jumping(space):
    """auto.offset.reset would silently jump to an end; whoever runs this has to decide."""
    space.start_redis()
    t = space.topic(raw, "raw", partitions=1)
    publish_raw(space, t, [(0, b"a", b"1")])
    m = space.millrace(start="earliest")
    consumer = space.broker.consumer(m.group)
    consumer.commit(offsets=[TopicPartition(t.name, 0, 1000)], asynchronous=False)
    consumer.close()
    m.start()
    wait_until(lambda: not m.process.alive() or "blocked" in states(m) or "failed" in states(m), 30,
               lambda: f"the offset out of range to be noticed: {m.stats_or_none()}")
    time.sleep(1)
    with space.redis.client() as client:
        assert client.get(f"{t.name}/a") is None
    assert space.broker.committed(m.group, [t.name], 1) == {(t.name, 0): 1000}
    assert t.name in m.log_text()


def test_same_name_is_refused_while_it_runs(space):
    space.start_redis()
    space.topic(raw, "raw", partitions=1)
    m = space.millrace().start_ready()
    done = m.run_command("run", timeout=20)
    assert done.returncode == 75
    assert f"{m.name} is running already" in done.stderr
    assert m.stats()["state"] == "running"
    assert m.drain() == 0
    m.start_ready()
    assert m.drain() == 0


def test_two_with_the_same_identity_do_not_fight_for_ever(space):
    """Same name and instance started from two folders, as two machines with one configuration would: one has to go."""
    space.start_redis()
    space.topic()
    load = space.load(30_000, 15, keys=2000)
    first = space.millrace("twin", group="twins", drain_timeout="3s").start_ready()
    load.start()
    first.wait_for(lambda s: first.metric("sink_record_applied", s) > 2000, 20, "some records")
    second_folder = space.folder / "other machine"
    second_folder.mkdir()
    space.folder, kept = second_folder, space.folder
    second = space.millrace("twin", group="twins", drain_timeout="3s").start()
    space.folder = kept
    wait_until(lambda: not (first.process.alive() and second.process.alive()), 60, "one of them to give up")
    gone, stays = (first, second) if second.process.alive() else (second, first)
    assert gone.wait_exit(5) not in (0, None)
    assert any(text in gone.log_text() for text in ("fenced", "another process uses the connection name")), \
        gone.process.tail(5)
    load.finish()
    stays.wait_drained(load.next_offset, 60)
    space.judge(produced=30_000)
    assert stays.drain() == 0


def test_transactions_and_their_gaps(space):
    """Aborted records are not applied, offsets jump over control records, and the end of the partition is committed."""
    from confluent_kafka import Producer
    space.start_redis()
    t = space.topic(raw, "tx", partitions=1)
    producer = Producer({"bootstrap.servers": space.broker.bootstrap, "transactional.id": t.name, "log_level": 0})
    producer.init_transactions(20)
    m = space.millrace().start_ready()
    for n in range(12):
        producer.begin_transaction()
        for i in range(20):
            producer.produce(t.name, f"{n}.{i}".encode(), f"k{i}".encode(), partition=0)
        producer.flush(20)
        if n % 3 == 2:
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
    high = space.broker.watermarks(t.name, 1)[0][1]
    assert high == 12 * 21
    m.wait_for(lambda s: s["partitions"] and s["partitions"][0]["committed"] == high, 20, "the end to be committed")
    stats = m.stats()
    assert m.metric("sink_record_applied", stats) == 8 * 20 and stats["partitions"][0]["lag"] == 0
    expected, _ = space.judge(produced=8 * 20)
    assert expected[f"{t.name}/k0".encode()] == b"10.0"
    assert m.drain() == 0


def test_topic_that_is_made_later_is_read(space):
    space.start_redis()
    t = space.topic(raw, "here", partitions=1)
    later = raw(f"t{space.number}.later")
    space.topics.append(later)
    m = space.millrace(kafka={"topic.metadata.refresh.interval.ms": 500}).start_ready()
    publish_raw(space, t, [(0, b"a", b"1")])
    m.wait_drained({(t.name, 0): 1}, 30)
    space.broker.create_topics([later.name], 1)
    publish_raw(space, later, [(0, b"b", b"2")])
    m.wait_drained({(t.name, 0): 1, (later.name, 0): 1}, 40)
    space.partitions = 1
    space.judge(produced=2)
    assert m.metric("supervisor_child_died") == 0
    assert m.drain() == 0

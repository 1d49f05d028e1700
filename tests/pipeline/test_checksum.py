"""A batch whose bytes changed on the broker's disk: nothing behind it may be taken while it cannot be read."""

import json

from confluent_kafka import Producer
from harness.process import wait_until


def test_damaged_batch_holds_its_partition_until_it_can_be_read(space):
    space.start_redis()
    topic = space.topic(partitions=1)
    producer = Producer({"bootstrap.servers": space.broker.bootstrap})
    for i in range(300):  # one batch each, so that good ones follow the damaged one
        producer.produce(topic.name, partition=0, key=b"k",
                         value=json.dumps({"account": f"a{i}", "card_no": i, "old_account": f"a{i}"}).encode(),
                         headers=[("op", b"add")])
        producer.flush(10)
    log = space.broker.folder / "data" / f"{topic.name}-0" / "00000000000000000000.log"
    place = log.read_bytes().index(b'"a100"') + 2

    def byte_set(value):
        with open(log, "r+b") as f:
            f.seek(place)
            f.write(value)
    byte_set(b"X")
    m = space.millrace().start()  # it may be gone before anybody has seen it ready

    def stands():
        """librdkafka 2.0.2 aborts on such a batch, so the instance fails; later versions report it, so it is a state."""
        stats = m.stats_or_none()
        return not m.process.alive() or (stats and "cannot be read at offset 100" in json.dumps(stats["workers"]))
    wait_until(stands, 60, "the damage to be reported")
    if m.process.alive():
        assert m.drain() == 0
    else:
        assert m.process.child.returncode == 70
        assert "without moving a record" in m.log_text()
    assert space.broker.committed(m.group, [topic.name], 1).get((topic.name, 0), 0) <= 100, "beyond the damaged batch"
    byte_set(b"1")
    m.start_ready()
    m.wait_drained({(topic.name, 0): 300})
    space.judge(produced=300)
    assert m.drain() == 0

"""The judge is judged first: the reference transform by hand-written cases, the comparison by planted faults."""

import random

import pytest

from confluent_kafka import TopicPartition

from harness import reference
from harness.checker import CommitChecker
from harness.generator import Generator, bulk_topic, change_topic
from harness.oracle import compare, read_log, read_redis, Decoder
from harness.process import wait_until
from harness.reference import Outcome, Record, Topic

CHANGE = change_topic("c")
BULK = bulk_topic("b")
FIELD = Topic("f", key="k:{id}", operation={"field": "kind"})
RAW = Topic("r", format="raw", key="{$topic}:{$partition}:{$offset}:{$key}")
BODY = b'{"account":"1","card_no":2}'
MOVED = b'{"account":"1","card_no":2,"old_account":"1","old_card_no":7}'


def record(topic, value, op=None, key=b"1", offset=5):
    return Record(topic.name, 3, offset, 0, key, value, (("op", op),) if op is not None else ())


@pytest.mark.parametrize("topic,rec,outcome", [
    (CHANGE, record(CHANGE, BODY, b"add"), Outcome("add", b"card:1:2", b"", BODY)),
    (CHANGE, record(CHANGE, BODY, b"update"), Outcome("update", b"card:1:2", b"", BODY)),
    (CHANGE, record(CHANGE, MOVED, b"update"), Outcome("update", b"card:1:2", b"card:1:7", MOVED)),
    (CHANGE, record(CHANGE, BODY, b"delete"), Outcome("delete", b"card:1:2")),
    (CHANGE, record(CHANGE, BODY, b"explode"), Outcome("reject", reason="operation")),
    (CHANGE, record(CHANGE, BODY), Outcome("reject", reason="operation")),
    (CHANGE, record(CHANGE, None), Outcome("reject", reason="field_missing")),
    (CHANGE, record(CHANGE, b'{"account":"1"}', b"add"), Outcome("reject", reason="field_missing")),
    (CHANGE, record(CHANGE, b'{"account":', b"add"), Outcome("reject", reason="json_invalid")),
    (CHANGE, record(CHANGE, b'[1]', b"add"), Outcome("reject", reason="json_invalid")),
    (CHANGE, record(CHANGE, b'{"account":"\xff"}', b"add"), Outcome("reject", reason="json_invalid")),
    (BULK, record(BULK, BODY), Outcome("add", b"card:1:2", b"", BODY)),
    (BULK, record(BULK, None), Outcome("reject", reason="operation")),
    (FIELD, record(FIELD, b'{"id":1.50,"kind":"delete"}'), Outcome("delete", b"k:1.50")),
    (FIELD, record(FIELD, b'{"id":true,"kind":"add"}'), Outcome("add", b"k:true", b"", b'{"id":true,"kind":"add"}')),
    (FIELD, record(FIELD, b'{"id":null,"kind":"add"}'), Outcome("reject", reason="field_missing")),
    (RAW, record(RAW, b"\x00\xff"), Outcome("add", b"r:3:5:1", b"", b"\x00\xff")),
    (RAW, record(RAW, None), Outcome("delete", b"r:3:5:1")),
    (RAW, record(RAW, b"x", key=None), Outcome("reject", reason="key_null")),
    (Topic("e", format="raw", key="{$key}"), Record("e", 0, 0, 0, b"", b"x", ()),
     Outcome("reject", reason="key_empty")),
    (Topic("l", format="raw", key="{$key}"), Record("l", 0, 0, 0, b"x" * 4097, b"x", ()),
     Outcome("reject", reason="key_long")),
])
def test_reference_does_what_the_documentation_says(topic, rec, outcome):
    assert reference.transform(topic, rec) == outcome


def test_fold_applies_in_order_and_keeps_rejects():
    log = [record(CHANGE, BODY, b"add", offset=0), record(CHANGE, MOVED, b"update", offset=1),
           record(CHANGE, b"?", b"add", offset=2),
           record(CHANGE, b'{"account":"1","card_no":7,"old_account":"1","old_card_no":2}', b"update", offset=3),
           record(CHANGE, b'{"account":"9","card_no":1}', b"add", offset=4),
           record(CHANGE, b'{"account":"9","card_no":1}', b"delete", offset=5)]
    store, rejects = reference.fold([CHANGE], log)
    assert store == {b"card:1:7": log[3].value}
    assert rejects == {("c", 3, 2): "json_invalid"}


def seeded_log(seed, count=3000, keys=200):
    generator, offsets, log = Generator(seed, [CHANGE, BULK], keys), {}, []
    for _ in range(count):
        topic, account, value, headers = generator.next_record()
        offset = offsets[topic] = offsets.get(topic, -1) + 1
        log.append(Record(topic, 0, offset, 0, account.encode(), value, tuple(headers)))
    return log


def test_generator_repeats_itself_and_mixes_everything():
    log = seeded_log(1)
    assert log == seeded_log(1) and log != seeded_log(2)
    outcomes = [reference.transform({"c": CHANGE, "b": BULK}[r.topic], r) for r in log]
    kinds = [(o.op, bool(o.old_key)) for o in outcomes]
    for kind in [("add", False), ("update", False), ("update", True), ("delete", False)]:
        assert kinds.count(kind) > 100, f"{kind} is too rare"
    sizes = [len(r.value) for r in log]
    assert min(sizes) >= 190 and max(sizes) <= 520


# Each fault takes the log and a random source and gives the log as a faulty pipeline would have played it.
def drop(log, r):
    del log[r.randrange(len(log))]


def repeat_later(log, r):
    at = r.randrange(len(log) - 1)
    log.insert(r.randrange(at + 1, len(log)) + 1, log[at])


def swap(log, r):
    at = r.randrange(len(log) - 1)
    other = next((i for i in range(at + 1, len(log)) if log[i].key == log[at].key), None)
    if other:
        log[at], log[other] = log[other], log[at]


def shorten(log, r):
    at = r.randrange(len(log))
    log[at] = log[at]._replace(value=log[at].value.replace(b'"text"', b'"txt"'))


def alter(log, r):
    at = r.randrange(len(log))
    log[at] = log[at]._replace(value=log[at].value.replace(b'"version"', b'"versioN"'))


def ignore_old_key(log, r):
    moved = [i for i, rec in enumerate(log) if b"old_card_no" in rec.value]
    at = r.choice(moved)
    log[at] = log[at]._replace(value=log[at].value.replace(b"old_card_no", b"new_card_no"))


def other_entity(log, r):
    at = r.randrange(len(log))
    log[at] = log[at]._replace(value=log[at].value.replace(b'"account"', b'"accounT"').replace(
        b"{", b'{"account":"stranger",', 1))


FAULTS = [drop, repeat_later, swap, shorten, alter, ignore_old_key, other_entity]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_judge_finds_planted_fault(fault):
    """Some faults are mended by a later event of the same key; every one that changes what is left must be reported."""
    seen = 0
    for seed in range(40):
        log = seeded_log(seed, count=400, keys=150)
        good, _ = reference.fold([CHANGE, BULK], log)
        bad = list(log)
        fault(bad, random.Random(seed))
        got, _ = reference.fold([CHANGE, BULK], bad)
        difference = compare(good, got)
        assert bool(difference) == (good != got)
        seen += bool(difference)
    assert seen >= 8, f"only {seen} of 40 planted faults had an effect"


def test_judge_names_the_kind_of_difference():
    good = {b"a": b"1", b"b": b"2", b"c": b"3"}
    assert not compare(good, dict(good))
    d = compare(good, {b"a": b"1", b"b": b"2x", b"d": b"3"})
    assert (d.missing, d.altered, d.unexpected) == ([b"c"], [b"b"], [b"d"])
    assert compare(good, {**good, b"b": b""}).altered == [b"b"]


def test_judge_reads_back_what_was_published_and_finds_faults_in_a_real_redis(space):
    """The whole harness without the product: a fold written to Redis by the test passes, one byte changed does not."""
    redis_server = space.start_redis(unix=True)
    space.topic()
    load = space.load(3000, keys=300)
    load.start()
    load.finish()
    records, ends = read_log(space.broker, [t.name for t in space.topics], space.partitions)
    assert len(records) == 3000 and ends == load.next_offset
    for place in ends:
        offsets = [r.offset for r in records if (r.topic, r.partition) == place]
        assert offsets == list(range(ends[place]))
    expected, _ = reference.fold(space.topics, records)
    with redis_server.client() as client:
        for key, value in expected.items():
            client.set(key, value)
        client.set("millrace:some:mark", "1")
        space.judge(produced=3000)
        victim = sorted(expected)[7]
        client.set(victim, expected[victim][:-1])
        with pytest.raises(AssertionError, match="altered 1 "):
            space.judge()
        client.delete(victim)
        client.set("stranger", "x")
        with pytest.raises(AssertionError, match="missing 1 .*unexpected 1 "):
            space.judge()
        assert len(read_redis(client, Decoder(space.topics))) == len(expected)


def test_commit_checker_finds_a_commit_ahead_of_redis(space):
    """A stand-in pipeline that applies in order and commits after, then one that commits first."""
    redis_server = space.start_redis(unix=True)
    space.topic()
    load = space.load(2000, keys=300)
    load.start()
    load.finish()
    records, _ = read_log(space.broker, [t.name for t in space.topics], space.partitions)
    of_zero = [r for r in records if r.partition == 0]
    consumer = space.broker.consumer("stand-in")

    def commit(offset):
        consumer.commit(offsets=[TopicPartition(space.topics[0].name, 0, offset)], asynchronous=False)

    def apply(client, some):
        for rec in some:
            for key, value in reference.effects(reference.transform(space.topics[0], rec)):
                client.delete(key) if value is None else client.set(key, value)

    def checker():
        return CommitChecker(space.broker, "stand-in", space.topics, space.partitions, redis_server, load.history, 1,
                             pause=0.05)
    with redis_server.client() as client:
        good = checker()
        good.start()
        for at in range(0, 200, 20):
            apply(client, of_zero[at:at + 20])
            commit(at + 20)
            wait_until(lambda n=at + 20: good.highest.get((space.topics[0].name, 0)) == n, 20, "the checker to see it")
        good.finish()
        assert good.checks > 200 and good.advances == 9
        bad = checker()
        bad.start()
        commit(201)
        wait_until(lambda: bad.rounds >= 2, 20, "two rounds of the checker")
        with pytest.raises(AssertionError, match="does not hold the result"):
            bad.finish()
        apply(client, of_zero[200:201])
        back = checker()
        back.start()
        wait_until(lambda: back.rounds >= 1, 20, "a round of the checker")
        commit(100)
        seen = back.rounds
        wait_until(lambda: back.rounds >= seen + 2, 20, "two rounds of the checker")
        with pytest.raises(AssertionError, match="went back"):
            back.finish()
    consumer.close()

"""A seeded load: bulk adds and change events of entities whose Redis keys never meet.

All events of an entity go to one partition (its account is the Kafka key), so their order is Kafka's. A change may move
an entity to another of its own three Redis keys and back, so a stale write or a delete out of order shows at the end.
"""

import json
import random
import threading
import time
import zlib

from confluent_kafka import Producer

from . import reference
from .reference import Record, Topic

OLD_KEY = "card:{old_account}:{old_card_no}"
WORDS = ["Zoë", "Łódź", "naïve", "payment", "Übertrag", "札幌", "card",
         "\"quoted\"", "tab\there", "slash/", "€uro"]
ESCAPED = {w: len(json.dumps(w)) - 1 for w in WORDS}
LITERAL = {w: len(json.dumps(w, ensure_ascii=False).encode()) - 1 for w in WORDS}


def change_topic(name, **more):
    return Topic(name, mode="change", old_key=OLD_KEY, operation={"header": "op"}, **more)


def bulk_topic(name, **more):
    return Topic(name, mode="bulk", **more)


class Generator:
    """next_record() gives (topic name, account, value, headers), the same sequence for the same arguments."""

    def __init__(self, seed, topics, keys):
        self.random = random.Random(seed)
        self.topics, self.keys = topics, keys
        self.card = {}  # account -> current card number, for entities that exist
        self.version = 0

    def body(self, account, card, old=None):
        """200 to 500 bytes of JSON, spelled in different ways."""
        r = self.random
        self.version += 1
        fields = {"account": account, "card_no": str(card), "version": self.version,
                  "amount": r.randrange(10**8) / 100, "open": r.random() < 0.5, "note": None}
        if old is not None:
            fields["old_account"], fields["old_card_no"] = account, str(old)
        ascii_only, room, text = r.random() < 0.3, r.randrange(210, 480) - (165 if old is not None else 115), []
        while room > 0:
            text.append(r.choice(WORDS))
            room -= ESCAPED[text[-1]] if ascii_only else LITERAL[text[-1]]
        fields["text"] = " ".join(text)
        return json.dumps(fields, ensure_ascii=ascii_only,
                          separators=(",", ":") if r.random() < 0.5 else None).encode()

    def next_record(self):
        r = self.random
        topic = r.choice(self.topics)
        # The first letter keeps the entities of different topics apart.
        account = f"{self.topics.index(topic)}{r.randrange(self.keys):07d}"
        if topic.mode == "bulk":
            return topic.name, account, self.body(account, 0), []
        card, dice = self.card.get(account), r.random()
        if card is None or dice < 0.08:
            if card is None:
                card = self.card[account] = r.randrange(3)
            return topic.name, account, self.body(account, card), [("op", b"add")]
        if dice < 0.20:
            del self.card[account]
            return topic.name, account, self.body(account, card), [("op", b"delete")]
        if dice < 0.40:
            new = self.card[account] = (card + r.randrange(1, 3)) % 3
            return topic.name, account, self.body(account, new, card), [("op", b"update")]
        return topic.name, account, self.body(account, card), [("op", b"update")]


class History:
    """What every Redis key has been, by the offset that made it so. Written by the load, read by the checker."""

    def __init__(self, topics):
        self.topics = {t.name: t for t in topics}
        self.states = {}   # redis key -> ([offset], [value or None])
        self.touched = {}  # (topic, partition) -> [[redis keys of the record at this offset]]
        self.home = {}     # redis key -> (topic, partition)

    def note(self, record):
        outcome = reference.transform(self.topics[record.topic], record)
        keys = []
        for key, value in reference.effects(outcome):
            home = self.home.setdefault(key, (record.topic, record.partition))
            assert home == (record.topic, record.partition), f"{key} has two homes"
            offsets, values = self.states.setdefault(key, ([], []))
            values.append(value)
            offsets.append(record.offset)
            keys.append(key)
        self.touched.setdefault((record.topic, record.partition), []).append(keys)


class Load(threading.Thread):
    """Publishes `count` records of a generator, evenly over `seconds` (0: as fast as it goes)."""

    def __init__(self, broker, generator, partitions, count, seconds=0, history=None):
        super().__init__(name="load", daemon=True)
        self.broker, self.generator, self.partitions = broker, generator, partitions
        self.count, self.seconds = count, seconds
        self.history = history if history is not None else History(generator.topics)
        self.next_offset, self.published, self.failure = {}, 0, None
        self.unplaced = set()  # partitions with records that were delivered, the library says, and not where
        self.began = self.ended = None
        self.given_up = threading.Event()

    @property
    def live(self):
        """Records are being published right now."""
        return self.began is not None and self.ended is None

    def run(self):
        try:
            self.began = time.monotonic()
            self.publish()
        except BaseException as e:  # handed to finish(), which raises it in the test
            self.fail(e)
        finally:
            self.ended = time.monotonic()

    def fail(self, failure):
        self.failure = self.failure or failure  # the first is the cause of the others

    def publish(self):
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "enable.idempotence": True, "acks": "all",
                             "linger.ms": 5, "message.timeout.ms": 120000, "log_level": 0,
                             "queue.buffering.max.messages": 1000000})
        done = 0
        while done < self.count and not self.given_up.is_set():
            due = self.count if not self.seconds else min(
                self.count, 1 + int(self.count * (time.monotonic() - self.began) / self.seconds))
            while done < due:
                self.send(producer, *self.generator.next_record())
                done += 1
                if done % 1000 == 0:
                    producer.poll(0)
            producer.poll(0)
            self.published = done
            if self.seconds:
                time.sleep(0.02)
        assert producer.flush(120) == 0, "the broker has not taken all records"
        self.published = done
        for topic, partition in self.unplaced:
            high = self.broker.watermarks(topic, self.partitions)[partition][1]
            expected = self.next_offset[topic, partition]
            assert high == expected, f"{topic}/{partition}: {high} of {expected} records that were delivered are there"

    def send(self, producer, topic, account, value, headers):
        partition = zlib.crc32(account.encode()) % self.partitions
        place = (topic, partition)
        offset = self.next_offset.get(place, 0)
        self.next_offset[place] = offset + 1
        # Noted before it is sent: the checker must never meet a value it has not heard of.
        self.history.note(Record(topic, partition, offset, 0, account.encode(), value, tuple(headers)))

        def delivered(error, message):
            if error is not None:
                self.fail(AssertionError(f"{place}: {offset} was not delivered: {error}"))
            elif message.offset() is None:
                # A batch whose first answer was lost was sent again, and the broker knew it already. Or it was refused,
                # the next one was taken by a leader that knew nothing of this producer yet, and it is lost.
                self.unplaced.add(place)
            elif message.offset() != offset and place not in self.unplaced:
                self.fail(AssertionError(f"{place}: offset {message.offset()} instead of {offset}"))
        while True:
            try:
                producer.produce(topic, value, account, partition=partition, headers=headers, on_delivery=delivered)
                return
            except BufferError:
                producer.poll(0.1)

    def give_up(self):
        self.given_up.set()

    def finish(self, timeout=300):
        self.join(timeout)
        assert not self.is_alive(), f"the load has not ended after {timeout} s"
        if self.failure is not None:
            raise self.failure
        return self

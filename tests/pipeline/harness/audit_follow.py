"""Follows the audit log while it is written, and of it only what is durable."""

import collections
import pathlib
import struct

from .audit_log import BATCH, ENTRY, HEAD, LANE_BYTES, MAC_BYTES, OUTCOMES, PLACE_BYTES, REPEAT, TOPIC_BYTES, text

LANE = struct.Struct("<IIQQ")
MARK = struct.Struct("<QIIQQQQQ")

Entry = collections.namedtuple("Entry", "sequence topic partition offset lane epoch outcome repeat")


class AuditLog:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.segment = None  # (first, path, position of the next batch, topics)
        self.next = 1        # sequence number
        self.numbers = {}    # {(lane, incarnation): last number}
        self.entries = []

    def durable(self):
        """(segment, bytes) up to which the log is known to be on the disk; None: all of it."""
        try:
            magic, _, _, generation, *words = MARK.unpack((self.folder / "durable").read_bytes()[:MARK.size])
        except FileNotFoundError:
            return None
        assert magic.to_bytes(8, "little").rstrip(b"\0") == b"mllmark"
        return tuple(words[2 * (generation & 1):][:2])

    def read(self):
        """Whatever is new. Returns all there is so far."""
        end = self.durable()
        while self.folder.is_dir():
            if self.segment is None and not self.open():
                break
            self.read_segment(end)
            if not (self.folder / f"{self.next:016x}.log").exists() or self.next == self.segment[0]:
                break
            self.segment = None
        return self.entries

    def open(self):
        path = self.folder / f"{self.next:016x}.log"
        if not path.exists():
            return False
        data = path.read_bytes()
        magic, version, _, first, _, _, topics, places, lanes, *_ = HEAD.unpack_from(data)
        assert (magic.to_bytes(8, "little"), version, first) == (b"mllaudt1", 2, self.next), path
        names = [text(data[HEAD.size + i * TOPIC_BYTES:][:TOPIC_BYTES]) for i in range(topics)]
        at = HEAD.size + topics * TOPIC_BYTES + places * PLACE_BYTES + lanes * LANE_BYTES + MAC_BYTES
        self.segment = [first, path, at, names]
        return True

    def read_segment(self, end):
        first, path, at, topics = self.segment
        with open(path, "rb") as f:
            f.seek(at)
            data = f.read()
        if end is not None and end[0] == first:
            data = data[:max(0, end[1] - at)]
        done = 0
        while len(data) - done >= BATCH.size:
            magic, size, count, first_entry, _, lanes, _ = BATCH.unpack_from(data, done)
            if magic.to_bytes(8, "little") != b"mllbatch" or done + size > len(data):
                break
            assert first_entry == self.next, f"{path}: {first_entry} comes after {self.next - 1}"
            self.read_batch(data[done:done + size - MAC_BYTES], count, lanes, topics)
            done += size
        self.segment[2] = at + done

    def read_batch(self, batch, count, lanes, topics):
        at = BATCH.size
        for _ in range(lanes):
            lane, _, incarnation, number = LANE.unpack_from(batch, at)
            assert number > self.numbers.get((lane, incarnation), 0), "a lane does not go on"
            self.numbers[lane, incarnation] = number
            at += LANE.size
        for _ in range(count):
            size, topic, lane, partition, epoch, offset, _, _, _, _, _, _, _, outcome, _, _, flags, *_ = \
                ENTRY.unpack_from(batch, at)
            self.entries.append(Entry(self.next, topics[topic], partition, offset, lane, epoch, OUTCOMES[outcome],
                                      flags & REPEAT != 0))
            self.next += 1
            at += size
        assert at == len(batch), "a batch holds more than its entries"

    def offsets(self):
        """{(topic, partition): [offset of every entry, as logged]}"""
        out = collections.defaultdict(list)
        for e in self.entries:
            out[e.topic, e.partition].append(e.offset)
        return out

    def complete_to(self):
        """{(topic, partition): offset up to which, from 0 on, every record is logged}"""
        out = {}
        for place, offsets in self.offsets().items():
            seen = set(offsets)
            n = 0
            while n in seen:
                n += 1
            out[place] = n
        return out

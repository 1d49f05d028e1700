"""Reads an audit log of millrace (docs/formats.md): its entries, its chain of macs, its anchors.

    millrace_audit.py FOLDER [--keys FILE] [--pubkey FILE] [--anchors FILE]

prints the entries, a line of JSON each, as `millrace audit show --format json` does. With the audit key file every mac is
checked; with the public key (`millrace audit key`) every anchor, and that the log still has what it was signed for.
Needs the package cryptography for that.
"""

import argparse
import base64
import hashlib
import hmac
import json
import pathlib
import struct
import sys
import uuid

HEAD = struct.Struct("<QIIQqIIII64s64s64s256s")
PLACE, LANE = struct.Struct("<Iiq"), struct.Struct("<IIQQ")
BATCH = struct.Struct("<QIIQqII")
ENTRY = struct.Struct("<IHHiIqqqqIIIBBBBII16s16s16s16s16s16sQQqII")
HASH_BYTES, MAC_BYTES, TOPIC_BYTES, BLOCK_BYTES = 32, 64, 256, 4096
HEAD_MAGIC, BATCH_MAGIC = b"mllaudt1", b"mllbatch"
BYTES_NULL = 0xffffffff
OPS = ("raw", "add", "update", "delete", "skip", "reject")
OUTCOMES = ("nothing", "skipped", "applied", "superseded", "deleted", "expired", "filtered", "rejected")
REASONS = ("none", "key_null", "key_empty", "key_long", "field_missing", "json_invalid", "operation", "too_large", "crash")
FLAGS = ("declared", "altered", "created", "repeat", "key_changed", "hash", "refed")
ALGORITHMS = ("none", "hmac", "xxh3")


class LogDamaged(Exception):
    """The bytes are not what was written."""


def derive(path, label):
    """A key of reconciliation out of the audit key file: HKDF-SHA-256 (RFC 5869) without salt."""
    for line in pathlib.Path(path).read_text(encoding="ascii").splitlines():
        words = line.split()
        if words[:1] == ["key"]:
            secret = hmac.digest(bytes(32), base64.b64decode(words[2]), hashlib.sha256)
            return hmac.digest(secret, label + b"\x01", hashlib.sha256)
    raise LogDamaged(f"{path}: no key")


def text(field):
    return field.split(b"\0", 1)[0].decode()


def digest(field):
    return field.hex() if any(field) else None


def entry_dict(sequence, written_us, topics, lanes, segment, at, e):
    (_, topic, lane, partition, epoch, offset, timestamp, created, ingested, transformed, sent, answered, op, outcome,
     reason, algorithm, flags, content, ident, key, old_key, published, stored, load, producer, producer_sequence,
     expire, published_bytes, stored_bytes) = e
    return {"sequence": sequence, "written_us": written_us, "id": str(uuid.UUID(bytes=ident)), "topic": topics[topic],
            "partition": partition, "offset": offset, "epoch": epoch, "lane": lane,
            "incarnation": f"{lanes[lane]:016x}", "op": OPS[op], "outcome": OUTCOMES[outcome],
            "reason": REASONS[reason], "flags": [name for i, name in enumerate(FLAGS) if flags >> i & 1],
            "timestamp_ms": timestamp, "created_ms": created, "ingested_us": ingested, "transformed_us": transformed,
            "sent_us": sent, "answered_us": answered, "algorithm": ALGORITHMS[algorithm], "key": digest(key),
            "old_key": digest(old_key), "published": digest(published), "stored": digest(stored),
            "published_bytes": None if published_bytes == BYTES_NULL else published_bytes,
            "stored_bytes": stored_bytes, "content_bytes": content, "expire_at_ms": expire,
            "load": str(uuid.UUID(bytes=load)) if any(load) else None, "producer": f"{producer:016x}",
            "producer_sequence": producer_sequence, "segment": f"{segment:016x}", "at": at}


class Log:
    def __init__(self, folder, key=None):
        """key: that of the chain, to check all of every mac; without it, hashes only."""
        self.folder, self.key = pathlib.Path(folder), key
        self.mac, self.next = None, None
        self.ends = {}  # {last sequence number of a batch: (segment, mac)}

    def check(self, data, mac, where):
        half = len(data) // 2 // 64 * 64
        halves = hashlib.sha256(data[:half]).digest() + hashlib.sha256(data[half:]).digest()
        digest = hashlib.sha256(self.mac[:HASH_BYTES] + halves).digest()
        if digest != mac[:HASH_BYTES] or \
                self.key is not None and hmac.digest(self.key, digest, hashlib.sha256) != mac[HASH_BYTES:]:
            raise LogDamaged(f"{where} is not what was written")
        self.mac = mac

    def entries(self):
        for path in sorted(self.folder.glob("*.log")):
            yield from self.segment(path, path.read_bytes())

    def segment(self, path, data):
        head = HEAD.unpack_from(data)
        first, topic_count, place_count, lane_count, previous = head[3], head[6], head[7], head[8], head[9]
        if data[:8] != HEAD_MAGIC or head[1:3] != (2, 1) or f"{first:016x}" != path.stem:
            raise LogDamaged(f"{path.name} is no segment")
        if self.next not in (None, first) or self.mac not in (None, previous):
            raise LogDamaged(f"{path.name} does not follow the one before it")
        topics = [text(data[HEAD.size + i * TOPIC_BYTES:HEAD.size + (i + 1) * TOPIC_BYTES]) for i in range(topic_count)]
        at = HEAD.size + topic_count * TOPIC_BYTES + place_count * PLACE.size + lane_count * LANE.size
        self.mac, self.next = previous, first
        self.check(data[:at], data[at:at + MAC_BYTES], f"the head of {path.name}")
        at += MAC_BYTES
        while at + BATCH.size <= len(data):
            if -at % BLOCK_BYTES >= len(data) - at and not any(data[at:]):
                return  # the rest of the last block
            size = BATCH.unpack_from(data, at)[1]
            if at + size > len(data):
                return  # it was being written, or is cut off: only anchors can tell
            yield from self.batch(path.name, first, topics, data[at:at + size], at)
            at += size

    def batch(self, name, segment, topics, data, place):
        _, _, count, first, written_us, lane_count, _ = BATCH.unpack_from(data)
        if data[:8] != BATCH_MAGIC or first != self.next:
            raise LogDamaged(f"{name}, byte {place}: not the batch that comes next")
        self.check(data[:-MAC_BYTES], data[-MAC_BYTES:], f"{name}, byte {place}: the batch")
        lanes, at = {}, BATCH.size
        for _ in range(lane_count):
            lane, _, incarnation, _ = LANE.unpack_from(data, at)
            lanes[lane] = incarnation
            at += LANE.size
        for sequence in range(first, first + count):
            e = ENTRY.unpack_from(data, at)
            yield entry_dict(sequence, written_us, topics, lanes, segment, place + at, e)
            at += e[0]
        self.next = first + count
        self.ends[self.next - 1] = (f"{segment:016x}", self.mac.hex())


def check_anchors(path, pubkey, ends):
    """Every anchor is signed, follows the one before it, and names a batch that is there. Returns how many."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    key, before, n = load_pem_public_key(pathlib.Path(pubkey).read_bytes()), None, 0
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        anchor = json.loads(line)
        signed = line[:line.rindex(',"signature":"')]
        key.verify(bytes.fromhex(anchor["signature"]), signed.encode())  # raises InvalidSignature
        if before not in (None, anchor["previous"]):
            raise LogDamaged(f"an anchor is missing before that of entry {anchor['sequence']}")
        before, n = anchor["signature"], n + 1
        if anchor["type"] == "anchor" and ends.get(anchor["sequence"]) != (anchor["segment"], anchor["mac"]) \
                and anchor["sequence"] >= min(ends, default=0):
            raise LogDamaged(f"the log is not the one that was signed for at entry {anchor['sequence']}")
    return n


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    for option in ("--keys", "--pubkey", "--anchors"):
        parser.add_argument(option)
    options = parser.parse_args()
    log = Log(options.folder, derive(options.keys, b"millrace chain") if options.keys else None)
    for e in log.entries():
        print(json.dumps(e, separators=(",", ":"), ensure_ascii=False))
    if options.pubkey:
        n = check_anchors(options.anchors or options.folder / "anchors", options.pubkey, log.ends)
        print(f"{n} anchors hold", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except LogDamaged as e:
        sys.exit(f"millrace_audit: {e}")

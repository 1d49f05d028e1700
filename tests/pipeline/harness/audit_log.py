"""The audit log as an outsider reads it, with nothing of the product's but docs/formats.md: entries, digests, content."""

import hashlib
import hmac
import pathlib
import struct
import sys
import uuid

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .process import ROOT

sys.path.insert(0, str(ROOT / "tools/readers"))
import lz4.block  # noqa: E402
import millrace_value  # noqa: E402
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402

HEAD = struct.Struct("<QIIQqIIII64s64s64s256s")
BATCH = struct.Struct("<QIIQqII")
ENTRY = struct.Struct("<IHHiIqqqqIIIBBBBII16s16s16s16s16s16sQQqII")
ENTRY_NAMES = ("bytes topic lane partition epoch offset timestamp_ms created_ms ingested_us transformed_us sent_us answered_us "
               "op outcome reason algorithm flags content_bytes id digest_key digest_old_key digest_published "
               "digest_stored load producer sequence expire_at_ms published_bytes stored_bytes").split()
TOPIC_BYTES, PLACE_BYTES, LANE_BYTES, MAC_BYTES = 256, 16, 24, 64
OUTCOMES = "nothing skipped applied superseded deleted expired filtered rejected".split()
OPS = "raw add update delete skip reject".split()
NONE, HMAC, XXH3 = range(3)
DECLARED, ALTERED, CREATED, REPEAT, KEY_CHANGED, HASH = (1 << i for i in range(6))
BYTES_NULL = 0xffffffff


def text(field):
    return field.split(b"\0")[0].decode()


def batches(data):
    """(first sequence number, entries' bytes, count) of each whole batch of a segment, and its topics."""
    head = HEAD.unpack_from(data)
    assert head[0].to_bytes(8, "little") == b"mllaudt1" and head[1:3] == (2, 1), head
    topics, places, lanes = head[6:9]
    at = HEAD.size
    names = [text(data[at + i * TOPIC_BYTES:at + (i + 1) * TOPIC_BYTES]) for i in range(topics)]
    at += topics * TOPIC_BYTES + places * PLACE_BYTES + lanes * LANE_BYTES + MAC_BYTES
    found = []
    while at + BATCH.size <= len(data):
        magic, size, count, first, _, lane_count, _ = BATCH.unpack_from(data, at)
        if magic.to_bytes(8, "little") != b"mllbatch" or at + size > len(data):
            break  # being written
        found.append((first, data[at + BATCH.size + lane_count * LANE_BYTES:at + size - MAC_BYTES], count))
        at += size
    return names, found


def entries(data_dir):
    """Every entry in the log, in order: dicts by the names of ENTRY_NAMES, with topic, outcome and op as words."""
    out = []
    for path in sorted((pathlib.Path(data_dir) / "audit").glob("*.log")):
        names, found = batches(path.read_bytes())
        for first, body, count in found:
            at = 0
            for i in range(count):
                e = dict(zip(ENTRY_NAMES, ENTRY.unpack_from(body, at)))
                assert e["bytes"] % 8 == 0 and e["bytes"] >= ENTRY.size + e["content_bytes"], e
                e["content"] = body[at + ENTRY.size:at + ENTRY.size + e["content_bytes"]]
                e["sequence_number"] = first + i
                e["topic"], e["outcome"], e["op"] = names[e["topic"]], OUTCOMES[e["outcome"]], OPS[e["op"]]
                at += e["bytes"]
                out.append(e)
            assert at == len(body)
    assert [e["sequence_number"] for e in out] == list(range(1, len(out) + 1))
    return out


def digest_key(key_file):
    """The key for digests, derived from the one key of the file."""
    key, = millrace_value.load_keys(key_file).values()
    return HKDF(hashes.SHA256(), 32, None, b"millrace digest").derive(key)


def digest(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()[:16]


def fields_digest(key, fields):
    """Of a Redis hash: {name: value}, bytes."""
    return digest(key, b"".join(struct.pack("<II", len(n), len(v)) + n + v for n, v in sorted(fields.items())))


def producer_hash(name):
    h = 0xcbf29ce484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001b3 % (1 << 64)
    return h or 1


def unseal(entry, keys):
    """Key, value and headers (encoded) of a sealed original; keys: of millrace_value.load_keys."""
    sealed = entry["content"]
    magic, version, flags, zero, key_id, length = struct.unpack_from(">4sBBHII", sealed)
    assert (magic, version, zero) == (b"\x89MLS", 1, 0) and flags in (0, 1)
    bound = sealed[:40] + entry["id"] + entry["topic"].encode() + struct.pack(">iq", entry["partition"],
                                                                              entry["offset"])
    nonce = sealed[16:40]
    packed = AESGCM(millrace_value.xaes_key(keys[key_id], nonce)).decrypt(nonce[12:], sealed[40:], bound)
    lengths, rest = struct.unpack_from(">III", packed), packed[12:]
    if flags == 1:
        rest = lz4.block.decompress(rest, uncompressed_size=length - 12)
    assert len(rest) == length - 12
    parts = []
    for n in lengths:
        parts.append(None if n == BYTES_NULL else rest[:n])
        rest = rest if n == BYTES_NULL else rest[n:]
    assert not rest
    return tuple(parts)


def id_bytes(name):
    return uuid.UUID(name).bytes

"""Checks that the Python reader and docs/formats.md agree with what the C code writes.

    readers_test.py              the examples of docs/formats.md
    readers_test.py FOLDER       also the cases that tests/unit/transform/readers.c has put there: N.key, N.value,
                                 N.stored, with the file `keys`; leaves N.python, the same value encrypted by Python,
                                 for C to read

Exit status 0 when all agree; says what does not.
"""

import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/readers"))
sys.dont_write_bytecode = True

import lz4.block  # noqa: E402
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402

import millrace_value as reader  # noqa: E402


def expect(condition, what):
    if not condition:
        sys.exit(f"readers_test: {what}")


def refused(stored, redis_key, keys):
    try:
        reader.decode(stored, redis_key, keys)
    except (reader.ValueDamaged, reader.KeyMissing):
        return True
    return False


def check_documentation():
    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    block = dict(re.findall(r"^```([a-z0-9-]+)\n(.*?)^```$", text, re.M | re.S))
    key_file = pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / f"millrace-readers-{os.getpid()}"
    key_file.write_text(block["keys"], encoding="ascii")
    try:
        keys = reader.load_keys(key_file)
    finally:
        key_file.unlink()
    expect(keys == {1: bytes(range(32))}, "the key file of the documentation")
    value = block["value"].rstrip("\n").encode()
    for name in ("stored-lz4", "stored-both"):
        stored = bytes.fromhex(block[name])
        expect(reader.decode(stored, b"card:1001:7", keys) == value, f"{name} does not decode")
    expect(refused(bytes.fromhex(block["stored-both"]), b"card:1001:8", keys), "moved to another key")

    sealed = bytes.fromhex(block["sealed"])
    place = b"cards.change" + (3).to_bytes(4, "big") + (42).to_bytes(8, "big")
    origin = bytes.fromhex("28e38e7c8fa58000800300000000002a") + place
    packed = AESGCM(reader.xaes_key(keys[1], sealed[16:28])).decrypt(sealed[28:40], sealed[40:], sealed[:40] + origin)
    expect(len(packed) == int.from_bytes(sealed[12:16], "big"), "length of the packed parts")
    lengths = [int.from_bytes(packed[i:i + 4], "big") for i in (0, 4, 8)]
    expect(lengths == [4, 8, 14] and packed[12:] == b"1001not JSON" + b"\x02\0\x06\0\0\0opupdate", "the sealed record")


def encode(value, redis_key, keys, key_id):
    """What millrace would store for compress: lz4 and encrypt: true, made without its code."""
    packed = lz4.block.compress(value, store_size=False)
    flags, payload = (3, packed) if len(packed) < len(value) else (2, value)
    header = reader.MAGIC + bytes([1, flags, 0, 0]) + key_id.to_bytes(4, "big") + len(value).to_bytes(4, "big")
    nonce = os.urandom(24)
    key = reader.xaes_key(keys[key_id], nonce)
    return header + nonce + AESGCM(key).encrypt(nonce[12:], payload, header + nonce + redis_key)


def check_cases(folder):
    keys = reader.load_keys(folder / "keys")
    cases = sorted(folder.glob("*.stored"))
    expect(len(cases) > 0, "no cases")
    for stored_file in cases:
        redis_key, value = stored_file.with_suffix(".key").read_bytes(), stored_file.with_suffix(".value").read_bytes()
        stored = stored_file.read_bytes()
        expect(reader.decode(stored, redis_key, keys) == value, f"{stored_file.name} does not decode")
        if stored[5] & reader.ENCRYPTED:
            expect(refused(stored, redis_key + b"x", keys), f"{stored_file.name} decodes under another key")
            for i in range(4, len(stored), 7):
                bad = stored[:i] + bytes([stored[i] ^ 1]) + stored[i + 1:]
                expect(refused(bad, redis_key, keys), f"{stored_file.name}: byte {i}")
        stored_file.with_suffix(".python").write_bytes(encode(value, redis_key, keys, min(keys)))
    return len(cases)


if __name__ == "__main__":
    check_documentation()
    if len(sys.argv) > 1:
        print(f"{check_cases(pathlib.Path(sys.argv[1]))} cases agree")

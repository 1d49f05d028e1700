"""Reads values that millrace has stored in Redis: compressed, encrypted, or both (docs/formats.md).

    import millrace_value
    keys = millrace_value.load_keys("/etc/millrace/keys")
    value = millrace_value.decode(redis.get(key), key, keys)

Values without the header come back as they are. Needs the packages cryptography and lz4. As a program it decodes
standard input:  millrace_value.py KEY_FILE REDIS_KEY < stored > value
"""

import base64
import sys

import lz4.block
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC

MAGIC = b"\x89MLR"
VERSION = 1
LZ4, ENCRYPTED = 1, 2
HEADER_BYTES, NONCE_BYTES, TAG_BYTES = 16, 24, 16
ORIGINAL_BYTES_MAX = 128 << 20


class ValueDamaged(Exception):
    """The stored value was altered, cut, or belongs to another Redis key."""


class KeyMissing(Exception):
    """The value was encrypted with a key that is not in the key file."""


def load_keys(path):
    """{id: 32 bytes} of a key file."""
    keys = {}
    with open(path, encoding="ascii") as f:
        for line in f:
            words = line.split()
            if words and words[0] == "key":
                keys[int(words[1])] = base64.b64decode(words[2], validate=True)
    return keys


def xaes_key(key, nonce):
    """The AES-256-GCM key that XAES-256-GCM derives from the first 12 bytes of the nonce."""
    def half(n):
        mac = CMAC(algorithms.AES(key))
        mac.update(bytes([0, n]) + b"X\0" + nonce[:12])
        return mac.finalize()
    return half(1) + half(2)


def decode(stored, redis_key, keys):
    """The value as it was published. stored, redis_key: bytes; keys: of load_keys, {} when nothing is encrypted."""
    if not stored.startswith(MAGIC):
        return stored
    if len(stored) < HEADER_BYTES or stored[4] != VERSION or stored[5] > 3 or stored[6:8] != b"\0\0":
        raise ValueDamaged("unknown version or flags")
    compressed, encrypted = stored[5] & LZ4, stored[5] & ENCRYPTED
    key_id, original = int.from_bytes(stored[8:12], "big"), int.from_bytes(stored[12:16], "big")
    if original > ORIGINAL_BYTES_MAX or bool(encrypted) != (key_id != 0):
        raise ValueDamaged("impossible length or key id")
    payload = stored[HEADER_BYTES:]
    if encrypted:
        if key_id not in keys:
            raise KeyMissing(f"key {key_id}")
        if len(payload) < NONCE_BYTES + TAG_BYTES:
            raise ValueDamaged("cut short")
        nonce, payload = payload[:NONCE_BYTES], payload[NONCE_BYTES:]
        associated = stored[:HEADER_BYTES + NONCE_BYTES] + redis_key
        try:
            payload = AESGCM(xaes_key(keys[key_id], nonce)).decrypt(nonce[12:], payload, associated)
        except InvalidTag:
            raise ValueDamaged(f"does not decrypt with key {key_id}") from None
    if compressed:
        try:
            payload = lz4.block.decompress(payload, uncompressed_size=original)
        except lz4.block.LZ4BlockError:
            raise ValueDamaged("does not decompress") from None
    if len(payload) != original:
        raise ValueDamaged("wrong length")
    return payload


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.stdout.buffer.write(decode(sys.stdin.buffer.read(), sys.argv[2].encode(), load_keys(sys.argv[1])))

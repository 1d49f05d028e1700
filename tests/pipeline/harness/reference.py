"""The reference transform: what one Kafka record does to Redis, written down a second time and as plainly as possible.

It shares nothing with the product but the documentation. `transform` says what becomes of one record; `fold` plays a
whole log against an empty store and gives what Redis has to hold afterwards.
"""

import dataclasses
import json
import re
from typing import NamedTuple, Optional

KEY_BYTES_MAX = 4096
JSON_DEPTH_MAX = 64
WORDS = {**dict.fromkeys(("add", "a", "insert", "i", "create", "c", "r"), "add"),
         "update": "update", "u": "update", "delete": "delete", "d": "delete"}


@dataclasses.dataclass
class Topic:
    """One entry of the configuration's `topics:`."""
    name: str
    mode: str = "change"
    format: str = "json"
    key: str = "card:{account}:{card_no}"
    old_key: str = ""
    operation: Optional[dict] = None
    compress: str = "none"
    encrypt: bool = False
    ttl: Optional[str] = None
    value_type: str = "string"
    partitions: Optional[list] = None
    reconcile: Optional[str] = None
    evidence: Optional[str] = None

    def config(self):
        c = {"name": self.name, "mode": self.mode, "format": self.format, "key": self.key}
        if self.old_key:
            c["old_key"] = self.old_key
        if self.operation:
            c["operation"] = self.operation
        if self.compress != "none" or self.encrypt:
            c["value"] = {"compress": self.compress, "encrypt": self.encrypt}
        if self.value_type != "string":
            c["value"] = {**c.get("value", {}), "type": self.value_type}
        if self.ttl:
            c["ttl"] = self.ttl
        if self.partitions is not None:
            c["partitions"] = self.partitions
        if self.reconcile:
            c["reconcile"] = self.reconcile
        if self.evidence:
            c["evidence"] = self.evidence
        return c


class Record(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: Optional[bytes]
    value: Optional[bytes]
    headers: tuple


class Outcome(NamedTuple):
    op: str  # add update delete reject
    key: bytes = b""
    old_key: bytes = b""  # of an update that changes the key
    value: object = b""  # of a hash: {field: value}
    reason: str = ""


class Rejected(Exception):
    pass


def depth(value):
    deepest, todo = 0, [(value, 1)]
    while todo:
        v, level = todo.pop()
        if isinstance(v, (dict, list)):
            deepest = max(deepest, level)
            todo += [(x, level + 1) for x in (v.values() if isinstance(v, dict) else v)]
    return deepest


class Number(str):
    """A number as the record spells it."""


def parse(value):
    def refuse(_):
        raise ValueError("not JSON")
    try:
        fields = json.loads(value.decode("utf-8"), parse_float=Number, parse_int=Number, parse_constant=refuse)
        if not isinstance(fields, dict) or depth(fields) > JSON_DEPTH_MAX:
            raise ValueError("not an object that is read")
        return fields
    except (ValueError, RecursionError):
        raise Rejected("json_invalid") from None


def expand(template, record, fields, absent=Rejected):
    """The bytes a key template gives. absent: what a field that is not there raises."""
    out = b""
    for literal, name in re.findall(r"([^{]+)|\{([^}]*)\}", template):
        if literal:
            out += literal.encode()
        elif name == "$key":
            if record.key is None:
                raise Rejected("key_null")
            out += record.key
        elif name == "$topic":
            out += record.topic.encode()
        elif name in ("$partition", "$offset"):
            out += str(getattr(record, name[1:])).encode()
        else:
            v = (fields or {}).get(name)
            if v is None or isinstance(v, (dict, list)):
                raise absent("field_missing")
            try:
                out += {True: b"true", False: b"false"}[v] if isinstance(v, bool) else v.encode()
            except UnicodeEncodeError:  # half of a surrogate pair is no text
                raise Rejected("json_invalid") from None
    return out


FIELDS_MAX = 4096
BLANKS = re.compile(r"[ \t\n\r]*")


def members(text):
    """(name, value, value as it is written) of the top level of a JSON object that parse() has read."""
    decoder = json.JSONDecoder(parse_float=Number, parse_int=Number)
    at = BLANKS.match(text, text.index("{") + 1).end()
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        at = BLANKS.match(text, BLANKS.match(text, at).end() + 1).end()
        value, end = decoder.raw_decode(text, at)
        yield name, value, text[at:end]
        at = BLANKS.match(text, end).end()
        if text[at] == ",":
            at = BLANKS.match(text, at + 1).end()


def hash_fields(value):
    """The fields of a hash, None when there are too many."""
    fields, names = {}, 0
    for name, v, written in members(value.decode("utf-8")):
        names += 1
        try:
            name = name.encode()
            if v is None:
                fields.pop(name, None)
            elif isinstance(v, str) and not isinstance(v, Number):
                fields[name] = v.encode()
            else:
                fields[name] = written.encode()
        except UnicodeEncodeError:  # half of a surrogate pair is no text
            raise Rejected("json_invalid") from None
    return fields if names <= FIELDS_MAX else None


class Absent(Exception):
    pass


def operation(topic, record, fields):
    where, word = topic.operation or {}, None
    if record.value is None:
        op = "delete"
    elif not where:
        op = "add"
    else:
        if "header" in where:
            values = [v for n, v in record.headers if n == where["header"]]
            word = values[-1].decode("utf-8", "replace") if values and values[-1] is not None else None
        else:
            word = (fields or {}).get(where["field"])
        op = WORDS.get(word.lower()) if isinstance(word, str) else None
    if op is None or (topic.mode == "bulk" and op != "add"):
        raise Rejected("operation")
    return op


def transform(topic, record):
    try:
        fields, stored = None, record.value
        if topic.format == "json" and record.value is not None:
            fields = parse(record.value)
            stored = hash_fields(record.value) if topic.value_type == "hash" else record.value
        op = operation(topic, record, fields)
        key = expand(topic.key, record, fields)
        if not key:
            raise Rejected("key_empty")
        if len(key) > KEY_BYTES_MAX:
            raise Rejected("key_long")
        if op == "delete":
            return Outcome("delete", key)
        old = b""
        if op == "update" and topic.old_key:
            try:
                old = expand(topic.old_key, record, fields, Absent)
            except Absent:
                old = b""
            if old == key:
                old = b""
        if stored is None or stored == {}:
            raise Rejected("too_large" if stored is None else "field_missing")
        return Outcome(op, key, old, stored)
    except Rejected as e:
        return Outcome("reject", reason=e.args[0])


def effects(outcome):
    """What an outcome sets: [(redis key, value or None for absent)], in order."""
    if outcome.op == "reject":
        return []
    if outcome.op == "delete":
        return [(outcome.key, None)]
    set_new = [(outcome.key, outcome.value)]
    return [(outcome.old_key, None)] + set_new if outcome.op == "update" and outcome.old_key else set_new


def fold(topics, records):
    """Plays records, in the order given, on an empty store.
    Returns ({key: value}, {(topic, partition, offset): reason})."""
    by_name = {t.name: t for t in topics}
    store, rejects = {}, {}
    for record in records:
        outcome = transform(by_name[record.topic], record)
        if outcome.op == "reject":
            rejects[record.topic, record.partition, record.offset] = outcome.reason
        for key, value in effects(outcome):
            if value is None:
                store.pop(key, None)
            else:
                store[key] = value
    return store, rejects

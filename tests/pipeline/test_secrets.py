"""Secrets stay with the process that needs them: not in logs, `ps`, output of commands, environments, other roles."""

import json
import os
import pathlib

from harness.generator import change_topic
from harness.process import wait_until

REDIS_SECRET, KAFKA_SECRET = "r3dis-canary-8842", "k4fka-canary-1177"


def read(path):
    """Content of a file under /proc; empty when only root may look (a worker with keys is not dumpable)."""
    try:
        return pathlib.Path(path).read_bytes()
    except PermissionError:
        assert os.geteuid() != 0
        return b""


def memory_has(pid, needle):
    """Whether these bytes are anywhere in what the process can read."""
    for line in read(f"/proc/{pid}/maps").decode().splitlines():
        area, mode = line.split()[:2]
        if not mode.startswith("r") or line.endswith("[vvar]"):
            continue
        at, end = (int(x, 16) for x in area.split("-"))
        before = b""
        with open(f"/proc/{pid}/mem", "rb", 0) as f:
            while at < end:
                try:
                    f.seek(at)
                    piece = f.read(min(end - at, 1 << 24))
                except (OSError, ValueError):  # a hole in the mapping
                    break
                if needle in before + piece:
                    return True
                if not piece:
                    break
                before, at = piece[-len(needle):], at + len(piece)
    return False


def test_secrets_do_not_show(space):
    server = space.start_redis(password=REDIS_SECRET)
    space.topic(change_topic, encrypt=True)
    key_file = space.key_file()
    key_text = key_file.read_text().split()[-4]
    password = space.folder / "password"
    password.touch(0o600)
    password.write_text(KAFKA_SECRET + "\n")
    m = space.millrace(
        redis={"url": server.url(password=False), "password": "${MILLRACE_TEST_SECRET}"},
        kafka={"sasl.mechanisms": "PLAIN", "sasl.username": "someone", "sasl.password_file": str(password)},
        crypto={"keys": str(key_file)}, log={"level": "debug", "format": "json"}, audit="on",
        env={"MILLRACE_TEST_SECRET": REDIS_SECRET})
    audit_text = (m.folder / "audit.keys").read_text().split()[-4]
    m.start_ready()
    load = space.load(2000, keys=200)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    m.kill_worker("sink", 0)
    m.kill_worker("ingest", 0)
    m.kill_worker("audit")
    m.wait_for(lambda s: all(w["state"] == "running" for w in s["workers"]), 20, "all to be back")

    stats = m.stats()
    checked = m.run_command("check")
    assert checked.returncode == 0 and "***" in checked.stdout
    seen = {"log": m.log_text(), "check": checked.stdout + checked.stderr, "stats": json.dumps(stats),
            "table": m.run_command("stats").stdout,
            "prometheus": m.run_command("stats", "--format", "prometheus").stdout}
    pids = {w["role"]: w["pid"] for w in stats["workers"]}
    for role, pid in {**pids, "supervisor": m.process.pid}.items():
        seen[f"arguments of {role}"] = read(f"/proc/{pid}/cmdline").decode("latin-1")
        if role != "supervisor":
            seen[f"environment of {role}"] = read(f"/proc/{pid}/environ").decode("latin-1")
    for f in [*m.run_dir.rglob("*"), *m.data_dir.rglob("*")]:
        if f.is_file():
            seen[f"file {f.name}"] = f.read_bytes().decode("latin-1")
    for where, text in seen.items():
        for secret in (REDIS_SECRET, KAFKA_SECRET, key_text, audit_text):
            assert secret not in text, f"a secret is in the {where}"
    # The log is JSON, a line an event, and says where it belongs.
    for line in m.log_text().splitlines():
        event = json.loads(line)
        assert {"time", "level", "instance", "role", "event", "message"} <= set(event), line
    assert '"account"' not in m.log_text() and "card:0" not in m.log_text(), "content of records in the log"

    if os.geteuid() == 0:
        import base64
        key = base64.b64decode(key_text)
        assert memory_has(pids["sink"], REDIS_SECRET.encode()), "the search does not find what must be there"
        assert memory_has(pids["ingest"], KAFKA_SECRET.encode())
        for role in ("ingest", "transform", "audit", "recon"):
            assert not memory_has(pids[role], REDIS_SECRET.encode()), f"{role} holds the password of Redis"
        for role in ("transform", "sink", "audit"):
            assert not memory_has(pids[role], KAFKA_SECRET.encode()), f"{role} holds the password of Kafka"
        for role in ("ingest", "sink", "audit", "recon"):
            assert not memory_has(pids[role], key), f"{role} holds the key"
            assert not memory_has(pids[role], key_text.encode()), f"{role} holds the key as text"
        # The audit key is only what others are derived from: nobody keeps it.
        audit_key = base64.b64decode(audit_text)
        for role, pid in pids.items():
            assert not memory_has(pid, audit_key), f"{role} holds the audit key"
            assert not memory_has(pid, audit_text.encode()), f"{role} holds the audit key as text"
    assert m.drain() == 0


def test_files_are_closed_to_others(space):
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    wait_until(lambda: list(m.run_dir.iterdir()), 10, "files in run_dir")
    for f in [*m.run_dir.rglob("*"), *m.data_dir.rglob("*")]:
        assert f.stat().st_mode & 0o007 == 0, f"{f} is open to others ({oct(f.stat().st_mode)})"
    assert m.drain() == 0

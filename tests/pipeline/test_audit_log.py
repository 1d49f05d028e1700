"""The audit log of a running instance: a disk that is full, files that come and go, and what an auditor is shown."""

import json
import resource
import shutil

from harness.broker import Commits
from harness.millrace import command
from harness.process import wait_until

SEGMENT = 1 << 20


def verify(*args):
    done = command("audit", "verify", *args, "--format", "json", timeout=60)
    return done.returncode, json.loads(done.stdout)


def test_a_full_disk_stops_the_lanes_with_its_reason_and_loses_nothing(space):
    """The kernel refuses audit files beyond a size, as a full disk would, until the limit is lifted again."""
    space.start_redis()
    topic = space.topic()
    m = space.millrace(lanes=2, audit="on").start_ready()
    load = space.load(6000, 5, keys=2000, seed=1)
    load.start()
    m.wait_for(lambda s: m.metric("audit_sequence", s) > 1000, 20, "some entries to be in the log", 0.02)
    audit, segment = m.worker("audit")["pid"], m.data_dir / "audit" / f"{1:016x}.log"
    resource.prlimit(audit, resource.RLIMIT_FSIZE, (segment.stat().st_size, resource.RLIM_INFINITY))
    m.wait_for(lambda s: m.worker("audit", stats=s)["state"] == "blocked" and m.metric("audit_write_fail", s) > 1, 15,
               "audit to be blocked, and to try again")
    load.finish()
    stats = m.stats()
    assert "the audit log cannot be written: writing the audit log: " in m.worker("audit")["reason"]
    with Commits(space.broker, m.group, [topic.name], space.partitions) as commits:
        committed = sum(commits.read().values())
    assert committed <= m.metric("audit_sequence", stats) < 6000, "nothing is committed that is not in the log"
    status, found = verify("-c", m.file)
    assert status == 0 and found["last"] == m.metric("audit_sequence", stats), found
    assert found["unfinished_bytes"] == 0, "what did not fit is taken back"
    assert m.worker("audit")["pid"] == audit, "it waits, it does not die"
    resource.prlimit(audit, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    m.wait_drained(load.next_offset)
    assert m.drain() == 0
    assert "audit.write_failed" in m.log_text() and "audit.write_again" in m.log_text()
    status, found = verify("-c", m.file)
    assert (status, found["entries"], found["last"]) == (0, 6000, 6000), found
    shown = m.run_command("audit", "show", "--format", "json").stdout.splitlines()
    places = {(e["topic"], e["partition"], e["offset"]) for e in map(json.loads, shown)}
    assert len(places) == len(shown) == 6000
    space.judge(produced=6000)


def test_an_auditor_finds_what_was_done_to_the_log_and_what_retention_did(space, tmp_path):
    space.start_redis()
    space.topic()
    m = space.millrace(audit="on", recon={"segment_bytes": SEGMENT, "retention_bytes": 4 * SEGMENT,
                                          "commit_records": 500}).start_ready()
    folder = m.data_dir / "audit"
    load = space.load(30_000, 0, keys=2000, seed=1)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    m.wait_for(lambda s: m.metric("audit_sequence", s) == 30_000, 10, "everything to be in the log")
    wait_until(lambda: not (folder / f"{1:016x}.log").exists() and list(folder.glob("*.index")), 20,
               "the first file to be removed, and others to have their index")
    status, found = verify("-c", m.file)  # alive
    assert status == 0 and found["first"] > 1 and found["segments"] >= 2, found
    assert m.drain() == 0
    status, found = verify("-c", m.file)
    assert (status, found["last"], found["anchored"]) == (0, 30_000, 30_000), found
    assert found["anchors"] > found["anchors_confirmed"] >= 3, "those of what was removed are not met again"
    assert sum(p.stat().st_size for p in folder.glob("*.log")) <= 5 * SEGMENT
    key = tmp_path / "audit.pem"
    key.write_text(m.run_command("audit", "key").stdout, encoding="ascii")
    kept = shutil.copy(folder / "anchors", tmp_path / "kept")
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert verify(copy, "--anchors", kept, "--pubkey", key)[0] == 0
    last = sorted(copy.glob("*.log"))[-1]
    entry = json.loads(command("audit", "show", copy, "--from", "29990", "--count", "1", "--format", "json").stdout)
    by_id = command("audit", "show", copy, "--id", entry["id"], "--format", "json").stdout
    assert json.loads(by_id) == entry
    data = bytearray(last.read_bytes())
    data[entry["at"] + 136] ^= 1  # the digest of what was stored
    last.write_bytes(data)
    status, found = verify(copy, "--keys", m.folder / "audit.keys", "--anchors", kept)
    assert status == 1 and len(found["findings"]) == 1, found
    finding = found["findings"][0]
    assert finding["kind"] == "changed" and finding["segment"] == last.stem, finding
    assert finding["first"] <= 29_990 <= finding["last"] and finding["at"] <= entry["at"], finding
    status, found = verify(copy, "--anchors", kept, "--pubkey", key)  # hashes need no secret
    assert status == 1 and found["findings"][0]["kind"] == "changed", found
    assert found["findings"][0]["first"] <= 29_990 <= found["findings"][0]["last"], found
    last.unlink()
    (copy / "durable").unlink()
    status, found = verify(copy, "--anchors", kept, "--pubkey", key)
    assert status == 1 and {f["kind"] for f in found["findings"]} == {"cut off"}, found

"""millrace ring on a running instance, and on what was saved of one that is gone."""

import json
import re

from harness.millrace import command
from harness.process import wait_until


def ring(m, *args):
    done = m.run_command("ring", *args)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_rings_of_a_lane_that_waits_are_seen_and_saved(space):
    space.start_redis()
    space.topic()
    m = space.millrace(lanes=2).start_ready()
    space.redis.stop()
    load = space.load(3000, keys=300)
    load.start()
    load.finish()
    m.wait_for(lambda s: sum(lane["ingest_published"] for lane in s["lanes"]) >= 3000, 20, "all records on the rings")

    def waiting():
        rings = json.loads(ring(m, "list", "--format", "json"))["rings"]
        assert [r["name"] for r in rings] == [f"{n}[{lane}]" for lane in (0, 1) for n in ("ingest", "transform", "rejects")]
        return rings if sum(r["records"] for r in rings) >= 2500 else None
    before = wait_until(waiting, 10, "the rings to hold the records")
    assert all(0 < r["bytes"] < r["capacity"] for r in before if r["name"].startswith("transform"))
    assert "good" in ring(m, "verify") and "CORRUPT" not in ring(m, "verify")
    peeked = ring(m, "peek", "transform-1", "-n", "3")
    rows = re.findall(rf"^ +\d+ (add|update|delete) +{re.escape(space.topics[0].name)}/(\d+)/(\d+) ", peeked, re.M)
    assert len(rows) == 3 and all(int(p) % 2 == 1 for _, p, _ in rows), peeked
    folder = m.folder / "saved"
    assert "6 of 6 rings saved" in ring(m, "save", folder)
    m.kill_supervisor()
    m.wait_workers_gone(10)
    gone = m.run_command("ring", "list")
    assert gone.returncode == 69 and "gone" in gone.stderr, gone.stderr
    done = command("ring", "verify", "--dir", folder)
    assert done.returncode == 0, done.stdout
    after = json.loads(command("ring", "list", "--dir", folder, "--format", "json").stdout)["rings"]
    assert [(r["name"], r["incarnation"]) for r in after] == [(r["name"], r["incarnation"]) for r in before]
    assert all(a["published"] >= b["published"] for a, b in zip(after, before))
    assert space.topics[0].name in command("ring", "peek", "--dir", folder).stdout


def test_looking_does_not_disturb_a_running_instance(space):
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    load = space.load(20_000, 4, keys=500)
    load.start()
    looks = 0
    while load.live:
        done = m.run_command("ring", "verify", "--format", "json")
        assert done.returncode == 0, done.stdout
        rings = json.loads(done.stdout)["rings"]
        assert [r["state"] for r in rings] == ["good"] * 3
        looks += 1
    load.finish()
    assert looks > 10
    m.wait_drained(load.next_offset)
    space.judge(produced=20_000)
    assert m.drain() == 0

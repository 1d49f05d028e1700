"""What the statistics say, in each of their forms, and that they are true."""

import os
import re
import time

from harness.generator import bulk_topic
from harness.millrace import CHAIN, command
from harness.process import BUILD, ROOT, wait_until

STATES = {"down", "starting", "connecting", "running", "blocked", "draining", "backoff", "failed", "recovering"}


def test_json_has_what_is_documented_and_it_is_true(space):
    space.start_redis()
    space.topic()
    space.topic(bulk_topic, "bulk")
    lanes = 2
    m = space.millrace(lanes=lanes).start_ready()
    load = space.load(20_000, 5, keys=2000)
    load.start()
    published_before, samples = {}, 0
    while load.live:
        stats = m.stats()
        for lane in stats["lanes"]:
            chain = [lane[k] for k in CHAIN]
            assert chain == sorted(chain, reverse=True), lane
            before = published_before.get(lane["lane"], [0, 0, 0, 0])
            assert all(now >= then for now, then in zip(chain, before)), "a number went back"
            published_before[lane["lane"]] = chain
        for p in stats["partitions"]:
            assert p["committed"] <= max(p["released"], 0) <= max(p["position"], 0), p
        samples += 1
        time.sleep(0.05)
    assert samples > 20
    load.finish()
    stats = m.wait_drained(load.next_offset)
    assert stats["name"] == m.name and stats["state"] == "running"
    assert stats["supervisor"]["pid"] == m.process.pid
    assert sorted((w["role"], w["lane"]) for w in stats["workers"] if w["role"] != "ingest") == sorted(
        (role, lane) for role in ("transform", "sink") for lane in range(lanes))
    for w in stats["workers"]:
        assert os.path.exists(f"/proc/{w['pid']}") and w["starts"] == 1 and w["state"] in STATES
        assert 0 <= w["heartbeat_age_ms"] < 2000, w
    assert [lane["lane"] for lane in stats["lanes"]] == [0, 1]
    by_lane = [sum(end for (_, p), end in load.next_offset.items() if p % lanes == lane) for lane in range(lanes)]
    assert [lane["released"] for lane in stats["lanes"]] == by_lane
    assert len(stats["partitions"]) == 16
    for p in stats["partitions"]:
        end = load.next_offset.get((p["topic"], p["partition"]), 0)
        assert (p["position"], p["released"], p["committed"], p["lag"]) == (end, end, end, 0), p
    wait_until(lambda: {(p["topic"], p["partition"]): p["high"] for p in m.stats()["partitions"]} == load.next_offset,
               15, "the watermarks to be up to date")
    metrics = stats["metrics"]
    assert metrics["ingest_record_read"] == metrics["sink_record_applied"] == metrics["transform_record_in"] == 20_000
    assert sum(metrics[f"transform_record_{op}"] for op in ("add", "update", "delete")) == 20_000
    assert metrics["ingest_partition_assigned"] == 16
    assert m.drain() == 0


LINE = re.compile(r'(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>[^}]*)\})? '
                  r'(?P<value>-?[0-9.]+(?:e[+-]?[0-9]+)?|NaN|[+-]Inf)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


def parse_prometheus(text):
    """A strict reader of the text format: {(name, labels): value}, types checked."""
    assert text.endswith("\n")
    types, helped, values, family = {}, set(), {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            assert family not in helped, f"HELP of {family} twice"
            helped.add(family)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family and name not in types and kind in ("counter", "gauge", "histogram"), line
            types[name] = kind
        else:
            m = LINE.fullmatch(line)
            assert m, f"not a sample: {line!r}"
            labels = tuple(LABEL.findall(m["labels"] or ""))
            assert "".join(f'{k}="{v}",' for k, v in labels).rstrip(",") == (m["labels"] or "").rstrip(","), line
            kind = types.get(m["name"]) or types.get(re.sub(r"_(bucket|sum|count)$", "", m["name"]))
            assert kind, f"{m['name']} has no TYPE"
            assert m["name"].startswith(family), f"{m['name']} stands among {family}"
            assert kind != "counter" or m["name"].endswith("_total"), m["name"]
            assert (m["name"], labels) not in values, f"twice: {line}"
            values[m["name"], labels] = float(m["value"])
    assert helped == set(types)
    for name in [n for n, kind in types.items() if kind == "histogram"]:
        check_histogram(name, values)
    return values


def check_histogram(name, values):
    series = {}
    for (n, labels), value in values.items():
        if n == name + "_bucket":
            rest = tuple(x for x in labels if x[0] != "le")
            series.setdefault(rest, []).append((float(dict(labels)["le"]), value))
    assert series, name
    for rest, buckets in series.items():
        bounds = [b for b, _ in buckets]
        counts = [c for _, c in buckets]
        assert bounds == sorted(bounds) and bounds[-1] == float("inf") and counts == sorted(counts), name
        assert values[name + "_count", rest] == counts[-1]
        assert (name + "_sum", rest) in values


def test_prometheus_form_is_valid_and_agrees_with_json(space):
    space.start_redis()
    space.topic()
    textfile = space.folder / "millrace.prom"
    m = space.millrace(lanes=2, metrics={"textfile": str(textfile), "interval": "1s"}).start_ready()
    load = space.load(3000, keys=300)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    done = m.run_command("stats", "--format", "prometheus")
    assert done.returncode == 0
    values = parse_prometheus(done.stdout)

    def total(name):
        return sum(v for (n, _), v in values.items() if n == name)
    assert total("millrace_ingest_record_read_total") == 3000
    assert total("millrace_sink_record_applied_total") == 3000
    assert total("millrace_sink_ingest_to_redis_seconds_count") >= 3000
    assert total("millrace_ingest_partition_assigned") == 8

    def whole_file():
        return textfile.exists() and sum(v for (n, _), v in parse_prometheus(textfile.read_text()).items()
                                         if n == "millrace_sink_record_applied_total") == 3000
    wait_until(whole_file, 10, "the text file to be written")
    assert m.drain() == 0


def test_table_form_is_readable(space):
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    done = m.run_command("stats")
    assert done.returncode == 0
    for word in (m.name, "ingest", "transform", "sink", "running"):
        assert word in done.stdout, done.stdout
    assert m.drain() == 0


def test_stats_without_an_instance_say_so(space):
    space.start_redis()
    space.topic()
    m = space.millrace()
    done = m.run_command("stats", "--format", "json")
    assert done.returncode == 69 and m.name in done.stderr and not done.stdout


def test_counters_go_on_across_worker_restarts(space):
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    load = space.load(3000, keys=300)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    for role in ("ingest", "transform", "sink"):
        pid = m.kill_worker(role, 0)
        m.wait_for(lambda s, r=role, p=pid: m.worker(r, 0, s)["pid"] not in (0, p) and
                   m.worker(r, 0, s)["state"] == "running", 15, f"{role} to be back")
    stats = m.stats()
    assert m.metric("ingest_record_read", stats) == 3000 and m.metric("transform_record_in", stats) == 3000
    assert m.metric("sink_record_applied", stats) >= 3000
    assert m.metric("supervisor_child_died", stats) == 3
    assert m.drain() == 0


def test_metrics_page_is_fresh():
    done = command("stats", "--format", "markdown")
    assert done.returncode == 0, done.stderr
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == done.stdout, \
        "docs/metrics.md is not what this build prints"
    rows = re.findall(r"^METRIC\((\w+), (\w+),", (ROOT / "shm/metrics.def").read_text(encoding="utf-8"), re.M)
    assert len(rows) > 40
    for role, name in rows:
        assert f"millrace_{role}_{name}" in done.stdout or f"`{name}`" in done.stdout, (role, name)


def test_every_command_has_help():
    for name in ("run", "check", "stats", "top", "ring", "get", "keygen", "rejects", "demo"):
        done = command(name, "--help")
        assert done.returncode == 0 and name in done.stdout, (name, done.stdout, done.stderr)
    done = command("--help")
    assert done.returncode == 0 and "run" in done.stdout
    done = command("no-such-command")
    assert done.returncode == 64
    assert str(BUILD) not in done.stderr

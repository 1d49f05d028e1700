"""The measured part of docs/performance.md, and the verdict."""

import datetime
import os
import pathlib
import platform
import re
import subprocess

from harness.process import ROOT

from measure import KEYS, PARTITIONS, PREFETCH, ROWS, SMALL_MEMORY

PAGE = ROOT / "docs/performance.md"
SECTIONS = {"bench": ("<!-- measured: written by `make bench` -->", "<!-- end of what is measured -->"),
            "soak": ("<!-- soaked: written by `make bench-soak` -->", "<!-- end of the soak -->")}
ROLES = ("ingest", "transform", "sink", "audit", "recon", "supervisor")

# name: (what it is, wanted, least, lower is better)
GOALS = {
    "e/c": ("rate of millrace / straightforward program", 3.0, 2.0, False),
    "e/d": ("rate of millrace / limit program", 0.95, 0.8, False),
    "f/d": ("rate of millrace with JSON key, LZ4, encryption / limit program", 0.6, 0.4, False),
    "audited/e": ("rate of millrace with the audit log / without", 0.85, None, False),
    "cpu": ("own CPU s per million records, plain", 1.5, None, True),
    "memory": ("resident MB of all own processes at that rate", 300, None, True),
    "small": ("the same with the small-memory setting", 80, None, True),
    "p50": ("ms from produce to visible at 1,000/s, median", 0.6, None, True),
    "p99": ("the same, 99th percentile", 3.0, 6.0, True),
}


def reached(bench):
    ms = next((x["ms"] for x in bench.latencies if x["name"] == "plain" and x["rate"] == 1000), [None] * 3)
    return {"e/c": bench.ratio("plain", "straight"), "e/d": bench.ratio("plain", "limit"),
            "f/d": bench.ratio("sealed", "limit"), "audited/e": bench.ratio("audited", "plain"), "cpu": bench.of("plain", "cpu_s"),
            "memory": bench.of("plain", "memory_mb"), "small": bench.of("small", "memory_mb"),
            "p50": ms[0], "p99": ms[2]}


def verdict(bench):
    """0, or 1 when a figure is below the least that is accepted; says which."""
    bad = 0
    for name, value in reached(bench).items():
        what, _, least, lower = GOALS[name]
        if value is not None and least is not None and (value > least if lower else value < least):
            print(f"FAILED: {what}: {value:.2f}, the {'most' if lower else 'least'} accepted is {least}")
            bad = 1
    return bad


def first_line(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def machine():
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    memory = int(re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text(encoding="ascii"))[1])
    jars = list((ROOT / "build/servers/jars").glob("kafka_*.jar"))
    kafka = re.search(r"-([0-9.]+)\.jar", jars[0].name)[1] if jars else "unknown"
    redis = re.search(r"v=([0-9.]+)", first_line("redis-server", "--version"))
    library = first_line("dpkg-query", "-W", "-f=${Version}", "librdkafka1")
    return (f"{datetime.date.today()} · {os.cpu_count()} processors ({model[1].strip() if model else platform.machine()}), "
            f"{memory / 2**20:.0f} GB, Linux {platform.release()} · Apache Kafka {kafka}, "
            f"Redis {redis[1] if redis else 'unknown'}, librdkafka {library}, "
            f"{first_line('gcc', '--version')} · millrace {first_line('git', '-C', str(ROOT), 'describe', '--always')}")


def number(x, digits=2):
    return "–" if x is None else f"{x:,.{digits}f}"


def others_cell(bench, name):
    runs = bench.results.get(name, [])
    return " · ".join(f"{k} {sorted(r['others'][k] for r in runs)[len(runs) // 2]:.2f}" for k in
                      (runs[0]["others"] if runs else {}))


def cpu_cell(bench, name):
    runs = bench.results.get(name, [])
    if not runs:
        return "–"
    if "" in runs[0]["cpu"]:
        return number(bench.of(name, "cpu_s"))
    parts = " · ".join(f"{role} {sorted(r['cpu'].get(role, 0) for r in runs)[len(runs) // 2]:.2f}" for role in ROLES
                       if any(role in r["cpu"] for r in runs))
    return f"{number(bench.of(name, 'cpu_s'))} ({parts})"


def table(bench):
    out = ["| | records/s | own CPU s per million | of others | peak memory, MB | / straightforward | / limit |",
           "|---|---|---|---|---|---|---|"]
    for name, row in ROWS.items():
        base = name.split("-")[-1] if name.split("-")[-1] in ("aof", "hash") else ""
        against = [bench.ratio(name, other + ("-" + base if base else "")) for other in ("straight", "limit")]
        if name in ("consume", "set") or name.split("-")[0] == "straight":
            against = [None, None]
        if name.split("-")[0] == "limit":
            against[1] = None
        if name in bench.results:
            out.append(f"| {row.title} | {number(bench.of(name, 'rate'), 0)} | {cpu_cell(bench, name)} | "
                       f"{others_cell(bench, name)} | {number(bench.of(name, 'memory_mb'), 0)} | {number(against[0])} | {number(against[1])} |")
        elif name == "hash":
            out.append(f"| {row.title} | not in this version | – | – | – | – | – |")
    return out


def goals(bench):
    out = ["| | reached | wanted | least accepted |", "|---|---|---|---|"]
    for name, value in reached(bench).items():
        what, wanted, least, lower = GOALS[name]
        sign = "≤" if lower else "≥"
        out.append(f"| {what} | {number(value)} | {sign} {wanted:g} | {f'{sign} {least:g}' if least else '–'} |")
    return out


def latencies(bench):
    out = ["| from produce to | records/s | p50 | p90 | p99 | p99.9 | longest |", "|---|---|---|---|---|---|---|"]
    for x in bench.latencies:
        what = "consumed by librdkafka (the floor)" if x["name"] is None else f"visible in Redis: {ROWS[x['name']].title}"
        out.append(f"| {what} | {x['rate']:,} | " + " | ".join(f"{ms:.2f} ms" for ms in x["ms"]) + " |")
    return out


def settings():
    small = ", ".join(f"`{k}: {v}`" for k, v in SMALL_MEMORY.items() if k != "kafka")
    small += "".join(f", `kafka.{k}: {v}`" for k, v in SMALL_MEMORY["kafka"].items())
    return ["librdkafka in the limit program and the one that only consumes: "
            + ", ".join(f"`{k}={v}`" for k, v in PREFETCH.items()) + ".", f"Small memory: {small}."]


def render(bench):
    runs = max((len(r) for r in bench.results.values()), default=0)
    lines = [machine(), "", f"{bench.records:,} records of 512 bytes, {PARTITIONS} partitions, {KEYS:,} keys; medians of up "
             f"to {runs} interleaved rounds.", ""]
    for part in (goals(bench), table(bench), latencies(bench), settings()):
        lines += part + [""]
    return "\n".join(lines)


def write(section, text):
    """Puts text between the marks of a section of the page; the rest is written by hand."""
    begin, end = SECTIONS[section]
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(begin)
    PAGE.write_text(before + begin + "\n\n" + text.rstrip() + "\n\n" + end + rest.split(end)[1], encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")

"""How fast `millrace verify` is, how much memory it takes, and what another client of Redis notices of it: on a cache whose
audit log is gone, so that only the table of live keys says what should be there."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from harness.millrace import Millrace
from harness.process import BUILD
from harness.redis_server import RedisServer
from harness.reference import Topic


def run_verify(m, *args):
    """Seconds, megabytes at most, and the report."""
    began = time.monotonic()
    child = subprocess.Popen([BUILD / "millrace", "verify", "-c", m.file, "--format", "json", *args],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    report = json.loads(out)
    assert child.returncode == 0 and report["classes"]["right"] == report["rows"], report["classes"]
    return time.monotonic() - began, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, report


def read_latency(redis, count, seconds):
    return subprocess.Popen([BUILD / "bench-reader", str(redis.port), str(count), str(seconds)], stdout=subprocess.PIPE)


def measure(count, value_bytes, folder):
    redis = RedisServer(folder / "redis", "--save", "").start()
    m = Millrace(folder, "127.0.0.1:1", redis, [Topic("cards", format="raw", key="{$key}")], "verify", audit="on")
    table = m.data_dir / "recon" / "live"
    table.parent.mkdir(parents=True)
    subprocess.run([BUILD / "bench-cache", str(redis.port), str(count), str(value_bytes), m.folder / "audit.keys", table],
                   check=True)
    size = sum(f.stat().st_size for f in table.iterdir())
    print(f"{count:,} keys of {value_bytes} bytes; table of live keys {size / count:.1f} bytes a key", flush=True)
    seconds, megabytes, cpu, _ = run_verify(m)
    print(f"  verify: {seconds:.1f} s, {count / seconds:,.0f} keys/s, {cpu:.1f} s of processor, {megabytes:.0f} MB", flush=True)
    alone = json.loads(read_latency(redis, count, 8).communicate()[0])
    reader = read_latency(redis, count, 8)
    began, runs = time.monotonic(), 0
    while reader.poll() is None and time.monotonic() - began < 8:
        run_verify(m)
        runs += 1
    beside = json.loads(reader.communicate()[0])
    print(f"  a reader alone: {alone}\n  beside verify:  {beside}", flush=True)
    redis.stop()
    return {"count": count, "bytes": value_bytes, "table": size / count, "seconds": seconds, "mb": megabytes,
            "cpu": cpu, "alone": alone, "beside": beside}


def run(sizes):
    worst = 0
    for count, value_bytes in sizes:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="millrace-verify-", dir="/tmp"))
        try:
            r = measure(count, value_bytes, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if r["count"] == 1_000_000 and r["seconds"] > 30:
            worst = 1
        if r["mb"] > 512 or r["beside"]["p99_us"] - r["alone"]["p99_us"] > 1000:
            worst = 1
    return worst

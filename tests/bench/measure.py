"""Runs the programs of the benchmark, each against a fresh Redis, and keeps what they measured."""

import base64
import ctypes
import itertools
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

from harness import process
from harness.broker import Broker
from harness.millrace import Millrace, command
from harness.process import BUILD
from harness.redis_server import RedisServer
from harness.reference import Topic

PARTITIONS, KEYS = 4, 200_000
WARMUP = 10  # seconds of a latency run that do not count: the topic is new, and the broker compiles its code
TOPIC = "records"

# For the programs that are to be compared at their best. Without what ingest does against it (docs/decisions), librdkafka
# 2.0.2 stops for a second when its queue is full, so theirs has to hold more than a second of the stream.
PREFETCH = {"queued.max.messages.kbytes": 131072, "queued.min.messages": 10_000_000, "fetch.wait.max.ms": 100,
            "socket.nagle.disable": "true"}
SMALL_MEMORY = {"ring_bytes": "1MiB", "kafka": {"queued.max.messages.kbytes": 1024}}


class Row:
    """One program with its settings. run: how to call it; the rest are arguments of that."""

    def __init__(self, title, run, **more):
        self.title, self.run, self.more = title, run, more


ROWS = {
    "consume": Row("librdkafka consuming only", "program", redis=False, prefetch=True),
    "set": Row("Redis alone: SETs in batches of 100, one connection", "program", kafka=False),
    "straight": Row("straightforward program", "program"),
    "limit": Row("limit program: MSET of 500, four under way", "program", prefetch=True, batch=500),
    "plain": Row("millrace, plain values", "millrace"),
    "sealed": Row("millrace, JSON key, LZ4 and encryption", "millrace", sealed=True),
    "audited": Row("millrace, plain values, audit log with digests", "millrace", audited=True),
    "straight-aof": Row("straightforward program, append-only file on", "program", aof=True),
    "limit-aof": Row("limit program, append-only file on", "program", prefetch=True, batch=500, aof=True),
    "plain-aof": Row("millrace, append-only file on", "millrace", aof=True),
    "plain-mset500": Row("millrace, `redis.batch: 500`, `in_flight: 4000`", "millrace",
                         redis={"batch": 500, "in_flight": 4000}),
    "lanes2": Row("millrace, 2 lanes", "millrace", lanes=2),
    "lanes4": Row("millrace, 4 lanes", "millrace", lanes=4),
    "small": Row("millrace, small memory", "millrace", **SMALL_MEMORY),
    "straight-hash": Row("straightforward program, HSET of 4 fields", "program", hashes=True),
    "limit-hash": Row("limit program, HSETs of 4 fields", "program", prefetch=True, batch=500, hashes=True),
    "hash": Row("millrace, hashes of 4 fields", "millrace", hashes=True),
}


def cpu_of(pid):
    """Processor seconds of all threads of a process."""
    return sum(int(f.read_text(encoding="ascii").split()[0]) for f in
               pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def median(values):
    return statistics.median(values) if values else None


class Bench:
    def __init__(self, records):
        self.records, self.results, self.latencies = records, {}, []
        self.numbers = itertools.count(1)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="millrace-bench-"))
        self.broker = Broker(self.folder / "kafka")

    def __enter__(self):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: no worker outlives this program unseen
        self.broker.start()
        return self

    def __exit__(self, *_):
        for p in reversed(list(process.started)):
            p.stop_forgotten()
        if not os.environ.get("MILLRACE_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def program(self, name, *args, timeout=240):
        done = subprocess.run([BUILD / f"bench-{name}", *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=timeout)
        if done.returncode != 0:
            raise RuntimeError(f"bench-{name} {args}: {done.stderr}")
        return json.loads(done.stdout)

    def load(self):
        self.broker.create_topics([TOPIC], PARTITIONS)
        loaded = self.program("load", "--brokers", self.broker.bootstrap, "--topic", TOPIC, "--count", self.records,
                              "--keys", KEYS)
        print(f"loaded {loaded['records']:,} records in {loaded['seconds']:.1f} s", flush=True)

    def redis(self, aof=False):
        # A rewrite of the file in the middle of a run of seconds would be chance.
        args = ("--appendonly", "yes", "--auto-aof-rewrite-percentage", "0") if aof else ()
        return RedisServer(self.folder / f"redis{next(self.numbers)}", *args).start()

    # -- one run of a row ----------------------------------------------------------------------------------------------
    def run_program(self, name, redis=True, kafka=True, prefetch=False, batch=None, aof=False, hashes=False):
        args = ["--count", self.records, "--keys", KEYS]
        if kafka:
            args += ["--brokers", self.broker.bootstrap, "--topic", TOPIC, "--group", f"g{next(self.numbers)}"]
        if prefetch:
            args += [a for k, v in PREFETCH.items() for a in ("-X", f"{k}={v}")]
        if batch:
            args += ["--batch", batch]
        if hashes:
            args += ["--hash"]
        server = self.redis(aof) if redis else None
        if server:
            args += ["--redis", server.port]
        broker = cpu_of(self.broker.process.pid)
        result = self.program(name.split("-")[0], *args)
        return self.around(server, broker, result) | {"memory_mb": result["memory_kb"] / 1024,
                "cpu": {"": result["cpu_s"] * 1e6 / result["records"]}}

    def around(self, server, broker_cpu_s, result):
        """The rate, and what broker and Redis have used for it. Ends the Redis."""
        others = {"broker": cpu_of(self.broker.process.pid) - broker_cpu_s}
        if server:
            others["Redis"] = cpu_of(server.process.pid)
            server.kill()
        return {"rate": result["records"] / result["seconds"],
                "others": {k: v * 1e6 / result["records"] for k, v in others.items()}}

    def key_file(self, name="keys"):
        path = self.folder / name
        if not path.exists():
            path.touch(0o600)
            key = base64.b64encode(os.urandom(32)).decode()
            path.write_text(f"key 1 {key} 2026-01-01\ncurrent 1\n", encoding="ascii")
        return path

    def millrace(self, server, topic=TOPIC, sealed=False, hashes=False, audited=False, build=BUILD, **more):
        t = Topic(topic, mode="bulk", format="raw", key="{$key}")
        if sealed:
            t = Topic(topic, mode="bulk", compress="lz4", encrypt=True)
            if topic != TOPIC:  # the keys of probes are not in their values
                t.format, t.key = "raw", "{$key}"
            more["crypto"] = {"keys": str(self.key_file())}
        if audited:
            more |= {"audit": "on", "recon": {"keys": str(self.key_file("audit"))}}
        name = f"m{next(self.numbers)}"
        m = Millrace(self.folder, self.broker, server, [t], name, build=build, **more)
        if hashes:
            m.config["topics"][0] |= {"format": "json", "value": {"type": "hash"}}
            m.write_config()
        return m

    def hashes_known(self):
        """Whether this version of millrace stores hashes."""
        m = self.millrace("redis://127.0.0.1:1/0", hashes=True)
        return command("check", "-c", m.file).returncode == 0

    def run_millrace(self, aof=False, **more):
        server = self.redis(aof)
        m = self.millrace(server, **more)
        watch = subprocess.Popen([BUILD / "bench-watch", "--run-dir", m.run_dir, "--name", m.name, "--count",
                                  str(self.records), "--seconds", "120"], stdout=subprocess.PIPE, text=True)
        broker = cpu_of(self.broker.process.pid)
        m.start()
        out, _ = watch.communicate()
        if watch.returncode != 0:
            raise RuntimeError(f"{m.name}: {out}\n{m.process.tail()}")
        result = json.loads(out)
        stats = m.stats()
        assert m.drain() == 0, m.process.tail()
        cpu = {}
        for p in result["processes"]:
            cpu[p["role"]] = cpu.get(p["role"], 0) + p["cpu_s"] * 1e6 / result["records"]
        return self.around(server, broker, result) | {
                "cpu": cpu,
                "memory_mb": sum(p["memory_kb"] for p in result["processes"]) / 1024,
                "memory_alone_mb": sum(p["memory_alone_kb"] for p in result["processes"]) / 1024,
                "metrics": {k: v for k, v in stats["metrics"].items() if isinstance(v, (int, float))}}

    def run(self, name):
        row = ROWS[name]
        if row.run == "program":
            return self.run_program(name, **row.more)
        return self.run_millrace(**row.more)

    # -- comparing -----------------------------------------------------------------------------------------------------
    def compare(self, names, rounds):
        """Each of the programs in turn, `rounds` times over, so that what else the machine does hits all alike."""
        if "hash" in names and not self.hashes_known():
            print("this version of millrace stores no hashes: their row stays empty")
            names = [n for n in names if n != "hash"]
        for i in range(rounds):
            for name in names:
                result = self.run(name)
                self.results.setdefault(name, []).append(result)
                print(f"{i + 1}/{rounds} {name:16} {result['rate']:10,.0f}/s  CPU {sum(result['cpu'].values()):.2f} s "
                      f"per million  {result['memory_mb']:.0f} MB", flush=True)

    def of(self, name, what):
        """The median over the rounds of one figure of a row; None when the row was not run."""
        value = {"cpu_s": lambda r: sum(r["cpu"].values())}.get(what, lambda r: r[what])
        return median([value(r) for r in self.results.get(name, [])])

    def ratio(self, name, other):
        """The median of the ratios of each round."""
        return median([a["rate"] / b["rate"] for a, b in zip(self.results.get(name, []), self.results.get(other, []))])

    def compare_builds(self, other, names, rounds):
        for name in names:
            pairs = []
            for i in range(rounds):
                pair = [self.run_millrace(build=b, **ROWS[name].more) for b in ((BUILD, other) if i % 2 else (other, BUILD))]
                pairs.append(pair if i % 2 else pair[::-1])
                print(f"{name} {i + 1}/{rounds}: " + " | ".join(
                    f"{r['rate']:,.0f}/s cpu " + " ".join(f"{k} {v:.3f}" for k, v in r["cpu"].items()) +
                    f" wakeups {r['metrics'].get('worker_ring_wakeup', 0)}" +
                    f" switches {r['metrics'].get('worker_context_switch', 0)}" for r in pairs[-1]), flush=True)
            for what, value in (("rate", lambda r: r["rate"]), ("cpu", lambda r: sum(r["cpu"].values()))):
                ratios = [value(mine) / value(theirs) for mine, theirs in pairs]
                print(f"{name}: {what} of this build / other: median {median(ratios):.3f}, "
                      f"{min(ratios):.3f} to {max(ratios):.3f}")
        return 0

    # -- latency -------------------------------------------------------------------------------------------------------
    def probe(self, topic, rate, seconds, *args):
        return self.program("latency", "--brokers", self.broker.bootstrap, "--topic", topic, "--rate", rate,
                            "--warmup", WARMUP, "--seconds", seconds, *args)["ms"]

    def latency(self, plan, seconds):
        """plan: [(row of millrace, or None for Kafka alone, records a second)]"""
        for name, rate in plan:
            topic = f"latency{next(self.numbers)}"
            self.broker.create_topics([topic], PARTITIONS)
            if name is None:
                args = [a for k, v in PREFETCH.items() for a in ("-X", f"{k}={v}")]
                ms = self.probe(topic, rate, seconds, "--group", topic, *args)
            else:
                server = self.redis()
                m = self.millrace(server, topic=topic, **ROWS[name].more).start_ready()
                m.wait_for(lambda s: len(s["partitions"]) == PARTITIONS, 30, "the partitions")
                ms = self.probe(topic, rate, seconds, "--redis", server.port)
                assert m.drain() == 0, m.process.tail()
                server.kill()
            self.latencies.append({"name": name, "rate": rate, "ms": ms})
            print(f"latency of {name or 'Kafka alone'} at {rate}/s: " + " ".join(f"{x:.3f}" for x in ms) + " ms",
                  flush=True)

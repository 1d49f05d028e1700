"""The product as a user meets it: a configuration file, the command, signals, its log and its statistics."""

import json
import os
import pathlib
import signal
import subprocess
import time

from .process import BUILD, Process, TimedOut, process_gone, wait_until


def to_yaml(value, indent=0):
    """Block YAML of dicts, lists and scalars, as a person would write it."""
    pad, out = "  " * indent, []
    if isinstance(value, dict):
        for k, v in value.items():
            nested = isinstance(v, (dict, list)) and v
            out.append(f"{pad}{k}:" + ("\n" + to_yaml(v, indent + 1) if nested else " " + scalar(v)))
    else:
        for v in value:
            if isinstance(v, (dict, list)):
                out.append(f"{pad}- " + to_yaml(v, indent + 1).lstrip())
            else:
                out.append(f"{pad}- {scalar(v)}")
    return "\n".join(out)


def scalar(v):
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, (int, float)):
        return str(v)
    if v in ({}, []):
        return "{}" if v == {} else "[]"
    return json.dumps(str(v), ensure_ascii=False)


def merge(base, more):
    """base with more laid over it; dicts are merged, None takes a key away."""
    out = dict(base)
    for k, v in more.items():
        if v is None:
            out.pop(k, None)
        elif isinstance(v, dict) and isinstance(out.get(k), dict):
            out[k] = merge(out[k], v)
        else:
            out[k] = v
    return out


def command(*args, build=BUILD, timeout=20, env=None):
    """Runs `millrace ARGS`. Returns the finished process, with text output."""
    return subprocess.run([str(build / "millrace"), *[str(a) for a in args]], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout, env=env)


CHAIN = ("ingest_published", "transform_published", "sink_published", "released")


def chains(stats):
    """Per lane how far each stage has come, first stage first."""
    return [[lane[k] for k in CHAIN] for lane in stats["lanes"]]


class Millrace:
    def __init__(self, folder, broker, redis_server, topics, name, group=None, build=BUILD, env=None, **more):
        self.folder = pathlib.Path(folder) / name
        self.run_dir, self.data_dir = self.folder / "run", self.folder / "data"
        for d in (self.run_dir, self.data_dir):
            d.mkdir(parents=True, exist_ok=True)
        self.name, self.group, self.build = name, group or f"millrace-{name}", build
        self.env = None if env is None else {**os.environ, **env}
        self.file, self.log = self.folder / "millrace.yaml", self.folder / "millrace.log"
        self.config = merge({
            "config_version": 1, "name": name, "instance": "node1", "lanes": 1,
            "run_dir": str(self.run_dir), "data_dir": str(self.data_dir), "start": "earliest",
            "audit": os.environ.get("MILLRACE_AUDIT", "off"),
            "kafka": {"bootstrap.servers": broker if isinstance(broker, str) else broker.bootstrap,
                      "group.id": self.group},
            "redis": {"url": redis_server if isinstance(redis_server, str) else redis_server.url()},
            "topics": [t.config() for t in topics],
        }, more)
        self.process, self.pids = None, set()
        if self.audited:
            self.config["recon"] = merge({"keys": str(self.audit_key())}, self.config.get("recon", {}))
        self.write_config()

    @property
    def audited(self):
        return self.config["audit"] == "on"

    def audit_key(self):
        """A key file for the audit log, made as a user would."""
        path = self.folder / "audit.keys"
        done = command("keygen", path, build=self.build)
        assert done.returncode == 0, done.stderr
        return path

    def write_config(self, **more):
        self.config = merge(self.config, more)
        self.file.write_text(to_yaml(self.config) + "\n", encoding="utf-8")
        self.file.chmod(0o600)

    # -- life ---------------------------------------------------------------------------------------------------------
    def start(self):
        self.process = SupervisorProcess(self).start()
        return self

    def start_ready(self, timeout=30):
        return self.start().wait_ready(timeout)

    def wait_ready(self, timeout=30):
        """Every worker is attached; Kafka and Redis need not be there."""
        workers = 1 + 2 * self.config["lanes"] + 2 * self.audited
        self.wait_for(lambda s: len(s["workers"]) == workers and
                      all(w["state"] in ("running", "connecting", "blocked", "recovering") for w in s["workers"]),
                      timeout, "all workers attached")
        return self

    def wait_for(self, condition, timeout, what, interval=0.1):
        """Waits until condition(stats) holds; fails at once when the supervisor has ended."""
        seen = {}

        def look():
            assert self.process.alive(), \
                f"{self.name} ended with {self.process.child.returncode}\n{self.process.tail()}"
            stats = seen["stats"] = self.stats_or_none()
            # The segment of the run before is there until the new supervisor has made its own.
            mine = stats is not None and stats["supervisor"]["pid"] == self.process.pid
            return stats if mine and condition(stats) else None
        return wait_until(look, timeout, lambda: f"{what}; stats: {json.dumps(seen.get('stats'))}\n"
                          f"{self.process.tail(20)}", interval)

    def wait_drained(self, ends, timeout=90):
        """Everything up to ends ({(topic, partition): next offset}) is in Redis and committed."""
        def done(stats):
            now = {(p["topic"], p["partition"]): p for p in stats["partitions"]}
            # -1: nothing has come since the start, so nothing had to be released.
            return all(place in now and now[place]["committed"] == end and now[place]["released"] in (end, -1)
                       for place, end in ends.items())
        return self.wait_for(done, timeout, "all partitions applied and committed", 0.2)

    def drain(self, timeout=40):
        """SIGTERM. Returns the exit status; the workers are gone as well."""
        self.remember_pids()
        status = self.process.terminate(timeout)
        self.wait_workers_gone(2)
        return status

    def wait_exit(self, timeout):
        return self.process.wait(timeout)

    def kill_supervisor(self):
        self.remember_pids()
        self.process.kill()

    def remember_pids(self):
        stats = self.stats_or_none()
        if stats:
            self.pids |= {w["pid"] for w in stats["workers"] if w["pid"]}
        return stats

    def end_leftovers(self):
        """Workers that have outlived their supervisor, which is for the test to complain about and not for the next.
        They are children of this process by then; a number that somebody else has now is not."""
        children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
        for pid in self.pids & set(map(int, children)):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def wait_workers_gone(self, timeout):
        wait_until(lambda: all(process_gone(p) for p in self.pids), timeout,
                   lambda: f"workers of {self.name} to leave: {[p for p in self.pids if not process_gone(p)]}", 0.01)

    # -- what a user sees --------------------------------------------------------------------------------------------
    def run_command(self, *args, timeout=20):
        return command(*args, "-c", self.file, build=self.build, timeout=timeout, env=self.env)

    def stats(self):
        done = self.run_command("stats", "--format", "json")
        assert done.returncode == 0, f"millrace stats: {done.returncode} {done.stderr}"
        return json.loads(done.stdout)

    def stats_or_none(self):
        done = self.run_command("stats", "--format", "json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    def worker(self, role, lane=None, stats=None):
        for w in (stats or self.stats())["workers"]:
            if w["role"] == role and (lane is None or w["lane"] in (lane, -1)):
                return w
        raise AssertionError(f"no worker {role}[{lane}]")

    def metric(self, name, stats=None):
        metrics = (stats or self.stats())["metrics"]
        assert name in metrics, f"no metric {name} in {sorted(metrics)}"
        return metrics[name]

    def rejects(self):
        done = self.run_command("rejects", "list", "--json")
        assert done.returncode == 0, f"millrace rejects list: {done.returncode} {done.stderr}"
        text = done.stdout.strip()
        if text.startswith("["):
            return json.loads(text)
        return [json.loads(line) for line in text.splitlines()]

    def log_text(self):
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    # -- faults -----------------------------------------------------------------------------------------------------
    def kill_worker(self, role, lane=None, number=signal.SIGKILL, timeout=10):
        """Signals the live worker of this role and lane, by pidfd. Returns its pid; fails when none lives in time."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            stats = self.stats_or_none()
            w = self.worker(role, lane, stats) if stats else None
            alive = w and w["pid"] and w["state"] not in ("down", "backoff", "failed")
            if alive and self.signal_pid(w["pid"], role, number):
                return w["pid"]
            time.sleep(0.02)
        raise AssertionError(f"no live {role}[{lane}] to signal within {timeout} s\n{self.process.tail(20)}")

    @staticmethod
    def signal_pid(pid, role, number):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if f"millrace-{role}".encode() not in f.read() or process_gone(pid):
                    return False
            signal.pidfd_send_signal(handle, number)
            return True
        except (ProcessLookupError, FileNotFoundError):
            return False
        finally:
            os.close(handle)


class SupervisorProcess(Process):
    def __init__(self, owner):
        super().__init__(owner.name, [owner.build / "millrace", "run", "-c", owner.file], owner.log, owner.env)
        self.owner = owner

    def stop_forgotten(self):
        try:
            self.owner.remember_pids()
        except Exception:  # the statistics may be what is broken
            pass
        self.kill()

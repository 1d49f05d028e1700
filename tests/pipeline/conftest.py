"""One broker for all tests; a folder, names and Redis of its own for each. What a test leaves behind is ended here."""

import base64
import ctypes
import itertools
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness import process  # noqa: E402
from harness.broker import Broker  # noqa: E402
from harness.generator import Generator, Load, change_topic  # noqa: E402
from harness.millrace import Millrace  # noqa: E402
from harness.oracle import judge  # noqa: E402
from harness.redis_server import RedisServer  # noqa: E402

PR_SET_CHILD_SUBREAPER = 36
numbers = itertools.count(1)
counts = {"passed": 0, "failed": 0, "skipped": 0}
failures = []  # by name, for tests/run-pipeline, which may run them again


def pytest_configure(config):
    config.addinivalue_line("markers", "may_skip: what it needs may not exist yet; skipped, it is counted as that")
    # Workers whose supervisor was killed become our children, so that nobody leaves zombies to others.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans():
    known = {p.child.pid for p in process.started if p.child is not None}
    children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in map(int, children):
        if pid not in known and process.process_gone(pid):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass


@pytest.fixture(scope="session")
def session_folder():
    # Short, because the path of a unix socket is.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="millrace-", dir="/tmp"))
    yield folder
    if not os.environ.get("MILLRACE_KEEP"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def broker(session_folder):
    b = Broker(session_folder / "kafka").start()
    b.process.shared = True
    yield b
    b.stop()


class Space:
    """What one test has to itself."""

    def __init__(self, folder, request):
        self.number, self.folder, self.request = next(numbers), folder, request
        self.broker = None
        self.redis = None
        self.partitions = 8
        self.topics = []
        self.instances = []

    def own_broker(self, name="kafka"):
        return Broker(self.folder / name, name)

    def start_redis(self, *args, **more):
        self.redis = RedisServer(self.folder / "redis", *args, **more).start()
        return self.redis

    def topic(self, make=change_topic, suffix="change", partitions=8, **more):
        """A topic of this test, on the shared broker. make: change_topic, bulk_topic or reference.Topic."""
        self.partitions = partitions
        if self.broker is None:
            self.broker = self.request.getfixturevalue("broker")
        t = make(f"t{self.number}.{suffix}", **more)
        self.broker.create_topics([t.name], partitions)
        self.topics.append(t)
        return t

    def key_file(self):
        """A key file with one key, id 1."""
        path = self.folder / "keys"
        path.touch(0o600)
        key = base64.b64encode(os.urandom(32)).decode()
        path.write_text(f"# keys of a test\nkey 1 {key} 2026-01-01\ncurrent 1\n", encoding="ascii")
        return path

    def millrace(self, name=None, group=None, **more):
        """An instance over this test's topics, not started."""
        name = name or f"t{self.number}"
        m = Millrace(self.folder, self.broker, self.redis, self.topics, name, group or f"group{self.number}", **more)
        self.instances.append(m)
        return m

    def load(self, count, seconds=0, keys=2000, seed=None, history=None, topics=None, generator=None):
        generator = generator or Generator(self.number if seed is None else seed, topics or self.topics, keys)
        return Load(self.broker, generator, self.partitions, count, seconds, history)

    def judge(self, **more):
        return judge(self.broker, self.topics, self.partitions, self.redis, **more)


@pytest.fixture
def space(session_folder, request):
    folder = session_folder / f"t{next(numbers)}"
    folder.mkdir()
    before = list(process.started)
    s = Space(folder, request)
    yield s
    for p in reversed([p for p in process.started if p not in before and not p.shared]):
        p.stop_forgotten()
    for m in s.instances:
        m.end_leftovers()
    reap_orphans()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" and report.failed:
        s = item.funcargs.get("space")
        for m in s.instances if s else []:
            if m.process is not None:
                report.sections.append((f"log of {m.name}", m.process.tail(60)))
        for p in process.started:
            if not hasattr(p, "owner"):
                report.sections.append((f"log of {p.name}", p.tail(15)))


def pytest_runtest_logreport(report):
    # A test that is skipped proves nothing, so it counts as failed, unless it says that it may be.
    if report.when == "call" and report.passed:
        counts["passed"] += 1
    elif report.skipped and "may_skip" in report.keywords:
        counts["skipped"] += 1
    elif report.failed or report.skipped:
        counts["failed"] += 1
        failures.append(report.nodeid)


def pytest_collectreport(report):
    if report.failed:
        counts["failed"] += 1


def pytest_unconfigure(config):
    where = os.environ.get("MILLRACE_COUNTS")
    if where:
        pathlib.Path(where).write_text(" ".join(str(n) for n in counts.values()) + "\n", encoding="ascii")
        pathlib.Path(where + ".failures").write_text("".join(f"{name}\n" for name in failures), encoding="utf-8")

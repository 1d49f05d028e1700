"""One broker for all tests; a folder, names and Redis of its own for each. What a test leaves behind is ended here."""

import base64
import ctypes
import itertools
import os
import pathlib
import shutil
import subprocess
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
    config.addinivalue_line("markers", "sanitized: also run in `make check` with every process under a sanitizer")
    config.addinivalue_line("markers", "may_skip: what it needs may not exist yet; skipped, it is counted as that")
    # Workers whose supervisor was killed become our children, so that nobody leaves zombies to others.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


# Quick ones of every kind, which `make check` runs with every process under a sanitizer, too; `make soak` runs all.
SANITIZED = {
    "test_raw_topic", "test_json_change_topic", "test_bulk_topic_takes_adds_only",
    "test_record_larger_than_a_ring_takes", "test_rejects_survive_kills_and_are_kept_once",
    "test_time_to_live_counts_from_the_kafka_timestamp", "test_coded_values_read_back_as_published",
    "test_rejects_are_sealed_when_there_are_keys", "test_fields_are_what_the_record_says",
    "test_fixed_list_reads_these_partitions_and_no_others", "test_transactions_and_their_gaps",
    "test_commits_that_point_outside_the_log_stop_the_partition_instead_of_jumping",
    "test_topic_that_is_made_later_is_read", "test_client_certificate_with_an_encrypted_key",
    "test_drain_of_idle_instance_leaves_no_lag", "test_drain_that_cannot_finish_exits_75_and_loses_nothing",
    "test_redis_out_of_memory_stops_and_goes_on_in_order", "test_keys_of_another_type_are_overwritten",
    "test_json_has_what_is_documented_and_it_is_true", "test_control_socket_of_a_running_instance",
    "test_bad_file_changes_nothing_and_says_what_is_wrong", "test_what_cannot_be_fed_is_named",
    "test_a_manifest_topic_that_is_not_there_is_told_and_no_alarm",
    "test_a_load_is_replayed_and_the_identity_still_closes", "test_flush_while_idle",
    "test_a_file_becomes_records_with_everything_that_proves_them", "test_documented_rules_are_enough",
    "test_poisonous_record_costs_three_deaths_and_itself", "test_neighbouring_poisonous_records_are_told_apart",
}


def pytest_collection_modifyitems(config, items):
    missing = set(SANITIZED)
    for item in items:
        if item.originalname in SANITIZED:
            item.add_marker("sanitized")
            missing.discard(item.originalname)
    if config.getoption("markexpr") == "sanitized" and missing:
        raise pytest.UsageError(f"tests that no longer exist are to run under a sanitizer: {sorted(missing)}")


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
    for tool in ("ASAN", "UBSAN", "TSAN"):
        os.environ[f"{tool}_OPTIONS"] = f"log_path={folder}/report:" + os.environ.get(f"{tool}_OPTIONS", "")
    yield folder
    if not os.environ.get("MILLRACE_KEEP"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def broker(session_folder):
    b = Broker(session_folder / "kafka").start()
    b.process.shared = True
    yield b
    b.stop()


@pytest.fixture(scope="session")
def fault_build():
    """Programs that can be told to fail (base/fault.h); the ones that users get cannot."""
    if process.BUILD.name == "build-asan":  # which can be told, too
        return process.BUILD
    folder = process.ROOT / "build-fault"
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
    done = subprocess.run(["make", "-s", f"BUILD={folder.name}", "VARIANT=fault", "all"], cwd=process.ROOT, env=env,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


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
    no_reports(session_folder)


def no_reports(folder):
    """What a sanitizer said of any process of this test, in a build that has one, fails the test."""
    said = ""
    for path in folder.glob("report.*"):
        text = path.read_text(encoding="utf-8", errors="replace")
        path.unlink()
        if any(word in text for word in ("ERROR: ", "WARNING: ThreadSanitizer", "runtime error")):
            said += f"{path.name}:\n{text}\n"
    assert not said, said


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

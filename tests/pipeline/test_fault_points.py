"""Every fault point (base/fault.def) with every action of its kind, once each, over start, 1,000 records and stop.

Whatever fails, dies or dawdles there: the instance goes on by itself, or ends with a message and goes on when it is
started again, as a service manager would do; then Redis holds what the topic says, everything is committed, and
nothing is left open or behind. `make check` runs a seeded sample (SEED=), TIMES=6 and more all of them.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import threading
import time

import pytest
import redis
from confluent_kafka import Producer

from harness import oracle, reference
from harness.generator import Generator, Load, change_topic
from harness.millrace import Millrace, command
from harness.process import ROOT, process_gone, wait_until

SEED = int(os.environ.get("SEED", "20261121"))
TIMES = float(os.environ.get("TIMES", "1"))
SAMPLE, SIDE_BY_SIDE, PARTITIONS, RECORDS, BAD = 28, 4, 2, 1000, 7  # of the sample, beside ALWAYS
RESTARTS_MAX = 4
ROWS = re.findall(r'^FAULT_POINT\("([^"]+)", (\w+),', (ROOT / "base/fault.def").read_text(encoding="ascii"), re.M)

# What has to be so for a point to be passed: other points that are armed beside it, or things that are done.
ALSO = {"audit:truncate": "audit:sync=fail:EIO@3", "supervisor:make_anew": "transform:record_length=corrupt@5"}
# What has failed once is looked at in every run.
ALWAYS = ("sink:lost_noted=kill", "audit:truncate=fail", "recon:db_open=fail", "ingest:reject_sync=fail")
DISK = ("audit:open", "audit:write", "audit:sync", "audit:rename", "ingest:reject_segment", "ingest:reject_head",
        "ingest:reject_folder_sync", "ingest:reject_write", "ingest:reject_sync", "recon:db_open", "recon:ids_open",
        "recon:manifest_open", "recon:manifest_write", "recon:manifest_sync", "recon:manifest_rename")
FLUSHED = ("ingest:rewind", "ingest:rewound", "sink:lost")
# After these a worker says that a restart cannot help, or the supervisor itself ends: somebody starts it again.
ENDS = {"supervisor"}


@dataclasses.dataclass(frozen=True)
class Case:
    point: str
    action: str

    @property
    def stage(self):
        return self.point.split(":")[0]

    @property
    def rare(self):
        """Not the first passing of a point: there may be fewer."""
        return self.point in DISK and "@1" not in self.action

    @property
    def spec(self):
        return ",".join(filter(None, (f"{self.point}={self.action}", ALSO.get(self.point))))

    def __str__(self):
        return f"{self.point}={self.action}"


def all_cases():
    pick = random.Random(SEED)
    for point, kind in ROWS:
        if kind == "CONTENT":
            continue
        nth = pick.randrange(1, 200) if point in ("ingest:take", "transform:take", "audit:take") else 1
        yield Case(point, f"kill@{nth}")
        yield Case(point, f"delay:{pick.choice((20, 150, 400))}@{nth}")
        if kind == "FAILS":
            yield Case(point, f"fail:{pick.choice(('EIO', 'EINTR', 'ENOMEM', 'EMFILE'))}@{nth}")
            yield Case(point, f"fail:{pick.choice(('ENOSPC', 'EROFS', 'EAGAIN'))}@{nth}*{pick.randrange(2, 5)}")
        if kind == "BYTES":
            yield Case(point, f"corrupt@{pick.randrange(1, 9)}")


def disk_cases():
    """Disk full, read-only, or broken for a while, at each place that is written to, and not only at its first time."""
    pick = random.Random(SEED + 13)
    for point in DISK:
        for nth in range(1, 5):
            yield Case(point, f"fail:{pick.choice(('ENOSPC', 'EROFS', 'EIO'))}@{nth}*{pick.randrange(1, 5)}")


def cases():
    every = list(all_cases()) + list(disk_cases())
    named = os.environ.get("FAULTS")  # a part of a case's name: only those
    if named:
        return [c for c in every if named in str(c)]
    if TIMES >= 6:
        return every
    chosen = set(random.Random(SEED).sample(every, round(SAMPLE * TIMES)))
    return [c for c in every if c in chosen or str(c).startswith(ALWAYS)]


class Ground:
    """One topic, one Redis, and what the one has to become in the other."""

    def __init__(self, space, build):
        self.space, self.build = space, build
        self.redis = space.start_redis("--databases", "512")
        self.topic = space.topic(change_topic, "load", partitions=PARTITIONS)
        load = Load(space.broker, Generator(SEED, [self.topic], 300), PARTITIONS, RECORDS - BAD)
        load.start()
        load.finish()
        producer = Producer({"bootstrap.servers": space.broker.bootstrap, "log_level": 0})
        for i in range(BAD):  # to be rejected
            producer.produce(self.topic.name, b"{nothing", f"bad{i}", partition=i % PARTITIONS,
                             headers=[("op", b"add")])
        assert producer.flush(20) == 0
        records, self.ends = oracle.read_log(space.broker, [self.topic.name], PARTITIONS)
        assert len(records) == RECORDS
        self.expected, rejects = reference.fold([self.topic], records)
        assert len(rejects) == BAD
        self.lock, self.db = threading.Lock(), 0

    def take_db(self):
        with self.lock:
            self.db += 1
            return self.db

    def difference(self, db):
        with redis.Redis(host="127.0.0.1", port=self.redis.port, db=db, socket_timeout=20) as client:
            return oracle.compare(self.expected, oracle.read_redis(client, lambda key, value: value))


    def same(self, db):
        try:
            return not self.difference(db)
        except AssertionError:  # a key that goes while it is looked at
            return False


class Trial:
    """One case: an instance with a database, a group and folders of its own."""

    def __init__(self, ground, case):
        self.ground, self.case, self.db = ground, case, ground.take_db()
        name = f"f{self.db}"
        self.told = ground.space.folder / f"{name}.told"
        self.told.mkdir()
        env = {"MILLRACE_FAULT": case.spec, "MILLRACE_FAULT_DIR": str(self.told)} if case else {}
        self.m = Millrace(ground.space.folder, ground.space.broker, f"redis://127.0.0.1:{ground.redis.port}/{self.db}",
                          [ground.topic], name, build=ground.build, env=env, audit="on",
                          metrics={"textfile": str(ground.space.folder / f"{name}.prom"), "interval": "1s"},
                          restart={"backoff_max": "500ms"}, redis={"when_marks_missing": "rebuild"},
                          recon={"segment_bytes": 1048576, "retention_bytes": 4194304})
        self.statuses = []

    def passed(self):
        return (self.told / self.case.point).exists()

    def until(self, condition, timeout, what, step=0.05):
        """Waits as a service manager waits: what has ended is started again."""
        deadline = time.monotonic() + timeout
        while True:
            if not self.m.process.alive():
                self.statuses.append(self.m.process.wait(5))
                assert len(self.statuses) <= RESTARTS_MAX, f"ends again and again: {self.statuses}"
                self.m.start()
            stats = self.m.stats_or_none()
            mine = stats is not None and stats["supervisor"]["pid"] == self.m.process.pid
            if mine and condition(stats):
                return stats
            assert time.monotonic() < deadline, f"no {what} within {timeout} s: {json.dumps(stats)}"
            time.sleep(step)

    def drained(self, stats):
        now = {(p["topic"], p["partition"]): p for p in stats["partitions"]}
        return all(at in now and now[at]["committed"] == end and now[at]["released"] in (end, -1)
                   for at, end in self.ground.ends.items()) and self.whole(stats)

    @staticmethod
    def whole(stats):
        return len(stats["workers"]) == 5 and all(w["state"] == "running" for w in stats["workers"])

    def stop(self):
        """SIGTERM; a supervisor that dies of it is started once more, and stopped again."""
        for _ in range(2):
            self.m.remember_pids()
            status = self.m.process.terminate(30)
            if status == 0 or self.case is None:
                break
            self.statuses.append(status)
            self.m.start()
            self.until(self.drained, 30, "second drain")
        assert status == 0, f"the stop ended with {status}"
        wait_until(lambda: all(process_gone(p) for p in self.m.pids), 3, "workers to go", 0.02)

    def run(self):
        self.m.start()
        stats = self.until(self.drained, 30, "drain")
        if self.case and self.case.point.startswith(FLUSHED):
            with redis.Redis(host="127.0.0.1", port=self.ground.redis.port, db=self.db) as client:
                client.flushdb()
            self.until(lambda s: self.m.metric("sink_loss_found", s) >= PARTITIONS or self.statuses, 20, "loss noted")
            stats = self.until(lambda s: self.drained(s) and self.ground.same(self.db), 30, "what was lost")
        if self.case and self.case.point.startswith("supervisor:control"):
            command("ctl", "status", "-c", self.m.file, build=self.m.build)
            stats = self.until(self.drained, 30, "drain after a request")
        if self.case and self.case.point == "supervisor:textfile":
            wait_until(self.passed, 5, "the metrics' file")
            stats = self.until(self.drained, 30, "drain after the metrics")
        difference = self.ground.difference(self.db)
        assert not difference, str(difference)
        resets = self.m.metric("supervisor_ring_reset", stats)
        assert resets == 0 or "corrupt" in self.case.spec, "the rings had to be made anew"
        descriptors = {w["role"]: len(os.listdir(f"/proc/{w['pid']}/fd")) for w in stats["workers"] if w["pid"]}
        descriptors["supervisor"] = min(self.supervisor_descriptors() for _ in range(5))
        self.stop()
        assert self.case is None or self.passed() or self.case.rare, "the point was not passed"
        assert not self.m.process.alive()
        left = {re.sub(r"^f\d+", "", p.name) for p in self.m.run_dir.iterdir()}
        rejects = len(self.m.rejects())
        assert rejects == BAD, f"{rejects} rejects are stored"
        audited = command("audit", "verify", "-c", self.m.file, build=self.m.build)
        # A failure costs an anchor, not an entry: an instance that stops before the next one is made has none.
        unanchored = self.case is not None and self.case.stage == "audit" and "no anchor of this log" in audited.stdout
        assert audited.returncode == 0 or unanchored, f"audit verify: {audited.stdout}{audited.stderr}"
        # What was delivered again, or was lost by Redis after it was logged, is logged again.
        entries = int(re.search(r"(\d+) entries", audited.stdout)[1])
        again = self.statuses or "sink.redis_lost_writes" in self.m.log_text() or "corrupt" in str(self.case)
        assert entries == RECORDS or (entries > RECORDS and again), audited.stdout
        return descriptors, left

    def supervisor_descriptors(self):
        time.sleep(0.05)  # it may be writing the metrics just now
        return len(os.listdir(f"/proc/{self.m.process.pid}/fd"))

    def end(self):
        self.m.process.kill()
        log = self.m.log_text()
        shutil.rmtree(self.m.folder, ignore_errors=True)
        return log


def judge(trial, descriptors, left, usual):
    """What is wrong beside what run() has looked at."""
    log = trial.m.log_text()
    for role, n in descriptors.items():
        slack = 0 if role in ("supervisor", "transform", "sink") else 16  # the library's own connections come and go
        if n > usual[0][role] + slack:
            yield f"{role} has {n} descriptors open, usually {usual[0][role]}"
    if left != usual[1]:
        yield f"run_dir holds {left}, usually {usual[1]}"
    if trial.case.stage not in ENDS and trial.statuses:
        yield f"the instance ended: {trial.statuses}"
    for signal in ("Segmentation", "Aborted", "Bus error"):
        if signal in log:
            yield f"a worker died of: {signal}"


def one(ground, case, usual):
    began = time.monotonic()
    trial = Trial(ground, case)
    try:
        problems = list(judge(trial, *trial.run(), usual))
    except BaseException as e:  # the others go on; all is told at the end
        problems = [f"{type(e).__name__}: {e}"]
    log = trial.end()
    if os.environ.get("FAULT_LOGS"):
        pathlib.Path(os.environ["FAULT_LOGS"], str(case).replace("/", "_")).write_text(log)
    return case, problems, time.monotonic() - began, log, trial.statuses


def test_every_point_every_action(space, fault_build):
    ground = Ground(space, fault_build)
    usual = Trial(ground, None)
    try:
        usual_state = usual.run()
    finally:
        usual.end()
    chosen = cases()
    print(f"SEED={SEED} TIMES={TIMES:g}: {len(chosen)} of {len(list(all_cases())) + len(list(disk_cases()))} cases")
    wrong = []
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for case, problems, seconds, log, statuses in pool.map(lambda c: one(ground, c, usual_state), chosen):
            print(f"{case}: {seconds:.1f} s {statuses or ''} {'; '.join(problems)[:300]}", flush=True)
            if problems:
                wrong.append(f"{case}: {'; '.join(problems)}\n" + "\n".join(log.splitlines()[-25:]))
    assert not wrong, f"SEED={SEED}: {len(wrong)} of {len(chosen)} cases\n\n" + "\n\n".join(wrong)


@pytest.mark.parametrize("spec", ["nowhere:at_all=kill", "audit:sync=corrupt", "audit:take=fail",
                                  "audit:sync=fail:EWHAT", "audit:sync=kill@0", "audit:sync"])
def test_a_fault_that_cannot_be_ends_the_program(space, fault_build, spec):
    space.start_redis()
    space.topic(partitions=1)
    m = space.millrace(build=fault_build, env={"MILLRACE_FAULT": spec}).start()
    assert m.wait_exit(20) == 64
    assert "fault: " in m.log_text()

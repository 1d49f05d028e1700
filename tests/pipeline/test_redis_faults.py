"""Redis at its worst, under load: it dies, loses its last second, is replaced by a replica that lags, refuses, and breaks
off anywhere. Each time Redis holds in the end what the log says, and millrace has counted the lost writes as the test
has by itself. SEED replays; TIMES multiplies."""

import json
import os
import random
import re
import resource
import socket
import threading
import time

import pytest
import redis
from harness.certificates import Authority
from harness.generator import bulk_topic
from harness.oracle import judge
from harness.process import wait_until
from harness.proxy import Proxy
from harness.redis_server import RedisServer

SEED, TIMES = int(os.environ.get("SEED", "4")), int(os.environ.get("TIMES", "1"))
RECON = {"window": "2s", "late_after": "120s"}
OFTEN = {"connect_timeout": "2s", "response_timeout": "2s"}


class Trial:
    """An instance, its Redis, and a count of lost writes that is the test's own: of each partition, what the instance
    took for acknowledged when Redis died less what the mark in Redis says that is there. All partitions begin at 0,
    without gaps, and every record is a write."""

    def __init__(self, space, server, address=None, name="", **more):
        self.space, self.server, self.address = space, server, address or server
        self.name, self.lost, self.rounds, self.failure = name, 0, [], None
        self.random = random.Random(f"{SEED} {name}")
        more = {**more, "redis": {"url": self.address.url(), **OFTEN, **more.pop("redis", {})}}
        if more.get("audit", os.environ.get("MILLRACE_AUDIT")) == "on":
            more["recon"] = RECON
        space.redis = self.address
        self.m = space.millrace(f"t{space.number}{name}", f"group{space.number}{name}", lanes=2, **more)
        print(f"SEED={SEED} TIMES={TIMES} {name}")

    def sinks(self, stats):
        return [w for w in stats["workers"] if w["role"] == "sink"]

    def running(self, stats):
        return all(w["state"] == "running" for w in stats["workers"])

    def begin(self):
        self.m.start_ready()
        self.m.wait_for(lambda s: self.m.metric("sink_record_applied", s) > 500 and self.running(s), 30, "some records")
        return self

    def marks(self, server=None):
        """{(topic, partition): how many records Redis has}"""
        places = [(t.name, p) for t in self.space.topics for p in range(self.space.partitions)]
        with (server or self.server).client() as client:
            values = client.mget([f"millrace:mark:{self.m.group}:{t}:{p}" for t, p in places])
        return {place: int(v.split()[1]) if v is not None else 0 for place, v in zip(places, values)}

    def acknowledged(self):
        """{(topic, partition): next offset} that Redis has acknowledged. It is dead, and every lane has noticed."""
        self.m.wait_for(lambda s: all(w["state"] != "running" for w in self.sinks(s)), 15, "the lanes to notice", 0.02)
        seen = []
        while len(seen) < 4 or seen[-1] != seen[-4]:
            stats = self.m.stats()
            seen.append({(p["topic"], p["partition"]): max(p["released"], 0) for p in stats["partitions"]})
            time.sleep(0.05)
        return seen[-1]

    def count(self, had, has):
        lost = sum(max(0, n - has[place]) for place, n in had.items())
        self.rounds.append(lost)
        self.lost += lost
        return lost

    def wait_mended(self, connects=0):
        """Everything that was lost so far is written again, and the lanes run."""
        def mended(s):
            return (self.m.metric("sink_write_lost", s) >= self.lost and self.running(s) and
                    self.m.metric("sink_redis_connect", s) >= connects)
        stats = self.m.wait_for(mended, 60, f"{self.lost} lost writes to be mended", 0.05)
        assert self.m.metric("sink_write_lost", stats) == self.lost, (self.rounds, stats["metrics"]["sink_write_lost"])

    def expect_told(self, load):
        """Redis holds what the log says, and the lost writes are the same number wherever it is told."""
        self.wait_mended()
        stats = self.m.wait_drained(load.next_offset)
        judge(self.space.broker, self.space.topics, self.space.partitions, self.server, produced=load.published)
        assert self.m.metric("sink_write_lost", stats) == self.lost
        assert self.m.metric("sink_lease_expire", stats) == self.m.metric("supervisor_child_died", stats) == 0
        said = self.m.log_text()
        assert self.lost > 0 or self.m.metric("sink_mark_mismatch", stats) == 0
        assert ("sink.redis_lost_writes" in said) == ("sink.recovered" in said) == (self.lost > 0)
        if self.m.audited:
            self.expect_audited(load)
        assert self.m.drain() == 0
        print(f"{self.name or self.m.name}: {load.published} records, {len(self.rounds)} rounds, lost {self.rounds}, "
              f"{self.lost} written again")

    def expect_audited(self, load):
        """Every record once, and once more for each time that Redis lost it; every window closes."""
        metric = self.m.metric
        stats = self.m.wait_for(lambda s: metric("audit_entry", s) == load.published + self.lost, 20, "the log to close")
        assert metric("audit_entry_repeat", stats) == self.lost

        def report():
            done = self.m.run_command("recon", "--format", "json", "--all", "--check", "--records", timeout=60)
            return json.loads(done.stdout)
        seen = wait_until(lambda: (r := report()) and all(w["state"] == "matched" for w in r["windows"]) and r, 40,
                          lambda: f"every window to match: {report()}", 0.5)
        assert sum(w["published"] for w in seen["windows"]) == load.published
        assert sum(w["repeat"] for w in seen["windows"]) == self.lost
        assert not any(w["unexplained"] or w["unpublished"] or w["duplicate"] for w in seen["windows"])
        assert metric("recon_window_mismatch") == 0 and "recon.exception" not in self.m.log_text()


def together(trials, body):
    """Runs body(trial) for each at the same time: they mostly wait."""
    def run(trial):
        try:
            body(trial)
        except BaseException as e:  # raised below, in the test
            trial.failure = e
    threads = [threading.Thread(target=run, args=(t,), daemon=True) for t in trials]
    for t in threads:
        t.start()
    for t in threads:
        t.join(600 * TIMES)
        assert not t.is_alive(), "a trial hangs"
    for t in trials:
        if t.failure is not None:
            raise t.failure


def endless(space, rate, **more):
    """A load that goes on until end_load."""
    load = space.load(rate * 600 * TIMES, 600 * TIMES, seed=SEED, **more)
    load.start()
    return load


def end_load(load):
    assert load.live, "the load has ended before the faults"
    load.give_up()
    load.finish()
    return load


def tls_files(space):
    """For a RedisServer, and for the instance."""
    ca = Authority(space.folder / "ca")
    ca.make("redis", ["localhost"])
    ca.make("sink")
    return ((ca.folder / "redis.crt", ca.folder / "redis.key", ca.file),
            {"ca_file": str(ca.file), "cert_file": str(ca.folder / "sink.crt"), "key_file": str(ca.folder / "sink.key")})


def power_loss(server, rng):
    """The end of the append-only file never reached the disk. Returns how many bytes."""
    files = sorted((server.folder / "appendonlydir").glob("*.incr.aof"), key=lambda f: int(f.name.split(".")[-3]))
    size = files[-1].stat().st_size
    gone = min(size, rng.randrange(40_000))
    os.truncate(files[-1], size - gone)
    return gone


def test_killed_twenty_times_whatever_it_keeps(space):
    """With an append-only file that is always written (unix socket), one whose last part is lost (TLS), and none at all;
    one more is emptied now and then."""
    tls, files = tls_files(space)
    always = RedisServer(space.folder / "always", "--appendonly", "yes", "--appendfsync", "always", unix=True).start()
    everysec = RedisServer(space.folder / "everysec", "--appendonly", "yes", "--appendfsync", "everysec", tls=tls).start()
    nothing = RedisServer(space.folder / "nothing").start()
    flushed = RedisServer(space.folder / "flushed").start()
    space.topic(evidence="scan")
    trials = [Trial(space, always, name="always"), Trial(space, nothing, name="nothing"),
              Trial(space, everysec, Proxy(everysec), "everysec", redis={"tls": files}),
              Trial(space, flushed, name="flushed", audit="on")]
    load = endless(space, 120, keys=500)

    def round_of(trial, rng):
        if trial.name == "flushed":
            with trial.server.client() as client, client.pipeline(transaction=True) as p:
                p.mget([f"millrace:mark:{trial.m.group}:{space.topics[0].name}:{n}" for n in range(space.partitions)])
                p.flushall()
                values = p.execute()[0]
            return trial.count({n: int(v.split()[1]) for n, v in enumerate(values)}, dict.fromkeys(range(8), 0))
        if trial.name == "everysec":
            trial.address.switch(None)
        trial.server.kill()
        had = trial.acknowledged()
        if trial.name == "everysec":
            power_loss(trial.server, rng)
        trial.server.start()
        if trial.name == "nothing":
            return trial.count(had, dict.fromkeys(had, 0))
        lost = trial.count(had, trial.marks())
        if trial.name == "everysec":
            trial.address.switch(trial.server)
        return lost

    def body(trial):
        trial.begin()
        for _ in range((5 if trial.name == "flushed" else 20) * TIMES):
            connects = trial.m.metric("sink_redis_connect")
            time.sleep(trial.random.uniform(0, 0.3))
            round_of(trial, trial.random)
            trial.wait_mended(connects + (2 if trial.name != "flushed" else 0))
    together(trials, body)
    end_load(load)
    together(trials, lambda trial: trial.expect_told(load))
    lost = {t.name: t.rounds for t in trials}
    assert sum(lost["always"]) == 0 and all(n > 0 for n in lost["nothing"] + lost["flushed"])
    assert sum(n > 0 for n in lost["everysec"]) >= 10


def missing(server, topic, had):
    """How many records of the topic with a key for each are not in Redis, and were acknowledged."""
    with server.client() as client:
        keys = set(client.scan_iter("card:each:*", 5000))
    return sum(f"card:each:{p}:{offset}".encode() not in keys
               for (name, p), n in had.items() if name == topic.name for offset in range(n))


def test_replicas_that_lag_are_promoted(space):
    """Three times the master dies while its replica has not heard of the last moments, and the address moves there. Of
    one topic the keys tell, beside the marks, what is missing: no more than is counted, and less only by what came
    without its mark, of a batch in each lane at most."""
    quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
    server = RedisServer(space.folder / "redis0", *quick, name="redis0").start()
    space.topic(evidence="scan")
    each = space.topic(bulk_topic, "each", key="card:each:{$partition}:{$offset}", evidence="scan")
    load = endless(space, 400, keys=1000)
    trial = Trial(space, server, Proxy(server), audit="on").begin()
    for n in range(1, 3 * TIMES + 1):
        link = Proxy(trial.server)
        replica = RedisServer(space.folder / f"redis{n}", *quick, "--replicaof", "127.0.0.1", link.port,
                              name=f"redis{n}").start()
        with replica.client() as client:
            wait_until(lambda c=client: c.info("replication")["master_link_status"] == "up", 20, "the first copy")
            wait_until(lambda r=replica: sum(trial.marks(r).values()) > 0, 20, "the replica to follow")
            link.delay = trial.random.uniform(0.3, 1.5)
            before = sum(trial.marks().values())
            trial.m.wait_for(lambda s: sum(trial.marks().values()) > before + 200, 20, "more records")
            time.sleep(trial.random.uniform(0, 0.5))
            wait_until(lambda r=replica: sum(trial.marks().values()) - sum(trial.marks(r).values()) > 50, 20, "a lag", 0)
            trial.address.server = None  # no way back to it, should somebody start it again
            trial.server.kill()
            had = trial.acknowledged()
            link.stop()
            client.execute_command("REPLICAOF", "NO", "ONE")
            trial.server = replica
            has, gone = trial.marks(), missing(replica, each, had)
            assert trial.count(had, has) > 0, f"a lag of {link.delay} s and nothing was lost"
            counted = sum(max(0, n - has[place]) for place, n in had.items() if place[0] == each.name)
            assert gone <= counted <= gone + 2 * 100, (gone, counted)
            print(f"behind by {link.delay:.2f} s: of one topic {gone} keys are gone, {counted} writes counted")
        trial.address.switch(replica)
        trial.wait_mended()
    trial.expect_told(end_load(load))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_lines_that_break_anywhere_lose_nothing(space, tls):
    """After a random number of bytes, in either direction, of records, marks and greetings."""
    server_tls, files = tls_files(space) if tls else (None, None)
    server = RedisServer(space.folder / "redis", tls=server_tls).start()
    space.topic(evidence="scan")
    load = endless(space, 500, keys=1000)
    trial = Trial(space, server, Proxy(server), redis={"tls": files} if tls else {}).begin()
    for n in range(20 * TIMES):
        if n % 3:  # else wherever the greeting after the last cut has got to
            trial.m.wait_for(trial.running, 15, "the lanes to go on", 0.02)
        trial.address.cut(trial.random.choice(["requests", "answers"]), trial.random.randrange(2048))
        wait_until(lambda n=n: trial.address.cuts > n, 10, "the line to break", 0.01)
    assert trial.m.metric("sink_redis_connect") > 20 * TIMES
    trial.expect_told(end_load(load))


class Monitor(threading.Thread):
    """What a Redis executes, in its own order: (client's address, lane or None, command) of everything but reading."""

    LINE = re.compile(rb'^\+\S+ \[0 (\S+)\] "(\w+)"(?: "millrace:mark:[^"]*:(\d+)"| "SETNAME" "[^"]*:(\d)/2")?')

    def __init__(self, server):
        super().__init__(daemon=True)
        self.seen, self.ended = [], threading.Event()
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self.socket.sendall(b"MONITOR\r\n")
        self.file = self.socket.makefile("rb")
        assert self.file.readline() == b"+OK\r\n"

    def run(self):
        try:
            for line in self.file:
                if (found := self.LINE.match(line)) and found[2] not in (b"GET", b"mget", b"INFO"):
                    lane = int(found[4]) if found[4] else int(found[3]) % 2 if found[3] else None
                    self.seen.append((found[1], lane, found[2]))
        except OSError:
            pass  # end()

    def end(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.join(10)
        return self.seen


def out_of_turn(seen):
    """Commands of a lane's connection after a later one of the same lane has written, and how many connections wrote."""
    lanes, writers, late = {}, {0: [], 1: []}, []
    for address, lane, command in seen:
        lanes.setdefault(address, lane)
        if command not in (b"MSET", b"SET", b"DEL", b"MULTI", b"EXEC") or lanes[address] is None:
            continue
        order = writers[lanes[address]]
        if address not in order:
            order.append(address)
        elif address != order[-1]:
            late.append((address, command))
    return late, sum(map(len, writers.values()))


def test_commands_of_an_old_connection_never_come_after_those_of_the_new(space):
    """Redis stands still, or holds back what writes, or the network stands still with commands in it, for longer than the
    sink waits; then all go on."""
    server = RedisServer(space.folder / "redis").start()
    space.topic(evidence="scan")
    load = endless(space, 500, keys=200)
    trial = Trial(space, server, Proxy(server), redis={"response_timeout": "250ms"}).begin()
    monitor = Monitor(server)
    monitor.start()
    client = server.client()
    for n in range(9 * TIMES):
        connects = trial.m.metric("sink_redis_connect")
        if n % 3 == 2:
            server.pause()
            time.sleep(trial.random.uniform(0.4, 1.0))
            server.resume()
            trial.m.wait_for(trial.running, 15, "the lanes to go on", 0.02)
        elif n % 3 == 1:
            client.execute_command("CLIENT", "PAUSE", trial.random.randrange(400, 1000), "WRITE")
            trial.m.wait_for(lambda s, c=connects: trial.m.metric("sink_redis_connect", s) >= c + 2 and trial.running(s),
                             15, "both lanes to have a new connection", 0.02)
        else:
            let_go = trial.address.stall()
            trial.m.wait_for(lambda s, c=connects: trial.m.metric("sink_redis_connect", s) >= c + 2 and trial.running(s),
                             15, "both lanes to have a new connection", 0.02)
            time.sleep(trial.random.uniform(0, 0.3))
            let_go()
    trial.expect_told(end_load(load))
    late, writers = out_of_turn(monitor.end())
    assert not late, f"{len(late)} commands out of turn, of {writers} connections: {late[:5]}"
    assert writers > 3 * TIMES * 2 and trial.address.held > 1000, (writers, trial.address.held)


class Refusals:
    """What makes a real Redis refuse, and what ends it: pairs of methods, `x` and `x_ends`. Each has the words that the
    state of the sink must show as its documentation."""

    def __init__(self, trial):
        self.trial, self.server, self.folder = trial, trial.server, trial.server.folder / "rdb"
        self.client = trial.server.client()
        self.thread = None

    def config(self, **values):
        for name, value in values.items():
            self.client.config_set(name.replace("_", "-"), value)

    def kick(self):
        self.client.client_kill_filter(_type="normal", skipme=True)

    def user(self, *rules):
        assert self.client.execute_command("ACL", "SETUSER", "default", *rules) == b"OK"

    def aside(self, target, *args):
        self.thread = threading.Thread(target=target, args=args, daemon=True)
        self.thread.start()

    def no_memory(self):
        "OOM"
        self.config(maxmemory=1)

    def no_memory_ends(self):
        self.config(maxmemory=0)

    def demoted(self):
        "replica"
        self.client.execute_command("REPLICAOF", "127.0.0.1", 1)

    def demoted_ends(self):
        self.client.execute_command("REPLICAOF", "NO", "ONE")

    def no_replicas(self):
        "NOREPLICAS"
        self.config(min_replicas_to_write=1)

    def no_replicas_ends(self):
        self.config(min_replicas_to_write=0)

    def snapshot_fails(self):
        "MISCONF"
        self.folder.mkdir()
        self.config(dir=str(self.folder), save="3600 1")
        self.folder.rmdir()  # with the server in it: no file can be made there, by root neither
        self.client.bgsave()
        wait_until(lambda: self.client.info("persistence")["rdb_last_bgsave_status"] == "err", 10, "the snapshot to fail")

    def snapshot_fails_ends(self):
        self.config(dir=str(self.server.folder))
        wait_until(lambda: self.client.info("persistence")["rdb_bgsave_in_progress"] == 0, 10, "no snapshot")
        self.client.bgsave()
        wait_until(lambda: self.client.info("persistence")["rdb_last_bgsave_status"] == "ok", 10, "a snapshot")
        self.config(save="")

    def disk_full(self):
        "MISCONF"
        files = self.server.folder.glob("appendonlydir/*.incr.aof")
        resource.prlimit(self.server.process.pid, resource.RLIMIT_FSIZE,
                         (max(f.stat().st_size for f in files) + 5000, resource.RLIM_INFINITY))

    def disk_full_ends(self):
        resource.prlimit(self.server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    def busy(self):
        "BUSY"
        self.config(busy_reply_threshold=20)
        self.aside(self.script)

    def script(self):
        with self.server.client() as client:
            try:
                client.eval("while true do end", 0)
            except redis.exceptions.ResponseError:
                pass  # it is killed

    def busy_ends(self):
        self.client.script_kill()

    def loading(self):
        "loading its data"
        with self.client.pipeline(transaction=False) as p:
            for n in range(12_000):  # it looks at its clients after every 1,024 commands
                p.set(f"millrace:filling:{n}", "")
            p.execute()
        self.server.kill()
        self.server.args += ["--key-load-delay", "100"]
        self.aside(self.server.start)

    def loading_ends(self):
        self.thread.join()
        self.config(key_load_delay=0)
        del self.server.args[-2:]

    def password_set(self):
        "NOAUTH"
        self.config(requirepass="s3cret")
        self.kick()

    def password_set_ends(self):
        self.config(requirepass="")

    def full_of_clients(self):
        "maxclients"
        self.config(maxclients=1)
        self.kick()

    def full_of_clients_ends(self):
        self.config(maxclients=1000)

    def no_mset(self):
        "NOPERM"
        self.user("-mset")

    def no_transactions(self):
        "NOPERM"
        self.user("-multi")

    def no_marks(self):
        "NOPERM"
        self.user("resetkeys", "~card*")

    def nothing_but_marks(self):
        "NOPERM"
        self.user("resetkeys", "~millrace:mark:*")

    def no_mset_ends(self):
        self.user("allkeys", "+@all")

    no_transactions_ends = no_marks_ends = nothing_but_marks_ends = no_mset_ends

    def mark_in_the_way(self):
        "WRONGTYPE"
        self.key = f"millrace:mark:{self.trial.m.group}:{self.trial.space.topics[0].name}:3"
        self.client.eval("redis.call('RENAME', KEYS[1], 'aside') redis.call('RPUSH', KEYS[1], 'x')", 1, self.key)

    def mark_in_the_way_ends(self):
        self.client.rename("aside", self.key)


class PatientServer(RedisServer):
    """One that is told about a full disk, and does not die of it as a process does that writes beyond its limit."""

    def launch(self, argv, *args):
        return super().launch(["env", "--ignore-signal=XFSZ", *argv], *args)


def test_refusals_of_a_real_redis_hold_the_line_and_lose_nothing(space):
    server = PatientServer(space.folder / "redis", "--appendonly", "yes", "--appendfsync", "everysec",
                           "--enable-protected-configs", "yes").start()
    space.topic(evidence="scan")
    load = endless(space, 400, keys=2000)
    trial = Trial(space, server, audit="on").begin()
    refusals = Refusals(trial)
    names = [n for n in vars(Refusals) if hasattr(Refusals, n + "_ends")] * TIMES
    trial.random.shuffle(names)
    for name in names:
        impose, end = getattr(refusals, name), getattr(refusals, name + "_ends")
        impose()
        stats = trial.m.wait_for(lambda s, i=impose: any(i.__doc__ in w["reason"] for w in trial.sinks(s)), 15,
                                 f"{name}: a lane to stop with {impose.__doc__}", 0.02)
        states = {w["state"] for w in trial.sinks(stats) if impose.__doc__ in w["reason"]}
        assert states <= {"blocked", "connecting"}, (name, states)
        assert load.live
        end()
        trial.m.wait_for(trial.running, 15, f"the lanes to go on after {name}", 0.02)
    trial.expect_told(end_load(load))

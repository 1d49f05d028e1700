"""What a service manager is told: a real instance, and a datagram socket as systemd would have it."""

import pathlib
import shutil
import signal
import socket
import threading
import time

from harness.process import BUILD, wait_until

WATCHDOG_S = 4
SLOW_S = 1.5


class Manager(threading.Thread):
    """The other end of $NOTIFY_SOCKET. Keeps every message with the time of its arrival."""

    def __init__(self, path):
        super().__init__(name="service manager", daemon=True)
        self.path, self.messages, self.looked = str(path), [], 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)

    def env(self):
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(WATCHDOG_S * 1_000_000)}

    def run(self):
        while True:
            text = self.socket.recv(4096).decode("ascii")
            self.messages.append((time.monotonic(), text.splitlines()))

    def wait_line(self, beginning, seconds):
        """Goes through the messages, from where the last call ended, to one with a line that begins so."""
        def look():
            while self.looked < len(self.messages):
                at, lines = self.messages[self.looked]
                self.looked += 1
                for line in lines:
                    if line.startswith(beginning):
                        return at, line
            return None
        return wait_until(look, seconds, lambda: f"{beginning}; last: {self.messages[-10:]}", 0.01)

    def beside(self, beginning):
        """The line that begins so in the message that wait_line has found."""
        return next(line for line in self.messages[self.looked - 1][1] if line.startswith(beginning))

    def times(self, line):
        return [at for at, lines in self.messages if line in lines]


def slow_programs(folder):
    """The product's programs, with a transform that takes its time to start."""
    folder.mkdir()
    for name in ("millrace", "millrace-supervisor", "millrace-ingest", "millrace-sink"):
        shutil.copy(BUILD / name, folder)
    script = folder / "millrace-transform"
    script.write_text(f'#!/bin/sh\nsleep {SLOW_S}\nexec {BUILD}/millrace-transform "$@"\n', encoding="ascii")
    script.chmod(0o755)
    return folder


def test_service_manager_is_told_ready_status_watchdog_and_stopping(space):
    space.start_redis("--appendonly", "yes")
    space.topic(partitions=2)
    manager = Manager(space.folder / "notify")
    manager.start()
    m = space.millrace(lanes=2, env=manager.env(), build=slow_programs(space.folder / "programs")).start()
    started = time.monotonic()

    ready, _ = manager.wait_line("READY=1", 20)
    assert ready - started > SLOW_S, "ready when every worker is attached, and not before"
    for worker in m.stats()["workers"]:
        environment = pathlib.Path(f"/proc/{worker['pid']}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in environment and b"WATCHDOG" not in environment

    load = space.load(2000, 2, keys=300)
    load.start()
    _, line = manager.wait_line("STATUS=running; ", 15)
    assert " records/s to Redis, lag " in line, line
    load.finish()
    m.wait_drained(load.next_offset)

    space.redis.stop()
    _, line = manager.wait_line("STATUS=connecting: ", 10)
    assert "Redis" in line or "refused" in line, line
    space.redis.start()
    manager.wait_line("STATUS=running; ", 15)

    # A reload is told from its beginning to its end.
    m.write_config(redis={"batch": 50})
    m.process.signal(signal.SIGHUP)
    at, _ = manager.wait_line("RELOADING=1", 5)
    line = manager.beside("MONOTONIC_USEC=")
    assert abs(int(line.split("=")[1]) / 1e6 - at) < 1, line
    ready, _ = manager.wait_line("READY=1", 20)
    assert ready - at > SLOW_S
    manager.wait_line("STATUS=running; ", 15)

    # Fed at less than half of the interval, whatever happened meanwhile.
    wait_until(lambda: len(manager.times("WATCHDOG=1")) > 4, 3 * WATCHDOG_S, "the watchdog to be fed")
    fed = manager.times("WATCHDOG=1")
    gaps = [after - before for before, after in zip(fed, fed[1:])]
    assert max(gaps) < WATCHDOG_S / 2, gaps

    # A supervisor that does nothing says nothing: here systemd would end it.
    m.process.signal(signal.SIGSTOP)
    time.sleep(0.2)
    said = len(manager.messages)
    time.sleep(WATCHDOG_S / 2)
    assert manager.messages[said:] == []
    m.process.signal(signal.SIGCONT)
    wait_until(lambda: len(manager.messages) > said, 2, "a word of the supervisor")

    m.remember_pids()
    m.process.signal(signal.SIGTERM)
    manager.wait_line("STOPPING=1", 5)
    assert int(manager.beside("EXTEND_TIMEOUT_USEC=").split("=")[1]) > 30_000_000
    manager.wait_line("STATUS=draining; ", 5)
    assert m.wait_exit(40) == 0
    assert len(manager.times("READY=1")) == 2 and len(manager.times("STOPPING=1")) == 1
    space.judge(produced=2000)


def test_messages_are_optional_and_never_in_the_way(space):
    """A manager that reads nothing, and one that is gone, cost the pipeline nothing."""
    space.start_redis()
    space.topic(partitions=2)
    manager = Manager(space.folder / "notify")
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    filler.setblocking(False)
    try:
        while True:
            filler.sendto(b"X=1\n", manager.path)
    except BlockingIOError:
        pass
    m = space.millrace(env=manager.env()).start_ready()
    load = space.load(2000, 1, keys=300)
    load.run()
    m.wait_drained(load.next_offset)
    assert m.log_text().count(" supervisor.notify_failed ") == 1, "said once"
    manager.socket.close()
    assert m.drain() == 0
    space.judge(produced=2000)

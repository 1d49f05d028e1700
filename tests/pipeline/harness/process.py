"""Child processes that are always ended and reaped by their own pid, and waiting with a deadline."""

import os
import pathlib
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("MILLRACE_BUILD", ROOT / "build")).resolve()

started = []  # every Process of this session that was not ended yet, newest last


class TimedOut(AssertionError):
    pass


def wait_until(condition, timeout, what, interval=0.05):
    """Returns the first true value of condition(); raises TimedOut, naming what was waited for, after timeout s."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimedOut(f"waited {timeout} s for: {what() if callable(what) else what}")
        time.sleep(interval)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def process_gone(pid):
    """True when no process has this pid, or only a zombie that somebody else has to reap."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rsplit(b")", 1)[1].split()[0] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True


class Process:
    """One child. Its output goes to a file, of which failures show the tail."""

    shared = False  # by all tests of the session: not ended after each

    def __init__(self, name, argv, log, env=None, cwd=None):
        self.name, self.argv, self.log = name, [str(a) for a in argv], pathlib.Path(log)
        self.env, self.cwd, self.child = env, cwd, None

    def start(self):
        assert self.child is None, f"{self.name} was started already"
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          env=self.env, cwd=self.cwd)
        started.append(self)
        return self

    @property
    def pid(self):
        return self.child.pid

    def alive(self):
        return self.child is not None and self.child.poll() is None

    def signal(self, number):
        os.kill(self.child.pid, number)

    def wait(self, timeout):
        """Reaps. Returns the exit status, negative for a signal; raises TimedOut when it is still there."""
        try:
            status = self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"{self.name} (pid {self.child.pid}) has not ended after {timeout} s") from None
        if self in started:
            started.remove(self)
        return status

    def terminate(self, timeout=30):
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self):
        """SIGKILL, also from a stopped state, and reaps. Nothing when it is not there."""
        if self.child is None:
            return
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGKILL)
        self.wait(20)

    def stop_forgotten(self):
        """What a test that failed half-way leaves behind is ended here."""
        self.kill()

    def tail(self, lines=60):
        try:
            with open(self.log, "rb") as f:
                f.seek(0, os.SEEK_END)
                f.seek(max(0, f.tell() - 65536))
                text = f.read().decode("utf-8", "replace")
        except FileNotFoundError:
            text = ""
        return "\n".join(text.splitlines()[-lines:])


class Server:
    """A server with a folder of its own. Subclasses say how it is started and when it answers."""

    def __init__(self, folder, name):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name, self.process = name, None

    def launch(self, argv, log, timeout, interval=0.05):
        """Returns when it answers. The data of an earlier start is still there."""
        self.process = Process(self.name, argv, self.folder / log).start()
        try:
            wait_until(self._alive_and_answers, timeout, f"{self.name} to answer", interval)
        except TimedOut as e:
            raise TimedOut(f"{e}\n{self.process.tail()}") from None
        return self

    def _alive_and_answers(self):
        if not self.process.alive():
            raise TimedOut(f"{self.name} ended with {self.process.child.returncode}")
        return self.answers()

    def answers(self):
        raise NotImplementedError

    def stop(self):
        self.process.terminate(30)

    def kill(self):
        self.process.kill()

    def pause(self):
        self.process.signal(signal.SIGSTOP)

    def resume(self):
        self.process.signal(signal.SIGCONT)

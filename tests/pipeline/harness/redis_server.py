"""A real redis-server, on TCP or a unix socket, with data of its own."""

import pathlib
import signal

import redis

from .process import Process, TimedOut, free_port, wait_until


class RedisServer:
    def __init__(self, folder, *args, unix=False, password=None, name="redis"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.args, self.password, self.name = [str(a) for a in args], password, name
        self.port = 0 if unix else free_port()
        self.socket = self.folder / "redis.sock" if unix else None
        self.process, self.db = None, 0

    def url(self, password=True):
        secret = f":{self.password}@" if self.password and password else ""
        return f"unix://{secret}{self.socket}" if self.socket else f"redis://{secret}127.0.0.1:{self.port}/0"

    def start(self):
        argv = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "",
                "--daemonize", "no", "--maxmemory-policy", "noeviction"]
        if self.socket:
            argv += ["--unixsocket", self.socket]
        if self.password:
            argv += ["--requirepass", self.password]
        self.process = Process(self.name, argv + self.args, self.folder / "redis.log").start()
        try:
            wait_until(self._answers, 20, "redis-server to answer")
        except TimedOut as e:
            raise TimedOut(f"{e}\n{self.process.tail()}") from None
        return self

    def _answers(self):
        if not self.process.alive():
            raise TimedOut(f"redis-server ended with {self.process.child.returncode}\n{self.process.tail()}")
        try:
            with self.client() as c:
                return c.ping()
        except redis.exceptions.RedisError:
            return False

    def client(self):
        """A connection of the tests' own. Replies are bytes."""
        more = {"password": self.password, "socket_timeout": 20, "socket_connect_timeout": 5, "db": self.db}
        if self.socket:
            return redis.Redis(unix_socket_path=str(self.socket), **more)
        return redis.Redis(host="127.0.0.1", port=self.port, **more)

    def stop(self):
        self.process.terminate(20)

    def kill(self):
        self.process.kill()

    def pause(self):
        self.process.signal(signal.SIGSTOP)

    def resume(self):
        self.process.signal(signal.SIGCONT)

"""A real redis-server, on TCP or a unix socket, with data of its own."""

import redis

from .process import Server, free_port


class RedisServer(Server):
    """tls: the certificate and key files to use, and the authority of clients, which have to show a certificate."""

    def __init__(self, folder, *args, unix=False, password=None, tls=None, name="redis"):
        super().__init__(folder, name)
        self.args, self.password = [str(a) for a in args], password
        self.port = 0 if unix else free_port()
        self.socket = self.folder / "redis.sock" if unix else None
        self.db, self.tls = 0, tls
        self.tls_port = free_port() if tls else None

    def url(self, password=True):
        secret = f":{self.password}@" if self.password and password else ""
        if self.tls:
            return f"rediss://{secret}localhost:{self.tls_port}/0"
        return f"unix://{secret}{self.socket}" if self.socket else f"redis://{secret}127.0.0.1:{self.port}/0"

    def start(self):
        argv = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "",
                "--daemonize", "no", "--maxmemory-policy", "noeviction"]
        if self.socket:
            argv += ["--unixsocket", self.socket]
        if self.tls:
            certificate, key, authority = self.tls
            argv += ["--tls-port", self.tls_port, "--tls-cert-file", certificate, "--tls-key-file", key,
                     "--tls-ca-cert-file", authority]
        if self.password:
            argv += ["--requirepass", self.password]
        return self.launch(argv + self.args, "redis.log", 20)

    def answers(self):
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

"""A broker behind a line that can be slow, or cut: its own clients go straight to it, an instance over the line."""

import socket
import threading
import time

from .broker import Broker
from .process import free_port
from .proxy import end, receive


class Link:
    """Forwards TCP to 127.0.0.1:port. delay: seconds that each piece of up to 64 KiB takes in either direction;
    bytes_per_second: how much goes through at most, per connection and direction (0: no limit)."""

    def __init__(self, port, at=0):
        self.upstream_port, self.delay, self.bytes_per_second, self.whole = port, 0.0, 0, True
        self.open, self.lock = [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", at))
        self.port = self.listener.getsockname()[1]
        self._thread(self._accept)

    def slow(self, delay, bytes_per_second=0):
        self.delay, self.bytes_per_second = delay, bytes_per_second

    def cut(self):
        """Ends what is connected; who connects is turned away."""
        with self.lock:
            self.whole = False
            for s in self.open:
                end(s)
            self.open.clear()

    def mend(self):
        self.whole = True

    def stop(self):
        self.listener.close()
        self.cut()

    @staticmethod
    def _thread(target, *args):
        threading.Thread(target=target, args=args, name="link", daemon=True).start()

    def _accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            with self.lock:
                if not self._connected(client):
                    client.close()

    def _connected(self, client):
        if not self.whole:
            return False
        try:
            upstream = socket.create_connection(("127.0.0.1", self.upstream_port), 5)
        except OSError:
            return False
        upstream.settimeout(None)
        self.open += [client, upstream]
        self._thread(self._carry, client, upstream)
        self._thread(self._carry, upstream, client)
        return True

    def _carry(self, source, target):
        while data := receive(source):
            pause = self.delay + (len(data) / self.bytes_per_second if self.bytes_per_second else 0)
            if pause:
                time.sleep(pause)
            try:
                target.sendall(data)
            except OSError:
                break
        end(source)
        end(target)


class LinkedBroker(Broker):
    """`far` is the address that an instance is given: everything it has with the broker goes over `link`."""

    def __init__(self, folder, name="linked-kafka"):
        super().__init__(folder, name)
        port = free_port()
        self.link = Link(port)
        doors = f"PLAINTEXT://127.0.0.1:{self.port}"
        (self.folder / "more.properties").write_text(
            f"listeners={doors},FAR://127.0.0.1:{port},CONTROLLER://127.0.0.1:{self.controller_port}\n"
            f"advertised.listeners={doors},FAR://127.0.0.1:{self.link.port}\n"
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            "inter.broker.listener.name=PLAINTEXT\n"
            "log.cleaner.backoff.ms=200\n", encoding="ascii")

    @property
    def far(self):
        return f"127.0.0.1:{self.link.port}"

"""What stands between an instance and the Redis of the day: an address that can point to another server."""

import socket
import threading


class Pair:
    def __init__(self, client):
        self.client, self.upstream = client, None


class Proxy:
    """Forwards TCP to a server on 127.0.0.1. switch() points it elsewhere, as a failover does."""

    def __init__(self, server):
        self.server, self.pairs, self.lock = server, [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._thread(self._accept)

    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self):
        return self.server.client()

    def switch(self, server, keep=False):
        """keep: connections stay open, and their next bytes go to the new server; nothing may be under way then."""
        with self.lock:
            self.server = server
            for pair in list(self.pairs):
                old = pair.upstream
                if not keep or not self._connect(pair):
                    self._drop(pair)
                end(old)

    def stop(self):
        self.listener.close()
        with self.lock:
            for pair in list(self.pairs):
                self._drop(pair)

    @staticmethod
    def _thread(target, *args):
        threading.Thread(target=target, args=args, name="proxy", daemon=True).start()

    def _accept(self):
        while True:
            try:
                pair = Pair(self.listener.accept()[0])
            except OSError:
                return
            with self.lock:
                self.pairs.append(pair)
                if self._connect(pair):
                    self._thread(self._requests, pair)
                else:
                    self._drop(pair)

    def _connect(self, pair):
        try:
            pair.upstream = socket.create_connection(("127.0.0.1", self.server.port), 5)
        except OSError:
            return False
        pair.upstream.settimeout(None)
        self._thread(self._answers, pair, pair.upstream)
        return True

    def _drop(self, pair):
        if pair in self.pairs:
            self.pairs.remove(pair)
        end(pair.client)
        end(pair.upstream)

    def _requests(self, pair):
        while data := receive(pair.client):
            with self.lock:
                upstream = pair.upstream
            try:
                upstream.sendall(data)
            except OSError:
                break
        with self.lock:
            self._drop(pair)

    def _answers(self, pair, upstream):
        while data := receive(upstream):
            try:
                pair.client.sendall(data)
            except OSError:
                break
        with self.lock:
            if pair.upstream is upstream:
                self._drop(pair)


def receive(s):
    try:
        return s.recv(65536)
    except OSError:
        return b""


def end(s):
    try:
        if s is not None:
            s.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass

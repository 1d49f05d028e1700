"""What stands between an instance and the Redis of the day: an address that can point to another server, a slow line,
a line that breaks after so many bytes."""

import queue
import socket
import threading
import time


class Pair:
    def __init__(self, client):
        self.client, self.upstream = client, None
        self.open = threading.Event()
        self.open.set()


class Proxy:
    """Forwards TCP to a server on 127.0.0.1, its port for TLS when it has one. switch() points it elsewhere, as a
    failover does. `delay` (seconds) holds back what the server sends, which is lost when the connection ends."""

    def __init__(self, server):
        self.server, self.pairs, self.lock = server, [], threading.Lock()
        self.delay, self.left, self.cuts, self.held = 0, {}, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._thread(self._accept)

    def url(self):
        if self.server.tls:
            return f"rediss://localhost:{self.port}/0"
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self):
        return self.server.client()

    def cut(self, direction, after):
        """`after` more bytes of all "requests" or "answers" pass; with the next one every connection ends, once."""
        with self.lock:
            self.left = {direction: after}

    def stall(self):
        """What the connections of this moment send arrives after let_go(), also when they have ended by then: a network
        that stood still. Those made later work. `held` counts its bytes."""
        with self.lock:
            stalled = list(self.pairs)
            for pair in stalled:
                pair.open.clear()

        def let_go():
            for pair in stalled:
                pair.open.set()
        return let_go

    def switch(self, server, keep=False):
        """None: connections are ended as soon as they are made. keep: they stay open, and their next bytes go to the
        new server; nothing may be under way then."""
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
            if self.server is None:
                return False
            port = self.server.tls_port or self.server.port
            pair.upstream = socket.create_connection(("127.0.0.1", port), 5)
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

    def _pass(self, direction, target, data):
        """Sends on what may pass. False: the line is cut."""
        with self.lock:
            left = self.left.get(direction, len(data))
            passed = data[:left]
            if direction in self.left:
                self.left[direction] -= len(passed)
        target.sendall(passed)
        if len(passed) == len(data):
            return True
        with self.lock:
            self.left.clear()
            self.cuts += 1
            for pair in list(self.pairs):
                self._drop(pair)
        return False

    def _requests(self, pair):
        while data := receive(pair.client):
            if not pair.open.is_set():
                self.held += len(data)
                pair.open.wait()
            with self.lock:
                upstream = pair.upstream
            try:
                if not self._pass("requests", upstream, data):
                    return
            except OSError:
                break
        with self.lock:
            self._drop(pair)

    def _answers(self, pair, upstream):
        line = queue.SimpleQueue()
        self._thread(self._late, pair, upstream, line)
        while data := receive(upstream):
            line.put((time.monotonic() + self.delay, data))
        with self.lock:
            if pair.upstream is upstream and self.delay:
                self._drop(pair)
        line.put((0, b""))

    def _late(self, pair, upstream, line):
        while data := (arrived := line.get())[1]:
            time.sleep(max(0.0, arrived[0] - time.monotonic()))
            try:
                if not self._pass("answers", pair.client, data):
                    return
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

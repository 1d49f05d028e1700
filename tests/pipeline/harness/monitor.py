"""Everything that Redis was told, in the order in which it did it: what MONITOR says, kept in a file and read at the
end."""

import collections
import os
import re
import socket
import threading
import time

LINE = re.compile(rb"^\+?\d+\.\d+ \[\d+ ([^\]]+)\] (.*)$")
VERSION = re.compile(rb'\\"version\\": ?(\d+)')
LANE = re.compile(rb'^"client" "setname" "millrace:.*:(\d+)/\d+"', re.IGNORECASE)
WRITE = re.compile(rb'^"(set|mset|del|hset)"', re.IGNORECASE)


class Monitor(threading.Thread):
    """Connections are told apart by their address, so Redis has to be on TCP."""

    def __init__(self, redis_server, path):
        super().__init__(name="monitor", daemon=True)
        self.path, self.redis = path, redis_server
        self.socket = socket.create_connection(("127.0.0.1", redis_server.port))
        self.socket.sendall(b"MONITOR\r\n")
        self.file = open(path, "wb", buffering=0)
        self.calls = self.read_up_to = 0
        self.start()

    def run(self):
        while data := self.socket.recv(1 << 20):
            self.file.write(data)

    def lines(self):
        """(address, what it said) of everything that was done since the last call, and before this one."""
        self.calls += 1
        end = b"the end of part %d" % self.calls
        with self.redis.client() as client:
            client.echo(end)
        with open(self.path, "rb") as f:
            f.seek(self.read_up_to)
            while True:
                line = f.readline()
                if not line.endswith(b"\n"):
                    f.seek(-len(line), os.SEEK_CUR)
                    time.sleep(0.01)
                    continue
                found = LINE.match(line)
                if found:
                    yield found.groups()
                if end in line:
                    self.read_up_to = f.tell()
                    return


class Replay:
    """What the sinks sent, held against what was published. sent: {partition: [version, …]}, the versions of its adds
    and updates in their order; lane_of: partition -> lane.

    Per partition, what a connection sends has no gap and no step back; a new connection may begin earlier than the one
    before it had come, never later, and that is what was sent again (`again`, a count per connection)."""

    def __init__(self, sent, lane_of):
        self.sent, self.lane_of = sent, lane_of
        self.place = {}
        self.come = collections.Counter()  # partition -> how many of its versions Redis has seen
        self.at = {}  # (connection, partition) -> index it sent last
        self.lane = {}  # address -> (connection, lane), as it named itself last: a port may be used again
        self.names = 0
        self.connections = collections.defaultdict(list)  # lane -> those that have sent data, in order
        self.again = collections.Counter()
        self.failures = []

    def read(self, monitor):
        """More of the story; `sent` may have grown."""
        self.place = {v: (p, i) for p, versions in self.sent.items() for i, v in enumerate(versions)}
        for address, said in monitor.lines():
            name = LANE.match(said)
            if name:
                self.names += 1
                self.lane[address] = f"{address.decode()}#{self.names}", int(name.group(1))
            elif address in self.lane and WRITE.match(said):
                self.take(address, said)
        return self

    def missing(self):
        """{partition: (versions that Redis has seen, versions that were published)}, where they differ."""
        return {p: (self.come[p], len(versions)) for p, versions in self.sent.items() if self.come[p] != len(versions)}

    def take(self, address, said):
        connection, lane = self.lane[address]
        known = self.connections[lane]
        versions = VERSION.findall(said)
        if versions and (not known or known[-1] != connection):
            if connection in known:
                self.failures.append(f"{connection} writes after {known[-1]} has begun")
            else:
                known.append(connection)
        for version in map(int, versions):
            self.version(connection, lane, version)

    def version(self, connection, lane, version):
        partition, index = self.place[version]
        if self.lane_of(partition) != lane:
            self.failures.append(f"lane {lane} has written partition {partition}")
        before = self.at.get((connection, partition))
        if before is None and index > self.come[partition] or before is not None and index != before + 1:
            self.failures.append(f"partition {partition}: {index} by {connection} after {before}, "
                                 f"of {self.come[partition]}")
        self.at[connection, partition] = index
        if index < self.come[partition]:
            self.again[connection] += 1
        else:
            self.come[partition] = index + 1

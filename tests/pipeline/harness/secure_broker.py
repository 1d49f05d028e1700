"""A broker with doors of every kind: TLS with passwords, TLS with client certificates, TLS that went wrong."""

import socket
import struct

from .broker import Broker
from .certificates import Authority
from .process import free_port

USERS = {"alice": "al1ce-canary-4711", "bob": "b0b-canary-0815"}
HERE = ["localhost", "127.0.0.1"]


class SecureBroker(Broker):
    """The harness itself uses the plain listener, where everybody is a super user."""

    LISTENERS = {"PASSWORD": "SASL_SSL", "CERTIFICATE": "SSL", "EXPIRED": "SSL", "MISNAMED": "SSL"}

    def __init__(self, folder, name="secure-kafka"):
        super().__init__(folder, name)
        self.ca, self.other_ca = Authority(self.folder / "ca"), Authority(self.folder / "other", "other-ca")
        self.ca.make("broker", HERE)
        self.ca.make("expired", HERE, days=(-30, -1))
        self.ca.make("misnamed", ["elsewhere.test"])
        self.ports = {name: free_port() for name in self.LISTENERS}
        (self.folder / "more.properties").write_text("\n".join(self._properties()) + "\n", encoding="ascii")

    def _properties(self):
        ca = self.ca.folder
        doors = [f"PLAINTEXT://127.0.0.1:{self.port}"] + [f"{n}://127.0.0.1:{p}" for n, p in self.ports.items()]
        kinds = ["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT"] + [f"{n}:{k}" for n, k in self.LISTENERS.items()]
        yield f"listeners={','.join(doors)},CONTROLLER://127.0.0.1:{self.controller_port}"
        yield f"advertised.listeners={','.join(doors)}"
        yield f"listener.security.protocol.map={','.join(kinds)}"
        yield "inter.broker.listener.name=PLAINTEXT"
        for listener, certificate in (("password", "broker"), ("certificate", "broker"), ("expired", "expired"),
                                      ("misnamed", "misnamed")):
            of = f"listener.name.{listener}"
            yield f"{of}.ssl.keystore.type=PEM"
            yield f"{of}.ssl.keystore.location={ca / certificate}.pem"
            yield f"{of}.ssl.truststore.type=PEM"
            yield f"{of}.ssl.truststore.location={self.ca.file}"
        yield "listener.name.certificate.ssl.client.auth=required"
        of, login = "listener.name.password", "org.apache.kafka.common.security"
        plain = " ".join(f'user_{user}="{password}"' for user, password in USERS.items())
        yield f"{of}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
        yield f"{of}.plain.sasl.jaas.config={login}.plain.PlainLoginModule required {plain};"
        for n in (256, 512):
            yield f"{of}.scram-sha-{n}.sasl.jaas.config={login}.scram.ScramLoginModule required;"
        yield "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
        yield "super.users=User:ANONYMOUS"

    def format_arguments(self):
        return [a for user, password in USERS.items() for n in (256, 512)
                for a in ("--add-scram", f"SCRAM-SHA-{n}=[name={user},password={password}]")]

    def at(self, listener):
        return f"127.0.0.1:{self.ports[listener]}"

    def allow(self, principals, topic=None, group=None, prefixed=False):
        """Lets them read topics and be in groups of this name, or of names that begin so. The request itself, for the
        tool of Kafka takes seconds to start: CreateAcls version 1, an answer per entry."""
        def text(s):
            return struct.pack(">h", len(s)) + s.encode()
        read, yes, pattern = 3, 3, 4 if prefixed else 3
        entries = [struct.pack(">b", kind) + text(name) + struct.pack(">b", pattern) + text(f"User:{p}") + text("*") +
                   struct.pack(">bb", read, yes)
                   for p in principals for kind, name in ((2, topic), (3, group)) if name is not None]
        request = struct.pack(">hhi", 30, 1, 1) + text("tests") + struct.pack(">i", len(entries)) + b"".join(entries)
        with socket.create_connection(("127.0.0.1", self.port), 10) as s, s.makefile("rb") as answers:
            s.settimeout(20)
            s.sendall(struct.pack(">i", len(request)) + request)
            answer = answers.read(struct.unpack(">i", answers.read(4))[0])
        correlation, _, count = struct.unpack_from(">iii", answer)
        assert (correlation, count) == (1, len(entries)), answer
        at = 12
        for _ in entries:
            code, length = struct.unpack_from(">hh", answer, at)
            assert code == 0, answer
            at += 4 + max(length, 0)

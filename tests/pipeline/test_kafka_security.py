"""TLS and SASL against a real broker: what works end to end, and what is said when it does not."""

import json
import time

import pytest

from harness.process import wait_until
from harness.secure_broker import USERS, SecureBroker

SECRETS = [*USERS.values(), "wr0ng-canary-2231", "k3y-canary-6120"]


@pytest.fixture(scope="module")
def secure(session_folder):
    b = SecureBroker(session_folder / "secure-kafka").start()
    b.process.shared = True
    # As docs/kafka.md has it: to read the topics, and to be in the group.
    b.allow(["alice", "CN=client"], topic="t", group="group", prefixed=True)
    yield b
    b.stop()


def password_file(space, name, text):
    path = space.folder / name
    path.touch(0o600)
    path.write_text(text + "\n", encoding="ascii")
    return str(path)


def login(space, broker, user, mechanism="SCRAM-SHA-512", password=None, listener="PASSWORD", ca=None):
    name = f"{user}.password" if password is None else f"{user}.wrong"
    return {"bootstrap.servers": broker.at(listener), "security.protocol": "SASL_SSL", "sasl.mechanism": mechanism,
            "sasl.username": user, "sasl.password_file": password_file(space, name, password or USERS[user]),
            "ssl.ca.location": str(ca or broker.ca.file), "ssl.endpoint.identification.algorithm": "https"}


def tls(broker, listener, ca=None):
    return {"bootstrap.servers": broker.at(listener), "security.protocol": "SSL",
            "ssl.ca.location": str(ca or broker.ca.file), "ssl.endpoint.identification.algorithm": "https"}


def no_secret(m):
    seen = {"log": m.log_text(), "stats": json.dumps(m.stats()), "check": m.run_command("check").stdout,
            "table": m.run_command("stats").stdout}
    for where, text in seen.items():
        for secret in SECRETS:
            assert secret not in text, f"a secret is in the {where}"


def works(space, m, count=400):
    m.start_ready()
    load = space.load(count, keys=100)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset, 30)
    space.judge(produced=count)
    assert m.worker("ingest")["state"] == "running"
    no_secret(m)
    assert m.drain() == 0


def reads_the_record_of_the_mark(space, m):
    """By the second consumer, which lives for this question only: with a wrong time in a mark the topic is another."""
    with space.redis.client() as client:
        mark = next(k for k in client.scan_iter(b"millrace:mark:*") if not client.get(k).endswith(b" -"))
        client.set(mark, client.get(mark).rsplit(b":", 1)[0] + b":1")
    m.start_ready()
    wait_until(lambda: "ingest.topic_other" in m.log_text(), 10, "the record to be read")
    no_secret(m)
    assert m.drain() == 0


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
def test_password_over_tls(space, secure, mechanism):
    space.broker = secure
    space.start_redis()
    space.topic()
    m = space.millrace(kafka=login(space, secure, "alice", mechanism))
    works(space, m)
    reads_the_record_of_the_mark(space, m)


def test_client_certificate_with_an_encrypted_key(space, secure):
    space.broker = secure
    space.start_redis()
    space.topic()
    cert, key = secure.ca.make("client", password="k3y-canary-6120")
    m = space.millrace(kafka={
        **tls(secure, "CERTIFICATE"), "ssl.certificate.location": str(cert), "ssl.key.location": str(key),
        "ssl.key.password_file": password_file(space, "key.password", "k3y-canary-6120")})
    works(space, m)
    reads_the_record_of_the_mark(space, m)


def test_what_only_a_person_can_mend_is_said_and_no_storm(space, secure):
    """All at once, each an instance of its own: state, message, and how much they log in ten seconds."""
    space.broker = secure
    space.start_redis()
    space.topic(partitions=2)
    foreign, foreign_key = secure.other_ca.make("foreign-client")
    cases = {
        "wrong-password": (login(space, secure, "alice", password="wr0ng-canary-2231"), "invalid credentials"),
        "other-authority": (login(space, secure, "alice", ca=secure.other_ca.file),
                            "its certificate comes from an authority that is not trusted: see kafka.ssl.ca.location"),
        "expired": (tls(secure, "EXPIRED"), "its certificate has expired"),
        "misnamed": (tls(secure, "MISNAMED"), "its certificate is for another name than this"),
        "no-certificate": (tls(secure, "CERTIFICATE"), "refuses our certificate, or demands one"),
        "foreign-certificate": ({**tls(secure, "CERTIFICATE"), "ssl.certificate.location": str(foreign),
                                 "ssl.key.location": str(foreign_key)}, "refuses our certificate, or demands one"),
        "no-permission": (login(space, secure, "bob"), "Group authorization failed: the user lacks a permission"),
    }
    instances = {name: space.millrace(name=name, group=f"other.{name}", kafka=kafka)
                 for name, (kafka, _) in cases.items()}
    for m in instances.values():
        m.start()
    for name, m in instances.items():
        said = cases[name][1]

        def shown(stats, said=said):
            w = m.worker("ingest", stats=stats) if len(stats["workers"]) == 3 else None
            return w and w["state"] == "blocked" and said in w["reason"]
        m.wait_for(shown, 20, f"{name}: blocked: {said}")
    before = {name: len(m.log_text().splitlines()) for name, m in instances.items()}
    time.sleep(10)
    for name, m in instances.items():
        lines = m.log_text().splitlines()
        assert len(lines) - before[name] <= 10, f"{name}: a storm\n" + "\n".join(lines[before[name]:])
        assert cases[name][1] in m.log_text(), f"{name}: not in the log"
        assert m.worker("ingest")["starts"] == 1
        no_secret(m)
    for m in instances.values():
        assert m.drain() == 0


def test_permission_that_is_given_later_lets_the_instance_go_on(space, secure):
    space.broker = secure
    space.start_redis()
    topic = space.topic(partitions=2)
    group = "late"
    secure.allow(["bob"], group=group)
    m = space.millrace(group=group, kafka={**login(space, secure, "bob"), "topic.metadata.refresh.interval.ms": 2000})
    m.start()

    def refused(stats):
        w = m.worker("ingest", stats=stats) if len(stats["workers"]) == 3 else None
        return w and w["state"] == "blocked" and "Topic authorization failed: the user lacks" in w["reason"]
    m.wait_for(refused, 20, "blocked for want of a permission")
    secure.allow(["bob"], topic=topic.name)
    load = space.load(100, keys=20)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset, 40)
    space.judge(produced=100)
    assert m.worker("ingest")["state"] == "running"
    no_secret(m)
    assert m.drain() == 0


def test_password_that_changes_while_running(space, secure):
    """The brokers come back with another password: the partitions are lost, the reason is shown, and all goes on with
    the right one."""
    space.broker = secure
    space.start_redis()
    space.topic(partitions=2)
    m = space.millrace(kafka={**login(space, secure, "alice", "PLAIN"), "session.timeout.ms": 4000}).start_ready()
    load = space.load(200, keys=20)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset, 30)
    properties = secure.folder / "more.properties"
    right = properties.read_text()

    def restart(text):
        secure.stop()
        properties.write_text(text)
        secure.start()
        secure.process.shared = True
    restart(right.replace(USERS["alice"], "another"))
    m.wait_for(lambda s: m.worker("ingest", stats=s)["state"] == "blocked" and
               "Invalid username or password" in m.worker("ingest", stats=s)["reason"], 20, "blocked for the password")
    lines = len(m.log_text().splitlines())
    time.sleep(5)
    assert len(m.log_text().splitlines()) - lines <= 6, m.process.tail(20)
    restart(right)
    m.wait_for(lambda s: m.worker("ingest", stats=s)["state"] == "running", 30, "ingest to go on")
    no_secret(m)
    assert m.drain() == 0

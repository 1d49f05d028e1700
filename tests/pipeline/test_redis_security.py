"""Redis behind TLS and with the least rights: the rule set is the one that docs/redis.md gives out, word for word."""

import json
import re
import time

import pytest

from harness.certificates import Authority
from harness.generator import bulk_topic, change_topic
from harness.process import ROOT

PASSWORD, CONFIG = "l3ast-canary-5512", 78


def documented_rules(password):
    """The command of the page, with this password; its patterns are those of the tests' keys."""
    page = (ROOT / "docs/redis.md").read_text(encoding="utf-8")
    block = re.search(r"```\n(ACL SETUSER millrace on >PASSWORD .*?)```", page, re.DOTALL)
    assert block, "the page has lost the rule set"
    words = block.group(1).split()
    assert "~card:*" in words and "-@all" in words
    return [f">{password}" if w == ">PASSWORD" else w for w in words]


@pytest.fixture
def authority(space):
    ca = Authority(space.folder / "ca")
    ca.make("redis", ["localhost", "127.0.0.1"])
    ca.make("sink")
    ca.make("expired", ["localhost"], days=(-30, -1))
    return ca


def start_redis(space, ca=None, certificate="redis"):
    of = ca.folder if ca else None
    server = space.start_redis(tls=ca and (of / f"{certificate}.crt", of / f"{certificate}.key", ca.file))
    with server.client() as c:
        assert c.execute_command(*documented_rules(PASSWORD)) == b"OK"
    return server


def settings(space, ca=None, password=PASSWORD, **tls):
    path = space.folder / "redis.password"
    path.touch(0o600)
    path.write_text(password + "\n", encoding="ascii")
    files = {"ca_file": str(ca.file), "cert_file": str(ca.folder / "sink.crt"),
             "key_file": str(ca.folder / "sink.key")} if ca else {}
    more = {"tls": {**files, **tls}} if ca else {}
    return {"url": space.redis.url(), "user": "millrace", "password_file": str(path), **more}


def no_secret(m):
    for text in (m.log_text(), json.dumps(m.stats_or_none()), m.run_command("check").stdout):
        assert PASSWORD not in text and "PRIVATE KEY" not in text


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_documented_rules_are_enough(space, request, tls):
    ca = request.getfixturevalue("authority") if tls else None
    start_redis(space, ca)
    space.topic(bulk_topic, "bulk", key="card:bulk:{account}:{card_no}")
    space.topic(change_topic, "change", ttl="1h")
    m = space.millrace(lanes=2, redis=settings(space, ca)).start_ready()
    load = space.load(3000, seconds=2, keys=200)
    load.start()
    m.kill_worker("sink", 0)
    m.kill_worker("sink", 1)
    load.finish()
    m.wait_drained(load.next_offset)
    expected, _ = space.judge(produced=3000)
    assert any(k.startswith(b"card:bulk:") for k in expected) and any(not k.startswith(b"card:bulk:") for k in expected)
    done = m.run_command("get", next(iter(expected)).decode())
    assert done.returncode == 0, done.stderr
    stats = m.stats()
    assert m.metric("sink_redis_error_reply", stats) == 0
    assert all(w["state"] == "running" for w in stats["workers"]), stats["workers"]
    no_secret(m)
    assert m.drain() == 0


def test_user_disabled_while_running_and_back(space, authority):
    server = start_redis(space, authority)
    space.topic()
    m = space.millrace(redis=settings(space, authority)).start_ready()
    load = space.load(1000, seconds=4, keys=50)
    load.start()
    m.wait_for(lambda s: m.metric("sink_record_applied", s) > 0, 20, "the first records in Redis")
    with server.client() as c:
        c.execute_command("ACL", "SETUSER", "millrace", "off")
        c.execute_command("CLIENT", "KILL", "USER", "millrace")
    m.wait_for(lambda s: m.worker("sink", 0, s)["state"] == "blocked" and
               "user is disabled" in m.worker("sink", 0, s)["reason"], 10, "the sink to be blocked")
    before = len(m.log_text().splitlines())
    time.sleep(5)
    lines = m.log_text().splitlines()[before:]
    assert len(lines) <= 5, "a storm\n" + "\n".join(lines)
    with server.client() as c:
        c.execute_command("ACL", "SETUSER", "millrace", "on")
    load.finish()
    m.wait_drained(load.next_offset)
    space.judge(produced=1000)
    assert m.worker("sink", 0)["state"] == "running"
    no_secret(m)
    assert m.drain() == 0


@pytest.mark.parametrize("what,said", [
    ("wrong password", "WRONGPASS"),
    ("expired", "the certificate of localhost, or of its issuer, has expired"),
    ("other authority", "comes from an authority that is not trusted"),
    ("no certificate of ours", "Redis demands a client certificate: set redis.tls.cert_file and redis.tls.key_file"),
    ("another name", "the certificate of Redis is not for elsewhere.test"),
])
def test_mistake_ends_the_first_start(space, authority, what, said):
    start_redis(space, authority, "expired" if what == "expired" else "redis")
    space.topic()
    redis = settings(space, authority, **({"server_name": "elsewhere.test"} if what == "another name" else {}))
    if what == "wrong password":
        redis = settings(space, authority, password="wr0ng-canary-9921")
    if what == "other authority":
        redis["tls"]["ca_file"] = str(Authority(space.folder / "other", "other").file)
    if what == "no certificate of ours":
        del redis["tls"]["cert_file"], redis["tls"]["key_file"]
    m = space.millrace(redis=redis).start()
    assert m.wait_exit(20) == CONFIG, m.log_text()
    assert said in m.log_text()
    assert "canary" not in m.log_text()

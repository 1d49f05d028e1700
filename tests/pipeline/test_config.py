"""Mistakes get a message that says what and where, and the exit status of sysexits.h."""

import base64
import re

import pytest

from harness.millrace import command, merge, to_yaml
from harness.process import ROOT

CONFIG, NO_INPUT = 78, 66
GOOD = {
    "config_version": 1, "name": "cards", "run_dir": "/nonexistent/run", "data_dir": "/nonexistent/data",
    "kafka": {"bootstrap.servers": "127.0.0.1:1"}, "redis": {"url": "redis://127.0.0.1:1/0"}, "start": "earliest",
    "topics": [{"name": "cards", "mode": "change", "format": "json", "key": "card:{id}"}],
}


def topic(**more):
    return {"topics": [merge(GOOD["topics"][0], more)]}


# What is wrong, what the message must contain, and the line it must name (0: any).
MISTAKES = {
    "unknown key, nearest": ({"lane": 2}, r"lane.*lanes", 0),
    "unknown key in a section": ({"redis": {"batchs": 5}}, r"batchs.*batch", 0),
    "unknown key of a topic": (topic(keys="x"), r"keys.*key", 0),
    "wrong type": ({"lanes": "many"}, r"lanes.*many", 0),
    "out of range": ({"lanes": 17}, r"17.*1 to 16", 0),
    "zero lanes": ({"lanes": 0}, r"lanes|1 to 16", 0),
    "section instead of value": ({"lanes": {"a": 1}}, r"lanes", 0),
    "value instead of section": ({"redis": "localhost"}, r"redis", 0),
    "no version": ({"config_version": None}, r"config_version", 0),
    "unknown version": ({"config_version": 9}, r"version 9", 1),
    "no name": ({"name": None}, r"name", 0),
    "name with blanks": ({"name": "my cards"}, r"my cards", 2),
    "no topics": ({"topics": None}, r"topics", 0),
    "empty topics": ({"topics": []}, r"topics", 0),
    "topic without key": (topic(key=None), r"key", 0),
    "topic without mode": (topic(mode=None), r"mode", 0),
    "topic twice": ({"topics": GOOD["topics"] * 2}, r"cards.*twice|twice.*cards|already", 0),
    "unknown mode": (topic(mode="bulky"), r"bulky.*bulk", 0),
    "format of a later version": (topic(format="avro"), r"avro.*not available", 0),
    "open brace in a template": (topic(key="card:{id"), r"\{", 0),
    "unknown word in a template": (topic(key="{$keys}"), r"\$keys.*\$key", 0),
    "empty template": (topic(key=""), r"key", 0),
    "field of a raw topic": (topic(format="raw"), r"raw|json", 0),
    "encryption without keys": (topic(value={"encrypt": True}), r"crypto\.keys|keygen", 0),
    "no redis": ({"redis": None}, r"redis", 0),
    "no broker": ({"kafka": None}, r"bootstrap\.servers|kafka", 0),
    "url of another kind": ({"redis": {"url": "http://127.0.0.1"}}, r"redis://", 0),
    "TLS without rediss://": ({"redis": {"tls": {"server_name": "x"}}}, r"rediss", 0),
    "port out of range": ({"redis": {"url": "redis://127.0.0.1:99999"}}, r"port|99999", 0),
    "ring that is no power of two": ({"ring_bytes": "3MiB"}, r"power of two", 0),
    "duration without unit": ({"drain_timeout": 30}, r"drain_timeout|30", 0),
    "property that runs a program": ({"kafka": {"sasl.kerberos.kinit.cmd": "touch x"}}, r"kerberos\.kinit\.cmd", 0),
    "property that loads code": ({"kafka": {"plugin.library.paths": "/x.so"}}, r"plugin\.library\.paths.*code", 0),
    "property that starts the mock": ({"kafka": {"test.mock.num.brokers": 3}}, r"test\.mock.*simulation", 0),
    "property that millrace sets": ({"kafka": {"enable.auto.commit": True}}, r"enable\.auto\.commit", 0),
    "unknown property": ({"kafka": {"bootstrap.server": "x"}}, r"bootstrap\.server.*bootstrap\.servers", 0),
    "unset variable": ({"instance": "${MILLRACE_TEST_UNSET}"}, r"MILLRACE_TEST_UNSET", 0),
    "password file that is not there": ({"redis": {"password_file": "/nonexistent/pw"}}, r"/nonexistent/pw", 0),
    "two passwords": ({"redis": {"password": "a", "password_file": "/dev/null"}}, r"password", 0),
    "operation from two places": (topic(operation={"header": "a", "field": "b"}), r"header.*field|operation", 0),
    "old key of a bulk topic": (topic(mode="bulk", old_key="x:{id}"), r"old_key", 0),
    "fixed and grouped partitions mixed": ({"topics": [merge(GOOD["topics"][0], {"partitions": [0]}),
                                                       merge(GOOD["topics"][0], {"name": "other"})]}, r"partitions", 0),
    "batch above in_flight": ({"redis": {"batch": 500, "in_flight": 100}}, r"in_flight|batch", 0),
    "audit of a later version": ({"audit": "on"}, r"audit|available", 0),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistake_is_refused_by_check_and_run(tmp_path, what):
    change, message, line = MISTAKES[what]
    file = tmp_path / "millrace.yaml"
    file.write_text(to_yaml(merge(GOOD, change)) + "\n", encoding="utf-8")
    for name in ("check", "run"):
        done = command(name, "-c", file)
        assert done.returncode == CONFIG, (name, done.returncode, done.stderr)
        place = re.search(r"millrace\.yaml:(\d+):(\d+): ", done.stderr)
        assert place, f"no FILE:LINE:COLUMN in {done.stderr!r}"
        assert re.search(message, done.stderr, re.S), f"{message!r} is not in {done.stderr!r}"
        assert line in (0, int(place[1])), done.stderr
        assert not done.stdout


def test_message_points_at_the_key(tmp_path):
    file = tmp_path / "millrace.yaml"
    file.write_text(to_yaml(GOOD).replace("start:", "begin:") + "\n", encoding="utf-8")
    expected = file.read_text().splitlines().index('begin: "earliest"') + 1
    done = command("check", "-c", file)
    assert done.returncode == CONFIG and f"millrace.yaml:{expected}:1: " in done.stderr, done.stderr


@pytest.mark.parametrize("text,message", [
    ("", r""), ("- a\n", r""), ("config_version: 1\nname: [\n", r""),
    ("config_version: 1\nname: cards\nname: cards\n", r"name"), ("config_version: 1\n\tname: cards\n", r""),
    ("name: cards\nconfig_version: 1\n", r"config_version.*first|first.*config_version"),
    ("config_version: 1\nname: &a cards\ninstance: *a\n", r""), ("\xff\xfe", r""),
], ids=["empty", "a list", "broken YAML", "key twice", "tab", "version not first", "alias", "not UTF-8"])
def test_file_that_is_no_configuration(tmp_path, text, message):
    file = tmp_path / "millrace.yaml"
    file.write_bytes(text.encode("latin-1"))
    done = command("check", "-c", file)
    assert done.returncode == CONFIG and re.search(message, done.stderr) and "millrace.yaml" in done.stderr, done.stderr


def test_file_that_is_not_there(tmp_path):
    for name in ("check", "run", "stats"):
        done = command(name, "-c", tmp_path / "none.yaml")
        assert done.returncode == NO_INPUT and "none.yaml" in done.stderr, (name, done)


def test_wrong_arguments():
    assert command().returncode == 64
    assert command("run", "--no-such-option").returncode == 64
    assert command("stats", "--format", "xml").returncode == 64


def test_good_file_is_accepted_and_printed_with_variables_and_defaults(tmp_path):
    file = tmp_path / "millrace.yaml"
    text = to_yaml(merge(GOOD, {"instance": "${MILLRACE_TEST_NODE}", "lanes": 1}))
    file.write_text(text.replace("lanes: 1", "lanes: ${MILLRACE_TEST_LANES:3}") + "\n", encoding="utf-8")
    import os
    done = command("check", "-c", file, env={**os.environ, "MILLRACE_TEST_NODE": "node-x"})
    assert done.returncode == 0, done.stderr
    assert "node-x" in done.stdout and re.search(r"lanes: 3\b", done.stdout)
    assert "batch: 100" in done.stdout, "the effective configuration includes defaults"


def test_examples_are_accepted(tmp_path):
    files = sorted((ROOT / "deploy/examples").glob("*.yaml"))
    assert "production.yaml" in [f.name for f in files] and len(files) >= 3
    credentials = tmp_path / "credentials"
    credentials.mkdir(0o700)
    import os
    for f in files:
        # Password files stand in the folder of systemd credentials: every one that the example names is made here.
        text = f.read_text(encoding="utf-8")
        for name in re.findall(r"\$\{CREDENTIALS_DIRECTORY(?::[^}]*)?\}/([\w.-]+)", text):
            (credentials / name).touch(0o600)
            (credentials / name).write_text("secret-of-" + name + "\n")
        done = command("check", "-c", f, env={**os.environ, "CREDENTIALS_DIRECTORY": str(credentials)})
        assert done.returncode == 0, (f.name, done.stderr)
        assert "secret-of-" not in done.stdout + done.stderr


# -- what only shows when it runs ------------------------------------------------------------------------------------
def key_line(n=32, number=1):
    return f"key {number} {base64.b64encode(bytes(range(1, n + 1))).decode()} 2026-01-01\n"


KEY_FILES = {
    "missing": (None, 0o600, r"keys"),
    "readable by others": (key_line() + "current 1\n", 0o644, r"mode|0600|chmod"),
    "empty": ("", 0o600, r"keygen|no key"),
    "no current": (key_line(), 0o600, r"current"),
    "current unknown": (key_line() + "current 2\n", 0o600, r"current"),
    "too short": (key_line(16) + "current 1\n", 0o600, r"32 bytes"),
    "not base64": ("key 1 !!!! 2026-01-01\ncurrent 1\n", 0o600, r"base64"),
    "same id twice": (key_line() + key_line() + "current 1\n", 0o600, r"twice"),
    "another kind of file": ("-----BEGIN PRIVATE KEY-----\n", 0o600, r"key ID"),
}


@pytest.mark.parametrize("what", KEY_FILES)
def test_key_file_mistake_ends_the_start(space, what):
    text, mode, message = KEY_FILES[what]
    space.start_redis()
    space.topic(encrypt=True)
    file = space.folder / "test.keys"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    m = space.millrace(crypto={"keys": str(file)}).start()
    assert m.wait_exit(20) == CONFIG, m.log_text()
    lines = [line for line in m.log_text().splitlines() if "test.keys" in line]
    assert lines and any(re.search(message, line) for line in lines), m.log_text()
    for secret in re.findall(r"key \d+ (\S{20,})", text or ""):
        assert secret not in m.log_text()


def test_wrong_password_ends_the_start(space):
    space.start_redis(password="right")
    space.topic()
    url = space.redis.url(password=False)
    m = space.millrace(redis={"url": url, "password": "wr0ng-canary"}).start()
    assert m.wait_exit(20) == CONFIG, m.log_text()
    assert re.search(r"WRONGPASS|password", m.log_text()) and "wr0ng-canary" not in m.log_text()


def test_missing_password_ends_the_start(space):
    space.start_redis(password="right")
    space.topic()
    m = space.millrace(redis={"url": space.redis.url(password=False)}).start()
    assert m.wait_exit(20) == CONFIG, m.log_text()
    assert re.search(r"NOAUTH|password", m.log_text())


def test_password_from_a_file_and_user_of_the_access_list(space):
    server = space.start_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "mill", "on", ">pass:with@signs/%", "~*", "+@all")
    space.topic()
    password = space.folder / "password"
    password.touch(0o600)
    password.write_text("pass:with@signs/%\n")
    m = space.millrace(redis={"url": f"redis://127.0.0.1:{server.port}/3", "user": "mill",
                              "password_file": str(password)}).start_ready()
    load = space.load(500, keys=100)
    load.start()
    load.finish()
    m.wait_drained(load.next_offset)
    server.db = 3
    space.judge(produced=500)
    with server.client() as client:
        clients = [c for c in client.client_list() if c["name"].startswith(f"millrace:{m.group}:node1:")]
    assert clients and all(c["user"] == "mill" for c in clients)
    assert m.drain() == 0


def test_access_list_that_forbids_ending_connections_is_refused(space):
    server = space.start_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-client|kill", "-client|list")
    space.topic()
    load = space.load(300, keys=100)
    load.start()
    load.finish()
    m = space.millrace(redis={"user": "weak", "password": "pw"}).start()
    assert m.wait_exit(20) == CONFIG, m.log_text()
    assert "unsafe_reconnect" in m.log_text()
    m.write_config(redis={"unsafe_reconnect": True})
    m.start_ready()
    m.wait_drained(load.next_offset)
    space.judge(produced=300)
    assert m.drain() == 0

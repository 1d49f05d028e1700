"""Exceptions arrive: over a webhook that is down, refuses and hangs at first, and through a recon that is killed."""

import collections
import http.server
import json
import os
import resource
import ssl
import sqlite3
import threading
import time

from harness.certificates import Authority
from harness.generator import change_topic
from harness.process import free_port, wait_until
from harness.till import Till, digest_key

WINDOW_MS = 5000


class Receiver:
    """Takes posts over TLS, and answers each as the script says, then 204. None: it says nothing for 12 seconds."""

    def __init__(self, certificate, key, port, script=()):
        self.taken, self.tried, self.script = [], [], list(script)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.tried.append((self.path, self.headers["Millrace-Exception"], body))
                answer = outer.script.pop(0) if outer.script else 204
                if answer is None:
                    time.sleep(12)
                    return
                if answer < 300:
                    outer.taken.append((self.headers["Millrace-Exception"], body))
                self.send_response(answer)
                if answer == 302:
                    self.send_header("Location", "https://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def prepare(space, **recon):
    space.start_redis()
    topic = space.topic(change_topic, partitions=2, evidence="manifest")
    manifests = f"{topic.name}.manifests"
    space.broker.create_topics([manifests], 1)
    m = space.millrace(audit="on", recon={"window": f"{WINDOW_MS}ms", "late_after": "1h",
                                          "manifest_topic": manifests, **recon})
    till = Till(space.broker, topic.name, digest_key(m.folder / "audit.keys"), WINDOW_MS, manifests)
    return topic, m, till


def exceptions(m):
    """{id: (kind, window_ms)} as recon.db has them."""
    with sqlite3.connect(f"file:{m.data_dir}/recon/recon.db?mode=ro", uri=True) as db:
        return {i: (k, w) for i, k, w in db.execute("SELECT id, kind, window_ms FROM exception")}


def lose(till, window_ms, n=20):
    """n records of a window that is over, of which one gets lost on the way."""
    till.publish(n, created=window_ms, drop={till.sequence + 3}).declare()


def past_window(k):
    now = int(time.time() * 1000)
    return now - now % WINDOW_MS - k * WINDOW_MS


def test_each_arrives_once_as_far_as_the_receiver_can_tell(space):
    ca = Authority(space.folder / "tls")
    certificate, key = ca.make("receiver", ["127.0.0.1"])
    port, taken_by_command = free_port(), space.folder / "by-command"
    command = space.folder / "command"
    command.write_text(f"#!/bin/sh\ncat >>{taken_by_command}\n")
    command.chmod(0o755)
    topic, m, till = prepare(space, webhook=f"https://127.0.0.1:{port}/hook/t0ken", webhook_ca_file=str(ca.file),
                           command=str(command))
    m.start_ready()
    first, second, third = (past_window(k) for k in (4, 3, 2))
    done = m.run_command("recon", "silence", str(third), "--for", "1h")
    if done.returncode == 69:  # recon has not made its folder yet
        wait_until(lambda: m.run_command("recon", "silence", str(third), "--for", "1h").returncode == 0, 20, "silence")
    for window in (first, second, third):
        lose(till, window)
    wait_until(lambda: len(exceptions(m)) == 6, 40, lambda: f"two exceptions a window: {exceptions(m)}", 0.2)
    loud = {i for i, (_, w) in exceptions(m).items() if w != third}
    time.sleep(1)  # nobody is there, meanwhile
    receiver = Receiver(certificate, key, port, [500, 302, None, 503])
    m.kill_worker("recon")
    wait_until(lambda: {i for i, _ in receiver.taken} == loud, 60, lambda: f"{loud}: {receiver.tried}", 0.2)
    m.kill_worker("recon")
    time.sleep(3)
    assert {i for i, _ in receiver.taken} == loud, "the silenced window stays silent"
    said = {json.loads(line)["id"] for line in taken_by_command.read_text().splitlines()}
    assert said == loud
    assert m.run_command("recon", "silence", str(third), "--for", "0").returncode == 0
    wait_until(lambda: {i for i, _ in receiver.taken} == set(exceptions(m)), 30, lambda: f"{receiver.tried}", 0.2)
    time.sleep(2)
    count = collections.Counter(i for i, _ in receiver.taken)
    assert all(n == 1 for n in count.values()), "taken is taken"
    for identity, body in receiver.taken:
        kind, window = exceptions(m)[identity]
        assert (body["id"], body["kind"], body["topic"], body["count"]) == (identity, kind, topic.name, 1)
        assert body["kind"] in ("unexplained", "window_mismatch") and body["instance"] == "node1"
    assert {path for path, _, _ in receiver.tried} == {"/hook/t0ken"}
    assert all(till.name + "3" not in json.dumps(b) and "amount" not in json.dumps(b) for _, b in receiver.taken)
    log = m.log_text()
    assert all(f"(exception {i})" in log for i in exceptions(m)) and "t0ken" not in log
    m.wait_for(lambda s: s["metrics"]["recon_exception_open"] == 6 and s["metrics"]["recon_exception_send_fail"] > 0,
               10, "the metrics")
    # What was lost comes after all: nothing is open any more.
    for n in (3, 23, 43):
        record = Till(space.broker, topic.name, till.key, WINDOW_MS, till.manifest_topic)
        record.sequence = n - 1
        window = (first, second, third)[n // 20]
        record.publish(1, created=window).flush()
    m.wait_for(lambda s: s["metrics"]["recon_exception_open"] == 0, 40, "all of them to be closed")
    receiver.stop()
    assert m.drain() == 0


def test_a_certificate_of_somebody_else_gets_nothing(space):
    ca, other = Authority(space.folder / "tls"), Authority(space.folder / "other", "other")
    certificate, key = other.make("receiver", ["127.0.0.1"])
    port = free_port()
    receiver = Receiver(certificate, key, port)
    _, m, till = prepare(space, webhook=f"https://127.0.0.1:{port}/hook", webhook_ca_file=str(ca.file))
    m.start_ready()
    lose(till, past_window(2))
    wait_until(lambda: "recon.delivery_failed" in m.log_text(), 40, "a delivery that fails")
    time.sleep(1)
    assert receiver.tried == [] and "certificate" in m.log_text()
    receiver.stop()
    assert m.drain() == 0


def test_the_word_gets_out_that_the_audit_cannot_write(space):
    ca = Authority(space.folder / "tls")
    certificate, key = ca.make("receiver", ["127.0.0.1"])
    port = free_port()
    receiver = Receiver(certificate, key, port)
    topic, m, till = prepare(space, webhook=f"https://127.0.0.1:{port}/hook", webhook_ca_file=str(ca.file))
    m.start_ready()
    till.publish(100).declare()
    m.wait_for(lambda s: s["metrics"]["audit_entry"] == 100, 20, "the first entries")
    pid = m.worker("audit")["pid"]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    till.publish(100).declare()
    wait_until(lambda: receiver.taken, 30, lambda: f"a word of it: {m.stats_or_none()}", 0.2)
    (_, body), = receiver.taken
    assert body["kind"] == "audit_cannot_write" and body["subject"] == "entry 101", body
    stats = m.stats()
    assert m.worker("audit", stats=stats)["state"] == "blocked" and stats["metrics"]["audit_entry"] == 100
    assert sum(p["committed"] for p in stats["partitions"]) <= 100
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    m.wait_for(lambda s: s["metrics"]["audit_entry"] == 200 and s["metrics"]["recon_exception_open"] == 0, 30,
               "the rest to be logged, and the exception to be closed")
    assert len(receiver.taken) == 1
    receiver.stop()
    assert m.drain() == 0


def test_a_recon_that_starts_on_a_full_disk_tells_it_all_the_same(space, fault_build):
    ca = Authority(space.folder / "tls")
    certificate, key = ca.make("receiver", ["127.0.0.1"])
    port = free_port()
    receiver = Receiver(certificate, key, port)
    topic, m, till = prepare(space, webhook=f"https://127.0.0.1:{port}/hook", webhook_ca_file=str(ca.file))
    told = space.folder / "told"
    told.mkdir()
    m.build, m.env = fault_build, {**os.environ, "MILLRACE_FAULT_DIR": str(told), "MILLRACE_FAULT":
                                   "recon:ids_open=fail:ENOSPC@1*8,audit:write=fail:ENOSPC@3*10"}
    till.publish(100).declare()
    m.start()
    wait_until(lambda: receiver.taken, 30, lambda: f"a word of it: {m.stats_or_none()}", 0.1)
    _, body = receiver.taken[0]
    assert body["kind"] == "audit_cannot_write" and "No space left" in body["text"], body
    recon = m.worker("recon")
    assert recon["state"] == "blocked" and recon["starts"] == 1 and "No space left" in recon["reason"], recon
    m.wait_for(lambda s: s["metrics"]["audit_entry"] == 100 and s["metrics"]["recon_entry"] == 100 and
               s["metrics"]["recon_exception_open"] == 0, 40, "both to go on")
    # At least once: what was sent from memory may be sent again from the store, under the same id.
    assert len({i for i, _ in receiver.taken}) == 1 and m.worker("recon")["starts"] == 1
    assert "recon.store_open" in m.log_text()
    receiver.stop()
    assert m.drain() == 0

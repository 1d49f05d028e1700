"""Full speed for minutes: memory must stay flat. Then restarts with a small and with a large backlog: the time to the first
record must not grow with it."""

import json
import os
import signal
import subprocess
import time

from confluent_kafka.admin import NewTopic

from harness.process import BUILD, wait_until

from measure import KEYS, PARTITIONS, Bench, median
import page

SAMPLE_S = 5
GROWTH_MAX = 1.02       # of all own processes together, from the end of the first minute on
GROWTH_MB_MAX = 2       # below this it is no growth whatever the ratio
RESTART_S_MAX = 2.0     # from the kill, or the start, to the first record
RESTART_RATIO_MAX = 2.0  # large backlog against small one


def resident_mb(pid):
    """Memory of a process without the pages of the rings, which do not grow."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        fields = dict(line.split(":", 1) for line in f)
    return (int(fields["VmRSS"].split()[0]) - int(fields["RssShmem"].split()[0])) / 1024


def topic_that_forgets(bench, name):
    config = {"retention.bytes": 128 << 20, "segment.bytes": 32 << 20, "file.delete.delay.ms": 1000}
    admin = bench.broker.admin()
    for future in admin.create_topics([NewTopic(name, PARTITIONS, 1, config=config)]).values():
        future.result(20)
    wait_until(lambda: name in admin.list_topics(timeout=5).topics, 20, name)


def full_speed(bench, minutes):
    """Returns [(seconds, records applied, {process: MB})]."""
    topic_that_forgets(bench, "soak")
    server = bench.redis()
    m = bench.millrace(server, topic="soak").start_ready()
    load = subprocess.Popen([BUILD / "bench-load", "--brokers", bench.broker.bootstrap, "--topic", "soak", "--count", "10" + "0" * 12,
                             "--keys", str(KEYS), "--seconds", str(int(minutes * 60)), "--ahead", "200000",
                             "--run-dir", m.run_dir, "--name", m.name], stdout=subprocess.DEVNULL)
    samples, began = [], time.monotonic()
    while load.poll() is None:
        time.sleep(SAMPLE_S)
        stats = m.stats()
        applied = sum(lane["released"] for lane in stats["lanes"])
        now = {w["role"]: resident_mb(w["pid"]) for w in stats["workers"]}
        now["supervisor"] = resident_mb(stats["supervisor"]["pid"])
        samples.append((time.monotonic() - began, applied, now))
        if len(samples) % 6 == 0:
            print(f"{samples[-1][0]:6.0f} s {applied:13,} applied  " +
                  "  ".join(f"{k} {v:.1f} MB" for k, v in now.items()), flush=True)
    assert load.returncode == 0
    assert all(w["starts"] == 1 for w in m.stats()["workers"]), "a worker was restarted"
    assert m.drain() == 0
    server.kill()
    return samples


def flat(samples, say):
    """Compares the memory of the last fifth of the time with that at the end of the first minute (or fifth)."""
    total = [(s, sum(now.values())) for s, _, now in samples]
    end = total[-1][0]
    settled = min(60, end / 5)
    before = median([mb for s, mb in total if settled <= s <= 2 * settled] or [total[0][1]])
    after = median([mb for s, mb in total if s >= end * 0.8])
    say(f"{samples[-1][1]:,} records in {end:.0f} s, {samples[-1][1] / end:,.0f}/s with the producer on the same machine; "
        f"memory without the rings: {before:.1f} MB after a minute, {after:.1f} MB at the end.")
    return after <= before * GROWTH_MAX or after - before <= GROWTH_MB_MAX


def watcher(m, *args):
    return subprocess.Popen([BUILD / "bench-watch", "--run-dir", m.run_dir, "--name", m.name, "--count", "1",
                             "--seconds", "60", *map(str, args)], stdout=subprocess.PIPE, text=True)


def moment(watch):
    out, _ = watch.communicate(timeout=90)
    assert watch.returncode == 0
    return json.loads(out)["at"]


def instance_start(bench, topic):
    """Seconds from the start of an instance to the first record in Redis."""
    server = bench.redis()
    m = bench.millrace(server, topic=topic)
    watch, began = watcher(m), time.monotonic()
    m.start()
    seconds = moment(watch) - began
    m.kill_supervisor()
    m.wait_workers_gone(5)
    server.kill()
    return seconds


def ingest_restart(bench, topic):
    """Seconds from the death of ingest to the first record that its successor has read."""
    server = bench.redis()
    m = bench.millrace(server, topic=topic, ring_bytes="1MiB").start_ready()
    m.wait_for(lambda s: all(lane["released"] > 0 for lane in s["lanes"]), 30, "the first record", 0.02)
    pid = m.worker("ingest")["pid"]
    watch = watcher(m, "--after", pid)
    time.sleep(0.05)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    seconds = moment(watch) - began
    m.kill_supervisor()
    m.wait_workers_gone(5)
    server.kill()
    return seconds


def restarts(bench):
    """{what: (seconds with a small backlog, with a large one)}, medians of five."""
    feed = None
    result = {}
    bench.broker.create_topics(["few", "many"], PARTITIONS)
    bench.program("load", "--brokers", bench.broker.bootstrap, "--topic", "many", "--count", 4_000_000, "--keys", KEYS)
    bench.program("load", "--brokers", bench.broker.bootstrap, "--topic", "few", "--count", 2000, "--keys", KEYS)
    result["start of the instance"] = tuple(median([instance_start(bench, t) for _ in range(5)]) for t in ("few", "many"))
    # With a small backlog something has to come in, or nobody could see that ingest reads again.
    feed = subprocess.Popen([BUILD / "bench-load", "--brokers", bench.broker.bootstrap, "--topic", "few", "--count", "100000",
                             "--rate", "2000", "--keys", str(KEYS)], stdout=subprocess.DEVNULL)
    few = median([ingest_restart(bench, "few") for _ in range(5)])
    feed.kill()
    feed.wait()
    result["death of ingest"] = (few, median([ingest_restart(bench, "many") for _ in range(5)]))
    return result


def run(minutes):
    """Writes its outcome into the page when it took five minutes or more."""
    bad, lines = 0, []

    def say(line):
        print(line, flush=True)
        lines.append("- " + line)
    with Bench(records=0) as bench:
        for what, (few, many) in restarts(bench).items():
            slow = many > RESTART_S_MAX or many > max(RESTART_RATIO_MAX * few, few + 0.25)
            bad |= slow
            say(f"{what}: first record after {few:.2f} s with 2,000 records waiting, {many:.2f} s with 4,000,000.")
        if not flat(full_speed(bench, minutes), say):
            print("FAILED: memory grows")
            bad = 1
    if bad:
        print("FAILED")
    elif minutes >= 5:
        page.write("soak", page.machine() + "\n\n" + "\n".join(lines))
    return int(bad)

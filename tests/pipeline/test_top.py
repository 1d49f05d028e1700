"""millrace top in a real terminal (tmux): what is on the screen, at any size, and the terminal afterwards."""

import os
import re
import shlex
import signal
import subprocess
import time

import pytest

from harness.millrace import command
from harness.process import BUILD, wait_until

FOOTER = "q quit"


def modes_of(file):
    """What stty says, but for the size, which a window may change meanwhile."""
    return re.sub(r"rows \d+; columns \d+;", "", file.read_text(encoding="ascii"))


class Terminal:
    """A tmux server of its own with one window, in which a shell runs."""

    def __init__(self, folder, columns=80, rows=24):
        self.socket, self.folder = folder / "tmux.sock", folder
        environment = {k: v for k, v in os.environ.items() if k not in ("TMUX", "NO_COLOR", "LINES", "COLUMNS")}
        environment.update(LC_ALL="C.UTF-8")
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", rows, "sh", env=environment)

    def tmux(self, *args, env=None):
        return subprocess.run(["tmux", "-S", str(self.socket), *[str(a) for a in args]], check=True, timeout=20,
                              capture_output=True, text=True, env=env).stdout

    def close(self):
        subprocess.run(["tmux", "-S", str(self.socket), "kill-server"], timeout=20, capture_output=True, check=False)

    def keys(self, *keys):
        self.tmux("send-keys", *keys)

    def line(self, text):
        self.keys("-l", text)
        self.keys("Enter")

    def resize(self, columns, rows):
        self.tmux("resize-window", "-x", columns, "-y", rows)

    def screen(self, *options):
        return self.tmux("capture-pane", "-p", *options)

    def shows(self, what):
        return self.tmux("display-message", "-p", what).strip()

    def wait(self, condition, what, timeout=15):
        return wait_until(lambda: self.screen() if condition(self.screen()) else None, timeout,
                          lambda: f"{what}; on the screen:\n{self.screen()}", 0.05)

    def wait_row(self, pattern, timeout=15):
        return self.wait(lambda s: re.search(pattern, s, re.M), f"a row like {pattern}", timeout)

    def start_top(self, m, *more, before="", after=""):
        """Notes the terminal's modes, runs top, notes them again."""
        top = shlex.join([str(m.build / "millrace"), "top", "-c", str(m.file), "--interval", "0.2", *more])
        self.line(f"clear; stty -a > {self.folder}/modes.before; {before} {top}; "
                  f"echo ended $? >{self.folder}/ended; stty -a > {self.folder}/modes.after; {after}")
        self.wait(lambda s: FOOTER in s, "the screen of millrace top")

    def top_pid(self):
        shell = int(self.shows("#{pane_pid}"))
        with open(f"/proc/{shell}/task/{shell}/children", encoding="ascii") as f:
            return int(f.read().split()[0])

    def expect_clean(self, status=0):
        """top has ended; the modes, the cursor and the screen are the shell's as before."""
        modes = self.folder / "modes.after"
        wait_until(lambda: modes.exists() and modes.read_text().endswith("\n"), 10,
                   lambda: f"top to end; on the screen:\n{self.screen()}")
        assert (self.folder / "ended").read_text() == f"ended {status}\n"
        assert modes_of(modes) == modes_of(self.folder / "modes.before")
        assert self.shows("#{alternate_on} #{cursor_flag}") == "0 1"
        assert FOOTER not in self.screen() and "LATENCY" not in self.screen()
        for name in ("modes.before", "modes.after", "ended"):
            (self.folder / name).unlink()


@pytest.fixture
def terminal(space):
    t = Terminal(space.folder)
    wait_until(lambda: t.screen().strip(), 10, "the shell's prompt")
    yield t
    t.close()


def expect_whole(t, columns, rows):
    """Nothing wraps, nothing is pushed out: the head is in the first row and the keys are in the last."""
    def whole(screen):
        lines = screen.split("\n")[:-1]
        return len(lines) == rows and re.match(r" \S+/node1 +\w+ ", lines[0]) and FOOTER in lines[-1]
    screen = t.wait(whole, f"head and keys at {columns}x{rows}")
    joined = [line.rstrip() for line in t.screen("-J").split("\n")]
    assert joined == [line.rstrip() for line in screen.split("\n")] or len(joined) == rows + 1, "a line wraps"
    assert all(len(line) <= columns for line in screen.split("\n"))
    return screen


def test_what_goes_on_is_seen_at_any_size(space, terminal):
    redis = space.start_redis()
    space.topic()
    m = space.millrace(lanes=2).start_ready()
    load = space.load(30_000, 12, keys=2000)
    load.start()
    terminal.start_top(m)
    screen = terminal.wait_row(r"^ to Redis +[1-9][\d,.]*k?/s +[\d.]+ [kM]?B/s")
    assert re.search(r"^ \S+/node1   running  up ", screen, re.M), screen
    terminal.wait_row(r"^ ring to Redis +[\d.]+ m?s +[\d.]+ m?s +[1-9]")
    terminal.wait_row(r"^ 1 +[1-9][\d,]* +[1-9][\d,]* .*\[[|.]+\] .*\[[|.]+\]$")  # a lane, and its rings in bytes
    for columns, rows in ((80, 24), (120, 40), (60, 15), (40, 8), (200, 60), (80, 24)):
        terminal.resize(columns, rows)
        screen = expect_whole(terminal, columns, rows)
        assert "running" in screen
        if rows >= 24:
            assert all(word in screen for word in ("LANE", "LATENCY", "WORKER", "PARTITION")), screen
        if rows == 60:
            assert len(re.findall(rf"^ {re.escape(space.topics[0].name)}\[\d\] ", screen, re.M)) == 8, screen
    terminal.resize(120, 40)
    m.kill_worker("sink", 1)
    terminal.wait_row(r"^ sink\[1\] +running +1 ")
    terminal.wait_row(r"^ to Redis .* deaths +1 ")
    with redis.client() as c:
        c.config_set("maxmemory", 1)
    terminal.wait_row(r"^ \S+/node1   blocked ")
    screen = terminal.wait_row(r"^ sink\[\d\].* blocked: .*OOM")
    assert screen.index("blocked: ") < screen.index("LANE"), "what is wrong comes first"
    terminal.resize(60, 15)
    screen = expect_whole(terminal, 60, 15)
    assert re.search(r"^ sink\[\d\].* blocked: ", screen, re.M), screen
    with redis.client() as c:
        c.config_set("maxmemory", 0)
    terminal.wait_row(r"^ \S+/node1   running ", 30)
    terminal.keys("q")
    terminal.expect_clean()
    load.finish()
    m.wait_drained(load.next_offset)
    assert m.drain() == 0


def test_keys_do_what_the_last_row_says(space, terminal):
    space.start_redis()
    space.topic()
    m = space.millrace(lanes=2).start_ready()
    terminal.start_top(m)
    expect_whole(terminal, 80, 24)
    terminal.keys("p")
    first = terminal.wait_row(r"paused \d\d:\d\d:\d\d$")
    time.sleep(1.2)
    assert terminal.screen() == first, "it stands still"
    terminal.keys("p")
    terminal.wait(lambda s: "paused" not in s and s != first, "the clock to go on")
    terminal.keys("+")
    terminal.wait_row(r"every 0\.5s")
    terminal.keys("-", "-", "-")
    terminal.wait_row(r"every 0\.2s")
    for name, head in (("lanes", "LANE"), ("workers", "WORKER"), ("partitions", "PARTITION"), ("overview", "LATENCY")):
        terminal.wait_row(rf"Tab: {name}$")
        terminal.keys("Tab")
        screen = terminal.wait(lambda s, n=name: f"Tab: {n}" not in s, "the next view")
        assert head in screen, screen
        assert name == "overview" or "LATENCY" not in screen
    terminal.keys("q")
    terminal.expect_clean()
    assert m.drain() == 0


def test_the_terminal_is_left_as_it_was(space, terminal):
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    terminal.start_top(m)
    terminal.keys("C-c")
    terminal.expect_clean()
    for number in (signal.SIGTERM, signal.SIGHUP):
        terminal.start_top(m)
        os.kill(terminal.top_pid(), number)
        terminal.expect_clean()
    terminal.start_top(m, before="set -m;")
    terminal.keys("C-z")
    terminal.wait(lambda s: "Stopped" in s and FOOTER not in s, "the shell while top is stopped")
    assert terminal.shows("#{alternate_on} #{cursor_flag}") == "0 1"
    terminal.line(f"stty -a | cmp - {space.folder}/modes.before && echo same''modes")
    terminal.wait_row("^samemodes$")
    terminal.resize(100, 30)
    terminal.line("fg")
    expect_whole(terminal, 100, 30)
    (space.folder / "modes.after").unlink(missing_ok=True)
    terminal.keys("q")
    terminal.wait(lambda s: FOOTER not in s, "the shell again")
    terminal.line(f"stty -a | cmp - {space.folder}/modes.after; stty -a > {space.folder}/modes.last; echo the''end")
    terminal.wait_row("^theend$")
    assert modes_of(space.folder / "modes.last") == modes_of(space.folder / "modes.before")
    assert m.drain() == 0


def test_an_instance_that_goes_and_comes_back_is_followed(space, terminal):
    space.start_redis()
    space.topic()
    m = space.millrace()
    terminal.start_top(m)  # it does not run yet
    screen = terminal.wait_row(rf"^ {m.name} +down ")
    assert "waiting" in screen and f"{m.name}.stats" in screen
    m.start_ready()
    terminal.wait_row(r"^ \S+/node1   running ")
    assert m.drain() == 0
    terminal.wait_row(r"^ \S+/node1   stopped ")
    assert "supervisor does not run" in terminal.screen()
    (m.run_dir / f"{m.name}.stats").unlink()
    terminal.wait_row(rf"^ {m.name} +down ")
    m.start_ready()
    screen = terminal.wait_row(rf"^ ingest +running .* {m.worker('ingest')['pid']}")
    m.kill_supervisor()
    m.wait_workers_gone(10)
    terminal.wait_row(r"^ \S+/node1   stopped ")
    m.start_ready()
    terminal.wait_row(rf"^ ingest +running .* {m.worker('ingest')['pid']}")
    terminal.resize(80, 40)
    m.write_config(lanes=3)  # a reload makes the statistics anew, under the same supervisor
    m.process.signal(signal.SIGHUP)
    terminal.wait_row(r"^ sink\[2\] +running ", 30)
    terminal.wait_row(r"^ \S+/node1   running ", 30)
    terminal.keys("q")
    terminal.expect_clean()
    assert m.drain() == 0


def test_without_a_terminal_and_without_colours(space, terminal):
    space.start_redis()
    space.topic()
    m = space.millrace().start_ready()
    done = m.run_command("top")
    assert done.returncode == 64 and "--once" in done.stderr and not done.stdout
    m.wait_for(lambda stats: stats["state"] == "running", 15, "all to run")
    done = m.run_command("top", "--once", "--interval", "0.2")
    assert done.returncode == 0, done.stderr
    assert f"{m.name}/node1   running " in done.stdout and "\x1b" not in done.stdout
    assert all(word in done.stdout for word in ("LANE", "LATENCY", "WORKER", "PARTITION", "ingest")), done.stdout
    done = command("top", "--once", "--name", "none", "--run-dir", m.run_dir)
    assert done.returncode == 69 and "none.stats" in done.stderr
    top = shlex.join([str(BUILD / "millrace"), "top", "-c", str(m.file)])
    terminal.line(f"TERM=dumb {top}; echo status''=$?")
    screen = terminal.wait_row("^status=64$")
    assert "--once" in screen
    terminal.start_top(m)
    assert "\x1b[3" in terminal.screen("-e"), "colours"
    terminal.keys("q")
    terminal.expect_clean()
    terminal.start_top(m, before="NO_COLOR=1")
    assert not re.search(r"\x1b\[[0-9;]*[34][0-7]m", terminal.screen("-e")), "no colours"
    terminal.keys("q")
    terminal.expect_clean()
    assert m.drain() == 0

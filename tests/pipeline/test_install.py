"""`make install`, as a packager runs it: what it puts where, that it runs from there, and that nothing stays behind."""

import os
import pathlib
import re
import shutil
import stat
import subprocess

import pytest

from harness.millrace import command
from harness.process import BUILD, ROOT

EXPOSURE_MAX = 17  # tenths, of `systemd-analyze security`
PROGRAMS = {"millrace-supervisor", "millrace-ingest", "millrace-transform", "millrace-sink", "millrace-audit",
            "millrace-recon", "millrace-demo"}


def run(*args, **more):
    done = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=120, **more)
    assert done.returncode == 0, f"{args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def make(target, destination):
    run("make", "-s", "-C", ROOT, f"BUILD={BUILD}", target, f"DESTDIR={destination}", "PREFIX=/usr/local")


@pytest.fixture(scope="module")
def installed(session_folder):
    destination = session_folder / "destination"
    make("install", destination)
    yield destination
    shutil.rmtree(destination, ignore_errors=True)


def files_below(folder):
    return {str(f.relative_to(folder)): f for f in folder.rglob("*") if not f.is_dir()}


def test_installed_tree_is_what_the_documentation_says(installed):
    files = files_below(installed)
    assert {f"usr/local/libexec/millrace/{p}" for p in PROGRAMS} | {
        "usr/local/bin/millrace", "usr/local/lib/systemd/system/millrace@.service",
        "usr/local/lib/sysusers.d/millrace.conf", "usr/local/lib/tmpfiles.d/millrace.conf",
        "usr/local/share/doc/millrace/LICENSE", "usr/local/share/doc/millrace/docs/operations.md",
        "usr/local/share/doc/millrace/deploy/examples/production.yaml"} <= set(files)
    for name, path in files.items():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o755 if "/bin/" in name or "/libexec/" in name else 0o644), f"{name}: {mode:o}"
    page = files["usr/local/share/doc/millrace/README.md"]
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"a link of the installed README leads nowhere: {target}"


def test_instance_runs_from_where_it_was_installed(space, installed):
    space.start_redis()
    space.topic(partitions=2)
    assert run(installed / "usr/local/bin/millrace", "--version").startswith("millrace ")
    before = os.umask(0o027)  # as in the unit
    try:
        m = space.millrace(build=installed / "usr/local/bin").start_ready()
    finally:
        os.umask(before)
    for worker in m.stats()["workers"]:
        program = pathlib.Path(os.readlink(f"/proc/{worker['pid']}/exe"))
        assert program.parent == installed / "usr/local/libexec/millrace"
    load = space.load(1000, 1, keys=200)
    load.run()
    m.wait_drained(load.next_offset)
    assert stat.S_IMODE((m.run_dir / f"{m.name}.stats").stat().st_mode) == 0o640, "for the group to read"
    assert m.drain() == 0
    space.judge(produced=1000)


def test_uninstall_leaves_no_file_and_no_folder_of_ours(session_folder):
    destination = session_folder / "uninstalled"
    make("install", destination)
    (destination / "etc/millrace").mkdir(parents=True)
    (destination / "etc/millrace/cards.yaml").touch()
    make("uninstall", destination)
    assert set(files_below(destination)) == {"etc/millrace/cards.yaml"}, "configurations stay, the rest goes"
    left = {str(f.relative_to(destination / "usr/local")) for f in (destination / "usr/local").rglob("*")}
    assert left == {"bin", "lib", "lib/systemd", "lib/systemd/system", "lib/sysusers.d", "lib/tmpfiles.d", "libexec",
                    "share", "share/doc"}, "only folders that every system has"


# -- the unit --------------------------------------------------------------------------------------------------------
@pytest.fixture
def units(installed, tmp_path):
    """The installed unit as systemd finds it, with the example drop-in, for the programs where they are now."""
    text = (installed / "usr/local/lib/systemd/system/millrace@.service").read_text(encoding="ascii")
    assert "@" not in re.sub(r"millrace@|@[a-z-]+", "", text), "a place holder is left"
    (tmp_path / "millrace@.service").write_text(text.replace("/usr/local", f"{installed}/usr/local"), encoding="ascii")
    extra = tmp_path / "millrace@cards.service.d"
    extra.mkdir()
    shutil.copy(ROOT / "deploy/examples/credentials.conf", extra)
    return tmp_path


def analyze(units, *args):
    return run("systemd-analyze", *args, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:", "SYSTEMD_COLORS": "0"})


def test_unit_is_understood_without_a_complaint(units):
    assert analyze(units, "verify", "--man=no", "millrace@cards.service").strip() == ""


def test_unit_exposes_little(units):
    out = analyze(units, "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", units / "millrace@.service")
    level = float(re.search(r"exposure level[^:]*: ([\d.]+)", out)[1])
    assert 0 < level <= EXPOSURE_MAX / 10


def setting(text, name):
    """The values of a setting of a unit, split at white space."""
    return [word for line in re.findall(rf"(?m)^{name}=(.*)$", text) for word in line.split()]


def test_unit_fits_the_product(units):
    """What the unit says in numbers and names is what the programs and the examples mean by them."""
    text = (units / "millrace@.service").read_text(encoding="ascii")
    help_text = command("run", "--help").stdout
    final = set(setting(text, "RestartPreventExitStatus"))
    assert {"66", "73", "78"} <= final and not final & {"0", "70", "75"}
    assert all(re.search(rf"\b{status}\b", help_text) for status in ("66", "70", "73", "75", "78"))
    reference = command("check", "--reference").stdout
    drain = re.search(r"`drain_timeout`.*?`?(\d+)s`?", reference)
    assert int(setting(text, "TimeoutStopSec")[0].rstrip("s")) > int(drain[1]) + 15
    # What the example asks of the credentials folder is what the drop-in puts there.
    example = (ROOT / "deploy/examples/production.yaml").read_text(encoding="utf-8")
    drop_in = (units / "millrace@cards.service.d/credentials.conf").read_text(encoding="ascii")
    for mark in ("", "#"):  # what the example has, and what it shows as a comment
        wanted = re.findall(rf"(?m)^ *{mark} *[a-z_.]+: \$\{{CREDENTIALS_DIRECTORY\}}/([\w.-]+)", example)
        assert wanted and sorted(wanted) == sorted(
            value.split(":")[0] for value in setting(drop_in, f"{mark}LoadCredential"))
    assert "data_dir: /var/lib/millrace/cards" in example and setting(text, "StateDirectory") == ["millrace/%i"]


def call_groups():
    """{@group: its members, calls and other groups} as systemd knows them."""
    groups, members = {}, set()
    for line in run("systemd-analyze", "syscall-filter", env={**os.environ, "SYSTEMD_COLORS": "0"}).splitlines():
        if line.startswith("@"):
            members = groups.setdefault(line.split()[0], set())
        elif line.startswith("    ") and "#" not in line:
            members.add(line.strip())
    return groups


def calls_of(names, groups):
    """The system calls that names stand for, groups taken apart."""
    out = set()
    for name in names:
        out |= calls_of(groups[name], groups) if name in groups else {name}
    return out


def test_programs_call_nothing_that_the_unit_forbids(units, installed):
    groups = call_groups()
    allowed = set()
    for line in re.findall(r"(?m)^SystemCallFilter=(.*)$", (units / "millrace@.service").read_text(encoding="ascii")):
        named = calls_of(line.lstrip("~").split(), groups)
        allowed = allowed - named if line.startswith("~") else allowed | named
    forbidden = calls_of(set(groups) - {"@known"}, groups) - allowed
    assert {"read", "memfd_create", "sched_setaffinity", "mlockall"} <= allowed and {"setuid", "chown"} <= forbidden
    forbidden -= {"setrlimit"}  # the C library calls prlimit64
    for program in [installed / "usr/local/libexec/millrace" / p for p in sorted(PROGRAMS - {"millrace-demo"})]:
        wanted = {line.split()[-1].split("@")[0] for line in run("nm", "-D", "--undefined-only", program).splitlines()}
        assert "read" in wanted or "write" in wanted, "the list of what it calls is empty"
        assert not wanted & forbidden, f"{program.name} calls {wanted & forbidden}"


def test_user_and_folders_are_made(installed, tmp_path):
    lib = installed / "usr/local/lib"
    out = run("systemd-sysusers", "--dry-run", f"--root={tmp_path}", lib / "sysusers.d/millrace.conf")
    assert re.search(r"user 'millrace'", out), out
    lines = [line.split() for line in (lib / "tmpfiles.d/millrace.conf").read_text(encoding="ascii").splitlines()
             if not line.startswith("#")]
    assert {(path, mode, user, group) for _, path, mode, user, group, _ in lines} == {
        ("/etc/millrace", "0750", "root", "millrace"), ("/etc/millrace/secrets", "0700", "root", "root"),
        ("/run/millrace", "0750", "millrace", "millrace"), ("/var/lib/millrace", "0750", "millrace", "millrace")}
    if os.geteuid() == 0:
        (tmp_path / "etc").mkdir()
        run("systemd-sysusers", f"--root={tmp_path}", lib / "sysusers.d/millrace.conf")
        run("systemd-tmpfiles", "--create", f"--root={tmp_path}", lib / "tmpfiles.d/millrace.conf")
        for _, path, mode, *_ in lines:
            assert stat.S_IMODE((tmp_path / path[1:]).stat().st_mode) == int(mode, 8), path

#!/usr/bin/env python3
"""Shows that fault points (base/fault.h) are in test builds and nowhere else:
- base/fault.def lists exactly the points that stand in the code, each of its kind and at one place;
- the object code of every file with fault points is, without -DMILLRACE_FAULT, byte for byte what it is when the points
  are taken out of the source;
- the programs of a release have no symbol of base/fault.c and no point's name in them; those of a fault build, if there
  is one, have both.
    tests/fault_code.py [BUILD [FAULT-BUILD]]      default: build, build-fault; BUILD has to be up to date
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
KINDS = {"FAULT": "PASSES", "FAULT_FAILS": "FAILS", "FAULT_CORRUPT": "BYTES", "FAULT_ON_CONTENT": "CONTENT"}
USE = re.compile(r'\b(FAULT(?:_FAILS|_CORRUPT|_ON_CONTENT)?)\(\s*"([^"]+)"')
FOLDERS = "base shm kafka supervisor ingest transform sink audit recon feed tools".split()
complaints = []


def complain(text):
    print(text)
    complaints.append(text)


def run(*argv, **more):
    done = subprocess.run([str(a) for a in argv], capture_output=True, cwd=ROOT, **more)
    if done.returncode != 0:
        sys.exit(f"{argv[0]}: {done.stderr.decode()[-2000:]}")
    return done.stdout


def rows():
    return re.findall(r'^FAULT_POINT\("([^"]+)", (\w+),', (ROOT / "base/fault.def").read_text(), re.M)


def sources():
    """{file: [(macro, point)]} of those that have any."""
    found = {}
    for path in sorted(p for f in FOLDERS for p in (ROOT / f).glob("*.c")):
        uses = USE.findall(path.read_text())
        if uses:
            found[str(path.relative_to(ROOT))] = uses
    return found


def compare_list(listed, used):
    kinds = dict(listed)
    seen = {}
    for file, uses in used.items():
        for macro, point in uses:
            if kinds.get(point) != KINDS[macro]:
                complain(f"{file}: {macro}(\"{point}\") and base/fault.def do not agree")
            if point in seen and KINDS[macro] != "CONTENT":
                complain(f"{file}: \"{point}\" stands at two places")
            seen[point] = file
            if file.split("/")[0] not in ("shm", point.split(":")[0]):
                complain(f"{file}: \"{point}\" is of another stage")
    for point in set(kinds) - set(seen):
        complain(f"base/fault.def: \"{point}\" stands nowhere in the code")
    if len(listed) != len(kinds):
        complain("base/fault.def: a point is listed twice")


def without(text):
    """The source without its fault points; lines keep their numbers."""
    call = r'FAULT(?:_CORRUPT|_ON_CONTENT)?\((?:[^()]|\([^()]*\))*\);'
    text = re.sub(call, lambda m: "((void)0);" + "\n" * m.group().count("\n"), text)
    fails = r'!?FAULT_FAILS\("[^"]+"\)\s*(?:\|\||&&|\?\s*-?\w+\s*:)'
    text = re.sub(fails, lambda m: "\n" * m.group().count("\n"), text)
    assert "FAULT" not in re.sub(r"/\*.*?\*/|#include.*|_FAULT\w*|PREFAULT|DEFAULT|\"[^\"]*\"", "", text, flags=re.S), text
    return text


def commands(build, files):
    """How make compiles each of the files, as one would type it."""
    touched = [a for f in files for a in ("-W", f)]
    objects = [f"{build}/obj/{f[:-2]}.o" for f in files]
    text = run("make", "-n", "V=1", "VARIANT=release", f"BUILD={build}", *touched, *objects).decode()
    return {f: next(c for c in text.splitlines() if f" -c {f} " in c).split() for f in files}


def compare_code(build, files):
    with tempfile.TemporaryDirectory() as folder:
        for file, command in commands(build, files).items():
            text = (ROOT / file).read_text()
            at = command.index("-c")
            flags = [a for a in command[:at] if a not in ("-MMD", "-MP")]
            code = []
            for name, source in (("with", text), ("without", without(text))):
                out = pathlib.Path(folder) / f"{name}.o"
                run(*flags, "-x", "c", "-c", "-", "-o", out, input=f'# 1 "{file}"\n{source}'.encode())
                run("objcopy", "--strip-debug", out)
                code.append(out.read_bytes())
            if code[0] != code[1]:
                complain(f"{file}: the fault points leave something behind in a release")


def compare_programs(build, points, there):
    programs = [p for p in sorted((ROOT / build).glob("millrace*")) if p.is_file() and not p.suffix]
    content = b"".join(p.read_bytes() for p in programs)
    symbols = b"".join(run("nm", p) for p in programs)
    if not programs:
        complain(f"{build}: no programs")
    for point in points:
        if (point.encode() + b"\0" in content) != there:
            complain(f"{build}: \"{point}\" is {'not ' if there else ''}in the programs")
    if (re.search(rb" fault_(pass|fails|corrupt|on_content)\b", symbols) is not None) != there:
        complain(f"{build}: base/fault.c is {'not ' if there else ''}in the programs")
    return len(programs)


def main():
    build, fault_build = (sys.argv[1:] + ["build", "build-fault"][len(sys.argv) - 1:])[:2]
    listed, used = rows(), sources()
    compare_list(listed, used)
    compare_code(build, list(used))
    programs = compare_programs(build, [p for p, _ in listed], False)
    others = compare_programs(fault_build, [p for p, _ in listed], True) if (ROOT / fault_build).is_dir() else 0
    print(f"{len(listed)} fault points in {len(used)} files; {programs} programs without them, {others} with them")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()

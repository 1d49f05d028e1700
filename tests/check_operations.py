#!/usr/bin/env python3
"""Holds docs/operations.md against the sources: every log event and every state has its row there, and no other has;
the levels of the events are those of the calls that log them; and the metrics it names exist.

An event is a string `component.what_happened` in a product folder, `component` being the folder's name (`worker` in
shm, which all workers share). Prints each offence; exit 1 when there is one."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMPONENTS = {"supervisor": ["supervisor"], "ingest": ["ingest"], "transform": ["transform"], "sink": ["sink"],
              "audit": ["audit"], "recon": ["recon"], "shm": ["worker"], "base": [], "feed": [], "tools": []}
LOGGED = re.compile(r'(?:log_(?:error|warn|info|debug)(?:_at)?\(|LOG_LINE\(LOG_\w+,|worker_(?:fail|broken)\([^,"]+,)'
                    r'\s*"([^"]*)"')


LEVELLED = re.compile(r'(?:log_(error|warn|info|debug)(?:_at)?\(|LOG_LINE\(LOG_(ERROR|WARN|INFO|DEBUG),|'
                      r'(worker_(?:fail|broken))\([^,"]+,)\s*(?:&?\w+,\s*)?"([a-z]+\.[a-z0-9_]+)"')


def sources(folder):
    for path in sorted((ROOT / folder).rglob("*.[ch]")):
        if "demo" not in path.parts:
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def events():
    """({event: file}, [offences])"""
    found, offences = {}, []
    for folder, prefixes in COMPONENTS.items():
        names = "|".join(prefixes)
        for path, text in sources(folder):
            for event in re.findall(rf'"((?:{names})\.[a-z][a-z0-9_]*)"', text) if names else []:
                found[event] = path
            for event in LOGGED.findall(text):
                if event not in found:
                    offences.append(f"{path}: the event {event!r} does not begin with {' or '.join(prefixes) or '?'}.")
    return found, offences


def states():
    text = (ROOT / "shm/stats.c").read_text(encoding="utf-8")
    body = re.search(r"\*worker_state_name\(.*?names\[\] = \{(.*?)\};", text, re.S)[1]
    return re.findall(r'"([a-z]+)"', body)


def rows(page, heading):
    """First cells of the tables below a heading, up to the next of its level."""
    level = heading.split()[0]
    section = re.search(rf"(?ms)^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", page)
    return re.findall(r"(?m)^\| `([^`]+)` \|", section[1]) if section else []


def levels():
    """{event: the levels it is logged at, where the call itself says it}"""
    found = {}
    for folder in COMPONENTS:
        for _, text in sources(folder):
            for call, line, fatal, event in LEVELLED.findall(text):
                found.setdefault(event, set()).add("error" if fatal else (call or line.lower()))
    return found


def compare_levels(page):
    said = dict(re.findall(r"(?m)^\| `([a-z]+\.[a-z0-9_]+)` \| ([a-z, ]+) \|", page))
    logged = levels()
    if len(logged) < 50:
        yield f"the levels of only {len(logged)} events were found: is this script out of date?"
    for event in sorted(set(said) & set(logged)):
        if not logged[event] <= set(said[event].split(", ")):
            yield f"event {event} is logged as {', '.join(sorted(logged[event]))}, its row says {said[event]}"


def compare(what, wanted, there):
    out = [f"{what} {name} has no row" for name in sorted(set(wanted) - set(there))]
    out += [f"{what} {name} has a row and is nowhere in the sources" for name in sorted(set(there) - set(wanted))]
    out += [f"{what} {name} has {there.count(name)} rows" for name in sorted(set(there)) if there.count(name) > 1]
    return out


def main():
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    found, offences = events()
    if len(found) < 50 or len(states()) < 8:
        offences.append(f"only {len(found)} events and {len(states())} states were found: is this script out of date?")
    offences += compare("event", found, rows(page, "## Log events"))
    offences += compare("state", states(), rows(page, "## States"))
    offences += compare_levels(page)
    metrics = set(re.findall(r"`(millrace_[a-z0-9_]+)`", (ROOT / "docs/metrics.md").read_text(encoding="utf-8")))
    named = set(re.findall(r"\bmillrace_[a-z0-9_]+", page))
    offences += [f"there is no metric {name}" for name in sorted(named - metrics)
                 if name.removesuffix("_bucket") not in metrics]
    for offence in offences:
        print(f"docs/operations.md: {offence}")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())

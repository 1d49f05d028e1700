"""The alert rules for Prometheus: they name metrics, labels and states that exist, and fire when they should."""

import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from harness.process import ROOT

RULES = ROOT / "deploy/prometheus/millrace.rules.yml"
SERIES = pathlib.Path(__file__).parent / "alert_rules_test.yml"
LABELS = {"name", "instance_name", "role", "lane", "topic", "partition", "state"}


def rules():
    return [r for g in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for r in g["rules"]]


def test_rules_name_what_exists():
    documented = set(re.findall(r"\| `(millrace_[a-z0-9_]+)` \|",
                                (ROOT / "docs/metrics.md").read_text(encoding="utf-8")))
    states = set(re.findall(r"(?m)^\| `([a-z]+)` \|", (ROOT / "docs/operations.md").read_text(encoding="utf-8")))
    assert len(documented) > 60 and "blocked" in states
    names = set()
    for rule in rules():
        used = set(re.findall(r"\bmillrace_[a-z0-9_]+", rule["expr"]))
        assert used and used <= documented, f"{rule['alert']}: there is no {used - documented}"
        assert set(re.findall(r'state="([a-z]+)"', rule["expr"])) <= states, rule["alert"]
        text = rule["expr"] + rule["annotations"]["summary"]
        assert set(re.findall(r'(\w+)!?="', rule["expr"])) <= LABELS, rule["alert"]
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= LABELS, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning") and rule["alert"] not in names
        names.add(rule["alert"])
    tested = {t["alertname"] for g in yaml.safe_load(SERIES.read_text(encoding="utf-8"))["tests"]
              for t in g["alert_rule_test"]}
    assert names - tested <= {"MillraceWorkerFailed"}, names - tested


@pytest.mark.may_skip
def test_promtool_accepts_them_and_they_fire(tmp_path):
    promtool = shutil.which("promtool")  # comes with Prometheus only, which is much to install for this
    if promtool is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    series = tmp_path / "test.yml"
    series.write_text(SERIES.read_text(encoding="utf-8").replace("RULES", str(RULES)), encoding="utf-8")
    tested = subprocess.run([promtool, "test", "rules", series], capture_output=True, text=True, timeout=60)
    assert tested.returncode == 0, tested.stdout + tested.stderr

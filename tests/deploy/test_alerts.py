"""The rules for Prometheus: expressions that its grammar knows, over metrics that the server gives."""

import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from sam_server.web import metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus-alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
# Names as the source of /metrics has them; what only some servers give (GPU, Redis) is among them.
GIVEN = set(re.findall(r'"(sam_[a-z_]+)"', Path(metrics.__file__).read_text()))
SUFFIX = re.compile(r"_(total|bucket|sum|count)$")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_rule_reads_metrics_that_are_there(rule):
    promql_parser.parse(rule["expr"])
    names = re.findall(r"\bsam_[a-z_]+", rule["expr"])
    assert names or rule["expr"].startswith("up{")
    assert [name for name in names if name not in GIVEN and SUFFIX.sub("", name) not in GIVEN] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_rule_says_where_and_how_urgent(rule):
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert "{{ $labels.instance }}" in rule["annotations"]["summary"]


def test_a_wrong_expression_is_seen():
    with pytest.raises(ValueError, match=r".+"):
        promql_parser.parse("sum by (instance (x)")

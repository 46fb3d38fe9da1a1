"""The table of claims: every row holds, and one that does not is not hidden."""

import json
import math

import pytest
from typer.testing import CliRunner

from ideareg import claims, cli
from ideareg.claims import equivariance, flows, formations, learning, registration
from ideareg.claims.claim import row

QUICK = (
    flows.closed_forms,
    flows.one_point,
    flows.invariants,
    flows.features,
    learning.nugget,
    learning.certificates,
    learning.random_layers,
    equivariance.equivariant_kernels,
    equivariance.augmentation,
    equivariance.convolutions,
    formations.jump_conditions,
    registration.camassa_holm,
)
SLOW = tuple(group for group in claims.CLAIMS if group not in QUICK)


@pytest.mark.parametrize("group", QUICK, ids=lambda group: group.__name__)
def test_claims_hold(group):
    rows = list(claims.measure([group]))
    assert rows and [row.claim for row in rows if not row.passed] == []
    assert all(math.isfinite(row.measured) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("group", SLOW, ids=lambda group: group.__name__)
def test_more_claims_hold(group):
    assert [row.claim for row in claims.measure([group]) if not row.passed] == []


def run(monkeypatch, tmp_path, *groups):
    monkeypatch.setattr(claims, "CLAIMS", groups)
    files = tmp_path / "c.json", tmp_path / "c.html"
    arguments = ["check", "--json", str(files[0]), "--report", str(files[1])]
    return CliRunner().invoke(cli.app, arguments), files


def test_command(monkeypatch, tmp_path):
    result, (data, page) = run(monkeypatch, tmp_path, flows.one_point)
    assert result.exit_code == 0 and "1 of 1 claims hold" in result.output
    (row,) = json.loads(data.read_text())["claims"]
    assert set(row) == {"claim", "section", "measured", "expected", "tolerance", "passed"}
    assert row["claim"] in page.read_text() and "<script" not in page.read_text()


def test_a_claim_that_fails_is_said_so(monkeypatch, tmp_path):
    def wrong():
        yield row("<b>", "two is three", 2, 3, 0.5)
        yield row("<b>", "nothing is something", math.nan, 0, 1)

    result, (_, page) = run(monkeypatch, tmp_path, wrong)
    assert result.exit_code == 1 and "0 of 2 claims hold" in result.output
    assert result.output.count("FAIL") == 2 and "<b>" not in page.read_text().partition("<main>")[2]

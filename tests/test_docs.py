"""The Python blocks of the pages in docs/ run."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(name):
    (page,) = (page for page in PAGES if page.stem == name)
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_conformal_intervals_cover():
    pytest.importorskip("crepes")
    names = {}
    for block in blocks_of("conformal"):
        exec(compile(block, "docs/conformal.md", "exec"), names)
    # 800 new rows, and a quantile of 400: two standard deviations of the coverage are 3.7 points.
    assert abs(names["covered"] - 0.9) < 0.04

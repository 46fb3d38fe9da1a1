"""Reports: one file, all of the parts, nothing from elsewhere, nothing unescaped."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor

from ideareg import WarpingRegressor, report, tables
from ideareg.page import number

SECTIONS = [
    "Data",
    "Accuracy and honesty on held-out rows",
    "How the space was warped",
    "The physics of the fit",
    "How much warp, by cross-validation",
    "Parameters and versions",
]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order; keeps headings and text."""

    def __init__(self):
        super().__init__()
        self.open, self.headings, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def fit():
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age <script>": random.normal(50, 10, 60),
            "cost $": random.normal(size=60),
            "colour": random.choice(["red", "<b>green</b>"], 60),
        }
    )
    table["cost $"] = table["cost $"].where(table.index % 7 > 0)
    y = np.tanh(table["age <script>"].to_numpy() - 50)
    settings = {"max_iter": 3, "n_control_points": 4, "n_folds": 2, "random_state": 0}
    return (
        table,
        y,
        *(
            tables.table_pipeline(table, WarpingRegressor(nu=nu, **settings)).fit(table, y)
            for nu in ((math.inf, 1.0), math.inf)
        ),
    )


@pytest.fixture(scope="module")
def page(fit, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "r.html"
    table, y, model, plain = fit
    report.write_report(
        path,
        model,
        table,
        y,
        warped=report.held_out(model, table[:30], y[:30]),
        plain=report.held_out(plain, table[:30], y[:30]),
        title="<i>title</i>",
        target="y & z",
    )
    assert [p.name for p in path.parent.iterdir()] == ["r.html"]
    return path.read_text(encoding="utf-8")


def parse(text):
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    return parser


def test_all_parts_are_there(page):
    parser = parse(page)
    assert parser.headings == SECTIONS
    assert sum(tag == "svg" for tag, _ in parser.tags) == 5


def test_nothing_comes_from_elsewhere(page):
    for tag, attributes in parse(page).tags:
        assert tag not in ("script", "link", "img", "iframe", "object")
        for name in ("src", "href", "xlink:href", "data"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert not re.search(r"url\((?!#)|@import", page)


def test_text_of_the_user_is_escaped(page):
    assert "<i>title" not in page
    assert "&lt;i&gt;title&lt;/i&gt;" in page
    assert "<script>" not in page
    assert "age &lt;script&gt;" in page
    assert "<b>green" not in page
    assert "y &amp; z" in page


def test_identifiers_that_are_referred_to_are_unique(page):
    for name in set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", page)):
        assert page.count(f'id="{name[0] or name[1]}"') == 1


def test_what_is_not_known_is_left_out(fit, tmp_path):
    table, y, _, plain = fit
    matrix = tables.encoded(plain, table)
    report.write_report(tmp_path / "r.html", plain[-1], matrix, y)
    parser = parse((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert parser.headings == [SECTIONS[2], SECTIONS[3], SECTIONS[5]]


def test_unwritable(fit, tmp_path):
    table, y, model, _ = fit
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        report.write_report(tmp_path / "no" / "r.html", model, table, y)
    assert not list(tmp_path.iterdir())


def test_held_out_scores(fit):
    table, y, model, _ = fit
    scores = report.held_out(model, table, y)
    matrix = tables.encoded(model, table)
    assert scores.rmse == pytest.approx(np.sqrt(np.mean((model.predict(table) - y) ** 2)))
    assert scores.ll == pytest.approx(np.mean(model[-1].log_predictive_density(matrix, y)))
    assert 0 <= scores.coverage(0.5) <= scores.coverage(0.95) <= 1


def test_held_out_scores_of_a_gaussian_peer():
    X = np.linspace(0, 1, 8)[:, None]
    y = np.sin(5 * X[:, 0])
    model = GaussianProcessRegressor(alpha=0.1, optimizer=None).fit(X, y)
    mean, std = model.predict(X, return_std=True)
    assert report.held_out(model, X, y).ll == pytest.approx(norm.logpdf(y, mean, std).mean())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "–"),
        (None, "–"),
        (math.inf, "∞"),
        (-1.23456, "−1.235"),
        (1234567, "1,234,567"),
        (True, "yes"),
        (np.float64(0.5), "0.5"),
        ("a-b", "a-b"),
    ],
)
def test_numbers_for_readers(value, text):
    assert number(value) == text

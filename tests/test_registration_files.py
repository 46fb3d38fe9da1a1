"""``ideareg register``: landmarks and images from files, and mistakes in one line."""

import re

import numpy as np
import pytest
from typer.testing import CliRunner

from ideareg import load
from ideareg.cli import commands as cli
from ideareg.registration import Image
from ideareg.registration.files import read

FAILED = 2
X, Y = np.mgrid[:16, :16] - 7.5


def disc(a):
    return 1 / (1 + np.exp(2 * (np.sqrt(X**2 + a * Y**2) - 4)))


def ideareg(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], prog_name="ideareg")


def test_landmarks(tmp_path):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(6, 2))
    goal = start + 0.2 * rng.normal(size=(6, 2))
    np.savetxt(tmp_path / "a.csv", start, delimiter=",", header="x,y", comments="")
    np.savetxt(tmp_path / "b.csv", goal, delimiter=",")
    run = ideareg(
        "register", tmp_path / "a.csv", tmp_path / "b.csv", "--nu", 1e-4, "--kernel", 1,
        "--out", tmp_path / "out", "--report", tmp_path / "r.html",
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    fit = load(tmp_path / "out" / "registration.ideareg")
    assert np.abs(fit.transform_points(start) - goal).max() < 0.01
    with np.load(tmp_path / "out" / "warped.npz") as warped:
        np.testing.assert_allclose(warped["points"], fit.transform_points(start), atol=1e-12)
    with np.load(tmp_path / "out" / "displacement.npz") as moved:
        ends = moved["points"] + moved["displacement"]
        np.testing.assert_allclose(ends, fit.transform_points(start), atol=1e-12)
    assert (tmp_path / "r.html").read_text().count("<svg") == 3


def test_images(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    pillow.fromarray(np.round(255 * disc(1.0)).astype(np.uint8)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.round(255 * disc(0.7)))
    run = ideareg(
        "register", tmp_path / "a.png", tmp_path / "b.npy", "--kernel", 4, "--align", "none",
        "--out", tmp_path / "out", "--report", tmp_path / "r.html",
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "smallest Jacobian determinant" in run.output
    warped = read(tmp_path / "out" / "warped.npz")
    assert isinstance(warped, Image)
    goal = 255 * disc(0.7)
    assert np.mean((warped.values - goal) ** 2) < 0.1 * np.mean((255 * disc(1.0) - goal) ** 2)
    assert (tmp_path / "r.html").read_text().count("<svg") == 4


def test_labels_beside_images(tmp_path):
    for name, axis in (("a", 1.0), ("b", 0.7)):
        np.save(tmp_path / f"{name}.npy", disc(axis))
        np.save(tmp_path / f"{name}_labels.npy", 3.0 * (disc(axis) > 0.5))
    pair = tmp_path / "a.npy", tmp_path / "b.npy"
    labels = tmp_path / "a_labels.npy", tmp_path / "b_labels.npy"
    run = ideareg("register", *pair, "--labels", *labels, "--kernel", 4)
    assert run.exit_code == 0, run.output
    assert float(re.search(r"Dice coefficient of label 3 +([\d.]+)", run.output)[1]) > 0.95
    np.savetxt(tmp_path / "p.csv", np.eye(3), delimiter=",")
    for given, wanted, message in [
        (pair, (*pair[:1], labels[1]), "are no labels"),
        (pair, (tmp_path / "p.csv", labels[1]), "expected an image of labels, got: landmarks"),
        ([tmp_path / "p.csv"] * 2, labels, "--labels are those of two images"),
    ]:
        run = ideareg("register", *given, "--labels", *wanted)
        assert run.exit_code == FAILED and message in run.stderr
        assert run.stderr.count("\n") == 1


def test_archives_keep_geometry_and_meshes(tmp_path):
    np.savez(tmp_path / "i.npz", values=disc(1.0), spacing=[0.5, 2.0], origin=[1.0, 2.0])
    image = read(tmp_path / "i.npz")
    assert image.spacing.tolist() == [0.5, 2.0] and image.origin.tolist() == [1.0, 2.0]
    np.savez(tmp_path / "m.npz", points=np.eye(3), cells=[[0, 1, 2]])
    assert read(tmp_path / "m.npz").kind == "surface"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", "", "expected a name that ends in"),
        ("a.csv", "x,y\n1,oops\n", "expected a table of numbers"),
        ("a.csv", "1,2\nnan,1\n", "NaN or infinite"),
    ],
)
def test_mistakes_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    run = ideareg("register", tmp_path / name, tmp_path / name, "--out", tmp_path / "out")
    assert run.exit_code == FAILED and run.stdout == ""
    assert message in run.stderr and run.stderr.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())
    gone = ideareg("register", tmp_path / "gone.csv", tmp_path / name)
    assert gone.exit_code == FAILED and "gone.csv" in gone.stderr

"""The examples run, in a size that takes seconds, and say what they should."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_swiss_roll(tmp_path, capsys):
    example = load("plot_swiss_roll")
    example.main(["--points", "8", "--mu", "0.5", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    norm = float(re.search(r"gradient norm ([\d.e+-]+),", said)[1])
    assert norm <= 1e-6
    # Six rows: before the first layer and after each, with the energy of three integrations.
    assert len(re.findall(r"^ +[\d.]+  H .* H .* H .*$", said, re.MULTILINE)) == 6
    assert "Runge-Kutta, h = 0.01: the energy drifts by" in said
    figure = tmp_path / "swiss_roll_nugget_0.5.png"
    assert figure.stat().st_size > 10_000
    assert not jax.config.jax_enable_x64


def test_swiss_roll_readings():
    """The two readings of r = 0.1, and the way to a small ridge."""
    example = load("plot_swiss_roll")
    with jax.enable_x64(True):
        bias, nugget = (example.make_problem(name, 0.1, 5) for name in ("bias", "nugget"))
        gram = np.asarray(bias.kernel.gram(bias.X))
        plain = np.asarray(nugget.kernel.gram(nugget.X))
    np.testing.assert_allclose(gram, plain + 0.1)
    gap = bias.X[:, None] - bias.X[None]
    np.testing.assert_allclose(plain, np.exp(-(gap**2).sum(-1) / 25))
    assert (bias.ham.nugget, bias.ridge, nugget.ham.nugget, nugget.ridge) == (0, 1e-6, 0.1, 0.1)
    assert example.ridges(0.1) == [0.1]
    np.testing.assert_allclose(example.ridges(1e-6), [1, 0.1, 1e-2, 1e-3, 1e-4, 1e-6])


@pytest.mark.parametrize("points", [3, 100])
def test_spirals_start_near_each_other_and_wind_apart(points):
    X, Y = load("plot_swiss_roll").spirals(points)
    assert X.shape == (2 * points, 2)
    np.testing.assert_array_equal(np.bincount((Y > 0).astype(int)), [points, points])
    mirrored = 1 - X[Y < 0]  # half a turn about (0.5, 0.5)
    assert np.abs(mirrored - X[Y > 0]).max() < 1


@pytest.mark.slow
def test_robustness(tmp_path, capsys):
    load("plot_robustness").main(["--rows", "40", "--max-iter", "3", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert said.count("attacks that beat it: 0") == 3
    assert len(re.findall("^nugget .* lipschitz .* rmse ", said, re.MULTILINE)) == 4
    assert (tmp_path / "robustness.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), [("motorcycle", "mcycle"), ("snelson1d", "snelson1d")])
def test_a_gap_in_one_input(name, file, tmp_path, capsys):
    X = np.linspace(0, 60 if name == "motorcycle" else 6, 60)[:, None]
    np.savez(tmp_path / f"sci_{file}.npz", X=X, y=np.sin(X[:, 0]))
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path), "--max-iter", "3"]
    load(f"plot_{name}").main(arguments)
    assert re.findall("^(.*): ν.*; in the gap std", capsys.readouterr().out, re.MULTILINE) == [
        "all rows",
        "without the gap",
    ]
    assert (tmp_path / f"{file}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_varying_noise(tmp_path, capsys):
    example = load("plot_varying_noise")
    example.main(["--rows", "120", "--max-iter", "30", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    constant, varying = map(float, re.findall(r"log-likelihood ([-\d.]+);", said))
    assert varying > constant + 0.1
    assert (tmp_path / "varying_noise.png").stat().st_size > 10_000


@pytest.mark.slow
def test_laplace_beside_the_sampler(tmp_path, capsys):
    pytest.importorskip("blackjax", reason="the optional sampler is not installed")
    X = np.linspace(0, 1, 40)[:, None]
    np.savez(tmp_path / "sci_mcycle.npz", X=X, y=np.tanh(9 * X[:, 0] - 4))
    options = ["--sets", "mcycle", "--max-iter", "5", "--warmup", "20", "--samples", "20"]
    load("plot_laplace").main(["--data", str(tmp_path), "--out", str(tmp_path), *options])
    assert re.search(
        r"mcycle: Laplace over NUTS [\d.]+ on average, off by", capsys.readouterr().out
    )
    assert (tmp_path / "laplace.png").stat().st_size > 5_000


@pytest.mark.slow
def test_landmarks(tmp_path, capsys):
    load("plot_landmarks").main(["--landmarks", "8", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "converged: True" in said and "of the mismatch left" in said
    assert (tmp_path / "landmarks.png").stat().st_size > 10_000


@pytest.mark.slow
def test_population(tmp_path, capsys):
    load("plot_population").main(["--leaves", "6", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "converged: True" in said
    assert float(re.search(r"two modes: ([\d.]+)%", said)[1]) > 95
    one, other = map(float, re.search(r"growth: ([\d.]+), carried along: ([\d.]+)", said).groups())
    assert other == pytest.approx(one, rel=1e-3)
    assert (tmp_path / "population.png").stat().st_size > 10_000
    assert "<canvas" in (tmp_path / "population.html").read_text(encoding="utf-8")

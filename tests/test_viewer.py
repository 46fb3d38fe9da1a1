"""The page on which shapes move: what is in it, what cannot get into it, and what it paints."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ideareg import Registration, viewer
from ideareg.cli import commands as cli
from ideareg.integrators import RK4
from ideareg.kernels import Matern52
from ideareg.registration import Affine, Image, Shape
from ideareg.registration.flows import PointFlow
from ideareg.viewer import write_viewer

HARNESS = Path(__file__).with_name("viewer_harness.js")
T = 2 * np.pi * np.arange(6) / 6
SOURCE = np.c_[np.cos(T), np.sin(T)]
TARGET = SOURCE * [1.5, 1.1] + 0.2
NASTY = "</script><script>alert('$x')</script> & <b>\u2028"


@pytest.fixture(scope="module")
def plane():
    return Registration(1.0, nu=0.0, align="rigid").fit(SOURCE, TARGET)


def made_of(source):
    fit = Registration()
    fit.source_ = source
    return fit


@pytest.fixture(scope="module")
def solid():
    points = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    fit = made_of(Shape.of(points, faces))
    fit.affine_ = Affine.identity(3)
    fit.flow_ = PointFlow(Matern52(1.0), points, 0.3 * points, 4, RK4())
    return fit


def read(path):
    text = path.read_text(encoding="utf-8")
    data = re.search('<script id="data" type="application/json">(.*?)</script>', text)[1]
    return text, json.loads(data)


def paint(path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    run = subprocess.run([node, HARNESS, path], capture_output=True, text=True, check=True)
    said = json.loads(run.stdout)
    return {step["what"]: step for step in said["steps"]}, said


# ------------------------------------------------------------------ what is in it


def test_numbers_are_those_of_the_fit(plane, tmp_path):
    write_viewer(tmp_path / "v.html", plane, TARGET, title="Ring", units="mm")
    text, data = read(tmp_path / "v.html")
    assert "<h1>Ring</h1>" in text and data["units"] == "mm" and data["cells"] is None
    frames = np.array(data["frames"]).reshape(11, 6, 2)
    np.testing.assert_allclose(frames, plane.trajectories(SOURCE), atol=2e-4)
    np.testing.assert_allclose(np.reshape(data["target"]["points"], (6, 2)), TARGET, atol=2e-4)
    grid = np.array(data["grid"]["frames"]).reshape(11, -1, 2)
    start = plane.affine_.inverse()(grid[0])
    np.testing.assert_allclose(grid[-1], plane.transform_points(start), atol=1e-3)
    assert "Time 0 is the source after its affine map." in text


def test_nothing_is_asked_of_anyone(plane, solid, tmp_path):
    for name, fit in (("plane", plane), ("solid", solid)):
        write_viewer(tmp_path / name, fit)
        text, data = read(tmp_path / name)
        assert "default-src 'none'" in text
        assert not re.findall(r"https?:|//[a-z]|src=|href=|@import|url\(|fetch|XMLHttp", text)
        assert data["target"] is None and 'id="target"' not in text
        assert ('id="grid"' in text) == (name == "plane") == (data["grid"] is not None)


def test_text_of_the_user_stays_text(plane, tmp_path):
    write_viewer(tmp_path / "v.html", plane, TARGET, title=NASTY, units=NASTY)
    text, data = read(tmp_path / "v.html")
    assert data["units"] == NASTY
    assert text.count("<script") == text.count("</script>") == 2
    assert "<b>" not in text and text.count("&lt;b&gt;") == 3
    assert "alert('$x')" in text.replace("&#x27;", "'")


def test_size_is_bounded(plane, tmp_path, monkeypatch):
    each = np.size(read_after(plane, tmp_path)["grid"]["frames"][0]) + SOURCE.size
    monkeypatch.setattr(viewer, "MOST_NUMBERS", 6 * each)
    write_viewer(tmp_path / "v.html", plane)
    text, data = read(tmp_path / "v.html")
    assert len(data["frames"]) == len(data["grid"]["frames"]) == 6
    assert "6 of the 11 time steps are kept" in text
    np.testing.assert_allclose(data["frames"][-1], plane.geodesic(1).ravel(), atol=2e-4)
    monkeypatch.setattr(viewer, "MOST_NUMBERS", 2 * SOURCE.size)
    bare = read_after(plane, tmp_path)
    assert len(bare["frames"]) == 2 and bare["grid"] is None
    monkeypatch.setattr(viewer, "MOST_NUMBERS", 2 * SOURCE.size - 1)
    with pytest.raises(ValueError, match="6 points, too many"):
        write_viewer(tmp_path / "v.html", plane)


def read_after(fit, folder):
    write_viewer(folder / "v.html", fit)
    return read(folder / "v.html")[1]


# ------------------------------------------------------------------ what it does


def test_plane_moves_with_the_time(plane, tmp_path):
    write_viewer(tmp_path / "v.html", plane, TARGET, units="mm")
    steps, said = paint(tmp_path / "v.html")

    def dots(what, ink):
        marks = [m for m in steps[what]["painted"] if m["how"] == "fill" and m["ink"] == ink]
        return np.array([mark["path"][0] for mark in marks])

    np.testing.assert_allclose(dots("start", "--blue"), dots("start", "--soft"))
    # Exact matching: at the end each moving point is on its target, within a pixel.
    assert np.abs(dots("end", "--blue") - dots("end", "--orange")).max() < 1
    assert np.abs(dots("start", "--blue") - dots("start", "--orange")).max() > 20
    assert [steps[k]["shown"] for k in ("start", "half", "end")] == [
        "t = 0.00", "t = 0.50", "t = 1.00",
    ]  # fmt: skip
    np.testing.assert_allclose(dots("turned", "--soft") - dots("end", "--soft"), [[-15, 0]] * 6)
    np.testing.assert_allclose(dots("home", "--soft"), dots("end", "--soft"))
    sizes = [np.ptp(dots(what, "--soft"), axis=0) for what in ("near", "end")]
    np.testing.assert_allclose(sizes[0], 1.15 * sizes[1])
    assert (said["begun"], said["ended"]) == ("Pause", "Play")
    assert steps["played"]["shown"] == "t = 1.00"
    assert steps["end"]["painted"][-1]["text"].endswith(" mm")
    everything = np.concatenate([m["path"] for m in steps["start"]["painted"] if "path" in m])
    assert (everything >= 0).all() and (everything <= [800, 600]).all()


def test_solids_turn_and_near_faces_come_last(solid, tmp_path):
    write_viewer(tmp_path / "v.html", solid)
    steps, _ = paint(tmp_path / "v.html")
    faces = [m for m in steps["end"]["painted"] if m["how"] == "fill"]
    assert len(faces) == 8 and {len(m["path"]) for m in faces} == {3}
    turned = [m for m in steps["turned"]["painted"] if m["how"] == "fill"]
    assert faces != turned
    assert faces == [m for m in steps["home"]["painted"] if m["how"] == "fill"]
    # The farthest face is painted first, seen from above and from one side.
    data = read(tmp_path / "v.html")[1]
    turn, tilt = ([np.cos(angle), np.sin(angle)] for angle in (0.5, 0.35))
    about_y = np.array([[turn[0], 0, turn[1]], [0, 1, 0], [-turn[1], 0, turn[0]]])
    about_x = np.array([[1, 0, 0], [0, tilt[0], -tilt[1]], [0, tilt[1], tilt[0]]])
    both = np.concatenate([np.reshape(data["frames"][k], (4, 3))[data["cells"]] for k in (0, -1)])
    middles = (both.mean(1) - data["centre"]) @ about_y.T @ about_x.T
    scale = 0.9 * 600 / data["extent"][1]
    expected = ([400, 300] + scale * middles[:, :2] * [1, -1])[np.argsort(middles[:, 2])]
    np.testing.assert_allclose([np.mean(m["path"], axis=0) for m in faces], expected, atol=1e-6)


# ------------------------------------------------------------------ refusals, command line


def test_what_it_cannot_show_is_refused(plane, tmp_path):
    for unfit, message in (
        (Registration(), "fitted registration of shapes"),
        (made_of(Image.of(np.eye(8))), "not of images"),
        (made_of(Shape.of([[0.0], [1.0]])), "2 or 3 dimensions, the fit has 1"),
    ):
        with pytest.raises(ValueError, match=message):
            write_viewer(tmp_path / "v.html", unfit)
    with pytest.raises(ValueError, match="target has 3 coordinates"):
        write_viewer(tmp_path / "v.html", plane, np.zeros((6, 3)))
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path):
    for name, points in (("a.csv", SOURCE), ("b.csv", TARGET)):
        np.savetxt(tmp_path / name, points, delimiter=",")
    np.save(tmp_path / "i.npy", np.eye(8))

    def run(*names):
        given = ["register", *(tmp_path / name for name in names), "--viewer", tmp_path / "v.html"]
        return CliRunner().invoke(cli.app, [str(a) for a in given], prog_name="ideareg")

    done = run("a.csv", "b.csv")
    assert done.exit_code == 0, done.output
    assert "viewer: " in done.stdout
    text, data = read(tmp_path / "v.html")
    assert "<h1>a.csv onto b.csv</h1>" in text and len(data["target"]["points"]) == 12
    refused = run("i.npy", "i.npy")
    assert refused.exit_code == 2 and "--viewer shows landmarks and meshes" in refused.stderr

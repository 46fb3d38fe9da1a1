"""``ideareg register``: bring landmarks, meshes or images together, from files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ideareg.cli._mistakes import mistakes_in_one_line

if TYPE_CHECKING:
    from ideareg.registration import Registration

MODEL, WARPED = "registration.ideareg", "warped.npz"
DISPLACEMENT = "displacement.npz"

File = Annotated[Path, typer.Argument(help="A .csv, .npy, .npz, picture, NIfTI or mesh file.")]


def register(
    source: File,
    target: File,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the fit, the warped source, the displacement.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    viewer: Annotated[
        Path | None, typer.Option(help="Write a page here on which the shapes move.")
    ] = None,
    align: Annotated[
        str, typer.Option(help="Map before the flow: rigid, similarity, affine or none.")
    ] = "",
    nu: Annotated[float | None, typer.Option(help="Price of bending.")] = None,
    kernel: Annotated[
        float | None, typer.Option(help="Length of the flow's kernel, in the units of the data.")
    ] = None,
    similarity: Annotated[str, typer.Option(help="For images: ssd, ncc or mi.")] = "ssd",
    labels: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Labels of the two images, as of segmentations, that are to meet too."),
    ] = None,
) -> None:
    """Warp a source onto a target, smoothly and invertibly.

    Landmarks (.csv, a row each) correspond row by row; meshes and images need not. Without --align
    images get an affine map first, other data none. Labels are images of whole numbers, 0 for none.
    """
    with mistakes_in_one_line():
        from ideareg import persistence, tables
        from ideareg.registration import Image, Registration
        from ideareg.registration.files import read, read_labels

        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            persistence.check_writable(out / MODEL)
        if report is not None:
            persistence.check_writable(report)
            tables.require("matplotlib", "plot")
        if viewer is not None:
            persistence.check_writable(viewer)
        pair = read(source), read(target)
        if viewer is not None and isinstance(pair[0], Image):
            raise ValueError("--viewer shows landmarks and meshes; for images there is --report.")
        maps = None if labels is None else tuple(map(read_labels, labels))
        if maps is not None and not isinstance(pair[0], Image):
            raise ValueError("--labels are those of two images.")
        kind = align or ("affine" if isinstance(pair[0], Image) else "none")
        fit = Registration(
            kernel, nu=nu, align=None if kind == "none" else kind, similarity=similarity
        )
        begun = time.perf_counter()
        fit.fit(*(pair if maps is None else map(list, zip(pair, maps, strict=True))))
        seconds = time.perf_counter() - begun
        lines = [*_overlap(fit, maps), *_facts(fit, seconds)]
        typer.echo(f"{source.name} onto {target.name} ({fit.source_.kind}).")
        for name, value in lines:
            typer.echo(f"  {name:42}{value}")
        if not fit.converged_:
            typer.echo(f"  not to be trusted: {fit.result_.message}")
        if out is not None:
            _write(fit, out)
        if report is not None:
            _report(fit, pair[1], report, f"{source.name} onto {target.name}", lines)
            typer.echo(f"report: {report}")
        if viewer is not None:
            from ideareg.viewer import write_viewer

            write_viewer(viewer, fit, pair[1], title=f"{source.name} onto {target.name}")
            typer.echo(f"viewer: {viewer}")


def _overlap(fit: Registration, maps: Any) -> list[tuple[str, str]]:
    """Say how the labels meet."""
    if maps is None:
        return []
    from ideareg.registration import dice

    found = dice(fit.transform_image(maps[0]), maps[1])
    return [
        (f"Dice coefficient of label {name:g}", f"{value:.4f}") for name, value in found.items()
    ]


def _facts(fit: Registration, seconds: float) -> list[tuple[str, str]]:
    facts = [
        ("mismatch left, of that after the affine map", f"{100 * fit.residual_:.3g} %"),
        ("length of the flow", f"{fit.distance_:.4g}"),
        ("drift of its energy", f"{100 * fit.energy_drift_:.2g} %"),
    ]
    if hasattr(fit, "smallest_jacobian_"):
        facts.append(("smallest Jacobian determinant", f"{fit.smallest_jacobian_:.3g}"))
    return [*facts, ("iterations", f"{fit.n_iter_}"), ("seconds", f"{seconds:.1f}")]


def _write(fit: Registration, out: Path) -> None:
    """Write the fit, what became of the source, and how far each of its points goes."""
    import numpy as np

    from ideareg import persistence
    from ideareg.registration import Image

    fit.save(out / MODEL)
    source, warped = fit.source_, fit.warped_source_
    if isinstance(source, Image):
        starts = source.points()
        values: dict[str, Any] = {
            "values": warped.values, "spacing": warped.spacing, "origin": warped.origin,
            "direction": warped.direction,
        }  # fmt: skip
    else:
        starts = fit.affine_.inverse()(source.points)
        values = {"points": warped.points}
        if warped.cells is not None:
            values["cells"] = warped.cells
    moved = fit.transform_points(starts) - starts
    displacement = {"points": starts, "displacement": moved}
    for name, arrays in ((WARPED, values), (DISPLACEMENT, displacement)):
        with persistence.replacing(out / name) as stream:
            np.savez_compressed(stream, **arrays)
    typer.echo(f"fit, warped source, displacement of its points: {out}")


def _report(
    fit: Registration, target: Any, path: Path, title: str, facts: list[tuple[str, str]]
) -> None:
    from ideareg import page, plotting
    from ideareg.registration import Image

    figures = []
    if isinstance(target, Image):
        if target.dimension == 2:
            figures = [
                page.figure(lambda ax: plotting.image_mismatch(fit, False, ax=ax), "Before"),
                page.figure(lambda ax: plotting.image_mismatch(fit, True, ax=ax), "After"),
                page.figure(lambda ax: plotting.deformed_grid(fit, ax=ax), "Grid"),
                page.figure(lambda ax: plotting.jacobian_map(fit, ax=ax), "Stretching"),
            ]
    else:
        goal = (target.points, target.cells)
        figures = [page.figure(lambda ax: plotting.before_after(fit, goal, ax=ax), "Shapes")]
        if target.dimension == 2:
            figures += [
                page.figure(lambda ax: plotting.deformed_grid(fit, ax=ax), "Grid"),
                page.figure(lambda ax: plotting.jacobian_map(fit, ax=ax), "Stretching"),
            ]
    verdict = page.note(fit.result_.message)
    settings = [[name, repr(value)] for name, value in fit.get_params(deep=False).items()]
    page.write_page(
        path, title, f"Registration by one initial momentum ({fit.source_.kind}).",
        [
            page.section("Result", verdict, page.table(["", ""], facts)),
            page.section("Pictures", '<div class="row">', *figures, "</div>"),
            page.section("Settings", page.table(["parameter", "value"], settings)),
        ],
    )  # fmt: skip

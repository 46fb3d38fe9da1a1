"""The command line: ``ideareg demo``, ``fit``, ``predict``, ``register``, ``check``, ``bench``.

What is needed is imported inside the commands, so that help comes at once. A user's mistake is
one line on stderr and exit status 2; outputs are checked before the work, and written whole.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ideareg.cli._bench import bench_app
from ideareg.cli._mistakes import mistakes_in_one_line
from ideareg.cli._register import register

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from sklearn.pipeline import Pipeline

    from ideareg.report import HeldOut

MIN_HELD_OUT = 20
MIN_TRAINING = 20
DEMO_HELD_OUT = 0.25

app = typer.Typer(
    help="Regression after a learned, invertible warp of the input space.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(bench_app, name="bench")
app.command()(register)


def main() -> None:
    """Run the command line."""
    app(prog_name="ideareg")


def _show_version(wanted: bool) -> None:
    if wanted:
        from ideareg.persistence import library_version

        typer.echo(f"ideareg {library_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


# ---------------------------------------------------------------- fit


class _Fit(NamedTuple):
    model: Pipeline
    train: np.ndarray  # rows that were fitted
    test: np.ndarray
    warped: HeldOut | None
    plain: HeldOut | None
    seconds: float
    rows: int  # fitted in all
    streamed: bool


def _split(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the rows to fit and those to hold out; none when few would be left."""
    import numpy as np

    if not 0 <= share < 1:
        raise ValueError(f"--test-size {share}: expected a share of rows, at least 0 and below 1")
    held = max(MIN_HELD_OUT, round(share * n)) if share else 0
    if n - held < MIN_TRAINING:
        held = 0
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[held:]), np.sort(order[:held])


def _fit(
    features: pd.DataFrame,
    y: np.ndarray,
    share: float,
    seed: int,
    warp: bool,
    head: bool,
    rest: Iterable[tuple[Any, Any]] | None = None,
) -> _Fit:
    """Fit the rows that are not held out; ``head`` asks for the scores without a warp too.

    The ``rest`` of a table comes in pieces, which count after the first fit.
    """
    from sklearn.base import clone

    from ideareg.estimators.warping import WarpingRegressor
    from ideareg.pieces import fit_in_pieces
    from ideareg.report import held_out
    from ideareg.tables import table_pipeline

    if len(y) < 2:
        raise ValueError("the table has 1 row: a fit needs at least 2, and is of use from about 20")
    table_pipeline(features, None)  # what cannot be used is refused for the whole table
    train, test = _split(len(y), share, seed)
    regressor = WarpingRegressor(random_state=seed)
    if not warp:
        regressor.set_params(nu=math.inf)
    start = time.perf_counter()
    model = table_pipeline(features.iloc[train], regressor)
    if rest is None:
        model.fit(features.iloc[train], y[train])
        rows = len(train)
    else:
        rows = fit_in_pieces(model, chain([(features.iloc[train], y[train])], _shown(rest)))
    seconds = time.perf_counter() - start
    if not len(test):
        return _Fit(model, train, test, None, None, seconds, rows, rest is not None)
    unseen, targets = features.iloc[test], y[test]
    warped, plain = held_out(model, unseen, targets), None
    if warp and head:
        bent = bool((model[-1].target_power_[0] != 1).any())
        alone = clone(model).set_params(
            regress__nu=math.inf,
            regress__target_power=bent,
            regress__local=bool(model[-1].local_share_.any()),
            regress__tails=bool((model[-1].tail_freedom_ < math.inf).any()),
        )
        plain = held_out(alone.fit(features.iloc[train], y[train]), unseen, targets)
    return _Fit(model, train, test, warped, plain, seconds, rows, rest is not None)


def _shown(pieces: Iterable[tuple[Any, Any]]) -> Iterable[tuple[Any, Any]]:
    """Count the pieces on a terminal."""
    from rich.console import Console
    from rich.progress import track

    errors = Console(stderr=True)
    return track(pieces, "reading", console=errors, disable=not errors.is_terminal, transient=True)


def _scores(fit: _Fit) -> str:
    """Return held-out scores as lines of text."""
    lines = [f"{'':18}{'RMSE':>12}{'log-likelihood':>18}{'90 % intervals hold':>22}"]
    first = "with the warp" if fit.plain else "this model"
    for name, scores in ((first, fit.warped), ("without", fit.plain)):
        if scores is not None:
            held = f"{100 * scores.coverage():.0f} %"
            lines.append(f"{name:18}{scores.rmse:>12.4g}{scores.ll:>18.4f}{held:>22}")
    return "\n".join(lines)


Table = Annotated[Path, typer.Argument(metavar="DATA", help="A .csv, .tsv or .parquet file.")]
Encoding = Annotated[str, typer.Option(help="Encoding of a .csv or .tsv file.")]
Seed = Annotated[int, typer.Option(help="Seed of all that is random.")]


@app.command()
def fit(
    data: Table,
    target: Annotated[str, typer.Option(help="The column to predict.")],
    out: Annotated[Path | None, typer.Option(help="Save the model here.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Leave out a column; repeatable.")] = None,
    encoding: Encoding = "utf-8",
    test_size: Annotated[
        float, typer.Option(help="Share of rows held out for the scores; 0 for none.")
    ] = 0.1,
    warp: Annotated[bool, typer.Option("--warp/--no-warp", help="Learn a warp.")] = True,
    refit: Annotated[
        bool, typer.Option("--refit", help="Save a model of all rows, the held-out ones too.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Learn from so many rows, read the others piece by piece: .parquet, .csv, "
            "or a folder of Parquet files.",
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Fit a table and show held-out scores with and without the warp.

    A tenth of the rows (at least 20) is held out for the scores. The saved model is the one that
    was scored, unless --refit asks for all rows; --test-size 0 fits all rows, without scores.
    Numbers, categories, booleans and gaps are taken as they are.

    With --sample 50000 the table may be larger than memory. So many rows, drawn at random, decide
    everything but the regressor after the warp, which the others then condition too; the rows held
    out are some of the sample.
    """
    with mistakes_in_one_line():
        from ideareg import persistence, tables

        for path in (out, report):
            if path is not None:
                persistence.check_writable(path)
        if report is not None:
            tables.require("matplotlib", "plot")
        rest = None
        if sample is not None:
            features, y, rest = _sampled(data, target, drop or (), encoding, sample, seed)
        else:
            frame = tables.read_table(data, encoding)
            features, y = tables.split_target(frame, target, drop or ())
        result = _fit(features, y, test_size, seed, warp, head=sample is None, rest=rest)
        typer.echo(
            f"{data.name}: {result.rows + len(result.test):,} rows, {features.shape[1]} columns, "
            f"target {target}. Fitted {result.rows:,} rows in {result.seconds:.0f} s; "
            + (f"held out {len(result.test)}:" if len(result.test) else "held out none: no scores.")
        )
        if result.warped is not None:
            typer.echo(_scores(result))
        _write(result, features, y, out, report, f"{target} from {data.name}", target, refit)


def _sampled(
    data: Path, target: str, drop: Sequence[str], encoding: str, sample: int, seed: int
) -> tuple[pd.DataFrame, np.ndarray, Iterator[tuple[Any, Any]]]:
    """Return a sample of a table, and an iterator over the rest of it."""
    from ideareg.pieces import in_pieces
    from ideareg.tables import split_target

    if encoding != "utf-8":
        raise ValueError("--sample reads utf-8 text: --encoding cannot go with it")
    pieces = in_pieces(data, sample, seed=seed)
    split = (split_target(piece, target, drop) for piece in pieces)
    return *next(split), split


def _write(
    result: _Fit,
    features: pd.DataFrame,
    y: np.ndarray,
    out: Path | None,
    report: Path | None,
    title: str,
    target: str,
    refit: bool = False,
) -> None:
    from ideareg.report import write_report
    from ideareg.tables import save_pipeline

    if report is not None:
        write_report(
            report,
            result.model,
            features,
            y,
            warped=result.warped,
            plain=result.plain,
            title=title,
            target=target,
            notes=f"{result.rows:,} rows fitted, {len(result.test):,} held out.",
        )
        typer.echo(f"report: {report}")
    if out is not None:
        if refit and len(result.test):
            model, left = result.model, features.iloc[result.test]
            if result.streamed:
                model[-1].partial_fit(model[:-1].transform(left), y[result.test])
            else:
                model.fit(features, y)
        rows = "all rows" if refit or not len(result.test) else "the rows that were not held out"
        save_pipeline(result.model, out)
        typer.echo(f"model: {out} (fitted on {rows})")


# ---------------------------------------------------------------- predict


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that fit --out wrote.")],
    data: Table,
    out: Annotated[Path | None, typer.Option(help="Write a .csv here, not to stdout.")] = None,
    std: Annotated[bool, typer.Option("--std", help="Standard deviations too.")] = False,
    encoding: Encoding = "utf-8",
) -> None:
    """Predict each row of a table; columns that the model does not use are ignored."""
    with mistakes_in_one_line():
        from ideareg import persistence, tables

        if out is not None:
            persistence.check_writable(out)
        fitted = persistence.load(model)
        frame = tables.read_table(data, encoding)
        answer = fitted.predict(_inputs(fitted, frame), return_std=std)
        columns = {"prediction": answer[0], "std": answer[1]} if std else {"prediction": answer}
        text = _csv(columns)
        if out is None:
            typer.echo(text, nl=False)
        else:
            with persistence.replacing(out) as stream:
                stream.write(text.encode())


def _inputs(model: Any, frame: pd.DataFrame) -> Any:
    """Return the rows as ``model`` takes them: a pipeline takes tables, a regressor numbers."""
    from ideareg import tables

    if hasattr(model, "named_steps"):
        return frame
    names = getattr(model, "feature_names_in_", None)
    plain = tables.plain_columns(frame, frame.columns if names is None else names, ())
    return plain.to_numpy() if names is None else plain


def _csv(columns: dict[str, Any]) -> str:
    import numpy as np

    arrays = {}
    for name, values in columns.items():
        many = np.asarray(values).reshape(len(values), -1)
        for k in range(many.shape[1]):
            arrays[name if many.shape[1] == 1 else f"{name}_{k}"] = many[:, k].tolist()
    rows = zip(*arrays.values(), strict=True)
    # repr: the shortest text that reads back as the same number
    return "".join(",".join(line) + "\n" for line in [list(arrays), *(map(repr, r) for r in rows)])


# ---------------------------------------------------------------- demo


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report and the model.")] = Path(
        "ideareg-demo"
    ),
    seed: Seed = 0,
) -> None:
    """Fit real data that ship with a dependency, and say what the warp gained.

    A share is priced by date. Markets are calm in some years and wild in others, which one length
    scale cannot say; a warp of the time axis can.
    """
    with mistakes_in_one_line():
        from ideareg import persistence, tables

        tables.require("matplotlib", "plot")
        out.mkdir(parents=True, exist_ok=True)
        report, model = out / "demo-report.html", out / "demo-model.ideareg"
        for path in (report, model):
            persistence.check_writable(path)
        name, features, y, target = _demo_data()
        typer.echo(f"{name}: {len(y):,} rows, to predict the {target} by {', '.join(features)}.")
        result = _fit(features, y, DEMO_HELD_OUT, seed, warp=True, head=True)
        assert result.warped is not None and result.plain is not None
        _write(result, features, y, model, report, name, target)
        typer.echo(_scores(result))
        change = 100 * (result.warped.rmse / result.plain.rmse - 1)
        typer.echo(
            f"On {len(result.test)} held-out rows the warp changed the RMSE by {change:+.1f} % and "
            f"the log-likelihood by {result.warped.ll - result.plain.ll:+.3f}."
        )


def _demo_data() -> tuple[str, pd.DataFrame, np.ndarray, str]:
    """Read what a share of IBM cost each month since 1990, calm in some years and wild in others.

    The table ships with matplotlib, for its own examples.
    """
    import pandas as pd
    from matplotlib import cbook

    path = str(cbook.get_sample_data("Stocks.csv", asfileobj=False))
    table = pd.read_csv(path, comment="#", parse_dates=["Date"]).dropna(subset="IBM")
    year = table["Date"].dt.year + (table["Date"].dt.day_of_year - 1) / 365.25
    features = pd.DataFrame({"year": year.to_numpy()})
    return "Price of an IBM share", features, table["IBM"].to_numpy(float), "price"


# ---------------------------------------------------------------- check


@app.command()
def check(
    json: Annotated[Path | None, typer.Option(help="Save the rows here.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page here.")] = None,
) -> None:
    """Measure the claims of the theory on this machine; exit status 1 if one fails."""
    with mistakes_in_one_line():
        import json as codec

        from rich.console import Console
        from rich.progress import track

        from ideareg import claims, persistence

        for path in (json, report):
            if path is not None:
                persistence.check_writable(path)
        errors = Console(stderr=True)
        groups = track(
            claims.CLAIMS, "measuring", console=errors, disable=not errors.is_terminal,
            transient=True,
        )  # fmt: skip
        rows = [row for group in groups for row in claims.measure([group])]
        Console(width=None if sys.stdout.isatty() else 130).print(claims.table(rows))
        if json is not None:
            text = codec.dumps({"claims": [row._asdict() for row in rows]}, indent=1)
            with persistence.replacing(json) as stream:
                stream.write(text.encode())
        if report is not None:
            claims.write_claims(report, rows)
        failed = sum(not row.passed for row in rows)
        typer.echo(f"{len(rows) - failed} of {len(rows)} claims hold.")
        if failed:
            raise typer.Exit(1)

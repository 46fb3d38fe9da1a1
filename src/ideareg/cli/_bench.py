"""``ideareg bench``: compare with peers on data sets that a user brings."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from ideareg.cli._mistakes import mistakes_in_one_line

bench_app = typer.Typer(help="Compare with peers.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option(help="The folder with the .npz files of the sets.")]
Sets = Annotated[str, typer.Option(help="Sets, split by commas; all by default.")]
Splits = Annotated[str, typer.Option(help="Splits, as 0-4 or 0,3, or all.")]
Methods = Annotated[str, typer.Option(help="Methods, split by commas; all by default.")]
Page = Annotated[Path | None, typer.Option(help="Write a page of tables and plots.")]
Results = Annotated[
    Path | None, typer.Option(help="Save results here after each fit, and go on from them.")
]


def _command(name: str, every_split: str, text: str) -> None:
    def run(
        data: Folder,
        sets: Sets = "",
        splits: Splits = every_split,
        methods: Methods = "",
        json: Results = None,
        page: Page = None,
    ) -> None:
        _bench(name, data, sets, splits, methods, json, page)

    bench_app.command(name, help=text)(run)


@bench_app.command()
def uci(
    data: Folder,
    sets: Sets = "",
    splits: Annotated[
        str, typer.Option(help="Splits, as 0-4 or 0,3, or all; 0-4 by default, all with --gap.")
    ] = "",
    methods: Annotated[
        str, typer.Option(help="Methods, split by commas; the first three by default, or all.")
    ] = "",
    json: Results = None,
    page: Page = None,
    gap: Annotated[
        bool, typer.Option("--gap", help="Splits that hold out the middle of one column each.")
    ] = False,
    published: Annotated[
        Path | None,
        typer.Option(
            help="A .csv file of published results on these splits, to print and rank against."
        ),
    ] = None,
) -> None:
    """Regression on nine UCI sets: RMSE, log-likelihood, CRPS, coverage, seconds.

    Methods: ideareg in its one default configuration, its head without a warp, and scikit-learn's
    Gaussian process (sklearn-gp) where at most 2000 rows are fitted. With --methods all, or where
    they are named, also scikit-learn's histogram gradient boosting, random forest and network
    (boosting, forest, mlp) and, with the extra bench, xgboost and GPyTorch's sparse and deep
    Gaussian processes (svgp, deep-gp: minutes a split). What predicts a point gets one normal error
    from five folds. The sets wine-distinct and protein-distinct keep one of equal rows; they are
    run where they are named.
    """
    every = "all" if gap else "0-4"
    _bench("uci_gap" if gap else "uci", data, sets, splits or every, methods, json, page, published)


_command(
    "classify",
    "0-9",
    """Classification on eight sets: accuracy, log-loss, seconds.

    Methods: ideareg in its one default configuration, without a warp, and scikit-learn's RBF
    support vector machine, tuned by cross-validation, with Platt's probabilities.
    """,
)
_command(
    "dropout",
    "0-9",
    """Nugget, Dropout and weight decay on one residual network, with the same seconds each.

    Each is tuned on a fifth of the training rows. Errors are the share of wrong classes, or the
    RMSE in standard deviations, with and without noise on the test inputs.
    """,
)
_command(
    "images",
    "0",
    """Classification of images: error, log-loss, seconds.

    MNIST, Fashion-MNIST, a part of CIFAR-10 and 8x8 digits; "mnist-1000" is MNIST with 1000 labels,
    another draw for each split; "rotated" is MNIST, 12,000 rows, turned by random angles. Methods:
    the default REMClassifier; on the turned images also with the group of 8 turns; a small CNN with
    Dropout in PyTorch, given the seconds that ideareg took; and scikit-learn's RBF support vector
    machine and histogram gradient boosting, up to 15,000 rows.
    """,
)


@bench_app.command()
def speed(
    tasks: Annotated[
        str, typer.Option(help="Tasks, split by commas; by default all but memory and rows.")
    ] = "",
    json: Annotated[Path | None, typer.Option(help="Save the timings here.")] = None,
    page: Page = None,
) -> None:
    """Seconds and memory of kernel products, shooting and fits, beside peers and the machine.

    Tasks: product, shooting, small shooting, prediction, fit, product by n, shooting by n, shooting
    by d, shooting by depth, memory (a gradient of 20,000 points: minutes) and rows (fits of 10,000
    to 1,000,000 rows from Parquet: a quarter of an hour). Peers are measured where they are
    installed: PyTorch and PyKeOps. A ratio above 1 is that of what takes longer than ideareg. Leave
    the machine alone meanwhile.
    """
    with mistakes_in_one_line():
        from rich.console import Console

        from ideareg.bench import speed as clocks

        _check_writable(json, page)
        brief = [name for name, task in clocks.TASKS.items() if task.brief]
        names = [part.strip() for part in tasks.split(",")] if tasks else brief
        todo = clocks.jobs(names)
        if clocks.missing():
            typer.echo(f"not installed, so left out: {', '.join(clocks.missing())}", err=True)
        rows = []
        for row in clocks.run(todo):
            rows.append(row)
            if json is not None:
                clocks.save(json, rows)
        console = Console(width=None if sys.stdout.isatty() else 150)
        console.print(clocks.table(rows))
        for line in clocks.exponents(rows):
            console.print(line)
        if page is not None:
            from ideareg.bench import speedpage

            speedpage.write(page, rows)


@bench_app.command()
def reach(
    data: Folder,
    name: Annotated[str, typer.Option("--set", help="The set.")] = "kin8nm",
    split: Annotated[int, typer.Option(min=0, help="The split.")] = 0,
    rmse: Annotated[float, typer.Option(help="The error to come to.")] = 0.065,
    minutes: Annotated[float, typer.Option(min=0, help="Of training, at most.")] = 30.0,
) -> None:
    """Seconds until GPyTorch's deep Gaussian process is at an error on the test rows.

    Beside the seconds and the error of ideareg's default fit. The deep process looks at the test
    rows every 50 steps; the looks are not counted. It needs the extra bench.
    """
    with mistakes_in_one_line():
        from rich.console import Console

        from ideareg.bench import reach as race
        from ideareg.bench.uci import UCI

        for remedy in UCI.absent(["deep-gp"]).values():
            raise ImportError(f"deep-gp: {remedy}")
        UCI.plan(data, [name], [split], ["deep-gp"])
        case = UCI.load(data, name).case(split)
        ours = race.fitted(case)
        typer.echo(f"{ours.method}: RMSE {ours.rmse:.3g} after {ours.seconds:.0f} s", err=True)
        curve = list(race.trained(case, rmse, 60 * minutes))
        console = Console(width=None if sys.stdout.isatty() else 130)
        console.print(race.table([ours, *curve]))
        typer.echo(race.verdict(ours, curve, rmse))


@bench_app.command()
def registration(
    data: Folder,
    pairs: Annotated[str, typer.Option(help="Pairs, as 0-4 or 0,3, or all.")] = "all",
    methods: Methods = "",
    json: Results = None,
    page: Page = None,
) -> None:
    """Registration of brain slices of six people, all 30 ordered pairs.

    Mean square error before and after, the least Jacobian determinant, the largest gap between a
    pixel and where it comes to when pulled back and pushed forward, in pixels, and seconds.

    Methods: ideareg with an affine map first and defaults otherwise; SimpleITK's diffeomorphic
    demons after the same affine map; ANTsPy's SyN as it comes, with square differences,
    and "syn-fine", with more iterations and the finest resolution too.
    """
    _bench("registration", data, "", pairs, methods, json, page)


def _bench(
    name: str, data: Path, sets: str, splits: str, methods: str, json: Path | None,
    page: Path | None, csv: Path | None = None,
) -> None:  # fmt: skip
    with mistakes_in_one_line():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from ideareg.bench.published import complete, ours, rank_table, read_published
        from ideareg.bench.suite import Suite, key, parse_splits, unfinished

        module = import_module(f"ideareg.bench.{name.partition('_')[0]}")
        suite: Suite = getattr(module, name.upper())
        _check_writable(json, page)
        names = [part.strip() for part in (sets or ",".join(suite.sets)).split(",")]
        others = [] if csv is None else complete(read_published(csv), names)
        wanted = suite.chosen(methods)
        absent = suite.absent(wanted)
        lines = [f"{method} is left out: {remedy}" for method, remedy in absent.items()]
        wanted = [method for method in wanted if method not in absent]
        if not wanted:
            raise ImportError("; ".join(lines))
        for line in lines:
            typer.echo(line, err=True)
        tasks = suite.plan(data, names, parse_splits(splits), wanted)
        kept = [] if json is None else suite.read(json)
        if kept:
            typer.echo(f"{json}: {len(kept)} results of an earlier run are kept, not run again")
        todo = unfinished(tasks, kept)
        rows = list(kept)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        errors = Console(stderr=True)
        with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
            bar = progress.add_task("", total=len(todo))
            for task, row in zip(todo, suite.run(data, todo, kept, json), strict=True):
                rows.append(row)
                progress.update(bar, advance=1, description=f"{task.set} {task.split}")
        shown = [row for row in rows if key(row) in set(tasks)]
        console = Console(width=None if sys.stdout.isatty() else 130)
        console.print(suite.table(shown, others))
        ranked = [] if csv is None else [*ours(suite.summary(shown)), *others]
        if ranked:
            console.print(rank_table(ranked, names))
        if page is not None:
            from ideareg.bench import resultpage

            resultpage.write(page, suite, f"Benchmark: {name}", shown, ranked)


def _check_writable(*files: Path | None) -> None:
    from ideareg import persistence

    for file in files:
        if file is not None:
            persistence.check_writable(file)

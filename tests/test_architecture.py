"""The one direction of the code: each module imports only from those above it in the data path."""

import ast
import graphlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ideareg"
ROOT = "ideareg"

# Data path = reading order = import order. A package stands for its __init__; the files of a
# package that is listed without them share its place, and may import each other without a cycle.
ORDER = [
    "_types",
    "_linalg",
    "_rows",
    "_numerics",
    "calibration",
    "bent",
    "kernels.base",
    "kernels.scalar",
    "kernels.matrix",
    "kernels.features",
    "kernels.stretched",
    "kernels.groups",
    "kernels.graphs",
    "kernels.rotations",
    "kernels.equivariant",
    "kernels.averaged",
    "kernels",
    "kernels.smoothness",
    "prior",
    "hamiltonian",
    "integrators",
    "adjoint",
    "shooting",
    "blocks",
    "relaxation",
    "losses",
    "pointwise",
    "convex",
    "margin",
    "primal",
    "readout",
    "training",
    "uncertainty",
    "inducing",
    "further",
    "unseen",
    "local",
    "tails",
    "posterior",
    "robustness",
    "sparsity",
    "concurrency",
    "selection",
    "assembly",
    "ledger",
    "recipe",
    "labels",
    "classification",
    "joint",
    "stack",
    "leastaction",
    "limit",
    "formation",
    "forming",
    "gridflow",
    "meanfield",
    "resnet",
    "audit",
    "persistence",
    "convolution",
    "views",
    "nystrom",
    "noise",
    "refinement",
    "kernelmachine",
    "estimators",
    "registration",
    "_torch",
    "export",
    "tables",
    "pieces",
    "plotting.style",
    "plotting.fits",
    "plotting.networks",
    "plotting.reliability",
    "plotting.registration",
    "plotting",
    "page",
    "viewer",
    "claims",
    "report",
    "bench",
    "cli",
    "distributed",
    "__main__",
]
# Packages whose files have places of their own in ORDER.
SPLIT_PACKAGES = {name.rpartition(".")[0] for name in ORDER} - {""}

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 80
NOT_AT_IMPORT = ("matplotlib", "pandas", "polars")


def module_name(path):
    """`kernels.base` for kernels/base.py, `kernels` for kernels/__init__.py, ROOT for the top."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or ROOT


FILES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
MODULES = [name for name in FILES if name != ROOT]
INITS = [name for name, path in FILES.items() if path.name == "__init__.py"]


def parse(name):
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def package_of(name):
    return name if name in INITS else name.rpartition(".")[0]


def place(name):
    """The name in ORDER under which `name` stands, or None."""
    if name in ORDER:
        return name
    top = name.partition(".")[0]
    return top if top in ORDER and top not in SPLIT_PACKAGES else None


def absolute(name, node):
    """The dotted module that `node`, an ImportFrom in module `name`, takes its names from."""
    if node.level == 0:
        return node.module
    package = package_of(name)
    here = [ROOT] + ([] if package in ("", ROOT) else package.split("."))
    base = here[: len(here) - node.level + 1]
    return ".".join(base + ([node.module] if node.module else []))


def imports_of(name):
    """(line, module) for each import of the project's own in module `name`, lazy ones included."""
    found = []
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = absolute(name, node)
            # `from ideareg import shooting` imports the submodule; any other name, the package.
            candidates = [f"{source}.{alias.name}" for alias in node.names]
            targets = [c if c.removeprefix(f"{ROOT}.") in FILES else source for c in candidates]
        else:
            continue
        found += [
            (node.lineno, target.removeprefix(f"{ROOT}."))
            for target in targets
            if target == ROOT or target.startswith(f"{ROOT}.")
        ]
    return found


def share_a_place(one, other):
    return place(one) == place(other) and place(one) not in SPLIT_PACKAGES


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_place_in_the_order(name):
    assert place(name) is not None, (
        f"{FILES[name].relative_to(SOURCE.parent)} has no place in the data path: "
        f"add {name!r} to ORDER in tests/test_architecture.py, below all that it imports"
    )


@pytest.mark.parametrize("name", [name for name in MODULES if place(name)])
def test_imports_only_from_above(name):
    rank = ORDER.index(place(name))
    wrong = [
        f"line {line}: {target}"
        for line, target in imports_of(name)
        # The top package is left to the test for cycles: only what it does not need may import it.
        if target != ROOT
        and not share_a_place(name, target)
        and (place(target) is None or ORDER.index(place(target)) >= rank)
    ]
    assert not wrong, f"{name} imports from modules that are not above it in ORDER: {wrong}"


def test_no_import_cycles():
    graph = {name: {target for _, target in imports_of(name)} for name in FILES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"modules import each other: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("name", INITS)
def test_init_only_reexports(name):
    def is_plain(node):
        if isinstance(node, ast.Assign):
            return all(isinstance(t, ast.Name) and t.id.startswith("__") for t in node.targets)
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return is_docstring or isinstance(node, ast.Import | ast.ImportFrom)

    def is_lazy_export(node):
        # The top loads names on first use: the table of their homes, and the two hooks of PEP 562.
        if isinstance(node, ast.FunctionDef):
            return node.name in ("__getattr__", "__dir__")
        return "TYPE_CHECKING" in ast.dump(node) or "_HOMES" in ast.dump(node)

    allowed = (is_plain, is_lazy_export) if name == ROOT else (is_plain,)
    logic = [node.lineno for node in parse(name).body if not any(ok(node) for ok in allowed)]
    assert not logic, f"{FILES[name]} has logic at lines {logic}: an __init__ only re-exports"


def test_every_public_name_loads():
    import ideareg

    assert set(ideareg._HOMES) | {"kernels"} == set(ideareg.__all__)
    assert all(getattr(ideareg, name) is not None for name in ideareg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ideareg.nothing


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_stay_short(name):
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{FILES[name].name}: {lines} lines, over {MAX_FILE_LINES}"
    long = {
        f"{node.name} (line {node.lineno})": node.end_lineno - node.lineno + 1
        for node in ast.walk(parse(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert not long, f"functions of more than {MAX_FUNCTION_LINES} lines in {name}: {long}"


def test_import_has_no_side_effects():
    code = (
        "import json, sys, ideareg, jax\n"
        f"loaded = [name for name in {NOT_AT_IMPORT!r} if name in sys.modules]\n"
        "print(json.dumps([jax.config.jax_enable_x64, loaded]))"
    )
    # The user's own setting would hide a flip.
    env = {key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    x64, loaded = json.loads(run.stdout)
    assert not x64, "importing ideareg turned on jax_enable_x64 for the whole program"
    assert not loaded, f"importing ideareg loaded {loaded}: import them where they are used"

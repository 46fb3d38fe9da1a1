"""The group of a graph: the permutations of its nodes that keep its edges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ideareg.kernels.groups import MAX_ORDER, Group


def automorphisms(adjacency: Any, max_order: int = MAX_ORDER) -> Group:
    r"""Return the permutations g of the nodes with :math:`A_{g(i)g(j)} = A_{ij}`.

    By search in depth, a node after its neighbours: for graphs of some dozens of nodes.

    Parameters
    ----------
    adjacency : array, shape (n, n)
        A, with weights if edges have them; directed graphs are welcome. Nodes of several kinds have
        different numbers on the diagonal.
    max_order : int
        Where to give up: the complete graph has n! automorphisms.

    Returns
    -------
    Group
        The identity first.

    Raises
    ------
    ValueError
        If A is not square, or there are more than ``max_order`` automorphisms.

    Examples
    --------
    >>> path = np.diag([1, 1, 1], 1)
    >>> automorphisms(path + path.T).table.tolist()
    [[0, 1, 2, 3], [3, 2, 1, 0]]
    """
    A = np.asarray(adjacency)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or not A.size:
        raise ValueError(f"adjacency must be a square matrix (n, n), got shape {A.shape}.")
    found: list[NDArray[np.intp]] = []
    for permutation in _search(A, _connected_order(A)):
        found.append(permutation)
        if len(found) > max_order:
            raise ValueError(
                f"the graph has more than max_order={max_order} automorphisms; raise it, or give "
                "the nodes different numbers on the diagonal."
            )
    return Group(np.unique(found, axis=0))


def _connected_order(A: NDArray[Any]) -> list[int]:
    """Return the nodes, each after as many of its neighbours as can be: these leave few choices."""
    linked = (A != 0) | (A.T != 0)
    order = [0]
    while len(order) < len(A):
        seen = linked[:, order].sum(1)
        seen[order] = -1
        order.append(int(seen.argmax()))
    return order


def _search(
    A: NDArray[Any], order: list[int], images: tuple[int, ...] = ()
) -> Iterator[NDArray[np.intp]]:
    """Yield the automorphisms that bring the first nodes of ``order`` to ``images``."""
    if len(images) == len(A):
        permutation = np.empty(len(A), dtype=np.intp)
        permutation[order] = images
        yield permutation
        return
    i, past, taken = order[len(images)], order[: len(images)], list(images)
    for image in range(len(A)):
        alike = image not in taken and A[image, image] == A[i, i]
        alike = alike and np.array_equal(A[image, taken], A[i, past])
        if alike and np.array_equal(A[taken, image], A[past, i]):
            yield from _search(A, order, (*images, image))

"""The orders in which scans visit the positions of a grid."""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Route(NamedTuple):
    """An order of a grid's positions: window by window, row by row in each window.

    Args:
        window_size: height and width of the square windows (LocalMamba, Huang et al., 2024, arXiv 2403.09338),
            which follow each other as the positions within each do; at the lower and the right border they
            are cut off. 0: the whole grid is one window.
        by_columns: columns take the place of rows, within the windows and among them.
        backwards: the order is reversed.
    """

    window_size: int = 0
    by_columns: bool = False
    backwards: bool = False


RASTER = Route()
RASTER_BACKWARDS = Route(backwards=True)
COLUMNS = Route(by_columns=True)
COLUMNS_BACKWARDS = Route(by_columns=True, backwards=True)

# The two directions of Vim (Zhu et al., 2024, arXiv 2401.09417).
BIDIRECTIONAL = (RASTER, RASTER_BACKWARDS)
# The four of VMamba (Liu et al., 2024, arXiv 2401.10166), in the order of its official parameters.
CROSS = (RASTER, COLUMNS, RASTER_BACKWARDS, COLUMNS_BACKWARDS)


@functools.lru_cache(maxsize=256)
def visited_positions(routes: tuple[Route, ...], height: int, width: int) -> NDArray[np.int32]:
    """Return the index maps of routes.

    Args:
        routes: the routes.
        height: rows of the grid.
        width: positions in a row.

    Returns:
        (routes, height * width): the position, row * width + column, that each route visits at each step;
        read-only, since it is kept for the next call.
    """
    rows, columns = (axis.ravel() for axis in np.indices((height, width)))
    maps = np.empty((len(routes), height * width), dtype=np.int32)
    for route, visited in zip(routes, maps, strict=True):
        size = route.window_size or max(height, width)
        outer, inner = (columns, rows) if route.by_columns else (rows, columns)
        order = np.lexsort((inner % size, outer % size, inner // size, outer // size))
        visited[:] = order[::-1] if route.backwards else order
    maps.setflags(write=False)
    return maps

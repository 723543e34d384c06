"""A made-up climate on the real Earth's coarse geography: pure NumPy, nothing is stored.

Temperature is a sum of a few fixed maps, each with a weight that changes by the hour, as in an
analysis by empirical orthogonal functions::

    temperature[hour, lat, lon] = sum over p of weights[hour, p] * patterns[p, lat, lon]

The maps are the mean, the swing of the seasons, the swing of day and night (as cosine and
sine, because the Sun's hour moves with longitude) and waves travelling along the storm tracks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Grid", "land_fraction", "patterns", "weights"]

# Land in cells of 5 degrees: the North Pole on top, 180 W at the left.
_LAND = """\
........................................................................
..................##############........................................
............########..##########......###..............####.............
...........#####..####...#######..............##..###############.......
##.################..##..####..........#################################
...##############...###...##...##....##.#############################.##
....#....#########...###...........#..#.########################...##...
..........###############.........##.###########################...#....
...........############.#..........###########.#################........
...........###########............###.####..##.###############..#.......
............#########.............##....######.#############.#.#........
.............#######..............####..#..#################..#.........
.............####..#.............#############.#############............
...............#...##............###############..#########.............
...............##....#...........###########.##....##..##...#...........
..................#..............############......#....##..#...........
...................#####.........#############.............##...........
....................######............#######..........##.##............
....................#######...........######............#.#.#.##........
....................#########..........#####.............##....##.......
.....................#######...........#####..................#.#.......
......................######..........#####..#..............#####.......
......................######...........####..#.............#######......
......................####.............###.................########.....
......................####.............###.................###.###......
.....................####.......................................##.....#
.....................##..........................................#....#.
.....................##..............................................#..
.....................#..................................................
........................................................................
........................#...............................................
......................##......................####################......
................########..........####################################..
.....###################.....########################################...
......##################################################################
########################################################################
"""

_WAVES = (
    # crests round the Earth, hours to pass a point, width of the track in degrees
    (3, 260.0, 16.0),
    (5, 120.0, 13.0),
    (6, 97.0, 12.0),
    (8, 71.0, 10.0),
    (11, 50.0, 9.0),
)

_HIGHLANDS = (
    # K colder, degrees north and east, how far in latitude and longitude
    (24.0, -90.0, 0.0, 22.0, 1000.0),  # Antarctica
    (16.0, 73.0, -40.0, 9.0, 22.0),  # Greenland
    (13.0, 33.0, 88.0, 6.0, 11.0),  # Tibet
    (9.0, -18.0, -68.0, 14.0, 5.0),  # Andes
    (7.0, 42.0, -110.0, 9.0, 8.0),  # Rocky Mountains
)

_FIRST_DAY = 152
"""The record begins on 1 June, 00 UTC."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular grid, poles included, from 90 N and 180 W."""

    rows: int
    """Points from pole to pole."""

    columns: int
    """Points around; the last is one step short of the first."""

    @property
    def latitude(self) -> np.ndarray:
        """Degrees north, shape ``(rows,)``, from 90 to -90."""
        return np.linspace(90.0, -90.0, self.rows)

    @property
    def longitude(self) -> np.ndarray:
        """Degrees east, shape ``(columns,)``, from -180."""
        return -180.0 + 360.0 / self.columns * np.arange(self.columns)


def land_fraction(grid: Grid) -> np.ndarray:
    """How much of each grid cell is land, 0 to 1, with coasts a few degrees wide.

    Returns
    -------
    numpy.ndarray
        Of shape ``(rows, columns)``, float64.
    """
    cells = np.array([[character == "#" for character in row] for row in _LAND.splitlines()], float)
    # Bilinear between the centres of the cells, which go round the Earth and end at the poles.
    cells = np.pad(np.pad(cells, ((1, 1), (0, 0)), mode="edge"), ((0, 0), (1, 1)), mode="wrap")
    y = (90.0 - grid.latitude) / 5.0 + 0.5
    x = (grid.longitude + 180.0) / 5.0 + 0.5
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = (y - top)[:, None], (x - left)[None, :]
    upper = cells[np.ix_(top, left)] * (1 - right) + cells[np.ix_(top, left + 1)] * right
    lower = cells[np.ix_(top + 1, left)] * (1 - right) + cells[np.ix_(top + 1, left + 1)] * right
    smooth: np.ndarray = upper * (1 - down) + lower * down
    fraction: np.ndarray = 1.0 / (1.0 + np.exp(-14.0 * (smooth - 0.5)))
    return fraction


def patterns(grid: Grid) -> np.ndarray:
    """The maps whose weighted sum is the temperature.

    Returns
    -------
    numpy.ndarray
        Of shape ``(p, rows, columns)``, float32, in K.
    """
    latitude, longitude = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
    phi, land = np.deg2rad(latitude), land_fraction(grid)
    sun = np.deg2rad(longitude)

    mean = 300.0 - np.where(phi > 0, 36.0, 43.0) * np.abs(np.sin(phi)) ** 2.4
    mean += 4.5 * land * np.exp(-(((np.abs(latitude) - 23.0) / 11.0) ** 2))  # deserts
    for drop, north, east, height, width in _HIGHLANDS:
        shape = ((latitude - north) / height) ** 2 + ((longitude - east) / width) ** 2
        mean -= drop * land * np.exp(-shape)
    season = (2.5 + 12.5 * land) * np.sin(phi) * np.sqrt(np.abs(np.sin(phi)))
    day = (0.4 + 6.6 * land) * np.cos(phi)
    maps = [mean, season, day * np.cos(sun), day * np.sin(sun)]
    for number, (crests, _, width) in enumerate(_WAVES):
        cosine, sine = np.zeros_like(mean), np.zeros_like(mean)
        for side in (1, -1):
            track = side * (47.0 + 3.0 * (number % 3))
            height = (4.4 - 0.4 * number) * np.exp(-(((latitude - track) / width) ** 2))
            # Crests lean with latitude, as weather fronts do.
            lean = side * np.deg2rad(latitude - track) * (1.5 + number)
            angle = crests * sun + lean + (2.1 + side) * number
            cosine += height * np.cos(angle)
            sine += height * np.sin(angle)
        maps += [cosine, sine]
    return np.array(maps, np.float32)


def weights(hours: int) -> np.ndarray:
    """The weight of each map at each hour.

    Returns
    -------
    numpy.ndarray
        Of shape ``(hours, p)``, float32.
    """
    hour = np.arange(hours, dtype=float)
    year = 2 * np.pi * (_FIRST_DAY + hour / 24.0 - 201.0) / 365.25  # warmest on 20 July
    clock = 2 * np.pi * (hour - 15.0) / 24.0  # and at three in the afternoon
    columns = [np.ones(hours), np.cos(year), np.cos(clock), -np.sin(clock)]
    for number, (_, period, _) in enumerate(_WAVES):
        phase = 2 * np.pi * hour / period + 0.7 * number
        # Storms come and go: no wave keeps its height.
        height = 1.0 + 0.5 * np.sin(2 * np.pi * hour / (3.7 * period) + 1.3 * number)
        columns += [height * np.cos(phase), height * np.sin(phase)]
    return np.stack(columns, axis=1).astype(np.float32)

"""Grids that follow the data and grow finer, while the functions on them stay what they are."""

from convkan.grid.inputs import Summary, inputs_of
from convkan.grid.knots import fitting, insertion
from convkan.grid.layers import adapt_grid, coverage, refine_grid
from convkan.grid.models import LayerCoverage, adapt_grids, coverages, refine_grids, spline_layers

__all__ = [
    "LayerCoverage",
    "Summary",
    "adapt_grid",
    "adapt_grids",
    "coverage",
    "coverages",
    "fitting",
    "inputs_of",
    "insertion",
    "refine_grid",
    "refine_grids",
    "spline_layers",
]

"""Several selective scans over the positions of a grid, each on a route of its own."""

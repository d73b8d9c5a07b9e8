"""Statistics of a dataset: columns, measures, report."""

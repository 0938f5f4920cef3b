"""Progress, metrics, curves and observations of a run while it goes on."""

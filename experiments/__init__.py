"""Experiment binaries: ``python -m experiments.train --config=experiments/configs/NAME.py``."""

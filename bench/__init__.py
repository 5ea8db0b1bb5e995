"""Measures the speed and memory of avalanche-mgem beside stock Avalanche: ``python -m bench --help``."""

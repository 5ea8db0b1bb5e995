"""Entry point. It sets the number of NumPy's threads before anything imports NumPy."""

import os

# Avalanche's GEM computes in NumPy. NumPy's threads and torch's compete for the cores, which makes that GEM
# twice as slow. One thread for NumPy is its better setting, and so the fair one for a comparison.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

if __name__ == "__main__":
    from bench.cli import main

    raise SystemExit(main())

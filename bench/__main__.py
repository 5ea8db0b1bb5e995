"""Entry point: sets NumPy's threads before anything loads it."""

import os

# Avalanche's GEM computes in NumPy, whose thread pool fights torch's for the cores and makes it twice as
# slow. One thread is the better of its two worlds, and so the fair one to compare with.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

if __name__ == "__main__":
    from bench.cli import main

    raise SystemExit(main())

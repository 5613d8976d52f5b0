"""Imported first, keeps numerical libraries to one thread: numpy and torch read these variables once, when they load
their linear algebra."""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

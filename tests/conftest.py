"""What every test shares: one thread per process, so numbers repeat and parallel processes do not fight."""

import os

# before the first import of torch, which reads it once; xdist gives every core its own process
os.environ.setdefault("OMP_NUM_THREADS", "1")
# before the first product on a GPU, when cuBLAS reads it once; deterministic algorithms need it
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

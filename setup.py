"""Build `unmask` and `unmask_kernels` from their two source roots; everything else is in pyproject.toml.

`unmask_kernels._C`, the pybind11 module compiled from csrc/, will be listed here as an extension that nvcc
builds. Where nvcc is missing the install has no extension and still succeeds: nothing imports `_C` but
`unmask_kernels.extension`, which looks for it when a `cuda` backend is asked for, and `unmask doctor` says
what is missing.
"""

from setuptools import find_packages, setup

ROOTS = {"unmask": "engine", "unmask_kernels": "kernels"}

setup(
    packages=[name for root in ROOTS.values() for name in find_packages(root)],
    package_dir={package: f"{root}/{package}" for package, root in ROOTS.items()},
)

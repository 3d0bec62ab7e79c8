"""Build `unmask` and `unmask_kernels` from their two source roots; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

ROOTS = {"unmask": "engine", "unmask_kernels": "kernels"}

setup(
    packages=[name for root in ROOTS.values() for name in find_packages(root)],
    package_dir={package: f"{root}/{package}" for package, root in ROOTS.items()},
)

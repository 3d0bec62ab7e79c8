"""The configuration of a run: `schema` has the settings, `load` reads and checks them.

Importing this package needs only the standard library. PyYAML and pydantic are imported when a file is read.
"""

from unmask.config.load import load_config, to_mapping, to_yaml
from unmask.config.schema import (
    BUDGETS,
    DataConfig,
    KernelsConfig,
    ModelConfig,
    ObjectiveConfig,
    PhaseConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "BUDGETS",
    "DataConfig",
    "KernelsConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PhaseConfig",
    "RunConfig",
    "TrainConfig",
    "load_config",
    "to_mapping",
    "to_yaml",
]

"""The configuration of a run: `schema` has the settings, `load` reads and checks them.

Importing this package needs only the standard library; ruamel.yaml is imported when a file is read.
"""

from unmask.config.encoder import EncoderConfig
from unmask.config.load import load_config, to_mapping, to_yaml
from unmask.config.schema import (
    BUDGETS,
    CompositionConfig,
    DataConfig,
    InitConfig,
    KernelsConfig,
    MaskingConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PhaseConfig,
    RunConfig,
    StreamConfig,
    TrainConfig,
)

__all__ = [
    "BUDGETS",
    "CompositionConfig",
    "DataConfig",
    "EncoderConfig",
    "InitConfig",
    "KernelsConfig",
    "MaskingConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PhaseConfig",
    "RunConfig",
    "StreamConfig",
    "TrainConfig",
    "load_config",
    "to_mapping",
    "to_yaml",
]

"""A run that distils: its student, and the objectives by which it learns from the teacher in `distillation.teacher`.

The student learns from unmasked text, or from masked text if `objective.mlm` has a weight. `teacher.json` in the run
directory has the SHA-256 of the teacher's weights, so a resumed run learns from the same ones.
"""

import hashlib
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import torch

from unmask.config import EncoderConfig, RunConfig
from unmask.config.initial import same_architecture
from unmask.data.tokenizer import Tokenizer
from unmask.distillation.objectives import learn_states
from unmask.distillation.student import Student, copy_layers
from unmask.distillation.teacher import TeacherFolder
from unmask.errors import CheckpointError, ConfigError
from unmask.interop.weights import files_of_weights
from unmask.model import PretrainingModel
from unmask.objectives import Objective, build_objectives
from unmask.paths import as_typed, replace_text
from unmask.train.checkpoint.tokenizer_hash import require_bound
from unmask.train.run_folder import not_written

__all__ = ["TEACHER", "build_student", "open_teacher", "with_teachers_tokenizer"]

_log = logging.getLogger(__name__)

TEACHER = "teacher.json"
"""The file of a run that names the weights that it learns from."""


def open_teacher(given: str, run: Path) -> TeacherFolder:
    """Open the teacher of a run, and write `teacher.json`, or compare it.

    Raises:
        CheckpointError: it is another model than the one that the run began with; or it cannot be read.
        TokenizerError: it has no tokenizer, or not that of its model.
        RunError: `teacher.json` cannot be written.
    """
    teacher = TeacherFolder.open(given)
    require_bound(teacher.folder.path, teacher.tokenizer, teacher.sizes.token_rows)
    weights = {}
    for file in files_of_weights(teacher.folder.path):
        with file.open("rb") as stream:
            weights[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    place = run / TEACHER
    if place.is_file():
        if json.loads(place.read_text("utf-8")).get("weights") != weights:
            raise CheckpointError(
                f"distillation.teacher: {given} has other weights than the model that {run} began to learn from; put "
                "that model back, give its place as --distillation.teacher, or start a new run"
            )
        return teacher
    facts = {"teacher": given, "hub": teacher.folder.hub, "step": teacher.folder.steps, "weights": weights}
    try:
        replace_text(place, json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise not_written(place, error) from error
    return teacher


def with_teachers_tokenizer(config: RunConfig, teacher: TeacherFolder) -> RunConfig:
    """Return the configuration in which the teacher's tokenizer reads the text, unless another one is given."""
    if config.data.store is not None or config.data.tokenizer is not None:
        return config
    return replace(config, data=replace(config.data, tokenizer=str(teacher.folder.path)))


def build_student(
    config: RunConfig,
    sizes: EncoderConfig,
    teacher: TeacherFolder,
    tokenizer: Tokenizer,
    place: str | Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[PretrainingModel | Student, list[tuple[Objective, float]]]:
    """Return the student, on the CPU, and its objectives with their weights.

    Args:
        config: configuration of the run.
        sizes: of the student.
        teacher: the teacher.
        tokenizer: that of the text.
        place: the store.
        dtype: of the activations of both.
        device: that of the teacher.
    Raises:
        TokenizerError: the text was read with another tokenizer than the teacher's.
        ConfigError: student and teacher cannot be compared.
    """
    again = (
        f"prepare the text again with `unmask prepare --input TEXT --tokenizer {as_typed(teacher.given)} --out STORE`"
    )
    teacher.require_tokenizer(tokenizer, place, way=f"{again} and give --data.store STORE")
    max_length = max([phase.max_length for phase in config.train.phases] or [config.stream.max_length])
    if max_length > teacher.sizes.max_positions:
        raise ConfigError(
            f"config: stream.max_length is {max_length} but the teacher {teacher.given} has "
            f"{teacher.sizes.max_positions} positions; give --stream.max_length {teacher.sizes.max_positions}"
        )
    layers = config.distillation.student_layers
    if layers:
        _require_same_widths(sizes, teacher, layers)
    frozen = teacher.encoder(dtype=dtype, device=device)
    weights = {name: weight for name, weight in asdict(config.objective).items() if weight > 0}
    student: PretrainingModel | Student
    if weights:
        student = PretrainingModel(sizes, compute_dtype=dtype, seed=config.seed)
    else:
        student = Student(sizes, compute_dtype=dtype, seed=config.seed)
    if layers:
        copy_layers(student.encoder, frozen.encoder, layers)
    objectives = learn_states(student, frozen, config.distillation, seed=config.seed)
    begins = f"the teacher's layers {', '.join(map(str, layers))}" if layers else "new weights"
    _log.info(
        f"distillation: a student of {sizes.num_layers} layers, {sizes.hidden_size} wide, learns from {teacher.given} "
        f"of {teacher.sizes.num_layers} layers, {teacher.sizes.hidden_size} wide; it begins with {begins}"
    )
    return student, objectives + (build_objectives(weights) if weights else [])


def _require_same_widths(sizes: EncoderConfig, teacher: TeacherFolder, layers: list[int]) -> None:
    """Refuse a student that cannot begin with layers of the teacher.

    Raises:
        ConfigError: it has other sizes, or there are no such layers.
    """
    if len(layers) != sizes.num_layers:
        raise ConfigError(
            f"config: distillation.student_layers must have a number for each of the student's {sizes.num_layers} "
            f"layers, got {len(layers)}; give --model.num_layers {len(layers)}"
        )
    count = teacher.sizes.num_layers
    outside = [layer for layer in layers if not 1 <= layer <= count]
    if outside:
        raise ConfigError(
            f"config: distillation.student_layers must be layers of the teacher, from 1 to {count}, got {outside[0]}; "
            f"give numbers from 1 to {count}"
        )
    theirs = replace(teacher.sizes, num_layers=sizes.num_layers)
    differing = same_architecture(sizes, theirs)
    for name in ("max_positions", "vocab_size"):
        if differing is None and getattr(sizes, name) > getattr(theirs, name):
            differing = name
    if differing is not None:
        raise ConfigError(
            f"config: model.{differing} is {getattr(sizes, differing)} but the student begins with layers of "
            f"{teacher.given}, which has {getattr(theirs, differing)}; give --model.{differing} "
            f"{getattr(theirs, differing)}, or leave distillation.student_layers out"
        )

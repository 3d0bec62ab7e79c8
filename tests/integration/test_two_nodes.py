"""Two nodes, as network namespaces joined by a cable: train, lose a node, go on with one, then with two."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

import many
from unmask.config import to_yaml
from unmask.train.data import RunData

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NODES = ("unmask-node-a", "unmask-node-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
STEPS = 12


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    """Two network namespaces with a cable between them, and nothing else."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need the program ip and the right of root")
    for node in NODES:
        ip("netns", "del", node)
    made = ip("netns", "add", NODES[0])
    if made.returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    try:
        ip("netns", "add", NODES[1])
        cable = ip(
            "link", "add", "cable", "netns", NODES[0], "type", "veth", "peer", "name", "cable", "netns", NODES[1]
        )
        if cable.returncode:
            pytest.skip(f"no virtual cable can be made here: {cable.stderr.strip()}")
        for node, address in zip(NODES, ADDRESSES, strict=True):
            ip("-n", node, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", node, "link", "set", "cable", "up")
            ip("-n", node, "link", "set", "lo", "up")
        yield
    finally:
        for node in NODES:
            ip("netns", "del", node)


def train(
    words: list[str], said: Path, *, world_size: int, doing: Mapping[int, Mapping[int, str]] | None = None
) -> list[int]:
    """Run one rank on each node, and return their exit statuses."""
    said.mkdir(exist_ok=True)
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "cable", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = []
    for rank in range(world_size):
        place = [str(rank), str(world_size), ADDRESSES[0], "29400", str(said / f"said-{rank}")]
        own = json.dumps((doing or {}).get(rank, {}))
        command = ["ip", "netns", "exec", NODES[rank], sys.executable, many.__file__, *place, own, *words]
        processes.append(subprocess.Popen(command, env=environment))
    statuses = []
    for process in processes:
        try:
            statuses.append(process.wait(timeout=300))
        finally:
            process.kill()
    return statuses


def test_a_node_is_lost_and_the_run_goes_on_with_one_and_then_with_two(
    nodes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = _tiny()
    settings = {"steps": STEPS, "tokens_per_step": 512, "log_every": 1, "evaluate_every": 100, "phases": []}
    run, said = tmp_path / "run", tmp_path / "said"
    (tmp_path / "run.yaml").write_text(to_yaml(tiny.config(run, **settings, timeout_seconds=30.0)))
    words = [str(tmp_path / "run.yaml"), "--resume", "auto"]
    # the second node goes down after step 4
    assert train(words, said, world_size=2, doing={1: {4: "SIGKILL"}}) == [75, -signal.SIGKILL]
    assert "rank 1 on" in (said / "said-0").read_text()
    # the first one goes on alone until a scheduler stops it
    assert train(words, said, world_size=1, doing={0: {8: "SIGTERM"}}) == [75]
    # both are there again
    assert train(words, said, world_size=2) == [0, 0]
    store, tokenizer = tiny.text()
    steps = RunData(store, tokenizer, tiny.config(run, **settings)).steps(0)
    expected = dict(enumerate(many.digest_of(batch) for batches in steps for batch in batches))
    assert many.noted(said) == expected
    monkeypatch.setattr("unmask.train.pretrain.open_store", tiny.open_text)
    tiny.pretrain(tiny.config(tmp_path / "whole", **settings))
    for one, other in zip(many.rows_of(tmp_path / "whole"), many.rows_of(run), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_both_nodes_end_when_the_cable_is_cut(nodes: None, tmp_path: Path) -> None:
    settings = {"steps": 5000, "tokens_per_step": 256, "log_every": 1, "evaluate_every": 10**6, "phases": []}
    run, said = tmp_path / "run", tmp_path / "said"
    config = _tiny().config(run, **settings, save_every=10**6, timeout_seconds=10.0)
    (tmp_path / "run.yaml").write_text(to_yaml(config))

    def cut() -> None:
        log, end = run / "log.jsonl", time.monotonic() + 200
        while (not log.exists() or log.read_text().count("loss") < 3) and time.monotonic() < end:
            time.sleep(0.1)
        ip("-n", NODES[1], "link", "set", "cable", "down")

    threading.Thread(target=cut, daemon=True).start()
    try:
        assert train([str(tmp_path / "run.yaml")], said, world_size=2) == [75, 75]
    finally:
        ip("-n", NODES[1], "link", "set", "cable", "up")
    assert "unmask: run: rank 1 on " in (said / "said-0").read_text()
    assert "unmask, rank 1: run: rank 0 on " in (said / "said-1").read_text()
    # rank 0 has saved the last whole step
    assert len(list((run / "checkpoints").iterdir())) == 1


def _tiny() -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("tiny", many.TINY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

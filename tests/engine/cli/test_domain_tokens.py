"""The examples of docs/data.md for molecules, proteins, code and ready tokens run; a model of molecules is exported."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.data.store import Store

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
MOLECULES = ["CC(=O)Oc1ccccc1C(=O)O", "C[C@@H](N)C(=O)O", "BrCCCl", "c1cc[nH]c1.O=C=O", "CN1C=NC2=C1C(=O)N(C)C2=O"]
PROTEINS = ["MKTAYIAKQRQISFVKSHFSRQ", "GIVEQCCTSICSLYQLENYCN", "FVNQHLCGSHLVEALYLVCGERGFFYTPKT"]
CODE = "def area(r):\n    if r < 0:\n        raise ValueError(r)\n    return 3.14 * r ** 2\n"
SMALL = [
    *("--model.num-layers", "1", "--model.hidden-size", "32", "--model.num-heads", "2"),
    *("--model.intermediate-size", "64", "--model.max-positions", "32", "--stream.max-length", "32"),
    *("--train.tokens-per-step", "256", "--stream.micro-batch-tokens", "256", "--optimizer.warmup-steps", "2"),
    *(
        "--train.steps",
        "20",
        "--train.save-every",
        "20",
        "--train.evaluate-every",
        "20",
        "--stream.held-out-fraction",
        "0.1",
    ),
    *("--train.evaluate-tokens", "256", "--masking.strategy", "whole_word"),
]


def rows(name: str, texts: list[str]) -> None:
    Path(f"{name}.txt").write_text("".join(f"{text}\n" for text in texts))
    Path(f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with the stores that the examples make, one after the other."""
    monkeypatch.chdir(tmp_path)
    rows("molecules", [molecule * times for times in range(1, 13) for molecule in MOLECULES])
    rows("proteins", PROTEINS)
    Path("project/a folder").mkdir(parents=True)
    Path("project/a folder/area.py").write_text(CODE)
    Path("project/README.txt").write_text("no code")
    section = PAGE.read_text(encoding="utf-8").partition("\n### Domain tokens\n")[2].partition("\n## ")[0]
    names: dict[str, object] = {}
    blocks = re.findall(r"^```(python)?\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    for language, text in blocks:
        if language:
            exec(compile(text, str(PAGE), "exec"), names)
            continue
        for line in text.splitlines():
            command, *words = shlex.split(line)
            if command == "find":
                subprocess.run(line, shell=True, check=True)
                assert [path.name for path in Path("code").rglob("*.*")] == ["area.py.txt"]
                continue
            assert command == "unmask"
            assert main(words) == 0, capsys.readouterr().err
    return tmp_path


def decoded(store: Store) -> list[str]:
    tokenizer = store.load_tokenizer()
    ids = store.gather([0], [0], store.lengths[:1])[0]
    return [tokenizer.token(int(index)) for index in ids]


def test_the_examples_run_and_a_model_of_molecules_trains_fills_and_exports(
    examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    molecules, proteins, code, ready = (Store.open(name) for name in ("molecules", "proteins", "code-store", "ready"))
    assert decoded(molecules)[:6] == ["C", "C", "(", "=", "O", ")"]
    assert decoded(proteins) == list(PROTEINS[0])
    assert decoded(code)[:9] == ["def", "area", "(", "r", ")", ":", "\n    ", "if", "r"]
    assert ready.fingerprint != "" and ready.tokenizer_hash == molecules.tokenizer_hash
    texts = {"molecules": MOLECULES, "proteins": PROTEINS, "code-store": [CODE]}
    for name, some in texts.items():
        tokenizer = Store.open(name).load_tokenizer()
        theirs = AutoTokenizer.from_pretrained(f"{name}/tokenizer")
        assert theirs(some, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(some)
    assert main(["pretrain", "--data.store", "ready", "--run", "run", *SMALL]) == 0, capsys.readouterr().err
    capsys.readouterr()
    text = "CC(=O)[MASK]c1ccccc1C(=O)O"
    assert main(["fill-mask", "run", text, "--top", "3"]) == 0
    filled = re.findall(r"^ +([\d.]+)%  (\S+)$", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(filled) == 3
    assert main(["export", "run", "exported"]) == 0
    theirs = AutoTokenizer.from_pretrained("exported")
    model = AutoModelForMaskedLM.from_pretrained("exported").eval()
    batch = theirs(text, return_tensors="pt")
    place = batch["input_ids"][0].tolist().index(theirs.mask_token_id)
    best = model(**batch).logits[0, place].topk(3).indices
    assert theirs.convert_ids_to_tokens(best) == [token for _, token in filled]

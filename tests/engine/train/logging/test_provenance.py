import torch

from unmask import __version__
from unmask.train.logging.provenance import differences, machine


def test_the_machine_is_named_with_what_decides_rounding() -> None:
    here = machine(torch.device("cpu"), torch.bfloat16)
    assert (here["activations"], here["unmask"], here["torch"]) == ("bfloat16", __version__, torch.__version__)
    assert here["device"]
    assert "cpu x86_64" not in here["device"]


def test_a_difference_is_a_sentence_and_what_one_side_does_not_know_is_none() -> None:
    (sentence,) = differences({"device": "a", "torch": "2"}, {"device": "b", "torch": "2", "unmask": "1"})
    assert sentence.startswith("device was a, now b")

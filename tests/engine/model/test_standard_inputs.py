"""Padded and flat inputs give the hidden states of the BertModel of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from unmask import Encoder, EncoderConfig

transformers = pytest.importorskip("transformers")
CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_positions=24)
DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Any]:
    folder: Path = tmp_path_factory.mktemp("bert")
    encoder = Encoder(CONFIG, seed=4).eval()
    encoder.save_pretrained(folder)
    return encoder, transformers.BertModel.from_pretrained(folder).eval()


def test_a_padded_batch_with_segments_and_positions(both: tuple[Encoder, Any]) -> None:
    encoder, theirs = both
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in DOCUMENTS], batch_first=True)
    mask = (torch.arange(9) < torch.tensor([len(one) for one in DOCUMENTS])[:, None]).long()
    segments = (torch.arange(9) > 2).long().expand(4, 9)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
    with torch.no_grad():
        expected = theirs(**inputs).last_hidden_state
        for found in (encoder(**inputs), encoder(ids, mask, segments, torch.arange(9)[None])):
            torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-5)
        torch.testing.assert_close(encoder(ids), theirs(ids).last_hidden_state, rtol=0, atol=1e-5)


def test_the_flat_row_of_their_collator(both: tuple[Encoder, Any]) -> None:
    encoder, theirs = both
    flatten = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    batch = flatten([{"input_ids": one, "labels": one} for one in DOCUMENTS])
    batch.pop("labels")
    with torch.no_grad():
        found = encoder(**batch)
        expected = torch.cat([theirs(torch.tensor([one])).last_hidden_state for one in DOCUMENTS], 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

"""The LSTM of units against torch's own, sequence by sequence, and AMELA's shapes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.models.unit_lstm import UnitLSTM, UnitLSTMConfig
from tests.helpers.unit_models import toy_unit_lstm


def test_shapes_and_initialisation_are_amelas(data: Path) -> None:
    torch.manual_seed(0)
    options = SimpleNamespace(**{**vars(UnitLSTMConfig()), "durations": False})
    model = UnitLSTM.build_model(options, SimpleNamespace(source_dictionary=UnitDictionary(2000)))
    expected = {}
    for line in (data / "keys" / "amela_lstm_e256_h512_l2.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, shape, _ = line.split("\t")
            expected[f"decoder.{name}"] = shape
    assert {name: str(tuple(tensor.shape)) for name, tensor in model.state_dict().items()} == expected
    assert sum(p.numel() for p in model.parameters()) == 5_216_977
    for name, parameter in model.named_parameters():
        if "bias" in name:
            assert not parameter.any()
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.02)
            assert abs(float(parameter.detach().mean())) < 2e-4


@pytest.mark.parametrize("lengths", [[4, 9, 1, 9, 6], [3], [2, 2, 2], [1, 1, 8]])
def test_sequences_of_a_batch_are_torchs_lstm_on_each(lengths: list[int]) -> None:
    model = toy_unit_lstm(decoder_layers=3)
    plain = torch.nn.LSTM(8, 12, 3, batch_first=True)
    plain.load_state_dict(model.decoder.lstm.state_dict())
    rows = [torch.randint(0, 21, (n,)) for n in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=21)
    found = torch.cat([row[:n] for row, n in zip(model(padded)[0], lengths, strict=True)])
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    total = torch.zeros(())
    embedding = model.decoder.embedding.weight.detach().clone().requires_grad_()
    for row, ours, its_weight in zip(rows, found.split(lengths), weight.split(lengths), strict=True):
        states, _ = plain(embedding[row].unsqueeze(0))
        expected = states[0] @ model.decoder.output.weight.t().detach() + model.decoder.output.bias.detach()
        assert torch.allclose(ours, expected, atol=1e-5)
        total = total + (expected * its_weight).sum()
    total.backward()
    assert torch.allclose(model.decoder.embedding.weight.grad, embedding.grad, atol=1e-5)
    for one, other in zip(model.decoder.lstm.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


def test_one_layer_has_no_dropout_and_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    toy_unit_lstm(decoder_layers=1, dropout=0.5)
    assert not [w for w in recwarn if "dropout" in str(w.message)]
    model = toy_unit_lstm(decoder_layers=2, dropout=0.5).train()
    rows = torch.randint(0, 21, (1, 9))
    assert not torch.equal(model(rows)[0], model(rows)[0])

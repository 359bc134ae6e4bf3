"""Evaluate SALM as a recogniser: pretrained_name=FOLDER inputs=MANIFEST output_manifest=generations.jsonl …"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.commands.overrides import read_overrides
from speechdlm_ext.errors import run_command


def main() -> None:
    """Run the command."""
    from tqdm import tqdm

    from speechdlm_ext.evaluation.salm import SALMEvalOptions, evaluate_salm

    options = read_overrides(SALMEvalOptions, sys.argv[1:], f"{__doc__}\n{inspect.getdoc(SALMEvalOptions)}")
    if options is None:
        return
    found = evaluate_salm(options, lambda batches: tqdm(batches, desc="batches", disable=None))
    parts = ", ".join(f"{name} {found[name]:.2f} %" for name in ("insertions", "deletions", "substitutions"))
    print(f"WER {found['wer']:.2f} % of {found['words']:.0f} words ({parts}), RTFx {found['rtfx']:.1f}")


if __name__ == "__main__":
    run_command(main)

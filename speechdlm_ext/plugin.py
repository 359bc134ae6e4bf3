"""Registers with fairseq all that this package adds to it: one import a thing, the only list."""

from pathlib import Path

from speechdlm_ext.compat import sweeps
from speechdlm_ext.compat.registry import release

for _kind, _name in (("task", "speech_dlm_task"), ("model", "speech_dlm"), ("criterion", "speech_dlm_criterion")):
    release(_kind, [_name])

from speechdlm_ext.checkpoints import formats, speech_dlm_release  # noqa: E402
from speechdlm_ext.criterions import (  # noqa: E402, F401
    duplex_criterion,
    salm_criterion,
    speech_criterion,
    speech_dlm_criterion,
    unit_hifigan_criterion,
    unit_lm_criterion,
    unit_to_codec_criterion,
)
from speechdlm_ext.evaluation.training_runs import write_results  # noqa: E402
from speechdlm_ext.models import (  # noqa: E402, F401
    conv_speech,
    duplex_s2s,
    salm,
    speech_dlm,
    unit_hifigan,
    unit_lm,
    unit_lstm,
    unit_to_codec,
)
from speechdlm_ext.optim import novograd, schedules  # noqa: E402, F401
from speechdlm_ext.tasks import (  # noqa: E402, F401
    duplex_s2s_task,
    salm_task,
    speech_dlm_task,
    speech_recognition,
    unit_hifigan_task,
    unit_language_modeling,
    unit_to_codec_task,
)

speech_dlm_release.install()
formats.install()


def _tabulate(folder: Path) -> str:
    table, path = write_results(folder)
    return f"{table}written to {path}\n"


sweeps.TABULATE.append(_tabulate)

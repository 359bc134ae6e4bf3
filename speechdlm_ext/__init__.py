"""Textless spoken-dialogue models for stock fairseq.

Importing this package registers our tasks, models and criterions with fairseq, now if fairseq is imported already,
else as soon as it is, so that programs which only prepare data do not wait for it.
"""

from types import ModuleType

from speechdlm_ext import compat


def _register(fairseq: ModuleType) -> None:
    from speechdlm_ext.compat.registry import release

    for kind, name in (("task", "speech_dlm_task"), ("model", "speech_dlm"), ("criterion", "speech_dlm_criterion")):
        release(kind, [name])

    from speechdlm_ext.criterions import speech_dlm_criterion, unit_hifigan_criterion, unit_lm_criterion  # noqa: F401
    from speechdlm_ext.models import legacy, speech_dlm, unit_hifigan, unit_lm, unit_lm_checkpoints, unit_lstm  # noqa: F401
    from speechdlm_ext.tasks import speech_dlm_task, unit_hifigan_task, unit_language_modeling  # noqa: F401

    legacy.install()
    unit_lm_checkpoints.install()


compat.activate()
compat.after_import("fairseq", _register)

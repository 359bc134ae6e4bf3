"""Textless and duplex spoken-dialogue models for stock fairseq.

Importing this package makes the repairs that today's Python and PyTorch need. Where fairseq is loaded already, as when
``--user-dir`` names this folder, it also registers our tasks, models and criterions; elsewhere
``import speechdlm_ext.plugin`` does.
"""

from speechdlm_ext import compat

compat.activate()
if compat.is_loaded("fairseq"):
    from speechdlm_ext import plugin  # noqa: F401

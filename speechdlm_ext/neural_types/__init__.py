"""Neural types: what the axes of a tensor are and what its elements mean, checked where modules meet (as in NeMo).

A module names the types of its arguments and results::

    class Decoder(nn.Module):
        @typecheck(
            {"encoded": NeuralType(("B", "D", "T"), AcousticEncodedRepresentation())},
            {"log_probs": NeuralType(("B", "T", "D"), LogprobsType())},
            positional=True,
        )
        def forward(self, encoded): ...

or has them as properties ``input_types`` and ``output_types``, with ``@typecheck()`` on the method. Results carry their
type as ``.neural_type`` until an operation makes another tensor of them. A call is checked once for each signature
(names, ranks and types) of a module; nothing is checked under ``torch.compile`` and within :func:`disable_checks`.
"""

from speechdlm_ext.neural_types.check import *  # noqa: F403
from speechdlm_ext.neural_types.types import *  # noqa: F403

"""Duplex speech-to-speech models from Python: published folders, inference on recordings and in streams, training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from speechdlm_ext.checkpoints.duplex import DuplexParts, build_parts, duplex_of_checkpoint, is_checkpoint, read_duplex
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.duplex import DuplexOptions, FrameChooser, decode_frames
from speechdlm_ext.hub.duplex_stream import DuplexStream
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.modules.duplex_frames import DuplexFrames, unstack_codes, without_control_codes

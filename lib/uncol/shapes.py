"""Tensors with their shapes, as signatures of pure functions name them.

jaxtyping's notation: b items, c classes, i j k voxel axes, ti tj tk token axes; a name stands for
one size within a call.
Tests check them at every call (tests/conftest.py); the app itself does not.
"""

from jaxtyping import Bool, Float, Integer
from torch import Tensor

Logits = Float[Tensor, "b c i j k"]
HeadLogits = Float[Tensor, "b 4 c i j k"]
Labels = Integer[Tensor, "b i j k"]
Mask = Bool[Tensor, "b i j k"]
Block = Float[Tensor, "b 1 i j k"]
Tokens = Float[Tensor, "b width ti tj tk"]
Valid = Float[Tensor, "b 1 ti tj tk"]
Scalar = Float[Tensor, ""]
ClassProbs = Float[Tensor, "c i j k"]
LabelMap = Integer[Tensor, "i j k"]

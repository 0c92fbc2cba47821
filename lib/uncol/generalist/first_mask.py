"""A first mask from a box or clicks: the generalist, carried from slice to slice."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from uncol.data.masks import largest_component, tight_box
from uncol.data.stack import thick_axis
from uncol.errors import RequestError
from uncol.generalist.encode import WHOLE_SCAN, Encode
from uncol.generalist.letterbox import Letterbox, letterbox_of, plane_axes
from uncol.generalist.models.protocol import FoundationModel, Prompted, Prompts
from uncol.generalist.prompts import MARGIN
from uncol.types import Array

MAX_VIEWS = 24  # slices encoded per request; those between are interpolated
GUESSES = (0.04, 0.08, 0.16)  # half sides tried around a lone click, as shares of the slice
LEAST_AREA = 0.1  # of the largest slice's area; a structure ends below it
LARGEST = 1e6  # voxel number
LEAST_OVERLAP = 0.2  # with the slice before; a mask that jumps is another structure


@dataclass(frozen=True)
class Prompt:
    """What an annotator marked, in scan voxels.

    Attributes:
        box: `(i0, i1, j0, j1, k0, k1)`, inclusive, or None.
        foreground: clicks on the structure, `(n, 3)`.
        background: clicks outside it, `(n, 3)`.
    """

    box: tuple[int, int, int, int, int, int] | None
    foreground: Array
    background: Array


def make_prompt(
    shape: tuple[int, int, int],
    *,
    box: Sequence[float] | None,
    foreground: Sequence[Sequence[float]],
    background: Sequence[Sequence[float]],
) -> Prompt:
    """Check a request's box and clicks.

    Raises:
        RequestError: there is neither box nor foreground click, they are not voxel numbers, or a
            click or the whole box lies outside the scan (a box that reaches out is clipped).
    """
    last = np.array(shape) - 1
    corners = None
    if box:
        sides = _numbers(box, "A box")
        if sides.shape != (6,):
            raise RequestError(f"A box has 6 numbers (i0, i1, j0, j1, k0, k1), got {sides.size}.")
        low, high = np.minimum(sides[0::2], sides[1::2]), np.maximum(sides[0::2], sides[1::2])
        if (low >= last + 1).any() or (high < 0).any():
            raise RequestError(
                f"The box {list(box)} lies outside the scan, which has {(last + 1).tolist()} "
                "voxels. Draw it on the scan itself."
            )
        low, high = np.clip(low, 0, last).astype(int), np.clip(high, 0, last).astype(int)
        i0, j0, k0 = (int(v) for v in low)
        i1, j1, k1 = (int(v) for v in high)
        corners = (i0, i1, j0, j1, k0, k1)
    clicks = [_clicks(points, last) for points in (foreground, background)]
    if corners is None and len(clicks[0]) == 0:
        raise RequestError(
            "Nothing to start from: draw a box around the structure, or click on it at least once."
        )
    return Prompt(corners, *clicks)


def first_mask(
    model: FoundationModel,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    prompt: Prompt,
    encode: Encode,
) -> Array:
    """Segment the marked structure.

    Args:
        model: the generalist.
        shape: the scan's shape.
        spacing_mm: its voxel size.
        prompt: what was marked.
        encode: encodes a view of the scan, or fetches it.

    Returns:
        `(I, J, K)` bool.
    """
    if model.dims == 3:
        return _cube(model, letterbox_of(shape, spacing_mm, None, model.side), prompt, encode)
    axis = _choose_axis(model, shape, spacing_mm, prompt, encode)
    return _Sweep(model, shape, spacing_mm, axis, encode).run(prompt)


class _Sweep:
    """Carries a mask along one axis, away from where the annotator marked it."""

    def __init__(
        self,
        model: FoundationModel,
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float, float],
        axis: int,
        encode: Encode,
    ) -> None:
        self.model, self.axis, self.encode = model, axis, encode
        self.shape = shape
        self.box = letterbox_of(shape, spacing_mm, axis, model.side)
        self.plane = plane_axes(axis)

    def run(self, prompt: Prompt) -> Array:
        start, window = self.start(prompt), self.limits(prompt)
        first, _ = self.ask_first(start, prompt)
        step = max(1, -(-(window[1] - window[0] + 1) // MAX_VIEWS))
        slices = {start: first}
        for direction in (step, -step):
            self._carry(slices, start, direction, window, prompt)
        return self._volume(slices)

    def start(self, prompt: Prompt) -> int:
        """Return the slice to begin at: the middle of the box, or of the clicks."""
        if prompt.box is not None:
            return (prompt.box[2 * self.axis] + prompt.box[2 * self.axis + 1]) // 2
        return int(np.median(prompt.foreground[:, self.axis]))

    def limits(self, prompt: Prompt) -> tuple[int, int]:
        """Return the first and last slice that the mask may reach."""
        if prompt.box is not None and prompt.box[2 * self.axis] < prompt.box[2 * self.axis + 1]:
            return prompt.box[2 * self.axis], prompt.box[2 * self.axis + 1]
        return 0, self.shape[self.axis] - 1

    def ask_first(self, index: int, prompt: Prompt) -> tuple[Array, float]:
        """Return the mask of the marked slice `(p, q)` as probabilities, and its quality."""
        answers = [self._ask(index, corners) for corners in self._first_boxes(index, prompt)]
        return max(answers, key=lambda answer: answer[1])

    def _first_boxes(self, index: int, prompt: Prompt) -> list[Array]:
        first, second = self.plane
        if prompt.box is not None:
            box = prompt.box
            return [
                np.array(
                    [
                        box[2 * first],
                        box[2 * second],
                        box[2 * first + 1] + 1,
                        box[2 * second + 1] + 1,
                    ]
                )
            ]
        clicks = prompt.foreground[prompt.foreground[:, self.axis] == index]
        clicks = clicks if len(clicks) else prompt.foreground
        flat = clicks[:, [first, second]]
        low, high = flat.min(axis=0), flat.max(axis=0) + 1
        if len(flat) > 1 and (high - low > 1).all():
            return [self._clip(np.concatenate([low, high]), margin=MARGIN)]
        return [self._clip(np.concatenate([low, high]), margin=guess) for guess in GUESSES]

    def _carry(
        self,
        found: dict[int, Array],
        start: int,
        step: int,
        window: tuple[int, int],
        prompt: Prompt,
    ) -> None:
        before = found[start] > 0.5
        largest = before.sum()
        index = start + step
        while window[0] <= index <= window[1]:
            corners = tight_box(largest_component(before))
            if corners is None:
                return
            probs, _ = self._ask(index, self._clip(corners, margin=MARGIN))
            probs = probs * self._allowed(index, prompt)
            mask = probs > 0.5
            both = int((mask & before).sum())
            if mask.sum() < LEAST_AREA * largest or both < LEAST_OVERLAP * before.sum():
                return
            found[index] = probs
            before, largest = mask, max(largest, mask.sum())
            index += step

    def _ask(self, index: int, corners: Array) -> tuple[Array, float]:
        boxes = self.box.boxes_to_view(torch.from_numpy(corners)[None])
        image = self.encode(self.axis, index).image.float()
        answer: Prompted = self.model.prompt(image, Prompts(boxes=boxes))
        probs = self.box.grow(answer.logits)[0].sigmoid().cpu().numpy()
        return probs, float(answer.quality[0])

    def _allowed(self, index: int, prompt: Prompt) -> Array:
        """Return 0 around background clicks of this slice, 1 elsewhere."""
        allowed = np.ones(self.box.shape, dtype=np.float32)
        for click in prompt.background[prompt.background[:, self.axis] == index]:
            place = tuple(slice(max(click[a] - 1, 0), click[a] + 2) for a in self.plane)
            allowed[place] = 0
        return allowed

    def _clip(self, corners: Array, *, margin: float) -> Array:
        pad = margin * self.box.extent.max()
        size = np.array(self.box.shape)
        low = np.clip(corners[:2] - pad, 0, size - 1)
        high = np.clip(corners[2:] + pad, low + 1, size)
        corners = np.concatenate([low, high]).astype(np.float32)
        return corners

    def _volume(self, found: dict[int, Array]) -> Array:
        """Stack slices, filling skipped ones between two found ones by interpolation."""
        probs = np.zeros((self.shape[self.axis], *self.box.shape), dtype=np.float32)
        known = sorted(found)
        for index in known:
            probs[index] = found[index]
        for left, right in itertools.pairwise(known):
            for index in range(left + 1, right):
                share = (index - left) / (right - left)
                probs[index] = (1 - share) * found[left] + share * found[right]
        stacked: Array = np.moveaxis(probs > 0.5, 0, self.axis)
        return stacked


def _cube(model: FoundationModel, box: Letterbox, prompt: Prompt, encode: Encode) -> Array:
    clicks = np.concatenate([prompt.foreground, prompt.background])
    kinds = [1.0] * len(prompt.foreground) + [0.0] * len(prompt.background)
    if prompt.box is not None:  # SAM-Med3D takes clicks only; a box's middle is one
        middle = [(prompt.box[2 * a] + prompt.box[2 * a + 1]) // 2 for a in range(3)]
        clicks, kinds = np.concatenate([[middle], clicks]), [1.0, *kinds]
    answer = model.prompt(
        encode(WHOLE_SCAN, 0).image.float(),
        Prompts(
            clicks=box.clicks_to_view(torch.from_numpy(clicks))[None], kinds=torch.tensor([kinds])
        ),
    )
    mask = (box.grow(answer.logits)[0] > 0).cpu().numpy()
    if prompt.box is not None:
        inside = np.zeros_like(mask)
        i0, i1, j0, j1, k0, k1 = prompt.box
        inside[i0 : i1 + 1, j0 : j1 + 1, k0 : k1 + 1] = True
        mask = mask & inside
    inside_box: Array = mask
    return inside_box


def _choose_axis(
    model: FoundationModel,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    prompt: Prompt,
    encode: Encode,
) -> int:
    """Return the slice axis: the thick one, or where the model is surest on the first slice."""
    thick = thick_axis(spacing_mm, shape)
    if thick is not None:
        return thick
    quality = {}
    for axis in range(3):
        sweep = _Sweep(model, shape, spacing_mm, axis, encode)
        quality[axis] = sweep.ask_first(sweep.start(prompt), prompt)[1]
    return max(quality, key=lambda axis: quality[axis])


def _numbers(values: object, what: str) -> Array:
    try:
        numbers = np.array(values, dtype=float)
    except (TypeError, ValueError, OverflowError):
        numbers = np.array(np.nan)
    if not np.isfinite(numbers).all() or np.abs(numbers).max(initial=0) > LARGEST:
        raise RequestError(f"{what} must be given in voxel numbers, got {str(values)[:80]}.")
    return numbers


def _clicks(points: Sequence[Sequence[float]], last: Array) -> Array:
    numbers = _numbers(points, "Clicks") if points else np.zeros((0, 3))
    if numbers.ndim != 2 or numbers.shape[1] != 3:
        raise RequestError(f"Clicks are voxels of 3 numbers each, got {str(points)[:80]}.")
    array: Array = np.rint(numbers).astype(int)
    outside = ((array < 0) | (array > last)).any(axis=1)
    if outside.any():
        raise RequestError(
            f"Click {array[outside][0].tolist()} lies outside the scan, which has "
            f"{(last + 1).tolist()} voxels. Click on the scan itself."
        )
    return array

"""What a client may ask of a task: one record per kind of request, and every other field refused.

MONAI Label merges a request's body into the task's own request, so that a client could name its
model, its scan's path, or folders to import code from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from uncol.errors import RequestError
from uncol.storage.plain import shown

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")
MOST_POINTS = 1000
MOST_SEGMENTS = 1000


def is_on(value: object) -> bool:
    """Read a flag that a client may send as bool, number or text.

    Raises:
        ValueError: it is something else.
    """
    text = str(value).strip().lower()
    if value is None or text in FALSE:
        return False
    if text in TRUE:
        return True
    raise ValueError("must be true or false")


Flag = Annotated[bool, BeforeValidator(is_on)]
Text = Annotated[str, Field(max_length=200)]
Point = Annotated[list[float], Field(max_length=4)]
Points = Annotated[list[Point], Field(max_length=MOST_POINTS)]


class Segment(BaseModel):
    """One segment of a submitted label, as viewers list them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Text
    idx: int


class Asked(BaseModel):
    """What every request may carry.

    Attributes:
        device: what to compute on; a name, or the list that viewers show with the chosen one first.
        client_id: who asks; a name that the client chose.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    # what viewers send from habit and what means nothing here
    HABITS: ClassVar[frozenset[str]] = frozenset({"logging", "description", "timeout", "debug"})

    device: Text | Annotated[list[Text], Field(max_length=64)] | None = None
    client_id: Text | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any] | None) -> Self:
        """Parse a request's body.

        Raises:
            RequestError: a field is unknown or has an impossible value; the message names it.
        """
        try:
            known = {word: v for word, v in (body or {}).items() if word not in cls.HABITS}
            return cls.model_validate(known)
        except ValidationError as error:
            raise RequestError(mistakes(error.errors(), cls.model_fields)) from error


class InferRequest(Asked):
    """Options of an infer.

    Attributes:
        save_label: whether the label and its map are kept with the case.
        label_tag: under which tag; `original`, or nothing.
        to_pacs: whether label and map are stored in the PACS.
        map: whether the float map is wanted instead of review bands; `disagreement` for that of
            the student's heads.
        result_extension: the file format, with its dot.
        result_compress: whether a format that can is to compress.
        label: the structure that a first mask is wanted of.
        roi: a box `(i0, i1, j0, j1, k0, k1)` in voxels.
        foreground: clicks on the structure, voxels.
        background: clicks outside it, voxels.
        clicks: clicks by label name, as viewers of MONAI Label's DeepEdit send them.
        label_info: names of the segments, for DICOM.
    """

    HABITS: ClassVar[frozenset[str]] = Asked.HABITS | {
        *("result_dtype", "restore_label_idx", "label_prompt", "largest_cc", "slice"),
        *("reset_state", "selected_label_name", "result_write_to_file", "result_meta_dict"),
    }

    save_label: Flag = False
    label_tag: Text | None = None
    to_pacs: Flag = False
    map: Flag | Literal["disagreement"] = Field(default=False, union_mode="left_to_right")
    result_extension: Text | None = None
    result_compress: Flag = True
    label: Text | None = None
    roi: Annotated[list[float], Field(max_length=6)] | None = None
    foreground: Points | None = None
    background: Points | None = None
    clicks: dict[Text, Points] = Field(default_factory=dict)
    label_info: Annotated[list[Segment], Field(max_length=MOST_SEGMENTS)] | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any] | None, labels: Sequence[str] = ()) -> Self:
        """Parse a request's body.

        Args:
            body: what came.
            labels: the app's labels; clicks may stand under their names.

        Raises:
            RequestError: a field is unknown or has an impossible value; the message names it.
        """
        rest = dict(body or {})
        clicks = {name: rest.pop(name) for name in labels if name in rest and name not in NAMES}
        fields = cls.model_fields.keys() - {"clicks"}  # ours alone, no client's
        extra = sorted(rest.keys() - fields - cls.HABITS)
        if extra:
            errors = [{"type": "extra_forbidden", "loc": (name,)} for name in extra]
            raise RequestError(mistakes(errors, [*fields, *labels]))
        return super().of({**rest, **({"clicks": clicks} if clicks else {})})


@dataclass(frozen=True)
class InferWork:
    """What an infer task gets: a request that was checked, and what the server adds to it.

    Attributes:
        image: the scan's file.
        case: its case, for messages; None if it is an upload.
        asked: what the client wants.
        folder: where results are written; it goes with the request.
    """

    image: Path
    case: str | None
    asked: InferRequest
    folder: Path


class TrainRequest(Asked):
    """Options of a training, as the trainer lists them for viewers.

    Attributes:
        seed: of all that is random.
        step_scale: multiplies the planned steps.
        labeled_only: allows a pool without unlabeled cases.
        pretrained: whether to go on from the served version where that is possible.
    """

    HABITS: ClassVar[frozenset[str]] = Asked.HABITS | {
        *("name", "max_epochs", "early_stop_patience", "val_split", "multi_gpu"),
        *("train_batch_size", "val_batch_size", "dataset", "dataloader", "tracking"),
        *("tracking_uri", "tracking_experiment_name"),
    }

    seed: int = 0
    step_scale: float = 1.0
    labeled_only: Flag = False
    pretrained: Flag = True


class ScoringRequest(Asked):
    """Options of a scoring.

    Attributes:
        y_pred: the tag of the labels that are judged.
        y: the tag of the labels that they are compared with.
    """

    HABITS: ClassVar[frozenset[str]] = Asked.HABITS | {"multi_gpu"}

    y_pred: Text = "original"
    y: Text = "final"


class SampleRequest(Asked):
    """Options of Next Sample.

    Attributes:
        seed: of a random order.
    """

    seed: int = 0


class BatchRequest(InferRequest):
    """Options of an infer of many cases.

    Attributes:
        max_batch_size: infer at most so many cases; 0 for all.
    """

    HABITS: ClassVar[frozenset[str]] = InferRequest.HABITS | {"multi_gpu", "gpus", "max_workers"}

    save_label: Flag = True
    max_batch_size: Annotated[int, Field(ge=0)] = 0


NAMES = frozenset(InferRequest.model_fields) | InferRequest.HABITS


def mistakes(errors: Sequence[Any], known: Any = ()) -> str:
    """Return what pydantic found as one sentence per field."""
    sentences = []
    for error in errors[:5]:
        place = ".".join(str(part) for part in error["loc"] if not isinstance(part, int))
        name = shown(place or "the request")
        if error["type"] == "extra_forbidden":
            choices = f" Known are {', '.join(sorted(set(known)))}." if known else ""
            sentences.append(f"There is no option {name}.{choices}")
        else:
            words = error["msg"].removeprefix("Value error, ")
            sentences.append(f"{name}: {words[:1].lower()}{words[1:]}.")
    return " ".join(sentences)

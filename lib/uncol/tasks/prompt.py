"""Infer task `uncol_prompt`: a first mask from a box or clicks, before any training."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list

from uncol.data.scan import read_scan
from uncol.errors import RequestError
from uncol.generalist.cache import EmbeddingCache
from uncol.generalist.encode import scan_encoder
from uncol.generalist.first_mask import first_mask, make_prompt
from uncol.generalist.models import NO_GENERALIST, load_foundation_model
from uncol.generalist.models.protocol import FoundationModel
from uncol.settings import Settings
from uncol.storage.files import GIB, file_digest
from uncol.storage.plain import shown
from uncol.tasks.device import device_of
from uncol.tasks.infer import as_uint8
from uncol.tasks.priority import FOREGROUND, Turns
from uncol.tasks.requests import InferWork
from uncol.tasks.results import write_result


class PromptTask(InferTask):  # type: ignore[misc]
    """The generalist as an interactive model, one structure per request."""

    def __init__(self, settings: Settings) -> None:
        """Make the task; the generalist is loaded at the first request."""
        super().__init__(
            type=InferType.DEEPGROW,
            labels=list(settings.labels),
            dimension=3,
            description="First mask from a box or clicks (generalist)",
            config={"device": device_list()},
        )
        self.settings = settings
        self._turns = Turns()

    def is_valid(self) -> bool:
        """Say whether a generalist is configured."""
        return self.settings.generalist != NO_GENERALIST

    @cached_property
    def model(self) -> FoundationModel:
        """The generalist, on the CPU until a request names a device.

        Raises:
            WeightsError: its weights are missing or damaged.
            RequestError: none is configured.
        """
        model = load_foundation_model(
            self.settings.generalist,
            weights=self.settings.generalist_weights,
            weights_dir=self.settings.folder.downloads,
        )
        if model is None:
            raise RequestError("uncol_prompt needs a generalist; none is configured.")
        return model

    @cached_property
    def cache(self) -> EmbeddingCache:
        """Where encoded views are kept."""
        folder = self.settings.folder.encoded_cache
        return EmbeddingCache(folder, limit_bytes=self.settings.cache_gb * GIB)

    def __call__(self, work: InferWork) -> tuple[Path, dict[str, Any]]:
        """Return a mask with value 1 for the requested label.

        Args:
            work: with a box or clicks, in scan voxels.

        Raises:
            RequestError: nothing usable was marked, or the label is unknown.
            BusyError: too many requests wait already.
            ScanError: the scan cannot be used.
            WeightsError: the generalist's weights are missing.
        """
        start = time.time()
        asked = work.asked
        label = self._label(asked.label)
        device = device_of(asked.device)
        with FOREGROUND.computing(self._turns):
            scan = read_scan(work.image, case=work.case)
            prompt = make_prompt(
                scan.grid.shape,
                box=asked.roi,
                foreground=asked.foreground or asked.clicks.get(label) or [],
                background=asked.background or [],
            )
            self.model.network.to(device)
            mask = first_mask(
                self.model,
                scan.grid.shape,
                scan.grid.spacing_mm,
                prompt,
                scan_encoder(
                    self.model,
                    self.cache,
                    scan,
                    content=file_digest(work.image),
                    modality=self.settings.modality,
                    device=device,
                ),
            )
            self.cache.trim()
        params = {
            "label_names": {label: 1},
            "latencies": {"total": round(time.time() - start, 2)},
            "teacher": self.model.name,
        }
        return write_result(as_uint8(mask), scan.grid, [label], work), params

    def _label(self, asked: str | None) -> str:
        known = list(self.settings.labels)
        label = asked or known[0]
        if label not in known:
            raise RequestError(
                f"{shown(label)} is not a label of this app; choose one of {', '.join(known)}."
            )
        return label

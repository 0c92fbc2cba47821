"""Small things that tests share: phantoms, a stub generalist, tiny presets."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from realm import RealmStandIn
from torch import nn
from xdist.scheduler import LoadFileScheduling

# before they are imported: each call checks the shapes that its signature names
SHAPED = ("uncol.method", "uncol.uncertainty.maps", "uncol.uncertainty.measure")
install_import_hook(SHAPED, "beartype.beartype")

from uncol.data.prepared import TrainingCase
from uncol.generalist.cache import EmbeddingCache
from uncol.generalist.models.protocol import Encoded, Prompted
from uncol.generalist.pool import Generalist
from uncol.method.recipe import RECIPES
from uncol.round_settings import RoundSettings
from uncol.training.loop import Trainer, TrainingData
from uncol.training.presets import PRESETS
from uncol.training.run import new_run
from uncol.training.uncol import UNCOL
from uncol.versions.manifest import Plan

settings.register_profile("uncol", max_examples=20, deadline=None, derandomize=True)
settings.load_profile("uncol")

torch.set_num_threads(1)  # threads that wait for each other cost more than these sizes gain
CPU = torch.device("cpu")


class FilesTogether(LoadFileScheduling):
    """A file's tests run in one process; those of the PACS share a process and its hospital."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        folder = file.rpartition("/")[0]
        return folder if folder.endswith("/pacs") else file


def pytest_xdist_make_scheduler(config, log):
    return FilesTogether(config, log)


class StubModel:
    """A promptable foundation model of a few dozen weights that writes down what it is asked."""

    def __init__(self, dims, *, side=16):
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        torch.manual_seed(0)
        self.network = convolution(1, 6, 4, stride=4)
        self.name = f"stub{dims}d"
        self.dims = dims
        self.side = side
        self.hidden_channels = (6, 6)
        self.token_channels = 6
        self.takes_boxes = dims == 2
        self.fingerprint = "stub v1"
        self.encoded = []  # (views, raw)
        self.prompted = []  # Prompts

    @torch.no_grad()
    def encode(self, views, *, raw=False):
        self.encoded.append((views.clone(), raw))
        seen = views if raw else (views - views.mean()) / views.std().clamp_min(1e-6)
        image = self.network(seen)
        return Encoded(image, (image, image.tanh()))

    @torch.no_grad()
    def prompt(self, image, prompts):
        self.prompted.append(prompts)
        axes = torch.meshgrid(*[torch.arange(self.side)] * self.dims, indexing="ij")
        places = torch.stack(axes, dim=-1).float()
        if prompts.boxes is not None:
            low, high = prompts.boxes[:, : self.dims], prompts.boxes[:, self.dims :]
            inside = [
                ((places + 0.5 > a) & (places + 0.5 < b)).all(-1)
                for a, b in zip(low, high, strict=True)
            ]
        else:
            inside = [
                self._near(places, c, k) for c, k in zip(prompts.clicks, prompts.kinds, strict=True)
            ]
        logits = torch.stack(inside).float() * 8 - 4
        tokens = image.expand(len(logits), *image.shape[1:])
        return Prompted(logits, tokens, torch.ones(len(logits)))

    @staticmethod
    def _near(places, clicks, kinds):
        near = torch.zeros(places.shape[:-1], dtype=torch.bool)
        for click, kind in zip(clicks, kinds, strict=True):
            ball = ((places - click) ** 2).sum(-1) <= 9
            near = near | ball if kind == 1 else near & ~ball
        return near


def ball(shape, center, radius):
    axes = np.meshgrid(*[np.arange(size) for size in shape], indexing="ij")
    return sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)) <= radius**2


@pytest.fixture
def make_ball():
    return ball


@pytest.fixture
def stub_model():
    return StubModel


@pytest.fixture
def make_case():
    def make(name="case", *, shape=(16, 16, 16), labels=1, annotated=True, seed=0):
        middle = [(size - 1) / 2 for size in shape]
        label = np.zeros(shape, dtype=np.uint8)
        for value in range(1, labels + 1):
            center = list(middle)
            center[0] += 5 * (value - (labels + 1) / 2)
            label[ball(shape, center, 2.2 if labels > 1 else 4)] = value
        noise = np.random.default_rng(seed).normal(0, 0.1, shape)
        image = (label.astype(np.float64) * 2 - 0.5 + noise).astype(np.float16)[None]
        centers = tuple(
            torch.from_numpy(np.argwhere(label == value)) for value in range(1, labels + 1)
        )
        return TrainingCase(
            name,
            f"key of {name}",
            image,
            label[None] if annotated else None,
            centers if annotated else (),
            (1.0, 1.0, 1.0),
            float(image.min()),
        )

    return make


@pytest.fixture
def tiny_preset():
    def make(dims=3, **changes):
        crop = (16, 16, 16) if dims == 3 else (16, 16, 1)
        return replace(PRESETS[f"tiny{dims}d"], **{"crop": crop, "batch": 2, **changes})

    return make


@pytest.fixture
def make_generalist(tmp_path):
    def make(model, *, mode="intended", axis=2, folder="embeddings"):
        return Generalist(
            model,
            EmbeddingCache(tmp_path / folder),
            axis=axis,
            recipe=RECIPES[mode],
            device=CPU,
            generator=np.random.default_rng(0),
        )

    return make


@pytest.fixture
def make_trainer(tiny_preset, make_case):
    def make(
        *,
        dims=3,
        labels=1,
        mode="intended",
        generalist=None,
        steps=(1, 2),
        prompt_every=1,
        preset=None,
        unlabeled=True,
        views=4,
        method=UNCOL,
        recipe=None,
    ):
        shape = (16, 16, 16) if dims == 3 else (16, 16, 1)
        preset = preset or tiny_preset(dims)
        labeled = [make_case("a", shape=shape, labels=labels, seed=1)]
        others = [make_case("u", shape=shape, labels=labels, annotated=False, seed=2)]
        others = others if unlabeled else []
        if generalist is not None:
            for case in labeled + others:
                generalist.look(case, views)
            for case in labeled:
                mask = torch.from_numpy(case.label[0]).long()
                generalist.prompt(case, mask, labels + 1, None)
        run = new_run(preset, labels + 1, generalist=generalist, seed=0, device=CPU)
        return Trainer(
            run,
            preset,
            Plan(*steps, 4, 4, prompt_every),
            method,
            (recipe or RECIPES[mode]).with_mixing(preset.mix_until),
            TrainingData(labeled, others, generalist),
            device=CPU,
        )

    return make


@pytest.fixture
def write_nifti(tmp_path):
    def write(array, *, name="scan.nii.gz", affine=None):
        path = tmp_path / name
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), str(path))
        return path

    return write


@pytest.fixture
def trainable():
    """Logits `(B, C, I, J, K)` drawn at random, with gradient."""

    def draw(*shape, seed=0):
        logits = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        return logits.requires_grad_()

    return draw


@pytest.fixture(scope="session")
def tiny_settings():
    """What a round of tests is made with."""

    def make(model_dir, *, labels=None, step_scale):
        return RoundSettings(
            labels=labels or {"ball": 1},
            preset="tiny3d",
            generalist="none",
            generalist_weights=None,
            mode="intended",
            modality="mr",
            model_dir=model_dir,
            device=CPU,
            step_scale=step_scale,
        )

    return make


@pytest.fixture(scope="module")
def realm():
    """A realm that signs tokens; a test that changes it leaves it as it was."""
    made = RealmStandIn()
    yield made
    made.server.shutdown()
    made.server.server_close()

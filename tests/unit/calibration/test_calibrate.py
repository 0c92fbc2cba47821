import nibabel as nib
import numpy as np
import pytest
import torch

from uncol.calibration import calibrate as module
from uncol.calibration.calibrate import calibrate, read_doubts
from uncol.calibration.evidence import Evidence, Judge
from uncol.data.cases import Case
from uncol.networks.student import StudentOutput
from uncol.selection.scores import embeddings_of, scores_of
from uncol.selection.survey import Missing, missing, survey
from uncol.storage.model_folder import VersionNotes
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.versions.loaded import load_version, read_calibration
from uncol.versions.store import ModelStore

SHAPE = (16, 16, 16)
LABELED, UNLABELED = 5, 3


def draw(folder, number, *, annotated, mistaken=False):
    rng = np.random.default_rng(number)
    centre = 8 + rng.uniform(-1.5, 1.5, 3)
    places = np.moveaxis(np.indices(SHAPE), 0, -1)
    label = (np.linalg.norm(places - centre, axis=-1) < 5).astype(np.uint8)
    image = (2 * label + rng.normal(0, 0.4, SHAPE)).astype(np.float32)
    if mistaken:
        label[:, :8] = 0
    paths = [folder / f"scan{number}.nii.gz", folder / f"label{number}.nii.gz"]
    for path, array in zip(paths, (image, label), strict=True):
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return Case(f"case{number}", paths[0], paths[1] if annotated else None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_settings):
    """A published tiny student on 5 labels, one of them half drawn, and 3 unlabeled scans."""
    folder = tmp_path_factory.mktemp("calibrate")
    cases = [draw(folder, n, annotated=True, mistaken=n == 2) for n in range(LABELED)]
    cases += [draw(folder, 10 + n, annotated=False) for n in range(UNLABELED)]
    settings = tiny_settings(folder / "model", step_scale=0.24)
    train_round(cases, settings, Reporter())
    return cases, settings, ModelStore(settings.model_dir)


class Phases(Reporter):
    def __init__(self, stop_at=None):
        self.seen, self.stop_at = [], stop_at

    def phase(self, text):
        self.seen.append(text)
        if self.stop_at and self.stop_at in text:
            raise KeyboardInterrupt


def test_a_killed_calibration_goes_on_and_judges_nobody_by_what_trained_it(trained, monkeypatch):
    cases, settings, store = trained
    learned_from = []
    fold_student = module._fold_student

    def listening(judge, train, *, seed):
        learned_from.append({case.name for case in train})
        return fold_student(judge, train, seed=seed)

    judged_by = []
    one = Judge._one

    def watching(self, case, student):
        judged_by.append((case.name, learned_from[-1]))
        return one(self, case, student)

    monkeypatch.setattr(module, "_fold_student", listening)
    monkeypatch.setattr(Judge, "_one", watching)
    with pytest.raises(KeyboardInterrupt):
        calibrate(cases, 1, settings, Phases(stop_at="student 3"))
    assert read_calibration(store, 1).source == "none"
    done = len(judged_by)
    assert 0 < done < LABELED
    found = calibrate(cases, 1, settings, Phases())
    assert sorted(name for name, _ in judged_by) == sorted(f"case{n}" for n in range(LABELED))
    assert all(name not in trained_on for name, trained_on in judged_by)
    assert (found.source, found.cases) == ("cross_fit", LABELED)
    assert len(found.temperatures) == 2
    assert found.quality is not None
    assert read_calibration(store, 1) == found
    again = Phases()
    assert calibrate(cases, 1, settings, again) == found
    assert again.seen == []

    # the half-drawn label is the one in doubt
    doubts = read_doubts(store, 1)
    assert doubts[0].case == "case2"
    assert doubts[0].share > 0.2
    assert [d.share for d in doubts] == sorted((d.share for d in doubts), reverse=True)


def test_a_survey_scores_each_waiting_case_once_and_keeps_its_map(trained):
    cases, settings, store = trained
    calibrate(cases, 1, settings, Reporter())
    first = survey(cases, settings, Reporter())
    assert (first.scored, first.skipped, first.left_out) == (UNLABELED, 0, {})
    names = [case.name for case in cases if case.label is None]
    found = scores_of(store.folder, 1).read()
    assert sorted(found) == sorted(names)
    assert missing(store, "none", unlabeled=dict.fromkeys(names, ""), everyone={}) == Missing()
    for name, score in found.items():
        assert 0 <= score.interval[0] <= score.quality <= score.interval[1] <= 1
        kept = store.folder.notes(1).maps / score.map_file
        assert nib.load(kept).shape == SHAPE
        assert score.labels["ball"].voxels > 0, name
    second = survey(cases, settings, Reporter())
    assert (second.scored, second.skipped) == (0, UNLABELED)
    assert embeddings_of(store.folder, "none").read() == {}


def test_an_unreadable_scan_is_named_and_the_others_are_scored(trained, tmp_path):
    cases, settings, store = trained
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    broken = Case("broken", tmp_path / "broken.nii.gz")
    found = survey([*cases, broken], settings, Reporter())
    assert "damaged" in found.left_out["broken"]
    assert "broken" not in scores_of(store.folder, 1).read()


def test_answers_say_what_they_were_calibrated_by(trained, tmp_path):
    cases, settings, store = trained
    calibrate(cases, 1, settings, Reporter())
    published = load_version(store, 1, torch.device("cpu"))
    assert published.calibration.source == "cross_fit"
    summary = published.summary(published.segment(_scan(draw(tmp_path, 77, annotated=True))))
    told = summary.model_dump(mode="json")
    assert told["quality"]["calibrated"]
    assert told["uncertainty"]["calibration"] == {"source": "cross_fit", "cases": LABELED}


def test_too_few_labels_leave_the_probabilities_as_they_are(trained, tmp_path):
    cases, settings, store = trained
    few = [case for case in cases if case.name in ("case0", "case1")]
    store.publish(*store.load(1))
    found = calibrate(few, 2, settings, Reporter())
    assert (found.source, found.temperatures, found.quality) == ("none", (), None)


def test_enough_held_out_cases_need_no_other_students(trained, monkeypatch):
    cases, settings, store = trained
    student, manifest = store.load(1)
    held = [f"case{n}" for n in range(1, LABELED)]
    parts = {**manifest.cases, "labeled": ["case0"], "held_out": held}
    version = store.publish(student, manifest.model_copy(update={"cases": parts}))

    def never(*_args, **_kwargs):
        raise AssertionError("trained a student")

    monkeypatch.setattr(module, "_fold_student", never)
    found = calibrate(cases, version, settings, Reporter())
    assert (found.source, found.cases) == ("held_out", len(held))


class TwoBalls(torch.nn.Module):
    """Finds the case's label and a smaller cube in the corner, sure of both."""

    def __init__(self, mask):
        super().__init__()
        self.mask = torch.from_numpy(mask).float()

    def forward(self, image):
        foreground = self.mask[None, None].expand(len(image), 4, -1, -1, -1)
        logits = torch.stack([-6 * foreground + 3, 6 * foreground - 3], dim=2)
        return StudentOutput(logits, image, [])


def test_stray_pieces_are_judged_as_served_and_checked_as_predicted(trained, tmp_path):
    cases, settings, store = trained
    manifest = store.manifest(1).model_copy(update={"one_piece": ((1,),), "window": SHAPE})
    judge = Judge(manifest, settings, VersionNotes(tmp_path), Reporter())
    (case,) = judge.read(cases[:1])
    mask = case.label[0] > 0
    mask[:2, :2, :2] = True
    seen = judge.see(case, TwoBalls(mask))
    assert list(seen.dice.values()) == [1.0]
    assert int(seen.predicted.sum()) == mask.sum()  # a forgotten piece may be what is stray
    assert float(seen.probs[1][:2, :2, :2].min()) > 0.9


def test_students_of_the_folds_mix_as_the_published_one_did(trained, tmp_path, monkeypatch):
    cases, settings, store = trained
    recipes = []

    class Watched(module.Trainer):
        def run(self):
            recipes.append(self.recipe)
            return iter(())

    monkeypatch.setattr(module, "Trainer", Watched)
    for mix_until in (1.0, 0.5):
        manifest = store.manifest(1).model_copy(update={"mix_until": mix_until})
        judge = Judge(manifest, settings, VersionNotes(tmp_path), Reporter())
        module._fold_student(judge, list(judge.read(cases[:1])), seed=0)
    assert [recipe.mix_until for recipe in recipes] == [1.0, 0.5]


def test_evidence_survives_its_file():
    made = Evidence(case="a", confidence={"x": None}, dice={"x": 0.5}, doubt=None)
    assert Evidence.model_validate_json(made.model_dump_json()) == made


def _scan(case):
    from uncol.data.scan import read_scan

    return read_scan(case.image)

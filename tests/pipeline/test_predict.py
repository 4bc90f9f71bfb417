"""Prediction: the file's own grid and name, what is averaged, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from safetensors.torch import load_file, save_file

import isocenter
from isocenter import images, methods
from isocenter.compute import Compute
from isocenter.errors import (
    BadDataset,
    BadModel,
    BadPlan,
    IsocenterWarning,
    RunFailed,
    Unanswered,
    UnreadableFile,
)
from isocenter.methods.method import Arrays, Batch, Method, Network, Outputs
from isocenter.methods.supervised import SupervisedMasks
from isocenter.pipeline import checkpoint
from isocenter.pipeline import predict as stage
from isocenter.pipeline.run import Run
from isocenter.records import Plan


def _copy_of(run: Path, to: Path) -> Path:
    """A model folder of one fold, to be broken."""
    (to / "fold_0").mkdir(parents=True)
    for name in ("plan.json", "fingerprint.json"):
        (to / name).write_bytes((run / name).read_bytes())
    weights = (run / "fold_0" / "weights.safetensors").read_bytes()
    (to / "fold_0" / "weights.safetensors").write_bytes(weights)
    return to


def _image(blobs: Path, number: int = 0) -> Path:
    return blobs / f"image_{number}.nii.gz"


def test_an_answer_has_the_name_grid_and_size_of_its_image(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    (path,) = isocenter.predict(trained, [_image(blobs)], tmp_path, device="cpu")
    assert path == tmp_path / "image_0.nii.gz"
    answer, image = nib.load(path), nib.load(_image(blobs))
    assert answer.shape == image.shape
    assert np.array_equal(answer.affine, image.affine)
    assert set(np.unique(np.asarray(answer.dataobj))) <= {0, 1, 2}


def test_an_answer_finds_the_blob(blobs: Path, trained: Path) -> None:
    answer = isocenter.load(trained, device="cpu").predict(_image(blobs)).answer > 0
    truth = images.read_labels(blobs / "label_0.nii.gz").array[0] > 0
    assert 2 * (answer & truth).sum() / (answer.sum() + truth.sum()) > 0.6


def test_an_image_outside_of_any_grid_the_model_knows_is_answered_on_its_own(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    source = nib.load(_image(blobs))
    turned = np.asarray(source.dataobj).transpose(2, 0, 1)[::-1].copy()
    angle = np.deg2rad(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.4, 0.9, 1.1])
    affine[:3, 3] = (3, -7, 5)
    nib.save(nib.Nifti1Image(turned, affine), tmp_path / "turned.nii.gz")
    (path,) = isocenter.predict(trained, [tmp_path / "turned.nii.gz"], tmp_path / "out", device="cpu")
    assert nib.load(path).shape == turned.shape
    assert np.allclose(nib.load(path).affine, affine, atol=1e-6)


def test_existing_answers_are_left_alone_unless_overwritten(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    (path,) = isocenter.predict(trained, [_image(blobs)], tmp_path, device="cpu")
    path.write_bytes(b"mine")
    isocenter.predict(trained, [_image(blobs)], tmp_path, device="cpu")
    assert path.read_bytes() == b"mine"
    isocenter.predict(trained, [_image(blobs)], tmp_path, device="cpu", overwrite=True)
    assert nib.load(path).shape == nib.load(_image(blobs)).shape


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_image_is_never_replaced_by_its_answer(
    blobs: Path, trained: Path, tmp_path: Path, overwrite: bool
) -> None:
    image = tmp_path / "image_0.nii.gz"
    image.write_bytes(_image(blobs).read_bytes())
    with pytest.raises(BadDataset, match="would take the place of an image"):
        isocenter.predict(trained, [tmp_path], tmp_path, device="cpu", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [image.name]
    assert image.read_bytes() == _image(blobs).read_bytes()


def test_an_output_that_is_a_file_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RunFailed, match="not a folder") as fault:
        isocenter.predict(tmp_path / "no model", [tmp_path], tmp_path / "out", device="cpu")
    assert "another output folder" in fault.value.cure


def test_a_map_that_an_answer_lacks_is_added_and_the_answer_left_alone(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    (path,) = isocenter.predict(trained, [_image(blobs)], tmp_path, device="cpu")
    path.write_bytes(b"mine")
    isocenter.predict(trained, [_image(blobs)], tmp_path, device="cpu", probabilities=True)
    probabilities = tmp_path / "image_0_probabilities.nii.gz"
    assert images.read(probabilities).channels == 3
    probabilities.write_bytes(b"mine, too")
    isocenter.predict(trained, [_image(blobs)], tmp_path, device="cpu", probabilities=True, uncertainty=True)
    assert images.read(tmp_path / "image_0_uncertainty.nii.gz").channels == 1
    assert (path.read_bytes(), probabilities.read_bytes()) == (b"mine", b"mine, too")


def test_maps_of_a_methods_own_are_added_where_they_are_not_there(
    blobs: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [_image(blobs, 0), _image(blobs, 1)]
    isocenter.predict(trained, wanted, tmp_path, device="cpu")
    monkeypatch.setattr(SupervisedMasks, "maps", lambda self, inputs: {"seen": inputs["image"]})
    isocenter.predict(trained, wanted, tmp_path, device="cpu", maps=True)
    names = {f"image_{number}{kind}.nii.gz" for number in (0, 1) for kind in ("", "_map_seen")}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_answers_with_all_that_lies_beside_them_can_be_judged(
    blobs: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SupervisedMasks, "maps", lambda self, inputs: {"seen": inputs["image"]})
    isocenter.predict(
        trained,
        [_image(blobs)],
        tmp_path / "answers",
        device="cpu",
        probabilities=True,
        uncertainty=True,
        maps=True,
    )
    (tmp_path / "truths").mkdir()
    (tmp_path / "truths" / "image_0.nii.gz").write_bytes((blobs / "label_0.nii.gz").read_bytes())
    scores = isocenter.evaluate(tmp_path / "answers", tmp_path / "truths", tmp_path / "scores")
    assert [case.case for case in scores.cases] == ["image_0"]


def test_probabilities_sum_to_one_and_uncertainty_lies_between_zero_and_one(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    isocenter.predict(trained, [_image(blobs)], tmp_path, device="cpu", probabilities=True, uncertainty=True)
    probabilities = images.read(tmp_path / "image_0_probabilities.nii.gz").array
    uncertainty = images.read(tmp_path / "image_0_uncertainty.nii.gz").array
    assert probabilities.shape[0] == 3
    assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-3)
    assert uncertainty.min() >= 0
    assert uncertainty.max() <= 1


def test_folds_are_averaged_tile_by_tile(blobs: Path, trained: Path, tmp_path: Path) -> None:
    image = images.read(_image(blobs))
    run = stage.Run(trained)
    models = [stage.Model(run, folds=folds, device="cpu") for folds in ([0], [1], None)]
    first, second, both = (model.outputs([image], tmp_path)[0]["scores"] for model in models)
    assert np.allclose(both, (first + second) / 2, atol=2e-2)


def test_stages_that_answer_together_say_the_same_from_disk_as_from_memory(
    blobs: Path, trained: Path, make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("2d", "3d_fullres")
    folder = make_run(settings={"configurations": names})
    (folder / "fingerprint.json").write_bytes((trained / "fingerprint.json").read_bytes())
    plan = Plan.load(folder / "plan.json")
    for seed, one in enumerate(plan.stages):
        torch.manual_seed(seed)
        method = methods.load(plan.method).at(one)(plan, one)
        checkpoint.save(folder / f"fold_0/{one.name}/weights.safetensors", method.modules.state_dict(), {})
    run = Run(folder)
    each = [stage.Model(run, members=(name,), device="cpu") for name in names]
    said = [model.predict(_image(blobs), probabilities=True).probabilities for model in each]
    together = stage.Model(run, members=names, device="cpu")
    in_memory = together.predict(_image(blobs), probabilities=True).probabilities
    assert np.allclose(in_memory, np.mean(said, axis=0), atol=0.02)
    monkeypatch.setattr(stage, "IN_MEMORY_BYTES", 0)
    assert np.array_equal(together.predict(_image(blobs), probabilities=True).probabilities, in_memory)


def test_a_dicom_folder_and_a_nifti_file_are_answered_in_one_call(
    blobs: Path,
    trained: Path,
    tmp_path: Path,
    slices: list[Dataset],
    saved: Callable[[Dataset, Path], Path],
) -> None:
    series = tmp_path / "in" / "T1post"
    for number, content in enumerate(slices):
        saved(content, series / f"{number}.dcm")
    with pytest.warns(UserWarning, match="the model has seen"):
        paths = isocenter.predict(trained, [_image(blobs), series], tmp_path / "out", device="cpu")
    assert [path.name for path in paths] == ["image_0.nii.gz", "T1post.nii.gz"]
    assert images.read_geometry(paths[1]).difference(images.read_geometry(series)) is None


@pytest.mark.parametrize("way", ["LPS", "LAS", "PIR", "SRA"])
def test_a_scan_is_answered_alike_in_whatever_order_its_axes_are_stored(
    blobs: Path, trained: Path, tmp_path: Path, store: Callable[[Path, str, Path], Path], way: str
) -> None:
    other = store(_image(blobs), way, tmp_path / "in" / "other.nii.gz")
    paths = isocenter.predict(
        trained, [_image(blobs), other], tmp_path / "out", device="cpu", probabilities=True, uncertainty=True
    )
    assert np.array_equal(nib.load(paths[1]).affine, nib.load(other).affine)
    for kind in ("", "_probabilities", "_uncertainty"):
        first, second = (path.with_name(path.name.replace(".nii", f"{kind}.nii")) for path in paths)
        store(second, "RAS", second)
        assert nib.load(first).get_fdata().any()
        assert np.array_equal(nib.load(first).get_fdata(), nib.load(second).get_fdata())


def test_a_dicom_series_is_answered_as_the_nifti_file_of_the_same_scan(
    blobs: Path,
    trained: Path,
    tmp_path: Path,
    slices: list[Dataset],
    saved: Callable[[Dataset, Path], Path],
    store: Callable[[Path, str, Path], Path],
) -> None:
    scan = nib.load(_image(blobs))
    whole = np.asarray(scan.dataobj).round().astype(np.uint16)
    nib.save(nib.Nifti1Image(whole, scan.affine), tmp_path / "scan.nii.gz")
    axial = np.asarray(nib.load(store(tmp_path / "scan.nii.gz", "LPS", tmp_path / "lps.nii.gz")).dataobj).T
    for number, plane in enumerate(axial):
        content = copy.deepcopy(slices[0])
        content.SOPInstanceUID = content.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        content.Rows, content.Columns = plane.shape
        content.PixelSpacing, content.InstanceNumber = [1, 1], number + 1
        content.SliceThickness = content.SpacingBetweenSlices = 1.5
        content.RescaleSlope, content.RescaleIntercept = 1, 0
        content.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        content.ImagePositionPatient = [-19.0, -23.0, 1.5 * number]
        content.PixelData = plane.tobytes()
        saved(content, tmp_path / "series" / f"{number}.dcm")
    paths = isocenter.predict(
        trained, [tmp_path / "scan.nii.gz", tmp_path / "series"], tmp_path / "out", device="cpu"
    )
    assert nib.aff2axcodes(nib.load(paths[1]).affine) == ("L", "P", "S")
    store(paths[1], "RAS", paths[1])
    first, second = (nib.load(path) for path in paths)
    assert np.asarray(first.dataobj).any()
    assert np.array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
    assert np.allclose(first.affine, second.affine)


@pytest.fixture
def damaged(blobs: Path, tmp_path: Path) -> Path:
    """A folder of four images, of which the first is cut short and the third flat."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        (folder / f"scan_{number}.nii.gz").write_bytes(_image(blobs, number).read_bytes())
    cut = folder / "scan_0.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-400])
    nib.save(nib.Nifti1Image(np.zeros((8, 8), np.float32), np.eye(4)), folder / "scan_2.nii.gz")
    return folder


def test_images_that_are_damaged_hold_up_no_others(damaged: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Unanswered, match="2 of 4 images could not be answered") as found:
        isocenter.predict(trained, [damaged], out, device="cpu", probabilities=True)
    fault = copy.copy(found.value)  # as a fault comes from another process
    assert [(type(each), each.where) for each in fault.faults] == [
        (UnreadableFile, str(damaged / "scan_0.nii.gz")),
        (BadDataset, str(damaged / "scan_2.nii.gz")),
    ]
    names = {f"scan_{number}{kind}.nii.gz" for number in (1, 3) for kind in ("", "_probabilities")}
    assert {path.name for path in out.iterdir()} == names
    assert fault.answers == (out / "scan_1.nii.gz", out / "scan_3.nii.gz")
    assert all(str(each) in str(fault) for each in fault.faults)
    for number in (0, 2):
        (damaged / f"scan_{number}.nii.gz").write_bytes((damaged / "scan_1.nii.gz").read_bytes())
    (out / "scan_1.nii.gz").write_bytes(b"mine")
    assert len(isocenter.predict(trained, [damaged], out, device="cpu", probabilities=True)) == 4
    assert (out / "scan_1.nii.gz").read_bytes() == b"mine"


def test_of_a_single_image_its_own_fault_is_told(damaged: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile) as fault:
        isocenter.predict(trained, [damaged / "scan_0.nii.gz"], tmp_path / "out", device="cpu")
    assert fault.value.where == str(damaged / "scan_0.nii.gz")
    assert not (tmp_path / "out").exists()


def test_an_image_unlike_those_learnt_from_is_told_from_python_and_for_files_alike(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "wide.nii.gz"
    whole = np.asarray(nib.load(_image(blobs)).dataobj)
    nib.save(nib.Nifti1Image(np.tile(whole, (2, 1, 1)), np.diag([1.0, 1.0, 5.0, 1.0])), wide)
    with pytest.warns(IsocenterWarning) as from_python:
        isocenter.load(trained, device="cpu").predict(wide)
    with pytest.warns(IsocenterWarning) as for_files:
        isocenter.predict(trained, [wide], tmp_path / "out", device="cpu")
    said = [str(each.message) for each in from_python]
    assert said == [str(each.message) for each in for_files]
    assert said == [
        f"{wide}: voxels of 5 mm along axis 0; the model has seen 1.5 … 1.5.",
        f"{wide}: a field of view of 80 mm along axis 0; the model has seen 24 … 24.",
        f"{wide}: a field of view of 40 mm along axis 2; the model has seen 20 … 20.",
    ]
    assert {Path(each.filename).name for each in from_python} == {"test_predict.py"}


def test_of_a_picture_no_field_of_view_is_judged(told_apart: Path) -> None:
    model = isocenter.load(told_apart, device="cpu")
    small = images.read(next((told_apart.parent / "data" / "images").iterdir()))
    wide = images.Image(np.tile(small.array, (1, 3, 3)), images.Geometry.plain((192, 216)))
    assert model.predict(wide).answer.shape == (192, 216)


def test_inputs_of_one_name_are_answered_in_folders_like_their_own(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    for number, folder in enumerate("ab"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "scan.nii.gz").write_bytes(_image(blobs, number).read_bytes())
    paths = isocenter.predict(trained, [tmp_path / "in"], tmp_path / "out", device="cpu", uncertainty=True)
    assert paths == [tmp_path / "out" / folder / "scan.nii.gz" for folder in "ab"]
    assert all(path.with_name("scan_uncertainty.nii.gz").exists() for path in paths)
    assert not np.array_equal(*(np.asarray(nib.load(path).dataobj) for path in paths))
    paths[0].write_bytes(b"mine")
    isocenter.predict(trained, [tmp_path / "in"], tmp_path / "out", device="cpu")
    assert paths[0].read_bytes() == b"mine"


def test_an_empty_folder_is_an_error(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="no readable image"):
        isocenter.predict(trained, [tmp_path], tmp_path / "out", device="cpu")


def test_a_flat_image_for_a_volume_model_is_refused(trained: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "flat.png")
    with pytest.raises(BadDataset, match="axes"):
        isocenter.predict(trained, [tmp_path / "flat.png"], tmp_path / "out", device="cpu")


def test_a_volume_for_a_flat_model_is_refused(blobs: Path, told_apart: Path, tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="the image has 3 axes, the model was trained on 2") as fault:
        isocenter.predict(told_apart, [_image(blobs)], tmp_path, device="cpu")
    assert fault.value.where == str(_image(blobs))
    assert "2 axes" in fault.value.cure


def test_channels_are_counted(blobs: Path, trained: Path) -> None:
    model = isocenter.load(trained, device="cpu")
    with pytest.raises(BadDataset, match="2 channels, the model was trained on 1"):
        model.predict([_image(blobs, 0), _image(blobs, 0)])


def test_a_folder_without_a_plan_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"holds no plan\.json"):
        isocenter.load(tmp_path)


# --------------------------------------------------------------------------------------------- broken models


def test_a_pickle_is_refused_and_never_run(trained: Path, tmp_path: Path) -> None:
    import pickle  # to make the fault

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return (Path.write_text, (tmp_path / "ran", "yes"))  # type: ignore[return-value]

    model = _copy_of(trained, tmp_path / "model")
    weights = model / "fold_0" / "weights.safetensors"
    weights.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(BadModel, match="no other kind is opened"):
        isocenter.load(model, device="cpu")
    torch.save({"a": torch.zeros(1)}, weights)
    with pytest.raises(BadModel, match="no other kind is opened"):
        isocenter.load(model, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [0, 5, 100, -10])
def test_cut_weights_are_refused(trained: Path, tmp_path: Path, size: int) -> None:
    model = _copy_of(trained, tmp_path / "model")
    weights = model / "fold_0" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(BadModel, match="not a whole safetensors file"):
        isocenter.load(model, device="cpu")


def test_a_header_that_lies_is_refused(trained: Path, tmp_path: Path) -> None:
    model = _copy_of(trained, tmp_path / "model")
    weights = model / "fold_0" / "weights.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)
    with pytest.raises(BadModel, match="not a whole safetensors file"):
        isocenter.load(model, device="cpu")
    weights.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(BadModel, match="not a whole safetensors file"):
        isocenter.load(model, device="cpu")


def test_weights_of_another_architecture_are_refused(trained: Path, tmp_path: Path) -> None:
    model = _copy_of(trained, tmp_path / "model")
    plan = Plan.load(model / "plan.json")
    network = plan.stages[0].network
    wider = network.changed(features=tuple(2 * f for f in network.features))
    plan.changed(stages=(plan.stages[0].changed(network=wider),)).save(model / "plan.json")
    with pytest.raises(BadModel, match="another network than the plan describes"):
        isocenter.load(model, device="cpu")


def test_weights_that_are_not_finite_are_refused(trained: Path, tmp_path: Path) -> None:
    model = _copy_of(trained, tmp_path / "model")
    weights = model / "fold_0" / "weights.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(BadModel, match="not finite"):
        isocenter.load(model, device="cpu")


def test_an_answer_that_is_no_number_is_refused(blobs: Path, trained: Path, tmp_path: Path) -> None:
    model = _copy_of(trained, tmp_path / "model")
    weights = model / "fold_0" / "weights.safetensors"
    save_file({name: value * 1e30 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(BadModel, match=r"answer to .*image_0\.nii\.gz is not a finite number") as fault:
        isocenter.predict(model, [_image(blobs)], tmp_path / "out", device="cpu")
    assert fault.value.where == str(model)
    assert "Copy the model again" in fault.value.cure
    assert not (tmp_path / "out").exists()


def test_a_plan_that_does_not_scale_all_channels_is_refused(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    model = isocenter.load(trained, device="cpu")
    for method in model.members[0].methods:
        scaled = method.stage.normalisation.changed(channels=())
        method.stage = method.stage.changed(normalisation=scaled)
    with pytest.raises(BadPlan, match="scale 0 channels"):
        model.predict(_image(blobs))


def test_weights_of_a_newer_version_are_refused(trained: Path, tmp_path: Path) -> None:
    model = _copy_of(trained, tmp_path / "model")
    weights = model / "fold_0" / "weights.safetensors"
    facts = {"isocenter": json.dumps({"format": 99, "isocenter": "9.0"})}
    save_file(load_file(weights), weights, metadata=facts)
    with pytest.raises(BadModel, match=r"newer isocenter \(9\.0\)"):
        isocenter.load(model, device="cpu")


def test_a_plan_with_a_misspelt_key_names_the_right_one(trained: Path, tmp_path: Path) -> None:
    model = _copy_of(trained, tmp_path / "model")
    content = json.loads((model / "plan.json").read_text())
    content["stages"][0]["training"]["bacth"] = 3
    (model / "plan.json").write_text(json.dumps(content))
    with pytest.raises(BadPlan, match="Did you mean 'batch'"):
        isocenter.load(model, device="cpu")


# ------------------------------------------------------------------------------------ what does not suffice


def _hungry(model: stage.Model, asks: Callable[[torch.Tensor], bool]) -> list[int]:
    """Let the networks ask for more memory than there is, as often as `asks` says; gives the batches seen."""
    seen: list[int] = []

    def ask(network: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen.append(len(given[0]))
        if asks(given[0]):
            torch.empty(2**55)

    for method in model.members[0].methods:
        method.modules["network"].register_forward_pre_hook(ask)
    return seen


def _in_tiles(run: Path, batch: int = 4) -> stage.Model:
    """The model of one fold that answers in tiles of 8 × 12 × 12, in single precision."""
    model = stage.Model(stage.Run(run), folds=[0], device="cpu")
    (member,) = model.members
    member.stage = member.stage.changed(
        geometry=member.stage.geometry.changed(patch=(8, 12, 12)),
        prediction=member.stage.prediction.changed(batch=batch),
    )
    member.compute.training = member.compute.training.changed(precision="float32")
    return model


def test_memory_that_runs_out_is_spared_by_fewer_tiles_at_once(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    image = images.read(_image(blobs))
    model = _in_tiles(trained)
    expected = model.outputs([image], tmp_path)[0]["scores"]
    seen = _hungry(model, lambda tiles: len(tiles) > 1)
    with pytest.warns(IsocenterWarning, match="answered in 4 pieces") as told:
        found = model.outputs([image], tmp_path)[0]["scores"]
    assert np.allclose(found, expected, atol=1e-5)
    assert (seen[:3], set(seen[3:])) == ([4, 2, 1], {1})
    assert len(told) == 1
    model.outputs([image], tmp_path)  # nothing is told again


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device beside the CPU that has no memory for any batch."""
    move = Compute.move

    def moved(self: Compute, batch: Batch) -> Batch:
        if self.device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return move(self, batch)

    monkeypatch.setattr(Compute, "move", moved)
    return torch.device("cuda")


def test_a_device_that_is_too_small_is_left_for_the_cpu(
    blobs: Path, trained: Path, small_device: torch.device
) -> None:
    image = images.read(_image(blobs))
    model = _in_tiles(trained, batch=1)
    expected = model.predict(image).answer
    model.members[0].compute.device = small_device
    with pytest.warns(IsocenterWarning, match="answers on the CPU from now on"):
        found = model.predict(image).answer
    assert (found == expected).mean() > 0.99  # the CPU's own precision may be another
    assert model.members[0].compute.device.type == "cpu"


class Doubling(Method):
    """A method that sees images whole, and answers with all of their values twice as large."""

    tiled = False

    def __init__(self) -> None:
        self.modules = torch.nn.ModuleDict()

    def forward(self, inputs: Batch) -> Outputs:
        return {"twice": 2 * inputs["image"]}

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        return {"twice": network({"image": torch.from_numpy(arrays["image"])})["twice"].numpy()}


def test_an_image_that_is_answered_whole_is_left_to_the_cpu_too(
    trained: Path, tmp_path: Path, small_device: torch.device
) -> None:
    planned = stage.Run(trained).plan.stages[0]
    compute = Compute(small_device, planned.training.changed(precision="float32"))
    member = stage.Member(planned, (Doubling(),), compute)
    with pytest.warns(IsocenterWarning, match="answers on the CPU from now on"):
        found = member.outputs({"image": np.ones((1, 3), np.float32)}, tmp_path)
    assert found["twice"].tolist() == [[2, 2, 2]]


def test_a_tile_that_does_not_fit_alone_ends_with_a_cure(blobs: Path, trained: Path) -> None:
    model = _in_tiles(trained)
    _hungry(model, lambda tiles: True)
    with pytest.raises(RunFailed, match="memory ran out") as fault:
        model.predict(_image(blobs))
    assert fault.value.where == str(_image(blobs))
    assert "smaller patch" in fault.value.cure


def test_what_overflows_in_few_bits_is_computed_in_more(blobs: Path, trained: Path, tmp_path: Path) -> None:
    image = images.read(_image(blobs))
    model = _in_tiles(trained)
    (method,) = model.members[0].methods
    method.modules["network"].register_forward_pre_hook(lambda network, given: (given[0] * 1e6,))
    expected = model.outputs([image], tmp_path)[0]["scores"].copy()
    training = model.members[0].compute.training
    model.members[0].compute.training = training.changed(precision="float16")
    with pytest.warns(IsocenterWarning, match="overflows in float16"):
        found = model.outputs([image], tmp_path)[0]["scores"]
    assert np.array_equal(found, expected)


def test_a_class_to_be_explained_needs_a_kind_of_map(trained: Path, blobs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match=r"no kind of map.*--explain"):
        isocenter.predict(trained, [_image(blobs)], tmp_path / "out", explained="core")
    assert not (tmp_path / "out").exists()


def test_an_unknown_class_is_told_before_any_map_is_tested(
    trained: Path, blobs: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadPlan, match=r"knows no class 'cor'.*label_1"):
        isocenter.predict(
            trained, [_image(blobs)], tmp_path / "out", device="cpu", explain=["gradcam"], explained="cor"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mirror", [True, False])
def test_mirrors_that_nothing_is_made_of_are_told(told_apart: Path, tmp_path: Path, mirror: bool) -> None:
    image = told_apart.parent / "data" / "images" / "field_0.png"
    said = "mirrored images has no effect for method instances/watershed: images are answered whole"
    with pytest.warns(IsocenterWarning, match=said) as heard:
        isocenter.predict(told_apart, [image], tmp_path, device="cpu", mirror=mirror)
    assert len(heard) == 1

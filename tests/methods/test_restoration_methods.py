"""Methods of restoration: answers in the file's unit, noise drawn anew only where it may be, end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import isocenter
from isocenter import images, methods
from isocenter.errors import BadDataset, BadModel
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.methods.method import Arrays, Method, Request, Trial
from isocenter.methods.restoration.dictionary import STRENGTHS
from isocenter.methods.restoration.non_local_means import filtered, noise_level
from isocenter.methods.restoring import Restorer, noise_sd
from isocenter.parts.damage.noise import Gaussian, MonteCarlo
from isocenter.parts.damage.writing import Clean, write_dataset
from isocenter.parts.losses.quality import LOSSES
from isocenter.pipeline.run import Run
from isocenter.records import Budget, Channel, Fingerprint, Machine, Plan

KEYS = sorted(methods.catalogue("restoration"))
DOSES = [
    ("restoration/dose_convlstm", "convlstm_3d"),
    ("restoration/dose_convlstm", "convlstm_2d"),
    ("restoration/dose_convlstm", "unet_convlstm"),
    ("restoration/unet", ""),
    ("restoration/bionet", ""),
    ("restoration/pix2pix", ""),
    ("restoration/dictionary", ""),
]

FEW_ATOMS = {"atoms": 32, "patches": 1000}
SETTINGS: dict[str, dict[str, object]] = {"restoration/dictionary": {**FEW_ATOMS}}
"""Of methods whose own would take long here."""

Built = Callable[[str, int], Method]
MACHINE = Machine(device="cpu", name="a test", cores=1, memory_gb=8.0)


def smooth(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Between 0 and 1."""
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.5)
    return np.asarray((values - values.min()) / (values.max() - values.min()), dtype=np.float32)


def pictures(folder: Path, cases: int = 8) -> Path:
    """Smooth pictures in 8 bits with noise of sd 20."""
    clean = [
        Clean(
            f"film_{number}",
            f"p{number}",
            np.round(255 * smooth(44, 40, seed=number)).astype(np.uint8),
            Geometry.plain((44, 40)),
        )
        for number in range(cases)
    ]
    return write_dataset(folder, clean, Gaussian(20))


def doses(folder: Path, cases: int = 6) -> Path:
    """Smooth doses in Gy after growing numbers of particles."""
    grid = Geometry.plain((12, 16, 18), (3.0, 2.5, 2.5))
    clean = [
        Clean(f"plan_{number}", f"p{number}", 60 * smooth(*grid.shape, seed=number), grid)
        for number in range(cases)
    ]
    return write_dataset(folder, clean, MonteCarlo((0.4, 0.25)))


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, with a cache of its own."""
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def planned(data: Path, run: Path, key: str, **settings: object) -> Plan:
    """A plan of one epoch, its network with a few features."""
    overrides = {f"settings.{name}": value for name, value in settings.items()}
    if methods.load(key).turns:
        overrides["training.batch"] = 2
    plan = isocenter.plan(data, method=key, budget="1 epochs", out=run, overrides=overrides)
    stages = []
    for stage in plan.stages:
        network = stage.network
        if network is not None:
            network = network.changed(features=(4,) * len(network.features))
        stages.append(stage.changed(network=network))
    plan = plan.changed(stages=tuple(stages))
    plan.save(run / "plan.json")
    return plan


@pytest.mark.parametrize("key", KEYS)
def test_pictures_go_from_files_to_scores_and_a_report(key: str, cached: Path) -> None:
    data, run = pictures(cached / "data"), cached / "run"
    plan = planned(data, run, key, **SETTINGS.get(key, {}))
    assert plan.settings["answered"] == 1
    scores = isocenter.train(data, run, device="cpu", workers=1)
    assert all(case.failure is None for case in scores.cases)
    assert scores.summary["image"]["data_range"].mean == 255
    case = plan.folds[0].test[0]
    place = Run(run).stage(0, plan.stages[-1].name, len(plan.stages))
    answer = images.read(place / "answers" / f"{case}.tif")
    given = images.read(data / "inputs" / f"{case}.tif")
    assert answer.array.dtype == np.float32
    assert answer.geometry.difference(given.geometry) is None
    (path,) = isocenter.predict(run, [data / "inputs" / f"{case}.tif"], cached / "answers", device="cpu")
    assert np.allclose(images.read(path).array, answer.array, atol=0.05)
    assert "root mean squared error" in isocenter.report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(("key", "variant"), DOSES)
def test_growing_doses_become_one_dose_in_gray(key: str, variant: str, cached: Path) -> None:
    data, run = doses(cached / "data"), cached / "run"
    plan = planned(data, run, key, **SETTINGS.get(key, {}), **({"variant": variant} if variant else {}))
    assert len(plan.channels) == 2
    assert plan.settings["answered"] == 1
    scores = isocenter.train(data, run, device="cpu", workers=1)
    assert scores.summary["image"]["gamma_pass_rate"].n > 0
    answer = images.read(run / "fold_0" / "answers" / f"{plan.folds[0].test[0]}.nii.gz")
    assert answer.array.shape == (1, 12, 16, 18)


def test_methods_are_compared_with_the_input_itself(cached: Path) -> None:
    data = pictures(cached / "data")
    given = cached / "as_it_was"
    given.mkdir()
    for path in (data / "inputs").iterdir():
        (given / path.name).write_bytes(path.read_bytes())
    found = isocenter.compare(
        data, ["restoration/non_local_means", str(given)], cached / "out", budget="1 epochs", device="cpu"
    )
    assert "psnr" in str(found)


@pytest.mark.parametrize("key", [key for key in KEYS if methods.load(key).turns])
def test_a_straight_line_is_undone_by_decoding(key: str, built: Built) -> None:
    method = built(key, 2)
    assert isinstance(method, Restorer)
    scheme = method.stage.normalisation.channels[-1]
    values = (100 * smooth(9, 8)).astype(np.float32)[None]
    placement = Placement(Geometry.plain((12, 10)), (1, 2), (9, 8), (9, 8))
    answer = method.decode({"restored": method.normalised(values)}, placement)
    assert answer.shape == (1, 12, 10)
    assert np.allclose(answer[0, 1:10, 2:10], values[0], atol=1e-3)
    assert not answer[0, 0].any()
    assert (scheme.low, scheme.high) == (-2, 2)


def test_a_residual_is_taken_away_from_the_last_channels(built: Built) -> None:
    method = built("restoration/dncnn", 2)
    assert isinstance(method, Restorer)
    image = torch.randn(1, 1, *method.stage.geometry.patch)
    with torch.inference_mode():
        answer = method.forward({"image": image})["restored"]
        residual = method.modules["network"](image)
    assert torch.allclose(answer, image - residual, atol=1e-6)


def test_several_networks_answer_with_their_mean(built: Built) -> None:
    method = built("restoration/unet", 2)
    placement = Placement(Geometry.plain((4, 5)), (0, 0), (4, 5), (4, 5))
    answers = [({"restored": np.full((1, 4, 5), value, np.float32)}, placement) for value in (1, 4)]
    assert (method.combine(answers)["restored"] == 2.5).all()


def test_white_noise_is_told_from_noise_that_is_not() -> None:
    clean = smooth(64, 64)
    rng = np.random.default_rng(0)
    white = rng.normal(0, 0.1, clean.shape)
    assert noise_sd((clean + white)[None], clean[None])[0] == pytest.approx(0.1, rel=0.05)
    brighter = clean + white * clean * 3
    assert noise_sd(brighter[None], clean[None])[0] == 0
    spread = (white + np.roll(white, 1, axis=0)) / np.sqrt(2)
    assert noise_sd((clean + spread)[None], clean[None])[0] == 0


@pytest.mark.parametrize("white", [True, False])
def test_white_noise_is_drawn_anew_for_every_sample(white: bool, built: Built) -> None:
    method = built("restoration/dncnn", 2)
    assert isinstance(method, Restorer)
    clean = (2 * smooth(64, 64) - 1)[None]
    noise = np.random.default_rng(0).normal(0, 0.2, clean.shape).astype(np.float32)
    noise = noise if white else (noise + np.roll(noise, 1, axis=1)) / np.sqrt(2).astype(np.float32)
    scheme = method.stage.normalisation.channels[0]
    image = (clean + noise - scheme.low) / (scheme.high - scheme.low)
    arrays = method.prepare({"image": image.astype(np.float32), "target": clean})
    size = method.stage.geometry.patch
    request = Request(size, size, foreground=False)
    samples = [method.sample(arrays, np.random.default_rng(seed), request) for seed in (1, 1, 2)]
    assert np.array_equal(samples[0]["image"], samples[1]["image"])
    assert set(samples[0]) == {"image", "target"}
    apart = samples[0]["image"] - samples[0]["target"]
    assert apart.std() == pytest.approx(0.2 / (scheme.high - scheme.low), rel=0.15)
    own = any(
        np.allclose(apart[0, 0, :5], (image - arrays["target"])[0, row, column : column + 5], atol=1e-6)
        for row in range(25)
        for column in range(25)
    )
    assert own != white


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_can_be_planned(name: str, built: Built) -> None:
    method = built("restoration/denoising_autoencoder", 2)
    changed = type(method)(method.plan.changed(settings={**method.plan.settings, "loss": name}), method.stage)
    image = torch.rand(2, 1, *method.stage.geometry.patch)
    assert torch.isfinite(changed.loss({"image": image, "target": image}, "network"))


def test_the_level_of_white_noise_is_found_under_an_image() -> None:
    clean = smooth(96, 96)
    for sd in (0.02, 0.1):
        noisy = clean + np.random.default_rng(0).normal(0, sd, clean.shape)
        assert noise_level(noisy) == pytest.approx(sd, rel=0.1)
    assert noise_level(np.random.default_rng(0).normal(0, 3, (20, 20, 20))) == pytest.approx(3, rel=0.1)
    assert noise_level(np.zeros((5, 5))) == 0
    assert noise_level(np.zeros((2, 2))) == 0


@pytest.mark.parametrize("name", ["non_local_means", "total_variation"])
def test_classic_filters_come_nearer_to_the_clean_image(name: str) -> None:
    clean = smooth(48, 48)
    noisy = (clean + np.random.default_rng(0).normal(0, 0.1, clean.shape)).astype(np.float32)
    answer = filtered(noisy[None], name, 0.8)[0]
    assert np.mean((answer - clean) ** 2) < 0.5 * np.mean((noisy - clean) ** 2)
    assert np.array_equal(filtered(np.ones((1, 8, 8), np.float32), name, 0.8)[0], np.ones((8, 8)))


def test_a_grey_target_of_colour_is_answered_with_as_many_channels(built: Built) -> None:
    method = built("restoration/dncnn", 2)
    channels = tuple(Channel(name=name) for name in ("red", "green"))
    schemes = tuple(method.stage.normalisation.channels[0].changed(channel=c.name) for c in channels)
    stage = method.stage.changed(normalisation=method.stage.normalisation.changed(channels=schemes))
    settings = {**method.plan.settings, "answered": 2}
    plan = method.plan.changed(channels=channels, stages=(stage,), settings=settings)
    two = type(method)(plan, stage)
    assert dict(two.outputs) == {"restored": 2}
    assert two.forward({"image": torch.rand(1, 2, 16, 16)})["restored"].shape == (1, 2, 16, 16)


@pytest.mark.parametrize("variant", ["cnn_mse", "wgan_mse", "cnn_vgg", "wgan_vgg", "wgan", "gan"])
def test_all_six_variants_learn_by_the_turns_they_have(variant: str, built: Built) -> None:
    planned_method = built("restoration/ldct", 2)
    plan = planned_method.plan.changed(settings={**planned_method.plan.settings, "variant": variant})
    method = type(planned_method)(plan, planned_method.stage)
    adversary = not variant.startswith("cnn")
    assert set(method.turns) == ({"generator", "critic"} if adversary else {"generator"})
    assert set(method.modules) == set(method.turns)
    patch = method.stage.geometry.patch
    batch = {"image": torch.rand(2, 1, *patch), "target": torch.rand(2, 1, *patch)}
    for turn in method.turns:
        method.modules.zero_grad()
        loss = method.loss(batch, turn)
        assert torch.isfinite(loss)
        torch.autograd.backward(loss)
        taught = {
            name
            for name, network in method.modules.items()
            if any(weight.grad is not None for weight in network.parameters())
        }
        assert turn in taught
        assert "generator" not in taught or turn == "generator"
    with torch.no_grad():
        assert torch.isfinite(method.loss(batch, next(iter(method.turns))))


def test_the_critic_takes_four_steps_for_each_of_the_generator_s(built: Built) -> None:
    from isocenter.pipeline.learn import turn_of

    method = built("restoration/ldct", 2)
    assert [turn_of(method.turns, step) for step in range(6)] == ["generator", *["critic"] * 4, "generator"]
    assert method.stage.training.momentum == 0.5


def test_a_dose_is_seen_step_by_step(built: Built) -> None:
    method = built("restoration/dose_convlstm", 3)
    sequence = torch.rand(1, 4, 6, 7, 8)
    with torch.inference_mode():
        given = method.forward({"image": sequence})["restored"]
        other = method.forward({"image": sequence.flip(1)})["restored"]
    assert given.shape == (1, 1, 6, 7, 8)
    assert not torch.allclose(given, other)


@pytest.mark.parametrize(
    ("variant", "kernel", "levels"),
    [("convlstm_3d", (3, 3, 3), 1), ("convlstm_2d", (1, 3, 3), 1), ("unet_convlstm", (3, 3, 3), 4)],
)
def test_each_variant_of_the_dose_s_network_plans_its_own(
    variant: str, kernel: tuple[int, ...], levels: int, measured: Callable[[str, int], Fingerprint]
) -> None:
    key = "restoration/dose_convlstm"
    kind = methods.load(key)
    settings = kind.Settings.parse({"variant": variant}, where="settings")
    (stage,) = kind.configure(measured(key, 3), Budget(epochs=1), MACHINE, None, settings)
    assert stage.unet.kernels[0] == kernel
    assert len(stage.unet.features) == levels


def test_bionet_is_gone_through_as_often_as_planned(built: Built) -> None:
    method = built("restoration/bionet", 3)
    assert method.settings.iterations == 3  # type: ignore[attr-defined]
    once = type(method)(method.plan.changed(settings={**method.plan.settings, "iterations": 1}), method.stage)
    assert once.modules["network"].iterations == 1
    image = torch.rand(1, 1, *method.stage.geometry.patch)
    with torch.inference_mode():
        assert once.forward({"image": image})["restored"].shape == image.shape


def test_pix2pix_alternates_generator_and_critic_and_each_teaches_its_own(built: Built) -> None:
    from isocenter.pipeline.learn import turn_of

    method = built("restoration/pix2pix", 3)
    assert [turn_of(method.turns, step) for step in range(4)] == ["network", "critic", "network", "critic"]
    assert method.stage.training.momentum == 0.5
    patch = method.stage.geometry.patch
    batch = {"image": torch.rand(2, 1, *patch), "target": torch.rand(2, 1, *patch)}
    for turn, others in (("network", ()), ("critic", ("network",))):
        method.modules.zero_grad()
        torch.autograd.backward(method.loss(batch, turn))
        for name, network in method.modules.items():
            taught = any(weight.grad is not None for weight in network.parameters())
            assert taught or name != turn
            assert not taught or name not in others


def test_pix2pix_weighs_the_distance_beside_the_critic(built: Built) -> None:
    planned_method = built("restoration/pix2pix", 2)
    patch = planned_method.stage.geometry.patch
    batch = {"image": torch.rand(2, 1, *patch), "target": torch.rand(2, 1, *patch)}
    found = []
    for fidelity in (0.0, 1.0, 200.0):
        plan = planned_method.plan.changed(settings={**planned_method.plan.settings, "fidelity": fidelity})
        method = type(planned_method)(plan, planned_method.stage)
        method.modules.load_state_dict(planned_method.modules.state_dict())
        method.modules.eval()
        with torch.no_grad():
            found.append(float(method.loss(batch, "network")))
            away = float((method.forward(batch)["restored"] - batch["target"]).abs().mean())
    assert found[1] - found[0] == pytest.approx(away, rel=1e-4)
    assert found[2] - found[0] == pytest.approx(200 * away, rel=1e-4)


def learnt_dictionary(built: Built, dims: int, sd: float = 0.1) -> Method:
    """A dictionary of a few cases, their images white noise away from their targets."""
    planned_method = built("restoration/dictionary", dims)
    plan = planned_method.plan.changed(settings={**planned_method.plan.settings, **FEW_ATOMS, "sparsity": 3})
    method = type(planned_method)(plan, planned_method.stage)
    rng, cases = np.random.default_rng(0), dict[str, Arrays]()
    for number in range(3):
        target = smooth(*(30,) * dims, seed=number)[None]
        cases[str(number)] = {"image": target + rng.normal(0, sd, target.shape), "target": target}
    method.gather(cases)
    return method


@pytest.mark.parametrize("dims", [2, 3])
def test_a_dictionary_of_good_images_takes_noise_from_others(dims: int, built: Built) -> None:
    method = learnt_dictionary(built, dims)
    assert {name: value.shape for name, value in method.state().items()} == {
        "atoms": (32, *{2: (8, 8), 3: (4, 4, 4)}[dims]),
        "sd": (1,),
    }
    assert method.state()["sd"][0] == pytest.approx(0.1, rel=0.1)
    clean = smooth(*(30,) * dims, seed=9)
    noisy = (clean + np.random.default_rng(5).normal(0, 0.1, clean.shape)).astype(np.float32)
    method.tuned = {"strength": 1.15}
    (answer,) = method.respond({"image": noisy[None]}, lambda batch: batch)["options"]
    assert answer.shape == (1, *clean.shape)
    assert np.mean((answer[0] - clean) ** 2) < 0.3 * np.mean((noisy - clean) ** 2)


def test_a_dictionary_lasts_beside_the_weights(built: Built) -> None:
    method = learnt_dictionary(built, 2)
    again = type(method)(method.plan, method.stage)
    again.load({name: np.array(value) for name, value in method.state().items()})
    image = {"image": smooth(12, 12)[None]}
    given, same = (each.respond(image, lambda batch: batch)["options"] for each in (method, again))
    assert np.array_equal(given, same)
    with pytest.raises(BadModel, match="atoms are not whole"):
        again.load({})


def test_targets_without_structure_teach_no_atoms(built: Built) -> None:
    method = built("restoration/dictionary", 2)
    flat = np.ones((1, 16, 16), np.float32)
    with pytest.raises(BadDataset, match="no atoms to be learnt"):
        method.gather({"a": {"image": flat, "target": flat}})


def test_the_strength_that_errs_least_is_chosen(built: Built) -> None:
    method = learnt_dictionary(built, 2)
    scheme = method.stage.normalisation.channels[0]
    placement = Placement(Geometry.plain((30, 30)), (0, 0), (30, 30), (30, 30))
    clean = smooth(30, 30, seed=9)
    noisy = (clean + np.random.default_rng(5).normal(0, 0.1, clean.shape)).astype(np.float32)[None]
    outputs = method.respond({"image": noisy}, lambda batch: batch)
    truth = Image((clean * (scheme.high - scheme.low) + scheme.low)[None], Geometry.plain((30, 30)))
    errors = np.mean((outputs["options"][:, 0] - clean) ** 2, axis=(1, 2))
    assert method.tune(lambda: iter([Trial(outputs, placement, truth)])) == {
        "strength": STRENGTHS[int(errors.argmin())]
    }
    assert method.tune(lambda: iter([])) == {}

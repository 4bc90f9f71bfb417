"""Methods about bags: any order and any size of bag, what they attend to, and runs from files to reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

import isocenter
from isocenter import methods
from isocenter.errors import BadDataset, BadModel, BadPlan, IsocenterWarning
from isocenter.images.formats import slide
from isocenter.methods import slides as tiles
from isocenter.methods.bags import BagMethod, BagSettings
from isocenter.methods.classes import plain_network
from isocenter.methods.method import Trial
from isocenter.methods.mil.clam import Clam
from isocenter.methods.mil.prompt_mil import PromptMil
from isocenter.parts.networks.bag_heads import DualStream, extremes
from isocenter.parts.networks.distillation import SelfDistillation
from isocenter.parts.networks.resnet import ResNet
from isocenter.parts.rules import bags as rules
from isocenter.phantoms import slides as phantoms
from isocenter.records import (
    Budget,
    CaseMeasure,
    Channel,
    Fingerprint,
    Intensities,
    Label,
    Machine,
    Plan,
    Scores,
)
from isocenter.tasks.bag_files import Attended
from isocenter.tasks.class_files import Classified

MACHINE = Machine(device="cpu", name="a test", cores=1, memory_gb=8.0)
OF_FEATURES = ("mil/abmil", "mil/clam", "mil/dsmil", "mil/mil_pooling")
CLASSES = ("normal", "tumour")


def fingerprint(names: tuple[str, ...] = CLASSES, *, features: bool = True, width: int = 6) -> Fingerprint:
    """Twelve bags of ten instances; or slides of a square millimetre."""
    shape = (10, width) if features else (125, 125)
    step = 1.0 if features else 0.008
    kinds = (
        (Channel(name="features", modality="features"),)
        if features
        else tuple(Channel(name=name, modality="colour") for name in ("red", "green", "blue"))
    )
    return Fingerprint(
        task="mil",
        dataset="tiny",
        dims=2,
        channels=kinds,
        labels=tuple(Label(name=name, values=(place,)) for place, name in enumerate(names, start=1)),
        intensities=tuple(
            Intensities(
                channel=kind.name,
                modality=kind.modality,
                mean=0,
                sd=1,
                median=0,
                low=-2,
                high=2,
                minimum=0,
                maximum=255,
            )
            for kind in kinds
        ),
        cases=tuple(
            CaseMeasure(
                id=str(number),
                shape=shape,
                cropped_shape=shape,
                spacing_mm=(step, step),
                components={name: int(number % len(names) == at) for at, name in enumerate(names)},
                content=str(number),
            )
            for number in range(12)
        ),
        median_shape=(float(shape[0]), float(shape[1])),
        median_spacing_mm=(step, step),
    )


def planned(key: str, measured: Fingerprint, **settings: Any) -> BagMethod:
    kind = methods.load(key)
    chosen, _ = kind.decide(measured, kind.Settings.parse(settings))
    stages = kind.configure(measured, Budget(epochs=1), MACHINE, None, chosen)
    plan = Plan(
        isocenter=isocenter.__version__,
        task="mil",
        method=key,
        seed=0,
        budget=Budget(epochs=1),
        machine=MACHINE,
        dims=2,
        channels=measured.channels,
        labels=measured.labels,
        stages=stages,
        folds=(),
        settings=chosen.model_dump(mode="json"),
    )
    torch.manual_seed(0)
    return cast(BagMethod, kind(plan, stages[0]))


def said(method: BagMethod, bag: Tensor) -> tuple[Tensor, Tensor]:
    method.modules.eval()
    with torch.inference_mode():
        found = method.forward({"bag": bag[None]})
    return found["scores"][0], found["attention"][0]


# ------------------------------------------------------------------------------------------------- any bag


@pytest.mark.parametrize("key", OF_FEATURES)
def test_the_order_of_instances_does_not_matter(key: str) -> None:
    method = planned(key, fingerprint())
    bag = torch.randn(9, 6)
    order = torch.randperm(9)
    scores, attention = said(method, bag)
    turned, moved = said(method, bag[order])
    assert torch.allclose(scores, turned, atol=1e-5)
    assert torch.allclose(attention[:, order], moved, atol=1e-5)
    assert float(scores.sum()) == pytest.approx(1)


@pytest.mark.parametrize("key", OF_FEATURES)
@pytest.mark.parametrize("size", [1, 2, 3, 40])
@pytest.mark.parametrize("names", [CLASSES, ("a", "b", "c")])
def test_bags_of_any_size_are_learnt_from(key: str, size: int, names: tuple[str, ...]) -> None:
    method = planned(key, fingerprint(names))
    method.modules.train()
    classes = torch.zeros(2, len(names))
    classes[:, -1] = 1
    loss = method.loss({"bag": [torch.randn(size, 6), torch.randn(5, 6)], "classes": classes}, "network")
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own is untyped
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in method.modules.parameters())


def test_classes_that_nobody_knows_are_not_learnt_from() -> None:
    measured = fingerprint()
    several = measured.changed(
        cases=tuple(case.changed(components={"normal": 1, "tumour": 1}) for case in measured.cases)
    )
    method = planned("mil/abmil", several)
    assert method.settings.exclusive is False
    logits = torch.tensor([2.0, -1.0])
    known = method.judged(logits, torch.tensor([1.0, float("nan")]))
    assert float(known) == pytest.approx(float(torch.nn.functional.softplus(torch.tensor(-2.0))))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("normal", "tumour"), "tumour"),
        (("tumour", "wild type"), "tumour"),
        (("musk", "non-musk"), "musk"),
        (("0", "1"), "1"),
        (("IDC", "ILC"), "ILC"),
    ],
)
def test_of_two_classes_the_one_that_asserts_something_is_looked_for(
    names: tuple[str, str], expected: str
) -> None:
    assert rules.positive(fingerprint(names))[0] == expected


def test_the_class_that_is_looked_for_has_a_threshold_of_its_own() -> None:
    method = planned("mil/abmil", fingerprint())
    scores = np.linspace(0.02, 0.6, 30)
    truth = (scores > 0.3).astype(float)
    pairs = zip(scores, truth, strict=True)
    trials = [
        Trial({"scores": np.array([1 - s, s])}, None, Classified("a", CLASSES, np.array([1 - t, t]), True))  # type: ignore[arg-type]
        for s, t in pairs
    ]
    method.tuned = method.tune(lambda: iter(trials))
    assert method.tuned["of"] == CLASSES[1]
    assert method.tuned["threshold"] == pytest.approx(0.3, abs=0.01)
    answer = method.decode({"scores": np.array([0.6, 0.4]), "attention": np.ones((1, 2))}, None)  # type: ignore[arg-type]
    assert answer.chosen is not None
    assert answer.chosen.tolist() == [False, True]


def test_a_planted_instance_is_attended_to() -> None:
    method = planned("mil/abmil", fingerprint(), hidden=(16,), dropout=0.0)
    rng = np.random.default_rng(0)
    bags, classes, places = [], [], []
    for number in range(24):
        bag = rng.standard_normal((10, 6)).astype(np.float32)
        places.append(int(rng.integers(10)))
        bag[places[-1], 0] = 6.0 * (number % 2)
        bags.append(torch.from_numpy(bag))
        classes.append(torch.tensor([1.0 - number % 2, float(number % 2)]))
    optimiser = torch.optim.Adam(method.modules.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        method.loss({"bag": bags, "classes": torch.stack(classes)}, "network").backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    found = [said(method, bag) for bag in bags]
    assert all((scores.argmax() == number % 2) for number, (scores, _) in enumerate(found))
    assert all(found[n][1][0].argmax() == places[n] for n in range(1, 24, 2))


# ------------------------------------------------------------------------------------- single methods' own


@pytest.mark.parametrize(
    ("size", "most", "least"), [(1, 1, 0), (2, 1, 1), (5, 2, 2), (16, 8, 8), (100, 8, 8)]
)
def test_clam_takes_from_a_small_bag_what_it_has(size: int, most: int, least: int) -> None:
    attention = torch.rand(size)
    high, low = extremes(attention, 8)
    assert (len(high), len(low)) == (most, least)
    assert not set(high.tolist()) & set(low.tolist())
    assert high[0] == attention.argmax()


@pytest.mark.parametrize("branches", ["single", "multi"])
def test_clam_attends_for_all_classes_or_for_each(branches: str) -> None:
    method = planned("mil/clam", fingerprint(("a", "b", "c")), branches=branches)
    scores, attention = said(method, torch.randn(7, 6))
    assert attention.shape == (1 if branches == "single" else 3, 7)
    assert torch.allclose(attention.sum(1), torch.ones(len(attention)), atol=1e-5)
    assert scores.shape == (3,)
    assert cast(Clam, method).attended == (("all",) if branches == "single" else ("a", "b", "c"))


def test_the_second_stream_weighs_instances_by_likeness_to_the_critical_one() -> None:
    torch.manual_seed(0)
    stream = DualStream(torch.nn.Identity(), 4, 1, 3)
    bag = torch.randn(6, 4)
    with torch.no_grad():
        first, second, attention = stream.streams(bag)
        scores = stream.instance(bag)[:, 0]
        queries = stream.query(bag)
        likeness = torch.softmax(queries @ queries[scores.argmax()] / 3**0.5, dim=0)
        by_hand = stream.heads[0]((likeness[:, None] * stream.value(bag)).sum(0))
    assert float(first[0]) == pytest.approx(float(scores.max()))
    assert torch.allclose(attention[0], likeness, atol=1e-6)
    assert torch.allclose(second, by_hand, atol=1e-5)


@pytest.mark.parametrize(("trained", "learns"), [("nothing", 0), ("prompt", 192), ("full", None)])
def test_only_the_prompt_learns_beside_the_head(trained: str, learns: int | None) -> None:
    method = planned("mil/prompt_mil", fingerprint(features=False), trained=trained, tile=32, pretrain=0)
    network = cast(PromptMil, method).network
    backbone = sum(p.numel() for p in network.backbone.parameters())
    free = [*network.backbone.parameters(), network.prompt]
    count = sum(p.numel() for p in free if p.requires_grad)
    assert count == (backbone if learns is None else learns)
    method.modules.train()
    tiles_of = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    loss = method.loss({"bag": [tiles_of], "classes": torch.tensor([[0.0, 1.0]])}, "network")
    loss.backward()  # type: ignore[no-untyped-call]
    moved = sum(p.numel() for p in free if p.grad is not None and p.grad.abs().sum() > 0)
    assert (moved > 0) == (learns != 0)


@pytest.mark.parametrize("head", ["abmil", "dsmil", "clam"])
@pytest.mark.parametrize("names", [CLASSES, ("a", "b", "c")])
def test_the_last_block_learns_under_each_published_head(head: str, names: tuple[str, ...]) -> None:
    measured = fingerprint(names, features=False)
    method = planned("mil/prompt_mil", measured, trained="last", head=head, tile=32, pretrain=0)
    method.modules.train()
    tiles_of = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    classes = torch.zeros(1, len(names))
    classes[0, -1] = 1
    method.loss({"bag": [tiles_of], "classes": classes}, "network").backward()  # type: ignore[no-untyped-call]
    backbone = cast(PromptMil, method).network.backbone
    moved = [name for name, p in backbone.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert moved
    assert all(name.startswith("blocks.3.") for name in moved)
    scores, attention = said(method, tiles_of)
    assert float(scores.sum()) == pytest.approx(1, abs=1e-5)
    assert attention.shape == (len(method.attended), 5)
    assert torch.allclose(attention.sum(1), torch.ones(len(attention)), atol=1e-5)


@pytest.mark.parametrize("head", ["abmil", "dsmil", "clam"])
def test_a_head_behind_the_transformer_is_the_one_of_its_own_method(head: str) -> None:
    measured = fingerprint(width=192)
    behind = cast(PromptMil, planned("mil/prompt_mil", fingerprint(features=False), head=head, tile=32)).head
    alone = planned(f"mil/{head}", measured, hidden=(192,))
    alone.modules["network"].load_state_dict(behind.state_dict())
    features, classes = torch.randn(7, 192), torch.tensor([0.0, 1.0])
    behind.eval()
    alone.modules.eval()
    expected = alone.bag_loss(features, classes)
    assert torch.equal(behind.loss(features, classes, lambda logits: alone.judged(logits, classes)), expected)


def some_tiles(count: int = 6) -> dict[str, Any]:
    tiles_of = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return {"bag": [tiles_of], "classes": torch.tensor([[0.0, 1.0]])}


def learnt(method: BagMethod, batch: dict[str, Any]) -> set[str]:
    """Which parameters one loss reaches, as far as a run's optimiser owns them."""
    method.modules.zero_grad(set_to_none=True)
    method.loss(batch, "network").backward()  # type: ignore[no-untyped-call]
    return {name for name, p in method.modules.named_parameters() if p.requires_grad and p.grad is not None}


def test_the_transformer_learns_first_and_what_asks_it_then() -> None:
    method = cast(PromptMil, planned("mil/prompt_mil", fingerprint(features=False), tile=32))
    method.modules.train()
    assert method.settings.pretrain == 0.5
    assert method.turns["network"].modules == ("network", "pretraining")
    batch = some_tiles()
    optimiser = torch.optim.SGD([p for p in method.modules.parameters() if p.requires_grad], lr=0.1)
    before = {name: p.clone() for name, p in method.network.backbone.named_parameters()}

    def moved() -> bool:
        return any(not torch.equal(p, before[n]) for n, p in method.network.backbone.named_parameters())

    method.progress = 0.1
    assert {name.split(".")[0] for name in learnt(method, batch)} == {"pretraining"}
    optimiser.step()
    assert not moved()
    method.observe(batch)
    assert moved()
    before = {name: p.clone() for name, p in method.network.backbone.named_parameters()}
    method.progress = 0.5
    assert {name.split(".")[1] for name in learnt(method, batch)} == {"prompt", "head"}
    optimiser.step()
    method.observe(batch)
    assert not moved()


def test_pretraining_asks_for_no_label() -> None:
    method = planned("mil/prompt_mil", fingerprint(features=False), tile=32)
    method.modules.train()
    batch, losses = some_tiles(), []
    centre = cast(SelfDistillation, method.modules["pretraining"]).centre
    for classes in ([0.0, 1.0], [1.0, 0.0], [float("nan")] * 2):
        centre.zero_()
        torch.manual_seed(1)
        losses.append(float(method.loss({**batch, "classes": torch.tensor([classes])}, "network").detach()))
    assert losses[0] == losses[1] == losses[2]


def test_weights_that_are_given_are_not_pretrained(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tiles.encoder("vit", 32, None).state_dict(), tmp_path / "vit.safetensors")
    given = str(tmp_path / "vit.safetensors")
    method = cast(PromptMil, planned("mil/prompt_mil", fingerprint(features=False), tile=32, weights=given))
    assert method.settings.pretrain == 0
    assert set(method.modules) == set(method.turns["network"].modules) == {"network"}
    kind = methods.load("mil/prompt_mil")
    _, why = kind.decide(fingerprint(features=False), kind.Settings.parse({"weights": given}))
    assert "has weights already" in why["pretrain"]


def test_prompts_are_refused_for_features() -> None:
    with pytest.raises(BadPlan, match="these bags are features already"):
        planned("mil/prompt_mil", fingerprint())


# ------------------------------------------------------------------------------------------- from the files


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path_factory.mktemp("cache")))


def bags_in(folder: Path) -> Path:
    """Ten bags of a few instances with places; of five, one instance stands out."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["bag,label"]
    for number in range(10):
        bag = rng.standard_normal((3 + number, 5)).astype(np.float32)
        bag[0] += 5 * (number % 2)
        coords = np.array([[64.0 * place, 0.0] for place in range(len(bag))])
        np.savez(folder / f"bag_{number}.npz", features=bag, coords=coords, edge=64)
        rows.append(f"bag_{number}.npz,{CLASSES[number % 2]}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("key", OF_FEATURES)
def test_a_run_on_bags_goes_from_files_to_a_report(key: str, tmp_path: Path) -> None:
    data = isocenter.open(bags_in(tmp_path / "data"))
    run = tmp_path / "run"
    scores = isocenter.train(data, run, method=key, budget="2 epochs", device="cpu", workers=1)
    assert {"accuracy", "brier"} <= set(scores.summary["all"])
    assert isocenter.report(run).read_text().count("instances") > 0
    answered = isocenter.load(run, device="cpu").predict(tmp_path / "data" / "bag_3.npz")
    assert isinstance(answered.answer, Attended)
    assert answered.answer.scores.sum() == pytest.approx(1)
    answered.save(tmp_path / "bag_3.json")
    lines = (tmp_path / "bag_3_attention.csv").read_text().splitlines()
    assert len(lines) == 1 + 6
    assert lines[2].startswith("1,64,0,")
    with pytest.warns(IsocenterWarning, match="8 truths without an answer"):
        judged = isocenter.evaluate(
            run / "fold_0" / "answers",
            tmp_path / "data" / "manifest.csv",
            tmp_path / "judged",
            missing="empty",
        )
    assert isinstance(judged, Scores)


def test_bags_of_another_width_are_refused(tmp_path: Path) -> None:
    data = bags_in(tmp_path / "data")
    run = tmp_path / "run"
    isocenter.train(isocenter.open(data), run, method="mil/abmil", budget="1 epochs", device="cpu", workers=1)
    np.save(tmp_path / "other.npy", np.zeros((3, 4), dtype=np.float32))
    with pytest.raises(BadDataset, match="4 features where 5 are due"):
        isocenter.load(run, device="cpu").predict(tmp_path / "other.npy")


@pytest.mark.parametrize(
    ("key", "settings"),
    [("mil/abmil", {}), ("mil/prompt_mil", {"settings.tile": 64, "settings.most_tiles": 4})],
)
def test_a_run_on_slides_says_where_it_looked(key: str, settings: dict[str, object], tmp_path: Path) -> None:
    data = isocenter.open(phantoms.write_dataset(tmp_path / "data", 10, shape=(512, 512)))
    run = tmp_path / "run"
    isocenter.train(data, run, method=key, budget="1 epochs", device="cpu", workers=1, overrides=settings)
    names = {path.name for path in (run / "fold_0" / "answers").iterdir()}
    case = next(name for name in names if name.endswith(".json")).removesuffix(".json")
    assert {f"{case}.geojson", f"{case}_attention.csv", f"{case}_attention.png"} <= names
    assert "red those that counted most" in isocenter.report(run).read_text()


def test_pretraining_sees_the_training_slides_alone_and_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    data = isocenter.open(phantoms.write_dataset(tmp_path / "data", 10, shape=(512, 512)))
    seen: set[bytes] = set()
    own = SelfDistillation.loss

    def watched(self: SelfDistillation, teacher: Any, given: Tensor) -> Tensor:
        seen.update(row.tobytes() for row in given.numpy())
        return own(self, teacher, given)

    monkeypatch.setattr(SelfDistillation, "loss", watched)
    run = tmp_path / "run"
    settings: dict[str, Any] = {"settings.tile": 32, "settings.mpp": 2.0, "settings.trained": "nothing"}
    isocenter.train(
        data, run, method="mil/prompt_mil", budget="4 epochs", device="cpu", workers=1, overrides=settings
    )
    fold = Plan.load(run / "plan.json").folds[0]

    def of(case: str) -> set[bytes]:
        image = slide.overview(tmp_path / "data" / "slides" / f"{case}.tif")
        bag = tiles.tiles(image, BagSettings(tile=32, mpp=2.0))["bag"]
        return {row.tobytes() for row in tiles.normalised(torch.from_numpy(bag)).numpy()}

    assert seen <= set().union(*(of(case) for case in fold.train))
    assert not seen & set().union(*(of(case) for case in (*fold.test, *fold.validation)))
    # Whoever takes the run's encoder gets the teacher, which is no longer the random one.
    held = load_file(run / "fold_0" / "weights.safetensors")
    found, random = (tiles.encoder("vit", 32, source) for source in (str(run), None))
    assert all(torch.equal(p, held[f"network.backbone.{n}"]) for n, p in found.named_parameters())
    assert any(not torch.equal(p, random.get_parameter(n)) for n, p in found.named_parameters())


def test_features_of_a_slide_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantoms.write_slide(
        phantoms.make(np.random.default_rng(0), tumour=True, shape=(512, 512)), tmp_path / "a.tif"
    )
    image, settings = slide.overview(tmp_path / "a.tif"), BagSettings()
    first = tiles.features(image, settings)
    assert first["bag"].shape == (len(first["coords"]), tiles.width_of("texture"))

    def never(*_: object) -> None:
        raise AssertionError("features were made twice")

    monkeypatch.setattr(tiles, "_made", never)
    assert np.array_equal(tiles.features(image, settings)["bag"], first["bag"])
    with pytest.raises(AssertionError):
        tiles.features(image, settings.changed(mpp=2.0))


def published(kind: str, path: Path, seed: int = 0) -> ResNet:
    """A whole ResNet, random, in evaluation mode, whose weights lie in a file under torchvision's names."""
    from safetensors.torch import save_file

    counts = (2, 2, 2, 2) if kind == "resnet18" else (3, 4, 6, 3)
    plan = plain_network([64, 128, 256, 512], ((4, 4), (2, 2), (2, 2), (2, 2)), counts)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ResNet(plan, 3, 10, bottleneck=kind == "resnet50")
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # what was measured, and each block's last scale
                module.running_mean = torch.randn(module.num_features) / 10
                torch.nn.init.ones_(module.weight)
    save_file(network.state_dict(), path)
    return network.eval()


@pytest.mark.parametrize(("kind", "width"), [("resnet18", 256), ("resnet50", 1024)])
def test_a_published_resnet_sees_tiles_as_imagenet_up_to_its_third_level(
    kind: str, width: int, tmp_path: Path
) -> None:
    whole = published(kind, tmp_path / "weights.safetensors")
    colours = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    mean, sd = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    encoder = tiles.encoder(kind, 64, str(tmp_path / "weights.safetensors"))
    with torch.inference_mode():
        maps = whole.maxpool(whole.relu(whole.bn1(whole.conv1((colours / 255 - mean) / sd))))
        for level in ("layer1", "layer2", "layer3"):
            maps = whole.get_submodule(level)(maps)
        found = encoder(tiles.normalised(colours))
    assert found.shape == (2, width) == (2, tiles.width_of(kind))
    torch.testing.assert_close(found, maps.mean(dim=(2, 3)), rtol=1e-3, atol=1e-3)


def test_a_plan_says_which_encoder_makes_features_and_why(tmp_path: Path) -> None:
    slides, kind = fingerprint(features=False), methods.load("mil/abmil")
    _, why = kind.decide(slides, kind.Settings())
    assert "need no learning" in why["encoder"]
    published("resnet18", tmp_path / "weights.safetensors")
    wanted = {"encoder": "resnet18", "weights": str(tmp_path / "weights.safetensors")}
    chosen, why = kind.decide(slides, kind.Settings.parse(wanted))
    assert "third level as CLAM" in why["encoder"]
    (stage,) = kind.configure(slides, Budget(epochs=1), MACHINE, None, chosen)
    assert stage.geometry.patch[1] == 256
    assert "encoder" not in kind.decide(fingerprint(), kind.Settings())[1]


def test_a_resnet_without_its_own_published_weights_is_refused_while_planning(tmp_path: Path) -> None:
    slides, kind = fingerprint(features=False), methods.load("mil/abmil")
    with pytest.raises(BadModel, match="learnt nothing"):
        kind.decide(slides, kind.Settings.parse({"encoder": "resnet50"}))
    published("resnet18", tmp_path / "weights.safetensors")
    given = {"encoder": "resnet50", "weights": str(tmp_path / "weights.safetensors")}
    with pytest.raises(BadModel, match=r"are not in it.*settings\.encoder"):
        kind.decide(slides, kind.Settings.parse(given))


def test_features_follow_the_weights_content_not_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phantoms.write_slide(
        phantoms.make(np.random.default_rng(0), tumour=True, shape=(512, 512)), tmp_path / "a.tif"
    )
    image = slide.overview(tmp_path / "a.tif")
    one, copy, other = (tmp_path / f"{name}.safetensors" for name in ("one", "copy", "other"))
    published("resnet18", one)
    copy.write_bytes(one.read_bytes())
    published("resnet18", other, seed=1)
    settings = BagSettings(encoder="resnet18", weights=str(one))
    first = tiles.features(image, settings)["bag"]
    assert first.shape[1] == 256
    made = tiles._made
    again: list[str] = []
    monkeypatch.setattr(tiles, "_made", lambda *given: again.append("made") or made(*given))
    assert np.array_equal(tiles.features(image, settings.changed(weights=str(copy)))["bag"], first)
    assert not again
    assert not np.array_equal(tiles.features(image, settings.changed(weights=str(other)))["bag"], first)
    assert again == ["made"]


def test_an_encoder_takes_the_weights_of_a_run_whatever_stands_before_their_names(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(5)
    trained = tiles.ENCODERS["texture"]()
    held = {f"network.backbone.{name}": value for name, value in trained.state_dict().items()}
    (tmp_path / "fold_0").mkdir()
    save_file(held, tmp_path / "fold_0" / "weights.safetensors")
    found = tiles.encoder("texture", 128, str(tmp_path))
    assert all(
        torch.equal(value, held[f"network.backbone.{name}"]) for name, value in found.state_dict().items()
    )
    with pytest.raises(BadModel, match="does not hold the weights of this encoder"):
        tiles.encoder("vit", 128, str(tmp_path))

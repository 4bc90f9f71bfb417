"""DenseNets and ResNets bear the names, shapes and numbers of weights under which they are published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from isocenter.errors import BadModel
from isocenter.methods.classes import plain_network
from isocenter.methods.classification.finetune import RUNGS, network_of, planned_densenet, planned_resnet
from isocenter.parts.networks.published import load_published, named, of_colours

PARAMETERS = {  # torchvision's tables of weights, 1000 classes
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
}


def published(name: str, dims: int = 2, channels: int = 3, outputs: int = 1000) -> nn.Module:
    steps = ((4,) * dims, *((2,) * dims,) * 3)
    rung = RUNGS[name]
    plan = (planned_densenet if name.startswith("densenet") else planned_resnet)(rung, steps)
    return network_of(name, plan, channels, outputs)


@pytest.mark.parametrize("name", PARAMETERS)
def test_as_many_weights_as_published(name: str) -> None:
    with torch.device("meta"):
        network = published(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


def test_a_densenet_121_is_called_and_shaped_as_torchvisions() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in published("densenet121").state_dict().items()}
    assert shapes["features.conv0.weight"] == (64, 3, 7, 7)
    assert shapes["features.norm0.running_var"] == (64,)
    assert shapes["features.denseblock1.denselayer1.norm1.weight"] == (64,)
    assert shapes["features.denseblock1.denselayer1.conv1.weight"] == (128, 64, 1, 1)
    assert shapes["features.denseblock4.denselayer16.conv2.weight"] == (32, 128, 3, 3)
    assert shapes["features.transition3.conv.weight"] == (512, 1024, 1, 1)
    assert shapes["features.norm5.weight"] == (1024,)
    assert shapes["classifier.weight"] == (1000, 1024)


def test_resnets_are_called_and_shaped_as_torchvisions() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in published("resnet50").state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer1.0.downsample.1.running_mean"] == (256,)
    assert shapes["layer3.5.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["layer4.2.bn3.weight"] == (2048,)
    assert shapes["fc.bias"] == (1000,)
    assert "layer1.1.downsample.0.weight" not in shapes


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("module.densenet121.features.conv0.weight", "features.conv0.weight"),
        ("features.denseblock1.denselayer2.norm.1.weight", "features.denseblock1.denselayer2.norm1.weight"),
        ("features.denseblock1.denselayer2.conv.2.weight", "features.denseblock1.denselayer2.conv2.weight"),
        ("module.layer4.1.bn2.weight", "layer4.1.bn2.weight"),
        ("model.backbone.layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("features.transition1.norm.weight", "features.transition1.norm.weight"),
    ],
)
def test_names_of_other_programs_are_understood(key: str, ours: str) -> None:
    assert named(key) == ours


def small(name: str, dims: int, channels: int, outputs: int) -> nn.Module:
    features = [16, 16, 16, 16] if name.startswith("densenet") else [4, 8, 16, 32]
    plan = plain_network(features, ((4,) * dims, *((2,) * dims,) * 3), [2, 2, 2, 2])
    return network_of(name, plan, channels, outputs)


@pytest.mark.parametrize("name", ["densenet121", "resnet18", "resnet50"])
def test_weights_written_under_an_old_name_come_back_to_their_places(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    source, target = small(name, 2, 3, 1000), small(name, 2, 3, 5)
    content = {
        "module." + re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in source.state_dict().items()
    }
    save_file(content, tmp_path / "weights.safetensors")
    head = "classifier" if name.startswith("densenet") else "fc"
    anew = target.get_parameter(f"{head}.weight").clone()
    load_published(target, tmp_path / "weights.safetensors")
    assert torch.equal(target.get_parameter(f"{head}.weight"), anew)
    own, taken = source.state_dict(), target.state_dict()
    assert all(torch.equal(taken[key], own[key]) for key in own if not key.startswith(head))


def test_grey_volumes_may_start_from_colour_pictures_and_answer_constants_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    flat, deep = small("resnet18", 2, 3, 4).eval(), small("resnet18", 3, 1, 4).eval()
    save_file(flat.state_dict(), tmp_path / "flat.safetensors")
    load_published(deep, tmp_path / "flat.safetensors")
    assert torch.equal(deep.get_parameter("fc.weight"), flat.get_parameter("fc.weight"))
    grey = torch.randn(1, 1, 64, 64)
    kernel = deep.get_parameter("conv1.weight")
    assert kernel.shape == (4, 1, 7, 7, 7)
    one = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), flat.get_parameter("conv1.weight"))
    two = nn.functional.conv3d(grey[:, :, None].expand(-1, -1, 7, -1, -1), kernel)[:, :, 0]
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_weights_of_colours_are_told_from_others_by_their_first_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, dims, channels, colours in (
        ("resnet18", 2, 3, True),
        ("densenet121", 2, 3, True),
        ("resnet18", 2, 1, False),
        ("resnet18", 3, 3, False),
    ):
        save_file(small(name, dims, channels, 2).state_dict(), tmp_path / "w.safetensors")
        assert of_colours(Path("~/w.safetensors")) is colours


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "resnet.pth").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(BadModel, match=r"may run code.*safetensors\.torch\.save_file"):
        load_published(small("resnet18", 2, 3, 2), tmp_path / "resnet.pth")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(small("densenet121", 2, 3, 2).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BadModel, match="are not in it"):
        load_published(small("resnet18", 2, 3, 2), tmp_path / "w.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:90])
    with pytest.raises(BadModel, match="not a whole safetensors file"):
        load_published(small("resnet18", 2, 3, 2), tmp_path / "cut.safetensors")


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", ["densenet121", "resnet18"])
def test_one_to_three_axes_are_scored(name: str, dims: int) -> None:
    network = small(name, dims, 2, 3).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 2, *(32,) * dims)).shape == (2, 3)

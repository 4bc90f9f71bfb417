"""Pretraining a transformer without labels: tiles of any side, who learns and who follows, no collapse."""

from __future__ import annotations

import math

import torch

from isocenter.parts.losses.distillation import TEACHER_TEMPERATURE, teacher_kept
from isocenter.parts.networks.distillation import Prototypes, SelfDistillation
from isocenter.parts.networks.vit import VisionTransformer


def test_places_are_as_they_were_learnt_on_the_grid_that_they_were_learnt_on() -> None:
    network = VisionTransformer(64, depth=1)
    assert torch.equal(network._placed((4, 4)), network.places)
    smaller = network._placed((2, 2))
    assert smaller.shape == (1, 5, 192)
    assert torch.equal(smaller[:, 0], network.places[:, 0])


def test_places_that_change_evenly_still_do_so_on_another_grid() -> None:
    network = VisionTransformer(128, depth=1)
    with torch.no_grad():
        rows = torch.arange(8.0).repeat_interleave(8)
        network.places[0, 1:] = rows[:, None]
    found = network._placed((4, 4))[0, 1:, 0].reshape(4, 4)
    # Centres of four rows among eight; away from the border, bicubic keeps a straight line.
    assert torch.allclose(found[1:3], torch.tensor([[2.5], [4.5]]).expand(2, 4), atol=1e-4)


def test_answers_are_cosines_and_exact_in_mixed_precision() -> None:
    torch.manual_seed(0)
    head, features = Prototypes(8, 5), torch.randn(16, 8)
    found = head(features)
    assert found.shape == (16, 5)
    assert found.abs().max() <= 1 + 1e-6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(features), found)


def test_the_student_learns_and_the_teacher_follows_it() -> None:
    torch.manual_seed(0)
    teacher = VisionTransformer(32, depth=1)
    pretraining = SelfDistillation(teacher, prototypes=16, local_views=2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in pretraining.parameters() if p.requires_grad], lr=0.1)
    pretraining.loss(teacher, torch.rand(6, 3, 32, 32) * 2 - 1).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert pretraining.centre.abs().sum() > 0
    pretraining.follow(teacher, 0.0)
    kept = teacher_kept(0.0)
    for name, learnt in pretraining.student.named_parameters():
        expected = kept * before[name] + (1 - kept) * learnt.detach()
        assert torch.allclose(teacher.get_parameter(name).detach(), expected, atol=1e-6), name


def test_answers_stay_apart_as_the_student_learns_them() -> None:
    torch.manual_seed(0)
    teacher = VisionTransformer(32, depth=1)
    pretraining = SelfDistillation(teacher, prototypes=16, local_views=2)
    learning = [p for p in pretraining.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=1e-3)
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = pretraining.loss(teacher, patterns(24))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        pretraining.follow(teacher, step / 30)
        losses.append(float(loss.detach()))
    # Where all tiles had one answer, none would tell anything; a student that knows nothing pays ln 16.
    assert told_apart(pretraining, teacher) > 0.5
    assert sum(losses[-5:]) / 5 < 0.95 * math.log(16)


def patterns(count: int) -> torch.Tensor:
    """Tiles (n, 3, 32, 32) of fine or of coarser dots, on grounds of all shades."""
    places = torch.arange(32.0)
    period = torch.where(torch.arange(count) % 2 == 0, 5.0, 8.0)[:, None]
    waves = [torch.cos(2 * torch.pi * (places / period + torch.rand(count, 1))) for _ in range(2)]
    shade = 0.6 * torch.rand(count, 1, 1) - 0.3
    grey = 0.5 * waves[0][:, :, None] * waves[1][:, None, :] + shade
    return grey[:, None].expand(-1, 3, -1, -1)


@torch.no_grad()
def told_apart(pretraining: SelfDistillation, teacher: VisionTransformer) -> float:
    """What an answer tells of the tile, in nats: the entropy of the mean answer less the answers' own."""
    logits = pretraining.teacher_head(teacher(patterns(64))) - pretraining.centre
    answers = torch.softmax(logits / TEACHER_TEMPERATURE, dim=1)

    def entropy(shares: torch.Tensor) -> torch.Tensor:
        return -(shares * shares.clamp(min=1e-9).log()).sum(-1)

    return float(entropy(answers.mean(0)) - entropy(answers).mean())

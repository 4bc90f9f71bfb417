"""Self-distillation: its equations written out in NumPy, collapse and what prevents it, the teacher."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from isocenter.parts.losses.distillation import follow, moved_centre, self_distillation, teacher_kept


def softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def by_hand(student: np.ndarray, teacher: np.ndarray, centre: np.ndarray) -> float:
    """Caron et al. 2021, algorithm 1, view by view and image by image."""
    total, pairs = 0.0, 0
    for t in range(len(teacher)):
        for s in range(len(student)):
            if s == t:
                continue
            for image in range(student.shape[1]):
                target = softmax((teacher[t, image] - centre) / 0.04)
                said = np.log(softmax(student[s, image] / 0.1))
                total -= float((target * said).sum()) / student.shape[1]
            pairs += 1
    return total / pairs


@pytest.mark.parametrize("local_views", [0, 3])
def test_it_is_the_published_equation(local_views: int) -> None:
    rng = np.random.default_rng(0)
    student = rng.uniform(-0.3, 0.3, (2 + local_views, 5, 7))
    teacher, centre = rng.uniform(-0.3, 0.3, (2, 5, 7)), rng.uniform(-0.1, 0.1, 7)
    found = self_distillation(*(torch.from_numpy(each).float() for each in (student, teacher, centre)))
    assert float(found) == pytest.approx(by_hand(student, teacher, centre), rel=1e-5)


def test_no_gradient_goes_back_through_the_teacher() -> None:
    student = torch.randn(3, 4, 6, requires_grad=True)
    teacher = torch.randn(2, 4, 6, requires_grad=True)
    self_distillation(student, teacher, torch.zeros(6)).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert teacher.grad is None


def test_a_view_is_not_compared_with_itself() -> None:
    # Both views say other things: each student's answer agrees with the teacher's of the same view only.
    sure = torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]]])
    assert float(self_distillation(sure, sure, torch.zeros(2))) == pytest.approx(20, abs=1e-3)


def test_the_centre_is_a_moving_mean_of_all_answers() -> None:
    teacher = torch.arange(12.0).reshape(2, 2, 3)
    moved = moved_centre(torch.tensor([1.0, 1.0, 1.0]), teacher, kept=0.9)
    assert moved.tolist() == pytest.approx([0.9 + 0.1 * mean for mean in (4.5, 5.5, 6.5)])


def entropies(*, centred: bool, temperature: float) -> tuple[float, float]:
    """Of the teacher's mean answer, and the mean of its answers' own, after training a toy on four clusters.

    Student and teacher are one layer; views are points of a cluster. At first one prototype is far ahead.
    """
    torch.manual_seed(0)
    centres = 3 * torch.eye(4, 8)
    student, teacher = nn.Linear(8, 4), nn.Linear(8, 4)
    with torch.no_grad():
        student.bias.copy_(torch.tensor([2.0, 0.0, 0.0, 0.0]))
    teacher.load_state_dict(student.state_dict())
    centre = torch.zeros(4)
    optimiser = torch.optim.Adam(student.parameters(), lr=0.02)
    for _ in range(200):
        views = centres[torch.randint(4, (32,))] + 0.3 * torch.randn(2, 32, 8)
        with torch.no_grad():
            wanted = teacher(views)
        loss = self_distillation(student(views), wanted, centre, teacher_temperature=temperature)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if centred:
            centre = moved_centre(centre, wanted)
        follow(teacher, student, 0.95)
    answers = torch.softmax((teacher(centres).detach() - centre) / temperature, dim=1)
    own = -(answers * answers.clamp(min=1e-9).log()).sum(1).mean()
    mean = answers.mean(0)
    return float(-(mean * mean.clamp(min=1e-9).log()).sum()), float(own)


def test_centring_and_sharpening_keep_answers_apart() -> None:
    spread, own = entropies(centred=True, temperature=0.04)
    assert spread > math.log(2)  # more than two prototypes are used
    assert own < 0.1


def test_without_the_centre_one_prototype_takes_all() -> None:
    spread, _ = entropies(centred=False, temperature=0.04)
    assert spread < 0.1


def test_without_sharpening_answers_spread_evenly_over_all() -> None:
    _, own = entropies(centred=True, temperature=1.0)
    assert own > 0.9 * math.log(4)


def test_the_teacher_is_the_exponential_average_of_the_student() -> None:
    student, teacher = nn.Linear(3, 2), nn.Linear(3, 2)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        teacher.weight.zero_()
    expected = np.zeros((2, 3))
    for _ in range(5):
        now = rng.standard_normal((2, 3))
        with torch.no_grad():
            student.weight.copy_(torch.from_numpy(now))
        follow(teacher, student, 0.9)
        expected = 0.9 * expected + 0.1 * now
    assert teacher.weight.detach().numpy() == pytest.approx(expected, abs=1e-6)


def test_the_teacher_follows_less_and_less_and_stands_still_at_the_end() -> None:
    assert [teacher_kept(share) for share in (0, 0.5, 1)] == pytest.approx([0.99, 0.995, 1])

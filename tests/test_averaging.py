"""The moving average of weights."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell.learn.averaging import MovingAverage  # noqa: E402


def test_the_average_forgets_where_it_began_and_then_moves_slowly() -> None:
    weight = torch.nn.Parameter(torch.tensor([100.0]))
    average = MovingAverage([weight], 0.9)
    expected = 100.0
    for update in range(1, 60):
        with torch.no_grad():
            weight.fill_(float(update))
        average.update()
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    with average.in_place():
        assert weight.item() == pytest.approx(expected, rel=1e-5)
        assert 45 < weight.item() < 55
    assert weight.item() == 59


def test_weights_come_back_even_when_something_breaks() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    average = MovingAverage([weight], 0.5)
    with torch.no_grad():
        weight.fill_(7.0)
    with pytest.raises(ZeroDivisionError), average.in_place():
        raise ZeroDivisionError
    assert weight.tolist() == [7.0] * 3


def test_no_decay_is_the_weights_themselves() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    average = MovingAverage([weight], 0.0)
    with torch.no_grad():
        weight.fill_(7.0)
    average.update()
    with average.in_place():
        assert weight.tolist() == [7.0] * 3


def test_an_average_goes_on_from_its_state() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    one, other = MovingAverage([weight], 0.9), MovingAverage([weight], 0.9)
    with torch.no_grad():
        weight.fill_(1.0)
    one.update()
    other.load_state_dict(one.state_dict())
    for average in (one, other):
        average.update()
    with one.in_place():
        expected = weight.tolist()
    with other.in_place():
        assert weight.tolist() == expected

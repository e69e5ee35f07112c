"""What signals do outside of the loop and inside of it."""

import signal

import pytest

from segtrain.distributed.interrupt import Interrupt, ended_by_signals
from segtrain.errors import Stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_before_the_loop_a_signal_ends_the_command_with_its_own_code(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as caught, ended_by_signals():
        signal.raise_signal(number)
    assert caught.value.exit_code == 143
    assert signal.getsignal(number) == before


def test_in_the_loop_the_first_only_asks_and_the_second_ends() -> None:
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.signal == signal.SIGTERM
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGUSR1)


def test_among_others_the_second_does_nothing() -> None:
    with Interrupt(alone=False) as interrupt:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.signal == signal.SIGTERM

import os
import signal
import threading

import pytest

from avalanche_mgem.experiment._signals import Stopped, stopping


def test_a_signal_is_an_interrupt_with_a_status() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as end, stopping(signal.SIGTERM):
        os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(end.value, Stopped)
    assert end.value.status == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("_signals")
def test_a_second_signal_does_not_disturb_the_end() -> None:
    ended = []

    def end_slowly() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(True)

    with pytest.raises(Stopped), stopping(signal.SIGTERM, signal.SIGHUP):
        end_slowly()
    assert ended


def test_an_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping(signal.SIGHUP):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_threads_have_no_signals() -> None:
    done = []

    def use() -> None:
        with stopping(signal.SIGTERM):
            done.append(True)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert done

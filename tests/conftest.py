import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    """Two workers share two cores; a test that draws without a seed of its own is still repeatable."""
    torch.set_num_threads(1)
    torch.manual_seed(0)

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.models.families import make_checkpoint


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a family's small checkpoint, made once."""
    root = tmp_path_factory.mktemp("checkpoints")
    return functools.cache(lambda family: make_checkpoint(family, root))


@pytest.fixture(scope="session")
def llama(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("llama")

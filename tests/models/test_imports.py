import subprocess
import sys

import pytest

LIGHT = ["checkpoint", "config", "demo", "emulated", "errors", "forward_batch", "gain"]


@pytest.mark.parametrize(
    "module",
    [
        *LIGHT,
        "grammar",
        "sampling_extras",
        "token_bytes",
        "token_logprobs",
        "interface",
        "layout",
        "replay_log",
        "tensor_store",
        "tokenizer",
    ],
)
def test_what_every_process_imports_brings_no_torch(module: str) -> None:
    code = f"import sys, models.{module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
    assert f"models.{module}" in loaded
    assert not {"torch", "transformers"} & set(loaded)

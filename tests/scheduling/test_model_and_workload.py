import doctest
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling import model_profile
from scheduling.hardware import CATALOGUE
from scheduling.model_profile import UnknownModel, known_model, profile
from scheduling.workload import PUBLISHED, fixed, from_trace, mixed, synthetic

REFERENCE = Path(os.environ.get("REMUDA_REFERENCE", "../shared/reference"))

LLAMA = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}


def test_the_examples_hold() -> None:
    assert doctest.testmod(model_profile).failed == 0


def test_a_configuration_says_what_the_known_model_is() -> None:
    assert profile(LLAMA) == known_model("llama-8b")


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [
        ("llama-70b", 70.6, 70.6),
        ("mixtral-8x7b", 46.7, 12.9),
        ("qwen3-30b-a3b", 30.5, 3.3),
        ("llama-405b", 405.9, 405.9),
    ],
)
def test_known_models_have_the_parameters_in_their_names(
    name: str, billions: float, active: float
) -> None:
    shape = known_model(name)
    assert shape.num_parameters / 1e9 == pytest.approx(billions, rel=0.01)
    used = shape.num_layers * shape.active_parameters + 2 * shape.head_parameters
    assert used / 1e9 == pytest.approx(active, rel=0.02)


def test_quantised_weights_weigh_less_and_kv_stays() -> None:
    quantised = profile({**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    assert quantised.total_bytes < 0.4 * profile(LLAMA).total_bytes
    assert quantised.kv_bytes_per_token == profile(LLAMA).kv_bytes_per_token
    with pytest.raises(UnknownModel, match="expected bits"):
        profile({**LLAMA, "quantization_config": {"quant_method": "new"}})


def test_sliding_layers_keep_a_window_of_the_context() -> None:
    kinds = ["sliding_attention"] * 24 + ["full_attention"] * 8
    shape = profile({**LLAMA, "sliding_window": 1024, "layer_types": kinds})
    assert shape.kv_positions(512) == 512
    assert shape.kv_positions(8192) == pytest.approx(0.25 * 8192 + 0.75 * 1024)
    off = profile({**LLAMA, "sliding_window": 1024, "use_sliding_window": False})
    assert off.kv_positions(8192) == 8192


@given(tokens=st.floats(0.01, 1e5))
def test_experts_read_grow_with_the_step_up_to_all(tokens: float) -> None:
    shape = known_model("mixtral-8x7b")
    assert 0 < shape.read_bytes(tokens) <= shape.layer_weight_bytes * (1 + 1e-9)
    assert shape.read_bytes(tokens) <= shape.read_bytes(2 * tokens)


@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "intermediate_size"])
def test_a_missing_number_is_named(key: str) -> None:
    with pytest.raises(UnknownModel, match=key):
        profile({name: value for name, value in LLAMA.items() if name != key})


def test_every_device_says_where_its_numbers_come_from() -> None:
    for kind in CATALOGUE.values():
        assert kind.source
        assert kind.rates.flops_per_s < kind.peak_flops_per_s
    doubled = CATALOGUE["T4"].scaled(flops=2)
    assert doubled.rates.flops_per_s == pytest.approx(2 * CATALOGUE["T4"].rates.flops_per_s)


# --- workloads


@pytest.mark.parametrize("name", PUBLISHED)
def test_synthetic_requests_have_the_published_statistics(name: str) -> None:
    load, known = synthetic(name), PUBLISHED[name]
    assert load.mean_prompt == pytest.approx(known.prompt_mean, rel=0.02)
    assert load.mean_output == pytest.approx(known.output_mean, rel=0.05)
    assert synthetic(name) == load
    assert synthetic(name, seed=1) != load


@pytest.mark.parametrize(("file", "name"), [("conv", "conversation"), ("code", "code")])
def test_the_public_traces_have_the_statistics_that_stand_here(file: str, name: str) -> None:
    path = REFERENCE / "azure" / f"AzureLLMInferenceTrace_{file}.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with path.open(newline="") as lines:
        load = from_trace(name, lines)
    known = PUBLISHED[name]
    assert load.mean_prompt == pytest.approx(known.prompt_mean, rel=0.05)
    assert load.mean_output == pytest.approx(known.output_mean, rel=0.05)
    assert load.rate == pytest.approx(known.rate, rel=0.01)


def test_context_counts_by_the_steps_that_see_it() -> None:
    assert fixed(100, 10).mean_context == 105
    both = mixed([(1, fixed(100, 10)), (1, fixed(1000, 1000))])
    assert both.mean_context > 1400  # nearly all steps are those of the long answers
    assert both.mean_prompt == pytest.approx(550)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["A,B", "1,2"], "expected the columns"),
        (["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46,x,1"], "line 2"),
        (["TIMESTAMP,ContextTokens,GeneratedTokens"], "expected one or more requests"),
    ],
)
def test_a_broken_trace_is_refused_with_its_place(lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_trace("t", lines)


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(ValueError, match="conversation, code"):
        synthetic("poetry")

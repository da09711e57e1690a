from pathlib import Path
from typing import Literal

import pytest

import runtime.profile
from actors.placement import StageWish
from models.demo import demo_path
from models.errors import BadCheckpoint, ModelError
from models.weight_source import open_checked
from runtime.config import (
    ClusterSettings,
    Config,
    ModelSettings,
    PipelineSettings,
    ServingSettings,
    StageSettings,
    WeightsSettings,
)
from runtime.errors import ConfigError
from runtime.profile import (
    digest_cache,
    max_model_len,
    model_cost,
    model_name,
    model_path,
    open_checkpoint,
    service_settings,
    stage_wishes,
)
from scheduling.change_cost import AutoPolicy
from scheduling.model_profile import UnknownModel

NUM_LAYERS = 12


def pipeline(*layers: str) -> Config:
    stages = tuple(StageSettings(layers=text, node="a", num_threads=2) for text in layers)
    return Config(pipelines=(PipelineSettings(stages=stages),))


@pytest.mark.parametrize(
    ("path", "name", "served"),
    [
        ("demo", "", "demo"),
        ("demo", "mine", "mine"),
        ("/models/llama-8b/", "", "llama-8b"),
        ("/models/llama-8b", "chat", "chat"),
    ],
)
def test_a_model_is_called_as_asked_for_else_as_its_folder(
    path: str, name: str, served: str
) -> None:
    assert model_name(Config(model=ModelSettings(path=path, name=name))) == served


def test_a_model_in_the_present_folder_has_that_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path / "my-model")
    assert model_name(Config(model=ModelSettings(path="."))) == "my-model"


def test_the_demo_is_a_name_and_any_other_model_a_path() -> None:
    assert model_path("demo") == demo_path()
    assert model_path("./demo") == Path("demo")


def test_no_wish_leaves_the_split_to_the_planner() -> None:
    assert stage_wishes(Config(num_stages=3), NUM_LAYERS) == ()


def test_layers_by_hand_are_one_pipeline_of_stages_anywhere() -> None:
    wishes = stage_wishes(Config(layers="0:5,5:12"), NUM_LAYERS)
    assert wishes == ((StageWish(layers=(0, 5)), StageWish(layers=(5, 12))),)


def test_a_pipeline_of_the_file_keeps_its_nodes_and_threads() -> None:
    (wishes,) = stage_wishes(pipeline("0:5", "5:12"), NUM_LAYERS)
    assert wishes[1] == StageWish(node="a", layers=(5, 12), num_threads=2)


@pytest.mark.parametrize("layers", [("0:5", "6:12"), ("0:5,5:6", "6:12"), ("5:12", "0:5"), ("",)])
def test_a_pipeline_of_the_file_that_does_not_cover_the_layers_is_refused(
    layers: tuple[str, ...],
) -> None:
    with pytest.raises(ConfigError, match="layers"):
        stage_wishes(pipeline(*layers), NUM_LAYERS)


def test_the_coordinator_is_told_the_model_by_a_path_that_holds_anywhere_on_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(demo_path().parent)
    model = ModelSettings(path=demo_path().name, max_len=64)
    settings = service_settings(Config(model=model, serving=ServingSettings(max_running=3)))
    assert settings.model == str(demo_path())
    assert (settings.max_model_len, settings.cost.num_kv_tokens) == (64, 64)
    assert settings.max_running == 3
    assert service_settings(Config()).model == "demo"


def test_costs_follow_the_size_of_a_number() -> None:
    checkpoint = open_checkpoint(Config())
    four, two = (model_cost(checkpoint, size, 16) for size in (4, 2))
    assert len(four.layer_bytes) == NUM_LAYERS
    assert [2 * size for size in two.layer_bytes] == list(four.layer_bytes)
    assert four.layer_flops == two.layer_flops
    assert four.head_flops == two.head_flops
    assert four.kv_bytes_per_token == 2 * two.kv_bytes_per_token


def test_a_model_may_be_served_shorter_than_it_could() -> None:
    checkpoint = open_checkpoint(Config())
    assert max_model_len(Config(), checkpoint) == checkpoint.config.max_position
    assert max_model_len(Config(model=ModelSettings(max_len=7)), checkpoint) == 7


def test_a_model_that_is_not_there_is_refused_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"model: .*/no/such"):
        open_checkpoint(Config(model=ModelSettings(path="/no/such")))


@pytest.mark.parametrize("verify", ["sample", "full"])
def test_the_models_hash_is_as_thorough_as_it_was_asked_to_be_and_workers_agree(
    verify: Literal["sample", "full"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = Config(weights=WeightsSettings(verify=verify))
    settings = service_settings(config)
    assert settings.weight_verify == verify
    path = model_path("demo")
    assert open_checked(path, settings.model_hash, verify, digest_cache())
    kept = list((tmp_path / "cache").rglob("*.json"))
    assert len(kept) == (verify == "full")
    other: Literal["sample", "full"] = "full" if verify == "sample" else "sample"
    with pytest.raises(ModelError, match="is not the model that is served"):
        open_checked(path, settings.model_hash, other)


def test_weights_that_cannot_be_read_are_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise BadCheckpoint("it ends early")

    monkeypatch.setattr(runtime.profile, "facts_of", fail)
    with pytest.raises(ConfigError, match="model: it ends early"):
        service_settings(Config())


def test_the_coordinator_is_told_the_models_shape_and_when_to_change_by_itself() -> None:
    cluster = ClusterSettings(auto=True, auto_horizon_s=5, auto_interval_s=6, auto_min_gain=0.5)
    found = service_settings(Config(cluster=cluster))
    assert found.shape is not None
    assert found.shape.num_layers == len(found.cost.layer_bytes)
    assert found.shape.layer_weight_bytes == pytest.approx(found.cost.layer_bytes[0], rel=0.01)
    assert found.shape.kv_bytes_per_token == found.cost.kv_bytes_per_token
    assert found.auto == AutoPolicy(is_on=True, horizon_s=5, interval_s=6, min_gain=0.5)


def test_a_model_whose_shape_is_not_known_is_served_but_not_planned_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(config: object) -> object:
        raise UnknownModel("config: expected hidden_size of 1 or more, got None")

    monkeypatch.setattr(runtime.profile, "profile", refuse)
    assert service_settings(Config()).shape is None
    with pytest.raises(ConfigError, match=r"cluster\.auto: .*hidden_size"):
        service_settings(Config(cluster=ClusterSettings(auto=True)))

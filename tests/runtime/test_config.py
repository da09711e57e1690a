import tomllib
from pathlib import Path

import pytest

from runtime.config import Config
from runtime.config_file import load_config
from runtime.errors import ConfigError
from scheduling.goal import Goal

EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster.toml"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_and_no_override_give_the_defaults() -> None:
    assert load_config(None) == Config()


def test_the_worked_example_sets_every_key_to_its_default() -> None:
    tree = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    found = load_config(EXAMPLE)
    defaults = Config()
    tables = ("model", "http", "tls", "admin", "limits", "quotas", "telemetry")
    for table in (*tables, "cluster", "security", "serving", "kv", "weights"):
        assert getattr(found, table) == getattr(defaults, table)
        assert set(tree[table]) == set(getattr(defaults, table).__struct_fields__)
    assert [node.id for node in found.nodes] == ["a", "b", "c"]
    assert found.pipelines[0].stages[1].num_threads == 1


def test_an_unknown_key_is_refused_with_its_path_and_the_known_names(tmp_path: Path) -> None:
    path = write(tmp_path, "[http]\nprot = 9000\n")
    with pytest.raises(ConfigError, match=r"unknown key http\.prot; known here: .*port"):
        load_config(path)


def test_an_unknown_key_inside_a_list_is_refused_with_its_index(tmp_path: Path) -> None:
    path = write(tmp_path, '[[pipelines]]\nstages = [{layers = "0:1", nod = "a"}]\n')
    with pytest.raises(ConfigError, match=r"pipelines\[0\]\.stages\[0\]\.nod"):
        load_config(path)


@pytest.mark.parametrize(
    ("phases", "complaint"),
    [
        (("prefil",), r"Invalid enum value 'prefil' - at `\$\.pipelines\[0\]\.phase`"),
        (("prefill", "prefill"), "expected a pipeline that serves decode or both"),
        (("decode",), "expected a pipeline that serves prefill or both"),
    ],
)
def test_phases_that_are_none_or_leave_requests_unserved_are_refused(
    tmp_path: Path, phases: tuple[str, ...], complaint: str
) -> None:
    stage = 'stages = [{layers = "0:12", node = "local"}]'
    text = "".join(f'[[pipelines]]\n{stage}\nphase = "{phase}"\n' for phase in phases)
    with pytest.raises(ConfigError, match=complaint):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("http.port=99999", "65535"),
        ("http.port=high", "Expected `int`"),
        ("kv.memory_fraction=2", "memory_fraction"),
        ("cluster.spares=-1", "cluster.spares"),
        ("cluster.insecure=1", "cluster.insecure"),
        ("security.curve=maybe", "security.curve"),
        ("security.keys=7", "security.keys"),
        ("cluster.journal=7", "cluster.journal"),
        ("serving.recovery_timeout_s=0", "serving.recovery_timeout_s"),
        ("serving.max_held=-1", "serving.max_held"),
        ("serving.kv_transport=int2", "serving.kv_transport"),
        ("planner.ttft_s=-1", "planner.ttft_s"),
        ("kv.replay_log_bytes=-1", "kv.replay_log_bytes"),
        ("http.max_connections=0", "http.max_connections"),
        ('http.cors_origins=["*"]', "cors_origins"),
        ("tls.client_ca=ca.pem", "need tls.certificate"),
        ("admin.place=elsewhere", "admin.place"),
        ("limits.max_n=0", "limits.max_n"),
        ("quotas.max_concurrent=-1", "quotas.max_concurrent"),
        ("telemetry.log_format=xml", "telemetry.log_format"),
        ("http", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("model.path.x=1", "path"),
        ("http=1", "must be a table"),
    ],
)
def test_a_bad_override_is_refused_in_words(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(None, [override])


@pytest.mark.parametrize(
    ("overrides", "goal"),
    [
        ((), None),
        (("planner.tpot_s=0.05",), Goal(measure="slo", tpot_s=0.05)),
        (("planner.tpot_s=0.05", "planner.ttft_s=2"), Goal(measure="slo", ttft_s=2, tpot_s=0.05)),
    ],
)
def test_latencies_to_keep_are_a_goal_of_the_planner(
    overrides: tuple[str, ...], goal: Goal | None
) -> None:
    assert load_config(None, overrides).planner.goal == goal


def test_overrides_are_read_as_toml_and_bare_words_as_strings() -> None:
    config = load_config(None, ["http.port=9000", "model.path=/models/x", "cluster.insecure=true"])
    assert (config.http.port, config.model.path, config.cluster.insecure) == (
        9000,
        "/models/x",
        True,
    )


def test_recovery_can_be_turned_off_piece_by_piece() -> None:
    off = ["cluster.spares=0", "serving.max_held=0", "kv.replay_log_bytes=0"]
    config = load_config(None, off)
    assert (config.cluster.spares, config.serving.max_held, config.kv.replay_log_bytes) == (0, 0, 0)


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[http]\nport = 1\n")
    assert load_config(path, ["http.port=2"]).http.port == 2


def test_an_override_cannot_go_through_a_value(tmp_path: Path) -> None:
    path = write(tmp_path, "[model]\npath = 'x'\n")
    with pytest.raises(ConfigError, match="not a table"):
        load_config(path, ["model.path.deep=1"])


def test_a_missing_or_garbled_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml"):
        load_config(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(write(tmp_path, "not = = toml"))


def test_contradictions_are_refused(tmp_path: Path) -> None:
    stage = '[[pipelines]]\nstages = [{layers = "0:1", node = "z"}]\n'
    with pytest.raises(ConfigError, match="not both"):
        load_config(write(tmp_path, stage), ["num_stages=2"])
    with pytest.raises(ConfigError, match="known nodes: a"):
        load_config(write(tmp_path, '[[nodes]]\nid = "a"\n' + stage))
    with pytest.raises(ConfigError, match="same id"):
        load_config(write(tmp_path, '[[nodes]]\nid = "a"\n[[nodes]]\nid = "a"\n'))

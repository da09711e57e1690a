"""Where the published Helix files are; tests that need them skip without."""

import json
import os
from pathlib import Path

import pytest

from scheduling.helix.files import read_cluster
from scheduling.helix.flow import FlowCluster

_CHECKOUT = Path(__file__).resolve().parents[2]
HELIX = Path(os.environ.get("REMUDA_REFERENCE", _CHECKOUT.parent / "shared/reference")) / "helix"

needs_helix = pytest.mark.skipif(
    not HELIX.is_dir(), reason=f"no {HELIX}; set REMUDA_REFERENCE to the reference folder"
)


def read_text(name: str) -> str:
    return (HELIX / name).read_text(encoding="utf-8")


def helix_cluster() -> FlowCluster:
    table = json.loads(read_text("layer_throughput_llama70b_24.json"))
    return read_cluster(read_text("distributed/3cluster24.ini"), table)

"""Reads the cluster, rate and placement files that Helix publishes.

The one idea: text in, records out; values such as `10 * gbps` are read by a list of known units and
nothing is evaluated. Bandwidths are numbers of bytes per second there, whatever their unit is
called, and are read so, for the published objectives come out only then.

Source: github.com/Thesys-lab/Helix-ASPLOS25 (Apache-2.0), its cluster and solution files.
"""

import configparser
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from scheduling.errors import InvalidCluster, InvalidPlan
from scheduling.helix.flow import IDLE, FlowCluster, LayerRange, Ranges

_UNITS = {"mbps": 1e6, "gbps": 1e9, "MB": 1e6, "GB": 1e9, "MilliSec": 1e-3, "Sec": 1.0}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?) *\* *(\w+)")
_LIST = re.compile(r"\[ *(\d+(?: *, *\d+)*)? *\]")


def read_quantity(text: str) -> float:
    """A number times a known unit.

    Raises:
        InvalidCluster: it is of another form, or the unit is unknown.

    Example:
        >>> read_quantity("12.5 * mbps")
        12500000.0
    """
    found = _QUANTITY.fullmatch(text.strip())
    if found is None or found[2] not in _UNITS:
        raise InvalidCluster(
            f"quantity: expected NUMBER * UNIT with a unit of {sorted(_UNITS)}, got {text!r}"
        )
    return float(found[1]) * _UNITS[found[2]]


def read_cluster(text: str, table: Mapping[str, Any]) -> FlowCluster:
    """A cluster file with a table of rates.

    Args:
        text: the cluster's ini file. A link stands for both of its directions.
        table: keys `throughput` (tokens/s by type and number of layers), `num_layers`,
            `activation_bytes` (between layers) and `token_bytes` (at source and sink).

    Raises:
        InvalidCluster: a section, key, unit or type is missing or unknown.
    """
    ini = _parse(text)
    try:
        count = int(ini["NodeNames"]["total_compute_nodes"])
        kinds = [ini[f"ComputeNode-{node}"]["type"] for node in range(count)]
        by_count = {
            kind: tuple(float(rates[str(k)]) for k in range(1, len(rates) + 1))
            for kind, rates in table["throughput"].items()
        }
        links = np.zeros((count + 1, count + 1))  # the last is the source, or the sink
        for section in ini.sections():
            if section.startswith("Link-"):
                tail, head = (_index(name, count) for name in section.split("-")[1:])
                links[tail, head] = read_quantity(ini[section]["bandwidth"])
        inner = np.maximum(links[:count, :count], links[:count, :count].T)
        return FlowCluster(
            num_layers=int(table["num_layers"]),
            names=tuple(f"{kind}-{node}" for node, kind in enumerate(kinds)),
            rates=tuple(by_count[kind] for kind in kinds),
            links=inner / float(table["activation_bytes"]),
            entries=links[count, :count] / float(table["token_bytes"]),
            exits=links[:count, count] / float(table["token_bytes"]),
        )
    except (KeyError, ValueError) as error:
        raise InvalidCluster(f"cluster file: missing or malformed {error}") from error


def read_ranges(text: str, cluster: FlowCluster) -> Ranges:
    """A solution file: which layers each node holds.

    Raises:
        InvalidPlan: a node is unknown, or its layers are not consecutive.
    """
    ini = _parse(text)
    ranges = [IDLE] * len(cluster.names)
    try:
        offset = int(ini["Settings"]["offset"])
        for name, layers in ini["Solution"].items():
            node = int(name.removeprefix("compute_node_")) - offset
            if not 0 <= node < len(ranges):
                raise InvalidPlan(f"solution: expected a node of the cluster, got {name!r}")
            ranges[node] = _read_layers(name, layers)
    except (KeyError, ValueError) as error:
        raise InvalidPlan(f"solution file: missing or malformed {error}") from error
    return tuple(ranges)


def _parse(text: str) -> configparser.ConfigParser:
    ini = configparser.ConfigParser(interpolation=None)
    try:
        ini.read_string(text)
    except configparser.Error as error:
        raise InvalidCluster(f"ini file: {error}") from error
    return ini


def _index(name: str, count: int) -> int:
    return count if name in ("source", "sink") else int(name)


def _read_layers(name: str, text: str) -> LayerRange:
    found = _LIST.fullmatch(text.strip())
    layers = [int(part) for part in found[1].split(",")] if found and found[1] else []
    if not layers or layers != list(range(layers[0], layers[-1] + 1)):
        raise InvalidPlan(f"{name}: expected a list of consecutive layers, got {text!r}")
    return layers[0], layers[-1] + 1

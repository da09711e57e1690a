"""A chaos run against a service of real processes."""

import json
import subprocess
import sys

from tests.support.services import CHECKOUT, service

LOAD = ["--streams", "4", "--max-tokens", "200", "--at-token", "10", "--max-gap", "100"]
TIMEOUT_S = 110.0


def test_streams_outlive_a_stage_that_chaos_kills() -> None:
    with service("--model", "demo", "--stages", "2") as (client, _):
        victim = client.stages()[1]["pid"]
        words = ["--url", client.url, "chaos", "--kill", "stage:1", "--json", *LOAD]
        ran = subprocess.run(
            [sys.executable, "-m", "runtime.ctl", *words],
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        (strike,) = json.loads(ran.stdout)["strikes"]
        assert strike["streams"] == 4
        assert strike["recoveries"] > 0
        assert client.stages()[1]["pid"] not in (0, victim)

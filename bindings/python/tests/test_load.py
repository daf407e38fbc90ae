"""What an application says of its own load."""

from __future__ import annotations

import apps
import mesh
import pytest
from conftest import config, served

ASK = {"endpoint-load-metrics-format": "TEXT"}


def test_a_caller_that_asks_is_told_the_load(port: int) -> None:
    with served(config(port), apps.slow) as server:
        server.report_load(utilization=0.7, queue_depth=4, metrics={"gpu": 0.5})
        with mesh.Mesh.from_yaml(config(port)) as m, m.client() as client:
            told = client.get("http://app/0", headers=ASK).headers["endpoint-load-metrics"]
            assert "endpoint-load-metrics" not in client.get("http://app/0").headers
    assert told.startswith("TEXT ")
    for part in ("application_utilization=0.7", "named_metrics.queue_depth=4", "named_metrics.gpu=0.5"):
        assert part in told


def test_what_is_no_load_is_refused() -> None:
    with mesh.Mesh.from_yaml("version: 1") as m:
        for bad in (float("inf"), -1.0):
            with pytest.raises(mesh.UsageError):
                m.report_load(utilization=bad)
        with pytest.raises(mesh.UsageError):
            m.report_load(metrics={"no such name": 1.0})

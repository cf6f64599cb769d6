"""Curation on a Ray cluster of two nodes on this machine gives the bytes that one process gives."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medfinder.curation.curate import curate
from medfinder.curation.dataset import Dataset
from medfinder.curation.study import CurationSettings
from medfinder.errors import ConfigError

MakePhantoms = Callable[..., Path]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are not ours


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """Two Ray nodes that listen on loopback alone."""
    # Else Ray replaces 127.0.0.1 by the machine's outer address, where nothing listens; the name is Ray's.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1", include_dashboard=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_two_nodes_make_the_bytes_of_one_process(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings, two_nodes: Any
) -> None:
    source = make_phantoms(tmp_path / "phantoms", studies=8)
    told: list[int] = []
    curate(source, tmp_path / "one", settings)
    summary = curate(
        source, tmp_path / "two", settings, cluster=two_nodes.address, progress=lambda done, _: told.append(done)
    )
    assert summary.cases > 0
    assert told == list(range(9))
    for one in sorted((tmp_path / "one").rglob("*")):
        other = tmp_path / "two" / one.relative_to(tmp_path / "one")
        assert not one.is_file() or one.read_bytes() == other.read_bytes(), one.name


def test_a_study_that_ends_its_worker_is_set_aside_and_the_others_go_on(
    tmp_path: Path,
    make_phantoms: MakePhantoms,
    settings: CurationSettings,
    two_nodes: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import medfinder.curation.cluster as cluster_module

    def dying(job: Any, shared: Any) -> None:
        if job.study.study_id.endswith("2"):
            os._exit(9)
        out, used, notes = shared
        from medfinder.curation.pool import curate_one

        curate_one(job, out, used, notes)

    monkeypatch.setattr(cluster_module, "_curate_if_seen", dying)
    curate(make_phantoms(tmp_path / "phantoms", studies=4), tmp_path / "out", settings, cluster=two_nodes.address)
    dataset = Dataset.open(tmp_path / "out")
    assert [(row.study_id[-1], row.reason) for row in dataset.dropped] == [("2", "process ended")]
    assert len({case.study_id for case in dataset.cases}) == 3


def test_no_cluster_at_the_address_is_one_clear_line(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings
) -> None:
    import ray

    ray.shutdown()
    source = make_phantoms(tmp_path / "phantoms", studies=1)
    with pytest.raises(ConfigError, match="no Ray cluster answers"):
        curate(source, tmp_path / "out", settings, cluster="not an address")


def test_a_port_where_nothing_listens_is_told_before_ray_is_asked(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was asked"))
    source = make_phantoms(tmp_path / "phantoms", studies=1)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="no Ray cluster answers"):
            curate(source, tmp_path / "out", settings, cluster=f"127.0.0.1:{deaf.getsockname()[1]}")

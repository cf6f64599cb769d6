"""What the interface tells of itself is true: requests drawn from its OpenAPI find no fault."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from medfinder.app.server.access import Access, AccessSettings
from medfinder.app.server.application import make_app
from medfinder.app.server.state import open_state
from medfinder.retrieval.index import SearchIndex

from .conftest import HOST, StandIn

schemathesis = pytest.importorskip("schemathesis")
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.core.failures import Failure, FailureGroup  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

pytestmark = pytest.mark.slow

# Ours: about a minute for all operations.
TRIES = 8


@pytest.fixture(scope="module")
def patient_client(library: SearchIndex, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service that does not mind how often it is asked."""
    folder = tmp_path_factory.mktemp("schema")
    state = open_state(folder)
    access = Access(state, AccessSettings(per_s=1e6, burst=10**6), is_open=True)
    app = make_app(library, StandIn(), folder=folder, hosts=frozenset({HOST}), state=state, access=access)
    with TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=False) as client:
        yield client


def test_no_request_drawn_from_the_interface_finds_a_fault(patient_client: TestClient) -> None:
    interface = schemathesis.openapi.from_dict(patient_client.get("/v1/openapi.json").json())
    faults, labels = [], []
    for found in interface.get_all_operations():
        operation = found.ok()
        labels.append(operation.label)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            fault = try_operation(patient_client, operation, mode)
            faults += [f"{operation.label}: {fault}"] if fault else []
    assert not faults, "\n\n".join(faults)
    assert "POST /v1/search" in labels


def try_operation(client: TestClient, operation: Any, mode: GenerationMode) -> str:
    """Ask what fits the interface, or what does not; give the first fault, or nothing."""

    @settings(
        max_examples=TRIES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        # What can be read and yet not be answered, e.g. a filter on no field that there is, is refused.
        case.validate_response(send(client, case), excluded_checks=[positive_data_acceptance])

    try:
        ask()
    except Unsatisfiable:
        # Nothing can be wrong with what takes nothing.
        return ""
    except (Failure, FailureGroup) as fault:
        return "; ".join(str(one) for one in getattr(fault, "exceptions", [fault]))
    return ""


def send(client: TestClient, case: Any) -> Any:
    drawn = (case.path_parameters or {}).get("case_id", "")
    if len(str(drawn)) % 2:
        # An id that is drawn is none that is there.
        case.path_parameters["case_id"] = "case0"
    sent = requests.Request(**case.as_transport_kwargs(base_url=f"http://{HOST}")).prepare()
    return client.request(sent.method, sent.url, headers=dict(sent.headers), content=sent.body)

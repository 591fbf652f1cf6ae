"""Requests generated from center's OpenAPI document, on real brokers: no 500, nothing that the document does not say.

A route that is added is tested with the next run. What it finds is a status that is not among the route's `responses`, a body
or a header that does not fit its schema, a content type that is not listed, and an exception, which is a 500. The brokers are
this module's: a generated access list or revocation must lock nobody else out.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import hypothesis
import pytest
import pytest_asyncio
import requests
import schemathesis
from joserfc import jwt
from joserfc.jwk import OctKey
from own_brokers import own_brokers
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks
from schemathesis.transport.requests import REQUESTS_TRANSPORT
from worker_process import running, until

from infra.bus import Bus
from infra.documents import Issuer, Product, SigningKey, issuer_key, product_key
from infra.keeper import Keeper
from infra.settings import Settings
from tests.unit.center_world import World
from workers.center.campaigns.audiences import STREAMED
from workers.center.unicast.batch import LARGE
from workers.center.web.bodies import MAX_BODY

pytestmark = [pytest.mark.xdist_group("generated-requests"), pytest.mark.timeout(180)]

KEY = {"X-API-Key": "generated-key"}
PRODUCT, CLIENT = "generated", "phone-1"
SECRET = "of-the-generated-issuer-0123456789"


async def its_document() -> Any:
    async with World().client() as http:
        return (await http.get("/openapi.json")).json()


DOCUMENT = asyncio.run(its_document())
"""For the names of the tests only: what is tested is the document that the running center serves."""
OPERATIONS = [f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item]
MOST_COVERED = 80
"""Requests an operation of those that go through its schema one thing at a time: of more, every second, third, …"""
GENERATED = 15
"""Random requests an operation that fit the schema, and as many that do not."""
SETTINGS = hypothesis.settings(
    derandomize=True,  # the same requests each time
    max_examples=GENERATED,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
OTHERWISE = [
    not_a_server_error,  # 503 is listed; 500 is not
    checks.positive_data_acceptance,  # "exactly one of" is said in words
    checks.negative_data_rejection,  # "1" is read as 1
    checks.ignored_auth,  # below, for all of them
]
"""Checks that are not made: what they ask for is not promised."""


@REQUESTS_TRANSPORT.serializer("text/csv", "text/plain", "application/x-ndjson")
def as_it_is(_: Any, value: Any) -> dict[str, Any]:
    """Lines are bytes."""
    return {"data": value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")}


Operation = APIOperation[Any, Any, Any, Any]


def noun(operation: Operation) -> str:
    """`/v1/broadcasts/{id}/pause` → `broadcasts`."""
    return operation.path.split("/")[2] if operation.path.startswith("/v1/") else ""


@dataclass
class Center:
    """A running center, its document, and what is known in it: a client with a pending message, and a broadcast."""

    url: str
    known: dict[str, str]
    token: str
    schema: schemathesis.BaseSchema = field(init=False)
    session: requests.Session = field(default_factory=requests.Session)
    told: dict[str, dict[str, str]] = field(default_factory=dict)
    """By noun: the texts of the last answer that made or changed one. A later request is about what an earlier one made."""
    turn: int = 0

    def __post_init__(self) -> None:
        self.schema = schemathesis.openapi.from_url(f"{self.url}/openapi.json")

    def operation(self, label: str) -> Operation:
        found = self.schema.find_operation_by_label(label)
        assert found is not None, f"the running center does not have {label}"
        return found

    def headers(self, case: Case) -> dict[str, str]:
        """The API key, or the device's token where the document says so."""
        schemes = {name for each in case.operation.definition.raw.get("security", ()) for name in each}
        return {"Authorization": f"Bearer {self.token}"} if schemes == {"token"} else KEY

    def failures(self, case: Case) -> Iterator[str]:
        """Send a request; what of its answer is not as the document says."""
        headers = self.headers(case)
        answer = case.call(base_url=self.url, session=self.session, headers=headers, timeout=15)
        if case.method in ("POST", "PUT") and answer.status_code in (200, 201, 202) and isinstance(told := answer.json(), dict):
            self.told[noun(case.operation)] = {name: value for name, value in told.items() if isinstance(value, str)}
        try:
            case.validate_response(answer, headers=headers, excluded_checks=OTHERWISE)
        except FailureGroup as found:
            for each in found.exceptions:
                yield f"{each}\n{answer.status_code} {answer.text[:300]}\n{case.as_curl_command()[:1000]}"

    def send(self, operation: Operation, body: bytes, headers: dict[str, str]) -> requests.Response:
        """A request that no schema gives: the operation at what is known, with this body and these headers."""
        told = {**self.told.get(noun(operation), {}), **self.known}
        path = operation.path.format_map(defaultdict(lambda: "none", told))
        url, query = f"{self.url}{path}", {"product": PRODUCT, "client": CLIENT}
        return self.session.request(operation.method, url, params=query, data=body, headers={**KEY, **headers}, timeout=15)

    def aimed(self, case: Case) -> Case:
        """The same request, at what is known in this center where it names one. Where the document has an example of its body,
        only one field is taken, by turns: few random bodies are sound as a whole. Events of what is known do not end."""
        if "text/event-stream" in str(case.operation.definition.raw["responses"]):
            return case
        if isinstance(case.body, dict) and case.body and (example := self.example(case.operation)):
            self.turn += 1
            given = sorted((name for name, value in case.body.items() if value is not None), key=str) or list(case.body)
            name = given[self.turn % len(given)]
            case.body = {**example, name: case.body[name]}
        told = {**self.told.get(noun(case.operation), {}), **self.known}
        for place, names in ((case.path_parameters, told), (case.query, self.known), (case.body, self.known)):
            if isinstance(place, dict):
                place.update({name: names[name] for name in names.keys() & place.keys()})
        return case

    def example(self, operation: Operation) -> dict[str, Any]:
        """The example of a JSON body; empty: there is none."""
        content = operation.definition.raw.get("requestBody", {}).get("content", {}).get("application/json", {})
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        found: list[dict[str, Any]] = self.schema.raw_schema["components"]["schemas"].get(name, {}).get("examples", [])
        return dict(found[0]) if found else {}


@pytest_asyncio.fixture(scope="module")
async def center(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Center]:
    folder = tmp_path_factory.mktemp("generated")
    async with AsyncExitStack() as stack:
        settings = await stack.enter_async_context(own_brokers(folder))
        await configure(settings)
        for worker in ("delivery", "saver", "broadcast"):
            await stack.enter_async_context(running(f"workers.main:{worker}", settings, folder / worker))
        room = {"LONGWIRE_ROOM__ID": "generated-a", "LONGWIRE_ROOM__DRAIN": "0.2s"}
        await stack.enter_async_context(running("gateway.main:main", settings, folder / "room", **room))
        report = await stack.enter_async_context(
            running("workers.center.main:main", settings, folder / "center", LONGWIRE_CENTER__API_KEY=KEY["X-API-Key"])
        )
        yield await seeded(report["url"])


@pytest.fixture(autouse=True)
def as_it_was(center: Center) -> None:
    """The product and the policy: requests of another test may have changed or removed them."""
    for path, document in ((f"/v1/products/{PRODUCT}", {"rate": 100}), ("/v1/config", {})):
        center.session.put(f"{center.url}{path}", json=document, headers=KEY, timeout=15).raise_for_status()
    deadline = time.monotonic() + 10
    while not center.session.get(f"{center.url}/v1/products/{PRODUCT}/usage", headers=KEY, timeout=15).ok:
        assert time.monotonic() < deadline, "center does not know the product again"
        time.sleep(0.05)


async def configure(settings: Settings) -> None:
    """One product, and who signs its devices' tokens."""
    bus = Bus(settings.nats, name="test-generated", version="0.0.0")
    await bus.start()
    keeper = Keeper(bus, disk=settings.data / "keeper")
    await keeper.put(product_key(PRODUCT), Product(name=PRODUCT, rate=100))
    key = SigningKey(secret=SECRET)  # type: ignore[arg-type]
    await keeper.put(issuer_key("generated"), Issuer(iss="generated", keys=(key,), products=(PRODUCT,)))
    await bus.stop()


async def seeded(url: str) -> Center:
    """A center in which something is known, so that requests get further than 404."""
    now = int(time.time())
    claims = {"iss": "generated", "aud": "longwire", "sub": CLIENT, "iat": now, "exp": now + 3600, "products": {PRODUCT: {}}}
    token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET), algorithms=["HS256"])
    async with httpx.AsyncClient(base_url=url, headers=KEY, timeout=10) as http:
        message = {"product": PRODUCT, "client": CLIENT, "payload": "hello"}
        sent = (await http.post("/v1/messages", json=message)).raise_for_status().json()["id"]
        job = {"product": PRODUCT, "payload": "hello", "rate": 1}
        broadcast = (await http.post("/v1/broadcasts", json=job)).raise_for_status().json()["id"]

        for path in (f"/v1/clients/{CLIENT}", f"/v1/dispatch?client={CLIENT}"):  # what delivery stores, and what a room says

            async def there(path: str = path) -> bool:
                return (await http.get(path)).status_code == 200

            await until(there)
    center = Center(url, {"product": PRODUCT, "client": CLIENT, "message": sent}, token)
    center.told["broadcasts"] = {"id": broadcast}
    return center


def covered(center: Center, operation: Operation) -> Iterable[Case]:
    """Requests that go through the schema of an operation: each field, type, bound, content type and method."""
    config = center.schema.config.generation_for(operation=operation)
    cases = list(center.schema.iter_coverage_cases(operation, generation_modes=list(GenerationMode), generation_config=config))
    return cases[:: 1 + len(cases) // MOST_COVERED]


@pytest.mark.parametrize("label", OPERATIONS)
def test_given_any_request_then_the_answer_is_one_that_the_document_lists(label: str, center: Center) -> None:
    operation, found = center.operation(label), list[str]()
    for number, case in enumerate(covered(center, operation)):
        found += center.failures(center.aimed(case) if number % 2 else case)
    for mode in GenerationMode:

        @SETTINGS
        @hypothesis.given(case=operation.as_strategy(mode), aimed=hypothesis.strategies.booleans())
        def send(case: Case, aimed: bool) -> None:
            found.extend(center.failures(center.aimed(case) if aimed else case))

        try:
            send()
        except hypothesis.errors.Unsatisfiable:  # nothing that is given can be wrong
            assert mode is GenerationMode.NEGATIVE
    assert not found, f"{len(found)} answers are not as the document says; among them:\n\n" + "\n\n".join(found[:5])


MALFORMED: dict[str, tuple[str, bytes]] = {
    "of another type": ("text/html", b"<p>hello</p>"),
    "of a type that is none": ("json", b"{}"),
    "empty": ("application/json", b""),
    "no JSON": ("application/json", b"{'product': 1}"),
    "no UTF-8": ("application/json", b'{"product": "\xff\xfe"}'),
    "no object": ("application/json", b"[1, 2]"),
    "null": ("application/json", b"null"),
    "numbers that are none": ("application/json", b'{"product": NaN, "rate": 1e999, "ttl": -Infinity}'),
    "a lone surrogate": ("application/json", b'{"product": "\\ud800", "\\udfff": 1}'),
    "without an end": ("application/json", b"[" * 100_000),
}

NOTHING = ("empty", "null")

LIKE_GOOGLE = ("POST /v1/projects/{product}/messages:send",)
"""Errors there have Google's codes, which have no word for what is too large but INVALID_ARGUMENT."""

BODIED = [
    f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item if "requestBody" in item[method]
]


@pytest.mark.parametrize("label", BODIED)
def test_given_a_malformed_body_then_it_is_refused_as_the_document_says(label: str, center: Center) -> None:
    operation = center.operation(label)
    for what, (media_type, body) in MALFORMED.items():
        if what in NOTHING and not operation.definition.raw["requestBody"].get("required"):
            continue
        answer = center.send(operation, body, {"Content-Type": media_type})
        assert answer.status_code == 400, f"{what}: {answer.status_code} {answer.text[:300]}"
        operation.validate_response(answer)


@pytest.mark.parametrize("label", [label for label in BODIED if not label.startswith(f"PUT {STREAMED.prefix}")])
def test_given_a_body_that_is_too_large_then_it_is_refused_as_the_document_says(label: str, center: Center) -> None:
    operation = center.operation(label)
    most = LARGE.most if label == f"{LARGE.method} {LARGE.path}" else MAX_BODY
    answer = center.send(operation, b" " * (most + 1), {"Content-Type": "application/json"})
    assert answer.status_code == (400 if label in LIKE_GOOGLE else 413)
    operation.validate_response(answer)


@pytest.mark.parametrize("label", OPERATIONS)
def test_given_no_key_then_what_asks_for_one_is_not_answered(label: str, center: Center) -> None:
    operation = center.operation(label)
    answer = center.send(operation, b"", {"X-API-Key": "wrong", "Authorization": "Bearer wrong"})
    refused = answer.status_code in (401, 429)  # 429: so many wrong keys came from this address before
    assert refused == bool(operation.definition.raw.get("security")), answer.text
    operation.validate_response(answer)

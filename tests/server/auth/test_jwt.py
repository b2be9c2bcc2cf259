"""JSON Web Tokens: real ones, signed here, against keys from a file and from a URL."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest

from longshore_server import ConfigError
from longshore_server.auth.authentication import Authentication
from longshore_server.auth.files import FileError
from longshore_server.auth.identity import Credentials
from longshore_server.auth.jwt import JwtTokens, parse
from longshore_server.auth.tokens import TokenFile
from longshore_server.errors import Reason, ServiceError
from longshore_server.testing import ManualClock
from tests.conftest import refused
from tests.server.auth.identities import AUDIENCE, ISSUER, NOW, bearer, private_key, public, signed, write_keys

OTHER = "https://other.example"


def tokens(keys: str, clock: ManualClock, **settings: Any) -> JwtTokens:
    return JwtTokens(issuer=ISSUER, audience=AUDIENCE, keys=keys, clock=clock, **settings)


def carrying(token: str) -> Credentials:
    return Credentials(f"Bearer {token}")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def known(tmp_path: Path, clock: ManualClock) -> JwtTokens:
    return tokens(write_keys(tmp_path / "keys.json", public("k1"), public("k2")), clock)


async def refusal(asked: JwtTokens | Authentication, token: str) -> tuple[str, str]:
    with pytest.raises(ServiceError) as caught:
        await (asked.identify if isinstance(asked, Authentication) else asked.authenticate)(carrying(token))
    return caught.value.reason.name, caught.value.message


@pytest.mark.parametrize("scope", ["orders.read orders.write", ["orders.read", "orders.write"]])
async def test_a_token_is_a_principal_with_capabilities(scope: Any, known: JwtTokens) -> None:
    principal = await known.authenticate(carrying(signed(scope=scope)))
    assert principal is not None
    assert (principal.name, principal.method) == ("ada", "jwt")
    assert set(principal.capabilities) == {"orders.read", "orders.write"}
    assert principal.expires == (NOW + 600 + 30) * 1_000_000, "its own end and the skew"


async def test_the_claim_of_the_capabilities_can_be_chosen(tmp_path: Path, clock: ManualClock) -> None:
    found = tokens(write_keys(tmp_path / "keys.json", public("k1")), clock, claim="roles")
    principal = await found.authenticate(carrying(signed(roles=["a"], scope="b")))
    assert principal is not None
    assert principal.capabilities == {"a"}
    bare = await found.authenticate(carrying(signed()))
    assert bare is not None
    assert bare.capabilities == frozenset()


@pytest.mark.parametrize(("kind", "algorithm"), [("RSA", "RS256"), ("RSA", "PS512"), ("EC", "ES256"), ("OKP", "EdDSA")])
async def test_asymmetric_algorithms_count(kind: str, algorithm: str, tmp_path: Path, clock: ManualClock) -> None:
    found = tokens(write_keys(tmp_path / "keys.json", public("k", kind)), clock)
    assert await found.authenticate(carrying(signed("k", kind=kind, algorithm=algorithm))) is not None


SUBJECT = "The token's subject cannot be a principal:"
SCOPE = "The token's claim 'scope' does not hold capabilities:"


@pytest.mark.parametrize(
    ("claims", "reason", "message"),
    [
        ({"exp": NOW - 31}, "CREDENTIALS_EXPIRED", "The token has expired."),
        ({"exp": None}, "CREDENTIALS_INVALID", 'The token is not good: Token is missing the "exp" claim.'),
        ({"sub": None}, "CREDENTIALS_INVALID", 'The token is not good: Token is missing the "sub" claim.'),
        ({"aud": "others"}, "CREDENTIALS_INVALID", "The token is not good: Audience doesn't match."),
        ({"aud": None}, "CREDENTIALS_INVALID", 'The token is not good: Token is missing the "aud" claim.'),
        ({"nbf": NOW + 31}, "CREDENTIALS_INVALID", "The token is not valid yet (nbf)."),
        ({"exp": "soon"}, "CREDENTIALS_INVALID", "The token's claim 'exp' is no time."),
        ({"exp": 10**15}, "CREDENTIALS_INVALID", "The token's claim 'exp' is no time."),
        ({"exp": True}, "CREDENTIALS_INVALID", "The token's claim 'exp' is no time."),
        ({"nbf": []}, "CREDENTIALS_INVALID", "The token's claim 'nbf' is no time."),
        ({"sub": ""}, "CREDENTIALS_INVALID", f"{SUBJECT} it must be a text that is not empty."),
        ({"sub": "local"}, "CREDENTIALS_INVALID",
         f"{SUBJECT} 'local' is reserved for servers without authentication."),
        ({"scope": 7}, "CREDENTIALS_INVALID", f"{SCOPE} it must be a list of texts."),
        ({"scope": ["a b"]}, "CREDENTIALS_INVALID", f"{SCOPE} 'a b' cannot be a capability."),
    ],
)  # fmt: skip
async def test_a_wrong_token_is_refused_with_what_is_wrong(
    claims: dict[str, Any], reason: str, message: str, known: JwtTokens
) -> None:
    assert await refusal(known, signed(**claims)) == (reason, message)


@pytest.mark.parametrize(
    "claims", [{"exp": NOW - 29}, {"nbf": NOW + 29}, {"iat": NOW + 3600}, {"aud": ["x", AUDIENCE]}]
)
async def test_the_issuers_clock_may_be_off(claims: dict[str, Any], known: JwtTokens) -> None:
    assert await known.authenticate(carrying(signed(**claims))) is not None


async def test_the_servers_clock_decides(known: JwtTokens, clock: ManualClock) -> None:
    asked = Authentication([known], clock)
    token = signed()
    clock.advance(629)
    assert (await asked.identify(carrying(token))).name == "ada"
    clock.advance(1)
    assert asked.known(f"Bearer {token}", b"") is None
    assert (await refusal(asked, token))[0] == "CREDENTIALS_EXPIRED"


def forged(**header: Any) -> str:
    """A token whose header says anything, signed by a secret that everybody can know: the public key."""
    return jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "sub": "eve", "exp": NOW + 600}, "x" * 32, "HS256", headers=header
    )


def unsigned() -> str:
    parts = [{"alg": "none", "kid": "k1"}, {"iss": ISSUER, "aud": AUDIENCE, "sub": "eve", "exp": NOW + 600}]
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + "."


async def test_forged_tokens_are_refused(known: JwtTokens) -> None:
    good = signed()
    head, body, signature = good.split(".")
    other = signed(sub="eve").split(".")[1]
    symmetric = "The token is signed by 'HS256': only asymmetric algorithms count."
    for token, message in (
        (forged(kid="k1"), symmetric),
        (unsigned(), "The token is signed by 'none': only asymmetric algorithms count."),
        (f"{head}.{other}.{signature}", "The token is not good: Signature verification failed."),
        (signed("k2", header={"kid": "k1"}), "The token is not good: Signature verification failed."),
        (signed("k9"), "The token is signed by a key that its issuer does not list: 'k9'."),
        (signed("r", kind="RSA", algorithm="RS256", header={"kid": "k1"}),
         "The token is not good: The specified alg value is not allowed."),
        (signed(header={"kid": ""}), "The token is signed by a key that its issuer does not list: ''."),
    ):  # fmt: skip
        assert await refusal(known, token) == ("CREDENTIALS_INVALID", message)


def written(header: str, claims: str) -> str:
    """A token of any texts, which nobody has signed."""
    parts = (base64.urlsafe_b64encode(text.encode()).decode().rstrip("=") for text in (header, claims))
    return ".".join(parts) + ".AA"


HEADER, CLAIMS = '{"alg": "ES256", "kid": "k1"}', json.dumps({"iss": ISSUER})


@pytest.mark.parametrize(
    "token",
    [
        written("[" * 5000, CLAIMS), written(HEADER, "[" * 5000), written(HEADER, '{"a":' * 1500),
        written('{"alg": ' + "[" * 900 + "]" * 900 + "}", CLAIMS), written('{"alg": {"a": 1}}', CLAIMS),
        written('{"alg": "\\ud800"}', CLAIMS), written('{"alg": "ES256", "kid": ["k1"]}', CLAIMS),
        written('{"alg": "ES256", "kid": "\\ud800"}', CLAIMS), written(HEADER, '{"iss": "\\ud800"}'),
        written(HEADER, f'{{"iss": {"1" * 5000}}}'), written(HEADER, '{"iss": NaN}'), written(HEADER, "[]"),
        written("7", CLAIMS), written('{"alg": "ES256", "crit": ["\\ud800"]}', CLAIMS), "..",
        signed(header={"crit": ["x"], "x": 1}), signed(header={"crit": ["b64"], "b64": False}),
        signed(header={"crit": 7}), signed(exp=10**300), signed(sub="\ud800"), signed(sub=["ada"]),
        signed(scope=["\ud800"]), signed(aud={"a": 1}), signed(jti=7),
    ],
)  # fmt: skip
async def test_whatever_a_token_holds_it_is_unauthenticated(token: str, make_guarded: Any, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", public("k1"))
    guarded = await make_guarded(jwt_keys=keys, jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
    code, reason, _ = await refused(guarded.get("operations/x", (("authorization", f"Bearer {token}"),)))
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")


async def test_a_key_that_names_its_algorithm_serves_no_other(tmp_path: Path, clock: ManualClock) -> None:
    found = tokens(write_keys(tmp_path / "keys.json", public("k", "RSA", alg="RS256")), clock)
    assert await found.authenticate(carrying(signed("k", kind="RSA", algorithm="RS256"))) is not None
    refused = await refusal(found, signed("k", kind="RSA", algorithm="PS256"))
    assert refused == ("CREDENTIALS_INVALID", "The token is not good: The specified alg value is not allowed.")


async def test_a_single_key_needs_no_id(tmp_path: Path, clock: ManualClock) -> None:
    found = tokens(write_keys(tmp_path / "keys.json", public("k1")), clock)
    assert await found.authenticate(carrying(signed(header={"kid": ""}))) is not None


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.b.c", "\udcff.b.c", "longshore_00000000_x", signed(iss="https://other.example")]
)
async def test_other_tokens_are_others_to_judge(token: str, known: JwtTokens) -> None:
    assert await known.authenticate(carrying(token)) is None


async def test_keys_of_a_file_are_rotated(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "keys.json"
    asked = Authentication([tokens(write_keys(path, public("k1")), clock)], clock)
    assert (await asked.identify(carrying(signed("k1")))).name == "ada"
    write_keys(path, public("k1"), public("k2"))
    assert (await asked.identify(carrying(signed("k2")))).name == "ada", "a new key counts at once"
    write_keys(path, public("k2"))
    clock.advance(1)
    assert (await refusal(asked, signed("k1")))[1].startswith("The token is signed by a key that its issuer")


NONE = "keys: none of them is a public key that can check signatures"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file or directory"),
        ("{", "keys: it must be a JWKS: a JSON object with a list called keys"),
        ('{"keys": 1}', "keys: it must be a JWKS: a JSON object with a list called keys"),
        ('{"keys": [1]}', "keys[0]: it must be an object"),
        ('{"keys": []}', NONE),
        ("[" * 100_000, "keys: it must be a JWKS: a JSON object with a list called keys"),
        ('{"keys": [{"kty": "EC", "crv": ["P-256"]}]}', NONE),
        ('{"keys": [{"kty": "EC", "alg": ["ES256"]}]}', NONE),
        ('{"keys": [{"kty": ["EC"], "crv": "P-256", "kid": []}]}', NONE),
        (json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}), NONE),
        (json.dumps({"keys": [public("k", use="enc")]}), NONE),
        (json.dumps({"keys": [public("k"), public("k")]}), "keys[1].kid: 'k' is there twice"),
        (json.dumps({"keys": [json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private_key("k")))]}),
         "keys[0]: it is a private key, which only its issuer may have"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_file_key_and_reason(
    text: str | None, problem: str, tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / "keys.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FileError) as caught:
        tokens(str(path), clock)
    assert str(caught.value) == f"{path}: {problem}"


def test_a_key_that_cannot_be_used_does_not_hide_the_others(caplog: pytest.LogCaptureFixture) -> None:
    broken = {**public("k"), "x": "!"}
    with caplog.at_level(logging.WARNING):
        assert parse(json.dumps({"keys": [broken, public("k2")]}).encode(), "here").keys() == {"k2"}
    assert caplog.messages[0].startswith("here: keys[0] cannot be used: ")


class Issuer:
    """A web server that gives out keys; `gate` holds its answers back."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.reached.set()
                issuer.gate.wait()
                self.send_response(issuer.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(issuer.body)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"

    def publish(self, *entries: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": list(entries)}).encode()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.gate.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
async def remote(issuer: Issuer, clock: ManualClock) -> Authentication:
    issuer.publish(public("k1"))
    return Authentication([tokens(issuer.url, clock)], clock)


async def test_keys_are_fetched_at_the_first_use_and_kept(
    remote: Authentication, issuer: Issuer, clock: ManualClock
) -> None:
    assert issuer.asked == 0
    for name in ("ada", "bob"):
        assert (await remote.identify(carrying(signed(sub=name)))).name == name
    assert issuer.asked == 1


async def test_an_unknown_key_is_looked_for_but_not_all_the_time(
    remote: Authentication, issuer: Issuer, clock: ManualClock
) -> None:
    await remote.identify(carrying(signed()))
    for _ in range(5):
        assert (await refusal(remote, signed("k2")))[0] == "CREDENTIALS_INVALID"
    assert issuer.asked == 1, "callers choose which key they name: they must not drive the issuer"
    issuer.publish(public("k1"), public("k2"))
    clock.advance(10)
    assert (await remote.identify(carrying(signed("k2")))).name == "ada"
    assert issuer.asked == 2


async def test_all_who_wait_share_one_fetch_and_the_event_loop_goes_on(remote: Authentication, issuer: Issuer) -> None:
    issuer.gate.clear()
    asked = [asyncio.ensure_future(remote.identify(carrying(signed(sub=f"p{i}")))) for i in range(5)]
    left = asyncio.ensure_future(remote.identify(carrying(signed(sub="gone"))))
    await asyncio.to_thread(issuer.reached.wait)  # the event loop goes on meanwhile, or nobody would get here
    left.cancel()
    issuer.gate.set()
    assert [principal.name for principal in await asyncio.gather(*asked)] == [f"p{i}" for i in range(5)]
    assert issuer.asked == 1


async def fetched(remote: Authentication, clock: ManualClock) -> None:
    """Return once the fetch that is under way has ended and calls look at what it brought."""
    # Whoever needs a key that is not there waits for the fetch.
    await refusal(remote, signed("unknown"))
    clock.advance(1)


async def test_a_withdrawn_key_counts_no_more_after_an_hour(
    remote: Authentication, issuer: Issuer, clock: ManualClock
) -> None:
    token = signed(exp=NOW + 10_000)
    await remote.identify(carrying(token))
    issuer.publish(public("k2"))
    clock.advance(3599)
    assert (await remote.identify(carrying(token))).name == "ada"
    assert issuer.asked == 1
    clock.advance(1)
    await remote.look()
    await fetched(remote, clock)
    assert issuer.asked == 2
    assert (await refusal(remote, token))[0] == "CREDENTIALS_INVALID"


async def test_a_withdrawn_key_counts_no_more_once_another_was_looked_for(
    remote: Authentication, issuer: Issuer, clock: ManualClock
) -> None:
    token = signed(exp=NOW + 10_000)
    await remote.identify(carrying(token))
    issuer.publish(public("k2"))
    clock.advance(10)
    assert (await remote.identify(carrying(token))).name == "ada"
    assert (await remote.identify(carrying(signed("k2")))).name == "ada"
    clock.advance(1)
    assert (await refusal(remote, token))[0] == "CREDENTIALS_INVALID"


async def test_an_issuer_that_does_not_answer_keeps_nobody_waiting_who_is_known(
    issuer: Issuer, clock: ManualClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.publish(public("k1"))
    path = tmp_path / "tokens.toml"
    token, filed = signed(exp=NOW + 10_000), bearer(path, "eve")
    asked = Authentication([TokenFile(path, clock), tokens(issuer.url, clock)], clock)
    await asked.identify(carrying(token))
    issuer.gate.clear()
    issuer.reached.clear()
    clock.advance(3600)
    assert (await asked.identify(carrying(filed))).name == "eve"
    assert (await asked.identify(carrying(token))).name == "ada"
    assert caplog.messages == [], "the fetch has not ended, not even by giving up"
    await asyncio.to_thread(issuer.reached.wait)
    issuer.publish(public("k2"))
    issuer.gate.set()
    await fetched(asked, clock)
    assert (await refusal(asked, token))[0] == "CREDENTIALS_INVALID"
    assert (await asked.identify(carrying(filed))).name == "eve"
    assert issuer.asked == 2


async def test_an_issuer_that_fails_changes_nothing_and_is_asked_again(
    remote: Authentication, issuer: Issuer, clock: ManualClock
) -> None:
    token = signed(exp=NOW + 10_000)
    await remote.identify(carrying(token))
    issuer.status = 500
    clock.advance(3600)
    await remote.look()
    await fetched(remote, clock)
    assert issuer.asked == 2
    assert (await remote.identify(carrying(token))).name == "ada"
    issuer.status = 200
    issuer.publish(public("k2"))
    clock.advance(9)
    await remote.look()
    await fetched(remote, clock)
    assert issuer.asked == 3
    assert (await refusal(remote, token))[0] == "CREDENTIALS_INVALID"


async def test_a_new_key_of_an_issuer_that_fails_is_nothing_that_anybody_can_tell(
    remote: Authentication, issuer: Issuer, clock: ManualClock
) -> None:
    await remote.identify(carrying(signed()))
    issuer.publish(public("k1"), public("k2"))
    issuer.status = 500
    clock.advance(10)
    assert (await refusal(remote, signed("k2")))[0] == "IDENTITY_UNAVAILABLE"
    assert (await refusal(remote, signed("k2")))[0] == "IDENTITY_UNAVAILABLE", "also when it is not asked once more"
    assert issuer.asked == 2
    assert (await remote.identify(carrying(signed(sub="bob")))).name == "bob"
    assert (await remote.identify(carrying(signed("k1", header={"kid": ""})))).name == "ada", "the only key is meant"
    issuer.status = 200
    clock.advance(10)
    assert (await refusal(remote, signed("k3")))[0] == "CREDENTIALS_INVALID"
    assert (await remote.identify(carrying(signed("k2")))).name == "ada"


@pytest.mark.parametrize("wrong", ["status", "redirect", "body", "huge"])
async def test_without_keys_nobody_can_tell(wrong: str, remote: Authentication, issuer: Issuer) -> None:
    good = issuer.body
    issuer.status = {"status": 500, "redirect": 302}.get(wrong, 200)
    issuer.body = {"body": b"<html>", "huge": good[:-1] + b" " * (1 << 20) + b"}"}.get(wrong, good)
    with pytest.raises(ServiceError) as caught:
        await remote.identify(carrying(signed()))
    assert caught.value.reason is Reason.IDENTITY_UNAVAILABLE
    assert caught.value.retry_after == 10
    assert issuer.asked == 1, "no redirect is followed"


async def test_a_reload_fetches_at_once(remote: Authentication, issuer: Issuer) -> None:
    await remote.identify(carrying(signed()))
    issuer.publish(public("k2"))
    await remote.refresh(force=True)
    assert (await remote.identify(carrying(signed("k2")))).name == "ada"
    assert (await refusal(remote, signed("k1")))[0] == "CREDENTIALS_INVALID"


# Several issuers.


async def test_a_prefix_tells_the_subjects_of_issuers_apart(tmp_path: Path, clock: ManualClock) -> None:
    keys = write_keys(tmp_path / "keys.json", public("k1"))
    other = JwtTokens(issuer=OTHER, audience=AUDIENCE, keys=keys, clock=clock, prefix="other:")
    asked = Authentication([tokens(keys, clock, prefix="idp:"), other], clock)
    found = [(await asked.identify(carrying(signed(iss=issuer)))).name for issuer in (ISSUER, OTHER)]
    assert found == ["idp:ada", "other:ada"]
    for sub in ("", "a" * 253):
        assert (await refusal(asked, signed(sub=sub)))[1].startswith(SUBJECT), "the whole name must fit"


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (("a", ""), ("a", ""), True),
        (("a", ""), ("a", "x:"), True),
        (("a", "x:"), ("b", "y:"), True),
        (("a", ""), ("b", ""), False),
        (("a", "x:"), ("b", "x:"), False),
        (("a", "x:"), ("b", ""), False),
        (("a", "x:"), ("b", "x:y:"), False),
    ],
)
async def test_a_server_whose_issuers_could_name_the_same_principal_does_not_start(
    first: tuple[str, str], second: tuple[str, str], fits: bool, tmp_path: Path, make_guarded: Any
) -> None:
    keys = write_keys(tmp_path / "keys.json", public("k1"))
    clock = ManualClock()
    made = [
        JwtTokens(issuer=issuer, audience=AUDIENCE, keys=keys, clock=clock, prefix=prefix)
        for issuer, prefix in (first, second)
    ]
    if fits:
        await make_guarded(authenticators=made)
        return
    with pytest.raises(ConfigError) as caught:
        await make_guarded(authenticators=made)
    assert str(caught.value) == (
        "the issuers a and b could name the same principal: give each a prefix, of which none begins another"
    )


async def test_an_issuer_of_the_configuration_counts_with_those_of_the_code(tmp_path: Path, make_guarded: Any) -> None:
    keys = write_keys(tmp_path / "keys.json", public("k1"))
    made = JwtTokens(issuer=OTHER, audience=AUDIENCE, keys=keys, clock=ManualClock(), prefix="other:")
    with pytest.raises(ConfigError, match=r"^the issuers https://other\.example and https://idp\.example could name"):
        await make_guarded(authenticators=[made], jwt_keys=keys, jwt_issuer=ISSUER, jwt_audience=AUDIENCE)

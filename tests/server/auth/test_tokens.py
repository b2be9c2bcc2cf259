"""Bearer tokens from a file: hashed, revocable, expiring, read again when the file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from longshore_server.auth.authentication import Authentication
from longshore_server.auth.files import FileError
from longshore_server.auth.identity import Authenticator, Credentials, Principal
from longshore_server.auth.tokens import TokenFile
from longshore_server.command import token as command
from longshore_server.errors import Reason, ServiceError
from longshore_server.testing import ManualClock
from tests.server.auth.identities import bearer


def carrying(token: str, scheme: str = "Bearer") -> Credentials:
    return Credentials(f"{scheme} {token}")


async def refusal(authentication: Authentication | Authenticator, credentials: Credentials) -> tuple[Reason, str]:
    ask = authentication.identify if isinstance(authentication, Authentication) else authentication.authenticate
    with pytest.raises(ServiceError) as caught:
        await ask(credentials)
    return caught.value.reason, caught.value.message


async def test_a_token_is_a_principal_with_capabilities(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    ada, bob = bearer(path, "ada", "orders.read", "orders.write"), bearer(path, 'b"ob ä')
    found = TokenFile(path, ManualClock())
    assert await found.authenticate(carrying(ada)) == Principal(
        "ada", frozenset({"orders.read", "orders.write"}), None, "token"
    )
    assert await found.authenticate(carrying(bob, "bearer")) == Principal('b"ob ä', frozenset(), None, "token")


async def test_the_file_holds_no_secret_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    secret = bearer(path, "ada").rpartition("_")[2]
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("change", ["unknown", "other", "short", "long", "upper"])
async def test_a_wrong_token_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    token = bearer(path, "ada")
    wrong = {
        "unknown": token.replace(token.split("_")[1], "00000000"),
        "other": token[:-1] + ("A" if token[-1] != "A" else "B"),
        "short": token[:-1], "long": token + "A", "upper": token[:20] + token[20:].swapcase(),
    }[change]  # fmt: skip
    reason, message = await refusal(TokenFile(path, ManualClock()), carrying(wrong))
    assert reason is Reason.CREDENTIALS_INVALID
    assert message == "The token is not known here: it was revoked, or is another server's."


@pytest.mark.parametrize("change", ["none", "secret", "id"])
async def test_a_token_is_compared_in_constant_time_whether_or_not_there_is_such_an_id(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it compared itself: of what is compared nobody can choose a byte."""
    path = tmp_path / "tokens.toml"
    token = bearer(path, "ada")
    sent = {"none": token, "secret": token[:-4] + "AAAA", "id": token.replace(token.split("_")[1], "00000000")}[change]
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    known = TokenFile(path, ManualClock())
    if change == "none":
        assert await known.authenticate(carrying(sent)) is not None
    else:
        await refusal(known, carrying(sent))
    [(of_sent, of_known)] = compared
    assert of_sent == hashlib.sha256(sent.encode()).digest()
    assert len(of_known) == len(of_sent)


@pytest.mark.parametrize("authorization", ["", "Basic YTpi", "Bearer", "Bearer eyJ.a.b", "Bearer something-else"])
async def test_other_credentials_are_others_to_judge(authorization: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    bearer(path, "ada")
    assert await TokenFile(path, ManualClock()).authenticate(Credentials(authorization)) is None


async def test_an_expired_token_is_refused_by_the_servers_clock(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens.toml", ManualClock()
    token = bearer(path, "ada", expires=datetime(2026, 1, 1, 0, 1, tzinfo=UTC))
    known = Authentication([TokenFile(path, clock)], clock)
    clock.advance(59.9)
    principal = await known.identify(carrying(token))
    assert principal.expires == clock.now() + 100_000
    assert known.known(f"Bearer {token}", b"") == principal
    clock.advance(0.1)
    assert known.known(f"Bearer {token}", b"") is None, "what is remembered ends with the credentials"
    assert await refusal(known, carrying(token)) == (
        Reason.CREDENTIALS_EXPIRED, "The token expired at 2026-01-01T00:01:00Z.",
    )  # fmt: skip


async def test_a_change_of_the_file_counts_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens.toml", ManualClock()
    old = bearer(path, "ada")
    known = Authentication([TokenFile(path, clock)], clock)
    await known.identify(carrying(old))
    path.unlink()
    new = bearer(path, "eve")
    assert known.known(f"Bearer {old}", b"") is not None, "nobody has looked yet"
    clock.advance(1)
    assert known.known(f"Bearer {old}", b"") is None, "somebody has to look"
    assert (await refusal(known, carrying(old)))[0] is Reason.CREDENTIALS_INVALID
    assert (await known.identify(carrying(new))).name == "eve"


async def test_a_revoked_token_is_forgotten_by_a_reload(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens.toml", ManualClock()
    token = bearer(path, "ada")
    known = Authentication([TokenFile(path, clock)], clock)
    await known.identify(carrying(token))
    path.write_text("")
    await known.refresh(force=True)
    assert known.known(f"Bearer {token}", b"") is None
    assert (await refusal(known, carrying(token)))[0] is Reason.CREDENTIALS_INVALID


async def test_a_broken_new_file_changes_nothing_but_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = tmp_path / "tokens.toml", ManualClock()
    token = bearer(path, "ada")
    good = path.read_bytes()
    known = Authentication([TokenFile(path, clock)], clock)
    await known.identify(carrying(token))
    for broken in (b"[[token]", None, b"\xff"):
        path.unlink() if broken is None else path.write_bytes(broken)
        clock.advance(1)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert (await known.identify(carrying(token))).name == "ada"
            clock.advance(1)
            assert (await known.identify(carrying(token))).name == "ada"
        (line,) = caplog.messages  # once, not at every look
        assert line.startswith(f"{path}: ")
        assert line.endswith("; going on with what it said before")
    path.write_bytes(good)
    later = bearer(path, "eve")
    clock.advance(1)
    assert (await known.identify(carrying(later))).name == "eve"


async def test_only_so_many_callers_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longshore_server.auth.authentication.SIZE", 2)
    path, clock = tmp_path / "tokens.toml", ManualClock()
    tokens = [bearer(path, f"p{i}") for i in range(3)]
    known = Authentication([TokenFile(path, clock)], clock)
    for token in tokens:
        await known.identify(carrying(token))
    assert [known.known(f"Bearer {token}", b"") is not None for token in tokens] == [False, False, True]


async def test_a_reload_during_the_verification_is_not_overtaken_by_it(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens.toml", ManualClock()
    token = bearer(path, "ada")
    known: Authentication

    class Slow(TokenFile):
        async def authenticate(self, credentials: Credentials) -> Principal | None:
            found = await super().authenticate(credentials)
            path.write_text("")
            await known.refresh(force=True)
            return found

    known = Authentication([Slow(path, clock)], clock)
    assert (await known.identify(carrying(token))).name == "ada"
    assert known.known(f"Bearer {token}", b"") is None


ENTRY = {"id": '"00c0ffee"', "principal": '"ada"', "capabilities": '["a"]', "sha256": f'"{"0" * 64}"'}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": '"xyz"'}, "token[1].id: it must be 8 hexadecimal digits"),
        ({"id": '"11c0ffee"'}, "token[1].id: 11c0ffee is there twice"),
        ({"id": None}, "token[1].id: it is missing"),
        ({"sha256": '"00"'}, "token[1].sha256: it must be 64 hexadecimal digits"),
        ({"sha256": "5"}, "token[1].sha256: it must be 64 hexadecimal digits"),
        ({"principal": '""'}, "token[1].principal: it must be a text that is not empty"),
        ({"principal": "7"}, "token[1].principal: it must be a text that is not empty"),
        ({"principal": '"local"'}, "token[1].principal: 'local' is reserved for servers without authentication"),
        ({"principal": '"a\\u0007"'}, "token[1].principal: it must be printable"),
        ({"principal": f'"{"a" * 257}"'}, "token[1].principal: it must not be longer than 256 bytes"),
        ({"capabilities": '"a"'}, "token[1].capabilities: it must be a list of texts"),
        ({"capabilities": '["a b"]'}, "token[1].capabilities: 'a b' cannot be a capability"),
        ({"expires": '"tomorrow"'}, "token[1].expires: it must be a time with its zone, like 2027-01-01T00:00:00Z"),
        ({"expires": "2027-01-01"}, "token[1].expires: it must be a time with its zone, like 2027-01-01T00:00:00Z"),
        ({"x": "1"}, "token[1].x: there is no such key; there are id, principal, capabilities, sha256, expires"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_file_key_and_reason(
    change: dict[str, str | None], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    tables: list[dict[str, str | None]] = [{**ENTRY, "id": '"11c0ffee"'}, {**ENTRY, **change}]
    path.write_text("".join("[[token]]\n" + "".join(f"{k} = {v}\n" for k, v in table.items() if v) for table in tables))
    with pytest.raises(FileError) as caught:
        TokenFile(path, ManualClock())
    assert str(caught.value) == f"{path}: {problem}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tokens = []", "tokens: there is no such key; the file holds [[token]]"),
        ("token = 1", "token: it must be written as [[token]]"),
        ("[[token]", "Expected ']]'"),
        (f"token = {'[' * 5000}", "it is nested too deeply"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_of_another_form_is_refused(text: str | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FileError) as caught:
        TokenFile(path, ManualClock())
    assert str(caught.value).startswith(f"{path}: {problem}")


async def test_the_command_makes_a_token_that_the_server_knows(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text("# ours")  # without a line end
    arguments = ["ada", "--capability", "orders.read", "--capability", "orders.write", "--tokens", str(path)]
    done = CliRunner().invoke(command, [*arguments, "--days", "90"])
    assert done.exit_code == 0, done.output
    token = done.stdout.strip()
    assert token not in path.read_text()
    principal = await TokenFile(path, ManualClock()).authenticate(carrying(token))
    assert principal is not None
    assert (principal.name, set(principal.capabilities)) == ("ada", {"orders.read", "orders.write"})
    assert principal.expires is not None
    assert abs(principal.expires / 1e6 - datetime.now(UTC).timestamp() - 90 * 86_400) < 60
    again = CliRunner().invoke(command, ["bob"], env={"LONGSHORE_TOKENS": str(path)})
    assert "does not expire" in again.stderr
    found = TokenFile(path, ManualClock())
    assert [await found.authenticate(carrying(t.strip())) is not None for t in (token, again.stdout)] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["local"], "error: principal: 'local' is reserved"),
        (["ada", "--capability", "a b"], "error: capabilities: 'a b' cannot be a capability"),
    ],
)
def test_the_command_refuses_what_the_server_would(arguments: list[str], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    done = CliRunner().invoke(command, [*arguments, "--tokens", str(path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(problem)
    assert not path.exists()


@pytest.mark.parametrize("days", ["1e12", "nan", "inf"])
def test_the_command_refuses_a_life_that_does_not_end(days: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    done = CliRunner().invoke(command, ["ada", "--days", days, "--tokens", str(path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Invalid value for --days: " in done.stderr
    assert "days do not end before the year 10000" in done.stderr
    assert not path.exists()


def test_the_command_adds_nothing_to_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text("[[token]]\n")
    done = CliRunner().invoke(command, ["ada", "--tokens", str(path)])
    assert done.exit_code == 2
    assert done.stderr == f"error: {path}: token[0].id: it is missing\n"
    assert path.read_text() == "[[token]]\n"

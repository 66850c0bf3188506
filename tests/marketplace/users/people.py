"""People who sign up and in at a marketplace, as the tests play them."""

import json
from dataclasses import dataclass, field

import httpx
import pyotp

from marketplace.users.letters import take_letters

PASSWORD = "seven green lamps"


@dataclass
class Somebody:
    """One person with a program (a bearer token) or a browser (a cookie jar of its own)."""

    world: object
    email: str
    password: str = PASSWORD
    token: str = ""
    secret: str = ""
    recovery_codes: list[str] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    async def sign_up(self, **more) -> httpx.Response:
        body = {"email": self.email, "password": self.password, **more}
        return await self.world.http.post("/v1/users", json=body)

    async def sign_in(self, **more) -> httpx.Response:
        body = {"email": self.email, "password": self.password, **more}
        answer = await self.world.http.post("/v1/logins", json=body)
        if answer.status_code == 201 and answer.json()["token"]:
            self.token = answer.json()["token"]
        return answer

    async def ask(self, method, path, body=None) -> httpx.Response:
        """A request of theirs; a new token in the answer is taken."""
        answer = await self.world.http.request(method, path, json=body, headers=self.headers)
        data = answer.json() if answer.content else None
        if isinstance(data, dict) and "token" in data:
            self.token = answer.json()["token"]
        return answer

    def code(self) -> str:
        """What the authenticator shows now; time moves on so that the next is another."""
        self.world.pass_time(30)
        return pyotp.TOTP(self.secret).at(self.world.clock.now)

    async def enrol(self) -> None:
        begun = await self.ask("POST", "/v1/me/totp", {"password": self.password})
        assert begun.status_code == 200, begun.text
        self.secret = begun.json()["secret"]
        done = await self.ask("POST", "/v1/me/totp/confirm", {"code": self.code()})
        assert done.status_code == 200, done.text
        self.recovery_codes = done.json()["recovery_codes"]


async def somebody(world, email="ann@example.com", **more) -> Somebody:
    """Signed up and in."""
    person = Somebody(world, email, **more)
    assert (await person.sign_up()).status_code == 202
    assert (await person.sign_in()).status_code == 201
    return person


def letters(world) -> list[dict[str, str]]:
    """Everything that waits to be sent, taken."""
    with world.market.database.transaction() as session:
        rows = take_letters(session, now_s=world.clock.now)
        return [{"to": row.email, "subject": row.subject, "text": row.text} for row in rows]


def token_in(letter: dict[str, str]) -> str:
    return next(word for word in letter["text"].replace(",", " ").split() if len(word) == 43)


def without_times(answer: httpx.Response) -> tuple:
    """Everything of an answer that a stranger could compare."""
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, answer.content, json.dumps(headers)

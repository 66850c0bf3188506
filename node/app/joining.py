"""Asking a person whose this machine is: a code on the screen, and polls until it is approved.

The device flow of RFC 8628: polls at the interval that the marketplace names, slower when it says
so, and again later when it does not answer.
"""

import asyncio
import dataclasses
import platform
from collections.abc import Callable
from typing import Protocol

from node.account_client import AccountClient, DeviceAnswer, DeviceCode
from node.config import Home
from node.errors import MarketRefused, MarketUnreachable, NodeError

__all__ = [
    "DeviceRefused",
    "DeviceScreen",
    "DeviceUnanswered",
    "bind_machine",
    "machine_name",
    "wait_for_approval",
    "waits_for_owner",
]

SLOWER_BY_S = 5.0
"""RFC 8628, 3.5: what `slow_down` adds."""
INTERVAL_S_MAX = 60.0
NAME_CHARACTERS_MAX = 128


class DeviceRefused(NodeError):
    """Somebody looked at the code and said no."""

    def __init__(self) -> None:
        super().__init__("This machine was refused.", hint="Run the command again if it is yours.")


class DeviceUnanswered(NodeError):
    """The code's time is over and nobody has approved it."""

    def __init__(self) -> None:
        super().__init__("Nobody approved the code in time.", hint="Run the command again.")


class DeviceScreen(Protocol):
    """Where a person sees the code, and that something waits for them."""

    def show(self, code: DeviceCode) -> None:
        """The code and the address."""

    def wait(self, left_s: float) -> None:
        """Still waiting, for so long at most; called about every second."""

    def close(self) -> None:
        """The wait is over, whatever came of it."""


def machine_name() -> str:
    """What this machine calls itself."""
    name = "".join(letter for letter in platform.node() if letter.isprintable())
    return name[:NAME_CHARACTERS_MAX] or "a machine"


async def waits_for_owner(client: AccountClient, home: Home) -> bool:
    """Whether this machine belongs to nobody, at a marketplace that keeps accounts of machines."""
    home.pin_market(client.url, (await client.terms()).peer_id)
    try:
        return not (await client.own_machine()).account_id
    except MarketRefused as error:
        if error.status != 404:
            raise
        return False


async def bind_machine(
    client: AccountClient,
    home: Home,
    screen: DeviceScreen | None,
    stop: asyncio.Event,
    tell: Callable[[str], None],
    *,
    country: str = "",
) -> None:
    """See to it that this machine belongs to an account; without a `screen` only say how it stands.

    country: where its owner is paid, as they said here; the page asks them to confirm it, for this
    machine's key has no say in where an account's money goes. Empty: the page asks alone.
    Raises DeviceRefused, and MarketUnreachable or MarketRefused as any request does. A code that
    nobody answers is no error: the machine serves, and its earnings wait.
    """
    home.pin_market(client.url, (await client.terms()).peer_id)
    try:
        machine = await client.own_machine()
    except MarketRefused as error:
        if error.status != 404:
            raise
        tell("this marketplace keeps no accounts of machines")
        return
    if machine.account_id:
        tell(f"this machine earns for the account '{machine.account_name}'")
        if country:
            _tell_page(client, country, tell)
        return
    if screen is None:
        tell("this machine belongs to no account: its earnings wait until one has approved it")
        return
    try:
        answer = await wait_for_approval(client, "machine", screen, stop, country=country)
    except DeviceUnanswered:
        tell("nobody approved the code: this machine serves, and its earnings wait")
        return
    if answer is not None:
        tell(f"this machine earns for the account '{answer.account_name}' from now on")
        _tell_page(client, country, tell)


def _tell_page(client: AccountClient, country: str, tell: Callable[[str], None]) -> None:
    page = f"{client.url}/device" + (f"#country={country}" if country else "")
    tell(f"to be paid out, open {page} where you are signed in: it leads on")


async def wait_for_approval(
    client: AccountClient,
    purpose: str,
    screen: DeviceScreen,
    stop: asyncio.Event,
    *,
    country: str = "",
) -> DeviceAnswer | None:
    """Show a code and wait for its answer; None where `stop` was set first.

    `country` goes to the page with the code. Raises DeviceRefused or DeviceUnanswered.
    """
    code = await client.begin_device(machine_name(), purpose)
    if country and "#" in code.address_with_code:
        address = f"{code.address_with_code}&country={country}"
        code = dataclasses.replace(code, address_with_code=address)
    loop = asyncio.get_running_loop()
    until_s = loop.time() + code.lifetime_s
    interval_s = code.interval_s
    screen.show(code)
    try:
        while loop.time() < until_s:
            if await _pause(interval_s, until_s, screen, stop):
                return None
            try:
                return await client.ask_device(code.device_code)
            except MarketRefused as error:
                interval_s = _interval_after(error, interval_s)
            except MarketUnreachable:
                # away for a moment: the code is still good, and asking more often helps nobody
                interval_s = min(2 * interval_s, INTERVAL_S_MAX)
    finally:
        screen.close()
    raise DeviceUnanswered


def _interval_after(error: MarketRefused, interval_s: float) -> float:
    """How long to wait after a refusal; raises what ends the wait."""
    match error.code:
        case "authorization_pending":
            return interval_s
        case "slow_down":
            return min(interval_s + SLOWER_BY_S, INTERVAL_S_MAX)
        case "access_denied":
            raise DeviceRefused from error
        case "expired_token":
            raise DeviceUnanswered from error
    raise error


async def _pause(
    interval_s: float, until_s: float, screen: DeviceScreen, stop: asyncio.Event
) -> bool:
    """Wait for an interval, a second at a time, showing how long is left; whether to stop."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + interval_s
    while (now_s := loop.time()) < end_s:
        screen.wait(max(0.0, until_s - now_s))
        try:
            await asyncio.wait_for(stop.wait(), min(1.0, end_s - now_s))
        except TimeoutError:
            continue
        return True
    return False

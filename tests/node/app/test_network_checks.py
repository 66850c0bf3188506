"""How much the LAN matters, and what is known of a marketplace that does not answer."""

from pathlib import Path

from node.app.doctor import DoctorOptions
from node.app.network_checks import relays_of_market, soften
from protocol.identity import KeyPair
from transport.address import TcpAddress
from transport.diagnosis.finding import Finding, Level

RELAY = TcpAddress("9.9.9.1", 4001, KeyPair.generate().peer_id)


def options(**given) -> DoctorOptions:
    empty = {"relays": (), "market_url": "", "peers": ()}
    return DoctorOptions(home=Path(), api_port=8470, listen_port=0, **(empty | given))


def test_lan_matters_where_nothing_beyond_it_was_named():
    assert options().is_for_lan
    assert options(relays=(RELAY,), peers=("a:1",)).is_for_lan
    assert not options(relays=(RELAY,)).is_for_lan
    assert not options(market_url="http://market").is_for_lan


def test_what_is_grave_on_a_lan_is_only_worth_a_word_elsewhere():
    grave = Finding("a", Level.FAIL, "x", "mend it")
    poor = Finding("b", Level.WARN, "y", "mend it")
    well = Finding("c", Level.OK, "z")
    softer = soften([grave, poor, well])
    assert [(f.level, f.fix) for f in softer] == [
        (Level.WARN, "mend it"), (Level.OK, ""), (Level.OK, ""),
    ]  # fmt: skip


async def test_silent_marketplace_names_no_relays():
    assert await relays_of_market("http://127.0.0.1:9") == ()

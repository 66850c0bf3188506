"""What `piecework status` says of the network in a line each."""

from node.cli.status import network_lines

NETWORK = {
    "relays": [
        {"relay": "/ip4/203.0.113.9/tcp/4001/p2p/12D3KooX", "state": "reserved", "reason": ""},
        {"relay": "/ip4/203.0.113.8/tcp/4001/p2p/12D3KooY", "state": "refused", "reason": "Full."},
    ],
    "nat": {"mapping": "independent", "observed": ["203.0.113.5:40001"]},
    "connections": [{"path_kind": "lan"}, {"path_kind": "relayed"}, {"path_kind": "lan"}],
}


def test_relays_outside_address_and_path_kinds_have_a_line_each():
    assert network_lines(NETWORK) == [
        ("relay", "/ip4/203.0.113.9/tcp/4001 reserved"),
        ("relay", "/ip4/203.0.113.8/tcp/4001 refused Full."),
        ("outside", "203.0.113.5:40001 (NAT mapping: independent)"),
        ("connections", "2 lan, 1 relayed"),
    ]


def test_node_without_relays_or_connections_says_nothing_of_them():
    assert network_lines({"relays": [], "nat": {"observed": []}, "connections": []}) == []

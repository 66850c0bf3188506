"""What the status page of a running node says of its paths."""

import json

from node.app.node_check import check_node, node_findings
from transport.diagnosis.finding import Level


def path(kind: str, *, is_current: bool = True, reason: str = "") -> dict[str, object]:
    return {"kind": kind, "is_current": is_current, "reason": reason}


def test_node_without_connections_only_runs():
    assert [f.name for f in node_findings({"role": "provider"})] == ["node"]
    assert [f.name for f in node_findings({"paths": [path("relayed", is_current=False)]})] == [
        "node"
    ]


def test_direct_paths_are_well():
    status = {"role": "provider", "paths": [path("punched"), path("relayed"), path("lan")]}
    _, paths = node_findings(status)
    assert paths.level is Level.OK
    assert "1 lan, 1 punched, 1 relayed" in paths.text


def test_only_relayed_paths_are_worth_a_word_with_the_usual_reason():
    failed = [path("punched", is_current=False, reason="no answer in 3 s.")] * 2
    status = {"paths": [path("relayed"), *failed, path("lan", is_current=False, reason="x")]}
    _, paths = node_findings(status)
    assert paths.level is Level.WARN
    assert "no answer in 3 s." in paths.text


def test_what_is_not_a_list_of_paths_is_left_alone():
    assert len(node_findings({"paths": "many"})) == 1
    assert len(node_findings({"paths": [3, None]})) == 1


async def test_home_without_a_node_and_one_with_a_dead_one_say_nothing(tmp_path):
    assert await check_node(tmp_path) == []
    (tmp_path / "status.json").write_text(json.dumps({"status_url": "http://127.0.0.1:9/status"}))
    assert await check_node(tmp_path) == []

"""Disk, memory, ports and engines of this machine."""

import asyncio

import pytest

from node.app.machine_checks import check_disk, check_memory, check_ports, engine_findings
from node.engine.errors import BackendMissing
from node.engine.probe import EngineProbe, probe_engine
from transport.diagnosis.finding import Level

FAST = EngineProbe("torch 2", "cpu", "float32", 80.0)
SLOW = EngineProbe("mlx 0", "cpu", "float32", 2.0)


async def test_home_that_is_not_there_yet_is_judged_by_the_directory_above(tmp_path):
    (finding,) = await check_disk(tmp_path / "not" / "yet")
    assert str(tmp_path) in finding.text
    assert not (tmp_path / "not").exists()


async def test_memory_says_what_a_node_would_take():
    (finding,) = await check_memory()
    assert "a node would take" in finding.text


async def test_taken_ports_are_worth_a_word_and_free_ones_are_well(tmp_path):
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    taken = server.sockets[0].getsockname()[1]
    api, data = await check_ports(tmp_path, taken, 0)
    server.close()
    await server.wait_closed()
    assert (api.level, data.level) == (Level.WARN, Level.OK)
    assert str(taken) in api.text
    assert [f.level for f in await check_ports(tmp_path, taken, 0)] == [Level.OK, Level.OK]


@pytest.mark.parametrize(
    ("probes", "levels"),
    [
        ([FAST], [Level.OK]),
        ([FAST, SLOW], [Level.OK, Level.OK]),
        ([SLOW], [Level.WARN]),
        ([BackendMissing("torch is broken")], [Level.FAIL]),
        ([BackendMissing("torch is broken"), SLOW], [Level.WARN, Level.WARN]),
    ],
    ids=["fast", "one fast", "slow", "broken", "broken beside another"],
)
def test_engine_is_judged_beside_the_others(probes, levels):
    assert [finding.level for finding in engine_findings(probes)] == levels


async def test_backend_that_does_not_import_says_why():
    with pytest.raises(BackendMissing, match="ModuleNotFoundError"):
        await probe_engine("broken")

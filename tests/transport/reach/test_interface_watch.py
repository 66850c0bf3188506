import asyncio

from tests.transport.control_hosts import until
from transport.reach.interface_watch import InterfaceWatch, physical_hosts


class Machine:
    def __init__(self) -> None:
        self.hosts = frozenset({"192.168.1.5"})
        self.looks = 0
        self.is_broken = False
        self.changes = 0

    def read(self) -> frozenset[str]:
        self.looks += 1
        if self.is_broken:
            raise OSError("gone")
        return self.hosts

    def changed(self) -> None:
        self.changes += 1


async def test_other_addresses_are_told_once():
    machine = Machine()
    watch = InterfaceWatch(machine.changed, read=machine.read, interval_s=0.005)
    watch.start()
    await until(lambda: machine.looks > 3)
    assert machine.changes == 0
    machine.hosts = frozenset({"192.168.1.5", "10.0.0.7"})
    await until(lambda: machine.changes == 1)
    looks = machine.looks
    await until(lambda: machine.looks > looks + 3)
    assert machine.changes == 1
    await watch.close()


async def test_look_that_fails_is_no_change():
    machine = Machine()
    watch = InterfaceWatch(machine.changed, read=machine.read, interval_s=0.005)
    watch.start()
    await until(lambda: machine.looks > 1)
    machine.is_broken = True
    looks = machine.looks
    await until(lambda: machine.looks > looks + 3)
    machine.is_broken = False
    await until(lambda: machine.looks > looks + 6)
    assert machine.changes == 0
    await watch.close()


async def test_close_ends_it():
    before = asyncio.all_tasks()
    watch = InterfaceWatch(lambda: None)
    await watch.close()
    watch.start()
    await watch.close()
    assert asyncio.all_tasks() == before


def test_this_machines_addresses_are_without_loopback():
    assert not {"127.0.0.1", "::1"} & physical_hosts()

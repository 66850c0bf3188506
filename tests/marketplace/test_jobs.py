"""What the marketplace does between requests."""

import threading
import time

from sqlalchemy import text

from ledger.partitions import WINDOWS_AHEAD
from marketplace.jobs import partition
from tests.marketplace.racing import on_postgresql


@on_postgresql
async def test_parts_are_made_once_the_readers_are_gone(world):
    reading, later_s = threading.Event(), 0.3

    def read() -> None:
        with world.market.database.reading() as session:
            session.execute(text("SELECT count(*) FROM ledger_receipt"))
            reading.set()
            time.sleep(later_s)

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(10)
    assert partition(world.market) == WINDOWS_AHEAD + 1
    reader.join()
    assert partition(world.market) == 0

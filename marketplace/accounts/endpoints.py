"""HTTP of `accounts`."""

from fastapi import APIRouter, status

from marketplace.accounts import service
from marketplace.accounts.schemas import AccountCreated, AccountSchema, NewAccount
from marketplace.endpoints import AnyBuyer, MarketOf

__all__ = ["router"]

router = APIRouter(tags=["accounts"])


@router.post("/v1/accounts", status_code=status.HTTP_201_CREATED)
def create_account(body: NewAccount, market: MarketOf) -> AccountCreated:
    """Open an account; the API key in the answer is shown this once."""
    with market.database.transaction() as session:
        return service.create(session, body.name, now_s=market.clock.now_s())


@router.get("/v1/account")
def show_account(caller: AnyBuyer, market: MarketOf) -> AccountSchema:
    """The account behind the API key, with its balance."""
    with market.database.reading() as session:
        return service.show(session, caller.account_id)

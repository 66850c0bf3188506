"""HTTP of `keys`."""

from typing import Annotated

from fastapi import APIRouter, Path, status

from marketplace.auth import Scope
from marketplace.endpoints import ManagingBuyer, MarketOf
from marketplace.keys import service
from marketplace.keys.schemas import KeyCreated, KeyList, NewKeySchema

__all__ = ["router"]

router = APIRouter(prefix="/v1/keys", tags=["keys"])

KeyId = Annotated[str, Path(pattern="^[a-z0-9]{8}$")]


@router.post("", status_code=status.HTTP_201_CREATED)
def create_key(body: NewKeySchema, caller: ManagingBuyer, market: MarketOf) -> KeyCreated:
    """Make a key; its text is shown this once."""
    scopes = frozenset(Scope(name) for name in body.scopes)
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        key = service.create(session, caller.account_id, body.name, scopes, now_s=now_s)
    return KeyCreated(key_id=key.key_id, name=body.name, scopes=sorted(scopes), api_key=key.text)


@router.get("")
def list_keys(caller: ManagingBuyer, market: MarketOf) -> KeyList:
    """Every key of the account, revoked ones too; never a secret."""
    with market.database.reading() as session:
        return service.listing(session, caller.account_id)


@router.delete("/{key_id}", status_code=status.HTTP_204_NO_CONTENT)
def revoke_key(key_id: KeyId, caller: ManagingBuyer, market: MarketOf) -> None:
    """End a key at once; again is no error."""
    with market.database.transaction() as session:
        service.revoke(session, caller.account_id, key_id, now_s=market.clock.now_s())

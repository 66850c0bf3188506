"""HTTP of `keys`."""

from typing import Annotated

from fastapi import APIRouter, Path, status

from marketplace.auth import Scope
from marketplace.endpoints import AnyBuyer, ManagingBuyer, MarketOf
from marketplace.errors import KeyInvalid
from marketplace.keys import service
from marketplace.keys.periods import Reset
from marketplace.keys.schemas import KeyChange, KeyCreated, KeyList, NewKeySchema, Rotation
from marketplace.keys.service import KeyLimits

__all__ = ["router"]

router = APIRouter(prefix="/v1/keys", tags=["keys"])

KeyId = Annotated[str, Path(pattern="^[a-z0-9]{8}$")]


@router.post("", status_code=status.HTTP_201_CREATED)
def create_key(body: NewKeySchema, caller: ManagingBuyer, market: MarketOf) -> KeyCreated:
    """Make a key; its text is shown this once."""
    scopes = frozenset(Scope(name) for name in body.scopes)
    limits = KeyLimits(
        expires_at_s=body.expires_at_s,
        spend_limit_nanos=body.spend_limit_nanos,
        spend_reset=Reset(body.spend_reset),
        requests_per_minute_max=body.requests_per_minute_max,
        parallel_max=body.parallel_max,
    )
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        key = service.create(
            session, caller.account_id, body.name, scopes, now_s=now_s, limits=limits
        )
    return KeyCreated(key_id=key.key_id, name=body.name, scopes=sorted(scopes), api_key=key.text)


@router.get("")
def list_keys(caller: ManagingBuyer, market: MarketOf) -> KeyList:
    """Every key of the account, revoked ones too; never a secret."""
    with market.database.reading() as session:
        return service.listing(session, caller.account_id, now_s=market.clock.now_s())


@router.delete("/current", status_code=status.HTTP_204_NO_CONTENT)
def revoke_own_key(caller: AnyBuyer, market: MarketOf) -> None:
    """End the very key that asks: any key may do that."""
    if caller.key_id is None:
        raise KeyInvalid
    with market.database.transaction() as session:
        service.revoke(session, caller.account_id, caller.key_id, now_s=market.clock.now_s())


@router.patch("/{key_id}", status_code=status.HTTP_204_NO_CONTENT)
def change_key(key_id: KeyId, body: KeyChange, caller: ManagingBuyer, market: MarketOf) -> None:
    """Another name, end or limit."""
    with market.database.transaction() as session:
        service.change(session, caller.account_id, key_id, body)


@router.post("/{key_id}/rotate", status_code=status.HTTP_201_CREATED)
def rotate_key(
    key_id: KeyId, body: Rotation, caller: ManagingBuyer, market: MarketOf
) -> KeyCreated:
    """A new key in the place of this one, which is good for `overlap_s` more."""
    with market.database.transaction() as session:
        key, row = service.rotate(
            session,
            caller.account_id,
            key_id,
            overlap_s=body.overlap_s,
            now_s=market.clock.now_s(),
        )
    return KeyCreated(
        key_id=key.key_id, name=row.name, scopes=row.scopes.split(","), api_key=key.text
    )


@router.delete("/{key_id}", status_code=status.HTTP_204_NO_CONTENT)
def revoke_key(key_id: KeyId, caller: ManagingBuyer, market: MarketOf) -> None:
    """End a key at once; again is no error."""
    with market.database.transaction() as session:
        service.revoke(session, caller.account_id, key_id, now_s=market.clock.now_s())

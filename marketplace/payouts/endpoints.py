"""HTTP of `payouts`."""

from fastapi import APIRouter

__all__ = ["router"]

router = APIRouter(tags=["payouts"])

"""HTTP of `machines`."""

from fastapi import APIRouter

__all__ = ["router"]

router = APIRouter(tags=["machines"])

"""HTTP of `usage`."""

from fastapi import APIRouter

__all__ = ["router"]

router = APIRouter(tags=["usage"])

"""HTTP of `disputes`."""

from fastapi import APIRouter

__all__ = ["router"]

router = APIRouter(tags=["disputes"])

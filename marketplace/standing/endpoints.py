"""HTTP of `standing`."""

from fastapi import APIRouter

__all__ = ["router"]

router = APIRouter(tags=["standing"])

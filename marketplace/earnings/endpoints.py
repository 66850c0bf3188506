"""HTTP of `earnings`."""

from fastapi import APIRouter

__all__ = ["router"]

router = APIRouter(tags=["earnings"])

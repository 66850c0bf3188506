"""HTTP of `users`."""

from fastapi import APIRouter

__all__ = ["router"]

router = APIRouter(tags=["users"])

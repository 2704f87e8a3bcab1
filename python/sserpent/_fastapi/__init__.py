"""The side of FastAPI and Starlette: the response class, and the seam that brings routes to it."""

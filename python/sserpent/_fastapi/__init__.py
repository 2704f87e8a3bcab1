"""What FastAPI and Starlette see: the response class, and the seam that brings routes to it."""

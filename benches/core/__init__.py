"""Values to bytes: events, frames, JSON and the buffer, one call at a time."""

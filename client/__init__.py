"""What subscribers import: an async client of the gateway that proves its own stream."""

"""The gateway: one WebSocket endpoint, to every subscriber a snapshot and then every change."""

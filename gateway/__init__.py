"""The subscribers' side: WebSocket fan-out, REST and health."""

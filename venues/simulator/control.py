"""`/sim/…`: what a person or a test steers the exchange with; the real one has none of it."""

from fastapi import FastAPI, HTTPException

from venues.simulator.fault_spec import FaultSpec
from venues.simulator.faults import TooManyFaultsError
from venues.simulator.venue import UnknownTargetError, Venue


def mount(app: FastAPI, venue: Venue) -> None:
    """Add the control routes to an app."""

    @app.post("/sim/faults", status_code=201)
    async def _inject(spec: FaultSpec) -> dict[str, object]:
        try:
            fault = venue.inject(spec)
        except (UnknownTargetError, TooManyFaultsError) as error:
            raise HTTPException(400, str(error)) from error
        return fault.describe(venue.clock())

    @app.get("/sim/faults")
    async def _faults() -> dict[str, object]:
        return {"faults": venue.faults.describe(venue.clock())}

    @app.delete("/sim/faults")
    async def _clear() -> dict[str, int]:
        return {"cleared": venue.clear()}

    @app.delete("/sim/faults/{fault_id}")
    async def _clear_one(fault_id: int) -> dict[str, int]:
        return {"cleared": venue.clear(fault_id)}

    @app.get("/sim/status")
    async def _status() -> dict[str, object]:
        return venue.status()

    @app.post("/sim/pause")
    async def _pause() -> dict[str, object]:
        venue.pause()
        return venue.status()

    @app.post("/sim/resume")
    async def _resume() -> dict[str, object]:
        venue.resume()
        return venue.status()

"""The gateway's health, and who listens on this machine's ports."""

import asyncio
from typing import Any

import httpx
import psutil

from cli.checks.finding import Finding, broken, ok, warning
from models.settings import Settings

_GATEWAY, _METRICS = "gateway", "metrics port"
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared with, not bound to


def base_url(host: str, port: int) -> str:
    """Return where a server of this machine is asked; one that listens everywhere, on loopback."""
    host = _ANYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def gateway(settings: Settings, answer_s: float) -> list[Finding]:
    """Ask `/healthz`, then `/readyz`; where nothing of ours answers, say who listens.

    GATEWAY_HOST=0.0.0.0 says where a gateway listens and not where one is: all processes of an
    installation may have it, so that none is here is a warning then.
    """
    url = base_url(settings.gateway_host, settings.gateway_port)
    try:
        async with httpx.AsyncClient(timeout=answer_s, trust_env=False) as http:
            for path, meaning in (("/healthz", "must be replaced"), ("/readyz", "not ready")):
                answer = await http.get(url + path)
                reason = _reason(answer)
                if reason is None:
                    return [await _stranger(url, settings.gateway_port)]
                if not answer.is_success:
                    return [broken(_GATEWAY, f"{url}: {meaning}: {reason}")]
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        who = await asyncio.to_thread(listener, settings.gateway_port)
        if who:
            text = f"{url}: no answer ({why}) from {who}, which listens there"
            return [broken(_GATEWAY, text)]
        return [_absent(settings.gateway_host, url)]
    return [ok(_GATEWAY, f"{url}: healthy and ready")]


def _absent(host: str, url: str) -> Finding:
    if host in _ANYWHERE:
        return warning(
            _GATEWAY,
            f"{url}: nobody listens; if the gateway is elsewhere ask there, or set GATEWAY_HOST to "
            "where it is",
        )
    return broken(_GATEWAY, f"{url}: nobody listens; start the gateway (`ledgerflux gateway`)")


def _reason(answer: httpx.Response) -> str | None:
    """Return what a gateway says, an empty text if all is well; none if this is no gateway."""
    try:
        told: Any = answer.json()
    except ValueError:
        return None
    if not isinstance(told, dict) or "ok" not in told:
        return None
    return str(told.get("reason") or "")


async def _stranger(url: str, port: int) -> Finding:
    who = await asyncio.to_thread(listener, port) or "something else"
    return broken(
        _GATEWAY, f"{url}: {who} answers, which is no gateway; stop it, or set GATEWAY_PORT"
    )


async def metrics_port(settings: Settings, answer_s: float) -> list[Finding]:
    """Tell who has METRICS_PORT; a worker that finds it taken by another cannot start."""
    port = settings.metrics_port
    if port == 0:
        return [ok(_METRICS, "none: METRICS_PORT is not set")]
    url = base_url(settings.metrics_host, port)
    try:
        async with httpx.AsyncClient(timeout=answer_s, trust_env=False) as http:
            answer = await http.get(f"{url}/metrics")
            text, hangs = answer.text, answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    except httpx.HTTPError:
        text, hangs = "", False
    who = await asyncio.to_thread(listener, port)
    if hangs:
        return [broken(_METRICS, f"{port}: {who or 'who listens'} says: {text}")]
    if "# HELP md_" in text:
        return [ok(_METRICS, f"{port}: served by {who or 'one of ours'}")]
    if who or text:
        return [
            broken(
                _METRICS,
                f"{port}: {who or 'something else'} listens, which serves no metrics of ours; "
                "stop it, or set METRICS_PORT",
            )
        ]
    return [warning(_METRICS, f"{port}: nobody listens; the worker of this setting does not run")]


def listener(port: int) -> str:
    """Return which process of this machine listens on a port; nothing where that is not known.

    Only the name, and the module that Python runs: other arguments may be secret.
    """
    try:
        found = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.AccessDenied:
        return ""  # as on macOS without root
    pids = {one.pid for one in found if one.laddr and one.laddr.port == port and one.pid}
    for pid in sorted(pids):
        try:
            process = psutil.Process(pid)
            name, words = process.name(), process.cmdline()
        except psutil.Error:
            continue
        module = words[words.index("-m") + 1 : words.index("-m") + 2] if "-m" in words else []
        return f"{' -m '.join([name, *module])} (pid {pid})"
    return ""

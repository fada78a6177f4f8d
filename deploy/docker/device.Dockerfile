# The device with ONNX Runtime: no torch, no compiler, no shell needed. Build from the repository's root:
#   docker build -f deploy/docker/device.Dockerfile -t holdfast-device .
FROM python:3.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/holdfast
COPY pyproject.toml README.md LICENSE app.py hosting.py ./
COPY actors ./actors
COPY cloud ./cloud
COPY chaos ./chaos
RUN /opt/holdfast/bin/pip install '.[onnx]'

FROM python:3.12-slim-bookworm
# A number, so that Kubernetes can see that it is not root.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin holdfast \
    && install -d -o holdfast -g holdfast -m 0700 /var/lib/holdfast
COPY --from=build /opt/holdfast /opt/holdfast
ENV PATH=/opt/holdfast/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DETECTOR=onnxruntime \
    BUFFER_DB_PATH=/var/lib/holdfast/buffer.db \
    STATUS_BIND=0.0.0.0:8000
WORKDIR /var/lib/holdfast
USER 10001:10001
VOLUME /var/lib/holdfast
EXPOSE 8000
# The body of /health has the reasons; urlopen fails on anything but a 2xx, and on silence.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
# Exec form: the process is number 1 and gets the signal itself.
ENTRYPOINT ["python", "-m", "app"]
CMD ["run"]

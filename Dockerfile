# The server as an image; docs/deployment.md says how to run it.
#
#   docker build --target cpu -t mask-grouping-server:cpu .      ONNX files on the processor, without torch
#   docker build --target cuda -t mask-grouping-server:cuda .    both backends on an NVIDIA GPU
#
# script/build-root builds the cpu target and tries it where no Docker engine runs.

# What both images are, but for the packages and the code: those change more often, and come last.
FROM python:3.13-slim-trixie AS base
# A fixed number, which Kubernetes can tell from root and a volume's files can be given to.
RUN groupadd --gid 10001 sam \
    && useradd --uid 10001 --gid sam --no-create-home --home-dir /tmp --shell /usr/sbin/nologin sam \
    && install --directory --owner sam --group sam /models /models/onnx
# gunicorn's sign of life goes to memory: the root file system may be read-only, and a slow disk stops no worker.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GUNICORN_CMD_ARGS=--worker-tmp-dir=/dev/shm \
    SAM_HOST=0.0.0.0 \
    SAM_PORT=5000 \
    SAM_MODEL_DIR=/models \
    SAM_ONNX_DIR=/models/onnx
WORKDIR /app
VOLUME /models
EXPOSE 5000
# /ready and not /health: those who read this state (depends_on, Swarm, a proxy) send work, which needs the model. A
# process that hangs or dies is restarted without it: gunicorn ends its worker, and the engine the container. The start
# may take as long as a download of the largest checkpoint. No urllib, which would ask an HTTP proxy of the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; server = http.client.HTTPConnection('127.0.0.1', int(os.environ['SAM_PORT']), timeout=4); server.request('GET', '/ready'); sys.exit(server.getresponse().status != 200)"]
# As a list: gunicorn is process 1 and gets the signals itself.
CMD ["gunicorn", "--config", "gunicorn.conf.py", "app:app"]

FROM base AS code
COPY *.py ./
COPY sam_server sam_server
COPY model/tiny model/tiny
RUN python -m compileall -q .

# An environment without pip, for it is copied as it is. pip's cache is mounted, and no part of the layer.
FROM base AS packages-cpu
COPY requirements-base.txt requirements-onnx.txt ./
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/var/cache/pip \
    python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --cache-dir /var/cache/pip --requirement requirements-onnx.txt \
    # A twelfth of it all is the packages' own tests.
    && find /opt/venv -type d -name tests -prune -exec rm -r {} +

# CUDA and cuDNN come as wheels that torch requires, and onnxruntime-gpu loads the same ones; the driver is the host's.
# On an nvidia/cuda image they would be there twice.
FROM base AS packages-cuda
COPY requirements-base.txt requirements-gpu.txt ./
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/var/cache/pip \
    python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --cache-dir /var/cache/pip --requirement requirements-gpu.txt

FROM base AS cuda
COPY --from=packages-cuda /opt/venv /opt/venv
COPY --from=code /app /app
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
LABEL org.opencontainers.image.title="Mask Grouping Server (CUDA)" \
    org.opencontainers.image.description="Segment Anything over HTTP, on an NVIDIA GPU" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0"

# The last target is what a build makes that names none.
FROM base AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=code /app /app
USER 10001:10001
LABEL org.opencontainers.image.title="Mask Grouping Server" \
    org.opencontainers.image.description="Segment Anything over HTTP, with ONNX on the processor" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0"

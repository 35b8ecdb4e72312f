# syntax=docker/dockerfile:1

# An image for NVIDIA GPUs:   docker build -t star-server .
# An image for CPUs:          docker build -t star-server:latest-cpu --build-arg VARIANT=cpu .
# For the CPU image, give pip an index that has PyTorch's CPU builds: --build-arg PIP_EXTRA_INDEX_URL=...
# Without it the image works too, but carries the CUDA libraries of the default build.
# What is inside, as CycloneDX: docker build --target sbom --output dist .

ARG VARIANT=cuda
# The torch wheel brings its own cuBLAS, cuDNN and NCCL; of CUDA the image needs the runtime alone ("base").
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04
ARG CPU_IMAGE=ubuntu:24.04

FROM ${CUDA_IMAGE} AS system-cuda
FROM ${CPU_IMAGE} AS system-cpu

# ---- system: Python and an init process, nothing that compiles
# hadolint ignore=DL3006
FROM system-${VARIANT} AS system
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Not pinned: the distribution keeps one version of each, the one with its security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/*

# ---- dependencies: a layer that changes only with pyproject.toml and constraints.txt
FROM system AS dependencies
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# Optional extras, separated by commas: xformers, ray, s3, safety, c2pa, otel.
ARG EXTRAS=""
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN python3 -c 'import os, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = [name for name in os.environ["EXTRAS"].split(",") if name]; \
print(*project["dependencies"], *(r for name in extras for r in project["optional-dependencies"][name]), sep="\n")' \
    > requirements.txt \
    && python3 -m venv /opt/star \
    && /opt/star/bin/python -m pip install --no-cache-dir -c constraints.txt -r requirements.txt

# ---- wheel: the project itself, with the default model inside
FROM dependencies AS wheel
RUN python3 -m venv /opt/builder \
    && /opt/builder/bin/python -m pip install --no-cache-dir -c constraints.txt hatchling
COPY README.md LICENSE ./
COPY star_model/ star_model/
COPY server/ server/
COPY weights/star-mini/ weights/star-mini/
RUN /opt/builder/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist .

# ---- sbom: a list of what the image runs on; not part of the image
FROM wheel AS inventory
RUN /opt/star/bin/python -m pip install --no-cache-dir --no-index --no-deps /dist/*.whl \
    && /opt/builder/bin/python -m pip install --no-cache-dir -c constraints.txt cyclonedx-bom \
    && /opt/builder/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
    --output-file /dist/star-server.cdx.json /opt/star/bin/python

FROM scratch AS sbom
COPY --from=inventory /dist/star-server.cdx.json /

# ---- the image that runs
FROM system AS runtime
ARG VERSION=0.1.0
# Of the repository that it is built from, and the time: --build-arg REVISION=$(git rev-parse HEAD) ...
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="star-server" \
      org.opencontainers.image.description="Inference server for STAR, the scale-wise autoregressive text-to-image models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

COPY --from=dependencies /opt/star /opt/star
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    /opt/star/bin/python -m pip install --no-cache-dir --no-index --no-deps /dist/*.whl

# Models and every cache live on one volume. Group 0 owns it with the rights of its user, so that a platform which runs
# the container under an arbitrary user of that group can write there and nowhere else.
RUN mkdir -p /models/cache && chown -R 10001:0 /models && chmod -R g=u /models
ENV PATH=/opt/star/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/models \
    XDG_CACHE_HOME=/models/cache \
    HF_HOME=/models/huggingface \
    TRITON_CACHE_DIR=/models/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/models/cache/inductor \
    HF_HUB_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    STAR_HOST=0.0.0.0 \
    STAR_PORT=8000 \
    STAR_CACHE_DIR=/models \
    STAR_OFFLINE=1
VOLUME ["/models"]
WORKDIR /models
USER 10001:0
EXPOSE 8000
# urlopen raises on a status that is not 2xx, and the exit code says so.
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"STAR_PORT\"]}/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "star-server"]
CMD ["serve"]

# syntax=docker/dockerfile:1
# Targets: cpu (default) and gpu. Build: docker build --target cpu -t anchorstream:cpu .
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements/bootstrap.txt requirements/
RUN pip install --require-hashes -r requirements/bootstrap.txt
RUN python -m venv /opt/anchorstream
COPY requirements/ requirements/

FROM build AS build-cpu
RUN uv pip install --python /opt/anchorstream --no-deps --require-hashes -r requirements/cpu.txt
COPY pyproject.toml README.md ./
COPY stream stream
COPY encoder encoder
COPY store store
COPY deploy deploy
RUN uv pip install --python /opt/anchorstream --no-deps .

FROM build AS build-gpu
RUN uv pip install --python /opt/anchorstream --no-deps --require-hashes -r requirements/gpu.txt
COPY pyproject.toml README.md ./
COPY stream stream
COPY encoder encoder
COPY store store
COPY deploy deploy
RUN uv pip install --python /opt/anchorstream --no-deps .

FROM python:${PYTHON} AS runtime
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/anchorstream anchorstream
ENV PATH=/opt/anchorstream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ANCHORSTREAM_STORE__DATA_DIR=/var/lib/anchorstream/data
WORKDIR /var/lib/anchorstream
USER 10001
VOLUME /var/lib/anchorstream/data
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["anchorstream"]
CMD ["--help"]

# The driver comes from the host (NVIDIA container toolkit); torch and FAISS bring their CUDA libraries.
FROM runtime AS gpu
COPY --from=build-gpu /opt/anchorstream /opt/anchorstream

FROM runtime AS cpu
COPY --from=build-cpu /opt/anchorstream /opt/anchorstream

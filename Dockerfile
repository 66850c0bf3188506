# Images of Piecework: `docker build --target node .`, `--target marketplace .`, `--target relay .`
# The extra index is only asked where it is given, e.g. for CPU builds of torch:
#   docker build --target node --build-arg PIP_EXTRA_INDEX_URL=… .

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 piecework \
 && install --directory --owner=piecework --group=piecework /data
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY protocol protocol
COPY transport transport
COPY planning planning
COPY node node
COPY relay relay
COPY marketplace marketplace
COPY ledger ledger
COPY migrations migrations
ARG PIP_EXTRA_INDEX_URL=""

# a provider, a gateway or a client: which one, its command says
FROM base AS node
RUN pip install --constraint constraints.txt '.[torch]'
USER piecework
WORKDIR /data
ENV PIECEWORK_HOME=/data
VOLUME /data
EXPOSE 8470/tcp
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s CMD ["piecework", "status"]
ENTRYPOINT ["piecework"]
CMD ["--help"]

# prices, leases, ledger and public log; no torch
FROM base AS marketplace
RUN pip install --constraint constraints.txt '.[market]'
USER piecework
WORKDIR /data
ENV PIECEWORK_MARKET_HOME=/data
VOLUME /data
EXPOSE 8471/tcp
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8471/healthz', timeout=2)"]
ENTRYPOINT ["piecework-market"]
CMD ["--host", "0.0.0.0"]

# lends circuits and introduces peers; no torch, no database
FROM base AS relay
RUN pip install --constraint constraints.txt .
USER piecework
WORKDIR /data
ENV PIECEWORK_RELAY_HOME=/data
VOLUME /data
EXPOSE 4001/tcp 4001/udp 4002/udp
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["piecework-relay", "status"]
ENTRYPOINT ["piecework-relay"]
CMD ["--host", "0.0.0.0"]

# PostgreSQL with walkeep beside it: one image for the database, which calls the archive client, and for the worker.
# Never built where this was written (no Docker engine there); scripts/test does not build it either.

ARG POSTGRES_MAJOR=17

FROM node:24-bookworm-slim AS walkeep
WORKDIR /opt/walkeep
COPY package.json package-lock.json .npmrc ./
# npm runs on Node 24 here: on an older one it would leave out the libraries of xz and snappy without a word.
RUN npm ci --omit=dev --ignore-scripts
COPY core core
COPY streams streams
COPY manifests manifests
COPY stores stores
COPY repository repository
COPY postgres postgres
COPY operations operations
COPY activities activities
COPY workflows workflows
COPY workers workers
COPY cli cli
COPY scripts/walkeep scripts/walkeep-cloud-wal-archive scripts/walkeep-cloud-wal-restore scripts/grants.sql scripts/
COPY deploy/walkeep-wal deploy/
COPY LICENSE ./

FROM postgres:${POSTGRES_MAJOR}-bookworm
# curl: the archive client that takes 10 ms asks the worker's socket by it; without it the full client does the work.
RUN apt-get update \
  && apt-get install --yes --no-install-recommends ca-certificates curl \
  && rm -rf /var/lib/apt/lists/*
COPY --from=walkeep /usr/local/bin/node /usr/local/bin/node
COPY --from=walkeep /opt/walkeep /opt/walkeep
RUN ln -s /opt/walkeep/scripts/walkeep /opt/walkeep/scripts/walkeep-cloud-wal-archive \
    /opt/walkeep/scripts/walkeep-cloud-wal-restore /usr/local/bin/ \
  && install -d -o postgres -g postgres -m 0700 /var/lib/walkeep
ENV WALKEEP_STATE=/var/lib/walkeep
VOLUME /var/lib/walkeep
